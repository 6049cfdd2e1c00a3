//! When a job is due.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pgweir_config::MaintenanceJob;
use ring::digest::{SHA256, digest};

/// A job that could not be begun for so long after it was due is missed. Half the time to the next slot if that is less.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How far other machines' clocks may be off: for so much longer than anybody may begin is a claim kept. No longer than
/// to the next slot, so that a job has few claims at a time.
const CLOCKS_LIMIT: Duration = Duration::from_secs(60);

/// Later than this is worth a word.
const LATE: Duration = Duration::from_secs(5);

/// Of slots that were missed more are not counted at once.
pub(super) const SLOTS_MAX: usize = 1000;

/// One time at which a job is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) at: Timestamp,
    /// With the jitter that this job has this time.
    pub(crate) due: Timestamp,
    /// Until then it may be begun.
    pub(crate) last_start: Timestamp,
    /// Until then a claim is kept, so that nobody believes it is free.
    pub(crate) claimed_until: Timestamp,
}

fn zone(job: &MaintenanceJob) -> TimeZone {
    job.timezone.as_ref().map_or_else(TimeZone::system, |zone| zone.zone.clone())
}

/// The first slot after `after`; None: there is none any more.
pub(crate) fn first_after(job: &MaintenanceJob, after: Timestamp) -> Option<Slot> {
    let (cron, zone) = (job.schedule.as_ref()?, zone(job));
    let at = cron.next_after(&zone, after)?;
    let until_next = cron
        .next_after(&zone, at)
        .map_or(Duration::MAX, |next| Duration::try_from(next.duration_since(at)).unwrap_or_default());
    let due = later(at, jitter(&job.name, job.jitter.min(until_next), at));
    let last_start = later(due, START_LIMIT.min(until_next / 2));
    let claimed_until = later(due, (START_LIMIT + CLOCKS_LIMIT).min(until_next));
    Some(Slot { at, due, last_start, claimed_until })
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// The same for everybody who knows the job, without asking: otherwise one could be done before another begins.
fn jitter(name: &str, most: Duration, at: Timestamp) -> Duration {
    let hash = digest(&SHA256, format!("{name} {}", at.as_second()).as_bytes());
    let number = hash.as_ref().iter().take(4).fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    most.mul_f64(f64::from(number) / f64::from(u32::MAX))
}

/// Whether a run that began so much later than it was due is worth a word.
pub(crate) fn is_late(late: Duration) -> bool {
    late >= LATE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(schedule: &str, jitter_s: u64) -> MaintenanceJob {
        MaintenanceJob {
            schedule: pgweir_config::Cron::parse(schedule),
            timezone: None,
            jitter: Duration::from_secs(jitter_s),
            ..MaintenanceJob::new("nightly")
        }
    }

    #[test]
    fn jitter_differs_by_slot_and_is_known_to_all() {
        let (first, again) = (job("0 2 * * *", 600), job("0 2 * * *", 600));
        let mut after: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        let mut delays = Vec::new();
        for _ in 0..20 {
            let slot = first_after(&first, after).unwrap();
            assert_eq!(Some(slot), first_after(&again, after));
            delays.push(slot.due.duration_since(slot.at).as_secs());
            after = slot.at;
        }
        assert!(delays.iter().all(|delay| (0..=600).contains(delay)), "{delays:?}");
        assert!(delays.iter().max().unwrap() - delays.iter().min().unwrap() > 200, "{delays:?}");
    }

    #[test]
    fn claims_outlast_whoever_may_begin() {
        let after: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        let spans = |schedule| {
            let slot = first_after(&job(schedule, 0), after).unwrap();
            assert_eq!(slot.at, slot.due);
            (
                slot.last_start.duration_since(slot.due).as_millis(),
                slot.claimed_until.duration_since(slot.due).as_millis(),
            )
        };
        assert_eq!(spans("0 2 * * *"), (60_000, 120_000));
        assert_eq!(spans("* * * * *"), (30_000, 60_000));
        assert_eq!(spans("* * * * * *"), (500, 1000));
    }
}
