//! One process runs a slot, of all that have the job: by two advisory locks on the server of the job's database.
//!
//! One lock is of the slot. It is kept by a session for as long as anybody else could still believe that the slot is free: until
//! it may not be begun any more, and a margin for clocks that differ. So nothing has to be written into anybody's database, and a
//! process that dies gives up its claim with its session. The other lock is of the job, and kept while it runs, so that a run
//! that takes longer than to the next slot is not overtaken by another machine.

use std::time::Duration;

use jiff::Timestamp;
use pgweir_config::MaintenanceJob;
use ring::digest::{SHA256, digest};

use crate::maintenance::conninfo::Conninfo;
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::options::Limits;
use crate::maintenance::server::Server;
use crate::maintenance::units::Span;
use crate::schedule::Slot;
use crate::schedule::status::command_text;

/// The first keys of these advisory locks ("pgws", "pgwt"); the second is made of what is locked.
const SLOT_CLASS: i32 = 0x7067_7773;
const RUN_CLASS: i32 = 0x7067_7774;

/// Between two attempts to reach the server.
const RETRY: Duration = Duration::from_secs(2);

/// What became of the wish to run.
pub(super) enum Claimed {
    /// Both locks are ours for as long as this lives.
    Ours(Claim),
    /// Somebody else has the slot.
    Elsewhere,
    /// The slot is ours, but somebody still runs the one before.
    StillRunning(Claim),
}

pub(super) struct Claim {
    server: Server,
    run_key: i32,
}

impl Claim {
    /// `slot` is None for a run by hand.
    pub(super) async fn take(
        job: &Job,
        conninfo: &Conninfo,
        entry: &MaintenanceJob,
        slot: Option<&Slot>,
    ) -> Result<Claimed, Failure> {
        let server = connect(job, conninfo, slot).await?;
        let what = format!("{} {}", entry.name, command_text(entry));
        if let Some(slot) = slot
            && !try_lock(&server, SLOT_CLASS, key(&format!("{what} {}", slot.at.as_second()))).await?
        {
            return Ok(Claimed::Elsewhere);
        }
        let run_key = key(&what);
        let is_free = try_lock(&server, RUN_CLASS, run_key).await?;
        let claim = Claim { server, run_key };
        Ok(if is_free { Claimed::Ours(claim) } else { Claimed::StillRunning(claim) })
    }

    /// Others may run the job's next slot. Fails if the session has been lost, and with it the claim, nobody knows when.
    pub(super) async fn ran(&self) -> Result<(), Failure> {
        let keys = (RUN_CLASS, self.run_key);
        self.server.value::<bool>("select pg_advisory_unlock($1, $2)", &[&keys.0, &keys.1]).await.map(|_| ())
    }
}

/// A server that does not answer is asked again for as long as the slot may be begun.
async fn connect(job: &Job, conninfo: &Conninfo, slot: Option<&Slot>) -> Result<Server, Failure> {
    let unlimited = Span(Duration::ZERO);
    let limits = Limits { lock_timeout: unlimited, statement_timeout: unlimited };
    loop {
        let server = match job.connect_to(conninfo, limits).await {
            Ok(server) => server,
            Err(failure) => {
                let may_begin = slot.is_some_and(|slot| Timestamp::now() < slot.last_start);
                if !may_begin {
                    return Err(failure);
                }
                job.interrupt.sleep(RETRY).await?;
                continue;
            }
        };
        server.batch("SET idle_session_timeout = 0").await?;
        return Ok(server);
    }
}

async fn try_lock(server: &Server, class: i32, key: i32) -> Result<bool, Failure> {
    server.value("select pg_try_advisory_lock($1, $2)", &[&class, &key]).await
}

fn key(what: &str) -> i32 {
    let hash = digest(&SHA256, what.as_bytes());
    hash.as_ref().iter().take(4).fold(0, |key, byte| key << 8 | i32::from(*byte))
}
