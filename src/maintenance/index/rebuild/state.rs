//! Which indexes an unfinished run has rebuilt, kept in a file so that the next can go on where it was.
//!
//! REINDEX CONCURRENTLY gives an index a new number (`pg_class.oid`), by which what was rebuilt is known: if somebody makes the
//! index anew, it has another one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::span_text;
use crate::process::kept::{default_dir, write_whole};

/// By cluster and database.
type Kept = BTreeMap<String, Run>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Run {
    /// Seconds since 1970, by the server's clock.
    begun_at: f64,
    rebuilt: Vec<u32>,
}

row! {
    Now {
        key: String,
        at: f64,
    }
}

/// What is known of the last run that did not end well, and of this one.
pub(super) struct State {
    /// None: there is no place to keep it; then nothing is resumed.
    file: Option<PathBuf>,
    key: String,
    run: Run,
}

impl State {
    /// Goes on with the last run's, or begins anew.
    pub(super) async fn open(
        job: &Job,
        server: &Server,
        file: Option<&Path>,
        is_resumed: bool,
    ) -> Result<State, Failure> {
        let file = file.map(Path::to_owned).or_else(|| default_dir().map(|dir| dir.join("rebuild.json")));
        let Now { key, at } = server.one(NOW, &[]).await?;
        let last = file.as_deref().and_then(|file| read(job, file)).unwrap_or_default().remove(&key);
        let begun = Run { begun_at: at, rebuilt: Vec::new() };
        let run = match last {
            Some(run) if is_resumed => {
                let age = span_text((at - run.begun_at).round());
                job.say(format!("goes on with a run of {age} ago, which has rebuilt {}", run.rebuilt.len()));
                run
            }
            Some(run) => {
                let count = run.rebuilt.len();
                job.say(format!("an earlier run has ended after {count} indexes; --resume would go on with it"));
                begun
            }
            None => {
                if is_resumed {
                    job.say("there is no unfinished run to go on with: begins anew");
                }
                begun
            }
        };
        Ok(State { file, key, run })
    }

    pub(super) fn has(&self, oid: u32) -> bool {
        self.run.rebuilt.contains(&oid)
    }

    pub(super) fn add(&mut self, job: &Job, oid: u32) {
        self.run.rebuilt.push(oid);
        let run = self.run.clone();
        self.update(job, |kept, key| _ = kept.insert(key, run));
    }

    /// Everything was rebuilt: there is nothing to go on with.
    pub(super) fn finish(&self, job: &Job) {
        self.update(job, |kept, key| _ = kept.remove(&key));
    }

    fn update(&self, job: &Job, change: impl FnOnce(&mut Kept, String)) {
        let Some(file) = &self.file else { return };
        let mut kept = read(job, file).unwrap_or_default();
        change(&mut kept, self.key.clone());
        let written = serde_json::to_vec(&kept).map_err(Into::into).and_then(|text| write_whole(file, &text));
        if let Err(e) = written {
            job.say(format!("{}: {e}; a run that is interrupted cannot be resumed", file.display()));
        }
    }
}

/// None: it is not there, or of no use.
fn read(job: &Job, file: &Path) -> Option<Kept> {
    let text = fs::read(file).ok()?;
    serde_json::from_slice(&text).map_err(|e| job.warn(format!("{}: {e}", file.display()))).ok()
}

const NOW: &str = "
    select (select system_identifier from pg_control_system()) || '/' || current_database() as key,
           extract(epoch from clock_timestamp())::float8 as at";
