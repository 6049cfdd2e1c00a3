//! Servers that did not let us in when asked for a newer protocol than 3.0, but did in that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgweir_proto::startup::ProtocolVersion;

use crate::registry::Address;

/// For so long nothing newer is asked for: a server may be upgraded.
pub(super) const FALLBACK_TTL: Duration = Duration::from_secs(600);

/// More than any configuration has servers; one that is forgotten is asked again.
const ADDRESSES_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Fallbacks {
    /// When each was found out. Protects itself only.
    noted: Mutex<HashMap<Address, Instant>>,
}

fn counts(noted: Instant, now: Instant) -> bool {
    now.saturating_duration_since(noted) < FALLBACK_TTL
}

impl Fallbacks {
    /// What to ask for where `wanted` is wanted.
    pub(super) fn protocol(&self, address: &Address, wanted: ProtocolVersion, now: Instant) -> ProtocolVersion {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        match noted.get(address) {
            Some(since) if counts(*since, now) => ProtocolVersion::V3_0,
            _ => wanted,
        }
    }

    /// Whether that is news.
    pub(super) fn note(&self, address: &Address, now: Instant) -> bool {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|_, since| counts(*since, now));
        if noted.len() == ADDRESSES_MAX && !noted.contains_key(address) {
            let oldest = noted.iter().min_by_key(|(_, since)| **since).map(|(address, _)| address.clone());
            oldest.and_then(|address| noted.remove(&address));
        }
        noted.insert(address.clone(), now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::ProtocolVersion::{V3_0, V3_2};
    use super::*;

    fn address(port: u16) -> Address {
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn a_server_is_asked_again_after_a_while() {
        let (fallbacks, start) = (Fallbacks::default(), Instant::now());
        let asked = |port, after| fallbacks.protocol(&address(port), V3_2, start + after);
        assert_eq!(asked(1, Duration::ZERO), V3_2);
        assert!(fallbacks.note(&address(1), start));
        assert!(!fallbacks.note(&address(1), start));
        assert_eq!((asked(1, Duration::ZERO), asked(2, Duration::ZERO)), (V3_0, V3_2));
        assert_eq!(asked(1, FALLBACK_TTL - Duration::from_millis(1)), V3_0);
        assert_eq!(asked(1, FALLBACK_TTL), V3_2);
        assert!(fallbacks.note(&address(1), start + FALLBACK_TTL));
    }

    #[test]
    fn the_oldest_makes_room() {
        let (fallbacks, start) = (Fallbacks::default(), Instant::now());
        let later = |port: u16| start + Duration::from_millis(port.into());
        let end = ADDRESSES_MAX as u16;
        (0..end).for_each(|port| assert!(fallbacks.note(&address(port), later(port))));
        // One that is known makes nobody leave.
        assert!(!fallbacks.note(&address(0), later(end)));
        assert!(fallbacks.note(&address(end), later(end)));
        let asked = [0, 1, 2, end].map(|port| fallbacks.protocol(&address(port), V3_2, later(end)));
        assert_eq!(asked, [V3_0, V3_2, V3_0, V3_0]);
        assert_eq!(fallbacks.noted.lock().unwrap().len(), ADDRESSES_MAX);
    }
}
