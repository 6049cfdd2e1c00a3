//! Databases for a moment: made to see whether a backup can be restored, and dropped however that ends. One that a killed
//! process left behind is dropped by the next that makes one.

use std::time::{SystemTime, UNIX_EPOCH};

use super::databases::{self, Facts};
use super::exit::Failure;
use super::interrupt::Undo;
use super::job::Job;
use super::rows::row;
use super::server::Server;
use super::sql::{ident, literal};

/// What their names begin with.
const PREFIX: &str = "pgweir_scratch_";

/// The first key of the advisory lock that says that somebody is at work in one ("pgws"); the second is the hash of its name.
const CLASS: i32 = 0x7067_7773;

/// A database that is dropped at the end. The session that `make` was given holds its lock: it must live as long.
pub(crate) struct Scratch {
    pub(crate) name: String,
    undo: Option<Undo>,
}

row! {
    Leftover {
        name: String,
    }
}

impl Scratch {
    /// Drops what was left behind, and makes a new one. `about` is what it is for: the id of a backup.
    pub(crate) async fn make(
        job: &Job,
        server: &Server,
        about: &str,
        facts: Option<&Facts>,
    ) -> Result<Scratch, Failure> {
        remove_leftovers(job, server).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let name = databases::name_with(&format!("{PREFIX}{about}"), &format!("_{}_{now}", std::process::id()));
        // Before there is anything to be taken for a leftover.
        server.query("select pg_advisory_lock($1, hashtext($2))", &[&CLASS, &name]).await?;
        let undo = databases::create(job, server, &name, facts, None).await?;
        let comment = format!("pgweir: scratch database to verify {about}, dropped when it is done");
        job.change(server, &format!("COMMENT ON DATABASE {} IS {}", ident(&name), literal(&comment))).await?;
        Ok(Scratch { name, undo })
    }

    pub(crate) async fn remove(self) -> Result<(), Failure> {
        match self.undo {
            Some(undo) => undo.now().await,
            None => Ok(()),
        }
    }
}

/// One that cannot be dropped is told and left.
async fn remove_leftovers(job: &Job, server: &Server) -> Result<(), Failure> {
    let leftovers: Vec<Leftover> = server.rows(LEFTOVERS, &[&PREFIX, &CLASS]).await?;
    for Leftover { name } in leftovers {
        match job.change(server, &databases::drop_sql(&name)).await {
            Ok(_) => job.say(format!("dropped {name}, which a process that was killed has left behind")),
            Err(failure) if failure.sqlstate.is_some() => {
                job.warn(format!("{name} was left behind by a process that was killed: {failure}"));
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// Names as we make them, whose lock nobody holds, in whichever database.
const LEFTOVERS: &str = "
    select datname::text as name from pg_database
    where starts_with(datname, $1) and datname ~ '_[0-9]+_[0-9]+$' and pg_has_role(datdba, 'usage')
      and not exists (select from pg_locks where locktype = 'advisory' and classid = $2::int4::oid
                      and objid = hashtext(datname)::oid and objsubid = 2 and granted)
    order by 1";
