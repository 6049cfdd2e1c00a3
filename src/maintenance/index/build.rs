//! Runs one long statement on an index, and looks meanwhile how far it is and whom it waits for.
//!
//! A concurrent build waits twice: for the table's lock, which nobody suffers from who only reads and writes, and at the end of
//! each phase for transactions that began before it. `lock_timeout` would end the second, too, hours into a build. So the
//! server has none here, and the waits are looked at from a second session.

use std::pin::pin;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::options::Limits;
use crate::maintenance::progress::{Counted, Progress};
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::{Size, Span, span_text};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A wait is spoken of after this long, and then now and then.
const SAID_AFTER: Duration = Duration::from_secs(5);
const SAID_EVERY: Duration = Duration::from_secs(60);
/// Between two attempts to get a lock: twice as long each time, at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How soon the server notices that nobody waits for a build any more.
const CHECK_CLIENT_EVERY: &str = "2s";

#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Waiting {
    /// Give up a build that waits longer than this for a transaction which was open before it; the transaction is named; 0: wait
    /// for ever
    #[arg(long, value_name = "TIME", default_value = "30m")]
    pub(crate) max_wait: Span,
    /// How often to try again for a lock that was not to be had within --lock-timeout
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) retries: u32,
}

#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Build")]
pub(crate) struct Memory {
    /// Memory for a build, as 1GB; of hnsw, the graph should fit in [default: the server's]
    #[arg(long, value_name = "SIZE")]
    pub(crate) maintenance_work_mem: Option<Size>,
    /// Processes that may help with a build, 0 to 1024 [default: the server's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub(crate) max_parallel_maintenance_workers: Option<u32>,
}

row! {
    Settings {
        memory: String,
        workers: String,
    }
}

/// A session that builds, and one that watches it.
pub(crate) struct Builder<'a> {
    job: &'a Job,
    watch: &'a Server,
    session: Server,
    lock_timeout: Span,
    waiting: Waiting,
}

row! {
    /// What the builder is at.
    Seen {
        /// None: at nothing that the server counts.
        phase: Option<String>,
        done: i64,
        total: i64,
        /// In blocks rather than rows.
        in_blocks: bool,
        /// `relation`: for a table's lock; otherwise for a transaction's end; none: it does not wait for a lock.
        waits_for: Option<String>,
        /// Those that hold it; may be empty.
        holders: String,
    }
}

/// How an attempt has ended that did not fail.
enum Attempt {
    Done,
    /// Who has had the lock for all of `lock_timeout`.
    NoLock(String),
}

/// A wait under way.
struct Wait {
    since: Instant,
    /// For a table's lock, whoever holds it; otherwise for the end of just these.
    is_for_table: bool,
    holders: String,
    /// When it was spoken of last.
    said: Option<Instant>,
}

impl<'a> Builder<'a> {
    /// Connects the session that builds. `is_users` gives it the user's own search_path, for SQL that the user has written.
    pub(crate) async fn open(
        job: &'a Job,
        watch: &'a Server,
        limits: Limits,
        waiting: Waiting,
        memory: Option<Memory>,
        is_users: bool,
    ) -> Result<Builder<'a>, Failure> {
        let here = watch.here();
        let session =
            if is_users { job.connect_as_user(&here, limits).await? } else { job.connect_to(&here, limits).await? };
        // Not every system can tell.
        let _ = session.batch(&format!("SET client_connection_check_interval = '{CHECK_CLIENT_EVERY}'")).await;
        if let Some(Memory { maintenance_work_mem, max_parallel_maintenance_workers }) = memory {
            if let Some(size) = maintenance_work_mem {
                session.batch(&format!("SET maintenance_work_mem = '{}kB'", size.0 / 1024)).await?;
            }
            if let Some(workers) = max_parallel_maintenance_workers {
                session.batch(&format!("SET max_parallel_maintenance_workers = {workers}")).await?;
            }
            let settings: Settings = session.one(SETTINGS, &[]).await?;
            let Settings { memory, workers } = settings;
            job.say(format!("maintenance_work_mem {memory}, max_parallel_maintenance_workers {workers}"));
        }
        Ok(Builder { job, watch, session, lock_timeout: limits.lock_timeout, waiting })
    }

    pub(super) fn pid(&self) -> i32 {
        self.session.backend_pid
    }

    pub(super) fn session(&self) -> &Server {
        &self.session
    }

    /// Runs a statement that cannot run in a transaction, called `label` in messages. Whether it ran: a dry run prints it.
    pub(super) async fn run(&self, label: &str, sql: &str) -> Result<bool, Failure> {
        if self.job.is_dry_run() {
            return self.job.change_one(&self.session, sql).await;
        }
        self.session.batch("SET lock_timeout = 0").await?;
        let mut pause = FIRST_PAUSE;
        for left in (0..=self.waiting.retries).rev() {
            let holders = match self.attempt(label, sql).await? {
                Attempt::Done => return Ok(true),
                Attempt::NoLock(holders) => holders,
            };
            let waited = format!("no lock within {}, held by {holders}", self.lock_timeout);
            if left == 0 {
                return Err(Failure::failed(format!("{label}: {waited}")).hint(
                    "--lock-timeout and --retries make it wait longer, \"pgweir locks\" shows who waits for whom",
                ));
            }
            self.job.say(format!("{label}: {waited}; tried again in {}, {left} times more", Span(pause)));
            self.job.interrupt.sleep(pause).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(false)
    }

    /// The same for a statement that locks a table against reading for a moment: with the server's own `lock_timeout`, since
    /// all who come later queue up behind it.
    pub(super) async fn run_briefly(&self, label: &str, sql: &str) -> Result<bool, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut left = self.waiting.retries;
        loop {
            match self.job.change(self.watch, sql).await {
                Err(failure) if left > 0 && failure.sqlstate == Some(SqlState::LOCK_NOT_AVAILABLE) => {
                    let timeout = self.lock_timeout;
                    self.job.say(format!("{label}: no lock within {timeout}; tried again in {}", Span(pause)));
                    self.job.interrupt.sleep(pause).await?;
                    (pause, left) = ((pause * 2).min(LONGEST_PAUSE), left - 1);
                }
                done => return done.map_err(|failure| failure.while_at(label)),
            }
        }
    }

    async fn attempt(&self, label: &str, sql: &str) -> Result<Attempt, Failure> {
        let mut running = pin!(self.job.change_one(&self.session, sql));
        let mut shown: Option<(String, Progress)> = None;
        let mut wait: Option<Wait> = None;
        let mut gave_up: Option<Result<Attempt, Failure>> = None;
        loop {
            let done = tokio::select! {
                done = &mut running => Some(done),
                () = sleep(LOOK_EVERY) => None,
            };
            match (done, gave_up.take()) {
                (Some(Err(failure)), Some(told)) if failure.sqlstate == Some(SqlState::QUERY_CANCELED) => return told,
                (Some(done), _) => return done.map(|_| Attempt::Done),
                (None, told) => gave_up = told,
            }
            // Whatever keeps us from looking does not harm the build.
            let Ok(Some(seen)) = self.look().await else { continue };
            show(self.job, label, &seen, &mut shown);
            if gave_up.is_none() {
                gave_up = self.patience(label, &seen, &mut wait);
                if gave_up.is_some() {
                    const CANCEL: &str = "select pg_cancel_backend($1)";
                    let told = self.watch.query(CANCEL, &[&self.session.backend_pid]).await;
                    // It is asked for again at the next look.
                    gave_up = gave_up.filter(|_| told.is_ok());
                }
            }
        }
    }

    async fn look(&self) -> Result<Option<Seen>, Failure> {
        let seen: Vec<Seen> = self.watch.rows(SEEN, &[&self.session.backend_pid]).await?;
        Ok(seen.into_iter().next())
    }

    /// Says whom it waits for; Some: it is to wait no longer.
    fn patience(&self, label: &str, seen: &Seen, wait: &mut Option<Wait>) -> Option<Result<Attempt, Failure>> {
        let Some(waits_for) = &seen.waits_for else {
            *wait = None;
            return None;
        };
        let is_for_table = waits_for == "relation";
        let is_same = |wait: &Wait| wait.is_for_table == is_for_table && (is_for_table || wait.holders == seen.holders);
        if !wait.as_ref().is_some_and(is_same) {
            *wait = Some(Wait { since: Instant::now(), is_for_table, holders: seen.holders.clone(), said: None });
        }
        let wait = wait.as_mut()?;
        let (waited, holders) = (wait.since.elapsed(), described(&seen.holders));
        let is_over = |limit: Span| !limit.0.is_zero() && waited >= limit.0;
        if is_for_table {
            return is_over(self.lock_timeout).then_some(Ok(Attempt::NoLock(holders)));
        }
        if is_over(self.waiting.max_wait) {
            let limit = self.waiting.max_wait;
            let message = format!("{label}: waited {limit} for the end of {holders}");
            return Some(Err(Failure::failed(message).hint("--max-wait makes it wait longer")));
        }
        if waited >= SAID_AFTER && wait.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            wait.said = Some(Instant::now());
            let secs = span_text(waited.as_secs_f64().round());
            self.job.say(format!("{label}: has waited {secs} for the end of {holders}"));
        }
        None
    }
}

fn described(holders: &str) -> String {
    if holders.is_empty() { "a transaction that cannot be seen".to_owned() } else { holders.to_owned() }
}

/// A line of its own for each phase.
fn show(job: &Job, label: &str, seen: &Seen, shown: &mut Option<(String, Progress)>) {
    let Some(phase) = &seen.phase else { return };
    if shown.as_ref().is_none_or(|(last, _)| last != phase) {
        // The old line goes before the new one comes.
        shown.take();
        let counted = Counted::Things(if seen.in_blocks { "blocks" } else { "rows" });
        *shown = Some((phase.clone(), job.progress(format!("{label}: {phase}"), counted, None)));
    }
    if let Some((_, progress)) = shown {
        progress.at_of(seen.done.max(0) as u64, (seen.total > 0).then_some(seen.total as u64));
    }
}

const SETTINGS: &str = "
    select current_setting('maintenance_work_mem') as memory, current_setting('max_parallel_maintenance_workers') as workers";

/// Process 0 stands for prepared transactions.
const SEEN: &str = "
    select p.phase, coalesce(nullif(p.blocks_done, 0), p.tuples_done, 0) as done,
           coalesce(nullif(p.blocks_total, 0), p.tuples_total, 0) as total, coalesce(p.blocks_total, 0) > 0 as in_blocks,
           case when a.wait_event_type = 'Lock' then a.wait_event end as waits_for,
           case when a.wait_event_type = 'Lock' then coalesce((
               select string_agg(distinct case when b.pid = 0 then 'a prepared transaction' else concat('process ', b.pid, (
                          select format(' (%s)', concat_ws(', ', h.usename, nullif(h.application_name, ''), h.state,
                                     'since ' || to_char(coalesce(h.xact_start, h.query_start), 'HH24:MI:SS')))
                          from pg_stat_activity h where h.pid = b.pid)) end, ', ')
               from unnest(pg_blocking_pids(a.pid)) b (pid)), '') else '' end as holders
    from pg_stat_activity a left join pg_stat_progress_create_index p on p.pid = a.pid
    where a.pid = $1";
