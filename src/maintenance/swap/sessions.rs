//! The sessions that are in the way: named, then ended.

use std::time::Duration;

use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::lock;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::literal;

/// Between two looks at who is left.
const END_EVERY: Duration = Duration::from_millis(200);

row! {
    Left {
        pid: i32,
        user: String,
        application: String,
        address: String,
        state: String,
        database: String,
        /// A job of ours, which must not be ended.
        is_job: bool,
    }
}

impl Left {
    fn name(&self) -> String {
        let Left { pid, user, application, address, state, database, .. } = self;
        let application = if application.is_empty() { "no application_name" } else { application };
        format!("{pid} of {database}: {user}, {application}, from {address}, {state}")
    }
}

async fn left(server: &Server, databases: &[&str]) -> Result<Vec<Left>, Failure> {
    server.rows(LEFT, &[&databases, &lock::CLASS]).await
}

/// Says who will be ended. Another job at work there is a reason not to.
pub(super) async fn name(job: &Job, server: &Server, databases: &[&str]) -> Result<(), Failure> {
    let left = left(server, databases).await?;
    if let Some(other) = left.iter().find(|session| session.is_job) {
        return Err(Failure::locked(format!("another job is at work: process {}", other.name())));
    }
    for session in left {
        job.say(format!("to be ended, process {}", session.name()));
    }
    Ok(())
}

/// Ends all again and again. Those that may not be ended are added to `refused`.
pub(super) async fn end(
    job: &Job,
    server: &Server,
    databases: &[&str],
    refused: &mut Vec<String>,
) -> Result<(), Failure> {
    loop {
        let now = left(server, databases).await?;
        refused.clear();
        for session in now {
            match job.change_value::<bool>(server, &format!("select pg_terminate_backend({})", session.pid)).await {
                Ok(_) => {}
                Err(failure) if failure.sqlstate.is_some() => refused.push(session.name()),
                Err(failure) => return Err(failure),
            }
        }
        job.interrupt.sleep(END_EVERY).await?;
    }
}

/// What a dry run says of it.
pub(super) async fn plan(job: &Job, server: &Server, databases: &[&str]) -> Result<(), Failure> {
    let names: Vec<String> = databases.iter().map(|name| literal(name)).collect();
    let names = names.join(", ");
    let sql = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname in ({names})");
    job.change_value::<bool>(server, &sql).await.map(|_| ())
}

const LEFT: &str = "
    select a.pid, coalesce(a.usename::text, a.backend_type, '') as user, coalesce(a.application_name, '') as application,
           coalesce(host(a.client_addr), 'this machine') as address, coalesce(a.state, 'at work') as state,
           a.datname::text as database,
           exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory' and l.granted
                   and l.classid = $2::int4::oid and l.objid = 0 and l.objsubid = 2) as is_job
    from pg_stat_activity a
    where a.datname = any ($1) and a.backend_type is distinct from 'autovacuum worker'
    order by a.pid";
