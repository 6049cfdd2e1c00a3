//! What the server role stores instead of a password.

use std::fmt;
use std::num::NonZeroU32;

use subtle::ConstantTimeEq;

use super::keys::{Key, ScramKeys, sign};
use super::message::{decode, decode_key, encode};

const PREFIX: &str = "SCRAM-SHA-256$";

/// Bytes of salt, as in PostgreSQL.
pub const SALT_LEN: usize = 16;

/// Checks proofs. It cannot make them: stealing it does not let one log in.
#[derive(Clone)]
pub struct Verifier {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

impl Verifier {
    /// Runs PBKDF2, see [`ScramKeys::from_password`].
    pub fn from_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Verifier {
        Verifier::from_keys(&ScramKeys::from_password(password, salt, iterations), salt, iterations)
    }

    /// What checks proofs made with these keys.
    pub fn from_keys(keys: &ScramKeys, salt: &[u8], iterations: NonZeroU32) -> Verifier {
        Verifier { iterations, salt: salt.to_vec(), stored_key: keys.stored_key(), server_key: keys.server_key }
    }

    /// Reads the stored form: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the last
    /// three in base64.
    pub fn parse(stored: &str) -> Option<Verifier> {
        let (cost, keys) = stored.strip_prefix(PREFIX)?.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        if !iterations.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Verifier {
            iterations: iterations.parse().ok()?,
            salt: decode(salt)?,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }

    /// The stored form. Not a `Display`, which logs might use.
    pub fn to_stored(&self) -> String {
        format!(
            "{PREFIX}{}:{}${}:{}",
            self.iterations,
            encode(&self.salt),
            encode(&self.stored_key),
            encode(&self.server_key)
        )
    }

    /// What the client is asked to hash its password with.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// Whether `password` in clear text is the one behind this verifier. Runs PBKDF2, see
    /// [`ScramKeys::from_password`].
    pub fn verify_password(&self, password: &[u8]) -> bool {
        *self == Verifier::from_password(password, &self.salt, self.iterations)
    }
}

impl PartialEq for Verifier {
    fn eq(&self, other: &Verifier) -> bool {
        let keys = self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key);
        bool::from(keys) && self.salt == other.salt && self.iterations == other.iterations
    }
}

impl Eq for Verifier {}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// Gives each user name its salt for as long as the process runs. A user that does not exist
/// must be asked for the same salt each time, or the asking would tell that it does not; and
/// so must one whose verifier is made here, from a password in clear text.
#[derive(Clone)]
pub struct SaltSecret(Key);

impl SaltSecret {
    /// `secret` comes from a random generator, once per process.
    pub fn new(secret: [u8; 32]) -> SaltSecret {
        SaltSecret(secret)
    }

    /// The salt of `user`.
    pub fn salt(&self, user: &str) -> [u8; SALT_LEN] {
        let mut salt = [0; SALT_LEN];
        salt.copy_from_slice(&self.derive(b"salt", user)[..SALT_LEN]);
        salt
    }

    /// A verifier for a user that does not exist: it looks and takes its time like another,
    /// and no proof passes. Its keys are no password's, and as secret as `self`.
    pub fn mock_verifier(&self, user: &str, iterations: NonZeroU32) -> Verifier {
        Verifier {
            iterations,
            salt: self.salt(user).to_vec(),
            stored_key: self.derive(b"stored", user),
            server_key: self.derive(b"server", user),
        }
    }

    fn derive(&self, purpose: &[u8], user: &str) -> Key {
        sign(&self.0, &[purpose, b"\0", user.as_bytes()])
    }
}

impl fmt::Debug for SaltSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage;
    use crate::scram::ITERATIONS_DEFAULT;

    fn iterations() -> NonZeroU32 {
        NonZeroU32::new(ITERATIONS_DEFAULT).unwrap()
    }

    /// Made by PostgreSQL 15 with `alter role ... password 'secret'`.
    const STORED: &str = concat!(
        "SCRAM-SHA-256$4096:VBvOyPyNdoWFPaB0h+UO6Q==$",
        "gaD84bQ2aSvUbSvxR5j9ROq0keGCOreeJZDlVwhL0q4=:qUEPFwXC0H0w9IkRrjIqhpxP5snmH8TQ0OEOjlAjYKg="
    );

    #[test]
    fn reads_and_checks_postgresqls() {
        let verifier = Verifier::parse(STORED).unwrap();
        assert_eq!(verifier.to_stored(), STORED);
        assert!(verifier.verify_password(b"secret"));
        assert!(!verifier.verify_password(b"Secret"));
        assert_eq!(format!("{verifier:?}"), "Verifier(..)");
    }

    #[test]
    fn stored_form_is_exact() {
        let bad = [
            "",
            "SCRAM-SHA-256$",
            &STORED.replace("SHA-256", "SHA-1"),
            &STORED.replace("4096", "0"),
            &STORED.replace("4096", "+4096"),
            &STORED.replace("4096", "99999999999"),
            &STORED[..STORED.len() - 1],
            &format!("{STORED}A"),
            &STORED.replace(':', ";"),
        ];
        for stored in bad {
            assert!(Verifier::parse(stored).is_none(), "{stored}");
        }
    }

    #[test]
    fn salts_are_stable_and_each_users_own() {
        let secret = SaltSecret::new([5; 32]);
        assert_eq!(secret.salt("bob"), secret.salt("bob"));
        assert_ne!(secret.salt("bob"), secret.salt("eve"));
        assert_ne!(secret.salt("bob"), SaltSecret::new([6; 32]).salt("bob"));
        let mock = secret.mock_verifier("bob", iterations());
        assert_eq!(mock.salt, secret.salt("bob"));
        assert_eq!(mock, secret.mock_verifier("bob", iterations()));
        assert_ne!(mock.stored_key, mock.server_key);
        assert!(!mock.verify_password(b""));
    }

    #[test]
    fn survives_garbage() {
        garbage::throw(&[STORED.as_bytes()], |bytes| {
            if let Some(verifier) = Verifier::parse(&crate::read::text(bytes)) {
                assert_eq!(Verifier::parse(&verifier.to_stored()), Some(verifier));
            }
        });
    }
}
