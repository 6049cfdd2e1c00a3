//! A client's connection from the handshake's end on: its keys are ours, and can go to another process.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::{CipherSuite, HandshakeKind};

use super::conn::{Sink, TlsError};
use super::keys::{Overheard, Suite, TlsSecret, secret_of};
use super::records::{Records, TlsKeys};

/// A connection that a client has asked for.
pub(super) struct Accepted {
    pub(super) connection: UnbufferedServerConnection,
    /// The hash of the certificate that we have shown, if it has one: by now there may be
    /// another in force.
    pub(super) end_point: Option<Arc<[u8]>>,
    pub(super) overheard: Arc<Overheard>,
}

pub(super) struct Settled {
    records: Records,
    /// Version and cipher, as OpenSSL calls them.
    pub(super) description: Arc<str>,
    /// What only a login asks for; `None`: it was in another process.
    pub(super) login: Option<Login>,
    /// The keys are another process' now: records with the same number under the same key give it away.
    pub(super) is_away: bool,
}

/// What a handshake has brought to light.
pub(super) struct Login {
    pub(super) certificate: Option<CertificateDer<'static>>,
    pub(super) end_point: Option<Arc<[u8]>>,
    pub(super) is_resumed: bool,
    pub(super) has_alpn: bool,
}

/// All that another process needs to go on with a client's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsState {
    pub(crate) description: Arc<str>,
    /// Ciphertext that was received and is no whole record.
    pub(crate) partial: Vec<u8>,
    /// Records that go out in front of the next.
    pub(crate) out: Vec<u8>,
    pub(crate) keys: TlsKeys,
}

impl Settled {
    /// Takes the keys out of rustls.
    pub(super) fn new(accepted: Accepted, description: Arc<str>) -> Result<Settled, TlsError> {
        let Accepted { connection, end_point, overheard } = accepted;
        let login = Login {
            certificate: connection.peer_certificates().and_then(|chain| chain.first()).cloned(),
            end_point,
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            has_alpn: connection.alpn_protocol().is_some(),
        };
        let suite = connection.negotiated_cipher_suite().ok_or(TlsError::Ended)?.suite();
        let (extracted, _) = connection.dangerous_into_kernel_connection()?;
        let secrets = [&extracted.rx.1, &extracted.tx.1].map(secret_of);
        let [Some(received), Some(sent)] = keys_of(suite, secrets, &overheard) else { return Err(TlsError::Ended) };
        // What the handshake has sent with them is next to nothing.
        let (sent, received) = ((extracted.tx.0, sent), (extracted.rx.0, received));
        let keys = TlsKeys { suite: suite.into(), sent, sent_blocks: 0, received };
        let records = Records::new(keys).ok_or(TlsError::Ended)?;
        Ok(Settled { records, description, login: Some(login), is_away: false })
    }

    /// One of another process. `None`: the keys make no sense.
    pub(super) fn adopt(keys: TlsKeys, description: Arc<str>) -> Option<Settled> {
        Some(Settled { records: Records::new(keys)?, description, login: None, is_away: false })
    }

    /// `None`: another process has them already.
    pub(super) fn hand_out(&mut self) -> Option<TlsKeys> {
        (!std::mem::replace(&mut self.is_away, true)).then(|| self.records.keys())
    }

    /// Goes through `input` and encrypts `text`, of which an empty one stands for its end.
    pub(super) fn go_on(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        text: Option<&[u8]>,
        sink: &mut Sink<'_>,
        out: &mut Vec<u8>,
        is_ended: &mut bool,
    ) -> Result<(), TlsError> {
        if self.is_away {
            return Err(TlsError::Ended);
        }
        let done = self.records.open(input, at, sink, out, is_ended).and_then(|()| match text {
            None => Ok(()),
            Some([]) => self.records.seal_end(out),
            Some(text) => self.records.seal(text, out),
        });
        if let Err(error) = &done {
            self.records.seal_alert(error, out);
        }
        done
    }
}

/// What the client's keys and ours come from. `None`: not from what was heard, as the client has changed its keys before
/// it has said anything, which no client does.
fn keys_of(suite: CipherSuite, extracted: [Option<TlsSecret>; 2], overheard: &Overheard) -> [Option<TlsSecret>; 2] {
    let Some(heard) = overheard.take() else { return extracted };
    let mut extracted = extracted.into_iter();
    heard.map(|secret| {
        let made = Suite::find(suite)?.key_and_iv(&secret)?;
        (made == extracted.next()??).then_some(secret)
    })
}
