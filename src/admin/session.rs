//! One client of the console, from its welcome to its end.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgweir_config::CONSOLE_DATABASE;
use pgweir_proto::admin_error::AdminError;
use pgweir_proto::backend::TransactionStatus;
use pgweir_proto::error_response::{ErrorResponse, Severity};
use pgweir_proto::sqlstate::SqlState;
use pgweir_proto::startup::ProtocolVersion;
use pgweir_proto::{auth as auth_message, console as message};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::extended::{Prepared, Refusal};
use super::inbox::{Fault, Inbox, Request};
use super::parse::Command;
use super::reply::Reply;
use super::{Console, notice};
use crate::auth;
use crate::client::{ClientSlot, ConsoleAccess, ConsoleClient, sqlstates};
use crate::log::{self, Level, Subject};
use crate::net::clock;
use crate::net::stream::Stream;
use crate::pool::Permit;
use crate::registry::{APPLICATION_NAME, ClientInfo, Values};

/// What a PgBouncer of the version that we take the place of tells a client of its console.
const WELCOME: [(&str, &str); 7] = [
    ("server_version", "1.25.2/bouncer"),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
];

/// Why a session is over.
#[derive(Debug)]
pub(super) enum End {
    /// Terminate.
    Closed,
    Eof,
    Failed(io::Error),
    Fault(Fault),
    /// It was another process of ours, and has the connection now for the takeover.
    GivenAway,
    /// Another process has taken over, and has a console of its own.
    TakenOver,
    /// It sent what the console does not take, and was told.
    BadPacket,
    /// KILL_CLIENT
    Killed,
    /// KILL_CLIENT, in the middle of an answer that it does not take.
    CutOff,
}

impl End {
    /// Whether the client is told: else it has gone, or has closed itself.
    fn is_told(&self) -> bool {
        matches!(self, End::Fault(_) | End::BadPacket | End::TakenOver | End::Killed)
    }

    fn sqlstate(&self) -> SqlState {
        match self {
            End::TakenOver | End::Killed => SqlState::ADMIN_SHUTDOWN,
            _ => SqlState::PROTOCOL_VIOLATION,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed => f.write_str("client close request"),
            End::Eof => f.write_str("client unexpected eof"),
            End::Failed(e) => write!(f, "client connection failed: {e}"),
            End::Fault(fault) => fault.fmt(f),
            End::GivenAway => f.write_str("takeover"),
            End::TakenOver => f.write_str("another process has taken over, connect again"),
            End::BadPacket => f.write_str("bad packet"),
            End::Killed | End::CutOff => f.write_str("admin forced disconnect"),
        }
    }
}

/// Why a command has no result.
#[derive(Debug)]
pub(super) enum Stop {
    Error(AdminError),
    /// A message of the extended protocol that is out of place.
    Refused(Refusal),
    /// The client took it back.
    Canceled,
    /// The client went away meanwhile.
    End(End),
}

impl From<AdminError> for Stop {
    fn from(error: AdminError) -> Stop {
        Stop::Error(error)
    }
}

/// What a command has come to.
pub(super) type Answer = Result<Reply, Stop>;

/// How often a command that waits looks whether it need not wait any longer.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Answers are gathered up to this size before they are sent.
const GATHERED_MAX: usize = 16 * 1024;

pub(super) struct Session {
    pub(super) console: Arc<Console>,
    /// Its line in SHOW CLIENTS, by which a cancel request finds it, too.
    pub(super) info: Arc<ClientInfo>,
    access: ConsoleAccess,
    pub(super) stream: Stream,
    inbox: Inbox,
    /// KILL_CLIENT has named it.
    killed: Arc<Notify>,
    pub(super) prepared: Prepared,
    /// BEGIN was said, and no COMMIT yet.
    pub(super) in_block: bool,
    /// Answers that were not sent yet.
    out: Vec<u8>,
    /// Given back before the place among the connected clients: whoever looks never counts fewer other clients than
    /// there are.
    _permits: [Permit; 2],
    _slot: ClientSlot,
}

impl Session {
    pub(super) fn new(console: Arc<Console>, client: ConsoleClient) -> io::Result<Session> {
        let ConsoleClient { socket, ahead, id, ends, user, access, application_name, mut slot, permits, connect_us } =
            client;
        let stream = socket.attach()?;
        let registry = &console.pools.registry;
        let peer_id = console.pools.config().settings.peer_id;
        let info = registry.add_client(
            || auth::new_cancel_key(ProtocolVersion::V3_0, peer_id),
            |key| {
                let mut info = ClientInfo::new(id, key, ends, user, CONSOLE_DATABASE.into(), connect_us);
                info.tls = stream.tls_description();
                info.fd = stream.fd();
                info
            },
        );
        let mut values = [const { None }; APPLICATION_NAME + 1];
        values[APPLICATION_NAME] = application_name;
        let values: Values = Arc::new(values);
        info.set_values(&values);
        slot.logged_in();
        console.stats.count_console_login();
        let killed = Arc::new(Notify::new());
        console.kills().insert(info.id, Arc::clone(&killed));
        Ok(Session {
            console,
            info,
            access,
            stream,
            inbox: Inbox::new(ahead),
            killed,
            prepared: Prepared::default(),
            in_block: false,
            out: Vec::new(),
            _slot: slot,
            _permits: permits,
        })
    }

    pub(super) async fn serve(mut self) {
        let Err(end) = self.run().await;
        let config = self.console.pools.config();
        let mut last = Vec::new();
        if end.is_told() {
            let text = end.to_string();
            self.log_error(&text);
            ErrorResponse::new(Severity::Fatal, sqlstates(&config.settings).code(end.sqlstate()), &text)
                .error(&mut last);
        }
        if !matches!(end, End::CutOff) {
            self.stream.try_end(&last);
        }
        if config.settings.log_disconnections {
            let age_s = clock::now_us().saturating_sub(self.info.connect_us) / 1_000_000;
            self.log(Level::Log, format_args!("closing because: {end} (age={age_s}s)"));
        }
    }

    async fn run(&mut self) -> Result<std::convert::Infallible, End> {
        self.out = self.welcome();
        self.send().await?;
        loop {
            let request = self.next().await?;
            // The ends of consoles that were heard of before this have their turn first, so that SHOW does not tell of them.
            tokio::task::yield_now().await;
            self.info.set_request_us(clock::now_us());
            let is_end = matches!(request, Request::Query(_) | Request::Sync | Request::Flush);
            self.answer(request).await?;
            if is_end || self.out.len() > GATHERED_MAX {
                self.send().await?;
            }
        }
    }

    async fn answer(&mut self, request: Request) -> Result<(), End> {
        match request {
            Request::Terminate => return Err(End::Closed),
            Request::Sync => {
                self.prepared.sync(self.in_block);
                self.ready();
            }
            _ if self.prepared.is_skipping => {}
            Request::Query(text) => {
                self.prepared.drop_unnamed();
                match self.query(&text).await {
                    Ok(reply) => reply.encode(&mut self.out),
                    Err(stop) => self.stopped(stop)?,
                }
                self.ready();
            }
            Request::Unsupported(error) => {
                self.stopped(error.into())?;
                self.ready();
                self.send().await?;
                return Err(End::BadPacket);
            }
            Request::Flush => {}
            step => {
                let mut out = std::mem::take(&mut self.out);
                let done = self.step(step, &mut out).await;
                self.out = out;
                if let Err(stop) = done {
                    self.stopped(stop)?;
                    self.prepared.is_skipping = true;
                }
            }
        }
        Ok(())
    }

    async fn query(&mut self, text: &str) -> Answer {
        let command = Command::parse(text)?;
        self.execute(&command, text).await
    }

    /// One message of the extended protocol.
    async fn step(&mut self, request: Request, out: &mut Vec<u8>) -> Result<(), Stop> {
        match request {
            Request::Parse(parse) => self.prepared.parse(parse, out),
            Request::Bind(bind) => self.prepared.bind(bind, out),
            Request::Describe(target) => self.prepared.describe(target, out),
            Request::Close(target) => {
                self.prepared.close(target, out);
                Ok(())
            }
            Request::Execute(execute) => self.execute_portal(execute, out).await,
            Request::Query(_) | Request::Sync | Request::Flush | Request::Terminate | Request::Unsupported(_) => Ok(()),
        }
    }

    fn ready(&mut self) {
        let status = if self.in_block { TransactionStatus::InBlock } else { TransactionStatus::Idle };
        message::ready_for_query(&mut self.out, status);
    }

    fn welcome(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        auth_message::authentication_ok(&mut out);
        for (name, value) in WELCOME {
            message::parameter_status(&mut out, name, value);
        }
        if let Some(name) = self.info.value(APPLICATION_NAME) {
            message::parameter_status(&mut out, "application_name", &*name);
        }
        self.info.cancel_key.backend_key_data(&mut out);
        let settings = &self.console.pools.config().settings;
        if let Some(text) = settings.login_notify_message.as_deref().filter(|text| !text.is_empty()) {
            notice(&mut out, text, None);
        }
        message::ready_for_query(&mut out, TransactionStatus::Idle);
        out
    }

    async fn next(&mut self) -> Result<Request, End> {
        loop {
            if let Some(request) = self.inbox.next().map_err(End::Fault)? {
                return Ok(request);
            }
            let pools = Arc::clone(&self.console.pools);
            tokio::select! {
                read = self.read() => read?,
                _ = pools.giver() => return Err(End::TakenOver),
            }
        }
    }

    async fn read(&mut self) -> Result<(), End> {
        let read = tokio::select! {
            read = self.inbox.read(&mut self.stream) => read,
            () = self.killed.notified() => return Err(End::Killed),
        };
        match read {
            Ok(0) => Err(End::Eof),
            Ok(_) => Ok(()),
            Err(e) => Err(End::Failed(e)),
        }
    }

    async fn send(&mut self) -> Result<(), End> {
        let out = std::mem::take(&mut self.out);
        let sending = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        tokio::select! {
            sent = sending => sent.map_err(End::Failed),
            () = self.killed.notified() => Err(End::CutOff),
        }
    }

    /// Lets `time` go by, unless the client goes away before. What it sends is kept for later.
    pub(super) async fn wait(&mut self, time: Duration) -> Result<(), Stop> {
        if self.inbox.is_full() {
            tokio::time::sleep(time).await;
            return Ok(());
        }
        match tokio::time::timeout(time, self.read()).await {
            Ok(Err(end)) => Err(Stop::End(end)),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Waits until something is so, as long as the client neither goes away nor cancels it.
    pub(super) async fn wait_until(&mut self, mut is_so: impl FnMut() -> Result<bool, AdminError>) -> Result<(), Stop> {
        let now_us = clock::now_us();
        self.info.begin_wait(now_us);
        self.info.set_query_us(now_us);
        let waited = loop {
            match is_so() {
                Ok(true) => break Ok(()),
                Ok(false) if self.info.is_query_canceled() => break Err(Stop::Canceled),
                Ok(false) => {}
                Err(error) => break Err(error.into()),
            }
            if let Err(stop) = self.wait(LOOK_EVERY).await {
                break Err(stop);
            }
        };
        self.info.set_query_us(0);
        self.info.end_wait();
        waited
    }

    /// Waits until the client is gone, whatever it sends.
    pub(super) async fn wait_for_end(&mut self) -> Stop {
        loop {
            self.inbox.clear();
            if let Err(end) = self.read().await {
                return Stop::End(end);
            }
        }
    }

    /// Refuses what `stats_users` may not do.
    pub(super) fn require_admin(&self) -> Result<(), AdminError> {
        match self.access {
            ConsoleAccess::Admin => Ok(()),
            ConsoleAccess::Stats => Err(AdminError::AccessNeeded),
        }
    }

    /// Tells the client why there is no result.
    fn stopped(&mut self, stop: Stop) -> Result<(), End> {
        match stop {
            Stop::End(end) => return Err(end),
            Stop::Error(error) => {
                // PgBouncer's two lines.
                log::write(Level::Error, format_args!("{}", error.message()));
                self.log_error(&error.message());
                error.encode(sqlstates(&self.console.pools.config().settings), &mut self.out);
            }
            Stop::Refused(refusal) => {
                let text = refusal.encode(&mut self.out);
                self.log_error(&text);
            }
            Stop::Canceled => {
                let text = "canceling statement due to user request";
                self.log_error(text);
                ErrorResponse::new(Severity::Error, SqlState::QUERY_CANCELED, text).error(&mut self.out);
            }
        }
        Ok(())
    }

    fn log_error(&self, text: &str) {
        if self.console.pools.config().settings.log_pooler_errors {
            self.log(Level::Warning, format_args!("pooler error: {text}"));
        }
    }

    fn log(&self, level: Level, text: fmt::Arguments<'_>) {
        let ClientInfo { id, database, user, ends, .. } = &*self.info;
        log::write_about(Subject::client(*id, database, user, ends), level, text);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.console.kills().remove(&self.info.id);
        self.console.pools.registry.remove_client(&self.info);
    }
}
