//! PAUSE and RESUME.

use std::sync::Arc;
use std::time::Duration;

use pgweir_config::CONSOLE_DATABASE;
use pgweir_proto::admin_error::AdminError;

use super::databases::{known, log_issued, named};
use super::reply::Reply;
use super::session::{Answer, Session, Stop};
use crate::net::clock;
use crate::pools::Pools;
use crate::pools::entries::Database;

/// How often a PAUSE looks whether the last server is out of use.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// PAUSE: no more servers are handed out; answered when none is in use any more. If the client
/// goes away before, the pause stays.
pub(super) async fn pause(session: &mut Session, name: &str) -> Answer {
    session.require_admin()?;
    let pools = Arc::clone(&session.console.pools);
    if pools.is_paused() {
        return Err(AdminError::AlreadyPaused.into());
    }
    log_issued("PAUSE", name);
    let database = if name.is_empty() { None } else { Some(named(&pools, "pause", name)?) };
    pools.pause(database.as_deref());
    let now_us = clock::now_us();
    session.info.begin_wait(now_us);
    session.info.set_query_us(now_us);
    let waited = until_unused(session, &pools, database.as_deref()).await;
    session.info.set_query_us(0);
    session.info.end_wait();
    waited?;
    Ok(Reply::done("PAUSE"))
}

async fn until_unused(session: &mut Session, pools: &Pools, database: Option<&Database>) -> Result<(), Stop> {
    loop {
        // Somebody else's RESUME.
        if !database.map_or(pools.is_paused(), Database::is_paused) {
            return Err(not_paused(database.map(|database| &*database.name)).into());
        }
        if pools.in_use(database) == 0 {
            return Ok(());
        }
        if session.info.is_query_canceled() && pools.shutdown().is_none() {
            pools.resume(database);
            return Err(Stop::Canceled);
        }
        session.wait(LOOK_EVERY).await?;
    }
}

fn not_paused(name: Option<&str>) -> AdminError {
    name.map_or(AdminError::NothingPaused, |name| AdminError::NotPaused(name.to_owned()))
}

/// RESUME after PAUSE.
pub(super) fn resume(session: &Session, name: &str) -> Answer {
    session.require_admin()?;
    log_issued("RESUME", name);
    let pools = &session.console.pools;
    if name.is_empty() {
        if pools.shutdown().is_some() {
            return Err(AdminError::ShuttingDown.into());
        }
        if !pools.resume(None) {
            return Err(not_paused(None).into());
        }
    } else {
        let is_paused = name != CONSOLE_DATABASE && pools.resume(Some(&*known(pools, name)?));
        if !is_paused {
            return Err(not_paused(Some(name)).into());
        }
    }
    Ok(Reply::done("RESUME"))
}
