//! Error codes.
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>

use std::fmt;

/// Which codes go with our own words; those of a server are passed on as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlStates {
    /// That says what has happened.
    Precise,
    /// PgBouncer's, which is one for all.
    Pgbouncer,
}

impl SqlStates {
    pub fn code(self, precise: SqlState) -> SqlState {
        match self {
            SqlStates::Precise => precise,
            SqlStates::Pgbouncer => SqlState::PROTOCOL_VIOLATION,
        }
    }
}

/// Five characters, each `0-9` or `A-Z`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    pub const SUCCESSFUL_COMPLETION: Self = Self(*b"00000");
    pub const SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION: Self = Self(*b"08001");
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: Self = Self(*b"25P03");
    pub const TRANSACTION_TIMEOUT: Self = Self(*b"25P04");
    pub const INVALID_SQL_STATEMENT_NAME: Self = Self(*b"26000");
    pub const INVALID_AUTHORIZATION_SPECIFICATION: Self = Self(*b"28000");
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    pub const INVALID_CURSOR_NAME: Self = Self(*b"34000");
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    pub const DUPLICATE_CURSOR: Self = Self(*b"42P03");
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self(*b"42P05");
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    pub const CONFIG_FILE_ERROR: Self = Self(*b"F0000");

    /// `None` unless `code` is five digits or capital letters.
    pub fn parse(code: &[u8]) -> Option<SqlState> {
        let code: [u8; 5] = code.try_into().ok()?;
        let valid = code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        valid.then_some(SqlState(code))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_five_digits_or_capitals() {
        assert_eq!(SqlState::parse(b"08P01"), Some(SqlState::PROTOCOL_VIOLATION));
        assert_eq!(SqlState::PROTOCOL_VIOLATION.to_string(), "08P01");
        for bad in [&b""[..], b"08P0", b"08P012", b"08p01", b"08P\xff1"] {
            assert_eq!(SqlState::parse(bad), None);
        }
    }
}
