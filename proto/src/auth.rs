//! Authentication messages, both directions.
//!
//! Server to client (`R`): `u32` kind, then what the kind needs. Client to server (`p`):
//! PasswordMessage is one NUL-terminated string; SASLInitialResponse is the mechanism
//! (NUL-terminated), `i32` length or -1, data; SASLResponse is data only.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::fmt;

use bytes::Bytes;
use pgwire::messages::startup as pg;

use crate::encode;
use crate::read::Reader;

/// The only mechanism offered and accepted so far.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// The same with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// PostgreSQL's limit on the body of a password or SASL message (PG_MAX_AUTH_TOKEN_LENGTH).
pub const AUTH_TOKEN_LEN_MAX: usize = 65_535;

/// A body that does not have the layout of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedAuth;

impl fmt::Display for MalformedAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed authentication message")
    }
}

impl std::error::Error for MalformedAuth {}

/// Appends AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    encode::message(out, &pg::Authentication::Ok);
}

/// Appends AuthenticationCleartextPassword.
pub fn authentication_cleartext_password(out: &mut Vec<u8>) {
    encode::message(out, &pg::Authentication::CleartextPassword);
}

/// Appends AuthenticationMD5Password.
pub fn authentication_md5_password(out: &mut Vec<u8>, salt: [u8; 4]) {
    encode::message(out, &pg::Authentication::MD5Password(salt.to_vec()));
}

/// Appends AuthenticationSASL: what the client may choose from.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    let mechanisms = mechanisms.iter().map(|&name| name.to_owned()).collect();
    encode::message(out, &pg::Authentication::SASL(mechanisms));
}

/// Appends AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    encode::message(out, &pg::Authentication::SASLContinue(data));
}

/// Appends AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    encode::message(out, &pg::Authentication::SASLFinal(data));
}

/// Appends PasswordMessage: a password, or an answer to an md5 challenge.
pub fn password_message(out: &mut Vec<u8>, password: &str) {
    encode::message(out, &pg::Password::new(encode::text(password)));
}

/// Appends SASLInitialResponse.
pub fn sasl_initial_response(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    let data = Some(Bytes::copy_from_slice(data));
    encode::message(out, &pg::SASLInitialResponse::new(mechanism.to_owned(), data));
}

/// Appends SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    encode::message(out, &pg::SASLResponse::new(Bytes::copy_from_slice(data)));
}

/// The password in a PasswordMessage, possibly empty. Like PostgreSQL, refuses a body that
/// holds more than the one string.
pub fn parse_password(body: &[u8]) -> Result<&[u8], MalformedAuth> {
    let mut reader = Reader::new(body);
    match reader.cstr() {
        Some(password) if reader.is_empty() => Ok(password),
        _ => Err(MalformedAuth),
    }
}

/// The first answer of a client that was offered SASL. Later ones are data only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    pub mechanism: &'a str,
    /// `None` if the client waits for a challenge.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, MalformedAuth> {
        let mut reader = Reader::new(body);
        let mechanism = reader.cstr().ok_or(MalformedAuth)?;
        let mechanism = std::str::from_utf8(mechanism).map_err(|_| MalformedAuth)?;
        let len = reader.u32().ok_or(MalformedAuth)?;
        let rest = reader.rest();
        let data = match len {
            u32::MAX if rest.is_empty() => None,
            len if rest.len() as u64 == u64::from(len) => Some(rest),
            _ => return Err(MalformedAuth),
        };
        Ok(SaslInitialResponse { mechanism, data })
    }
}

/// What a server asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    Ok,
    CleartextPassword,
    Md5Password([u8; 4]),
    /// Mechanisms to choose from.
    Sasl(Vec<&'a str>),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// Kerberos, GSS, SSPI and whatever comes: not supported.
    Other(u32),
}

impl<'a> Authentication<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, MalformedAuth> {
        let mut reader = Reader::new(body);
        let kind = reader.u32().ok_or(MalformedAuth)?;
        match kind {
            0 if reader.is_empty() => Ok(Authentication::Ok),
            3 if reader.is_empty() => Ok(Authentication::CleartextPassword),
            0 | 3 => Err(MalformedAuth),
            5 => match reader.rest().try_into() {
                Ok(salt) => Ok(Authentication::Md5Password(salt)),
                Err(_) => Err(MalformedAuth),
            },
            10 => parse_mechanisms(reader).map(Authentication::Sasl),
            11 => Ok(Authentication::SaslContinue(reader.rest())),
            12 => Ok(Authentication::SaslFinal(reader.rest())),
            other => Ok(Authentication::Other(other)),
        }
    }
}

impl fmt::Debug for Authentication<'_> {
    /// Names the request only: salts and exchanges stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Authentication::Ok => f.write_str("Ok"),
            Authentication::CleartextPassword => f.write_str("CleartextPassword"),
            Authentication::Md5Password(_) => f.write_str("Md5Password"),
            Authentication::Sasl(mechanisms) => f.debug_tuple("Sasl").field(mechanisms).finish(),
            Authentication::SaslContinue(_) => f.write_str("SaslContinue"),
            Authentication::SaslFinal(_) => f.write_str("SaslFinal"),
            Authentication::Other(kind) => f.debug_tuple("Other").field(kind).finish(),
        }
    }
}

/// Names, each NUL-terminated, and a final NUL.
fn parse_mechanisms(mut reader: Reader<'_>) -> Result<Vec<&str>, MalformedAuth> {
    let mut mechanisms = Vec::new();
    loop {
        let name = reader.cstr().ok_or(MalformedAuth)?;
        if name.is_empty() {
            return if reader.is_empty() { Ok(mechanisms) } else { Err(MalformedAuth) };
        }
        mechanisms.push(std::str::from_utf8(name).map_err(|_| MalformedAuth)?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HEADER_LEN;
    use crate::garbage;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn requests_round_trip() {
        let salt = [0, 1, 0xfe, 0xff];
        let cases: [(Vec<u8>, Authentication<'_>); 6] = [
            (written(authentication_ok), Authentication::Ok),
            (written(authentication_cleartext_password), Authentication::CleartextPassword),
            (written(|out| authentication_md5_password(out, salt)), Authentication::Md5Password(salt)),
            (
                written(|out| authentication_sasl(out, &["A", SCRAM_SHA_256])),
                Authentication::Sasl(vec!["A", SCRAM_SHA_256]),
            ),
            (written(|out| authentication_sasl_continue(out, b"r=x")), Authentication::SaslContinue(b"r=x")),
            (written(|out| authentication_sasl_final(out, b"v=x")), Authentication::SaslFinal(b"v=x")),
        ];
        for (bytes, expected) in cases {
            let len = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
            assert_eq!((bytes[0], len + 1), (b'R', bytes.len()));
            assert_eq!(Authentication::parse(&bytes[HEADER_LEN..]), Ok(expected));
        }
        assert_eq!(Authentication::parse(b"\0\0\0\x07"), Ok(Authentication::Other(7)));
    }

    #[test]
    fn answers_round_trip() {
        let long = "p".repeat(20_000);
        for password in ["", "secret", "grün", &long] {
            let bytes = written(|out| password_message(out, password));
            assert_eq!(parse_password(&bytes[HEADER_LEN..]), Ok(password.as_bytes()));
        }
        let bytes = written(|out| sasl_initial_response(out, SCRAM_SHA_256, b"n,,n=,r=x"));
        let data = Some(&b"n,,n=,r=x"[..]);
        let expected = SaslInitialResponse { mechanism: SCRAM_SHA_256, data };
        assert_eq!(SaslInitialResponse::parse(&bytes[HEADER_LEN..]), Ok(expected));
        assert_eq!(written(|out| sasl_response(out, b"c=biws")), b"p\0\0\0\x0ac=biws");
        let waiting = SaslInitialResponse::parse(b"X\0\xff\xff\xff\xff").unwrap();
        assert_eq!((waiting.mechanism, waiting.data), ("X", None));
    }

    #[test]
    fn refuses_wrong_layouts() {
        for body in [&b""[..], b"abc", b"abc\0d", b"abc\0\0"] {
            assert_eq!(parse_password(body), Err(MalformedAuth));
        }
        let lengths: [&[u8]; 7] = [
            b"",
            b"X",
            b"X\0\0\0\0",
            b"X\0\0\0\0\x02a",
            b"X\0\0\0\0\x01ab",
            b"X\0\xff\xff\xff\xffa",
            b"X\0\x7f\xff\xff\xffa",
        ];
        for body in lengths {
            assert_eq!(SaslInitialResponse::parse(body), Err(MalformedAuth), "{body:?}");
        }
        let requests: [&[u8]; 6] =
            [b"", b"\0\0\0", b"\0\0\0\0x", b"\0\0\0\x05abc", b"\0\0\0\x0aSCRAM", b"\0\0\0\x0aSCRAM\0\0x"];
        for body in requests {
            assert_eq!(Authentication::parse(body), Err(MalformedAuth), "{body:?}");
        }
    }

    #[test]
    fn survives_garbage() {
        let valid: [&[u8]; 4] = [
            b"secret\0",
            b"SCRAM-SHA-256\0\0\0\0\x03abc",
            b"\0\0\0\x05salt",
            b"\0\0\0\x0aSCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0",
        ];
        garbage::throw(&valid, |body| {
            let _ = parse_password(body);
            let _ = SaslInitialResponse::parse(body);
            if let Ok(Authentication::Sasl(mechanisms)) = Authentication::parse(body) {
                assert!(mechanisms.len() <= body.len());
            }
        });
    }
}
