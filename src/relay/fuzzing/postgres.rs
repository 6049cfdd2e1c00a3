//! A PostgreSQL session, as far as the order of its replies goes.

use std::collections::{HashMap, VecDeque};

use pgweir_proto::backend as tag;
use pgweir_proto::frame::{self, HEADER_LEN, Header};
use pgweir_proto::frontend;

/// What the server says when it is at `ReadyForQuery`.
const IDLE: u8 = b'I';
const IN_BLOCK: u8 = b'T';
const FAILED: u8 = b'E';

/// SQLSTATEs.
const ABORTED: &str = "25P02";
const NO_STATEMENT: &str = "26000";
const NO_PORTAL: &str = "34000";
pub(super) const SYNTAX: &str = "42601";
pub(super) const TAKEN: &str = "42P05";
const PORTAL_TAKEN: &str = "42P03";
const DIVISION: &str = "22012";
const CANCELED_COPY: &str = "57014";
const BAD_COPY: &str = "22P04";

/// Why something failed: an SQLSTATE.
type Failed = &'static str;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Copy {
    Simple,
    Extended,
}

pub(super) struct Postgres {
    input: VecDeque<u8>,
    pub(super) output: Vec<u8>,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, String>,
    status: u8,
    /// Everything up to the next Sync is ignored.
    skips: bool,
    copy: Option<Copy>,
}

impl Postgres {
    pub(super) fn new() -> Postgres {
        Postgres {
            input: VecDeque::new(),
            output: Vec::new(),
            statements: HashMap::new(),
            portals: HashMap::new(),
            status: IDLE,
            skips: false,
            copy: None,
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    pub(super) fn is_failed(&self) -> bool {
        self.status == FAILED
    }

    pub(super) fn is_copying(&self) -> bool {
        self.copy.is_some()
    }

    /// It would answer a new client's Query and nothing else: all that it has yet to read is the
    /// end of a COPY that is over.
    pub(super) fn is_free(&mut self) -> bool {
        let unread = self.input.make_contiguous();
        let mut at = 0;
        while at < unread.len() {
            let Ok(Some(head)) = Header::read(&unread[at..]) else { return false };
            let is_late =
                matches!(head.tag, frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL | frontend::FLUSH);
            if !is_late || at + head.len > unread.len() {
                return false;
            }
            at += head.len;
        }
        self.output.is_empty() && self.status == IDLE && !self.skips && self.copy.is_none()
    }

    /// Carries out the next message; false: there is none that is whole.
    pub(super) fn step(&mut self) -> bool {
        let unread = self.input.make_contiguous();
        let Ok(Some(head)) = Header::read(unread) else { return false };
        if unread.len() < head.len {
            return false;
        }
        let message: Vec<u8> = self.input.drain(..head.len).collect();
        self.carry_out(head.tag, &message[HEADER_LEN..]);
        true
    }

    fn reply(&mut self, tag: u8, body: &[u8]) {
        frame::message(&mut self.output, tag, body);
    }

    fn fail(&mut self, code: Failed) {
        self.reply(tag::ERROR_RESPONSE, format!("SERROR\0VERROR\0C{code}\0Mno\0\0").as_bytes());
        if self.status == IN_BLOCK {
            self.status = FAILED;
        }
    }

    fn ready(&mut self) {
        if self.status == IDLE {
            self.portals.clear();
        }
        self.reply(tag::READY_FOR_QUERY, &[self.status]);
    }

    fn carry_out(&mut self, message: u8, body: &[u8]) {
        if let Some(copy) = self.copy {
            return self.copy_in(copy, message, body);
        }
        if self.skips && message != frontend::SYNC {
            return;
        }
        let result = match message {
            frontend::QUERY => return self.query(&text(body)),
            frontend::FUNCTION_CALL => {
                match self.status {
                    FAILED => self.fail(ABORTED),
                    _ => self.reply(tag::FUNCTION_CALL_RESPONSE, b"\xff\xff\xff\xff"),
                }
                return self.ready();
            }
            frontend::SYNC => {
                self.skips = false;
                return self.ready();
            }
            frontend::PARSE => self.parse(body),
            frontend::BIND => self.bind(body),
            frontend::DESCRIBE => self.describe(body),
            frontend::EXECUTE => self.execute(body),
            frontend::CLOSE => {
                let name = name(&body[1..]);
                let _ = if body[0] == b'S' { self.statements.remove(name) } else { self.portals.remove(name) };
                self.reply(tag::CLOSE_COMPLETE, b"");
                Ok(())
            }
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL | frontend::FLUSH => Ok(()),
            other => panic!("{other} from the pooler"),
        };
        if let Err(code) = result {
            self.fail(code);
            self.skips = true;
        }
    }

    fn copy_in(&mut self, copy: Copy, message: u8, body: &[u8]) {
        let result = match message {
            frontend::COPY_DATA if body.starts_with(b"bad") => Err(BAD_COPY),
            frontend::COPY_DATA | frontend::FLUSH | frontend::SYNC => return,
            frontend::COPY_DONE => Ok(()),
            frontend::COPY_FAIL => Err(CANCELED_COPY),
            other => panic!("{} from the pooler in a COPY", char::from(other)),
        };
        self.copy = None;
        match result {
            Ok(()) => self.reply(tag::COMMAND_COMPLETE, b"COPY 1\0"),
            Err(code) => {
                self.fail(code);
                self.skips = copy == Copy::Extended;
            }
        }
        if copy == Copy::Simple {
            self.ready();
        }
    }

    fn query(&mut self, sql: &str) {
        self.statements.remove(&b""[..]);
        for statement in sql.split(';') {
            let result = match is_syntax(statement) {
                false => Err(SYNTAX),
                true => self.run(statement, Some(Copy::Simple)),
            };
            match result {
                Ok(()) if self.copy.is_some() => return,
                Ok(()) => {}
                Err(code) => {
                    self.fail(code);
                    break;
                }
            }
        }
        self.ready();
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Failed> {
        let name = name(body);
        let sql = text(&body[name.len() + 1..]);
        if name.is_empty() {
            self.statements.remove(name);
        }
        if !is_syntax(&sql) {
            return Err(SYNTAX);
        }
        if self.status == FAILED && !is_exit(&sql) {
            return Err(ABORTED);
        }
        if self.statements.contains_key(name) {
            return Err(TAKEN);
        }
        self.statements.insert(name.to_vec(), sql);
        self.reply(tag::PARSE_COMPLETE, b"");
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Failed> {
        let portal = name(body);
        let statement = name(&body[portal.len() + 1..]);
        let sql = self.statements.get(statement).ok_or(NO_STATEMENT)?.clone();
        if self.status == FAILED && !is_exit(&sql) {
            return Err(ABORTED);
        }
        if !portal.is_empty() && self.portals.contains_key(portal) {
            return Err(PORTAL_TAKEN);
        }
        self.portals.insert(portal.to_vec(), sql);
        self.reply(tag::BIND_COMPLETE, b"");
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Failed> {
        let name = name(&body[1..]);
        let (known, missing) =
            if body[0] == b'S' { (&self.statements, NO_STATEMENT) } else { (&self.portals, NO_PORTAL) };
        let sql = known.get(name).ok_or(missing)?.clone();
        if self.status == FAILED && sql.starts_with("row") {
            return Err(ABORTED);
        }
        if body[0] == b'S' {
            self.reply(tag::PARAMETER_DESCRIPTION, b"\0\0");
        }
        if sql.starts_with("row") {
            self.reply(tag::ROW_DESCRIPTION, sql.as_bytes());
        } else {
            self.reply(tag::NO_DATA, b"");
        }
        Ok(())
    }

    fn execute(&mut self, body: &[u8]) -> Result<(), Failed> {
        let sql = self.portals.get(name(body)).ok_or(NO_PORTAL)?.clone();
        self.run(&sql, None)
    }

    /// Carries out a statement; `simple` if it is part of a Query.
    fn run(&mut self, sql: &str, simple: Option<Copy>) -> Result<(), Failed> {
        if sql.is_empty() {
            self.reply(tag::EMPTY_QUERY_RESPONSE, b"");
            return Ok(());
        }
        if self.status == FAILED && !is_exit(sql) {
            return Err(ABORTED);
        }
        let command = match sql.split_once(' ').unwrap_or((sql, "")) {
            ("row", _) => {
                if simple.is_some() {
                    self.reply(tag::ROW_DESCRIPTION, sql.as_bytes());
                }
                self.reply(tag::DATA_ROW, sql.as_bytes());
                "SELECT 1"
            }
            ("err", _) => return Err(DIVISION),
            ("begin", _) => {
                self.status = IN_BLOCK;
                "BEGIN"
            }
            ("commit", _) => {
                let was = std::mem::replace(&mut self.status, IDLE);
                self.portals.clear();
                if was == FAILED { "ROLLBACK" } else { "COMMIT" }
            }
            ("copy", _) => {
                self.copy = Some(simple.unwrap_or(Copy::Extended));
                self.reply(tag::COPY_IN_RESPONSE, b"\0\0\0");
                return Ok(());
            }
            ("out", _) => {
                self.reply(tag::COPY_OUT_RESPONSE, b"\0\0\0");
                self.reply(tag::COPY_DATA, b"x");
                self.reply(tag::COPY_DONE, b"");
                "COPY 1"
            }
            ("prepare", rest) => {
                let (name, sql) = rest.split_once(" as ").ok_or(SYNTAX)?;
                if self.statements.contains_key(name.as_bytes()) {
                    return Err(TAKEN);
                }
                self.statements.insert(name.into(), sql.to_owned());
                "PREPARE"
            }
            ("execute", name) => {
                let sql = self.statements.get(name.as_bytes()).ok_or(NO_STATEMENT)?.clone();
                return self.run(&sql, simple);
            }
            ("deallocate", "all") => {
                self.statements.clear();
                "DEALLOCATE ALL"
            }
            ("deallocate", name) => {
                self.statements.remove(name.as_bytes()).ok_or(NO_STATEMENT)?;
                "DEALLOCATE"
            }
            _ => "SET",
        };
        self.reply(tag::COMMAND_COMPLETE, format!("{command}\0").as_bytes());
        Ok(())
    }
}

/// Up to the NUL.
fn name(body: &[u8]) -> &[u8] {
    &body[..body.iter().position(|&b| b == 0).expect("a NUL")]
}

/// A text, without what only makes it long.
fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(name(body)).trim_end().to_owned()
}

fn is_syntax(sql: &str) -> bool {
    !sql.starts_with("bad")
}

/// What a failed transaction takes.
fn is_exit(sql: &str) -> bool {
    sql.is_empty() || sql.starts_with("commit")
}
