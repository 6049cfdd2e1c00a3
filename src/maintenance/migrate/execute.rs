//! Running the units: retried where nothing has been done yet, and every failure told with its place.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::sleep;
use tokio_postgres::Error;
use tokio_postgres::error::{ErrorPosition, SqlState};

use super::plan::Unit;
use super::script::{Position, Statement};
use super::touched::{Indexes, Touched};
use crate::maintenance::exit::{Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::options::Limits;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::{Span, span_text};

/// No retry waits longer.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a transaction that was not done may be tried again after: somebody else was in the way.
const RETRIED: [SqlState; 3] =
    [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];

/// How a run is made.
pub(super) struct Runner<'a> {
    pub(super) job: &'a Job,
    pub(super) server: &'a Server,
    /// Looks who is in the way of `server`.
    pub(super) watcher: &'a Server,
    /// As users call it, for messages.
    pub(super) file: &'a str,
    pub(super) limits: Limits,
    pub(super) retries: u32,
    /// Before the first retry; doubled with each.
    pub(super) retry_wait: Span,
    /// Everything is rolled back at the end.
    pub(super) is_trial: bool,
}

/// How far a run has come.
#[derive(Default)]
pub(super) struct Progress {
    /// Statements that have taken effect.
    pub(super) done: usize,
    pub(super) attempts: u32,
    pub(super) touched: Touched,
    /// Why it has not come to the end.
    pub(super) failure: Option<Failure>,
}

row! {
    /// Who holds what is waited for.
    Blocker {
        pid: i32,
        user: Option<String>,
        application: Option<String>,
        state: Option<String>,
        age_s: Option<f64>,
        query: Option<String>,
    }
}

/// Why a statement was not done.
enum Refused {
    /// The server's word, and who was in the way.
    ByServer(Error, Vec<Blocker>),
    Other(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Refused {
        Refused::Other(failure)
    }
}

/// The statement that was refused; None: BEGIN or COMMIT.
type Refusal<'a> = (Option<&'a Statement>, Refused);

impl Runner<'_> {
    pub(super) async fn run(&self, units: &[Unit]) -> Progress {
        let mut progress = Progress::default();
        for unit in units {
            let result = match unit {
                Unit::Transaction { begin, statements } => {
                    self.with_retries(begin.as_ref(), statements, &mut progress).await
                }
                Unit::Alone(statement) => self.alone(statement, &mut progress).await,
            };
            match result {
                Ok(()) => progress.done += unit.statements().len(),
                Err(failure) => {
                    progress.failure = Some(failure);
                    break;
                }
            }
        }
        progress
    }

    async fn with_retries(
        &self,
        begin: Option<&Statement>,
        statements: &[Statement],
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        for retry in 0.. {
            progress.attempts = progress.attempts.max(retry + 1);
            let (statement, refused) = match self.transaction(begin, statements, &mut progress.touched).await {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            let can_retry = retry < self.retries
                && matches!(&refused, Refused::ByServer(e, _) if e.code().is_some_and(|code| RETRIED.contains(code)));
            let failure = self.told(statement, refused);
            if !can_retry {
                return Err(failure);
            }
            self.server.batch("ROLLBACK").await?;
            let wait = wait_before(retry, self.retry_wait.0);
            self.job.say(format!(
                "{}\nrolled back; attempt {} of {} in {}",
                failure.message,
                retry + 2,
                self.retries + 1,
                span_text(wait.as_secs_f64())
            ));
            self.job.interrupt.sleep(wait).await?;
        }
        Ok(())
    }

    async fn transaction<'a>(
        &self,
        begin: Option<&Statement>,
        statements: &'a [Statement],
        touched: &mut Touched,
    ) -> Result<(), Refusal<'a>> {
        let of_ours = |refused: Refused| (None, refused);
        let begin = self.server.batch_as_written(Unit::begin_sql(begin)).await;
        begin.map_err(|failure| of_ours(failure.into()))?.map_err(|e| of_ours(Refused::ByServer(e, Vec::new())))?;
        for statement in statements {
            self.statement(statement).await.map_err(|refused| (Some(statement), refused))?;
        }
        touched.note(self.server).await.map_err(|failure| of_ours(failure.into()))?;
        let end = if self.is_trial { "ROLLBACK" } else { "COMMIT" };
        match self.server.batch_as_written(end).await.map_err(|failure| of_ours(failure.into()))? {
            Err(e) if e.as_db_error().is_none() => Err(of_ours(Refused::Other(
                Failure::unreachable("the connection was lost at COMMIT")
                    .hint("whether it took effect is not known: look before you run it again"),
            ))),
            ended => ended.map_err(|e| of_ours(Refused::ByServer(e, Vec::new()))),
        }
    }

    /// Nothing brings back what such a statement has done before it fails, so it is never retried.
    async fn alone(&self, statement: &Statement, progress: &mut Progress) -> Result<(), Failure> {
        progress.attempts = progress.attempts.max(1);
        let before = Indexes::of(self.server).await?;
        match self.statement(statement).await {
            Ok(()) => {
                progress.touched.note_new_indexes(self.server, &before).await?;
                Ok(())
            }
            Err(refused) => {
                let failure = self.told(Some(statement), refused);
                // After an interrupt nothing more is asked.
                let left = before.left_invalid(self.watcher).await.unwrap_or_default();
                if left.is_empty() {
                    return Err(failure);
                }
                let message = format!("{}\nLeft behind, not valid: {}", failure.message, left.join(", "));
                Err(Failure { message, ..failure }
                    .hint("DROP INDEX CONCURRENTLY removes it; then run the rest of the file"))
            }
        }
    }

    /// Runs one statement, and looks meanwhile who holds it up.
    async fn statement(&self, statement: &Statement) -> Result<(), Refused> {
        let every = match self.limits.lock_timeout.0 {
            Duration::ZERO => Duration::from_millis(500),
            limit => (limit / 4).clamp(Duration::from_millis(20), Duration::from_millis(500)),
        };
        let mut blockers = Vec::new();
        let mut run = std::pin::pin!(self.server.batch_as_written(&statement.text));
        let result = loop {
            tokio::select! {
                result = &mut run => break result,
                () = sleep(every) => {
                    let rows = self.watcher.rows::<Blocker>(BLOCKERS, &[&self.server.backend_pid]).await;
                    // Nobody is in the way any more, or nobody can tell: what was seen last counts.
                    blockers = rows.ok().filter(|rows| !rows.is_empty()).unwrap_or(blockers);
                }
            }
        };
        result?.map_err(|e| Refused::ByServer(e, blockers))
    }

    /// What happened, where, and in whose words.
    fn told(&self, statement: Option<&Statement>, refused: Refused) -> Failure {
        let (error, blockers) = match refused {
            Refused::ByServer(error, blockers) => (error, blockers),
            Refused::Other(failure) => return failure,
        };
        let mut failure = Failure::from(&error);
        let Some(db) = error.as_db_error() else { return failure };
        let mut lines = vec![match statement {
            Some(statement) => format!("{}:{}: {}", self.file, place(statement, db.position()), failure.message),
            None => format!("{}: at the transaction's end: {}", self.file, failure.message),
        }];
        let context = db.where_().map(|context| format!("Context: {}", context.replace('\n', "; ")));
        lines.extend(context);
        lines.extend(statement.map(|statement| format!("Statement: {}", statement.summary())));
        if db.code() == &SqlState::LOCK_NOT_AVAILABLE || db.code() == &SqlState::QUERY_CANCELED {
            lines.extend(blockers.iter().map(Blocker::line));
        }
        failure.message = lines.join("\n");
        if db.code() == &SqlState::ACTIVE_SQL_TRANSACTION && failure.hint.is_none() {
            failure = failure.hint("--no-transaction runs the file statement by statement");
        }
        failure
    }

    /// The failure of a run, which may have done a part of the file.
    pub(super) fn outcome(&self, failure: Failure, done: usize, units: &[Unit]) -> Failure {
        if done == 0 {
            return failure;
        }
        let statements = units.iter().flat_map(Unit::statements);
        let total = statements.clone().count();
        let lines: Vec<String> = statements.take(done).map(|statement| statement.at.line.to_string()).collect();
        let lines = lines.join(", ");
        let message = format!(
            "{}\n{done} of {total} statements are done, those at line {lines}; the rest is not",
            failure.message
        );
        Failure { exit: Exit::Partly, message, ..failure }
    }
}

impl Blocker {
    /// Without pg_monitor only the first half is known of other users' sessions.
    fn line(&self) -> String {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let (pid, application, user) = (self.pid, text(&self.application), text(&self.user));
        let who = format!("Blocked by process {pid}: {application} of {user}");
        let Some(state) = &self.state else { return who };
        let age = self.age_s.map(|age| format!(" for {}", span_text(age.round()))).unwrap_or_default();
        let query = text(&self.query);
        let query: String = query.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(80).collect();
        format!("{who}, {state}{age}: {query}")
    }
}

/// In the file: where the server says, or the statement's beginning.
fn place(statement: &Statement, position: Option<&ErrorPosition>) -> Position {
    match position {
        Some(ErrorPosition::Original(character)) => {
            let before = (*character as usize).saturating_sub(1);
            let end = statement.text.char_indices().nth(before).map_or(statement.text.len(), |(at, _)| at);
            statement.at.after(&statement.text[..end])
        }
        _ => statement.at,
    }
}

/// Twice as long each time, and somewhere in the upper half of it, so that two that are in each other's way part.
fn wait_before(retry: u32, first: Duration) -> Duration {
    let wait = first.saturating_mul(1 << retry.min(16)).min(WAIT_MAX.max(first));
    let mut byte = [0];
    // Without random numbers it waits in full.
    let share = SystemRandom::new().fill(&mut byte).map_or(1.0, |()| 0.5 + f64::from(byte[0]) / 512.0);
    wait.mul_f64(share)
}

const BLOCKERS: &str = "
    select a.pid, a.usename::text as user, a.application_name as application, a.state,
           extract(epoch from clock_timestamp() - coalesce(a.xact_start, a.state_change))::float8 as age_s, a.query
    from pg_catalog.pg_stat_activity a where a.pid = any(pg_catalog.pg_blocking_pids($1)) order by a.xact_start";

#[cfg(test)]
mod tests {
    use super::super::script::split;
    use super::*;

    #[test]
    fn the_server_s_place_is_one_of_the_file() {
        let statements = split("select 1;\n  select 'ä',\n x from y", false).unwrap();
        let at =
            |position: Option<u32>| place(&statements[1], position.map(ErrorPosition::Original).as_ref()).to_string();
        assert_eq!(at(None), "2:3");
        assert_eq!(at(Some(1)), "2:3");
        assert_eq!(at(Some(14)), "3:2");
        assert_eq!(at(Some(1000)), "3:10");
    }

    #[test]
    fn waits_grow_up_to_a_limit() {
        let first = Duration::from_secs(1);
        for (retry, most) in [(0, 1), (1, 2), (3, 8), (5, 30), (60, 30)] {
            let wait = wait_before(retry, first);
            let most = Duration::from_secs(most);
            assert!(wait >= most / 2 && wait <= most, "{retry}: {wait:?}");
        }
        assert_eq!(wait_before(4, Duration::ZERO), Duration::ZERO);
    }
}
