//! Syntax of SCRAM messages: attributes `x=value` between commas (RFC 5802, section 7).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::ScramError;
use super::keys::Key;

/// Longest message taken. PostgreSQL's and libpq's have about 100 bytes.
const MESSAGE_LEN_MAX: usize = 4096;
/// Longest nonce taken. PostgreSQL's and libpq's have 24 and 48 characters.
const NONCE_LEN_MAX: usize = 1024;

/// The message as text, if it is of a sane length.
pub(super) fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_LEN_MAX {
        return Err(ScramError::TooLong);
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

/// The attributes of a message, one after the other.
pub(super) struct Attributes<'a>(Option<&'a str>);

impl<'a> Attributes<'a> {
    pub(super) fn new(message: &'a str) -> Self {
        Attributes(Some(message))
    }

    /// The value of the next attribute, which must be `name`.
    pub(super) fn expect(&mut self, name: char) -> Result<&'a str, ScramError> {
        match self.next().transpose()? {
            Some((found, value)) if found == name => Ok(value),
            Some(('m', _)) => Err(ScramError::MandatoryExtension),
            _ => Err(ScramError::Malformed("unexpected attribute")),
        }
    }

    /// Passes over optional extensions, which end the message.
    pub(super) fn skip_rest(self) -> Result<(), ScramError> {
        self.into_iter().try_for_each(|attribute| attribute.map(drop))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(char, &'a str), ScramError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0?;
        let (attribute, rest) = match rest.split_once(',') {
            Some((attribute, rest)) => (attribute, Some(rest)),
            None => (rest, None),
        };
        self.0 = rest;
        match attribute.split_once('=') {
            Some((name, value)) if name.len() == 1 && name.as_bytes()[0].is_ascii_alphabetic() => {
                Some(Ok((char::from(name.as_bytes()[0]), value)))
            }
            _ => Some(Err(ScramError::Malformed("attribute expected"))),
        }
    }
}

/// A nonce: printable ASCII, of a sane length, not empty.
pub(super) fn check_nonce(nonce: &str) -> Result<(), ScramError> {
    if nonce.len() > NONCE_LEN_MAX {
        return Err(ScramError::TooLong);
    }
    if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
        return Err(ScramError::Malformed("nonce"));
    }
    Ok(())
}

pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn decode(base64: &str) -> Option<Vec<u8>> {
    STANDARD.decode(base64).ok()
}

pub(super) fn decode_key(base64: &str) -> Option<Key> {
    decode(base64)?.try_into().ok()
}
