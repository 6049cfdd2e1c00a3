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

    /// The byte that says so.
    pub fn byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InBlock => b'T',
            TransactionStatus::Failed => b'E',
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

/// The columns of a DataRow, `None` for NULL. `None` for a body that is none.
pub fn data_row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = body.split_first_chunk()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (len, behind) = rest.split_first_chunk()?;
        rest = behind;
        let len = i32::from_be_bytes(*len);
        columns.push(match usize::try_from(len) {
            Ok(len) => {
                let (column, behind) = rest.split_at_checked(len)?;
                rest = behind;
                Some(column)
            }
            Err(_) if len == -1 => None,
            Err(_) => return None,
        });
    }
    rest.is_empty().then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_row_is_columns() {
        let row = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(data_row(row), Some(vec![Some(&b"ab"[..]), None, Some(b"")]));
        assert_eq!(data_row(b"\0\0"), Some(vec![]));
        for cut in 0..row.len() {
            assert_eq!(data_row(&row[..cut]), None, "{cut}");
        }
        for bad in [&b"\0\x01\xff\xff\xff\xfe"[..], b"\0\x01\x7f\xff\xff\xff", b"\0\0\0"] {
            assert_eq!(data_row(bad), None);
        }
    }

    #[test]
    fn parameter_status_is_two_strings() {
        assert_eq!(parameter_status(b"TimeZone\0UTC\0"), Some((&b"TimeZone"[..], &b"UTC"[..])));
        assert_eq!(parameter_status(b"a\0\0"), Some((&b"a"[..], &b""[..])));
        for bad in [&b"a\0b"[..], b"a\0", b"", b"a\0b\0c\0"] {
            assert_eq!(parameter_status(bad), None);
        }
    }
}
