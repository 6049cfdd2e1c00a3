//! Cancel keys: what a server hands out in BackendKeyData and takes back in a CancelRequest.
//!
//! BackendKeyData body: `u32` process id, secret. The secret has 4 bytes in protocol 3.0,
//! 4 to 256 in 3.2.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS>

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
            }
        });
    }
}
