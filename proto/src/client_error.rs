//! All that a client may be told when we end its connection, in PgBouncer's words and with
//! PostgreSQL's codes. What is not in this enum does not reach a client.

use std::borrow::Cow;

use crate::error_response::{ErrorResponse, Severity};
use crate::options::OptionsError;
use crate::sqlstate::{SqlState, SqlStates};
use crate::startup::StartupError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    // Startup packet
    /// Framing broken. Holds the first bytes in hexadecimal.
    BadPacketHeader(String),
    OldProtocol,
    BadStartupLayout,
    NoUser,
    /// A second startup packet.
    StartupResent,
    /// Neither tracked nor ignored. Holds its name.
    UnsupportedParameter(String),
    /// The same, inside `options`.
    UnsupportedParameterInOptions(String),
    UnsupportedOptions,
    /// Told in PostgreSQL's words. Holds the value.
    BadReplication(String),
    /// Bytes behind an SSLRequest, before its answer (CVE-2021-3935).
    UnencryptedDataAfterSslRequest,
    /// The same behind a GSSENCRequest.
    UnencryptedDataAfterGssRequest,
    SslRequired,

    // Limits
    NoMoreConnections,
    TooManyDatabaseClients,
    TooManyUserClients,
    /// max_client_logins.
    TooManyLogins,
    /// max_client_logins_per_address.
    TooManyAddressLogins,
    ShuttingDown,

    // Who and where
    NoSuchDatabase(String),
    DatabaseDisabled(String),
    NoSuchUser,
    /// The configuration does not tell who the user is.
    ConfigError,
    /// Holds the name of the auth_dbname.
    AuthDatabaseDisabled(String),
    /// The console is for admin_users and stats_users.
    ConsoleNotAllowed,

    // Authentication
    PasswordBeforeStartup,
    EmptyPassword,
    InvalidSaslMechanism,
    /// md5 or plain, also for a user that does not exist.
    PasswordFailed,
    /// SCRAM, also for a user that does not exist.
    SaslFailed,
    /// Either of the two where users are looked up by auth_query: all are told the same, whether
    /// they are known here, there or nowhere.
    CredentialsFailed,
    TrustFailed,
    CertificateFailed,
    /// A directory does not let the user in, or cannot be asked.
    LdapFailed,
    PamFailed,
    /// Method peer.
    UnixSocketRejected,
    /// An HBA line says reject.
    LoginRejected,
    /// No HBA line matches.
    NoAuthenticationMethod,
    LoginTimeout,
    /// The login waited for a first server connection, whose parameters it needs.
    LoginTimeoutServerDown,

    // Getting a server
    QueryWaitTimeout,
    /// The client waited for a server longer than query_timeout.
    QueryTimeoutWaiting,
    /// Within server_login_retry after a failed login to the server.
    ServerLoginFailing {
        /// What the server said, or why it could not be reached.
        cached_error: String,
        /// `None` if no server answered.
        sqlstate: Option<SqlState>,
    },
    /// The server refused the login for which this client waited, or ended its session: its
    /// own words are passed on.
    Server {
        message: String,
        sqlstate: Option<SqlState>,
    },

    /// The same for a client of replication, in PgBouncer's word and, as its detail, the server's.
    ReplicationLoginFailed {
        detail: String,
        sqlstate: Option<SqlState>,
    },

    // In a session
    /// The server went away without a word.
    ServerCrashed,
    /// A query ran for longer than query_timeout.
    QueryTimeout,
    IdleTransactionTimeout,
    TransactionTimeout,
    ClientIdleTimeout,
    /// BEGIN in statement pooling.
    TransactionBlockNotAllowed,
    /// A simple query despite disable_pqexec.
    PqexecDisallowed,
    PreparedStatementMissing,
    PreparedStatementExists,
    /// A message of the extended protocol without its layout: `Parse`, `Bind`, `Describe` or
    /// `Close`.
    BrokenPacket(&'static str),
    UnknownPacket,
    StatementNameTooLong,
    /// max_client_prepared_size.
    StatementsTooLarge,
    /// The replies cannot be told apart any more.
    OutOfStep,

    // From the outside
    /// KILL_CLIENT.
    AdminDisconnect,
    /// KILL, for which PgBouncer has no words of its own.
    DatabaseKilled,
    /// SUSPEND could wait no longer for what it had under way.
    SuspendTimeout,
    /// SHUTDOWN WAIT_FOR_SERVERS, to those who wait for a server.
    ServerShuttingDown,
    /// A reload dropped the database.
    DatabaseRemoved,
    /// A reload changed the database under a session that can not go on.
    DatabaseChanged,
}

/// PostgreSQL's words.
const REPLICATION_VALUES: &str = r#"Valid values are: "false", 0, "true", 1, "database"."#;

/// PgBouncer tells which of the two it is.
const CREDENTIALS_FAILED: &str = "The password is wrong, or there is no such user.";

impl ClientError {
    pub fn message(&self) -> Cow<'_, str> {
        use ClientError as E;
        Cow::Borrowed(match self {
            E::BadPacketHeader(hex) => return format!("bad packet header: '{hex}'").into(),
            E::OldProtocol => "old V2 protocol not supported",
            E::BadStartupLayout => "invalid startup packet layout: expected terminator as last byte",
            E::NoUser => "no username supplied",
            E::StartupResent => "client re-sent startup pkt",
            E::UnsupportedParameter(name) => {
                return format!("unsupported startup parameter: {name}").into();
            }
            E::UnsupportedParameterInOptions(name) => {
                return format!("unsupported startup parameter in options: {name}").into();
            }
            E::UnsupportedOptions => {
                "unsupported options startup parameter: \
                 only '-c config=val' and '--config=val' are allowed"
            }
            E::BadReplication(value) => {
                return format!("invalid value for parameter \"replication\": \"{value}\"").into();
            }
            E::UnencryptedDataAfterSslRequest => "received unencrypted data after SSL request",
            E::UnencryptedDataAfterGssRequest => "received unencrypted data after GSSAPI encryption request",
            E::SslRequired => "SSL required",
            E::NoMoreConnections => "no more connections allowed (max_client_conn)",
            E::TooManyDatabaseClients => "client connections exceeded (max_db_client_connections)",
            E::TooManyUserClients => "client connections exceeded (max_user_client_connections)",
            E::TooManyLogins => "no more connections allowed (max_client_logins)",
            E::TooManyAddressLogins => "no more connections allowed (max_client_logins_per_address)",
            E::ShuttingDown => "pooler is shutting down",
            E::NoSuchDatabase(name) => return format!("no such database: {name}").into(),
            E::DatabaseDisabled(name) => return format!("database \"{name}\" is disabled").into(),
            E::NoSuchUser => "no such user",
            E::ConfigError => "bouncer config error",
            E::AuthDatabaseDisabled(name) => {
                return format!("authentication database \"{name}\" is disabled").into();
            }
            E::ConsoleNotAllowed => "not allowed",
            E::PasswordBeforeStartup => "client password pkt before startup packet",
            E::EmptyPassword => "empty password returned by client",
            E::InvalidSaslMechanism => "client selected an invalid SASL authentication mechanism",
            E::PasswordFailed | E::CredentialsFailed => "password authentication failed",
            E::SaslFailed => "SASL authentication failed",
            E::TrustFailed => "\"trust\" authentication failed",
            E::CertificateFailed => "certificate authentication failed",
            E::LdapFailed => "LDAP authentication failed",
            E::PamFailed => "PAM authentication failed",
            E::UnixSocketRejected => "unix socket login rejected",
            E::LoginRejected => "login rejected",
            E::NoAuthenticationMethod => "no authentication method is found",
            E::LoginTimeout => "client_login_timeout",
            E::LoginTimeoutServerDown => "client_login_timeout (server down)",
            E::QueryWaitTimeout => "query_wait_timeout",
            E::QueryTimeoutWaiting => "query_timeout",
            E::ServerLoginFailing { cached_error, .. } => {
                return format!(
                    "server login has been failing, cached error: {cached_error} \
                     (server_login_retry)"
                )
                .into();
            }
            E::Server { message, .. } => message,
            E::ReplicationLoginFailed { .. } => "login failed",
            E::ServerCrashed => "server conn crashed?",
            E::QueryTimeout => "query timeout",
            E::IdleTransactionTimeout => "idle transaction timeout",
            E::TransactionTimeout => "transaction timeout",
            E::ClientIdleTimeout => "client_idle_timeout",
            E::TransactionBlockNotAllowed => "transaction blocks not allowed in statement pooling mode",
            E::PqexecDisallowed => "PQexec disallowed",
            E::PreparedStatementMissing => "prepared statement did not exist",
            E::PreparedStatementExists => "prepared statement name is already in use",
            E::BrokenPacket(name) => return format!("broken {name} packet").into(),
            E::UnknownPacket => "unknown pkt",
            E::StatementNameTooLong => "prepared statement name is too long",
            E::StatementsTooLarge => "prepared statements take too much memory (max_client_prepared_size)",
            E::OutOfStep => "a COPY has failed amidst a pipeline: its replies cannot be told apart",
            E::SuspendTimeout => "suspend_timeout",
            E::DatabaseKilled => "database removed",
            E::AdminDisconnect => "admin forced disconnect",
            E::ServerShuttingDown => "server shutting down",
            E::DatabaseRemoved => "database removed",
            E::DatabaseChanged => "database configuration changed",
        })
    }

    /// The code that says what has happened.
    fn sqlstate(&self) -> SqlState {
        use ClientError as E;
        match self {
            E::NoSuchDatabase(_) => SqlState::INVALID_CATALOG_NAME,
            E::DatabaseDisabled(_) | E::AuthDatabaseDisabled(_) => SqlState::CANNOT_CONNECT_NOW,
            E::ConfigError => SqlState::CONFIG_FILE_ERROR,
            E::NoSuchUser
            | E::TrustFailed
            | E::CertificateFailed
            | E::LdapFailed
            | E::PamFailed
            | E::UnixSocketRejected
            | E::LoginRejected
            | E::NoAuthenticationMethod
            | E::SslRequired => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            E::PasswordFailed | E::SaslFailed | E::CredentialsFailed | E::EmptyPassword => SqlState::INVALID_PASSWORD,
            E::NoMoreConnections
            | E::TooManyDatabaseClients
            | E::TooManyUserClients
            | E::TooManyLogins
            | E::TooManyAddressLogins => SqlState::TOO_MANY_CONNECTIONS,
            E::StatementNameTooLong | E::StatementsTooLarge => SqlState::PROGRAM_LIMIT_EXCEEDED,
            E::QueryTimeout | E::QueryTimeoutWaiting => SqlState::QUERY_CANCELED,
            E::IdleTransactionTimeout => SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            E::TransactionTimeout => SqlState::TRANSACTION_TIMEOUT,
            E::ClientIdleTimeout => SqlState::IDLE_SESSION_TIMEOUT,
            E::ServerLoginFailing { sqlstate, .. } => {
                sqlstate.unwrap_or(SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION)
            }
            E::Server { sqlstate, .. } | E::ReplicationLoginFailed { sqlstate, .. } => {
                sqlstate.unwrap_or(SqlState::CONNECTION_FAILURE)
            }
            E::BadReplication(_) => SqlState::INVALID_PARAMETER_VALUE,
            E::ServerCrashed => SqlState::CONNECTION_FAILURE,
            E::AdminDisconnect | E::DatabaseKilled | E::SuspendTimeout | E::ServerShuttingDown => {
                SqlState::ADMIN_SHUTDOWN
            }
            E::BadPacketHeader(_)
            | E::OldProtocol
            | E::BadStartupLayout
            | E::NoUser
            | E::StartupResent
            | E::UnsupportedParameter(_)
            | E::UnsupportedParameterInOptions(_)
            | E::UnsupportedOptions
            | E::UnencryptedDataAfterSslRequest
            | E::UnencryptedDataAfterGssRequest
            | E::ShuttingDown
            | E::ConsoleNotAllowed
            | E::PasswordBeforeStartup
            | E::InvalidSaslMechanism
            | E::LoginTimeout
            | E::LoginTimeoutServerDown
            | E::QueryWaitTimeout
            | E::TransactionBlockNotAllowed
            | E::PqexecDisallowed
            | E::PreparedStatementMissing
            | E::PreparedStatementExists
            | E::BrokenPacket(_)
            | E::UnknownPacket
            | E::OutOfStep
            | E::DatabaseRemoved
            | E::DatabaseChanged => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// Appends a FATAL ErrorResponse.
    pub fn encode(&self, sqlstates: SqlStates, out: &mut Vec<u8>) {
        let code = match self {
            ClientError::Server { sqlstate: Some(of_server), .. } => *of_server,
            _ => sqlstates.code(self.sqlstate()),
        };
        let message = self.message();
        let mut response = ErrorResponse::new(Severity::Fatal, code, &message);
        match self {
            ClientError::ReplicationLoginFailed { detail, .. } => response.detail = Some(detail),
            ClientError::CredentialsFailed => response.detail = Some(CREDENTIALS_FAILED),
            ClientError::BadReplication(_) => response.hint = Some(REPLICATION_VALUES),
            _ => {}
        }
        response.error(out);
    }

    /// `None` where the connection is closed without an answer.
    pub fn from_startup(error: StartupError) -> Option<ClientError> {
        match error {
            StartupError::BadPacketHeader(hex) => Some(ClientError::BadPacketHeader(hex)),
            StartupError::BadCancelRequest => None,
            StartupError::OldProtocol => Some(ClientError::OldProtocol),
            StartupError::BadLayout => Some(ClientError::BadStartupLayout),
            StartupError::NoUser => Some(ClientError::NoUser),
            StartupError::BadReplication(value) => Some(ClientError::BadReplication(value)),
        }
    }
}

impl From<OptionsError> for ClientError {
    fn from(_: OptionsError) -> ClientError {
        ClientError::UnsupportedOptions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_response::ErrorFields;
    use crate::frame::HEADER_LEN;

    #[test]
    fn encodes_as_fatal() {
        let mut out = Vec::new();
        ClientError::NoSuchDatabase("shop".to_owned()).encode(SqlStates::Precise, &mut out);
        let fields = ErrorFields::parse(&out[HEADER_LEN..]);
        assert!(fields.is_fatal());
        assert_eq!(fields.message, "no such database: shop");
        assert_eq!(fields.sqlstate, Some(SqlState::INVALID_CATALOG_NAME));
    }

    #[test]
    fn the_servers_own_code_comes_first() {
        let code = |error: ClientError, sqlstates| {
            let mut out = Vec::new();
            error.encode(sqlstates, &mut out);
            ErrorFields::parse(&out[HEADER_LEN..]).sqlstate.unwrap().to_string()
        };
        let both =
            |error: ClientError| [SqlStates::Precise, SqlStates::Pgbouncer].map(|which| code(error.clone(), which));
        let failing = |sqlstate| {
            let cached_error = "password authentication failed".to_owned();
            ClientError::ServerLoginFailing { cached_error, sqlstate }
        };
        assert_eq!(
            failing(None).message(),
            "server login has been failing, cached error: password authentication failed \
             (server_login_retry)"
        );
        let own = Some(SqlState::INVALID_PASSWORD);
        assert_eq!(both(failing(None)), ["08001", "08P01"]);
        assert_eq!(both(failing(own)), ["28P01", "08P01"]);
        let passed_on = |sqlstate| ClientError::Server { message: "gone".to_owned(), sqlstate };
        assert_eq!(both(passed_on(None)), ["08006", "08P01"]);
        assert_eq!(both(passed_on(own)), ["28P01", "28P01"]);
        assert_eq!(both(ClientError::QueryTimeout), ["57014", "08P01"]);
    }

    #[test]
    fn a_bad_cancel_request_gets_no_answer() {
        let told = |error| ClientError::from_startup(error).map(|e| e.message().into_owned());
        let bad_header = StartupError::BadPacketHeader("00ff".to_owned());
        assert_eq!(told(bad_header).as_deref(), Some("bad packet header: '00ff'"));
        assert_eq!(told(StartupError::NoUser).as_deref(), Some("no username supplied"));
        assert_eq!(told(StartupError::BadCancelRequest), None);
    }
}
