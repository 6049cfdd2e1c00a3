//! A connection to PostgreSQL, from its making to its end.

pub(crate) mod auth_query;
pub(crate) mod cancel;
pub(crate) mod connect;
pub(crate) mod dns;
pub(crate) mod handover;
pub(crate) mod hosts;
pub(crate) mod login;
pub(crate) mod parameters;
pub(crate) mod query;
mod zones;

use std::sync::Arc;

use pgweir_proto::frontend;

use crate::log::{self, Level, Subject, Topic};
use crate::net::clock;
use crate::net::stream::{Detached, Stream, Unread};
use crate::pool::Permit;
use crate::registry::{Registry, ServerInfo};
use crate::relay::{Outstanding, Prepared, Replies};
use parameters::Parameters;

/// Where a server's socket is registered.
#[derive(Debug)]
pub(crate) enum Socket {
    /// With the runtime of the worker that it is on.
    Attached(Stream),
    /// With none: on its way to a worker.
    Detached(Detached),
    /// Closed. Only while `Server` is being dropped or attached.
    Gone,
}

impl Socket {
    /// The stream, which must be attached to this thread's runtime.
    pub(crate) fn stream(&mut self) -> &mut Stream {
        match self {
            Socket::Attached(stream) => stream,
            Socket::Detached(_) | Socket::Gone => unreachable!("a server is attached before it is used"),
        }
    }
}

/// A server connection that is logged in.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) socket: Socket,
    pub(crate) outstanding: Outstanding,
    pub(crate) replies: Replies,
    /// The pooler's statements that it has; in session pooling none.
    pub(crate) prepared: Prepared,
    /// The beginning of a reply that must be whole before it is forwarded; at most
    /// `WHOLE_MESSAGE_MAX` bytes, usually none.
    pub(crate) partial: Vec<u8>,
    /// Whole NoticeResponses from its login, for its first client; none after that.
    pub(crate) notices: Vec<u8>,
    /// A message to it was begun and will never be ended: whatever followed would become its end.
    pub(crate) is_midway: bool,
    /// A client has had it, who may have left anything behind in its session.
    pub(crate) was_lent: bool,
    /// No client's request was sent to it yet: a login of one may have looked at what it reports.
    pub(crate) is_fresh: bool,
    /// The tracked parameters as the server last reported them.
    pub(crate) parameters: Parameters,
    pub(crate) info: Arc<ServerInfo>,
    /// Its units of `max_db_connections` and `max_user_connections`.
    pub(crate) _permits: [Permit; 2],
    pub(crate) registry: Arc<Registry>,
}

impl Server {
    /// The socket, which must be attached to this thread's runtime.
    pub(crate) fn stream(&mut self) -> &mut Stream {
        self.socket.stream()
    }

    /// Moves the socket to this thread's runtime, unless it is `here` already.
    pub(crate) fn attach(&mut self, here: bool) -> std::io::Result<()> {
        let socket = std::mem::replace(&mut self.socket, Socket::Gone);
        self.socket = match socket {
            Socket::Attached(stream) if !here => Socket::Attached(stream.detach()?.attach()?),
            Socket::Detached(detached) => Socket::Attached(detached.attach()?),
            other => other,
        };
        Ok(())
    }

    /// Why an idle server is of no more use: it has gone, or sent something that nobody asked
    /// for (a notification for a client that is gone, the last words before a shutdown).
    pub(crate) fn reason_to_drop(&self) -> Option<&'static str> {
        let unread = match &self.socket {
            Socket::Attached(stream) => stream.unread(),
            Socket::Detached(detached) => detached.unread(),
            Socket::Gone => Some(Unread::End),
        };
        unread.map(|unread| match unread {
            Unread::Bytes => "idle server got dirty",
            Unread::End => "server conn crashed?",
        })
    }

    /// Ends the connection, says why in the log, and tells the server if it can be told.
    pub(crate) fn close(self: Box<Self>, reason: &str) {
        if log::is_wanted(Topic::Disconnections) {
            self.log(format_args!("closing because: {reason} (age={}s)", self.age_s()));
        }
        if let Socket::Attached(stream) = &self.socket
            && !self.is_midway
        {
            stream.try_end(&frontend::TERMINATE_MESSAGE);
        }
    }

    pub(crate) fn age_s(&self) -> u64 {
        clock::now_us().saturating_sub(self.info.connect_us) / 1_000_000
    }

    pub(crate) fn log(&self, text: std::fmt::Arguments<'_>) {
        self.log_at(Level::Log, text);
    }

    pub(crate) fn log_at(&self, level: Level, text: std::fmt::Arguments<'_>) {
        let ServerInfo { id, database, user, ends, .. } = &*self.info;
        log::write_about(Subject::server(*id, database, user, ends), level, text);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.registry.remove_server(&self.info);
    }
}
