//! Tags of the messages that a server sends, and views of the few that the pooler reads.

pub const AUTHENTICATION: u8 = b'R';
pub const BACKEND_KEY_DATA: u8 = b'K';
pub const BIND_COMPLETE: u8 = b'2';
pub const CLOSE_COMPLETE: u8 = b'3';
pub const COMMAND_COMPLETE: u8 = b'C';
pub const COPY_BOTH_RESPONSE: u8 = b'W';
pub const COPY_DATA: u8 = b'd';
pub const COPY_DONE: u8 = b'c';
pub const COPY_IN_RESPONSE: u8 = b'G';
pub const COPY_OUT_RESPONSE: u8 = b'H';
pub const DATA_ROW: u8 = b'D';
pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
pub const ERROR_RESPONSE: u8 = b'E';
pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
pub const NO_DATA: u8 = b'n';
pub const NOTICE_RESPONSE: u8 = b'N';
pub const NOTIFICATION_RESPONSE: u8 = b'A';
pub const PARAMETER_DESCRIPTION: u8 = b't';
pub const PARAMETER_STATUS: u8 = b'S';
pub const PARSE_COMPLETE: u8 = b'1';
pub const PORTAL_SUSPENDED: u8 = b's';
pub const READY_FOR_QUERY: u8 = b'Z';
pub const ROW_DESCRIPTION: u8 = b'T';

/// Where the server stands, as ReadyForQuery's one byte says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: not in a transaction block.
    Idle,
    /// `T`: in a transaction block.
    InBlock,
    /// `E`: in a failed transaction block.
    Failed,
}

impl TransactionStatus {
    /// `None` for a byte that the protocol does not know.
    #[inline]
    pub fn read(body: &[u8]) -> Option<TransactionStatus> {
        match body {
            b"I" => Some(TransactionStatus::Idle),
            b"T" => Some(TransactionStatus::InBlock),
            b"E" => Some(TransactionStatus::Failed),
            _ => None,
        }
    }
}

/// ParameterStatus: name and value, each ended by NUL. `None` if it is anything else.
/// The value is in the client's encoding, so it need not be UTF-8.
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = body.split(|&b| b == 0);
    let (name, value, rest) = (parts.next()?, parts.next()?, parts.next()?);
    (rest.is_empty() && parts.next().is_none()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_status_is_two_strings() {
        assert_eq!(parameter_status(b"TimeZone\0UTC\0"), Some((&b"TimeZone"[..], &b"UTC"[..])));
        assert_eq!(parameter_status(b"a\0\0"), Some((&b"a"[..], &b""[..])));
        for bad in [&b"a\0b"[..], b"a\0", b"", b"a\0b\0c\0"] {
            assert_eq!(parameter_status(bad), None);
        }
    }
}
