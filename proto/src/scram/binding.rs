//! Channel binding: the proof covers a hash of the server's certificate, so that whoever stands
//! between two TLS connections cannot carry it from one to the other. PostgreSQL has the type
//! `tls-server-end-point` of RFC 5929 and no other.

use std::fmt;

use super::message;

/// The flag of a client that binds the channel.
pub(super) const BOUND: &str = "p=tls-server-end-point";

/// What becomes of channel binding in an exchange.
#[derive(Clone, PartialEq, Eq)]
pub enum ChannelBinding {
    /// There is nothing to bind to: no TLS, or a certificate that no hash is defined for.
    Unavailable,
    /// There is, but the mechanism is the one without. Server role: both were offered. Client
    /// role: the server did not offer the other.
    Unused,
    /// SCRAM-SHA-256-PLUS, with the hash of the server's certificate.
    EndPoint(Vec<u8>),
}

/// A hash of what everybody can see, but nothing that anybody wants to read.
impl fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChannelBinding::Unavailable => "Unavailable",
            ChannelBinding::Unused => "Unused",
            ChannelBinding::EndPoint(_) => "EndPoint(..)",
        })
    }
}

impl ChannelBinding {
    /// The client's flag, and no authorization identity: it acts as no one else.
    pub(super) fn gs2_header(&self) -> String {
        let flag = match self {
            ChannelBinding::Unavailable => "n",
            ChannelBinding::Unused => "y",
            ChannelBinding::EndPoint(_) => BOUND,
        };
        format!("{flag},,")
    }

    /// The value of `c=` in client-final, of an exchange that began with `gs2_header`.
    pub(super) fn attribute(&self, gs2_header: &str) -> String {
        let mut bytes = gs2_header.as_bytes().to_vec();
        if let ChannelBinding::EndPoint(hash) = self {
            bytes.extend_from_slice(hash);
        }
        message::encode(&bytes)
    }
}
