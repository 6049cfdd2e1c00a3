//! RELOAD and SET.

use std::sync::Arc;

use pgweir_config::{Config, SetError};
use pgweir_proto::admin_error::AdminError;
use tokio::sync::oneshot;

use super::notice;
use super::reply::Reply;
use super::session::{Answer, Session};
use super::show::parameters;
use crate::control::{Command, Configured, ReloadFailed};
use crate::log::log_at;

/// PgBouncer's words.
const TLS_KEPT: &str = "TLS settings could not be applied, still using old configuration";

/// RELOAD: reads the configuration again; if that fails, nothing changes.
pub(super) async fn reload(session: &Session) -> Answer {
    session.require_admin()?;
    log_at!(Log, "RELOAD command issued");
    let _turn = session.console.settings_turn.lock().await;
    let (answer, answered) = oneshot::channel();
    // Nobody takes commands any more only when the process is ending: no answer then.
    let _ = session.console.commands.send(Command::Reload(answer));
    match answered.await {
        Ok(Ok(changes)) => {
            let mut reply = Reply::done("RELOAD");
            changes.iter().for_each(|change| notice(&mut reply.notices, change, None));
            Ok(reply)
        }
        // What is wrong was logged.
        Ok(Err(ReloadFailed)) | Err(_) => Err(AdminError::ReloadFailed.into()),
    }
}

/// SET: changes one setting until the next RELOAD.
pub(super) async fn set(session: &Session, key: &str, value: &str) -> Answer {
    if parameters::is_session_parameter(key) {
        let mut reply = Reply::done("SET");
        notice(&mut reply.notices, "SET ignored", None);
        return Ok(reply);
    }
    session.require_admin()?;
    let _turn = session.console.settings_turn.lock().await;
    let config = changed(&session.console.pools.config(), key, value).map_err(|e| {
        log_at!(Warning, "SET failed: {e}");
        AdminError::SetFailed
    })?;
    let (answer, answered) = oneshot::channel();
    let _ = session.console.commands.send(Command::Configure(Arc::new(config), key.to_owned(), answer));
    let mut reply = Reply::done(format!("SET {key}={value}"));
    if answered.await.map_err(|_| AdminError::SetFailed)? == Configured::TlsKept {
        notice(&mut reply.notices, TLS_KEPT, None);
    }
    Ok(reply)
}

fn changed(config: &Config, key: &str, value: &str) -> Result<Config, SetError> {
    let mut config = config.clone();
    config.set(key, value)?;
    Ok(config)
}
