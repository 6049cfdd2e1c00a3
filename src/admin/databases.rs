//! Commands about databases: RECONNECT, WAIT_CLOSE, DISABLE, ENABLE, and how a command names one.

use std::sync::Arc;

use pgweir_config::CONSOLE_DATABASE;
use pgweir_proto::admin_error::AdminError;

use super::reply::Reply;
use super::session::{Answer, Session};
use crate::log::log_at;
use crate::pools::Pools;
use crate::pools::entries::Database;
use crate::takeover::record::Ask;

/// The database that a command is about; the `*` entry may make it.
pub(super) fn named(pools: &Pools, verb: &'static str, name: &str) -> Result<Arc<Database>, AdminError> {
    if name == CONSOLE_DATABASE {
        return Err(AdminError::ConsoleDatabase { verb, name: name.to_owned() });
    }
    pools.database(name).ok_or_else(|| AdminError::NoSuchDatabase(name.to_owned()))
}

/// The database of that name, if it is configured or in use.
pub(super) fn known(pools: &Pools, name: &str) -> Result<Arc<Database>, AdminError> {
    let found = pools.databases().into_iter().find(|database| &*database.name == name);
    found.ok_or_else(|| AdminError::NoSuchDatabase(name.to_owned()))
}

/// As PgBouncer words it, so that what watches the log finds it.
pub(super) fn log_issued(verb: &str, name: &str) {
    if name.is_empty() {
        log_at!(Log, "{verb} command issued");
    } else {
        log_at!(Log, "{verb} '{name}' command issued");
    }
}

/// RECONNECT: servers are replaced as soon as they are free.
pub(super) async fn reconnect(session: &Session, name: &str) -> Answer {
    session.require_admin()?;
    log_issued("RECONNECT", name);
    let pools = &session.console.pools;
    let database = if name.is_empty() { None } else { Some(named(pools, "reconnect", name)?) };
    pools.reconnect(database.as_deref());
    pools.elder.ask(Ask::Reconnect { database: database.map(|database| Arc::clone(&database.name)) }).await;
    Ok(Reply::done("RECONNECT"))
}

/// WAIT_CLOSE: answered when no server is left that RECONNECT or RELOAD has made obsolete.
pub(super) async fn wait_close(session: &mut Session, name: &str) -> Answer {
    session.require_admin()?;
    log_issued("WAIT_CLOSE", name);
    let pools = Arc::clone(&session.console.pools);
    let database = if name.is_empty() { None } else { Some(named(&pools, "wait in", name)?) };
    let is_meant = |found: &str| database.as_ref().is_none_or(|database| *database.name == *found);
    let registry = &pools.registry;
    let waited = session.wait_until(|| {
        let is_left = registry.servers().iter().any(|server| server.is_close_needed() && is_meant(&server.database))
            || registry.dials().iter().any(|dial| dial.is_close_needed() && is_meant(&dial.database));
        Ok(!is_left)
    });
    waited.await?;
    Ok(Reply::done("WAIT_CLOSE"))
}

/// DISABLE: no new clients.
pub(super) fn disable(session: &Session, name: &str) -> Answer {
    session.require_admin()?;
    if name.is_empty() {
        return Err(AdminError::DatabaseNeeded.into());
    }
    log_issued("DISABLE", name);
    named(&session.console.pools, "disable", name)?.set_disabled(true);
    Ok(Reply::done("DISABLE"))
}

/// ENABLE after DISABLE.
pub(super) fn enable(session: &Session, name: &str) -> Answer {
    session.require_admin()?;
    if name.is_empty() {
        return Err(AdminError::DatabaseNeeded.into());
    }
    log_issued("ENABLE", name);
    if name == CONSOLE_DATABASE {
        return Err(AdminError::ConsoleDatabase { verb: "enable", name: name.to_owned() }.into());
    }
    known(&session.console.pools, name)?.set_disabled(false);
    Ok(Reply::done("ENABLE"))
}
