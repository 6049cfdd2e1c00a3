//! What is kept of each job: a file of JSON, and two files that are locked, since locks end with their process however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use pgweir_config::{Config, MaintenanceJob, Settings};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::process::kept;

/// Who only looks whether a job runs has its lock for a moment.
const TURN_TRIES: u32 = 5;
const TURN_WAIT: Duration = Duration::from_millis(10);

/// What is known of one job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Expression and zone for which `seen` counts.
    pub(crate) schedule: String,
    /// The last slot that somebody here has dealt with, whatever came of it; None: none yet.
    pub(crate) seen: Option<Timestamp>,
    /// Under way, if the job's lock is held; otherwise it has ended without a word.
    pub(crate) running: Option<Begun>,
    pub(crate) last: Option<Ended>,
    /// How many slots were missed, since the job is known.
    pub(crate) missed: u64,
    pub(crate) last_missed: Option<Missed>,
}

/// A run that has begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// None: by hand.
    pub(crate) due: Option<Timestamp>,
    pub(crate) at: Timestamp,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) begun: Begun,
    /// None: nobody saw it.
    pub(crate) at: Option<Timestamp>,
    pub(crate) outcome: Outcome,
    /// None: a signal ended it, or nobody saw it.
    pub(crate) exit_code: Option<i32>,
    /// The first line that tells why it failed.
    pub(crate) message: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    /// The command says so itself.
    Warning,
    Failed,
    /// It took longer than its deadline.
    Deadline,
    /// By a shutdown, or by Ctrl-C.
    Interrupted,
    /// Whoever ran it is gone.
    Killed,
}

impl Outcome {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "failed",
            Outcome::Deadline => "deadline",
            Outcome::Interrupted => "interrupted",
            Outcome::Killed => "killed",
        }
    }
}

/// A slot at which the job was not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Missed {
    pub(crate) due: Timestamp,
    pub(crate) why: String,
}

impl Record {
    /// What `seen` counts for.
    pub(crate) fn schedule_of(job: &MaintenanceJob) -> String {
        let part = |text: Option<String>| text.unwrap_or_default();
        let zone = job.timezone.as_ref().map(|zone| zone.name().to_owned());
        format!("{} {}", part(job.schedule.as_ref().map(ToString::to_string)), part(zone)).trim_end().to_owned()
    }

    pub(crate) fn see(&mut self, slot: Timestamp) {
        self.seen = self.seen.max(Some(slot));
    }

    pub(crate) fn miss(&mut self, count: u64, due: Timestamp, why: impl Into<String>) {
        self.missed += count;
        self.last_missed = Some(Missed { due, why: why.into() });
    }

    /// A run that nobody is at any more, but that has not said how it ended.
    pub(crate) fn bury(&mut self) -> bool {
        let Some(begun) = self.running.take() else { return false };
        let message = Some("the process that ran it was killed".to_owned());
        self.last = Some(Ended { begun, at: None, outcome: Outcome::Killed, exit_code: None, message });
        true
    }
}

/// The records of one configuration.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

/// The right to run a job on this machine.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Locked for as long as it is open.
    _file: File,
}

impl Records {
    /// None: no place was named, and there is no home.
    pub(crate) fn of(config: &Config) -> Option<Records> {
        let Settings { maintenance_state_dir, conffile, .. } = &config.settings;
        let base = maintenance_state_dir.clone().or_else(|| Some(kept::default_dir()?.join("schedule")))?;
        // Other poolers may have jobs of the same names.
        let conffile = conffile.clone().unwrap_or_default();
        let conffile = fs::canonicalize(&conffile).unwrap_or(conffile);
        let hash = digest(&SHA256, conffile.as_os_str().as_encoded_bytes());
        let name: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Some(Records { dir: base.join(name) })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    /// What is known; nothing where nothing can be read.
    pub(crate) fn read(&self, name: &str) -> Record {
        let text = fs::read(self.file(name)).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Changes what is known, while nobody else does.
    pub(crate) fn update<T>(&self, name: &str, change: impl FnOnce(&mut Record) -> T) -> io::Result<T> {
        fs::create_dir_all(&self.dir)?;
        let lock = self.open("lock")?;
        lock.lock()?;
        let mut record = self.read(name);
        let result = change(&mut record);
        kept::write_whole(&self.file(name), &serde_json::to_vec_pretty(&record)?)?;
        Ok(result)
    }

    /// None: somebody runs it.
    pub(crate) fn take_turn(&self, name: &str) -> io::Result<Option<Turn>> {
        fs::create_dir_all(&self.dir)?;
        let file = self.open(&format!("{name}.running"))?;
        for _ in 0..TURN_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Turn { _file: file })),
                // Somebody may just be looking.
                Err(TryLockError::WouldBlock) => thread::sleep(TURN_WAIT),
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
        Ok(None)
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        let file = File::open(self.dir.join(format!("{name}.running")));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).open(self.dir.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(name: &str) -> Records {
        let dir = std::env::temp_dir().join(format!("pgweir-records-{}-{name}", std::process::id()));
        Records { dir }
    }

    #[test]
    fn a_turn_ends_with_its_owner() {
        let records = records("turn");
        assert!(!records.is_running("j"));
        let turn = records.take_turn("j").unwrap().unwrap();
        assert!(records.take_turn("j").unwrap().is_none() && records.is_running("j"));
        assert!(records.take_turn("other").unwrap().is_some());
        drop(turn);
        assert!(!records.is_running("j") && records.take_turn("j").unwrap().is_some());
        fs::remove_dir_all(&records.dir).unwrap();
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let records = records("kept");
        let at = |second| Timestamp::from_second(second).unwrap();
        let begun = Begun { due: Some(at(10)), at: at(11) };
        records.update("j", |record| record.running = Some(begun.clone())).unwrap();
        records.update("j", |record| record.see(at(10))).unwrap();
        records.update("j", |record| record.see(at(5))).unwrap();
        records.update("j", |record| record.miss(2, at(20), "asleep")).unwrap();
        let mut record = records.read("j");
        assert_eq!((record.seen, record.missed, record.running.clone()), (Some(at(10)), 2, Some(begun)));
        assert!(record.bury() && !record.bury());
        assert_eq!(record.last.map(|last| last.outcome), Some(Outcome::Killed));
        fs::write(records.file("j"), "{ half").unwrap();
        assert_eq!(records.read("j"), Record::default());
        fs::remove_dir_all(&records.dir).unwrap();
    }
}
