//! SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677), both roles, as state machines without I/O.
//!
//! A step takes the peer's message, consumes the state and gives the next one, so that no
//! message can be answered twice:
//! ```text
//! server role   ScramServer --client-first--> ServerFinal --client-final--> ScramKeys
//! client role   ScramClient --server-first--> Challenge --keys--> ClientFinal --server-final--> ()
//! ```
//! The expensive part, [`ScramKeys::from_password`], is a call of its own: the caller decides
//! on which thread it runs and what it caches. The server role needs the verifier for the last
//! step only, so that a user's first message is answered before it is made, or without it.
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>

mod binding;
mod client;
mod keys;
mod message;
mod server;
mod verifier;

pub use binding::ChannelBinding;
pub use client::{Challenge, ClientFinal, ScramClient};
pub use keys::ScramKeys;
pub use server::{ScramServer, ServerFinal};
pub use verifier::{SALT_LEN, SaltSecret, Verifier};

use std::fmt;

/// Random bytes of a nonce, as many as PostgreSQL takes; base64 makes 24 characters of them.
pub const NONCE_LEN: usize = 18;

/// PostgreSQL's and PgBouncer's default for what a password is hashed with.
pub const ITERATIONS_DEFAULT: u32 = 4096;

/// The most iterations that a server may ask of us: some seconds of computation, which a
/// server that lies about it could otherwise make hours.
pub const ITERATIONS_MAX: u32 = 10_000_000;

/// Why an exchange failed. Meant for the log: the peer is told nothing but that it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScramError {
    /// Not the syntax of RFC 5802. Names the part.
    Malformed(&'static str),
    /// The message, or the nonce in it, is longer than any honest peer's.
    TooLong,
    /// The client binds the channel, but not by the mechanism that does, or there is none.
    ChannelBindingRequired,
    /// The client has chosen the mechanism that binds the channel, and does not.
    ChannelBindingMissing,
    /// The client can bind the channel and has not seen that we offered it: somebody between
    /// has taken the offer away.
    ChannelBindingDowngrade,
    /// Not `tls-server-end-point`.
    ChannelBindingType,
    /// The header repeated in client-final is not the one in client-first, or the certificate
    /// that the client has seen is not ours.
    ChannelBindingMismatch,
    /// The client wants to act as someone else.
    AuthorizationIdentity,
    /// A mandatory extension (`m=`), of which there are none.
    MandatoryExtension,
    NonceMismatch,
    /// Wrong password, or a user that does not exist.
    WrongProof,
    /// Zero or more than [`ITERATIONS_MAX`].
    IterationCount,
    /// The server does not know our keys: it is not the one that it says it is.
    WrongServerSignature,
    /// The server's own error value, such as `invalid-proof`.
    ServerError(String),
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            ScramError::Malformed(part) => {
                return write!(f, "malformed SCRAM message ({part})");
            }
            ScramError::ServerError(text) => {
                return write!(f, "error received from server in SCRAM exchange: {text}");
            }
            ScramError::TooLong => "SCRAM message too long",
            ScramError::ChannelBindingRequired => "client requires SCRAM channel binding, but it is not supported",
            ScramError::ChannelBindingMissing => "client selected SCRAM-SHA-256-PLUS, but sent no channel-binding data",
            ScramError::ChannelBindingDowngrade => {
                "client supports SCRAM channel binding but thinks the server does not"
            }
            ScramError::ChannelBindingType => "unsupported SCRAM channel-binding type",
            ScramError::ChannelBindingMismatch => "SCRAM channel binding check failed",
            ScramError::AuthorizationIdentity => "client uses authorization identity, but it is not supported",
            ScramError::MandatoryExtension => "peer requires an unsupported SCRAM extension",
            ScramError::NonceMismatch => "invalid SCRAM response (nonce mismatch)",
            ScramError::WrongProof => "password authentication failed",
            ScramError::IterationCount => "SCRAM iteration count out of range",
            ScramError::WrongServerSignature => "invalid SCRAM server signature",
        };
        f.write_str(text)
    }
}

impl std::error::Error for ScramError {}

#[cfg(test)]
mod tests;
