//! What the console and signals ask of the process as a whole; carried out in one place.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pgweir_config::Config;
use tokio::sync::oneshot;

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// SHUTDOWN, SIGTERM with clients waited for, SIGINT: the names of PgBouncer 1.25.
    Immediate,
    /// SHUTDOWN WAIT_FOR_SERVERS: when no server is in use any more.
    WaitForServers,
    /// SHUTDOWN WAIT_FOR_CLIENTS: when the last client has gone.
    WaitForClients,
}

/// A request to the process.
#[derive(Debug)]
pub(crate) enum Command {
    /// Read the configuration again; answered with what has changed when it is in force.
    Reload(oneshot::Sender<Result<Vec<String>, ReloadFailed>>),
    /// Put this in force, for SET of this key; answered when it is.
    Configure(Arc<Config>, String, oneshot::Sender<Configured>),
    /// Files of certificates have changed: take what is in them now.
    RenewTls,
    /// End these clients; answered with their ids when their sessions know it.
    Kill(Doomed, oneshot::Sender<Vec<u64>>),
    /// Let all sessions come to rest, and end those that have not (`true`); answered with how many
    /// those are.
    Rest(bool, oneshot::Sender<usize>),
    /// Sessions that rest may go on.
    GoOn,
    /// Answered when it has begun: nobody is let in any more.
    Shutdown(Shutdown, oneshot::Sender<()>),
    /// Give everything to the process at the other end of this socket; answered when that has begun, or with why
    /// it cannot.
    TakeOver(OwnedFd, oneshot::Sender<Result<(), String>>),
}

/// Whose sessions a KILL ends.
#[derive(Debug, Clone)]
pub(crate) enum Doomed {
    All,
    OfDatabase(Arc<str>),
    Client(u64),
}

/// The configuration in force stays as it is; what is wrong with the new one was logged.
#[derive(Debug)]
pub(crate) struct ReloadFailed;

/// How a SET went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Configured {
    InForce,
    /// The setting is, but TLS stays as it is: a key that waits for its certificate, for one.
    TlsKept,
}

pub(crate) type Commands = tokio::sync::mpsc::UnboundedSender<Command>;
