//! The serving side: starts a process for each slot when it is due, and logs what that says.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgweir_config::{Config, MaintenanceJob};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::record::{Record, Records};
use super::slots::{SLOTS_MAX, Slot, first_after};
use crate::log::log_at;
use crate::process::daemon;

/// The clock may be set: it is looked at so often.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// Processes of one job at once: one that runs, and those that keep claims of slots that are over.
const PER_JOB_MAX: usize = 4;

/// Of a line so much is logged.
const LINE_MAX: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Active,
    /// Another process has taken over, and with that the calendar.
    Passive,
    Ending,
}

#[derive(Clone)]
struct Orders {
    config: Arc<Config>,
    mode: Mode,
}

/// The calendar of the serving process.
pub(crate) struct Scheduler {
    orders: watch::Sender<Orders>,
    /// How many processes it has started that have not ended.
    left: watch::Receiver<usize>,
}

impl Scheduler {
    /// To be called on a runtime that no client waits for. It is passive at first.
    pub(crate) fn start(config: Arc<Config>) -> Scheduler {
        let (orders, received) = watch::channel(Orders { config, mode: Mode::Passive });
        let (count, left) = watch::channel(0);
        tokio::spawn(
            Runner { entries: BTreeMap::new(), processes: JoinSet::new(), pids: BTreeMap::new(), count }.run(received),
        );
        Scheduler { orders, left }
    }

    pub(crate) fn configure(&self, config: Arc<Config>) {
        self.orders.send_if_modified(|orders| {
            let is_new = orders.config.maintenance != config.maintenance || !same_place(&orders.config, &config);
            orders.config = config;
            is_new
        });
    }

    /// Nothing more is started while another process serves. What runs goes on.
    pub(crate) fn set_passive(&self, is_so: bool) {
        self.orders.send_if_modified(|orders| {
            let mode = if is_so { Mode::Passive } else { Mode::Active };
            let changes = orders.mode != mode && orders.mode != Mode::Ending;
            orders.mode = if changes { mode } else { orders.mode };
            changes
        });
    }

    /// Nothing more is started, and what runs is interrupted.
    pub(crate) fn end(&self) {
        self.orders.send_modify(|orders| orders.mode = Mode::Ending);
    }

    /// Waits until nothing runs any more, but no longer than `limit`.
    pub(crate) async fn ended(&self, limit: Duration) {
        if timeout(limit, self.left.clone().wait_for(|left| *left == 0)).await.is_err() {
            log_at!(Warning, "schedule: {} jobs have not ended yet", *self.left.borrow());
        }
    }
}

fn same_place(one: &Config, other: &Config) -> bool {
    let place = |config: &Config| (config.settings.conffile.clone(), config.settings.maintenance_state_dir.clone());
    place(one) == place(other)
}

/// A job and its next slot; None: there is none.
struct Entry {
    job: Arc<MaintenanceJob>,
    next: Option<Slot>,
}

struct Runner {
    entries: BTreeMap<String, Entry>,
    /// Each ends with its job's name and its process id.
    processes: JoinSet<(String, u32)>,
    /// By job.
    pids: BTreeMap<String, Vec<u32>>,
    count: watch::Sender<usize>,
}

impl Runner {
    async fn run(mut self, mut orders: watch::Receiver<Orders>) {
        loop {
            let Orders { config, mode } = orders.borrow_and_update().clone();
            match mode {
                Mode::Active => self.plan(&config),
                Mode::Passive => self.entries.clear(),
                Mode::Ending => {
                    self.entries.clear();
                    self.interrupt();
                }
            }
            loop {
                let until_next = self.until_next();
                tokio::select! {
                    changed = orders.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    Some(ended) = self.processes.join_next() => self.forget(ended),
                    () = sleep(until_next) => self.start_due(&config),
                }
            }
        }
    }

    /// Jobs that are as they were keep their next slot.
    fn plan(&mut self, config: &Config) {
        let mut before = std::mem::take(&mut self.entries);
        for (name, job) in &config.maintenance {
            let entry = match before.remove(name).filter(|entry| entry.job == *job) {
                Some(entry) => entry,
                None => Entry { job: Arc::clone(job), next: look_back(config, job, Timestamp::now()) },
            };
            self.entries.insert(name.clone(), entry);
        }
    }

    fn until_next(&self) -> Duration {
        let now = Timestamp::now();
        let next = self.entries.values().filter_map(|entry| entry.next).map(|slot| slot.due).min();
        let until = next.map(|due| Duration::try_from(due.duration_since(now)).unwrap_or_default());
        until.map_or(LOOK_MAX, |until| until.min(LOOK_MAX))
    }

    fn start_due(&mut self, config: &Config) {
        let now = Timestamp::now();
        let mut due = Vec::new();
        for entry in self.entries.values_mut() {
            let (mut missed, mut last) = (0, None);
            while let Some(slot) = entry.next.filter(|slot| slot.due <= now) {
                if slot.last_start < now {
                    (missed, last) = (missed + 1, Some(slot));
                } else {
                    due.push((Arc::clone(&entry.job), slot));
                }
                // Of a clock that was put forward by years not every slot is gone through.
                let after = if missed as usize > SLOTS_MAX { now } else { slot.at };
                entry.next = first_after(&entry.job, after);
            }
            if let Some(slot) = last {
                miss(config, &entry.job, missed, slot, "the machine slept, or its clock was put forward");
            }
        }
        for (job, slot) in due {
            self.start(config, &job, slot);
        }
    }

    fn start(&mut self, config: &Config, job: &Arc<MaintenanceJob>, slot: Slot) {
        let name = &job.name;
        if self.pids.get(name).is_some_and(|pids| pids.len() >= PER_JOB_MAX) {
            return miss(config, job, 1, slot, "earlier runs have not ended");
        }
        let Some(conffile) = &config.settings.conffile else { return };
        let child = match spawn(name, conffile, slot) {
            Ok(child) => child,
            Err(e) => return miss(config, job, 1, slot, &format!("could not be started: {e}")),
        };
        let pid = child.id().unwrap_or(0);
        self.pids.entry(name.clone()).or_default().push(pid);
        self.processes.spawn(attend(name.clone(), pid, child));
        self.count.send_replace(self.processes.len());
    }

    fn forget(&mut self, ended: Result<(String, u32), tokio::task::JoinError>) {
        if let Ok((name, pid)) = ended
            && let Some(pids) = self.pids.get_mut(&name)
        {
            pids.retain(|own| *own != pid);
        }
        self.count.send_replace(self.processes.len());
    }

    fn interrupt(&self) {
        for pid in self.pids.values().flatten().filter_map(|pid| i32::try_from(*pid).ok()).filter(|pid| *pid > 0) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

/// The first slot that can still be begun; what has gone by since anybody here has looked is missed.
fn look_back(config: &Config, job: &MaintenanceJob, now: Timestamp) -> Option<Slot> {
    let name = &job.name;
    let mut next = first_after(job, now);
    let Some(records) = Records::of(config) else {
        log_at!(Warning, "schedule {name}: no results are kept: set maintenance_state_dir");
        return next;
    };
    let seen = records.update(name, |record| {
        // Who runs it has its turn before it says so.
        let buried = !records.is_running(name) && record.bury();
        let schedule = Record::schedule_of(job);
        let seen = record.seen.filter(|_| record.schedule == schedule);
        record.schedule = schedule;
        record.seen = Some(seen.unwrap_or(now));
        (buried, seen)
    });
    let (buried, seen) = match seen {
        Ok(known) => known,
        Err(e) => {
            log_at!(Warning, "schedule {name}: cannot keep results in {}: {e}", records.dir().display());
            return next;
        }
    };
    if buried {
        log_at!(Warning, "schedule {name}: the last run did not end: the process that ran it was killed");
    }
    let (mut missed, mut last) = (0, None);
    let mut slot = seen.and_then(|seen| first_after(job, seen));
    while let Some(past) = slot.filter(|slot| slot.last_start < now && (missed as usize) < SLOTS_MAX) {
        (missed, last) = (missed + 1, Some(past));
        slot = first_after(job, past.at);
    }
    if let Some(past) = last {
        miss(config, job, missed, past, "pgweir was not running here");
    }
    // One that has just come true, or waits for its jitter.
    if let Some(slot) = slot.filter(|slot| slot.last_start >= now) {
        next = Some(slot);
    }
    next
}

fn miss(config: &Config, job: &MaintenanceJob, count: u64, last: Slot, why: &str) {
    let name = &job.name;
    let times = if count == 1 { String::new() } else { format!("{count} times, ") };
    log_at!(Warning, "schedule {name}: missed, {times}due {}: {why}", last.due);
    let noted = Records::of(config).map(|records| {
        records.update(name, |record| {
            record.see(last.at);
            record.miss(count, last.due, why);
        })
    });
    if let Some(Err(e)) = noted {
        log_at!(Warning, "schedule {name}: cannot note it: {e}");
    }
}

fn spawn(name: &str, conffile: &Path, slot: Slot) -> io::Result<tokio::process::Child> {
    let mut command = Command::from(daemon::command());
    command.args(["schedule", "run", name, "--quiet", "--due", &slot.at.to_string(), "--config"]).arg(conffile);
    // A Ctrl-C for the pooler is none for the job, which is told in its own way.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn()
}

/// Logs what a process says until it ends.
async fn attend(name: String, pid: u32, mut child: tokio::process::Child) -> (String, u32) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    tokio::join!(relay(&name, stdout, false), relay(&name, stderr, true));
    if let Err(e) = child.wait().await {
        log_at!(Error, "schedule {name}: cannot wait for its process: {e}");
    }
    (name, pid)
}

/// Lines of stdout begin with their level.
async fn relay(name: &str, stream: Option<impl AsyncRead + Unpin>, is_warning: bool) {
    let Some(stream) = stream else { return };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        // What is longer comes in pieces.
        match (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        match (text.strip_prefix("WARNING "), text.strip_prefix("LOG ")) {
            (Some(text), _) => log_at!(Warning, "schedule {name}: {text}"),
            (None, Some(text)) => log_at!(Log, "schedule {name}: {text}"),
            (None, None) if is_warning => log_at!(Warning, "schedule {name}: {text}"),
            (None, None) => log_at!(Log, "schedule {name}: {text}"),
        }
    }
}
