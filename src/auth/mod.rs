//! How a client proves who it is: one file per method of `auth_type`.
//!
//! Secrets come through [`SecretSource`], so that nothing here knows about pools. A name that
//! does not exist is answered like one that does: the same messages, the same text at the
//! end, and as long a computation. What the operator should know is in [`Reason`].

mod any;
mod cert;
mod computing;
mod context;
mod kept;
#[cfg(feature = "ldap")]
mod ldap;
mod md5;
mod message;
mod method;
mod outside;
#[cfg(feature = "pam")]
mod pam;
mod peer;
mod plain;
mod random;
mod scram;
#[cfg(test)]
mod tests;
mod trust;

use std::fmt;
use std::num::NonZeroU32;

use pgweir_config::{AuthType, CONSOLE_DATABASE, Config, Secret, UserSecret};
use pgweir_proto::client_error::ClientError;
use pgweir_proto::md5::Md5Secret;
use pgweir_proto::scram::{ScramError, ScramKeys, Verifier};
use pgweir_proto::secret::StoredSecret;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use computing::Computing;
pub(crate) use context::AuthContext;
pub(crate) use kept::Kept;
pub(crate) use method::{Method, Origin};
pub(crate) use outside::{Asked, Outside, ask, ask_password};
pub(crate) use peer::{is_console_owner, is_own_process};
pub(crate) use random::{new_cancel_key, random_bytes};

/// Where the secrets of users are: the configuration with its `auth_file`, or a server that
/// is asked.
pub(crate) trait SecretSource {
    /// What is known about the user's password; `None` if there is no such user.
    fn secret(&self, user: &str) -> Option<UserSecret>;

    /// The iterations of users' SCRAM secrets, as far as is known; `None`: they are expected to
    /// have others. With `auth_type=md5` those with SCRAM secrets log in with SCRAM, and so must
    /// those who do not exist.
    fn expected_scram(&self) -> Option<NonZeroU32>;

    /// Whether users may have passwords in clear text, of which verifiers are made.
    fn has_passwords(&self) -> bool;

    /// Cost of the SCRAM verifiers that are made here.
    fn scram_iterations(&self) -> NonZeroU32;
}

impl SecretSource for Config {
    fn secret(&self, user: &str) -> Option<UserSecret> {
        self.userlist.get(user).cloned()
    }

    /// Taken from the first user: the secrets of one file are of one form as a rule.
    fn expected_scram(&self) -> Option<NonZeroU32> {
        match self.userlist.iter().next() {
            Some((_, UserSecret::Scram(secret))) => NonZeroU32::new(secret.iterations),
            _ => None,
        }
    }

    fn has_passwords(&self) -> bool {
        self.userlist.has_passwords()
    }

    fn scram_iterations(&self) -> NonZeroU32 {
        // The table of settings allows no 0.
        NonZeroU32::new(self.settings.scram_iterations).unwrap_or(NonZeroU32::MIN)
    }
}

/// What a login has brought along for the login to the server.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    /// Keys that log in to a server which stores the verifier that we have. `None` if the
    /// client did not use SCRAM, or against a password that we know anyway.
    pub(crate) scram_keys: Option<ScramKeys>,
    /// The password in clear text, from a method that asks for it. `None` with every other one,
    /// and for a password that is not UTF-8.
    pub(crate) plain: Option<Secret>,
    /// The last message of the method, which the client gets together with the welcome.
    pub(crate) unsent: Vec<u8>,
}

/// Why a login failed. The caller tells the client, writes the log and closes.
#[derive(Debug, Clone)]
pub(crate) enum AuthError {
    Refused {
        error: ClientError,
        /// For the log only; `None` where `error` says it all.
        reason: Option<Reason>,
    },
    /// The client has gone.
    Eof,
    /// The same, for this reason. It cannot be told anything.
    Gone(&'static str),
}

/// What the client is not told. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    UnknownUser,
    /// `auth_query` does not find the user either.
    NotFound,
    /// `auth_query` cannot be run in the console.
    AuthDatabaseReserved,
    /// There is no such `auth_dbname`.
    NoAuthDatabase(String),
    /// `auth_query` has failed with this error.
    AuthQuery(String),
    /// The user's password is empty, so none is right.
    NoPassword,
    WrongPassword,
    /// SCRAM cannot be checked against it.
    Md5Secret,
    Scram(ScramError),
    Malformed,
    /// The computation was cut off: the process ends.
    Interrupted,
    NoTls,
    NoCertificate,
    CertificateOfOther,
    /// The map of this name lets no certificate of the client's log in as the user.
    CertificateNotInMap(String),
    /// What a directory or a module has said, or why it could not be asked.
    Outside(String),
    /// A method that this build does not have.
    NoMethod(AuthType),
    /// A line of the `auth_hba_file` says so.
    Rule {
        line: u32,
    },
    /// Nobody can be asked who is at the other end.
    NoSystemUser,
    /// It is this one.
    OtherSystemUser(String),
    /// The map does not let the system user of this name log in as the user.
    NotInMap {
        map: String,
        name: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::UnknownUser | Reason::NotFound => f.write_str("no such user"),
            Reason::AuthDatabaseReserved => {
                write!(f, "cannot use the reserved \"{CONSOLE_DATABASE}\" database as an auth_dbname")
            }
            Reason::NoAuthDatabase(name) => write!(f, "authentication database \"{name}\" is not configured"),
            Reason::AuthQuery(error) => write!(f, "error in auth_query: {error}"),
            Reason::NoPassword => f.write_str("the user's password is empty"),
            Reason::WrongPassword => f.write_str("wrong password"),
            Reason::Md5Secret => f.write_str("user has MD5 secret, which SCRAM cannot use"),
            Reason::Scram(error) => error.fmt(f),
            Reason::Malformed => f.write_str("malformed authentication message"),
            Reason::NoTls => f.write_str("TLS connection required"),
            Reason::NoCertificate => f.write_str("TLS client certificate required"),
            Reason::CertificateOfOther => f.write_str("TLS certificate name mismatch"),
            Reason::CertificateNotInMap(map) => write!(f, "ident map: {map} does not have a match"),
            Reason::Interrupted => f.write_str("authentication was interrupted"),
            Reason::Outside(why) => f.write_str(why),
            Reason::NoMethod(method) => write!(f, "auth_type={method} is not in this build"),
            Reason::Rule { line } => write!(f, "line {line} of the auth_hba_file"),
            Reason::NoSystemUser => f.write_str("the client's system user is not known"),
            Reason::OtherSystemUser(name) => write!(f, "the client's system user is {name}"),
            Reason::NotInMap { map, name } => {
                write!(f, "ident map {map} cannot be matched, the client's system user is {name}")
            }
        }
    }
}

impl AuthError {
    pub(crate) fn refused(error: ClientError, reason: Reason) -> AuthError {
        AuthError::Refused { error, reason: Some(reason) }
    }

    pub(crate) fn protocol(error: ClientError) -> AuthError {
        AuthError::Refused { error, reason: None }
    }
}

/// What a password is checked against.
enum Credential {
    Known(StoredSecret),
    /// Nothing is right, and this is why. Goes through the same motions.
    Hopeless(Reason),
}

impl Credential {
    fn new(secret: Option<UserSecret>) -> Credential {
        let stored = match secret {
            None => return Credential::Hopeless(Reason::UnknownUser),
            Some(UserSecret::Empty) => None,
            Some(UserSecret::Plain(text)) => Some(StoredSecret::Plain(text.expose().to_owned())),
            Some(UserSecret::Md5(text)) => Md5Secret::parse(text.expose()).map(StoredSecret::Md5),
            Some(UserSecret::Scram(s)) => Verifier::parse(s.text.expose()).map(StoredSecret::Scram),
        };
        stored.map_or(Credential::Hopeless(Reason::NoPassword), Credential::Known)
    }

    /// With `auth_type=md5`.
    fn uses_scram(&self, source: &impl SecretSource) -> bool {
        match self {
            Credential::Known(stored) => matches!(stored, StoredSecret::Scram(_)),
            Credential::Hopeless(_) => source.expected_scram().is_some(),
        }
    }
}

/// Asks the client for its proof and checks it. AuthenticationOk is left to the caller: it
/// goes out with the welcome. There is no time limit in here.
pub(crate) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    method: &Method,
    origin: &Origin,
    user: &str,
    source: &impl SecretSource,
    context: &AuthContext,
) -> Result<Granted, AuthError> {
    let secret = source.secret(user);
    let iterations = source.scram_iterations();
    let login = Login {
        user,
        iterations,
        expected_iterations: source.expected_scram().unwrap_or(iterations),
        has_passwords: source.has_passwords(),
        end_point: origin.end_point.as_deref(),
        context,
    };
    let credential = match method {
        Method::Any => return any::authenticate(),
        Method::Trust => return trust::authenticate(secret.as_ref()),
        Method::Cert { map } => return cert::authenticate(origin, map.as_deref(), user, secret.as_ref()),
        Method::Peer { map } => return peer::authenticate(origin, map.as_deref(), user, secret.as_ref()).await,
        Method::Plain | Method::Md5 | Method::ScramSha256 => Credential::new(secret),
        // The caller asks outside.
        Method::Outside(_) => return Err(AuthError::protocol(ClientError::LoginRejected)),
    };
    match method {
        Method::Plain => plain::authenticate(stream, &login, credential).await,
        Method::Md5 if !credential.uses_scram(source) => md5::authenticate(stream, &login, credential).await,
        _ => scram::authenticate(stream, &login, credential).await,
    }
}

/// What the password methods have in common.
struct Login<'a> {
    user: &'a str,
    /// For verifiers that are made here.
    iterations: NonZeroU32,
    /// For users who do not exist: as those have who do.
    expected_iterations: NonZeroU32,
    /// Some users have passwords in clear text.
    has_passwords: bool,
    /// What the login can be bound to.
    end_point: Option<&'a [u8]>,
    context: &'a AuthContext,
}
