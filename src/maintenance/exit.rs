//! How a command ends: its exit code, and what it says when it fails.

use std::error::Error;
use std::fmt;
use std::io;

use tokio_postgres::error::SqlState;

/// The exit codes of all maintenance commands, documented in docs/maintenance.md and in every `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    Fine = 0,
    /// `check` found something worth a look.
    Warning = 1,
    /// `check` found something critical, or the command failed.
    Failed = 2,
    /// PostgreSQL, the pooler's console or a storage did not answer.
    Unreachable = 3,
    Usage = 4,
    /// It was not done because it was not confirmed or is not safe.
    Refused = 5,
    /// Another job is at work on the database.
    Locked = 6,
    /// Some of it was done.
    Partly = 7,
    /// What was made or found is not what it should be.
    Unverified = 8,
}

impl Exit {
    pub(crate) const ALL: [Exit; 9] = [
        Exit::Fine,
        Exit::Warning,
        Exit::Failed,
        Exit::Unreachable,
        Exit::Usage,
        Exit::Refused,
        Exit::Locked,
        Exit::Partly,
        Exit::Unverified,
    ];

    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// For the end of every `--help`.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Exit::Fine => "fine",
            Exit::Warning => "a warning",
            Exit::Failed => "critical, or failed",
            Exit::Unreachable => "a server did not answer",
            Exit::Usage => "wrong arguments",
            Exit::Refused => "refused: not confirmed, or not safe",
            Exit::Locked => "another job holds the database's lock",
            Exit::Partly => "partly done",
            Exit::Unverified => "verification failed",
        }
    }
}

/// Why a command ended early: one line for people, with a second for what they can do, and the exit code for programs.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// What to do about it; None: the message says it all.
    pub(crate) hint: Option<String>,
    /// The server's code, for callers that go on after some errors; None: it was not the server's error.
    pub(crate) sqlstate: Option<SqlState>,
}

/// What a command returns.
pub(crate) type Done = Result<Exit, Failure>;

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), hint: None, sqlstate: None }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Unreachable, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Refused, message)
    }

    pub(crate) fn locked(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Locked, message)
    }

    pub(crate) fn unverified(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Unverified, message)
    }

    pub(crate) fn partly(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Partly, message)
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// The same with what it was about in front.
    pub(crate) fn while_at(self, what: impl fmt::Display) -> Failure {
        Failure { message: format!("{what}: {}", self.message), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\nHint: {hint}"))
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        Failure::from(&error)
    }
}

impl From<&tokio_postgres::Error> for Failure {
    /// An error of the server in its own words; any other error that ends the connection as unreachable.
    fn from(error: &tokio_postgres::Error) -> Failure {
        let Some(db) = error.as_db_error() else {
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            let lost = error.is_closed() || error.source().is_some_and(|cause| cause.is::<io::Error>());
            return Failure::new(if lost { Exit::Unreachable } else { Exit::Failed }, message);
        };
        let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        let message = format!("{}{detail} (SQLSTATE {})", db.message(), db.code().code());
        Failure { hint: db.hint().map(str::to_owned), sqlstate: Some(db.code().clone()), ..Failure::failed(message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_in_their_order() {
        for (number, exit) in (0..).zip(Exit::ALL) {
            assert_eq!(exit.code(), number);
        }
    }
}
