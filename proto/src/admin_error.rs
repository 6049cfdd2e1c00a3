//! All that the console answers to a command which it does not carry out, in PgBouncer's
//! words. The connection stays open.

use std::borrow::Cow;

use crate::error_response::{ErrorResponse, Severity};
use crate::sqlstate::{SqlState, SqlStates};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminError {
    /// Holds the command.
    InvalidCommand(String),
    /// A known command with arguments that it does not take.
    BadArguments,
    /// A stats user gave an admin's command.
    AccessNeeded,
    NoSuchDatabase(String),
    /// DISABLE or ENABLE without a database.
    DatabaseNeeded,
    /// The console's own database can not be paused, killed and so on.
    ConsoleDatabase {
        /// As it stands after "cannot": `pause`, `wait in`.
        verb: &'static str,
        name: String,
    },
    /// RESUME of a database that was not paused.
    NotPaused(String),
    /// RESUME when nothing is paused or suspended.
    NothingPaused,
    AlreadyPaused,
    SuspendWithPausedDatabases,
    ShuttingDown,
    SetFailed,
    ReloadFailed,
    ClientNotFound,
    /// TAKEOVER cannot be. Holds the reason.
    NoTakeover(String),
    /// KILL_CLIENT with something that is no id.
    InvalidClientPointer,
    /// `$1` in a command, or a value for it.
    Parameters,
    /// Holds the tag.
    UnsupportedPacket(u8),
}

impl AdminError {
    pub fn message(&self) -> Cow<'_, str> {
        use AdminError as E;
        Cow::Borrowed(match self {
            E::InvalidCommand(command) => {
                return format!("invalid command '{command}', use SHOW HELP;").into();
            }
            E::BadArguments => "bad arguments",
            E::AccessNeeded => "admin access needed",
            E::NoSuchDatabase(name) => return format!("no such database: {name}").into(),
            E::DatabaseNeeded => "a database is required",
            E::ConsoleDatabase { verb, name } => {
                return format!("cannot {verb} admin db: {name}").into();
            }
            E::NotPaused(name) => return format!("database {name} is not paused").into(),
            E::NothingPaused => "pooler is not paused/suspended",
            E::AlreadyPaused => "already suspended/paused",
            E::SuspendWithPausedDatabases => "cannot suspend with paused databases",
            E::ShuttingDown => "pooler is shutting down",
            E::SetFailed => "SET failed",
            E::ReloadFailed => "RELOAD failed, see logs for additional details",
            E::NoTakeover(why) => return Cow::Borrowed(why),
            E::ClientNotFound => "client not found",
            E::InvalidClientPointer => "invalid client pointer supplied",
            E::Parameters => "parameters are not supported by admin console, put the value into the command",
            E::UnsupportedPacket(tag) => {
                return format!("unsupported packet type for admin console: {tag}").into();
            }
        })
    }

    fn sqlstate(&self) -> SqlState {
        match self {
            AdminError::AccessNeeded => SqlState::INSUFFICIENT_PRIVILEGE,
            AdminError::Parameters => SqlState::FEATURE_NOT_SUPPORTED,
            AdminError::ReloadFailed => SqlState::CONFIG_FILE_ERROR,
            _ => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// Appends an ERROR ErrorResponse; ReadyForQuery is the caller's.
    pub fn encode(&self, sqlstates: SqlStates, out: &mut Vec<u8>) {
        let code = match self {
            // PgBouncer has a code of its own here, and it is this one.
            AdminError::ReloadFailed => self.sqlstate(),
            _ => sqlstates.code(self.sqlstate()),
        };
        ErrorResponse::new(Severity::Error, code, &self.message()).error(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_response::ErrorFields;
    use crate::frame::HEADER_LEN;

    fn sent(error: AdminError, sqlstates: SqlStates) -> (String, String, String) {
        let mut out = Vec::new();
        error.encode(sqlstates, &mut out);
        let fields = ErrorFields::parse(&out[HEADER_LEN..]);
        let code = fields.sqlstate.unwrap().to_string();
        (fields.severity.into_owned(), code, fields.message.into_owned())
    }

    #[test]
    fn says_what_pgbouncer_says() {
        let line = |code: &str, message: &str| ("ERROR".to_owned(), code.to_owned(), message.to_owned());
        use SqlStates::{Pgbouncer, Precise};
        assert_eq!(
            sent(AdminError::InvalidCommand("frob".to_owned()), Precise),
            line("08P01", "invalid command 'frob', use SHOW HELP;")
        );
        assert_eq!(sent(AdminError::AccessNeeded, Precise), line("42501", "admin access needed"));
        assert_eq!(sent(AdminError::AccessNeeded, Pgbouncer), line("08P01", "admin access needed"));
        let failed = line("F0000", "RELOAD failed, see logs for additional details");
        assert_eq!(sent(AdminError::ReloadFailed, Precise), failed);
        assert_eq!(sent(AdminError::ReloadFailed, Pgbouncer), failed);
        let console = AdminError::ConsoleDatabase { verb: "pause", name: "pgbouncer".to_owned() };
        assert_eq!(sent(console, Precise), line("08P01", "cannot pause admin db: pgbouncer"));
    }
}
