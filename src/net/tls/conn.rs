//! One TLS connection, without its socket: ciphertext in, plaintext out, and back.
//!
//! rustls is driven through its unbuffered interface, so that what is read is decrypted in the
//! reader's own buffer, and an idle connection holds no buffer at all. A client's connection parts
//! from it when the handshake is over: from then on its keys are ours, and can go to another process.

use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, HandshakeKind, PeerIncompatible, ProtocolVersion};

use super::ciphers;
use super::end_point::end_point;
use super::keys::FRAGMENT_LEN;
use super::records;
use super::settled::{Accepted, Login, Settled, TlsState};
use super::verify::Recheck;

/// The longest record on the wire: header, 16 KB of text, and what encryption adds.
pub(crate) const RECORD_LEN_MAX: usize = 5 + 16 * 1024 + 2048;

/// What a record adds to its text at the most, in the versions and ciphers that we have.
const RECORD_OVERHEAD: usize = 32;

/// Why a connection cannot go on, in words for the log.
#[derive(Debug)]
pub(crate) enum TlsError {
    Protocol(rustls::Error),
    /// No more may be encrypted with the keys, and TLS 1.2 has no others.
    UsedUp,
    /// The peer has ended the connection, or we have.
    Ended,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // OpenSSL's words, which people look for in logs.
            TlsError::Protocol(rustls::Error::InvalidCertificate(error)) => {
                write!(f, "certificate verify failed: {error}")
            }
            TlsError::Protocol(rustls::Error::PeerIncompatible(
                // The last of them every hello of a newer version has.
                error @ (PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired),
            )) => write!(f, "unsupported protocol: {error:?}"),
            TlsError::Protocol(rustls::Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon)) => {
                f.write_str("no shared cipher")
            }
            TlsError::Protocol(error) => error.fmt(f),
            TlsError::UsedUp => f.write_str("the keys are used up"),
            TlsError::Ended => f.write_str("the connection has ended"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> TlsError {
        TlsError::Protocol(error)
    }
}

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Phase {
    /// The peer must say more first.
    Handshake,
    /// Both sides may send.
    Traffic,
    /// Both have said that they send no more.
    Closed,
}

enum Side {
    /// A client's, until its handshake is over.
    Server(Box<Accepted>),
    Client(Box<UnbufferedClientConnection>),
    /// A client's after that.
    Settled(Box<Settled>),
}

/// A connection's keys, and what lies between two records.
pub(crate) struct Tls {
    side: Side,
    /// Ciphertext that is no whole record, or no whole message of a handshake.
    partial: Vec<u8>,
    /// Plaintext for which the reader had no room, from `taken` on.
    plain: Vec<u8>,
    taken: usize,
    /// Records that go out before any that are made later.
    out: Vec<u8>,
    /// The peer sends no more.
    is_ended: bool,
    /// We have said that we send no more, or an error has come: nothing works any more.
    is_over: bool,
    /// Until the handshake is over. `None` also where peers are not asked for certificates.
    recheck: Option<Recheck>,
}

/// Keys are nobody's business.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("is_ended", &self.is_ended).finish_non_exhaustive()
    }
}

/// Where plaintext goes: to the reader as long as it has room, the rest aside.
pub(super) struct Sink<'a> {
    pub(super) room: &'a mut [u8],
    pub(super) filled: &'a mut usize,
    pub(super) rest: &'a mut Vec<u8>,
}

impl Sink<'_> {
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let at = *self.filled;
        let n = if self.rest.is_empty() { bytes.len().min(self.room.len() - at) } else { 0 };
        self.room[at..at + n].copy_from_slice(&bytes[..n]);
        *self.filled += n;
        self.rest.extend_from_slice(&bytes[n..]);
    }
}

/// What is next after a state of rustls was dealt with.
enum Next {
    Again,
    Rest(Phase),
}

/// Deals with one state; returns how many bytes in front of the input are done with.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    text: Option<&[u8]>,
    sink: &mut Sink<'_>,
    out: &mut Vec<u8>,
    is_ended: &mut bool,
) -> (usize, Result<Next, TlsError>) {
    let mut discard = status.discard;
    let next = match status.state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Next::Again),
                Some(Err(error)) => break Err(error.into()),
                Some(Ok(record)) => {
                    discard += record.discard;
                    sink.put(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(|room| data.encode(room), out),
        // It is in `out`, which nothing overtakes.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::PeerClosed) => {
            *is_ended = true;
            Ok(Next::Again)
        }
        Ok(ConnectionState::Closed) => {
            *is_ended = true;
            Ok(Next::Rest(Phase::Closed))
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Next::Rest(Phase::Handshake)),
        Ok(ConnectionState::WriteTraffic(traffic)) => {
            text.map_or(Ok(()), |text| encrypt(traffic, text, out)).map(|()| Next::Rest(Phase::Traffic))
        }
        // Early data is not offered to anybody.
        Ok(_) => Err(TlsError::Ended),
        Err(error) => Err(error.into()),
    };
    (discard, next)
}

fn encode(
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    out: &mut Vec<u8>,
) -> Result<Next, TlsError> {
    let at = out.len();
    let len = match encode(&mut []) {
        Ok(len) => len,
        Err(EncodeError::InsufficientSize(size)) => {
            out.resize(at + size.required_size, 0);
            encode(&mut out[at..]).map_err(|_| TlsError::Ended)?
        }
        Err(EncodeError::AlreadyEncoded) => return Err(TlsError::Ended),
    };
    out.truncate(at + len);
    Ok(Next::Again)
}

/// Adds `text` to `out` in as few records as it takes; an empty one is the end of the traffic.
fn encrypt<D>(mut traffic: WriteTraffic<'_, D>, text: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
    let at = out.len();
    let mut room = text.len() + (text.len() / FRAGMENT_LEN + 1) * RECORD_OVERHEAD;
    loop {
        out.resize(at + room, 0);
        let done = match text.is_empty() {
            true => traffic.queue_close_notify(&mut out[at..]),
            false => traffic.encrypt(text, &mut out[at..]),
        };
        match done {
            Ok(len) => {
                out.truncate(at + len);
                return Ok(());
            }
            // New keys have to be announced in front of it.
            Err(EncryptError::InsufficientSize(size)) if size.required_size > room => room = size.required_size,
            Err(_) => {
                out.truncate(at);
                return Err(TlsError::Ended);
            }
        }
    }
}

impl Tls {
    /// `early` is what was read of the connection already.
    pub(super) fn server(accepted: Accepted, early: &[u8], recheck: Option<Recheck>) -> Tls {
        Tls::new(Side::Server(Box::new(accepted)), early, recheck)
    }

    pub(super) fn client(connection: UnbufferedClientConnection, recheck: Option<Recheck>) -> Tls {
        Tls::new(Side::Client(Box::new(connection)), &[], recheck)
    }

    /// A connection of another process. `None`: it makes no sense.
    pub(in crate::net) fn adopt(state: TlsState) -> Option<Tls> {
        let TlsState { description, partial, out, keys } = state;
        let settled = Settled::adopt(keys, description)?;
        let mut tls = Tls::new(Side::Settled(Box::new(settled)), &partial, None);
        tls.out = out;
        Some(tls)
    }

    fn new(side: Side, early: &[u8], recheck: Option<Recheck>) -> Tls {
        Tls {
            side,
            partial: early.to_vec(),
            plain: Vec::new(),
            taken: 0,
            out: Vec::new(),
            is_ended: false,
            is_over: false,
            recheck,
        }
    }

    /// What rustls knows of it; nothing of a client's connection after the handshake.
    fn common(&self) -> Option<&CommonState> {
        match &self.side {
            Side::Server(accepted) => Some(&accepted.connection),
            Side::Client(connection) => Some(connection),
            Side::Settled(_) => None,
        }
    }

    fn login(&self) -> Option<&Login> {
        match &self.side {
            Side::Settled(settled) => settled.login.as_ref(),
            _ => None,
        }
    }

    /// Deals with the next state: how much in front of `input` is done with, and what is next.
    fn step(
        &mut self,
        input: &mut [u8],
        text: Option<&[u8]>,
        room: &mut [u8],
        filled: &mut usize,
    ) -> (usize, Result<Next, TlsError>) {
        let Tls { side, plain, out, is_ended, .. } = self;
        let mut sink = Sink { room, filled, rest: plain };
        match side {
            Side::Server(a) => step(a.connection.process_tls_records(input), text, &mut sink, out, is_ended),
            Side::Client(c) => step(c.process_tls_records(input), text, &mut sink, out, is_ended),
            Side::Settled(settled) => {
                let mut at = 0;
                let done = settled.go_on(input, &mut at, text, &mut sink, out, is_ended);
                (at, done.map(|()| Next::Rest(Phase::Traffic)))
            }
        }
    }

    /// Goes through `input` until more is needed, and encrypts `text`, if any, once it may. Leaves
    /// in `at` how much of `input` is done with. Returns how much of `room` is filled.
    fn run(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        text: Option<&[u8]>,
        room: &mut [u8],
    ) -> Result<(usize, Phase), TlsError> {
        if self.is_over {
            return Err(TlsError::Ended);
        }
        let mut filled = 0;
        loop {
            let (discard, next) = self.step(&mut input[*at..], text, room, &mut filled);
            *at += discard;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Rest(phase)) => return Ok((filled, phase)),
                Err(error) => {
                    self.is_over = true;
                    return Err(error);
                }
            }
        }
    }

    /// How many bytes of ciphertext are kept, to stand in front of what is read next.
    pub(in crate::net) fn kept(&self) -> &[u8] {
        &self.partial
    }

    /// Decrypts `input`, which begins with what was kept; what is no whole record is kept. Of the
    /// plaintext, what has no room in `room` is kept for `take_plain`.
    pub(in crate::net) fn open(&mut self, input: &mut [u8], room: &mut [u8]) -> Result<usize, TlsError> {
        let mut at = 0;
        let (filled, _) = self.run(input, &mut at, None, room)?;
        self.keep(&input[at..]);
        Ok(filled)
    }

    /// It is for the peer to begin, of which nothing was read yet.
    pub(in crate::net) fn waits_for_hello(&self) -> bool {
        matches!(self.side, Side::Server { .. })
            && self.partial.is_empty()
            && self.common().is_some_and(|common| common.protocol_version().is_none())
    }

    /// What costs something is computed: only the Finished of a peer who shows no certificate is to come.
    pub(in crate::net) fn is_nearly_done(&self) -> bool {
        let Some(common) = self.common() else { return false };
        matches!(self.side, Side::Server { .. })
            && common.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            // Not if another hello was asked for: that is to come first.
            && matches!(common.handshake_kind(), Some(HandshakeKind::Full | HandshakeKind::Resumed))
            && self.recheck.is_none()
    }

    /// Goes on with the handshake. `more` has just been read.
    pub(in crate::net) fn advance(&mut self, more: &[u8]) -> Result<Phase, TlsError> {
        let mut input = std::mem::take(&mut self.partial);
        input.extend_from_slice(more);
        let mut at = 0;
        let ran = self.run(&mut input, &mut at, None, &mut []);
        if ran.is_err() && self.common().is_some_and(CommonState::wants_write) {
            // The alert for the peer.
            let _ = self.step(&mut input[at..], None, &mut [], &mut 0);
        }
        let (_, phase) = ran?;
        self.keep(&input[at..]);
        if phase == Phase::Traffic && self.is_resumed() {
            self.recheck(UnixTime::now())?;
        }
        Ok(phase)
    }

    /// Looks at the peer of a resumed session as if it had just shown its certificate.
    fn recheck(&mut self, now: UnixTime) -> Result<(), TlsError> {
        let Some(recheck) = self.recheck.take() else { return Ok(()) };
        let checked = recheck.check(self.common().and_then(CommonState::peer_certificates), now);
        self.is_over |= checked.is_err();
        Ok(checked?)
    }

    fn keep(&mut self, rest: &[u8]) {
        // Nothing is left as a rule, and then nothing is to be held.
        self.partial = rest.to_vec();
    }

    /// Encrypts `text` behind what is in `into`, with whatever has to go out before it.
    pub(crate) fn seal(&mut self, text: &[u8], into: &mut Vec<u8>) -> Result<(), TlsError> {
        if text.is_empty() {
            return Ok(());
        }
        self.seal_any(text, into)
    }

    /// Says that we send no more.
    fn seal_end(&mut self, into: &mut Vec<u8>) -> Result<(), TlsError> {
        let sealed = self.seal_any(&[], into);
        self.is_over = true;
        sealed
    }

    /// The last that goes out: `text` and that nothing follows, or after an error the alert that says so.
    pub(in crate::net) fn end(&mut self, text: &[u8]) -> Vec<u8> {
        if self.is_over {
            return std::mem::take(&mut self.out);
        }
        let mut out = Vec::new();
        if self.seal(text, &mut out).and_then(|()| self.seal_end(&mut out)).is_err() {
            out.clear();
        }
        out
    }

    fn seal_any(&mut self, text: &[u8], into: &mut Vec<u8>) -> Result<(), TlsError> {
        into.append(&mut self.out);
        std::mem::swap(into, &mut self.out);
        // rustls may have noted how far it is in what is kept, so it has to see that again.
        let mut input = std::mem::take(&mut self.partial);
        let mut at = 0;
        let ran = self.run(&mut input, &mut at, Some(text), &mut []);
        std::mem::swap(into, &mut self.out);
        input.drain(..at);
        self.partial = input;
        let (_, phase) = ran?;
        if phase == Phase::Traffic { Ok(()) } else { Err(TlsError::Ended) }
    }

    /// Records that are to be sent, for whoever sends them at once.
    pub(in crate::net) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Moves plaintext that was kept to `room`.
    pub(in crate::net) fn take_plain(&mut self, room: &mut [u8]) -> usize {
        let left = &self.plain[self.taken..];
        let n = left.len().min(room.len());
        room[..n].copy_from_slice(&left[..n]);
        self.taken += n;
        if self.taken == self.plain.len() {
            (self.plain, self.taken) = (Vec::new(), 0);
        }
        n
    }

    /// Something was received that nobody has read: text, or a part of a record.
    pub(in crate::net) fn has_unread(&self) -> bool {
        !(self.plain.is_empty() && self.partial.is_empty())
    }

    pub(in crate::net) fn is_ended(&self) -> bool {
        self.is_ended
    }

    pub(in crate::net) fn set_ended(&mut self) {
        self.is_ended = true;
    }

    /// The handshake is over: gives back what it needed, and takes a client's connection over from rustls.
    pub(in crate::net) fn settle(mut self) -> Result<Tls, TlsError> {
        self.recheck = None;
        self.out.shrink_to_fit();
        self.partial.shrink_to_fit();
        let description = self.description();
        self.side = match self.side {
            Side::Server(accepted) => {
                // rustls keeps what it has begun to read in front of the rest.
                if !(self.partial.is_empty() || records::is_part(&self.partial)) {
                    return Err(TlsError::Ended);
                }
                Side::Settled(Box::new(Settled::new(*accepted, description)?))
            }
            side => side,
        };
        Ok(self)
    }

    /// It can go to another process as it is: what was received is read, but for a part of a record.
    pub(in crate::net) fn is_portable(&self) -> bool {
        matches!(self.side, Side::Settled(_)) && self.plain.is_empty() && !self.is_ended && !self.is_over
    }

    /// For another process, which has the keys from here on. `None`: it cannot go.
    pub(crate) fn hand_out(&mut self) -> Option<TlsState> {
        let is_portable = self.is_portable();
        let Side::Settled(settled) = &mut self.side else { return None };
        let keys = if is_portable { settled.hand_out()? } else { return None };
        let (partial, out) = (self.partial.clone(), self.out.clone());
        Some(TlsState { description: Arc::clone(&settled.description), partial, out, keys })
    }

    /// The other process has never used the keys.
    pub(crate) fn take_back(&mut self) {
        if let Side::Settled(settled) = &mut self.side {
            settled.is_away = false;
        }
    }

    /// The handshake was a short one, with keys from an earlier connection.
    pub(crate) fn is_resumed(&self) -> bool {
        let is_short = |common: &CommonState| common.handshake_kind() == Some(HandshakeKind::Resumed);
        self.common().map_or_else(|| self.login().is_some_and(|login| login.is_resumed), is_short)
    }

    /// ALPN agreed on a protocol; there is only ours.
    pub(crate) fn has_alpn(&self) -> bool {
        let has = |common: &CommonState| common.alpn_protocol().is_some();
        self.common().map_or_else(|| self.login().is_some_and(|login| login.has_alpn), has)
    }

    /// The certificate that the peer has shown and that was verified.
    pub(crate) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self.common() {
            Some(common) => common.peer_certificates()?.first(),
            None => self.login()?.certificate.as_ref(),
        }
    }

    /// What a login inside of this connection can be bound to: the hash of the server's
    /// certificate, which is ours or the peer's. `None` where it has none.
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        let ours = match &self.side {
            Side::Server(accepted) => accepted.end_point.as_deref(),
            Side::Settled(settled) => settled.login.as_ref()?.end_point.as_deref(),
            Side::Client(_) => return end_point(self.peer_certificate()?),
        };
        ours.map(<[u8]>::to_vec)
    }

    /// Version and cipher, as OpenSSL calls them.
    pub(crate) fn description(&self) -> Arc<str> {
        match &self.side {
            Side::Server(accepted) => describe(&accepted.connection).into(),
            Side::Client(connection) => describe(connection).into(),
            Side::Settled(settled) => Arc::clone(&settled.description),
        }
    }
}

fn describe(common: &CommonState) -> String {
    let suite = common.negotiated_cipher_suite().map_or("-", |suite| ciphers::openssl_name(suite.suite()));
    match common.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => format!("TLSv1.3/{suite}"),
        _ => match common.negotiated_key_exchange_group() {
            Some(group) => format!("TLSv1.2/{suite}/ECDH={}", ciphers::group_name(group.name())),
            // A resumed session exchanges no keys.
            None => format!("TLSv1.2/{suite}"),
        },
    }
}

#[cfg(test)]
mod tests;
