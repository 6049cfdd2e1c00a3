//! The end of a session: what becomes of its server, what the client is told, what is logged.

use std::io;

use pgweir_proto::client_error::ClientError;

use super::session::Session;
use super::sqlstates;
use crate::log::{self, Level, Subject, Topic};
use crate::net::clock;
use crate::pool::ServerState;
use crate::registry::ClientInfo;
use crate::relay::{ReplyFault, RequestFault};
use crate::server::cancel;
use crate::server::query::QueryError;
use crate::worker::Kill;

/// Why a session is over.
#[derive(Debug)]
pub(super) enum End {
    /// Terminate.
    ClientClosed,
    ClientEof,
    ClientFailed(io::Error),
    RequestFault(RequestFault),
    /// The client cannot be served on.
    Error(ClientError),
    /// The janitor or the console has decided so.
    Killed(Kill),
    ServerEof,
    ServerFailed(io::Error),
    ReplyFault(ReplyFault),
    /// A cancel request came before the server had got the query.
    WaitCanceled,
    /// Another process goes on with it.
    Leaving,
    /// The server did not take the client's parameters.
    ParametersFailed(QueryError),
}

impl End {
    /// What the client is told; `None`: nothing.
    fn client_error(&self, was_told: bool) -> Option<ClientError> {
        match self {
            End::ClientClosed | End::ClientEof | End::ClientFailed(_) | End::WaitCanceled | End::Leaving => None,
            End::RequestFault(RequestFault::BadHeader(header)) => {
                Some(ClientError::BadPacketHeader(header.to_string()))
            }
            End::RequestFault(RequestFault::UnknownMessage(_)) => Some(ClientError::UnknownPacket),
            End::RequestFault(RequestFault::PqexecDisallowed) => Some(ClientError::PqexecDisallowed),
            End::RequestFault(RequestFault::Broken(name)) => Some(ClientError::BrokenPacket(name)),
            End::RequestFault(RequestFault::StatementNameTooLong) => Some(ClientError::StatementNameTooLong),
            End::RequestFault(RequestFault::StatementsTooLarge) => Some(ClientError::StatementsTooLarge),
            End::Error(error) => Some(error.clone()),
            End::Killed(Kill { error, tell }) => tell.then(|| error.clone()),
            // Its own FATAL was passed on.
            End::ServerEof | End::ServerFailed(_) if was_told => None,
            End::ReplyFault(ReplyFault::OutOfStep) => Some(ClientError::OutOfStep),
            End::ServerEof | End::ServerFailed(_) | End::ReplyFault(_) => Some(ClientError::ServerCrashed),
            End::ParametersFailed(error) => Some(parameters_error(error)),
        }
    }

    /// The reason in the log line of the client.
    fn reason(&self, error: Option<&ClientError>) -> String {
        match (self, error) {
            (End::ClientClosed, _) => "client close request".to_owned(),
            (End::ClientEof, _) => "client unexpected eof".to_owned(),
            (End::ClientFailed(e), _) => format!("client connection failed: {e}"),
            (End::Killed(kill), _) => kill.error.message().into_owned(),
            (_, Some(error)) => error.message().into_owned(),
            (_, None) => "server conn crashed?".to_owned(),
        }
    }

    /// What is logged of a request besides, with an odd tag or kind.
    fn detail(&self) -> Option<String> {
        match self {
            End::RequestFault(RequestFault::UnknownMessage(tag)) => {
                Some(format!("unknown pkt from client: {tag}/{tag:#x}"))
            }
            End::RequestFault(RequestFault::PqexecDisallowed) => Some("client used \"Query\" packet type".to_owned()),
            _ => None,
        }
    }

    /// Why the server has to be closed, if it is not only because of its client.
    fn server_reason(&self) -> Option<String> {
        use ClientError as E;
        match self {
            End::ServerEof => Some("server conn crashed?".to_owned()),
            End::ServerFailed(e) => Some(format!("server conn crashed? ({e})")),
            End::ReplyFault(fault) => Some(format!("bad packet from server: {fault:?}")),
            End::ParametersFailed(error) => Some(format!("invalid server parameter: {error}")),
            End::Killed(Kill {
                error: error @ (E::QueryTimeout | E::IdleTransactionTimeout | E::TransactionTimeout),
                ..
            })
            | End::Error(error @ E::TransactionBlockNotAllowed) => Some(error.message().into_owned()),
            _ => None,
        }
    }

    /// The client went, or was sent away, without waiting for its answer: what runs on in the
    /// server would keep its locks for nobody.
    fn leaves_query_running(&self) -> bool {
        matches!(self, End::ClientEof | End::ClientFailed(_) | End::Killed(_) | End::RequestFault(_))
    }
}

/// The server's own words about parameters that it does not take.
pub(super) fn parameters_error(error: &QueryError) -> ClientError {
    match error {
        QueryError::Server(said) | QueryError::Ended(said) => {
            ClientError::Server { message: said.message.clone(), sqlstate: said.sqlstate }
        }
        _ => ClientError::ServerCrashed,
    }
}

impl Session {
    /// Settles what `end` leaves behind.
    pub(super) async fn finish(&mut self, end: End) {
        if matches!(end, End::Leaving) {
            return self.forget();
        }
        let error = end.client_error(self.was_told);
        // Whose end it is first is said first.
        match end.server_reason() {
            None => {
                self.log_end(&end, error.as_ref());
                self.part_from_server(&end, "client disconnect while server was not ready");
            }
            Some(reason) => {
                self.part_from_server(&end, &reason);
                self.log_end(&end, error.as_ref());
            }
        }
        if let Some(error) = &error.filter(|_| !self.is_cut) {
            if log::is_wanted(Topic::PoolerErrors) {
                self.log(Level::Warning, format_args!("pooler error: {}", error.message()));
            }
            // Before the client knows: whoever it tells should find the line.
            log::written().await;
            let mut message = Vec::new();
            error.encode(sqlstates(&self.pools.config().settings), &mut message);
            self.worker.outbox.push(&self.cell.to_client, &message);
        }
        self.stream.discard_unread();
        // The socket is closed after this: what is not out now never will be.
        self.worker.outbox.flush();
        if !self.cell.to_client.is_blocked() {
            self.stream.try_end(&[]);
        }
    }

    fn log_end(&self, end: &End, error: Option<&ClientError>) {
        if let Some(detail) = end.detail() {
            self.log(Level::Error, format_args!("{detail}"));
        }
        if log::is_wanted(Topic::Disconnections) {
            let age_s = clock::now_us().saturating_sub(self.cell.info.connect_us) / 1_000_000;
            self.log(Level::Log, format_args!("closing because: {} (age={age_s}s)", end.reason(error)));
        }
    }

    fn part_from_server(&mut self, end: &End, reason: &str) {
        let is_server_fit = match end {
            End::ServerEof | End::ServerFailed(_) | End::ReplyFault(_) => false,
            End::ParametersFailed(error) => matches!(error, QueryError::Server(_)),
            _ => true,
        };
        if is_server_fit && self.is_clean() {
            return self.release();
        }
        let Some(mut server) = self.server.take() else { return };
        // These two know better: what was scanned then was not forwarded, or not to its end.
        if !matches!(end, End::Error(_) | End::ReplyFault(_)) {
            self.is_cut = !server.replies.at_boundary();
        }
        // What the client sent before it said goodbye is carried out, as without a pooler.
        self.worker.outbox.flush();
        server.is_midway = !self.requests.at_boundary() || self.cell.to_server.is_blocked();
        self.cell.to_server.close();
        self.cell.info.set_link(0);
        if end.leaves_query_running() && !server.outstanding.is_answered() {
            let info = std::sync::Arc::clone(&server.info);
            let (config, tls) = (self.pools.config(), self.pools.tls());
            self.pools.control.spawn(async move {
                // Best effort: without it the query only runs until it finds its client gone.
                if let Ok(stream) = cancel::connect(&info, &tls.dialer, &config.settings).await {
                    let _ = cancel::send(stream, &info.cancel_key).await;
                }
            });
        }
        self.member.pool.close(ServerState::Active, server, reason);
    }

    pub(super) fn log(&self, level: Level, text: std::fmt::Arguments<'_>) {
        let ClientInfo { id, database, user, ends, .. } = &*self.cell.info;
        log::write_about(Subject::client(*id, database, user, ends), level, text);
    }
}
