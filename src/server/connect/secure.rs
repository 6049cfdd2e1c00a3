//! TLS towards a server: asked for as `server_tls_sslmode` says, and started where it is granted,
//! or started without asking.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>

use std::fmt;
use std::io;

use pgweir_proto::backend;
use pgweir_proto::startup::SSL_REQUEST;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::stream::{StartTlsError, Stream};
use crate::net::tls::{Dialer, TlsError};
use crate::server::login::{Wire, WireError};
use crate::server::query::ServerError;

/// Why there is no connection that is as safe as it must be.
#[derive(Debug)]
pub(crate) enum SecureError {
    Io(io::Error),
    /// The server has no TLS for us, and we may not do without.
    Refused,
    /// Neither yes nor no.
    BadAnswer(u8),
    /// An error message in place of either, as from a server that is out of processes. Anybody on
    /// the way may have put it there.
    ErrorAnswer(String),
    /// Bytes behind the yes, which somebody on the way wants us to take for the server's.
    Smuggled,
    /// A TLS connection cannot even be begun.
    Setup(TlsError),
    Handshake(StartTlsError),
    /// The same where the server was not asked before.
    DirectHandshake(StartTlsError),
    /// What listens there speaks TLS, but does not say that it speaks our protocol inside.
    NoAlpn,
}

impl fmt::Display for SecureError {
    /// In PgBouncer's words where it has some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecureError::Io(error) => error.fmt(f),
            SecureError::Refused => f.write_str("server refused SSL"),
            SecureError::BadAnswer(byte) => write!(f, "bad sslreq answer '{}'", byte.escape_ascii()),
            SecureError::ErrorAnswer(text) => write!(f, "bad sslreq answer: an error message, unauthenticated: {text}"),
            SecureError::Smuggled => f.write_str("received unencrypted data after SSL response"),
            SecureError::Setup(error) => write!(f, "TLS connect error: {error}"),
            SecureError::Handshake(error) => write!(f, "TLS handshake error: {error}"),
            SecureError::DirectHandshake(error) => write!(f, "TLS handshake error (direct): {error}"),
            // libpq's words.
            SecureError::NoAlpn => {
                f.write_str("direct SSL connection was established without ALPN protocol negotiation extension")
            }
        }
    }
}

/// Makes a fresh connection to `host` a TLS connection, if it is to be one. There is no TLS over
/// Unix sockets.
pub(crate) async fn secure(stream: &mut Stream, host: &str, dialer: &Dialer) -> Result<(), SecureError> {
    if stream.is_unix() {
        return Ok(());
    }
    let Some(tls) = dialer.begin(host) else { return Ok(()) };
    let tls = tls.map_err(SecureError::Setup)?;
    if dialer.is_direct {
        stream.start_tls(tls, None).await.map_err(SecureError::DirectHandshake)?;
        let has_alpn = stream.tls().is_some_and(|tls| tls.lock().has_alpn());
        return if has_alpn { Ok(()) } else { Err(SecureError::NoAlpn) };
    }
    stream.write_all(&SSL_REQUEST).await.map_err(SecureError::Io)?;
    match stream.read_u8().await.map_err(SecureError::Io)? {
        b'S' => {}
        b'N' if dialer.is_required() => return Err(SecureError::Refused),
        b'N' => return Ok(()),
        backend::ERROR_RESPONSE => return Err(error_answer(stream).await),
        other => return Err(SecureError::BadAnswer(other)),
    }
    // The server waits for us to begin.
    if stream.unread().is_some() {
        return Err(SecureError::Smuggled);
    }
    stream.start_tls(tls, None).await.map_err(SecureError::Handshake)
}

/// Reads the rest of an error message, for the log alone.
async fn error_answer(stream: &mut Stream) -> SecureError {
    let text = match Wire::begun(stream, vec![backend::ERROR_RESPONSE]).next().await {
        Ok(message) => ServerError::parse(&message.body).to_string(),
        Err(WireError::Unframed(text)) => text,
        Err(_) => return SecureError::BadAnswer(backend::ERROR_RESPONSE),
    };
    SecureError::ErrorAnswer(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}
