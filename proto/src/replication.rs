//! The startup parameter `replication`, which asks for a walsender instead of a backend.
//! <https://www.postgresql.org/docs/current/protocol-replication.html>

use crate::startup::StartupError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// A boolean that is true: WAL and base backups of the whole server, no database.
    Physical,
    /// `database`: logical decoding in a database, and SQL.
    Logical,
}

impl Replication {
    /// Reads the parameter as PostgreSQL does: `database` in just this spelling, or a boolean.
    pub fn parse(value: &str) -> Result<Option<Replication>, StartupError> {
        if value == "database" {
            return Ok(Some(Replication::Logical));
        }
        match boolean(value) {
            Some(is_on) => Ok(is_on.then_some(Replication::Physical)),
            None => Err(StartupError::BadReplication(value.to_owned())),
        }
    }

    /// The parameter's value for a server, which PgBouncer's log shows too.
    pub fn value(self) -> &'static str {
        match self {
            Replication::Physical => "yes",
            Replication::Logical => "database",
        }
    }

    /// What SHOW CLIENTS and SHOW SERVERS call it.
    pub fn name(self) -> &'static str {
        match self {
            Replication::Physical => "physical",
            Replication::Logical => "logical",
        }
    }
}

/// PostgreSQL's `parse_bool`: any beginning of a word that is not the other's too, in any case.
fn boolean(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_postgresqls() {
        let parse = |value: &str| Replication::parse(value).ok();
        for on in ["true", "on", "yes", "1", "T", "y", "yE", "ON", "tru"] {
            assert_eq!(parse(on), Some(Some(Replication::Physical)), "{on}");
        }
        for off in ["false", "OFF", "no", "0", "f", "n", "of"] {
            assert_eq!(parse(off), Some(None), "{off}");
        }
        assert_eq!(parse("database"), Some(Some(Replication::Logical)));
        for bad in ["", "o", "2", "10", "offf", "Database", "maybe", "d"] {
            assert_eq!(Replication::parse(bad), Err(StartupError::BadReplication(bad.to_owned())));
        }
        for kind in [Replication::Physical, Replication::Logical] {
            assert_eq!(parse(kind.value()), Some(Some(kind)));
        }
    }
}
