//! What protects the records of one direction once the handshake is over, and can be carried to another process.
//!
//! The ciphers are ring's; here is only what RFC 8446 (5.2, 5.3, 7.1, 7.2) and RFC 5246 (6.2.3.3), 5288 and 7905
//! have around them: which nonce, which additional data, which key comes next.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use rustls::crypto::ring as provider;
use rustls::{CipherSuite, ConnectionTrafficSecrets, ContentType, KeyLog, PeerMisbehaved, SupportedCipherSuite};
use zeroize::Zeroize;

use super::conn::TlsError;

pub(super) const HEADER_LEN: usize = 5;
/// The most text that a record has.
pub(super) const FRAGMENT_LEN: usize = 16 * 1024;
/// What TLS 1.2 sends of a nonce of AES-GCM.
const EXPLICIT_NONCE_LEN: usize = 8;
const TAG_LEN: usize = 16;
/// What ciphers work on.
const BLOCK_LEN: usize = 16;
/// So many blocks has the longest record.
const RECORD_BLOCKS_MAX: u64 = blocks_of(FRAGMENT_LEN + 1);

/// What a record with so much in it counts: its own blocks, and the one that makes its tag.
const fn blocks_of(text_len: usize) -> u64 {
    text_len.div_ceil(BLOCK_LEN) as u64 + 1
}

/// What keys come from: in TLS 1.3 the traffic secret, in TLS 1.2 the key with its IV behind it. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TlsSecret {
    bytes: [u8; TlsSecret::LEN_MAX],
    len: usize,
}

impl TlsSecret {
    /// A secret of SHA-384; the longest key with its IV is shorter.
    const LEN_MAX: usize = 48;

    /// `None`: too long to be one.
    pub(crate) fn new(parts: &[&[u8]]) -> Option<TlsSecret> {
        let mut secret = TlsSecret { bytes: [0; TlsSecret::LEN_MAX], len: 0 };
        for part in parts {
            secret.bytes.get_mut(secret.len..secret.len + part.len())?.copy_from_slice(part);
            secret.len += part.len();
        }
        Some(secret)
    }

    pub(crate) fn expose(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for TlsSecret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for TlsSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSecret(..)")
    }
}

/// The traffic secrets of one connection of TLS 1.3, the peer's and ours. Of the keys that rustls hands out no next
/// ones can be made; what they are made of it tells to a key log only.
#[derive(Default)]
pub(super) struct Overheard(Mutex<[Option<TlsSecret>; 2]>);

const LABELS: [&str; 2] = ["CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"];

impl Overheard {
    /// The client's, and the server's. `None`: it was not TLS 1.3, or there was no whole handshake.
    pub(super) fn take(&self) -> Option<[TlsSecret; 2]> {
        let [client, server] = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Some([client?, server?])
    }
}

impl KeyLog for Overheard {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if let Some(i) = LABELS.iter().position(|known| *known == label) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)[i] = TlsSecret::new(&[secret]);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        LABELS.contains(&label)
    }
}

impl fmt::Debug for Overheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overheard(..)")
    }
}

/// A cipher suite, as far as records go.
#[derive(Clone, Copy)]
pub(super) struct Suite {
    pub(super) id: CipherSuite,
    aead: &'static aead::Algorithm,
    /// The hash that the next keys come from; `None`: TLS 1.2, in which keys stay.
    schedule: Option<hkdf::Algorithm>,
    /// As many blocks may be sent with the same keys: rustls' limit, which counts records, if each were of full
    /// length, as RFC 8446 (5.5) has it. Most are short, and with TLS 1.2 a connection ends at the limit.
    blocks_max: u64,
}

impl Suite {
    /// `None`: one that we do not have.
    pub(super) fn find(id: CipherSuite) -> Option<Suite> {
        let known = provider::ALL_CIPHER_SUITES.iter().find(|known| known.suite() == id)?;
        let common = match known {
            SupportedCipherSuite::Tls12(suite) => &suite.common,
            SupportedCipherSuite::Tls13(suite) => &suite.common,
        };
        let aead = match id {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => &aead::AES_128_GCM,
            CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => &aead::AES_256_GCM,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => &aead::CHACHA20_POLY1305,
            _ => return None,
        };
        let hash = match id {
            CipherSuite::TLS13_AES_256_GCM_SHA384 => hkdf::HKDF_SHA384,
            _ => hkdf::HKDF_SHA256,
        };
        let schedule = known.tls13().map(|_| hash);
        Some(Suite { id, aead, schedule, blocks_max: common.confidentiality_limit.saturating_mul(RECORD_BLOCKS_MAX) })
    }

    pub(super) fn is_tls13(&self) -> bool {
        self.schedule.is_some()
    }

    /// The key that comes from a secret, with its IV behind it. `None`: that is no secret of this suite.
    pub(super) fn key_and_iv(&self, secret: &TlsSecret) -> Option<TlsSecret> {
        let len = self.aead.key_len() + aead::NONCE_LEN;
        let Some(hash) = self.schedule else { return (secret.len == len).then(|| secret.clone()) };
        if secret.len != hkdf::KeyType::len(&hash) {
            return None;
        }
        let mut derived = TlsSecret { bytes: [0; TlsSecret::LEN_MAX], len };
        let (key, iv) = derived.bytes[..len].split_at_mut(self.aead.key_len());
        expand(hash, secret.expose(), b"key", key)?;
        expand(hash, secret.expose(), b"iv", iv)?;
        Some(derived)
    }

    /// TLS 1.2 sends a part of the nonce.
    fn explicit_nonce_len(&self) -> usize {
        let is_gcm = self.aead != &aead::CHACHA20_POLY1305;
        if is_gcm && !self.is_tls13() { EXPLICIT_NONCE_LEN } else { 0 }
    }
}

/// The key in what rustls hands out, with its IV behind it: in TLS 1.2 the secret itself.
pub(super) fn secret_of(secrets: &ConnectionTrafficSecrets) -> Option<TlsSecret> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => TlsSecret::new(&[key.as_ref(), iv.as_ref()]),
        _ => None,
    }
}

/// HKDF-Expand-Label without a context. `None`: `out` is longer than the hash allows, which no key is.
fn expand(hash: hkdf::Algorithm, secret: &[u8], label: &[u8], out: &mut [u8]) -> Option<()> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    const PREFIX: &[u8] = b"tls13 ";
    let out_len = (out.len() as u16).to_be_bytes();
    let info = [&out_len[..], &[(PREFIX.len() + label.len()) as u8], PREFIX, label, &[0]];
    hkdf::Prk::new_less_safe(hash, secret).expand(&info, Len(out.len())).ok()?.fill(out).ok()
}

/// The keys of one direction.
pub(super) struct Keys {
    suite: Suite,
    secret: TlsSecret,
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    /// Of the next record. No number may be used twice for sending with the same key.
    seq: u64,
    /// Sent with the key.
    blocks: u64,
}

impl Keys {
    /// `None`: that is no secret of that suite.
    pub(super) fn new(suite: Suite, secret: TlsSecret, seq: u64, blocks: u64) -> Option<Keys> {
        let key_and_iv = suite.key_and_iv(&secret)?;
        let (key, iv) = key_and_iv.expose().split_last_chunk()?;
        let key = LessSafeKey::new(UnboundKey::new(suite.aead, key).ok()?);
        Some(Keys { suite, secret, key, iv: *iv, seq, blocks })
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn secret(&self) -> &TlsSecret {
        &self.secret
    }

    /// Goes on with the next keys (TLS 1.3).
    pub(super) fn update(&mut self) -> Option<()> {
        let mut next = TlsSecret { bytes: [0; TlsSecret::LEN_MAX], len: self.secret.len };
        expand(self.suite.schedule?, self.secret.expose(), b"traffic upd", &mut next.bytes[..self.secret.len])?;
        *self = Keys::new(self.suite, next, 0, 0)?;
        Some(())
    }

    /// After a long record there might be no room for the one that says what comes of it.
    pub(super) fn are_nearly_used_up(&self) -> bool {
        self.blocks.saturating_add(2 * RECORD_BLOCKS_MAX) > self.suite.blocks_max
    }

    fn nonce(&self) -> [u8; aead::NONCE_LEN] {
        let mut nonce = self.iv;
        let seq = self.seq.to_be_bytes();
        nonce[aead::NONCE_LEN - seq.len()..].iter_mut().zip(seq).for_each(|(byte, seq)| *byte ^= seq);
        nonce
    }

    /// The additional data of a record with so much `text` in it, and how long they are.
    fn additional(&self, header: [u8; 3], text_len: usize) -> ([u8; 13], usize) {
        let mut data = [0; 13];
        let [hi, lo] = (text_len as u16).to_be_bytes();
        if self.suite.is_tls13() {
            let payload_len = ((text_len + TAG_LEN) as u16).to_be_bytes();
            data[..3].copy_from_slice(&[u8::from(ContentType::ApplicationData), 3, 3]);
            data[3..5].copy_from_slice(&payload_len);
            return (data, 5);
        }
        data[..8].copy_from_slice(&self.seq.to_be_bytes());
        data[8..11].copy_from_slice(&header);
        data[11..].copy_from_slice(&[hi, lo]);
        (data, 13)
    }

    /// Adds one record with `text`, of at most [`FRAGMENT_LEN`], to `out`.
    pub(super) fn seal(&mut self, kind: ContentType, text: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let is_tls13 = self.suite.is_tls13();
        let inner_len = text.len() + usize::from(is_tls13);
        let seq = self.seq.checked_add(1).ok_or(TlsError::UsedUp)?;
        let blocks = self.blocks.saturating_add(blocks_of(inner_len));
        if blocks > self.suite.blocks_max {
            return Err(TlsError::UsedUp);
        }
        let (nonce, explicit) = (self.nonce(), self.suite.explicit_nonce_len());
        let [hi, lo] = ((explicit + inner_len + TAG_LEN) as u16).to_be_bytes();
        let outer = if is_tls13 { ContentType::ApplicationData } else { kind };
        let (additional, len) = self.additional([outer.into(), 3, 3], inner_len);
        out.extend_from_slice(&[outer.into(), 3, 3, hi, lo]);
        out.extend_from_slice(&nonce[aead::NONCE_LEN - explicit..]);
        let at = out.len();
        out.extend_from_slice(text);
        if is_tls13 {
            out.push(kind.into());
        }
        // Whatever comes of it: this nonce is used.
        (self.seq, self.blocks) = (seq, blocks);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(&additional[..len]), &mut out[at..]);
        out.extend_from_slice(tag.map_err(|_| TlsError::Ended)?.as_ref());
        Ok(())
    }

    /// Decrypts a whole record in place: of which kind it is, and its text.
    pub(super) fn open<'r>(&mut self, record: &'r mut [u8]) -> Result<(ContentType, &'r [u8]), rustls::Error> {
        let (header, payload) = record.split_first_chunk_mut::<HEADER_LEN>().ok_or(rustls::Error::DecryptError)?;
        let outer = ContentType::from(header[0]);
        let is_tls13 = self.suite.is_tls13();
        if is_tls13 && outer != ContentType::ApplicationData {
            return Err(inappropriate(outer));
        }
        let (mut nonce, explicit) = (self.nonce(), self.suite.explicit_nonce_len());
        let Some(text_len) = payload.len().checked_sub(explicit + TAG_LEN) else {
            return Err(rustls::Error::DecryptError);
        };
        if explicit > 0 {
            nonce[..4].copy_from_slice(&self.iv[..4]);
            nonce[4..].copy_from_slice(&payload[..explicit]);
        }
        let (additional, len) = self.additional([header[0], header[1], header[2]], text_len);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(&additional[..len]), &mut payload[explicit..]);
        let text: &[u8] = opened.map_err(|_| rustls::Error::DecryptError)?;
        self.seq = self.seq.checked_add(1).ok_or(rustls::Error::DecryptError)?;
        let (kind, text) = if is_tls13 { unpadded(text)? } else { (outer, text) };
        if text.len() > FRAGMENT_LEN {
            return Err(rustls::Error::PeerSentOversizedRecord);
        }
        Ok((kind, text))
    }
}

/// The kind is the last byte that is not zero.
fn unpadded(inner: &[u8]) -> Result<(ContentType, &[u8]), rustls::Error> {
    if inner.len() > FRAGMENT_LEN + 1 {
        return Err(rustls::Error::PeerSentOversizedRecord);
    }
    let kind_at = inner.iter().rposition(|byte| *byte != 0).ok_or(PeerMisbehaved::IllegalTlsInnerPlaintext)?;
    Ok((inner[kind_at].into(), &inner[..kind_at]))
}

pub(super) fn inappropriate(got_type: ContentType) -> rustls::Error {
    rustls::Error::InappropriateMessage { expect_types: vec![ContentType::ApplicationData], got_type }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_keys_for_all_that_rustls_has() {
        for known in provider::ALL_CIPHER_SUITES {
            let suite = Suite::find(known.suite()).unwrap_or_else(|| panic!("{known:?}"));
            assert_eq!(suite.is_tls13(), known.tls13().is_some());
        }
        assert!(Suite::find(CipherSuite::TLS_RSA_WITH_AES_128_CBC_SHA).is_none());
    }

    /// <https://www.rfc-editor.org/rfc/rfc8448#section-3>: the server's traffic secret, and what comes from it.
    #[test]
    fn keys_come_from_secrets_as_in_the_rfc() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
        };
        let secret = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
        let suite = Suite::find(CipherSuite::TLS13_AES_128_GCM_SHA256).unwrap();
        let derived = suite.key_and_iv(&TlsSecret::new(&[&secret]).unwrap()).unwrap();
        assert_eq!(derived.expose(), hex("9f02283b6c9c07efc26bb9f2ac92e356cf782b88dd83549aadf1e984"));
    }

    #[test]
    fn secrets_do_not_show_and_have_a_length() {
        let secret = TlsSecret::new(&[&[123; 16], &[124; 12]]).unwrap();
        assert_eq!((format!("{secret:?}"), secret.expose().len()), ("TlsSecret(..)".to_owned(), 28));
        assert!(TlsSecret::new(&[&[0; 40], &[0; 9]]).is_none());
    }
}
