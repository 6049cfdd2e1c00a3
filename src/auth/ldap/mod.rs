//! `ldap`: the password is right if a directory lets its user in with it.
//!
//! A client of few words, which asks one thing after the other and reads no more than the answer. It makes a connection for
//! each login, as PgBouncer does, and looks for the user and logs in on the same.

mod ber;
mod connection;
mod message;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgweir_config::{LdapBind, LdapOptions, LdapSearch, bind_name};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::connection::Connection;
use self::message::{Outcome, SIZE_LIMIT_EXCEEDED, SUCCESS};
use crate::net::stream::StartTlsError;
use crate::net::tls::{DirectoryTls, TlsError};

/// From the name of a server to the end of the handshake; then the next server is tried.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// For everything, all servers included.
const CHECK_MAX: Duration = Duration::from_secs(20);

/// Why a login came to nothing. Never holds a password.
#[derive(Debug)]
pub(super) enum LdapError {
    /// No server could be asked; of the last.
    Connect {
        server: String,
        why: String,
    },
    /// The connection broke.
    Io(io::Error),
    /// No answer that makes sense.
    Malformed,
    /// It ended the session by itself.
    Disconnected(Outcome),
    Timeout,
    /// The user of the setting may not look for users.
    SearchBind(Outcome),
    Search(Outcome),
    NotFound,
    NotUnique,
    /// A name that a search has found and nobody can log in with, or one that cannot be.
    BadName,
    /// The password is wrong, or the user must not log in.
    Bind(Outcome),
}

impl fmt::Display for LdapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LdapError::Connect { server, why } => write!(f, "could not connect to {server}: {why}"),
            LdapError::Io(error) => write!(f, "the connection broke: {error}"),
            LdapError::Malformed => f.write_str("the server's answer makes no sense"),
            LdapError::Disconnected(outcome) => write!(f, "the server ended the session: {outcome}"),
            LdapError::Timeout => write!(f, "no answer within {} s", CHECK_MAX.as_secs()),
            LdapError::SearchBind(outcome) => write!(f, "ldapbinddn cannot log in: {outcome}"),
            LdapError::Search(outcome) => write!(f, "the search failed: {outcome}"),
            LdapError::NotFound => f.write_str("the search found no entry"),
            LdapError::NotUnique => f.write_str("the search found more than one entry"),
            LdapError::BadName => f.write_str("there can be no such user"),
            LdapError::Bind(outcome) => outcome.fmt(f),
        }
    }
}

impl From<io::Error> for LdapError {
    fn from(error: io::Error) -> LdapError {
        LdapError::Io(error)
    }
}

/// Whether `password`, which is not empty, is that of `user`.
pub(super) async fn check(
    options: &LdapOptions,
    tls: Option<&DirectoryTls>,
    resolving: &Arc<Semaphore>,
    user: &str,
    password: &[u8],
) -> Result<(), LdapError> {
    let check = async {
        let mut connection = connect(options, tls, resolving).await?;
        let found = match &options.bind {
            LdapBind::Simple { prefix, suffix } => {
                bind_name(prefix, user, suffix).map(String::into_bytes).ok_or(LdapError::BadName)
            }
            LdapBind::Search(search) => find(&mut connection, search, user, password).await,
        };
        let dn = found?;
        // Without a name anybody gets in, whatever the password.
        if dn.is_empty() {
            return Err(LdapError::BadName);
        }
        let outcome = connection.bind(&dn, password).await?;
        connection.close().await;
        if outcome.code == SUCCESS { Ok(()) } else { Err(LdapError::Bind(outcome)) }
    };
    timeout(CHECK_MAX, check).await.unwrap_or(Err(LdapError::Timeout))
}

/// To the first server that there is.
async fn connect(
    options: &LdapOptions,
    tls: Option<&DirectoryTls>,
    resolving: &Arc<Semaphore>,
) -> Result<Connection, LdapError> {
    let mut last = LdapError::Timeout;
    for server in &options.servers {
        let made = timeout(CONNECT_MAX, Connection::open(server, options, tls, resolving)).await;
        let why = match made {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("timed out after {} s", CONNECT_MAX.as_secs()),
        };
        last = LdapError::Connect { server: server.clone(), why };
    }
    Err(last)
}

/// The name of the one entry that is `user`.
async fn find(
    connection: &mut Connection,
    search: &LdapSearch,
    user: &str,
    password: &[u8],
) -> Result<Vec<u8>, LdapError> {
    let bound = connection.bind(search.bind_dn.as_bytes(), search.bind_password.expose().as_bytes()).await?;
    if bound.code != SUCCESS {
        return Err(LdapError::SearchBind(bound));
    }
    let (mut entries, done) = connection.search(search, user, CHECK_MAX.as_secs() as i32).await?;
    let entry = entries.pop();
    match entry {
        Some(_) if !entries.is_empty() => Err(LdapError::NotUnique),
        _ if done.code == SIZE_LIMIT_EXCEEDED => Err(LdapError::NotUnique),
        _ if done.code != SUCCESS => Err(LdapError::Search(done)),
        Some(dn) => Ok(dn),
        None => {
            // A user who exists is asked for the password now. So that this is no quicker, it is asked of an entry that
            // has none.
            if !search.base_dn.is_empty() {
                connection.bind(search.base_dn.as_bytes(), password).await?;
            }
            Err(LdapError::NotFound)
        }
    }
}

/// Why a server cannot be asked.
#[derive(Debug)]
enum ConnectError {
    Io(io::Error),
    NoAddress,
    /// It offers none.
    NoStartTls(Outcome),
    /// The settings ask for TLS inside of TLS.
    TlsTwice,
    /// The settings have changed since this login began.
    NoSetup,
    Tls(TlsError),
    Handshake(StartTlsError),
    Ldap(LdapError),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Io(error) => error.fmt(f),
            ConnectError::NoAddress => f.write_str("the name has no address"),
            ConnectError::NoStartTls(outcome) => write!(f, "it does not start TLS: {outcome}"),
            ConnectError::TlsTwice => f.write_str("ldaptls=1 asks for TLS inside of ldaps"),
            ConnectError::NoSetup => f.write_str("TLS is not set up"),
            ConnectError::Tls(error) => error.fmt(f),
            ConnectError::Handshake(error) => write!(f, "TLS handshake failed: {error}"),
            ConnectError::Ldap(error) => error.fmt(f),
        }
    }
}
