//! Cancel keys: what a server hands out in BackendKeyData and takes back in a CancelRequest.
//!
//! BackendKeyData body: `u32` process id, secret. The secret has 4 bytes in protocol 3.0,
//! 4 to 256 in 3.2.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS>
//!
//! The keys that a pooler hands out are random, but for what its peers must read in them. That
//! is in the first 8 bytes (process id and 4 bytes of the secret), where PgBouncer 1.21 and later
//! has it, whatever the length of the key:
//!
//! | byte | |
//! |---|---|
//! | 0 | the highest bit is 0: no client takes a process id for negative |
//! | 1, 2 | with peers: the `peer_id`, lowest byte first |
//! | 7 | with peers: the lowest two bits say how often the request may still be passed on |
//!
//! Random are 63 bits of a key of protocol 3.0, with peers 45; in protocol 3.2 another 224.

use std::fmt;
use std::hash::{Hash, Hasher};

use subtle::ConstantTimeEq;

use crate::read::Reader;
use crate::{backend, frame};

/// CancelRequest's place of the protocol version: 1234.5678.
pub(crate) const CANCEL_REQUEST_CODE: u32 = 80_877_102;

const SECRET_LEN_MIN: usize = 4;
const SECRET_LEN_MAX: usize = 256;
/// PostgreSQL 18 sends 32 bytes, everything before it 4: neither needs an allocation.
const SHORT_LEN_MAX: usize = 32;

/// The bits of a key's last byte of its first 8 that say how often it may be passed on.
const TTL_MASK: u8 = 0b11;
/// That byte's place in the secret.
const TTL_AT: usize = 3;

/// The secret half of a cancel key. Comparison takes the same time wherever two differ.
#[derive(Clone)]
pub struct SecretKey(Repr);

#[derive(Clone)]
enum Repr {
    Short { len: u8, bytes: [u8; SHORT_LEN_MAX] },
    Long(Box<[u8]>),
}

impl SecretKey {
    /// `None` unless there are 4 to 256 bytes.
    pub fn new(secret: &[u8]) -> Option<SecretKey> {
        if !(SECRET_LEN_MIN..=SECRET_LEN_MAX).contains(&secret.len()) {
            return None;
        }
        if secret.len() > SHORT_LEN_MAX {
            return Some(SecretKey(Repr::Long(secret.into())));
        }
        let mut bytes = [0; SHORT_LEN_MAX];
        bytes[..secret.len()].copy_from_slice(secret);
        Some(SecretKey(Repr::Short { len: secret.len() as u8, bytes }))
    }

    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Short { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &SecretKey) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Eq for SecretKey {}

impl Hash for SecretKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({} bytes)", self.as_bytes().len())
    }
}

/// Who is to be cancelled, and the proof that the asker may.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    pub pid: u32,
    pub secret: SecretKey,
}

impl CancelKey {
    /// Reads a BackendKeyData body, or what follows the code of a CancelRequest.
    pub fn parse(body: &[u8]) -> Option<CancelKey> {
        let mut reader = Reader::new(body);
        let pid = reader.u32()?;
        let secret = SecretKey::new(reader.rest())?;
        Some(CancelKey { pid, secret })
    }

    /// A key of random bytes, 8 to 260, for a client of the process that has this number among
    /// its peers; 0: it has none.
    pub fn from_random(random: &[u8], peer_id: u16) -> Option<CancelKey> {
        let mut key = CancelKey::parse(random)?;
        key.pid &= 0x7fff_ffff;
        if peer_id > 0 {
            key.pid = key.pid & 0xff00_00ff | u32::from(peer_id.swap_bytes()) << 8;
            key = key.with_full_ttl();
        }
        Some(key)
    }

    /// The first 8 bytes.
    pub fn head(&self) -> u64 {
        let secret = self.secret.as_bytes().first_chunk().copied().unwrap_or_default();
        u64::from(self.pid) << 32 | u64::from(u32::from_be_bytes(secret))
    }

    /// The number of the process that has handed this key out, if it has peers.
    pub fn peer_id(&self) -> u16 {
        ((self.pid >> 8) as u16).swap_bytes()
    }

    /// As it was handed out, if that was by a process with peers.
    pub fn with_full_ttl(&self) -> CancelKey {
        self.with_ttl_byte(|byte| byte | TTL_MASK)
    }

    /// For the next peer; `None` if it has been passed on often enough.
    pub fn passed_on(&self) -> Option<CancelKey> {
        let is_allowed = self.secret.as_bytes().get(TTL_AT).is_some_and(|byte| byte & TTL_MASK > 0);
        is_allowed.then(|| self.with_ttl_byte(|byte| byte - 1))
    }

    fn with_ttl_byte(&self, change: impl FnOnce(u8) -> u8) -> CancelKey {
        let mut secret = self.secret.clone();
        let byte = match &mut secret.0 {
            Repr::Short { bytes, .. } => &mut bytes[TTL_AT],
            Repr::Long(bytes) => &mut bytes[TTL_AT],
        };
        *byte = change(*byte);
        CancelKey { pid: self.pid, secret }
    }

    /// Appends a BackendKeyData message.
    pub fn backend_key_data(&self, out: &mut Vec<u8>) {
        let at = frame::begin(out, backend::BACKEND_KEY_DATA);
        self.put(out);
        frame::finish(out, at);
    }

    /// Appends a CancelRequest: `u32` length, `u32` code, then process id and secret.
    pub fn cancel_request(&self, out: &mut Vec<u8>) {
        let len = 12 + self.secret.as_bytes().len() as u32;
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&CANCEL_REQUEST_CODE.to_be_bytes());
        self.put(out);
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.pid.to_be_bytes());
        out.extend_from_slice(self.secret.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage;

    fn key(secret_len: usize) -> CancelKey {
        CancelKey { pid: 7, secret: SecretKey::new(&vec![0xab; secret_len]).unwrap() }
    }

    #[test]
    fn every_allowed_length_round_trips() {
        for len in SECRET_LEN_MIN..=SECRET_LEN_MAX {
            let mut out = Vec::new();
            key(len).backend_key_data(&mut out);
            assert_eq!(frame::Header::read(&out).unwrap().unwrap().len, out.len());
            assert_eq!(CancelKey::parse(&out[frame::HEADER_LEN..]), Some(key(len)));
        }
        for len in [0, 3, 257] {
            assert!(SecretKey::new(&vec![1; len]).is_none());
        }
        assert_eq!(CancelKey::parse(b"\0\0\0"), None);
    }

    #[test]
    fn cancel_request_layout() {
        let mut out = Vec::new();
        key(4).cancel_request(&mut out);
        assert_eq!(out, b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\xab\xab\xab\xab");
    }

    fn parsed(bytes: &[u8]) -> CancelKey {
        CancelKey::parse(bytes).unwrap()
    }

    #[test]
    fn keys_are_random_but_for_the_sign_and_what_peers_read() {
        for len in [8, 36, 100] {
            let alone = CancelKey::from_random(&vec![0xff; len], 0).unwrap();
            assert_eq!(alone.head(), 0x7fff_ffff_ffff_ffff);
            let ones = CancelKey::from_random(&vec![0xff; len], 0x1234).unwrap();
            assert_eq!((ones.head(), ones.peer_id()), (0x7f34_12ff_ffff_ffff, 0x1234));
            let zeros = CancelKey::from_random(&vec![0; len], 0x1234).unwrap();
            assert_eq!((zeros.head(), zeros.peer_id()), (0x0034_1200_0000_0003, 0x1234));
            assert_eq!(zeros.secret.as_bytes().len(), len - 4);
        }
        assert_eq!(CancelKey::from_random(&[1; 7], 0), None);
    }

    #[test]
    fn a_key_is_passed_on_three_times() {
        let key = CancelKey::from_random(&[0x54; 36], 9).unwrap();
        let mut passed = key.clone();
        for low in [2, 1, 0] {
            passed = passed.passed_on().unwrap();
            assert_eq!((passed.secret.as_bytes()[3], passed.peer_id()), (0x54 | low, 9));
            assert_eq!(passed.with_full_ttl(), key);
        }
        assert_eq!(passed.passed_on(), None);
    }

    #[test]
    fn the_peer_is_in_the_second_and_third_byte() {
        assert_eq!(parsed(b"\x00\x01\x02\x00abcd").peer_id(), 0x0201);
        assert_eq!(parsed(b"\x7f\xff\x3f\xffabcd").peer_id(), 16383);
    }

    #[test]
    fn secrets_differ_by_content_and_length() {
        let secret = |bytes: &[u8]| SecretKey::new(bytes).unwrap();
        assert_ne!(secret(b"abcd"), secret(b"abce"));
        assert_ne!(secret(b"abcd"), secret(b"abcd\0"));
        assert_eq!(secret(&[1; 200]), secret(&[1; 200]));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", CancelKey::parse(b"\0\0\0\x07wxyz").unwrap());
        assert_eq!(shown, "CancelKey { pid: 7, secret: SecretKey(4 bytes) }");
    }

    #[test]
    fn survives_garbage() {
        garbage::throw(&[b"\0\0\0\x07abcd", &[9; 260]], |body| {
            if let Some(key) = CancelKey::parse(body) {
                assert_eq!(key.secret.as_bytes(), &body[4..]);
                assert_eq!(key.head().to_be_bytes(), body[..8]);
                assert!(key.passed_on().is_none_or(|passed| passed.with_full_ttl() == key.with_full_ttl()));
            }
        });
    }
}
