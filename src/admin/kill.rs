//! KILL and KILL_CLIENT.

use std::time::Duration;

use pgweir_proto::admin_error::AdminError;
use tokio::sync::oneshot;

use super::databases::{log_issued, named};
use super::reply::Reply;
use super::session::{Answer, LOOK_EVERY, Session};
use super::show::sockets::int4;
use crate::control::{Command, Doomed};
use crate::takeover::record::Ask;

/// A session that was told ends at once, unless its client cannot be reached.
const END_MAX: Duration = Duration::from_secs(1);

/// KILL: drops clients and servers; new clients wait for RESUME.
pub(super) async fn kill(session: &mut Session, name: &str) -> Answer {
    session.require_admin()?;
    let pools = &session.console.pools;
    if pools.is_paused() || pools.is_suspended() {
        return Err(AdminError::AlreadyPaused.into());
    }
    log_issued("KILL", name);
    let doomed = if name.is_empty() {
        pools.kill(None);
        Doomed::All
    } else {
        let database = named(pools, "kill", name)?;
        pools.kill(Some(&database));
        Doomed::OfDatabase(database.name.clone())
    };
    // First those that may be about to come here.
    let of_elder = (!name.is_empty()).then(|| name.into());
    pools.elder.ask(Ask::Kill { database: of_elder }).await;
    end(session, doomed).await;
    Ok(Reply::done("KILL"))
}

/// KILL_CLIENT: drops one client, by the `id` that SHOW CLIENTS gives it.
pub(super) async fn kill_client(session: &mut Session, argument: &str) -> Answer {
    session.require_admin()?;
    let digits = argument.find(|c: char| !c.is_ascii_digit()).unwrap_or(argument.len());
    let id: u64 = argument[..digits].parse().map_err(|_| AdminError::InvalidClientPointer)?;
    let is_meant = |own: u64| own == id || int4(own) == id;
    let registry = &session.console.pools.registry;
    if let Some(cancel) = registry.cancels().iter().find(|cancel| is_meant(cancel.id)) {
        cancel.killed.notify_one();
        return Ok(Reply::done("KILL_CLIENT"));
    }
    let client = registry.clients().into_iter().find(|client| is_meant(client.id));
    let id = client.ok_or(AdminError::ClientNotFound)?.id;
    if !session.console.kill_session(id) {
        end(session, Doomed::Client(id)).await;
    }
    Ok(Reply::done("KILL_CLIENT"))
}

/// Tells the clients, and waits until they are gone.
async fn end(session: &Session, doomed: Doomed) {
    let (answer, answered) = oneshot::channel();
    let _ = session.console.commands.send(Command::Kill(doomed, answer));
    let Ok(ids) = answered.await else { return };
    let registry = &session.console.pools.registry;
    let gone = async {
        while registry.clients().iter().any(|client| ids.contains(&client.id)) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let _ = tokio::time::timeout(END_MAX, gone).await;
}
