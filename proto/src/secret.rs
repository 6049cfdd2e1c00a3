//! The forms in which a password is stored, in `auth_file` and in `pg_authid`.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::md5::Md5Secret;
use crate::scram::Verifier;

#[derive(Clone, PartialEq, Eq)]
pub enum StoredSecret {
    Md5(Md5Secret),
    Scram(Verifier),
    Plain(String),
}

impl StoredSecret {
    /// Whatever does not have the exact form of a hash is a password in clear text.
    pub fn parse(stored: &str) -> StoredSecret {
        if let Some(secret) = Md5Secret::parse(stored) {
            StoredSecret::Md5(secret)
        } else if let Some(verifier) = Verifier::parse(stored) {
            StoredSecret::Scram(verifier)
        } else {
            StoredSecret::Plain(stored.to_owned())
        }
    }

    /// Whether `password` in clear text is the one behind this secret, in constant time. No
    /// password passes against an empty one. Runs PBKDF2 for `Scram`: not for a thread that
    /// serves clients.
    pub fn verify_password(&self, user: &str, password: &[u8]) -> bool {
        match self {
            StoredSecret::Md5(secret) => secret.verify_password(user, password),
            StoredSecret::Scram(verifier) => verifier.verify_password(password),
            StoredSecret::Plain(stored) => !stored.is_empty() && stored.as_bytes().ct_eq(password).into(),
        }
    }
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoredSecret::Md5(_) => "Md5(..)",
            StoredSecret::Scram(_) => "Scram(..)",
            StoredSecret::Plain(_) => "Plain(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_each_form() {
        let kind = |stored: &str| format!("{:?}", StoredSecret::parse(stored));
        assert_eq!(kind("md521f3163f8f86fa10bdefbfbd502a8f06"), "Md5(..)");
        assert_eq!(kind("md521F3163f8f86fa10bdefbfbd502a8f06"), "Plain(..)");
        let verifier = Verifier::from_password(b"secret", &[7; 16], std::num::NonZeroU32::MIN);
        assert_eq!(kind(&verifier.to_stored()), "Scram(..)");
        assert_eq!(kind("SCRAM-SHA-256$x"), "Plain(..)");
        assert_eq!(StoredSecret::parse(""), StoredSecret::Plain(String::new()));
    }

    #[test]
    fn verifies_against_each_form() {
        let verifier = Verifier::from_password(b"secret", &[7; 16], std::num::NonZeroU32::MIN);
        for stored in ["md521f3163f8f86fa10bdefbfbd502a8f06", &verifier.to_stored(), "secret"] {
            let stored = StoredSecret::parse(stored);
            assert!(stored.verify_password("bob", b"secret"), "{stored:?}");
            assert!(!stored.verify_password("bob", b"Secret"), "{stored:?}");
            assert!(!stored.verify_password("bob", b""), "{stored:?}");
        }
        assert!(!StoredSecret::parse("").verify_password("bob", b""));
    }
}
