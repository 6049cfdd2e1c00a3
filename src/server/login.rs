//! Logging in to a server: from the startup packet to the first ReadyForQuery.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

#[cfg(test)]
pub(crate) mod fake;
mod keys;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::sync::Arc;

use pgweir_config::Secret;
use pgweir_proto::auth::{self, Authentication, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use pgweir_proto::backend::{self, TransactionStatus};
use pgweir_proto::cancel::CancelKey;
use pgweir_proto::frame;
use pgweir_proto::md5::Md5Secret;
use pgweir_proto::scram::{ChannelBinding, ScramClient, ScramError, ScramKeys};
use pgweir_proto::startup::{Negotiation, ProtocolVersion, startup_message};
use tokio::io::{AsyncRead, AsyncWrite};

use super::query::ServerError;
use crate::auth::random_bytes;
use crate::log::{self, Level, Subject};
pub(crate) use keys::KeyCache;
use wire::Message;
pub(crate) use wire::{Wire, WireError};

/// What proves to a server who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ServerSecret {
    /// Nothing is known: enough for a server that trusts us.
    #[default]
    None,
    Plain(Secret),
    /// `md5` and 32 hexadecimal digits: good for the md5 method only.
    Md5(Secret),
    /// Of the client's own login: good for SCRAM with the salt of that login only.
    Scram(ScramKeys),
}

/// Who logs in, and to what.
#[derive(Debug)]
pub(crate) struct Credentials<'a> {
    pub(crate) user: &'a Arc<str>,
    pub(crate) dbname: &'a str,
    pub(crate) secret: &'a ServerSecret,
    /// Parameters asked for besides.
    pub(crate) startup: &'a [(String, String)],
}

/// The parameters that a server reports to a client at its login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// Names and values, in the order of the server. Bytes that are not UTF-8 are replaced.
    pub(crate) parameters: Vec<(String, String)>,
}

impl Welcome {
    /// Notes a report; a second one of the same name replaces the first.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        match self.parameters.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => self.parameters.push((name.to_owned(), value.to_owned())),
        }
    }
}

/// What a server says of itself once we are in.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) welcome: Welcome,
    /// `None` from a server that is no PostgreSQL and cancels nothing.
    pub(crate) cancel_key: Option<CancelKey>,
    /// NoticeResponses, for the client that waits for this server.
    pub(crate) notices: Vec<u8>,
}

#[derive(Debug)]
pub(crate) enum LoginError {
    /// The server refused.
    Server(ServerError),
    Wire(WireError),
    /// A message that has no place here, or not its layout.
    Unexpected(u8),
    /// The server offers a protocol version that we do not have or did not ask for.
    Version {
        major: u32,
        minor: u32,
    },
    /// The first ReadyForQuery told of a transaction.
    NotIdle,
    Auth(AuthError),
}

/// Why the server's question could not be answered, or its answer not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AuthError {
    /// AuthenticationRequest of a kind that we do not have.
    UnsupportedMethod(u32),
    /// None of the SASL mechanisms offered is ours.
    UnsupportedMechanisms,
    /// A password is asked for and we have no secret at all.
    NoSecret,
    /// The secret that we have does not answer this method.
    WrongSecret {
        method: &'static str,
    },
    Scram(ScramError),
    /// There was no thread to compute on: the process ends.
    NoThread,
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoginError::Server(error) => write!(f, "server login failed: {error}"),
            LoginError::Wire(error) => write!(f, "server login failed: {error}"),
            LoginError::Unexpected(tag) => write!(f, "unknown pkt from server: '{}'", tag.escape_ascii()),
            LoginError::Version { major, minor } => {
                write!(f, "the server wants protocol {major}.{minor}, which we do not have or did not ask for")
            }
            LoginError::NotIdle => f.write_str("the server begins with an open transaction"),
            LoginError::Auth(error) => write!(f, "server login failed: {error}"),
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthError::UnsupportedMethod(kind) => {
                let name = match kind {
                    2 => "Kerberos V5",
                    6 => "SCM credentials",
                    7 | 8 => "GSSAPI",
                    9 => "SSPI",
                    _ => "not known",
                };
                write!(f, "unknown/unsupported auth method: {kind} ({name})")
            }
            AuthError::UnsupportedMechanisms => {
                f.write_str("none of the server's SASL authentication mechanisms are supported")
            }
            AuthError::NoSecret => f.write_str("the server asks for a password and none is known"),
            AuthError::WrongSecret { method } => write!(f, "cannot do {method} authentication: wrong password type"),
            AuthError::Scram(error) => write!(f, "SCRAM exchange with the server failed: {error}"),
            AuthError::NoThread => f.write_str("no thread to compute SCRAM keys on"),
        }
    }
}

impl From<WireError> for LoginError {
    fn from(error: WireError) -> LoginError {
        match error {
            WireError::Unframed(message) => {
                LoginError::Server(ServerError { severity: "FATAL".to_owned(), sqlstate: None, message })
            }
            error => LoginError::Wire(error),
        }
    }
}

impl From<AuthError> for LoginError {
    fn from(error: AuthError) -> LoginError {
        LoginError::Auth(error)
    }
}

impl From<ScramError> for LoginError {
    fn from(error: ScramError) -> LoginError {
        LoginError::Auth(AuthError::Scram(error))
    }
}

/// A login under way.
pub(crate) struct Login<'a, S> {
    pub(crate) wire: &'a mut Wire<S>,
    pub(crate) credentials: Credentials<'a>,
    /// What to ask for; the server may answer with an older one.
    pub(crate) protocol: ProtocolVersion,
    pub(crate) keys: &'a KeyCache,
    /// What the login can be bound to: the hash of the server's certificate. `None`: there is no
    /// TLS, or no hash for it.
    pub(crate) end_point: Option<Vec<u8>>,
    /// For log lines.
    pub(crate) subject: Subject<'a>,
    /// Whole NoticeResponses that have come so far, at most `NOTICES_MAX` bytes.
    pub(crate) notices: Vec<u8>,
}

/// Notices beyond so many bytes are only logged.
const NOTICES_MAX: usize = 16 * 1024;

impl<S: AsyncRead + AsyncWrite + Unpin> Login<'_, S> {
    /// Logs in; after it both sides are idle and nothing is left to be read.
    pub(crate) async fn run(mut self) -> Result<Greeting, LoginError> {
        let Credentials { user, dbname, startup, .. } = &self.credentials;
        let mut parameters = vec![("user", &***user), ("database", *dbname)];
        parameters.extend(startup.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut out = Vec::new();
        startup_message(&mut out, self.protocol, &parameters);
        self.wire.send(&out).await?;
        let question = self.first_question().await?;
        self.authenticate(&question).await?;
        self.greeting().await
    }

    /// The body of the first AuthenticationRequest, a NegotiateProtocolVersion having come
    /// before or not. Versions differ only in what keys may be like, which the keys tell themselves.
    async fn first_question(&mut self) -> Result<Vec<u8>, LoginError> {
        let Message { tag, body } = self.next().await?;
        match tag {
            backend::AUTHENTICATION => Ok(body),
            backend::NEGOTIATE_PROTOCOL_VERSION => match Negotiation::parse(&body, self.protocol) {
                Some(Negotiation::Accepted(_)) => self.question().await,
                Some(Negotiation::Unknown { major, minor }) => Err(LoginError::Version { major, minor }),
                None => Err(LoginError::Unexpected(tag)),
            },
            tag => Err(LoginError::Unexpected(tag)),
        }
    }

    /// Answers what the server asks, once, after which it must be content.
    async fn authenticate(&mut self, question: &[u8]) -> Result<(), LoginError> {
        let mut out = Vec::new();
        match parse(question)? {
            Authentication::Ok => return Ok(()),
            Authentication::CleartextPassword => auth::password_message(&mut out, self.password("cleartext")?.expose()),
            Authentication::Md5Password(salt) => auth::password_message(&mut out, &self.md5_secret()?.response(salt)),
            Authentication::Sasl(mechanisms) => self.scram(&mechanisms).await?,
            Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
                return Err(LoginError::Unexpected(backend::AUTHENTICATION));
            }
            Authentication::Other(kind) => return Err(AuthError::UnsupportedMethod(kind).into()),
        }
        self.wire.send(&out).await?;
        match parse(&self.question().await?)? {
            Authentication::Ok => Ok(()),
            _ => Err(LoginError::Unexpected(backend::AUTHENTICATION)),
        }
    }

    /// The whole exchange, the server's proof that it knows our keys included.
    async fn scram(&mut self, offered: &[&str]) -> Result<(), LoginError> {
        let (mechanism, binding) = self.mechanism(offered)?;
        let secret = self.credentials.secret;
        if !matches!(secret, ServerSecret::Plain(_) | ServerSecret::Scram(_)) {
            return Err(self.wrong_secret("SCRAM").into());
        }
        let client = ScramClient::new(random_bytes(), binding);
        let mut out = Vec::new();
        auth::sasl_initial_response(&mut out, mechanism, client.client_first().as_bytes());
        self.wire.send(&out).await?;

        let body = self.question().await?;
        let Authentication::SaslContinue(server_first) = parse(&body)? else {
            return Err(LoginError::Unexpected(backend::AUTHENTICATION));
        };
        let challenge = client.server_first(server_first)?;
        let keys = match secret {
            ServerSecret::Scram(keys) => keys.clone(),
            _ => {
                let password = self.password("SCRAM")?;
                self.keys.keys(password, &challenge).await.ok_or(AuthError::NoThread)?
            }
        };
        let (client, response) = challenge.respond(&keys);
        out.clear();
        auth::sasl_response(&mut out, response.as_bytes());
        self.wire.send(&out).await?;

        let body = self.question().await?;
        let Authentication::SaslFinal(server_final) = parse(&body)? else {
            return Err(LoginError::Unexpected(backend::AUTHENTICATION));
        };
        Ok(client.server_final(server_final)?)
    }

    /// As libpq: the channel is bound where both can. A server that does not offer it is told that
    /// we could, so that it knows if somebody between has taken its offer away.
    fn mechanism(&self, offered: &[&str]) -> Result<(&'static str, ChannelBinding), AuthError> {
        match &self.end_point {
            Some(hash) if offered.contains(&SCRAM_SHA_256_PLUS) => {
                Ok((SCRAM_SHA_256_PLUS, ChannelBinding::EndPoint(hash.clone())))
            }
            _ if !offered.contains(&SCRAM_SHA_256) => Err(AuthError::UnsupportedMechanisms),
            Some(_) => Ok((SCRAM_SHA_256, ChannelBinding::Unused)),
            None => Ok((SCRAM_SHA_256, ChannelBinding::Unavailable)),
        }
    }

    fn password(&self, method: &'static str) -> Result<&Secret, AuthError> {
        match self.credentials.secret {
            ServerSecret::Plain(password) => Ok(password),
            _ => Err(self.wrong_secret(method)),
        }
    }

    fn md5_secret(&self) -> Result<Md5Secret, AuthError> {
        let made = match self.credentials.secret {
            ServerSecret::Plain(password) => {
                Some(Md5Secret::from_password(self.credentials.user, password.expose().as_bytes()))
            }
            ServerSecret::Md5(stored) => Md5Secret::parse(stored.expose()),
            ServerSecret::None | ServerSecret::Scram(_) => None,
        };
        made.ok_or_else(|| self.wrong_secret("MD5"))
    }

    fn wrong_secret(&self, method: &'static str) -> AuthError {
        match self.credentials.secret {
            ServerSecret::None => AuthError::NoSecret,
            _ => AuthError::WrongSecret { method },
        }
    }

    /// The body of the next AuthenticationRequest.
    async fn question(&mut self) -> Result<Vec<u8>, LoginError> {
        match self.next().await? {
            Message { tag: backend::AUTHENTICATION, body } => Ok(body),
            Message { tag, .. } => Err(LoginError::Unexpected(tag)),
        }
    }

    /// What follows the authentication.
    async fn greeting(&mut self) -> Result<Greeting, LoginError> {
        let mut greeting = Greeting { welcome: Welcome::default(), cancel_key: None, notices: Vec::new() };
        let mut is_ready = false;
        // An unasked message may follow the end; it must not be left to the first client.
        while !(is_ready && self.wire.is_empty()) {
            let Message { tag, body } = self.next().await?;
            match tag {
                backend::PARAMETER_STATUS => {
                    let (name, value) = backend::parameter_status(&body).ok_or(LoginError::Unexpected(tag))?;
                    greeting.welcome.set(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
                }
                backend::BACKEND_KEY_DATA => {
                    greeting.cancel_key = Some(CancelKey::parse(&body).ok_or(LoginError::Unexpected(tag))?);
                }
                backend::READY_FOR_QUERY if !is_ready => match TransactionStatus::read(&body) {
                    Some(TransactionStatus::Idle) => is_ready = true,
                    Some(_) => return Err(LoginError::NotIdle),
                    None => return Err(LoginError::Unexpected(tag)),
                },
                tag => return Err(LoginError::Unexpected(tag)),
            }
        }
        greeting.notices = std::mem::take(&mut self.notices);
        Ok(greeting)
    }

    /// The next message that is neither a notice, which is logged and kept, nor an error.
    async fn next(&mut self) -> Result<Message, LoginError> {
        loop {
            let message = self.wire.next().await?;
            match message.tag {
                backend::ERROR_RESPONSE => return Err(LoginError::Server(ServerError::parse(&message.body))),
                backend::NOTICE_RESPONSE => {
                    let notice = ServerError::parse(&message.body);
                    log::write_about(self.subject, Level::Log, format_args!("notice from the server: {notice}"));
                    if self.notices.len() + message.body.len() < NOTICES_MAX {
                        frame::message(&mut self.notices, backend::NOTICE_RESPONSE, &message.body);
                    }
                }
                _ => return Ok(message),
            }
        }
    }
}

fn parse(body: &[u8]) -> Result<Authentication<'_>, LoginError> {
    Authentication::parse(body).map_err(|_| LoginError::Unexpected(backend::AUTHENTICATION))
}
