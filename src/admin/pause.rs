//! PAUSE, SUSPEND, and RESUME after them.

use std::sync::Arc;
use std::time::Instant;

use pgweir_config::CONSOLE_DATABASE;
use pgweir_proto::admin_error::AdminError;
use tokio::sync::oneshot;

use super::databases::{known, log_issued, named};
use super::reply::Reply;
use super::session::{Answer, LOOK_EVERY, Session, Stop};
use crate::control::Command;
use crate::pools::entries::Database;
use crate::takeover::record::Ask;

/// PAUSE: no more servers are handed out; answered when none is in use any more. If the client
/// goes away before, the pause stays.
pub(super) async fn pause(session: &mut Session, name: &str) -> Answer {
    session.require_admin()?;
    let pools = Arc::clone(&session.console.pools);
    if pools.is_paused() || pools.is_suspended() {
        return Err(AdminError::AlreadyPaused.into());
    }
    log_issued("PAUSE", name);
    let database = if name.is_empty() { None } else { Some(named(&pools, "pause", name)?) };
    pools.pause(database.as_deref());
    let name = database.as_ref().map(|database| Arc::clone(&database.name));
    let elder = {
        let (pools, database) = (Arc::clone(&pools), name.clone());
        tokio::spawn(async move { pools.elder.ask(Ask::Pause { database }).await })
    };
    let database = database.as_deref();
    let waited = session.wait_until(|| {
        // Somebody else's RESUME.
        if !database.map_or(pools.is_paused(), Database::is_paused) {
            return Err(not_paused(database.map(|database| &*database.name)));
        }
        // In this order: what comes from the process before was in use there until it is here.
        Ok(elder.is_finished() && pools.in_use(database) == 0)
    });
    match waited.await {
        Ok(()) => Ok(Reply::done("PAUSE")),
        Err(Stop::Canceled) if pools.shutdown().is_none() => {
            pools.resume(database);
            pools.elder.ask(Ask::Resume { database: name }).await;
            Err(Stop::Canceled)
        }
        Err(stop) => Err(stop),
    }
}

/// SUSPEND: nobody is let in, and sessions come to rest where nothing is under way; answered when
/// all have, or when those that had not by `suspend_timeout` were ended.
pub(super) async fn suspend(session: &mut Session) -> Answer {
    session.require_admin()?;
    let pools = Arc::clone(&session.console.pools);
    if pools.is_paused() || pools.is_suspended() {
        return Err(AdminError::AlreadyPaused.into());
    }
    if pools.databases().iter().any(|database| database.is_paused()) {
        return Err(AdminError::SuspendWithPausedDatabases.into());
    }
    if pools.shutdown().is_some() {
        return Err(AdminError::ShuttingDown.into());
    }
    log_issued("SUSPEND", "");
    pools.set_suspended(true);
    let began = Instant::now();
    loop {
        let limit = pools.config().settings.suspend_timeout;
        let is_late = !limit.is_zero() && began.elapsed() >= limit;
        let (answer, answered) = oneshot::channel();
        let _ = session.console.commands.send(Command::Rest(is_late, answer));
        // No answer: somebody else's RESUME, or the end of the process.
        let awake = answered.await.map_err(|_| AdminError::NothingPaused)?;
        if is_late || awake + pools.registry.newcomers_count() == 0 {
            return Ok(Reply::done("SUSPEND"));
        }
        session.wait(LOOK_EVERY).await?;
    }
}

fn not_paused(name: Option<&str>) -> AdminError {
    name.map_or(AdminError::NothingPaused, |name| AdminError::NotPaused(name.to_owned()))
}

/// RESUME after PAUSE, KILL or SUSPEND.
pub(super) async fn resume(session: &Session, name: &str) -> Answer {
    session.require_admin()?;
    log_issued("RESUME", name);
    let pools = &session.console.pools;
    let mut of_elder = None;
    if name.is_empty() {
        if pools.shutdown().is_some() {
            return Err(AdminError::ShuttingDown.into());
        }
        if pools.set_suspended(false) {
            let _ = session.console.commands.send(Command::GoOn);
        } else if !pools.resume(None) && !pools.resume_killed() {
            return Err(not_paused(None).into());
        }
    } else {
        let is_paused = name != CONSOLE_DATABASE && pools.resume(Some(&*known(pools, name)?));
        if !is_paused {
            return Err(not_paused(Some(name)).into());
        }
        of_elder = Some(name.into());
    }
    pools.elder.ask(Ask::Resume { database: of_elder }).await;
    Ok(Reply::done("RESUME"))
}
