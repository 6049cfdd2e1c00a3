//! `pgweir sessions`: lists, cancels and terminates those that meet conditions, and never those that must not be touched.

mod filter;
mod pooled;

pub(crate) use filter::Filter;
use filter::Session;

use clap::Args;

use super::exit::{Done, Exit, Failure};
use super::job::Job;
use super::options::{Changing, Reading};
use super::rows::row;
use super::server::Server;

#[derive(Args, Clone, Debug)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct EndOptions {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) changing: Changing,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// What happens to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its statement ends with an error, the session lives.
    Cancel,
    /// The session ends.
    Terminate,
}

impl End {
    fn verb(self) -> &'static str {
        match self {
            End::Cancel => "cancel",
            End::Terminate => "terminate",
        }
    }

    /// Done only if the process still is at what it was when it was chosen.
    fn sql(self, session: &Session) -> String {
        let (function, unchanged) = match self {
            End::Cancel => ("pg_cancel_backend", "query_start"),
            End::Terminate => ("pg_terminate_backend", "state_change"),
        };
        let (pid, seen) = (session.pid, session.stamp(self));
        let seen = seen.map_or_else(|| "null".to_owned(), super::sql::literal);
        format!(
            "select {function}(pid) from pg_stat_activity where pid = {pid} and {unchanged}::text is not distinct from {seen}"
        )
    }
}

row! {
    /// What was done with a session.
    EndedRow {
        pid: i32,
        user: Option<String>,
        database: Option<String>,
        application: Option<String>,
        state: Option<String>,
        in_state_s: Option<f64>,
        /// cancelled, terminated, changed meanwhile, or why not.
        result: String,
        query: String,
    }
}

pub(crate) async fn list(job: &Job, options: &ListOptions) -> Done {
    let server = job.connect(&options.reading.target, options.reading.limits).await?;
    server.warn_unless_monitor(job).await?;
    let sessions = options.filter.sessions(&server).await?;
    job.out.rows(&sessions, "There are no such sessions.")?;
    Ok(Exit::Fine)
}

pub(crate) async fn end(job: &Job, options: &EndOptions, end: End) -> Done {
    if options.filter.is_everybody() {
        return Err(Failure::refused(format!("nothing says which sessions to {}", end.verb()))
            .hint("name them: --idle, --active, --age, --state, --user, --application, --database, --query or --pid"));
    }
    let server = job.connect(&options.reading.target, options.reading.limits).await?;
    server.warn_unless_monitor(job).await?;
    let spared = pooled::idle_servers(job, &options.reading.target).await?;
    let mut sessions = options.filter.sessions(&server).await?;
    let found = sessions.len();
    sessions.retain(|session| !spared.has(session));
    if sessions.len() < found {
        job.say(format!("{} of them are idle servers of the pooler and stay", found - sessions.len()));
    }
    if sessions.is_empty() {
        job.out.rows::<EndedRow>(&[], &format!("There is nothing to {}.", end.verb()))?;
        return Ok(Exit::Fine);
    }
    if !spared.is_known() && end == End::Terminate && sessions.iter().any(Session::is_idle) {
        job.warn("without --config or --console, idle servers of a pooler cannot be told from other idle sessions");
    }
    job.confirm(&format!("{} {} of {}", end.verb(), count(sessions.len()), server.conninfo.dbname), end.word()).await?;
    let mut rows = Vec::new();
    for session in sessions {
        job.interrupt.check()?;
        if let Some(result) = one(job, &server, &session, end).await? {
            rows.push(session.ended(result));
        }
    }
    if job.is_dry_run() {
        return Ok(Exit::Fine);
    }
    job.out.rows(&rows, "")?;
    let failed = rows.iter().filter(|row| row.result.starts_with("not ")).count();
    Ok(match failed {
        0 => Exit::Fine,
        _ if failed == rows.len() => Exit::Failed,
        _ => Exit::Partly,
    })
}

impl End {
    fn word(self) -> &'static str {
        match self {
            End::Cancel => "CANCEL",
            End::Terminate => "TERMINATE",
        }
    }
}

fn count(sessions: usize) -> String {
    if sessions == 1 { "1 session".to_owned() } else { format!("{sessions} sessions") }
}

/// What became of it; None: a dry run.
async fn one(job: &Job, server: &Server, session: &Session, end: End) -> Result<Option<String>, Failure> {
    let done = match end {
        End::Cancel => "cancelled",
        End::Terminate => "terminated",
    };
    match job.change_value::<bool>(server, &end.sql(session)).await {
        Ok(None) if job.is_dry_run() => Ok(None),
        Ok(None) => Ok(Some("changed meanwhile, left alone".to_owned())),
        Ok(Some(true)) => Ok(Some(done.to_owned())),
        Ok(Some(false)) => Ok(Some("gone meanwhile".to_owned())),
        // A superuser's session, or somebody's that we are no member of.
        Err(failure) if failure.sqlstate.is_some() => Ok(Some(format!("not {done}: {}", failure.message))),
        Err(failure) => Err(failure),
    }
}
