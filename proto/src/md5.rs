//! md5 password authentication: the answer to AuthenticationMD5Password is
//! `"md5" + hex(md5(hex(md5(password + user)) + salt))`.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

const PREFIX: &str = "md5";
const HEX_LEN: usize = 32;

/// The inner hash, `hex(md5(password + user))`: all that either side needs. PostgreSQL and
/// `auth_file` store it with `md5` in front.
#[derive(Clone)]
pub struct Md5Secret([u8; HEX_LEN]);

impl Md5Secret {
    pub fn from_password(user: &str, password: &[u8]) -> Md5Secret {
        Md5Secret(hex_md5(password, user.as_bytes()))
    }

    /// Reads the stored form: `md5` and 32 lower-case hexadecimal digits.
    pub fn parse(stored: &str) -> Option<Md5Secret> {
        let hex: [u8; HEX_LEN] = stored.strip_prefix(PREFIX)?.as_bytes().try_into().ok()?;
        let valid = hex.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then_some(Md5Secret(hex))
    }

    /// The answer to a challenge with `salt`.
    pub fn response(&self, salt: [u8; 4]) -> String {
        with_prefix(&hex_md5(&self.0, &salt))
    }

    /// Whether `response` answers a challenge with `salt`, in constant time.
    pub fn verify(&self, salt: [u8; 4], response: &[u8]) -> bool {
        self.response(salt).as_bytes().ct_eq(response).into()
    }

    /// Whether `password` in clear text is the one behind this secret, in constant time.
    pub fn verify_password(&self, user: &str, password: &[u8]) -> bool {
        self.0.ct_eq(&Md5Secret::from_password(user, password).0).into()
    }

    /// The stored form. It is as good as the password: not a `Display`, which logs might use.
    pub fn to_stored(&self) -> String {
        with_prefix(&self.0)
    }
}

impl PartialEq for Md5Secret {
    fn eq(&self, other: &Md5Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Md5Secret {}

impl fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Secret(..)")
    }
}

fn with_prefix(hex: &[u8; HEX_LEN]) -> String {
    PREFIX.chars().chain(hex.iter().map(|&byte| char::from(byte))).collect()
}

fn hex_md5(first: &[u8], second: &[u8]) -> [u8; HEX_LEN] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Md5::new().chain_update(first).chain_update(second).finalize();
    let mut hex = [0; HEX_LEN];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(digest) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage;

    const SALT: [u8; 4] = [1, 2, 3, 4];

    #[test]
    fn known_answers() {
        let secret = Md5Secret::from_password("md5_user", b"password");
        // From rust-postgres' test of the same function.
        assert_eq!(secret.response([0x2a, 0x3d, 0x8f, 0xe0]), "md562af4dd09bbb41884907a838a3233294");
        let stored = Md5Secret::from_password("bob", b"secret").to_stored();
        assert_eq!(stored, STORED);
    }

    /// `select 'md5' || md5('secretbob')`.
    const STORED: &str = "md521f3163f8f86fa10bdefbfbd502a8f06";

    #[test]
    fn verifies_only_the_right_answer() {
        let secret = Md5Secret::parse(STORED).unwrap();
        let response = secret.response(SALT);
        assert!(secret.verify(SALT, response.as_bytes()));
        assert!(!secret.verify([1, 2, 3, 5], response.as_bytes()));
        assert!(!secret.verify(SALT, &response.as_bytes()[..34]));
        assert!(!secret.verify(SALT, b""));
        assert!(!secret.verify(SALT, STORED.as_bytes()));
        assert!(secret.verify_password("bob", b"secret"));
        assert!(!secret.verify_password("bob", b"Secret"));
        assert!(!secret.verify_password("eve", b"secret"));
        assert_eq!(secret, Md5Secret::from_password("bob", b"secret"));
    }

    #[test]
    fn stored_form_is_exact() {
        let mut bad = vec![String::new(), "md5".to_owned(), STORED[..34].to_owned()];
        bad.extend([format!("{STORED}0"), STORED.to_uppercase(), STORED.replace('f', "F")]);
        bad.push(STORED.replace("f8f", "é"));
        for stored in bad {
            assert!(Md5Secret::parse(&stored).is_none(), "{stored}");
        }
        assert_eq!(format!("{:?}", Md5Secret::parse(STORED)), "Some(Md5Secret(..))");
    }

    #[test]
    fn survives_garbage() {
        garbage::throw(&[STORED.as_bytes()], |bytes| {
            if let Some(secret) = Md5Secret::parse(&crate::read::text(bytes)) {
                assert_eq!(secret.to_stored().as_bytes(), bytes);
                assert!(!secret.verify(SALT, bytes));
            }
        });
    }
}
