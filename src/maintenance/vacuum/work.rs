//! Carries out VACUUM and ANALYZE on several tables at once, and goes on where one of them fails.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::watch::watch;
use super::window::Opening;
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::lock::JobLock;
use crate::maintenance::options::Limits;
use crate::maintenance::progress::Counted;
use crate::maintenance::relations::{Relation, relations};
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::together::all;
use crate::maintenance::units::Span;

/// Before a table is tried again whose lock somebody had.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long the statistics may take to tell what was done, and how often they are asked.
const STATISTICS_LIMIT: Duration = Duration::from_secs(2);
const STATISTICS_PAUSE: Duration = Duration::from_millis(200);

/// One table with what is done to it.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) relation: Relation,
    /// For the plan.
    pub(super) why: String,
    pub(super) statements: Vec<String>,
    /// How often its lock was not to be had.
    pub(super) attempts: u32,
}

/// How the tasks are carried out.
pub(super) struct Plan {
    /// Sessions at work at once, 1 or more.
    pub(super) jobs: usize,
    pub(super) limits: Limits,
    /// How often a table is tried again whose lock was not to be had.
    pub(super) retries: u32,
    /// For every session at its begin.
    pub(super) settings: Vec<String>,
    /// Nothing is begun outside of it; None: any time will do.
    pub(super) opening: Option<Opening>,
    /// VACUUM FULL conflicts with every other lock, and does not go on when the window is over.
    pub(super) is_full: bool,
}

/// What has become of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The user may not.
    Forbidden,
    Failed(String),
    NotBegun(&'static str),
}

impl Outcome {
    pub(super) fn text(&self) -> String {
        match self {
            Outcome::Done => "done".to_owned(),
            Outcome::Forbidden => "not permitted".to_owned(),
            Outcome::Failed(why) => format!("failed: {why}"),
            Outcome::NotBegun(why) => format!("not begun: {why}"),
        }
    }
}

pub(super) struct Ended {
    pub(super) before: Relation,
    /// None: it was not done, or it is gone.
    pub(super) after: Option<Relation>,
    pub(super) outcome: Outcome,
    pub(super) took_s: Option<f64>,
}

impl Ended {
    pub(super) fn without(before: Relation, outcome: Outcome) -> Ended {
        Ended { before, after: None, outcome, took_s: None }
    }
}

/// How it all ended: not at all, in part, or as it should. What was interrupted is partly done if anything was.
pub(super) fn exit(job: &Job, ended: &[Ended]) -> Done {
    let done = ended.iter().filter(|ended| ended.outcome == Outcome::Done).count();
    if job.interrupt.is_requested() {
        let text = format!("interrupted: {done} of {} tables done", ended.len());
        return Err(if done > 0 { Failure::partly(text) } else { Failure::failed(text) });
    }
    Ok(match done {
        _ if done == ended.len() => Exit::Fine,
        0 => Exit::Failed,
        _ => Exit::Partly,
    })
}

/// A table under way.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) name: String,
    pub(super) bytes: u64,
}

struct Crew<'a> {
    job: &'a Job,
    /// For questions, beside the sessions at work.
    control: &'a Server,
    lock: Option<&'a JobLock>,
    plan: &'a Plan,
    queue: RefCell<VecDeque<Task>>,
    running: RefCell<Vec<Running>>,
    finished_bytes: Cell<u64>,
    ended: RefCell<Vec<Ended>>,
}

/// Carries out all tasks, the first first, those of a stage when the stage before has ended; a dry run prints them. Fails only
/// if nothing could be begun.
pub(super) async fn run(
    job: &Job,
    control: &Server,
    lock: Option<&JobLock>,
    plan: &Plan,
    stages: Vec<Vec<Task>>,
) -> Result<Vec<Ended>, Failure> {
    let total: u64 = stages.iter().flatten().map(|task| bytes(&task.relation)).sum();
    let most = stages.iter().map(Vec::len).max().unwrap_or(0);
    let servers =
        sessions(job, control, plan, if job.is_dry_run() { most.min(1) } else { plan.jobs.min(most) }).await?;
    let progress = job.progress(job.name, Counted::Bytes, Some(total));
    let crew = Crew {
        job,
        control,
        lock,
        plan,
        queue: RefCell::default(),
        running: RefCell::default(),
        finished_bytes: Cell::new(0),
        ended: RefCell::default(),
    };
    let watching = watch(control, &progress, || (crew.running.borrow().clone(), crew.finished_bytes.get()));
    let working = async {
        for tasks in stages {
            crew.queue.borrow_mut().extend(tasks);
            all(servers.iter().map(|server| crew.work(server))).await;
        }
    };
    tokio::select! {
        () = working => {}
        () = watching => {}
    }
    drop(progress);
    let mut ended = crew.ended.into_inner();
    let left = crew.queue.into_inner();
    wait_for_statistics(job, control, &mut ended).await;
    let why = if job.interrupt.is_requested() { "interrupted" } else { "no connection is left" };
    ended.extend(left.into_iter().map(|task| Ended::without(task.relation, Outcome::NotBegun(why))));
    Ok(ended)
}

/// Version 14 may show statistics that are half a second old.
async fn wait_for_statistics(job: &Job, control: &Server, ended: &mut [Ended]) {
    let deadline = Instant::now() + STATISTICS_LIMIT;
    let is_old =
        |ended: &Ended| ended.after.as_ref().is_some_and(|after| after.looked_after <= ended.before.looked_after);
    while ended.iter().any(is_old) && Instant::now() < deadline {
        let Ok(()) = job.interrupt.sleep(STATISTICS_PAUSE).await else { return };
        let Ok(now) = relations(control, None).await else { return };
        for ended in ended.iter_mut().filter(|ended| is_old(ended)) {
            ended.after = now.iter().find(|now| now.oid == ended.before.oid).cloned();
        }
    }
}

fn bytes(relation: &Relation) -> u64 {
    u64::try_from(relation.total_bytes).unwrap_or(0)
}

/// As many as there can be, one at least.
async fn sessions(job: &Job, control: &Server, plan: &Plan, jobs: usize) -> Result<Vec<Server>, Failure> {
    let mut servers = Vec::new();
    for number in 0..jobs {
        match job.connect_to(&control.here(), plan.limits).await {
            Ok(server) => servers.push(server),
            Err(failure) if number == 0 => return Err(failure),
            Err(failure) => {
                job.interrupt.check()?;
                job.warn(format!("{number} instead of {jobs} sessions: {failure}"));
                break;
            }
        }
    }
    for server in &servers {
        // When this program is killed, the server is not to go on alone. Not all that PostgreSQL runs on can tell.
        let _ = server.batch("SET client_connection_check_interval = '2s'").await;
        for setting in &plan.settings {
            job.change(server, setting).await?;
        }
    }
    Ok(servers)
}

impl Crew<'_> {
    /// Takes tasks until there are none, or its session is gone.
    async fn work(&self, server: &Server) {
        loop {
            let next = self.queue.borrow_mut().pop_front();
            let Some(task) = next else { return };
            if self.job.interrupt.is_requested() {
                self.queue.borrow_mut().push_front(task);
                return;
            }
            let begun = Instant::now();
            let running =
                Running { pid: server.backend_pid, name: task.relation.shown(), bytes: bytes(&task.relation) };
            self.running.borrow_mut().push(running);
            let result = self.one(server, &task).await;
            self.running.borrow_mut().retain(|running| running.pid != server.backend_pid);
            let is_lost = result.as_ref().is_err_and(|failure| failure.exit == Exit::Unreachable);
            self.end(task, result, begun).await;
            if is_lost {
                return;
            }
        }
    }

    async fn one(&self, server: &Server, task: &Task) -> Result<Outcome, Failure> {
        let Task { why, statements, attempts, .. } = task;
        if *attempts > 0 {
            self.job.interrupt.sleep(RETRY_PAUSE).await?;
        }
        if let Some(lock) = self.lock {
            lock.check().await?;
        }
        if let Some(opening) = &self.plan.opening {
            match opening.left(self.control).await {
                Ok(left) if self.plan.is_full => self.limit(server, left).await?,
                Ok(_) => {}
                Err(failure) if failure.exit == Exit::Refused => return Ok(Outcome::NotBegun("the window is over")),
                Err(failure) => return Err(failure),
            }
        }
        // Its lines are the plan.
        self.job.step(&format!("{}: {why}", task.relation.shown()))?;
        for statement in statements {
            self.job.change(server, statement).await?;
        }
        Ok(Outcome::Done)
    }

    /// Statements of the session end with the window at the latest.
    async fn limit(&self, server: &Server, left: Duration) -> Result<(), Failure> {
        let own = self.plan.limits.statement_timeout;
        let millis = if own.0.is_zero() { Span(left) } else { own.min(Span(left)) }.millis().max(1);
        server.batch(&format!("SET statement_timeout = {millis}")).await
    }

    async fn end(&self, mut task: Task, result: Result<Outcome, Failure>, begun: Instant) {
        let name = task.relation.shown();
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(failure) if is_locked(&failure) => {
                let by = self.lockers(&task.relation).await;
                if task.attempts < self.plan.retries {
                    task.attempts += 1;
                    let (attempt, retries) = (task.attempts, self.plan.retries);
                    self.job.say(format!("{name} is locked by {by}; later again ({attempt} of {retries})"));
                    self.queue.borrow_mut().push_back(task);
                    return;
                }
                Outcome::Failed(format!("locked by {by}"))
            }
            Err(failure) => Outcome::Failed(self.why(&failure)),
        };
        if !matches!(outcome, Outcome::Done) {
            self.job.warn(format!("{name}: {}", outcome.text()));
        }
        self.finished_bytes.set(self.finished_bytes.get() + bytes(&task.relation));
        let after = if outcome == Outcome::Done && !self.job.is_dry_run() { self.measure(&task).await } else { None };
        let took_s = Some(begun.elapsed().as_secs_f64());
        self.ended.borrow_mut().push(Ended { before: task.relation, after, outcome, took_s });
    }

    /// Who has a lock on it by which it cannot be had.
    async fn lockers(&self, relation: &Relation) -> String {
        let lockers: Vec<Locker> =
            self.control.rows(LOCKERS, &[&relation.oid, &self.plan.is_full]).await.unwrap_or_default();
        let lockers: Vec<String> = lockers.into_iter().map(|locker| locker.who).collect();
        if lockers.is_empty() { "somebody".to_owned() } else { lockers.join(", ") }
    }

    /// None: it is gone, or cannot be asked about.
    async fn measure(&self, task: &Task) -> Option<Relation> {
        relations(self.control, Some(task.relation.oid)).await.ok()?.into_iter().next()
    }

    fn why(&self, failure: &Failure) -> String {
        if self.job.interrupt.is_requested() {
            return "interrupted".to_owned();
        }
        let is_timeout = failure.sqlstate == Some(SqlState::QUERY_CANCELED);
        if is_timeout && self.plan.is_full {
            return format!("the window is over, or statement_timeout: {}", failure.message);
        }
        failure.message.clone()
    }
}

fn is_locked(failure: &Failure) -> bool {
    failure.sqlstate == Some(SqlState::LOCK_NOT_AVAILABLE)
}

row! {
    Locker {
        who: String,
    }
}

/// Also who waits in front of us is in the way.
const LOCKERS: &str = "
    select coalesce('process ' || l.pid || ' (' || concat_ws(', ', 'user ' || a.usename::text, nullif(a.application_name, ''),
               case a.backend_type when 'client backend' then a.state else a.backend_type end) || ')',
               'a prepared transaction') as who
    from pg_locks l left join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'relation' and l.relation = $1 and a.pid is distinct from pg_backend_pid()
      and l.database = (select oid from pg_database where datname = current_database())
      and ($2 or l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock'))
    group by l.pid, 1 order by min(a.xact_start) nulls first limit 3";
