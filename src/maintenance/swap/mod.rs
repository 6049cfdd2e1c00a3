//! One database in the place of another: both are renamed in one transaction, while the pooler holds their clients.

mod carry;
mod sessions;

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::databases;
use super::exit::Failure;
use super::hold::{self, Hold};
use super::job::Job;
use super::lock::JobLock;
use super::options::{Limits, Target};
use super::rows::row;
use super::server::Server;
use super::sql::ident;
use super::units::Span;

/// How long our own sessions may take to be gone.
const CLOSING_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Pooler")]
pub(crate) struct SwapOptions {
    /// Give up, and let clients go on, if some stay in their transactions for longer than this while the others wait
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(crate) hold_timeout: Span,
    /// There is no pooler in front of the database: its clients' sessions are ended, and nobody is held
    #[arg(long)]
    pub(crate) no_pooler: bool,
}

/// What is put in whose place, on the server that `server` is connected to, by a third database of it.
pub(crate) struct Swap<'a> {
    pub(crate) target: &'a Target,
    pub(crate) options: SwapOptions,
    pub(crate) server: &'a Server,
    pub(crate) old: &'a str,
    pub(crate) new: &'a str,
}

row! {
    /// What would be in the way.
    Obstacles {
        may_rename: bool,
        prepared: i64,
        slots: i64,
        subscriptions: i64,
    }
}

impl Swap<'_> {
    /// Fails before the long work where [`Swap::run`] would fail after it, and says what a renaming does not take along.
    pub(crate) async fn check(&self, job: &Job) -> Result<(), Failure> {
        let Swap { server, old, .. } = self;
        if server.conninfo.dbname == *old || server.conninfo.dbname == self.new {
            return Err(Failure::usage(format!(
                "{} cannot be renamed while it is connected to",
                server.conninfo.dbname
            ))
            .hint("--maintenance-db names another database of the server"));
        }
        let found: Vec<Obstacles> = server.rows(OBSTACLES, &[old]).await?;
        let Some(obstacles) = found.first() else {
            return Err(Failure::refused(format!("there is no database {old} that {} could replace", self.new))
                .hint("without --swap it is restored under the name that --into gives"));
        };
        if !obstacles.may_rename {
            return Err(Failure::refused(format!("{} may not rename {old}", server.conninfo.user))
                .hint("it takes the owner, with CREATEDB, or a superuser"));
        }
        if obstacles.prepared > 0 {
            return Err(Failure::refused(format!("{old} has {} prepared transactions", obstacles.prepared)).hint(
                "end them by COMMIT PREPARED or ROLLBACK PREPARED: pgweir locks and pg_prepared_xacts name them",
            ));
        }
        for (count, what) in [(obstacles.slots, "replication slots"), (obstacles.subscriptions, "subscriptions")] {
            if count > 0 {
                job.warn(format!("{old} has {count} {what}, which stay with it under its new name"));
            }
        }
        if self.options.no_pooler { Ok(()) } else { hold::check(job, self.target, server, old).await }
    }

    /// Puts it in place. `locks` are those of both databases, given up when nothing else is left to do. Returns the name that
    /// the old database has now.
    pub(crate) async fn run(&self, job: &Job, locks: Vec<JobLock>) -> Result<String, Failure> {
        let Swap { server, old, new, .. } = self;
        let replaced = free_name(server, old).await?;
        let was: u32 = server.value("select oid from pg_database where datname = $1", &[old]).await?;
        for lock in &locks {
            lock.check().await?;
        }
        let limits = Limits { lock_timeout: self.options.hold_timeout, ..Limits::NONE };
        let renaming = job.connect_to(&server.here(), limits).await?;
        job.change(&renaming, "BEGIN").await?;
        for statement in carry::statements(server, old, new).await? {
            job.change(&renaming, &statement).await?;
        }
        let held = match self.options.no_pooler {
            true => None,
            false => Some(hold::hold(job, self.target, server, old, &[Hold::Pause], self.options.hold_timeout).await?),
        };
        give_up(job, server, locks).await?;
        let databases = [*old, *new];
        sessions::name(job, server, &databases).await?;
        let renamed = async {
            job.change(&renaming, &format!("ALTER DATABASE {} RENAME TO {}", ident(old), ident(&replaced))).await?;
            job.change(&renaming, &format!("ALTER DATABASE {} RENAME TO {}", ident(new), ident(old))).await?;
            job.change(&renaming, "COMMIT").await
        };
        let ended = if job.is_dry_run() {
            sessions::plan(job, server, &databases).await?;
            renamed.await
        } else {
            // The server keeps new sessions out while it waits for the present ones to go.
            let mut refused = Vec::new();
            let result = tokio::select! {
                result = renamed => result,
                result = sessions::end(job, server, &databases, &mut refused) => result.map(|()| false),
            };
            result.map_err(|failure| with_hint(failure, &refused))
        };
        let ended = match ended {
            Ok(_) => Ok(()),
            // The answer to COMMIT may be lost.
            Err(_) if is_called(server, was, &replaced).await => Ok(()),
            Err(failure) => Err(failure.while_at(format!("{new} was not put in place of {old}, which is as it was"))),
        };
        drop(renaming);
        match held {
            Some(held) => ended.and(held.release().await),
            None => ended,
        }?;
        Ok(replaced)
    }
}

/// What the old database is to be called.
async fn free_name(server: &Server, old: &str) -> Result<String, Failure> {
    let stamp = Timestamp::now().strftime("_replaced_%Y%m%d_%H%M%S").to_string();
    let mut name = databases::name_with(old, &stamp);
    let mut number = 1;
    while databases::exists(server, &name).await? {
        number += 1;
        name = databases::name_with(old, &format!("{stamp}_{number}"));
    }
    Ok(name)
}

async fn is_called(server: &Server, oid: u32, name: &str) -> bool {
    let sql = "select exists (select from pg_database where oid = $1 and datname = $2)";
    // Whoever cannot be asked does not say so.
    server.value(sql, &[&oid, &name]).await.unwrap_or(false)
}

fn with_hint(failure: Failure, refused: &[String]) -> Failure {
    match refused {
        [] => failure,
        _ => failure.hint(format!("sessions that may not be ended: {}", refused.join("; "))),
    }
}

/// Our own sessions would be in the way.
async fn give_up(job: &Job, server: &Server, locks: Vec<JobLock>) -> Result<(), Failure> {
    let pids: Vec<i32> = locks.iter().map(JobLock::backend_pid).collect();
    drop(locks);
    let gone = async {
        loop {
            let live: i64 =
                server.value("select count(*) from pg_stat_activity where pid = any ($1)", &[&pids]).await?;
            if live == 0 {
                return Ok::<(), Failure>(());
            }
            job.interrupt.sleep(LOOK_EVERY).await?;
        }
    };
    // Whoever is late is ended with the others.
    tokio::time::timeout(CLOSING_LIMIT, gone).await.unwrap_or(Ok(()))
}

const OBSTACLES: &str = "
    select pg_has_role(d.datdba, 'usage') and (r.rolcreatedb or r.rolsuper) as may_rename,
           (select count(*) from pg_prepared_xacts where database = d.datname) as prepared,
           (select count(*) from pg_replication_slots where database = d.datname) as slots,
           (select count(*) from pg_stat_subscription s where s.subid in
               (select l.objid from pg_shdepend l where l.dbid = d.oid and l.classid = 'pg_subscription'::regclass)) as subscriptions
    from pg_database d, pg_roles r
    where d.datname = $1 and r.rolname = current_user";
