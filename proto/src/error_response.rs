//! ErrorResponse and NoticeResponse: built for clients, read from servers.
//!
//! Body: fields, each one type byte and a NUL-terminated string; a NUL ends the list.
//! <https://www.postgresql.org/docs/current/protocol-error-fields.html>

use std::borrow::Cow;

use pgwire::messages::response;

use crate::encode;
use crate::read::Reader;
use crate::sqlstate::SqlState;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The connection ends with this message.
    Fatal,
    Error,
    Warning,
    Notice,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Fatal => "FATAL",
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
        }
    }
}

/// One error or notice that we say ourselves.
#[derive(Debug, Clone, Copy)]
pub struct ErrorResponse<'a> {
    pub severity: Severity,
    pub sqlstate: SqlState,
    pub message: &'a str,
    pub detail: Option<&'a str>,
    pub hint: Option<&'a str>,
}

impl<'a> ErrorResponse<'a> {
    pub fn new(severity: Severity, sqlstate: SqlState, message: &'a str) -> Self {
        ErrorResponse { severity, sqlstate, message, detail: None, hint: None }
    }

    /// Appends it as ErrorResponse.
    pub fn error(&self, out: &mut Vec<u8>) {
        encode::message(out, &response::ErrorResponse::new(self.fields()));
    }

    /// Appends it as NoticeResponse.
    pub fn notice(&self, out: &mut Vec<u8>) {
        encode::message(out, &response::NoticeResponse::new(self.fields()));
    }

    fn fields(&self) -> Vec<(u8, String)> {
        let severity = self.severity.as_str();
        let mut fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', self.sqlstate.to_string()),
            (b'M', encode::text(self.message)),
        ];
        fields.extend(self.detail.map(|detail| (b'D', encode::text(detail))));
        fields.extend(self.hint.map(|hint| (b'H', encode::text(hint))));
        fields
    }
}

/// What a server said in an ErrorResponse or NoticeResponse. Nothing in it can be relied
/// on to be there (CVE-2026-6666 was an error without SQLSTATE).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// Not localized where the server sends that form (9.6 and later). Empty if missing.
    pub severity: Cow<'a, str>,
    /// `None` if missing or malformed.
    pub sqlstate: Option<SqlState>,
    /// Empty if missing. Bytes that are not UTF-8 are replaced.
    pub message: Cow<'a, str>,
}

impl<'a> ErrorFields<'a> {
    /// Reads as many fields as are well-formed. A field sent twice counts as last sent.
    pub fn parse(body: &'a [u8]) -> ErrorFields<'a> {
        let (mut localized, mut severity, mut code, mut message) = (None, None, None, None);
        let mut reader = Reader::new(body);
        while let Some([kind]) = reader.array::<1>() {
            let (true, Some(value)) = (kind != 0, reader.cstr()) else {
                break;
            };
            match kind {
                b'S' => localized = Some(value),
                b'V' => severity = Some(value),
                b'C' => code = Some(value),
                b'M' => message = Some(value),
                _ => {}
            }
        }
        ErrorFields {
            severity: String::from_utf8_lossy(severity.or(localized).unwrap_or_default()),
            sqlstate: code.and_then(SqlState::parse),
            message: String::from_utf8_lossy(message.unwrap_or_default()),
        }
    }

    /// FATAL or PANIC: the server closes the connection after it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_ref(), "FATAL" | "PANIC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage;

    #[test]
    fn layout_is_the_protocols() {
        let mut out = Vec::new();
        let mut error = ErrorResponse::new(Severity::Fatal, SqlState::INVALID_CATALOG_NAME, "no such\0 x");
        error.error(&mut out);
        assert_eq!(out, b"E\0\0\0\x25SFATAL\0VFATAL\0C3D000\0Mno such x\0\0");
        out.clear();
        error.severity = Severity::Notice;
        (error.detail, error.hint) = (Some("d"), Some("h"));
        error.notice(&mut out);
        assert_eq!(out, b"N\0\0\0\x2dSNOTICE\0VNOTICE\0C3D000\0Mno such x\0Dd\0Hh\0\0");
    }

    #[test]
    fn parses_what_is_there() {
        let fields = ErrorFields::parse(b"SFATALE\0VFATAL\0C57P01\0Mgone\0\0");
        assert_eq!(fields.severity, "FATAL");
        assert_eq!(fields.sqlstate, Some(SqlState::ADMIN_SHUTDOWN));
        assert_eq!(fields.message, "gone");
        assert!(fields.is_fatal());
        let old_server = ErrorFields::parse(b"SERROR\0Mx\0\0");
        assert_eq!((old_server.severity.as_ref(), old_server.sqlstate), ("ERROR", None));
        assert!(!old_server.is_fatal());
    }

    #[test]
    fn tolerates_missing_and_broken_fields() {
        for body in [&b""[..], b"\0", b"C", b"C57P01", b"Cxx\0", b"M\0", b"V\0\0"] {
            let fields = ErrorFields::parse(body);
            assert_eq!((fields.sqlstate, fields.message.as_ref()), (None, ""), "{body:?}");
        }
        assert_eq!(ErrorFields::parse(b"Mkept\0C57").message, "kept");
        assert_eq!(ErrorFields::parse(b"Mgr\xfcn\0\0").message, "gr\u{fffd}n");
    }

    #[test]
    fn survives_garbage() {
        garbage::throw(&[b"SFATAL\0VFATAL\0C57P01\0Mgone\0Dd\0\0"], |body| {
            let fields = ErrorFields::parse(body);
            assert!(fields.message.len() <= body.len() * 3);
        });
    }
}
