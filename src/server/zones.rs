//! The zones that names of servers are in, and their serials, by which a change is noticed before `dns_max_ttl` is over.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use crate::log::log_at;

/// What stands behind the first dot of a name.
pub(super) fn zone_of(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, zone)| zone).filter(|zone| !zone.is_empty())
}

/// A line of SHOW DNS_ZONES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZoneRow {
    pub(crate) zonename: String,
    /// 0: not known.
    pub(crate) serial: u32,
    /// Names known in it.
    pub(crate) hosts: usize,
}

#[derive(Debug, Default)]
pub(super) struct Zones {
    /// `dns_zone_check_period`; 0: never.
    period: Duration,
    /// As last heard of.
    serials: BTreeMap<String, u32>,
    /// When the latest check ended. `None`: there was none.
    checked: Option<Instant>,
    is_checking: bool,
}

impl Zones {
    pub(super) fn configure(&mut self, period: Duration) {
        self.period = period;
    }

    /// The zones of `names`, if it is time to check them; to be followed by `checked`.
    pub(super) fn due<'a>(&mut self, now: Instant, names: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
        let is_early = self.checked.is_some_and(|at| now.saturating_duration_since(at) < self.period);
        if self.period.is_zero() || self.is_checking || is_early {
            return None;
        }
        let hosts = count(names);
        self.serials.retain(|zone, _| hosts.contains_key(zone.as_str()));
        self.is_checking = !hosts.is_empty();
        self.is_checking.then(|| hosts.into_keys().map(str::to_owned).collect())
    }

    /// True: its names are to be looked up again.
    pub(super) fn note(&mut self, zone: &str, serial: io::Result<u32>) -> bool {
        let new = match serial {
            Ok(new) => new,
            Err(e) => {
                log_at!(Debug, "failure to get zone '{zone}' serial: {e}");
                return false;
            }
        };
        match self.serials.insert(zone.to_owned(), new) {
            Some(old) if old != new => {
                log_at!(Log, "zone '{zone}' serial changed: old={old} new={new}");
                true
            }
            _ => false,
        }
    }

    pub(super) fn checked(&mut self, now: Instant) {
        (self.checked, self.is_checking) = (Some(now), false);
    }

    pub(super) fn rows<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<ZoneRow> {
        let row = |(zone, hosts): (&str, usize)| ZoneRow {
            zonename: zone.to_owned(),
            serial: self.serials.get(zone).copied().unwrap_or_default(),
            hosts,
        };
        count(names).into_iter().map(row).collect()
    }
}

/// How many of `names` are in each zone.
fn count<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut hosts = BTreeMap::new();
    names.filter_map(zone_of).for_each(|zone| *hosts.entry(zone).or_default() += 1);
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["a.example.org", "b.example.org", "c.org", "localhost"];

    #[test]
    fn zones_are_checked_once_per_period() {
        let (mut zones, start) = (Zones::default(), Instant::now());
        let due = |zones: &mut Zones, s| zones.due(start + Duration::from_secs(s), NAMES.into_iter());
        assert_eq!(due(&mut zones, 0), None, "0 is never");
        zones.configure(Duration::from_secs(5));
        assert_eq!(due(&mut zones, 0).unwrap(), ["example.org", "org"]);
        assert_eq!(due(&mut zones, 60), None, "under way");
        zones.checked(start + Duration::from_secs(60));
        assert_eq!(due(&mut zones, 64), None);
        assert!(due(&mut zones, 65).is_some());
    }

    #[test]
    fn a_new_serial_is_a_change() {
        let mut zones = Zones::default();
        assert!(!zones.note("org", Ok(7)), "nothing was known");
        assert!(!zones.note("org", Ok(7)));
        assert!(!zones.note("org", Err(io::Error::other("no answer"))));
        assert!(zones.note("org", Ok(8)));
        let rows: Vec<_> = zones.rows(NAMES.into_iter()).into_iter().map(|r| (r.zonename, r.serial, r.hosts)).collect();
        assert_eq!(rows, [("example.org".to_owned(), 0, 2), ("org".to_owned(), 8, 1)]);
    }
}
