//! Why there is no connection, for the log, for the operator and for clients.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;

use pgweir_proto::sqlstate::SqlState;

use super::secure::SecureError;
use crate::registry::Address;
use crate::server::login::{AuthError, LoginError, WireError};
use crate::server::query::{QueryError, ServerError};

/// Classes of the SQLSTATEs that refuse a login for another reason than the protocol: parameters,
/// authentication, database, privileges, resources, the operator.
const OTHER_TROUBLE: [&str; 6] = ["22", "28", "3D", "42", "53", "57"];

#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The database has no host and there is no `unix_socket_dir` to look in.
    NoHost,
    Resolve {
        host: String,
        why: Arc<str>,
    },
    Connect {
        address: Address,
        error: io::Error,
    },
    /// The connection is not as safe as it must be.
    Tls {
        address: Address,
        error: SecureError,
    },
    /// `server_connect_timeout`, or the part of it that one of several addresses gets.
    Timeout(Step),
    Login(LoginError),
    /// `connect_query` failed.
    Query(QueryError),
}

/// How far an attempt has come. Addresses as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Resolving(String),
    Connecting(String),
    LoggingIn(String),
    /// Running `connect_query`.
    Querying(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Resolving(host) => write!(f, "looking up {host}"),
            Step::Connecting(address) => write!(f, "connecting to {address}"),
            Step::LoggingIn(address) => write!(f, "logging in at {address}"),
            Step::Querying(address) => write!(f, "running connect_query at {address}"),
        }
    }
}

impl fmt::Display for ConnectError {
    /// All that is known, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::NoHost => f.write_str("the database has no host and unix_socket_dir is empty"),
            ConnectError::Resolve { host, why } => write!(f, "server DNS lookup failed: {host}: {why}"),
            ConnectError::Connect { address, error } => write!(f, "connect failed: {address}: {error}"),
            ConnectError::Tls { address, error } => write!(f, "TLS failed: {address}: {error}"),
            ConnectError::Timeout(step) => write!(f, "connect timeout: {step}"),
            ConnectError::Login(error) => error.fmt(f),
            ConnectError::Query(error) => write!(f, "connect_query failed: {error}"),
        }
    }
}

impl ConnectError {
    /// What clients are told, in PgBouncer's words, and the server's own code. Neither addresses
    /// nor the system's errors are their business.
    pub(crate) fn to_client(&self) -> (String, Option<SqlState>) {
        match self {
            ConnectError::Query(QueryError::Server(error) | QueryError::Ended(error)) => {
                (format!("connect_query failed: {}", error.message), error.sqlstate)
            }
            _ => (self.reason().into_owned(), self.refusal().and_then(|error| error.sqlstate)),
        }
    }

    /// What PgBouncer's "closing because:" names.
    pub(super) fn reason(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            ConnectError::NoHost => "cannot connect",
            ConnectError::Resolve { .. } => "server DNS lookup failed",
            ConnectError::Connect { .. } => "connect failed",
            ConnectError::Tls { error, .. } => match error {
                SecureError::Io(_) => "server conn crashed?",
                SecureError::Refused => "server refused SSL",
                SecureError::BadAnswer(_) | SecureError::ErrorAnswer(_) => "bad sslreq answer",
                SecureError::Smuggled => "received unencrypted data after SSL response",
                SecureError::Setup(_) | SecureError::Handshake(_) => "TLS startup failed",
                SecureError::DirectHandshake(_) | SecureError::NoAlpn => "TLS startup failed",
            },
            ConnectError::Timeout(_) => "connect timeout",
            ConnectError::Query(_) => "connect_query failed",
            ConnectError::Login(error) => match error {
                LoginError::Server(error) if error.message.is_empty() => "login failed",
                LoginError::Server(error) => &error.message,
                LoginError::Wire(WireError::Io(_) | WireError::Closed) => "server conn crashed?",
                LoginError::Wire(error) => return error.to_string().into(),
                LoginError::Unexpected(_) => "unknown pkt from server",
                LoginError::Version { .. } | LoginError::NotIdle => "login failed",
                LoginError::Auth(error) => auth_reason(error),
            },
        })
    }

    /// What the server said when it refused the login.
    fn refusal(&self) -> Option<&ServerError> {
        match self {
            ConnectError::Login(LoginError::Server(error)) => Some(error),
            _ => None,
        }
    }

    /// Another host of the database may do better. Not after a refusal that is about us: the
    /// others would refuse as well, or an operator would never know of the one that does.
    pub(crate) fn is_about_host(&self) -> bool {
        match self {
            ConnectError::Resolve { .. }
            | ConnectError::Connect { .. }
            | ConnectError::Tls { .. }
            | ConnectError::Timeout(_) => true,
            ConnectError::Login(LoginError::Wire(WireError::Io(_) | WireError::Closed)) => true,
            ConnectError::Login(LoginError::Server(error)) => {
                matches!(error.sqlstate, Some(SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN))
            }
            _ => false,
        }
    }

    /// A login in the oldest protocol might succeed: what fails may be a server, or something on
    /// the way to it, that does not know the newer, in whatever way. Not so where the server has
    /// something else to say.
    pub(super) fn may_be_about_protocol(&self) -> bool {
        match self {
            ConnectError::Timeout(Step::LoggingIn(_)) => true,
            ConnectError::Login(LoginError::Server(error)) => {
                let is_of = |class| error.sqlstate.is_some_and(|code| code.as_str().starts_with(class));
                !OTHER_TROUBLE.into_iter().any(is_of)
            }
            ConnectError::Login(LoginError::Auth(_)) => false,
            ConnectError::Login(_) => true,
            _ => false,
        }
    }

    /// What an operator should look at.
    pub(crate) fn what_to_do(&self) -> &'static str {
        match self {
            ConnectError::NoHost => "give the database a host, or set unix_socket_dir",
            ConnectError::Resolve { .. } => "check the database's host and this machine's name service",
            ConnectError::Connect { error, .. } => match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    "check that PostgreSQL runs there and that its listen_addresses and port allow for it"
                }
                io::ErrorKind::NotFound => {
                    "check that PostgreSQL runs and has its socket there (its unix_socket_directories and port)"
                }
                io::ErrorKind::PermissionDenied => "check who may use the server's socket (unix_socket_permissions)",
                io::ErrorKind::InvalidInput => "check the database's host and the tcp_* settings",
                _ => "check the database's host and port, and the network in between",
            },
            ConnectError::Tls { error, .. } => match error {
                SecureError::Refused => "turn TLS on in the server (ssl = on), or relax server_tls_sslmode",
                SecureError::Setup(_) | SecureError::Handshake(_) => {
                    "check the server's certificate and log, and the server_tls_* settings"
                }
                SecureError::DirectHandshake(_) | SecureError::NoAlpn => {
                    "check that it is PostgreSQL 17 or later with ssl = on, which server_tls_sslnegotiation = direct needs, \
                     its certificate and log, and the server_tls_* settings"
                }
                SecureError::ErrorAnswer(_) => "check the server's load and log: it could not even begin to serve us",
                SecureError::Io(_) | SecureError::BadAnswer(_) | SecureError::Smuggled => {
                    "check that PostgreSQL is what listens there, and who is in between"
                }
            },
            ConnectError::Timeout(Step::Resolving(_)) => "check this machine's name service",
            ConnectError::Timeout(Step::Connecting(_)) => {
                "check the database's host and port, and firewalls in between"
            }
            ConnectError::Timeout(Step::LoggingIn(_)) => {
                "the server accepts connections but does not answer: check its load and log"
            }
            ConnectError::Timeout(Step::Querying(_)) => {
                "check what connect_query waits for; server_connect_timeout includes it"
            }
            ConnectError::Query(_) => "correct connect_query in the database's entry",
            ConnectError::Login(error) => login_advice(error),
        }
    }
}

fn auth_reason(error: &AuthError) -> &'static str {
    match error {
        AuthError::NoSecret | AuthError::WrongSecret { .. } => "server login failed: wrong password type",
        AuthError::UnsupportedMechanisms => {
            "server login failed: none of the server's SASL authentication mechanisms are supported"
        }
        AuthError::Scram(pgweir_proto::scram::ScramError::WrongServerSignature) => {
            "server login failed: invalid server signature"
        }
        AuthError::Scram(_) | AuthError::UnsupportedMethod(_) | AuthError::NoThread => "failed to answer authreq",
    }
}

fn login_advice(error: &LoginError) -> &'static str {
    match error {
        LoginError::Server(error) => match error.sqlstate {
            Some(SqlState::INVALID_PASSWORD) => {
                "check the user's password in the database entry or the auth_file; SCRAM secrets there \
                 must be the server's own, with the same salt"
            }
            Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
                "check the user, and the server's pg_hba.conf for this host"
            }
            Some(SqlState::INVALID_CATALOG_NAME) => "check dbname in the database's entry",
            Some(SqlState::TOO_MANY_CONNECTIONS) => {
                "the server is full: lower pool sizes or max_db_connections, or raise its max_connections"
            }
            Some(SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN) => {
                "the server is starting or stopping; it is tried again"
            }
            _ => "see the server's log",
        },
        LoginError::Auth(AuthError::NoSecret | AuthError::WrongSecret { .. }) => {
            "give the user a password in the database entry or the auth_file; a hash there logs in only with its own \
             method, and a SCRAM secret only for clients that log in with SCRAM"
        }
        LoginError::Auth(AuthError::UnsupportedMethod(_) | AuthError::UnsupportedMechanisms) => {
            "let the server's pg_hba.conf ask this host for trust, password, md5 or scram-sha-256"
        }
        LoginError::Auth(AuthError::Scram(_)) => "check that the host is the server that it should be",
        LoginError::Auth(AuthError::NoThread) => "nothing: the process is shutting down",
        LoginError::Wire(WireError::Io(_) | WireError::Closed) => "see the server's log",
        LoginError::Wire(_) | LoginError::Unexpected(_) | LoginError::Version { .. } | LoginError::NotIdle => {
            "check that PostgreSQL is what listens there"
        }
    }
}
