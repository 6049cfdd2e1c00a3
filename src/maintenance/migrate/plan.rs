//! What is done at once: the whole file in one transaction, or piece by piece.

use super::kind::Kind;
use super::script::{Statement, Unreadable};

/// What is done whole or not at all.
#[derive(Debug)]
pub(super) enum Unit {
    /// `begin` is the file's own BEGIN; None: ours.
    Transaction { begin: Option<Statement>, statements: Vec<Statement> },
    /// Outside of any transaction.
    Alone(Statement),
}

impl Unit {
    pub(super) fn statements(&self) -> &[Statement] {
        match self {
            Unit::Transaction { statements, .. } => statements,
            Unit::Alone(statement) => std::slice::from_ref(statement),
        }
    }

    pub(super) fn begin_sql(begin: Option<&Statement>) -> &str {
        begin.map_or("BEGIN", |begin| &begin.text)
    }
}

/// The units of a file; `whole`: it is to be one transaction. An error is the user's to mend.
pub(super) fn units(statements: Vec<Statement>, whole: bool) -> Result<Vec<Unit>, Unreadable> {
    if let Some(copy) = statements.iter().find(|statement| statement.kind() == Kind::CopyIn) {
        return Err(at(copy, "COPY FROM STDIN needs rows, which a file of SQL cannot hold; use psql, or INSERT"));
    }
    if whole { one_transaction(statements).map(|unit| vec![unit]) } else { piece_by_piece(statements) }
}

fn at(statement: &Statement, message: impl Into<String>) -> Unreadable {
    Unreadable { at: statement.at, message: message.into() }
}

/// A BEGIN and COMMIT around everything are as good as ours.
fn one_transaction(mut statements: Vec<Statement>) -> Result<Unit, Unreadable> {
    let mut begin = None;
    if statements.first().is_some_and(|first| first.kind() == Kind::Begin) {
        let own = statements.remove(0);
        if statements.pop().is_none_or(|last| last.kind() != Kind::Commit) {
            return Err(at(&own, "this transaction does not end with the file"));
        }
        begin = Some(own);
    }
    for statement in &statements {
        let message = match statement.kind() {
            Kind::Outside(what) => format!("{what} cannot run in a transaction: use --no-transaction"),
            Kind::Begin | Kind::Commit | Kind::Ending => {
                "the file has transactions of its own: use --no-transaction, or leave them out".to_owned()
            }
            Kind::Ordinary | Kind::Routine | Kind::CopyIn => continue,
        };
        return Err(at(statement, message));
    }
    Ok(Unit::Transaction { begin, statements })
}

/// Each statement for itself, but for those between a BEGIN and its COMMIT.
fn piece_by_piece(statements: Vec<Statement>) -> Result<Vec<Unit>, Unreadable> {
    let mut units = Vec::new();
    let mut open: Option<(Statement, Vec<Statement>)> = None;
    for statement in statements {
        match (statement.kind(), &mut open) {
            (Kind::Ending, _) => return Err(at(&statement, "only BEGIN and COMMIT are understood in a file")),
            (Kind::Begin, None) => open = Some((statement, Vec::new())),
            (Kind::Begin, Some(_)) => return Err(at(&statement, "BEGIN inside a transaction")),
            (Kind::Commit, None) => return Err(at(&statement, "COMMIT without BEGIN")),
            (Kind::Commit, Some(_)) => {
                let (begin, statements) = open.take().unwrap_or((statement, Vec::new()));
                units.push(Unit::Transaction { begin: Some(begin), statements });
            }
            (Kind::Outside(what), Some(_)) => {
                return Err(at(
                    &statement,
                    format!("{what} cannot run in a transaction, and this one is between BEGIN and COMMIT"),
                ));
            }
            (_, Some((_, inside))) => inside.push(statement),
            (Kind::Outside(_) | Kind::Routine, None) => units.push(Unit::Alone(statement)),
            _ => units.push(Unit::Transaction { begin: None, statements: vec![statement] }),
        }
    }
    match open {
        Some((begin, _)) => Err(at(&begin, "BEGIN without COMMIT")),
        None => Ok(units),
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::split;
    use super::*;

    /// `(2)` is a transaction of two statements, `[2]` one that the file begins itself, `!` a statement alone.
    fn shape(text: &str, whole: bool) -> Result<String, String> {
        let units = units(split(text, false).unwrap(), whole).map_err(|e| format!("{}: {}", e.at, e.message))?;
        let shapes = units.iter().map(|unit| match unit {
            Unit::Transaction { begin: None, statements } => format!("({})", statements.len()),
            Unit::Transaction { begin: Some(_), statements } => format!("[{}]", statements.len()),
            Unit::Alone(_) => "!".to_owned(),
        });
        Ok(shapes.collect())
    }

    #[test]
    fn a_file_is_one_transaction() {
        assert_eq!(shape("a; do $$ $$; b", true).unwrap(), "(3)");
        assert_eq!(shape("begin; a; b; commit;", true).unwrap(), "[2]");
        for (text, message) in [
            ("a;\nvacuum", "2:1: VACUUM cannot run in a transaction: use --no-transaction"),
            ("begin; a", "1:1: this transaction does not end with the file"),
            ("begin", "1:1: this transaction does not end with the file"),
            (
                "begin; a; commit; begin; b; commit",
                "1:11: the file has transactions of its own: use --no-transaction, or leave them out",
            ),
            ("a; rollback", "1:4: the file has transactions of its own: use --no-transaction, or leave them out"),
            (
                "copy t from stdin",
                "1:1: COPY FROM STDIN needs rows, which a file of SQL cannot hold; use psql, or INSERT",
            ),
        ] {
            assert_eq!(shape(text, true).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn or_goes_piece_by_piece() {
        assert_eq!(shape("a; vacuum; begin; b; c; commit; call p(); d", false).unwrap(), "(1)![2]!(1)");
        for (text, message) in [
            (
                "begin; vacuum; commit",
                "1:8: VACUUM cannot run in a transaction, and this one is between BEGIN and COMMIT",
            ),
            ("begin; a", "1:1: BEGIN without COMMIT"),
            ("a; commit", "1:4: COMMIT without BEGIN"),
            ("begin; begin; commit", "1:8: BEGIN inside a transaction"),
            ("a; prepare transaction 'x'", "1:4: only BEGIN and COMMIT are understood in a file"),
        ] {
            assert_eq!(shape(text, false).unwrap_err(), message, "{text}");
        }
    }
}
