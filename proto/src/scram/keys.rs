//! The keys that both roles compute with.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;

use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq;

/// A SHA-256 value.
pub(super) type Key = [u8; 32];

/// What a password comes to under one salt and iteration count. Whoever holds these can log
/// in as the user, in both roles, without the password: this is how a client's login is
/// carried on to the server (where the server stores the same salt and count).
#[derive(Clone)]
pub struct ScramKeys {
    pub(super) client_key: Key,
    pub(super) server_key: Key,
}

impl ScramKeys {
    /// Runs PBKDF2: about a millisecond for 4096 iterations. Not for a thread that serves clients.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> ScramKeys {
        let mut salted = [0; 32];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, iterations, salt, &prepare(password), &mut salted);
        ScramKeys { client_key: sign(&salted, &[b"Client Key"]), server_key: sign(&salted, &[b"Server Key"]) }
    }

    /// Both, for another process of the pooler: for no log.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.client_key);
        bytes[32..].copy_from_slice(&self.server_key);
        bytes
    }

    /// What `to_bytes` gives.
    pub fn from_bytes(bytes: &[u8; 64]) -> ScramKeys {
        let (mut client_key, mut server_key) = ([0; 32], [0; 32]);
        client_key.copy_from_slice(&bytes[..32]);
        server_key.copy_from_slice(&bytes[32..]);
        ScramKeys { client_key, server_key }
    }

    pub(super) fn stored_key(&self) -> Key {
        sha256(&self.client_key)
    }
}

impl PartialEq for ScramKeys {
    fn eq(&self, other: &ScramKeys) -> bool {
        let client = self.client_key.ct_eq(&other.client_key);
        (client & self.server_key.ct_eq(&other.server_key)).into()
    }
}

impl Eq for ScramKeys {}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

/// SASLprep (RFC 4013). Like PostgreSQL, takes the bytes as they are where that fails, as
/// for a password that is not UTF-8, and where it would leave nothing.
fn prepare(password: &[u8]) -> Cow<'_, [u8]> {
    let text = std::str::from_utf8(password).ok();
    match text.and_then(|text| stringprep::saslprep(text).ok()) {
        Some(Cow::Owned(prepared)) if !prepared.is_empty() => Cow::Owned(prepared.into_bytes()),
        _ => Cow::Borrowed(password),
    }
}

/// HMAC-SHA-256 of the parts, one after the other.
pub(super) fn sign(key: &Key, parts: &[&[u8]]) -> Key {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    to_key(context.sign().as_ref())
}

pub(super) fn sha256(bytes: &[u8]) -> Key {
    to_key(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Proof to client key and back.
pub(super) fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

fn to_key(bytes: &[u8]) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(bytes);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_prepared_like_postgresqls() {
        // Examples of RFC 4013, section 3, and what PostgreSQL falls back to.
        assert_eq!(&*prepare("I\u{ad}X".as_bytes()), b"IX");
        assert_eq!(&*prepare(b"USER"), b"USER");
        assert_eq!(&*prepare("\u{aa}".as_bytes()), b"a");
        assert_eq!(&*prepare("\u{2168}".as_bytes()), b"IX");
        for raw in [&b"\x07"[..], "\u{627}1".as_bytes(), b"gr\xfcn", "\u{ad}".as_bytes(), b""] {
            assert_eq!(&*prepare(raw), raw);
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = ScramKeys::from_password(b"x", b"salt", NonZeroU32::MIN);
        assert_eq!(format!("{keys:?}"), "ScramKeys(..)");
    }
}
