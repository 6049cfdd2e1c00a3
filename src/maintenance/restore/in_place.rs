//! Over an existing database, whose clients are turned away meanwhile.

use std::time::Duration;

use super::{Restore, lock};
use crate::maintenance::backup::reading::check_all;
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::hold::{self, Hold};
use crate::maintenance::job::Job;
use crate::maintenance::options::Limits;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::Span;

const LOOK_EVERY: Duration = Duration::from_millis(500);

row! {
    /// What pg_restore waits for.
    Waiting {
        relation: Option<String>,
        blockers: Vec<String>,
    }
}

impl Restore<'_> {
    pub(super) async fn in_place(&self, server: &Server) -> Done {
        let (job, options, manifest) = (self.job, self.options, self.manifest());
        let database = &server.conninfo.dbname;
        if options.how.jobs > 1 {
            job.warn("with several jobs there is no single transaction: a failure leaves the database half restored");
        }
        if !options.swap.no_pooler {
            hold::check(job, &options.target, server, database).await?;
        }
        let what = format!("restore {} over {database}, whose present content will be gone", manifest.id);
        let hint = "--confirm RESTORE confirms it";
        job.confirm_by_word(&what, "RESTORE", options.how.confirm.as_deref(), hint).await?;
        let _lock = lock(job, server, database).await?;
        // Nothing of the old content goes before the new is known to be right.
        if job.step(&format!("check the SHA-256 of all files of {}", manifest.id))? {
            check_all(job, self.dump.store, manifest).await?;
        }
        if options.what.globals {
            self.globals(server).await?;
        }
        let held = match options.swap.no_pooler {
            true => None,
            false => {
                let hows = [Hold::Disable, Hold::Pause];
                Some(hold::hold(job, &options.target, server, database, &hows, options.swap.hold_timeout).await?)
            }
        };
        let done = self.over(server).await;
        if let Some(held) = held {
            held.release().await?;
        }
        done
    }

    async fn over(&self, server: &Server) -> Done {
        let (job, database) = (self.job, &server.conninfo.dbname);
        let plan =
            format!("{} --clean --if-exists restores {} into {database}", self.dump.program_name(), self.manifest().id);
        if !job.step(&plan)? {
            job.step("ANALYZE, compare the rows of tables, run the smoke query")?;
            return Ok(Exit::Fine);
        }
        let watching = job.connect_to(&server.here(), Limits::NONE).await?;
        let waits = waits_too_long(job, &watching, self.options.lock_timeout);
        let is_whole = self.options.how.jobs <= 1;
        let as_it_was = |failure: Failure| match is_whole {
            true => failure.while_at(format!("{database} is as it was")),
            false => failure.while_at(format!("{database} is half restored")),
        };
        self.load(server, true, waits).await.map_err(as_it_was)?;
        let row = self.checked(server).await?;
        job.out.one(&row)?;
        Ok(Exit::Fine)
    }
}

/// Ends when the program waits for a lock for longer than `limit`: a dump begins with a lock_timeout of its own, which is none.
async fn waits_too_long(job: &Job, server: &Server, limit: Span) -> Failure {
    if limit.0.is_zero() {
        return std::future::pending().await;
    }
    let name = job.application_name();
    loop {
        let waiting: Result<Vec<Waiting>, Failure> = server.rows(WAITING, &[&name, &limit.secs()]).await;
        match waiting {
            Err(failure) => return failure,
            Ok(waiting) => {
                if let Some(Waiting { relation, blockers }) = waiting.first() {
                    let relation = relation.as_deref().unwrap_or("something");
                    let who = blockers.join(", ");
                    return Failure::failed(format!("waited longer than {limit} for a lock on {relation}")).hint(
                        format!("in the way: process {who}; pgweir locks shows more, --lock-timeout waits longer"),
                    );
                }
            }
        }
        if let Err(failure) = job.interrupt.sleep(LOOK_EVERY).await {
            return failure;
        }
    }
}

const WAITING: &str = "
    select case when l.locktype = 'relation' then l.relation::regclass::text else l.locktype end as relation,
           array(select p::text from unnest(pg_blocking_pids(l.pid)) p) as blockers
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where not l.granted and a.application_name = $1 and a.datname = current_database()
      and l.waitstart < clock_timestamp() - make_interval(secs => $2::float8)";
