//! A connection after its handshake, when all that is left of TLS is records: text, alerts, new keys.
//!
//! rustls makes the connection and hands its secrets out, but takes none from another process. So a client's
//! connection goes on here, with rustls' rules and its limits against peers that keep us busy for nothing.

use rustls::{AlertDescription, CipherSuite, ContentType, HandshakeType, InvalidMessage, PeerMisbehaved};

use super::conn::{Sink, TlsError};
use super::keys::{FRAGMENT_LEN, HEADER_LEN, Keys, Suite, TlsSecret, inappropriate};

/// A record's payload is shorter.
const PAYLOAD_LEN_MAX: usize = 16 * 1024 + 2048;
/// What a record adds to its text at the most: header, a part of the nonce or the kind, tag.
const OVERHEAD: usize = HEADER_LEN + 8 + 16;

/// As rustls and BoringSSL have it: more than these in a row, or (warnings) in all, are an attack.
const KEY_UPDATES_MAX: u8 = 32;
const EMPTY_MAX: u8 = 32;
const WARNINGS_MAX: u8 = 4;

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// KeyUpdate, but for its last byte: whether the peer is to change its keys, too.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
const CLIENT_HELLO: u8 = 1;

pub(super) struct Records {
    sent: Keys,
    received: Keys,
    /// New keys of the peer since it has last said something.
    key_updates: u8,
    /// Records without text in a row.
    empty: u8,
    warnings: u8,
}

/// What of the keys another process needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsKeys {
    /// Its number.
    pub(crate) suite: u16,
    /// How many records were sent and received with the keys, and what those come from.
    pub(crate) sent: (u64, TlsSecret),
    /// How much that was, in what their limit is counted in.
    pub(crate) sent_blocks: u64,
    pub(crate) received: (u64, TlsSecret),
}

/// How long the record is that `input` begins with; `None`: not all of its header is there.
fn record_len(input: &[u8]) -> Result<Option<usize>, rustls::Error> {
    let Some(&[kind, major, _, hi, lo]) = input.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([hi, lo]));
    let kind = ContentType::from(kind);
    if matches!(kind, ContentType::Unknown(_)) {
        return Err(InvalidMessage::InvalidContentType.into());
    }
    if major != 3 {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    if len == 0 && kind != ContentType::ApplicationData {
        return Err(InvalidMessage::InvalidEmptyPayload.into());
    }
    if len >= PAYLOAD_LEN_MAX {
        return Err(InvalidMessage::MessageTooLarge.into());
    }
    Ok(Some(HEADER_LEN + len))
}

/// The alert that RFC 8446 (5.1, 5.2, 6.2) and RFC 5246 (7.2.2) have for an error. `None`: the peer has said it itself.
fn alert_of(error: &TlsError) -> Option<[u8; 2]> {
    use rustls::Error as E;
    let error = match error {
        TlsError::Protocol(error) => error,
        TlsError::UsedUp => return Some([WARNING, AlertDescription::CloseNotify.into()]),
        TlsError::Ended => return None,
    };
    let description = match error {
        E::PeerMisbehaved(PeerMisbehaved::TooManyRenegotiationRequests) => {
            return Some([WARNING, AlertDescription::NoRenegotiation.into()]);
        }
        E::DecryptError => AlertDescription::BadRecordMac,
        E::PeerSentOversizedRecord | E::InvalidMessage(InvalidMessage::MessageTooLarge) => {
            AlertDescription::RecordOverflow
        }
        E::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => AlertDescription::IllegalParameter,
        E::InvalidMessage(_) => AlertDescription::DecodeError,
        E::PeerMisbehaved(_) | E::InappropriateMessage { .. } | E::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        _ => return None,
    };
    Some([FATAL, description.into()])
}

/// `input` does not begin with a whole record: nobody has looked into it.
pub(super) fn is_part(input: &[u8]) -> bool {
    matches!(record_len(input), Ok(None)) || matches!(record_len(input), Ok(Some(len)) if len > input.len())
}

impl Records {
    /// `None`: keys that make no sense.
    pub(super) fn new(keys: TlsKeys) -> Option<Records> {
        let suite = Suite::find(CipherSuite::from(keys.suite))?;
        Some(Records {
            sent: Keys::new(suite, keys.sent.1, keys.sent.0, keys.sent_blocks)?,
            received: Keys::new(suite, keys.received.1, keys.received.0, 0)?,
            key_updates: 0,
            empty: 0,
            warnings: 0,
        })
    }

    pub(super) fn keys(&self) -> TlsKeys {
        let of = |keys: &Keys| (keys.seq(), keys.secret().clone());
        let (suite, sent_blocks) = (self.sent.suite().id.into(), self.sent.blocks());
        TlsKeys { suite, sent: of(&self.sent), sent_blocks, received: of(&self.received) }
    }

    /// Goes through the whole records in `input` from `at` on, and leaves in `at` how far it has come. What is to be
    /// sent for it in front of the next text goes to `out`.
    pub(super) fn open(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        sink: &mut Sink<'_>,
        out: &mut Vec<u8>,
        is_ended: &mut bool,
    ) -> Result<(), TlsError> {
        while !*is_ended {
            let Some(len) = record_len(&input[*at..])?.filter(|len| *len <= input.len() - *at) else { return Ok(()) };
            let (kind, text) = self.received.open(&mut input[*at..*at + len])?;
            *at += len;
            self.empty = if text.is_empty() { self.empty + 1 } else { 0 };
            if self.empty > EMPTY_MAX {
                return Err(rustls::Error::from(PeerMisbehaved::TooManyEmptyFragments).into());
            }
            match kind {
                ContentType::ApplicationData => {
                    self.key_updates = 0;
                    sink.put(text);
                }
                ContentType::Alert => *is_ended = self.is_end(text)?,
                ContentType::Handshake => self.shake(text, out)?,
                other => return Err(inappropriate(other).into()),
            }
        }
        // Nothing counts behind the end.
        *at = input.len();
        Ok(())
    }

    /// Whether the alert says that the peer sends no more; any other that counts is an error.
    fn is_end(&mut self, alert: &[u8]) -> Result<bool, rustls::Error> {
        let &[level @ (WARNING | FATAL), description] = alert else {
            return Err(InvalidMessage::MissingData("Alert").into());
        };
        let description = AlertDescription::from(description);
        if description == AlertDescription::CloseNotify {
            return Ok(true);
        }
        let is_outlawed = self.received.suite().is_tls13() && description != AlertDescription::UserCanceled;
        if level == FATAL || is_outlawed {
            return Err(rustls::Error::AlertReceived(description));
        }
        self.warnings += 1;
        if self.warnings > WARNINGS_MAX {
            return Err(PeerMisbehaved::TooManyWarningAlertsReceived.into());
        }
        Ok(false)
    }

    /// The peer has new keys (TLS 1.3; alone in its record, as it must be), or wants others (TLS 1.2).
    fn shake(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let is_tls13 = self.received.suite().is_tls13();
        match message.split_last() {
            Some((asks, kind_and_len)) if is_tls13 && kind_and_len == KEY_UPDATE && *asks <= 1 => {
                self.key_updates += 1;
                if self.key_updates > KEY_UPDATES_MAX {
                    return Err(rustls::Error::from(PeerMisbehaved::TooManyKeyUpdateRequests).into());
                }
                // One answer is enough for all that were asked before it goes out.
                if *asks == 1 && out.is_empty() {
                    self.renew(0, out)?;
                }
                self.received.update().ok_or(TlsError::Ended)
            }
            Some((_, kind_and_len)) if is_tls13 && kind_and_len == KEY_UPDATE => {
                Err(rustls::Error::from(InvalidMessage::InvalidKeyUpdate).into())
            }
            // The peer waits for an answer, and only one that ends the connection does not wait for text to go out with.
            Some(_) if !is_tls13 && message[0] == CLIENT_HELLO => {
                Err(rustls::Error::from(PeerMisbehaved::TooManyRenegotiationRequests).into())
            }
            _ => Err(rustls::Error::InappropriateHandshakeMessage {
                expect_types: vec![HandshakeType::KeyUpdate],
                got_type: message.first().map_or(HandshakeType::HelloRequest, |kind| HandshakeType::from(*kind)),
            }
            .into()),
        }
    }

    /// Tells the peer of the error that has ended the connection, if that is for us to tell.
    pub(super) fn seal_alert(&mut self, error: &TlsError, out: &mut Vec<u8>) {
        if let Some(alert) = alert_of(error) {
            // Without keys that may still be used, nothing can be said.
            let _ = self.sent.seal(ContentType::Alert, &alert, out);
        }
    }

    /// Sends with new keys from here on; 1: the peer is asked to do the same.
    fn renew(&mut self, asks: u8, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let mut message = [0; 5];
        message[..4].copy_from_slice(&KEY_UPDATE);
        message[4] = asks;
        self.sent.seal(ContentType::Handshake, &message, out)?;
        self.sent.update().ok_or(TlsError::Ended)
    }

    /// Adds records with `text` to `out`.
    pub(super) fn seal(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        out.reserve(text.len() + text.len().div_ceil(FRAGMENT_LEN) * OVERHEAD);
        for fragment in text.chunks(FRAGMENT_LEN) {
            if self.sent.are_nearly_used_up() {
                if !self.sent.suite().is_tls13() {
                    return Err(TlsError::UsedUp);
                }
                self.renew(1, out)?;
            }
            self.sent.seal(ContentType::ApplicationData, fragment, out)?;
        }
        Ok(())
    }

    /// Says that we send no more.
    pub(super) fn seal_end(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.sent.seal(ContentType::Alert, &[WARNING, AlertDescription::CloseNotify.into()], out)
    }
}

/// Both ends of a connection of which so many records were sent each way.
#[cfg(any(test, feature = "fuzzing"))]
fn pair(suite: CipherSuite, seq: u64) -> Option<[Records; 2]> {
    let len = if suite == CipherSuite::TLS13_AES_128_GCM_SHA256 { 32 } else { 28 };
    let secret = |byte| Some((seq, TlsSecret::new(&[&[byte; 32][..len]])?));
    let keys = |sent, received| {
        Some(TlsKeys { suite: suite.into(), sent: secret(sent)?, sent_blocks: 0, received: secret(received)? })
    };
    Some([Records::new(keys(1, 2)?)?, Records::new(keys(2, 1)?)?])
}

/// Whatever a peer encrypts, and whatever comes behind it, is read to its end or refused, and little is answered. `data`
/// is a version, and records: the kind, the length in two bytes, what is encrypted.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(data: &[u8]) {
    let Some((version, mut rest)) = data.split_first() else { return };
    let suite = match version % 2 {
        0 => CipherSuite::TLS13_AES_128_GCM_SHA256,
        _ => CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    };
    let [mut peer, mut ours] = pair(suite, 0).expect("keys");
    let (mut input, mut sealed_len) = (Vec::new(), 0);
    while let Some((&[kind, hi, lo], behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([hi, lo]));
        let Some((text, behind)) = behind.split_at_checked(len) else { break };
        if peer.sent.seal(kind.into(), &text[..text.len().min(FRAGMENT_LEN)], &mut input).is_err() {
            return;
        }
        (rest, sealed_len) = (behind, sealed_len + len);
    }
    input.extend_from_slice(rest);
    let (mut text, mut answer, mut is_ended, mut at) = (Vec::new(), Vec::new(), false, 0);
    let mut sink = Sink { room: &mut [], filled: &mut 0, rest: &mut text };
    let done = ours.open(&mut input, &mut at, &mut sink, &mut answer, &mut is_ended);
    assert!(text.len() <= sealed_len && answer.len() < 64);
    match done {
        Ok(()) => assert!(is_ended || is_part(&input[at..])),
        Err(_) => assert!(at <= input.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS13: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
    const TLS12: CipherSuite = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;

    fn pair(suite: CipherSuite, seq: u64) -> [Records; 2] {
        super::pair(suite, seq).unwrap()
    }

    /// Text, what is to be answered, and whether that was the end.
    fn opened(records: &mut Records, mut input: Vec<u8>) -> Result<(Vec<u8>, Vec<u8>, bool), String> {
        let (mut text, mut answer, mut is_ended, mut at) = (Vec::new(), Vec::new(), false, 0);
        let mut sink = Sink { room: &mut [], filled: &mut 0, rest: &mut text };
        let done = records.open(&mut input, &mut at, &mut sink, &mut answer, &mut is_ended);
        done.map_err(|e| e.to_string())?;
        assert_eq!(at, input.len());
        Ok((text, answer, is_ended))
    }

    fn sealed(records: &mut Records, kind: ContentType, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        records.sent.seal(kind, text, &mut out).unwrap();
        out
    }

    #[test]
    fn what_should_not_come_ends_the_connection() {
        for (suite, kind, payload, wanted) in [
            (TLS13, ContentType::Alert, &[2, 40][..], "HandshakeFailure"),
            (TLS13, ContentType::Alert, &[1, 40], "HandshakeFailure"),
            (TLS13, ContentType::Alert, &[3, 0], "Alert"),
            (TLS13, ContentType::Alert, &[1, 0, 0], "Alert"),
            (TLS13, ContentType::Handshake, &[1, 0, 0, 0], "KeyUpdate"),
            (TLS13, ContentType::Handshake, &[24, 0, 0, 1], "KeyUpdate"),
            (TLS13, ContentType::Handshake, &[24, 0, 0, 1, 2], "InvalidKeyUpdate"),
            (TLS13, ContentType::ChangeCipherSpec, &[1], "ChangeCipherSpec"),
            (TLS13, ContentType::Unknown(0), &[], "IllegalTlsInnerPlaintext"),
            (TLS12, ContentType::Alert, &[2, 20], "BadRecordMac"),
            (TLS12, ContentType::Handshake, &[24, 0, 0, 1, 0], "KeyUpdate"),
            (TLS12, ContentType::ChangeCipherSpec, &[1], "ChangeCipherSpec"),
        ] {
            let [mut client, mut server] = pair(suite, 7);
            let error = opened(&mut server, sealed(&mut client, kind, payload)).unwrap_err();
            assert!(error.contains(wanted), "{kind:?} {payload:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_record_is_not_read() {
        for suite in [TLS12, TLS13] {
            let [mut client, mut server] = pair(suite, 0);
            let record = sealed(&mut client, ContentType::ApplicationData, b"text");
            let mut cut = record.clone();
            cut.truncate(20);
            cut[3..5].copy_from_slice(&15u16.to_be_bytes());
            let mut plain = b"\x15\x03\x03\0\x02\x02\x28".to_vec();
            plain.resize(40, 0);
            for (bad, wanted) in [
                (b"GET / HTTP/1.1".to_vec(), "InvalidContentType"),
                (b"Q\0\0\0\x0dselect 1\0".to_vec(), "InvalidContentType"),
                (b"\x17\x02\x03\0\x20".to_vec(), "UnknownProtocolVersion"),
                (b"\x17\x03\x03\x48\0".to_vec(), "MessageTooLarge"),
                (b"\x16\x03\x03\0\0".to_vec(), "InvalidEmptyPayload"),
                (b"\x17\x03\x03\0\0".to_vec(), "decrypt"),
                (cut, "decrypt"),
                (plain, if suite == TLS13 { "Alert" } else { "decrypt" }),
            ] {
                let error = opened(&mut server, bad).unwrap_err();
                assert!(error.contains(wanted), "{wanted}: {error}");
            }
            // One more time would be a replay.
            assert_eq!(opened(&mut server, record.clone()).unwrap().0, b"text");
            assert!(opened(&mut server, record).is_err());
        }
    }

    #[test]
    fn text_is_too_long_or_padded() {
        let [mut client, mut server] = pair(TLS13, 0);
        let padded = sealed(&mut client, ContentType::ApplicationData, &[b"text\x17".as_slice(), &[0; 50]].concat());
        // The last byte is the kind.
        assert_eq!(opened(&mut server, padded).unwrap().0, [b"text\x17".as_slice(), &[0; 50]].concat());
        let padded = sealed(&mut client, ContentType::Unknown(0), b"text\x17\0\0");
        assert_eq!(opened(&mut server, padded).unwrap().0, b"text");
        for suite in [TLS12, TLS13] {
            let [mut client, mut server] = pair(suite, 0);
            let longest = sealed(&mut client, ContentType::ApplicationData, &[1; FRAGMENT_LEN]);
            assert_eq!(opened(&mut server, longest).unwrap().0.len(), FRAGMENT_LEN);
            let longer = sealed(&mut client, ContentType::ApplicationData, &[1; FRAGMENT_LEN + 1]);
            assert!(opened(&mut server, longer).unwrap_err().contains("excess record size"));
        }
    }

    #[test]
    fn nobody_keeps_us_busy_for_nothing() {
        let count = |suite, kind, payload: &[u8], max: u8, answer_len: usize, wanted: &str| {
            let [mut client, mut server] = pair(suite, 0);
            for _ in 0..max {
                let record = sealed(&mut client, kind, payload);
                if payload.starts_with(&KEY_UPDATE) {
                    client.sent.update().unwrap();
                }
                let (text, answer, is_ended) = opened(&mut server, record).unwrap();
                assert_eq!((text.len(), answer.len(), is_ended), (0, answer_len, false));
            }
            let error = opened(&mut server, sealed(&mut client, kind, payload)).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        };
        count(TLS12, ContentType::ApplicationData, b"", EMPTY_MAX, 0, "TooManyEmptyFragments");
        count(TLS13, ContentType::ApplicationData, b"", EMPTY_MAX, 0, "TooManyEmptyFragments");
        count(TLS13, ContentType::Handshake, &[24, 0, 0, 1, 0], KEY_UPDATES_MAX, 0, "TooManyKeyUpdateRequests");
        count(TLS13, ContentType::Handshake, &[24, 0, 0, 1, 1], KEY_UPDATES_MAX, 27, "TooManyKeyUpdateRequests");
        // user_canceled, and in TLS 1.2 any.
        count(TLS13, ContentType::Alert, &[1, 90], WARNINGS_MAX, 0, "TooManyWarningAlertsReceived");
        count(TLS12, ContentType::Alert, &[1, 41], WARNINGS_MAX, 0, "TooManyWarningAlertsReceived");
        // A ClientHello.
        count(TLS12, ContentType::Handshake, &[1, 0, 0, 0], 0, 0, "TooManyRenegotiationRequests");
    }

    #[test]
    fn several_new_keys_of_the_peer_are_answered_once() {
        let [mut client, mut server] = pair(TLS13, 0);
        let mut input = Vec::new();
        for _ in 0..3 {
            client.renew(1, &mut input).unwrap();
        }
        client.seal(b"text", &mut input).unwrap();
        let (text, mut answer, _) = opened(&mut server, input).unwrap();
        assert_eq!((text.as_slice(), answer.len()), (b"text".as_slice(), 27));
        server.seal(b"answer", &mut answer).unwrap();
        assert_eq!(opened(&mut client, answer).unwrap().0, b"answer");
    }

    /// As `records`, after so much was sent.
    fn later(records: &Records, sent_blocks: u64) -> Records {
        Records::new(TlsKeys { sent_blocks, ..records.keys() }).unwrap()
    }

    #[test]
    fn keys_are_not_used_for_too_long() {
        // 2^24 records of full length. Behind these there is room for two more, and three short ones.
        let begin = (1 << 24) * 1026 - 2 * 1026 - 2 * 2;
        let [client, mut server] = pair(TLS13, 1 << 25);
        let mut client = later(&client, begin);
        for _ in 0..10 {
            let mut records = Vec::new();
            client.seal(b"text", &mut records).unwrap();
            assert_eq!(opened(&mut server, records).unwrap().0, b"text");
        }
        // Three and the announcement with the old ones.
        assert_eq!((client.sent.seq(), server.received.seq()), (7, 7));
        // The other side was asked to change its own.
        assert_eq!(server.sent.seq(), 0);

        let [client, mut server] = pair(TLS12, 1 << 25);
        let (mut client, mut records) = (later(&client, begin), Vec::new());
        assert!((0..3).all(|_| client.seal(b"text", &mut records).is_ok()));
        let error = client.seal(b"text", &mut records).unwrap_err();
        assert!(matches!(error, TlsError::UsedUp));
        // As if nothing more had been meant to come.
        client.seal_alert(&error, &mut records);
        assert_eq!(opened(&mut server, records).unwrap(), (b"texttexttext".to_vec(), vec![], true));
        // Nothing at all goes beyond the limit.
        let mut client = later(&client, (1 << 24) * 1026 - 1);
        let mut records = Vec::new();
        client.seal_alert(&error, &mut records);
        assert_eq!(records.len(), 0);
    }
}
