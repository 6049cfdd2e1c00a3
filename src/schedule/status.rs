//! What is known of all jobs, for `schedule list` and SHOW SCHEDULE.

use std::time::Duration;

use jiff::Timestamp;
use pgweir_config::{Config, MaintenanceJob};

use super::record::{Begun, Ended, Missed, Outcome, Record, Records};
use super::slots::{Slot, first_after};

/// One job.
pub(crate) struct Status {
    pub(crate) name: String,
    /// With the time zone behind it, if one is set.
    pub(crate) schedule: String,
    pub(crate) command: String,
    /// When it is due next; None: never again.
    pub(crate) next: Option<Timestamp>,
    pub(crate) running: Option<Begun>,
    /// Also while the next run is under way.
    pub(crate) last: Option<Ended>,
    pub(crate) missed: u64,
    pub(crate) last_missed: Option<Missed>,
}

impl Status {
    /// `running`, how the last run ended, or `never`.
    pub(crate) fn state(&self) -> &'static str {
        match (&self.running, &self.last) {
            (Some(_), _) => "running",
            (None, Some(last)) => last.outcome.name(),
            (None, None) => "never",
        }
    }

    /// The run that counts: the one under way, or the last.
    pub(crate) fn begun(&self) -> Option<&Begun> {
        self.running.as_ref().or(self.last.as_ref().map(|last| &last.begun))
    }

    pub(crate) fn is_bad(&self) -> bool {
        self.last.as_ref().is_some_and(|last| !matches!(last.outcome, Outcome::Ok | Outcome::Warning))
    }
}

impl Begun {
    /// How much later than it was due it began.
    pub(crate) fn late(&self) -> Option<Duration> {
        Duration::try_from(self.at.duration_since(self.due?)).ok()
    }
}

impl Ended {
    pub(crate) fn duration(&self) -> Option<Duration> {
        Duration::try_from(self.at?.duration_since(self.begun.at)).ok()
    }
}

/// The command as it is written.
pub(crate) fn command_text(job: &MaintenanceJob) -> String {
    job.command.as_deref().unwrap_or_default().join(" ")
}

/// All jobs by their names.
pub(crate) fn statuses(config: &Config, now: Timestamp) -> Vec<Status> {
    let records = Records::of(config);
    let status = |job: &MaintenanceJob| {
        let record = records.as_ref().map(|records| current(records, &job.name)).unwrap_or_default();
        Status {
            name: job.name.clone(),
            schedule: Record::schedule_of(job),
            command: command_text(job),
            next: next_due(job, &record, now),
            running: record.running,
            last: record.last,
            missed: record.missed,
            last_missed: record.last_missed,
        }
    };
    config.maintenance.values().map(|job| status(job)).collect()
}

fn current(records: &Records, name: &str) -> Record {
    let mut record = records.read(name);
    if record.running.is_some() && !records.is_running(name) {
        // It may have ended just now, and said how.
        let again = records.read(name);
        let is_same = again.running == record.running;
        record = again;
        if is_same {
            record.bury();
        }
    }
    record
}

/// A slot that has come true may not be due yet.
fn next_due(job: &MaintenanceJob, record: &Record, now: Timestamp) -> Option<Timestamp> {
    let unseen = |slot: &Slot| record.seen.is_none_or(|seen| slot.at > seen) && slot.due > now;
    let earliest = now.checked_sub(job.jitter).unwrap_or(now);
    let mut slot = first_after(job, earliest)?;
    while !unseen(&slot) {
        slot = first_after(job, slot.at)?;
    }
    Some(slot.due)
}
