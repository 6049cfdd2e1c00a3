//! The end of a login: what the server itself would say to a new client.

use std::sync::Arc;

use pgweir_config::Config;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::error_response::{ErrorResponse, Severity};
use pgweir_proto::sqlstate::SqlState;
use pgweir_proto::{auth as auth_message, backend, console};

use super::end::{End, parameters_error};
use super::login::Refused;
use super::session::Session;
use crate::pools::Got;
use crate::server::connect::Welcome;
use crate::server::parameters::Parameters;

/// Tells the client that it is in, as the server itself would, after what is `unsent` of its login.
pub(super) async fn welcome(session: &mut Session, config: &Config, unsent: Vec<u8>) -> Result<(), Refused> {
    session.enter_task().await;
    let mut notices = Vec::new();
    let pool = Arc::clone(&session.member.pool);
    let (spelled, is_known) = pool.spell(&session.parameters);
    if is_known {
        session.parameters = spelled;
    }
    if !is_known {
        ask_idle_server(session, &mut notices).await?;
    }
    let welcome = loop {
        match pool.welcome() {
            Some(welcome) => break welcome,
            None => ask_server(session, &mut notices).await?,
        }
    };
    session.asked = session.parameters.clone();
    greet(session, config, &welcome, unsent, notices)
}

/// What a server of its own would tell the client, behind what is in `out`.
pub(super) fn greet(
    session: &mut Session,
    config: &Config,
    welcome: &Welcome,
    mut out: Vec<u8>,
    mut notices: Vec<u8>,
) -> Result<(), Refused> {
    session.parameters = session.parameters.or(&Parameters::of_reports(&welcome.parameters, &session.pools.tracked));
    out.reserve(512);
    auth_message::authentication_ok(&mut out);
    out.append(&mut notices);
    let tracked = &session.pools.tracked;
    for (name, value) in &welcome.parameters {
        let own = tracked.position(name).and_then(|position| session.parameters.get(position));
        console::parameter_status(&mut out, name, own.map_or(value.as_str(), |own| own));
    }
    let info = &session.cell.info;
    info.set_values(session.parameters.shared());
    info.cancel_key.backend_key_data(&mut out);
    if let Some(message) = config.settings.login_notify_message.as_deref().filter(|m| !m.is_empty()) {
        ErrorResponse::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message).notice(&mut out);
    }
    console::ready_for_query(&mut out, backend::TransactionStatus::Idle);
    info.set_request_us(crate::net::clock::now_us());
    session.member.pool.stats(session.worker.id).client_logins.add(1);
    session.worker.outbox.push(&session.cell.to_client, &out);
    session.cell.to_client.failure().map_or(Ok(()), |e| Err(Refused::Gone(e.to_string())))
}

/// Gets a server, to learn what it says at login.
async fn ask_server(session: &mut Session, notices: &mut Vec<u8>) -> Result<(), Refused> {
    let pool = Arc::clone(&session.member.pool);
    if let Some(error) = pool.cached_refusal() {
        return Err(error.into());
    }
    let served = match pool.checkout(session.worker.id, session.worker.now_us()) {
        Got::Server(server) => {
            session.link(server);
            Ok(())
        }
        Got::Wait(key) => session.wait(key).await,
    };
    learn(session, served, notices).await
}

/// Learns what servers make of the parameters, if a server is free. If not, the client is told
/// its own spelling: that is no reason to make it wait.
async fn ask_idle_server(session: &mut Session, notices: &mut Vec<u8>) -> Result<(), Refused> {
    let pool = Arc::clone(&session.member.pool);
    if pool.counts().idle == 0 {
        return Ok(());
    }
    match pool.checkout(session.worker.id, session.worker.now_us()) {
        Got::Server(server) => {
            session.link(server);
            learn(session, Ok(()), notices).await
        }
        Got::Wait(key) => {
            pool.abandon(key);
            Ok(())
        }
    }
}

/// Sets the client's parameters on the server that it is linked to, notes what the server made
/// of them, and gives it back.
async fn learn(session: &mut Session, served: Result<(), End>, notices: &mut Vec<u8>) -> Result<(), Refused> {
    if let Some(server) = &mut session.server {
        notices.append(&mut server.notices);
    }
    let asked = session.parameters.clone();
    let applied = match served {
        Ok(()) => session.apply_parameters().await,
        Err(end) => Err(end),
    };
    match applied {
        Ok(()) => {
            session.member.pool.learn_spelling(&asked, &session.parameters);
            session.release();
            Ok(())
        }
        Err(end) => Err(refused(end)),
    }
}

/// The end of a session that was not welcomed yet.
pub(super) fn refused(end: End) -> Refused {
    match end {
        End::ClientEof | End::ClientFailed(_) => Refused::Gone("client unexpected eof".into()),
        End::Killed(kill) => kill.error.into(),
        End::Error(error) => error.into(),
        End::ParametersFailed(error) => parameters_error(&error).into(),
        _ => ClientError::ServerCrashed.into(),
    }
}
