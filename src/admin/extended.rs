//! The extended query protocol: statements, portals, and what is skipped after an error.
//!
//! A statement is a command that was parsed, a portal one that is to be carried out, which is
//! done by its first Execute, so that its rows are as fresh as can be.

use std::collections::HashMap;
use std::sync::Arc;

use pgweir_proto::admin_error::AdminError;
use pgweir_proto::extended::{self as message, Bind, Execute, Formats, Parse, Target};
use pgweir_proto::{console, error_response::ErrorResponse, error_response::Severity, sqlstate::SqlState};

use super::columns::Columns;
use super::parse::Command;
use super::reply::{Reply, complete, data_row};
use super::session::{Session, Stop};
use super::show;
use super::table::Table;

/// What one session may keep.
const STATEMENTS_MAX: usize = 256;
const PORTALS_MAX: usize = 16;

/// Statements and portals by name; the unnamed ones have the empty name.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    statements: HashMap<String, Arc<Statement>>,
    portals: HashMap<String, Portal>,
    /// An error was sent: nothing is done until Sync.
    pub(super) is_skipping: bool,
}

#[derive(Debug)]
struct Statement {
    text: String,
    command: Command,
    /// `None`: it has no rows.
    columns: Option<Columns>,
}

#[derive(Debug)]
struct Portal {
    statement: Arc<Statement>,
    formats: Formats,
    /// `None`: not carried out yet.
    result: Option<Rest>,
}

/// What an Execute has left of a result.
#[derive(Debug)]
struct Rest {
    table: Option<Table>,
    tag: Option<String>,
    /// Rows that were sent.
    sent: usize,
}

/// Why a message of this protocol is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NoSuchStatement(String),
    NoSuchPortal(String),
    StatementExists(String),
    PortalExists(String),
    TooMany(&'static str),
    /// Given, and taken.
    Formats(usize, usize),
}

impl Refusal {
    fn message(&self) -> String {
        // PostgreSQL's words where it has any.
        match self {
            Refusal::NoSuchStatement(name) if name.is_empty() => "unnamed prepared statement does not exist".into(),
            Refusal::NoSuchStatement(name) => format!("prepared statement \"{name}\" does not exist"),
            Refusal::NoSuchPortal(name) => format!("portal \"{name}\" does not exist"),
            Refusal::StatementExists(name) => format!("prepared statement \"{name}\" already exists"),
            Refusal::PortalExists(name) => format!("cursor \"{name}\" already exists"),
            Refusal::TooMany(what) => format!("too many {what} for one console session"),
            Refusal::Formats(given, taken) => {
                format!("bind message has {given} result formats but query has {taken} columns")
            }
        }
    }

    fn sqlstate(&self) -> SqlState {
        match self {
            Refusal::NoSuchStatement(_) => SqlState::INVALID_SQL_STATEMENT_NAME,
            Refusal::NoSuchPortal(_) => SqlState::INVALID_CURSOR_NAME,
            Refusal::StatementExists(_) => SqlState::DUPLICATE_PREPARED_STATEMENT,
            Refusal::PortalExists(_) => SqlState::DUPLICATE_CURSOR,
            Refusal::TooMany(_) => SqlState::PROGRAM_LIMIT_EXCEEDED,
            Refusal::Formats(..) => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// Appends the ErrorResponse and returns its text, for the log.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> String {
        let text = self.message();
        ErrorResponse::new(Severity::Error, self.sqlstate(), &text).error(out);
        text
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl Prepared {
    /// A simple query takes the place of what has no name.
    pub(super) fn drop_unnamed(&mut self) {
        self.statements.remove("");
        self.portals.remove("");
    }

    /// DEALLOCATE, which drivers send after a ROLLBACK.
    pub(super) fn deallocate(&mut self, name: &str) -> Result<Reply, Refusal> {
        if name.eq_ignore_ascii_case("all") {
            self.statements.clear();
            return Ok(Reply::done("DEALLOCATE ALL"));
        }
        let known = self.statements.remove(name).map(|_| Reply::done("DEALLOCATE"));
        known.ok_or_else(|| Refusal::NoSuchStatement(name.to_owned()))
    }

    /// DISCARD ALL, by which their pools take a connection back.
    pub(super) fn discard(&mut self) -> Reply {
        self.statements.clear();
        self.portals.clear();
        Reply::done("DISCARD ALL")
    }

    /// Sync: what was skipped is over, and so are portals, with their transaction.
    pub(super) fn sync(&mut self, in_block: bool) {
        self.is_skipping = false;
        if !in_block {
            self.portals.clear();
        }
    }

    pub(super) fn parse(&mut self, parse: Parse, out: &mut Vec<u8>) -> Result<(), Stop> {
        let Parse { name, sql: text } = parse;
        if !name.is_empty() {
            if self.statements.contains_key(&name) {
                return Err(Refusal::StatementExists(name).into());
            }
            if self.statements.len() >= STATEMENTS_MAX {
                return Err(Refusal::TooMany("prepared statements").into());
            }
        }
        let command = Command::parse(&text)?;
        let columns = columns(&command, &text)?;
        self.statements.insert(name, Arc::new(Statement { text, command, columns }));
        message::parse_complete(out);
        Ok(())
    }

    pub(super) fn bind(&mut self, bind: Bind, out: &mut Vec<u8>) -> Result<(), Stop> {
        let Bind { portal, statement, parameters, formats } = bind;
        let Some(statement) = self.statements.get(&statement).map(Arc::clone) else {
            return Err(Refusal::NoSuchStatement(statement).into());
        };
        if parameters > 0 {
            return Err(AdminError::Parameters.into());
        }
        let columns = statement.columns.map_or(0, <[_]>::len);
        if !formats.fit(columns) {
            return Err(Refusal::Formats(formats.given(), columns).into());
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return Err(Refusal::PortalExists(portal).into());
        }
        if self.portals.len() >= PORTALS_MAX {
            return Err(Refusal::TooMany("portals").into());
        }
        self.portals.insert(portal, Portal { statement, formats, result: None });
        message::bind_complete(out);
        Ok(())
    }

    pub(super) fn describe(&self, target: Target, out: &mut Vec<u8>) -> Result<(), Stop> {
        let text = Formats::default();
        let (statement, formats) = match target {
            Target::Statement(name) => {
                let Some(statement) = self.statements.get(&name) else {
                    return Err(Refusal::NoSuchStatement(name).into());
                };
                message::no_parameters(out);
                (statement, &text)
            }
            Target::Portal(name) => match self.portals.get(&name) {
                Some(portal) => (&portal.statement, &portal.formats),
                None => return Err(Refusal::NoSuchPortal(name).into()),
            },
        };
        match statement.columns {
            Some(columns) => console::row_description(out, columns, formats),
            None => message::no_data(out),
        }
        Ok(())
    }

    /// Closing what is not there is no error.
    pub(super) fn close(&mut self, target: Target, out: &mut Vec<u8>) {
        match target {
            Target::Statement(name) => drop(self.statements.remove(&name)),
            Target::Portal(name) => drop(self.portals.remove(&name)),
        }
        message::close_complete(out);
    }
}

/// The columns of what the command will answer.
fn columns(command: &Command, text: &str) -> Result<Option<Columns>, AdminError> {
    match command.shown() {
        Some(what) => show::columns(what).ok_or_else(|| AdminError::InvalidCommand(text.to_owned())),
        None => Ok(None),
    }
}

impl Session {
    pub(super) async fn execute_portal(&mut self, execute: Execute, out: &mut Vec<u8>) -> Result<(), Stop> {
        let Execute { portal: name, rows_max } = execute;
        // Not in the map while it runs: what it does may take long.
        let Some(mut portal) = self.prepared.portals.remove(&name) else {
            return Err(Refusal::NoSuchPortal(name).into());
        };
        if portal.result.is_none() {
            let Statement { command, text, .. } = &*portal.statement;
            let Reply { notices, table, tag } = self.execute(command, text).await?;
            out.extend(notices);
            portal.result = Some(Rest { table, tag, sent: 0 });
        }
        if let Some(rest) = &mut portal.result {
            rest.send(rows_max as usize, &portal.formats, out);
        }
        self.prepared.portals.insert(name, portal);
        Ok(())
    }
}

impl Rest {
    /// The next rows, all of them if `rows_max` is 0.
    fn send(&mut self, rows_max: usize, formats: &Formats, out: &mut Vec<u8>) {
        if let Some(Table { columns, rows }) = &self.table {
            let left = rows.len() - self.sent;
            let n = if rows_max == 0 { left } else { left.min(rows_max) };
            rows[self.sent..self.sent + n].iter().for_each(|row| data_row(out, columns, formats, row));
            self.sent += n;
            if n == rows_max && rows_max > 0 {
                return message::portal_suspended(out);
            }
        }
        complete(out, self.tag.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::columns::STATE;
    use crate::admin::table::row;

    fn refused(result: Result<(), Stop>) -> Refusal {
        match result {
            Err(Stop::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn parse(name: &str, sql: &str) -> Parse {
        Parse { name: name.into(), sql: sql.into() }
    }

    fn bind(portal: &str, statement: &str) -> Bind {
        Bind { portal: portal.into(), statement: statement.into(), parameters: 0, formats: Formats::default() }
    }

    #[test]
    fn names_are_kept_and_their_number_is_bounded() {
        let (mut prepared, mut out) = (Prepared::default(), Vec::new());
        prepared.parse(parse("s", "SHOW STATE"), &mut out).unwrap();
        prepared.parse(parse("", "RELOAD"), &mut out).unwrap();
        prepared.parse(parse("", "SHOW POOLS"), &mut out).unwrap();
        assert_eq!(refused(prepared.parse(parse("s", "RELOAD"), &mut out)), Refusal::StatementExists("s".into()));
        assert_eq!(refused(prepared.bind(bind("", "t"), &mut out)), Refusal::NoSuchStatement("t".into()));
        for n in 2..STATEMENTS_MAX {
            prepared.parse(parse(&n.to_string(), "RELOAD"), &mut out).unwrap();
        }
        assert!(matches!(refused(prepared.parse(parse("more", "RELOAD"), &mut out)), Refusal::TooMany(_)));
        for n in 0..PORTALS_MAX {
            prepared.bind(bind(&n.to_string(), "s"), &mut out).unwrap();
        }
        assert_eq!(refused(prepared.bind(bind("0", "s"), &mut out)), Refusal::PortalExists("0".into()));
        assert!(matches!(refused(prepared.bind(bind("more", "s"), &mut out)), Refusal::TooMany(_)));
        prepared.sync(true);
        assert_eq!(prepared.portals.len(), PORTALS_MAX);
        prepared.sync(false);
        assert!(prepared.portals.is_empty() && !prepared.statements.is_empty());
        prepared.close(Target::Statement("s".into()), &mut out);
        assert!(refused(prepared.describe(Target::Statement("s".into()), &mut out)).message().contains("\"s\""));
    }

    #[test]
    fn a_mistake_is_told_when_it_is_parsed() {
        let (mut prepared, mut out) = (Prepared::default(), Vec::new());
        for (sql, expected) in [
            ("SHOW NONSENSE", AdminError::InvalidCommand("SHOW NONSENSE".into())),
            ("KILL_CLIENT $1", AdminError::Parameters),
            ("SET x = $1", AdminError::Parameters),
        ] {
            match prepared.parse(parse("", sql), &mut out) {
                Err(Stop::Error(error)) => assert_eq!(error, expected, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
        assert!(out.is_empty());
    }

    #[test]
    fn rows_are_sent_in_portions() {
        let rows = vec![row!["a", "1"], row!["b", "2"], row!["c", "3"]];
        let table = Some(Table { columns: STATE, rows });
        let mut rest = Rest { table, tag: Some("SHOW".into()), sent: 0 };
        let tags = |rest: &mut Rest, rows_max| {
            let mut out = Vec::new();
            rest.send(rows_max, &Formats::default(), &mut out);
            let mut tags = String::new();
            while let Ok(Some(header)) = pgweir_proto::frame::Header::read(&out) {
                tags.push(char::from(header.tag));
                out.drain(..header.len);
            }
            tags
        };
        assert_eq!([tags(&mut rest, 2), tags(&mut rest, 2), tags(&mut rest, 0)], ["DDs", "DC", "C"]);
    }
}
