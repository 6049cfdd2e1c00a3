//! `pgweir schedule run`

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use pgweir_config::{Config, MaintenanceJob};
use tokio::time::sleep;

use super::child::{self, Run};
use super::claim::{Claim, Claimed};
use super::{Configured, Parse, Parsed, problems};
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::options::{Show, Target};
use crate::maintenance::output::Format;
use crate::maintenance::units::span_text;
use crate::schedule::record::{Begun, Ended, Outcome, Records, Turn};
use crate::schedule::{Slot, first_after, is_late};

/// Whoever has the job's turn says at once for which slot.
const SEEN_LOOKS: u32 = 20;
const SEEN_WAIT: Duration = Duration::from_millis(50);

/// A command may take a moment longer to end than it is told to.
const MARGIN: Duration = Duration::from_secs(5);

#[derive(Args, Clone, Debug)]
pub(crate) struct RunOptions {
    /// Job of [maintenance] to run now
    #[arg(value_name = "NAME")]
    name: String,
    /// The time for which it is run, given by the serving process: nothing is done if another process has run it for that time
    #[arg(long, value_name = "TIMESTAMP", hide = true)]
    due: Option<Timestamp>,
    /// Say nothing on stderr but what the command says
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    configured: Configured,
}

impl RunOptions {
    pub(crate) fn show(&self) -> Show {
        Show { output: Format::Table, quiet: self.quiet }
    }
}

/// A run that is to be made.
struct Runner<'a> {
    job: &'a Job,
    config: &'a Config,
    entry: &'a MaintenanceJob,
    parsed: Parsed,
    /// None: by hand.
    slot: Option<Slot>,
    /// None: there is no place for them.
    records: Option<Records>,
}

pub(crate) async fn run(job: &Job, options: &RunOptions, parse: Parse) -> Done {
    let config = options.configured.load()?;
    let entry = config.maintenance.get(&options.name).ok_or_else(|| {
        let known: Vec<&str> = config.maintenance.keys().map(String::as_str).collect();
        let known =
            if known.is_empty() { "there are none".to_owned() } else { format!("there are {}", known.join(", ")) };
        Failure::usage(format!("there is no job \"{}\" in [maintenance]", options.name)).hint(known)
    })?;
    if let Some(problem) =
        problems(&config, parse).into_iter().find(|problem| problem.contains(&format!("\"{}\"", entry.name)))
    {
        return Err(Failure::usage(problem));
    }
    let parsed = parse(entry.command.as_deref().unwrap_or_default()).map_err(Failure::usage)?;
    let slot = options.due.map(|due| slot_at(entry, due)).transpose()?;
    job.may_take_to_end(entry.kill_after + MARGIN);
    let runner = Runner { job, config: &config, entry, parsed, slot, records: Records::of(&config) };
    match runner.run().await {
        Err(failure) if slot.is_some() && !job.interrupt.is_requested() => {
            runner.miss(&failure.message);
            Ok(failure.exit)
        }
        done => done,
    }
}

fn slot_at(entry: &MaintenanceJob, at: Timestamp) -> Result<Slot, Failure> {
    let before = at.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(at);
    let slot = first_after(entry, before).filter(|slot| slot.at == at);
    slot.ok_or_else(|| Failure::usage(format!("the job {} is not for {at}", entry.name)))
}

impl Runner<'_> {
    async fn run(&self) -> Done {
        if self.slot.is_some_and(|slot| slot.last_start < Timestamp::now()) {
            self.miss("it could not be begun in time");
            return Ok(Exit::Failed);
        }
        let turn = match self.take_turn()? {
            Some(turn) => turn,
            None if self.is_taken_here().await => return Ok(Exit::Fine),
            None => return self.overlaps(),
        };
        if self.is_seen() {
            return Ok(Exit::Fine);
        }
        self.see();
        let claim = match self.claim().await? {
            None => None,
            Some(Claimed::Ours(claim)) => Some(claim),
            Some(Claimed::Elsewhere) => {
                self.tell(false, "another process runs it");
                return Ok(Exit::Fine);
            }
            Some(Claimed::StillRunning(_claim)) => {
                let overlaps = self.overlaps();
                self.keep_claim().await;
                return overlaps;
            }
        };
        let exit = self.run_command().await?;
        if let Some(claim) = &claim
            && let Err(failure) = claim.ran().await
            && !self.job.interrupt.is_requested()
        {
            self.tell(true, &format!("the session that kept its lock was lost meanwhile: {}", failure.message));
        }
        drop(turn);
        if claim.is_some() {
            self.keep_claim().await;
        }
        Ok(exit)
    }

    /// For the log of the serving process, or for who runs it by hand.
    fn tell(&self, is_warning: bool, text: &str) {
        if self.slot.is_none() {
            return self.job.say(format!("{}: {text}", self.entry.name));
        }
        let level = if is_warning { "WARNING" } else { "LOG" };
        let mut stdout = std::io::stdout();
        // The process that has started us may be gone.
        let _ = writeln!(stdout, "{level} {text}").and_then(|()| stdout.flush());
    }

    /// Without a place for its lock, nobody on this machine is asked.
    fn take_turn(&self) -> Result<Option<Option<Turn>>, Failure> {
        let Some(records) = &self.records else { return Ok(Some(None)) };
        match records.take_turn(&self.entry.name) {
            Ok(Some(turn)) => Ok(Some(Some(turn))),
            Ok(None) => Ok(None),
            Err(e) => {
                self.tell(true, &format!("its results cannot be kept in {}: {e}", records.dir().display()));
                Ok(Some(None))
            }
        }
    }

    fn overlaps(&self) -> Done {
        if self.slot.is_none() {
            return Err(Failure::locked(format!("{} is running", self.entry.name)));
        }
        self.miss("the run before has not ended");
        Ok(Exit::Locked)
    }

    /// Somebody on this machine has the job's turn: for the same slot, or still for the one before.
    async fn is_taken_here(&self) -> bool {
        for _ in 0..SEEN_LOOKS {
            if self.slot.is_none() || self.is_seen() {
                break;
            }
            sleep(SEEN_WAIT).await;
        }
        self.is_seen()
    }

    /// Whether somebody who keeps the same records has dealt with the slot.
    fn is_seen(&self) -> bool {
        let Some((slot, records)) = self.slot.zip(self.records.as_ref()) else { return false };
        records.read(&self.entry.name).seen.is_some_and(|seen| seen >= slot.at)
    }

    fn see(&self) {
        if let Some(slot) = self.slot {
            self.update(|record| record.see(slot.at));
        }
    }

    fn miss(&self, why: &str) {
        let Some(slot) = self.slot else { return };
        self.tell(true, &format!("missed, due {}: {why}", slot.due));
        self.update(|record| {
            record.see(slot.at);
            record.miss(1, slot.due, why);
        });
    }

    fn update(&self, change: impl FnOnce(&mut crate::schedule::record::Record)) {
        let updated = self.records.as_ref().map(|records| records.update(&self.entry.name, change));
        if let Some(Err(e)) = updated {
            self.tell(true, &format!("its result cannot be kept: {e}"));
        }
    }

    async fn claim(&self) -> Result<Option<Claimed>, Failure> {
        if self.entry.every_process {
            return Ok(None);
        }
        let conffile = self.config.settings.conffile.clone();
        let target = match &self.entry.lock_database {
            Some(name) => Target { config: conffile, database: Some(name.clone()), ..Target::default() },
            None => {
                let own = self.parsed.target.clone().unwrap_or_default();
                Target { config: own.config.or(conffile), ..own }
            }
        };
        let conninfo = target.conninfo()?;
        let claimed = Claim::take(self.job, &conninfo, self.entry, self.slot.as_ref()).await;
        claimed.map(Some).map_err(|failure| failure.while_at("who runs it could not be asked"))
    }

    /// Until nobody can believe any more that the slot is free.
    async fn keep_claim(&self) {
        let Some(slot) = self.slot else { return };
        let left = Duration::try_from(slot.claimed_until.duration_since(Timestamp::now())).unwrap_or_default();
        // A shutdown is no reason to wait.
        let _ = self.job.interrupt.sleep(left).await;
    }

    async fn run_command(&self) -> Done {
        let begun = Begun { due: self.slot.map(|slot| slot.due), at: Timestamp::now() };
        self.update(|record| record.running = Some(begun.clone()));
        let of_slot = self.slot.map(|slot| format!(" for {}", slot.at)).unwrap_or_default();
        match begun.late().filter(|late| is_late(*late)) {
            Some(late) => self.tell(true, &format!("started{of_slot}, {} late", span_text(late.as_secs_f64()))),
            None => self.tell(false, &format!("started{of_slot}")),
        }
        let command = Run {
            words: self.entry.command.as_deref().unwrap_or_default(),
            config: self.config.settings.conffile.as_deref().filter(|_| self.parsed.wants_config),
            deadline: self.entry.deadline,
            kill_after: self.entry.kill_after,
            is_shown: self.slot.is_none(),
        };
        let ended = command.run(self.job).await;
        let (ended, exit) = self.judge(begun, ended);
        self.update(|record| {
            record.running = None;
            record.last = Some(ended.clone());
        });
        Ok(exit)
    }

    /// What came of it; says so, too.
    fn judge(&self, begun: Begun, ended: std::io::Result<child::Ended>) -> (Ended, Exit) {
        let at = Some(Timestamp::now());
        let child::Ended { status, is_late, said } = match ended {
            Ok(ended) => ended,
            Err(e) => {
                let message = Some(format!("could not be started: {e}"));
                self.tell(true, message.as_deref().unwrap_or_default());
                return (Ended { begun, at, outcome: Outcome::Failed, exit_code: None, message }, Exit::Failed);
            }
        };
        let exit = status.code().and_then(|code| Exit::ALL.into_iter().find(|exit| i32::from(exit.code()) == code));
        let exit = exit.unwrap_or(Exit::Failed);
        let outcome = match exit {
            _ if is_late => Outcome::Deadline,
            _ if self.job.interrupt.is_requested() && exit != Exit::Fine => Outcome::Interrupted,
            Exit::Fine => Outcome::Ok,
            Exit::Warning => Outcome::Warning,
            _ => Outcome::Failed,
        };
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit={code}"),
            (None, signal) => format!("signal={}", signal.unwrap_or(0)),
        };
        let ended = Ended { begun, at, outcome, exit_code: status.code(), message: None };
        let took = span_text(ended.duration().unwrap_or_default().as_secs_f64());
        let message = said.failure().filter(|_| outcome != Outcome::Ok).cloned();
        let why = match outcome {
            Outcome::Deadline => format!(", its deadline was {}", span_text(self.entry.deadline.as_secs_f64())),
            Outcome::Interrupted => ", interrupted".to_owned(),
            _ => String::new(),
        };
        if self.slot.is_some() {
            said.lines().for_each(|line| self.tell(false, &format!("| {line}")));
        }
        self.tell(outcome != Outcome::Ok, &format!("finished {how} in {took}{why}"));
        (Ended { message, ..ended }, exit)
    }
}
