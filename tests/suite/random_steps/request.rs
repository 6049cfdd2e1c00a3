//! What a client sends, and what it expects back.

use std::fmt;

use super::sql::{Cell, Sql};
use crate::support::messages::{self as msg, Message};

/// Values of `$1` and `$2`; empty for a statement without parameters.
pub(super) type Args = Vec<String>;

#[derive(Clone, Debug)]
pub(super) enum Request {
    Query(Vec<(Sql, Args)>),
    /// A FunctionCall of reverse().
    Call(String),
    Parse {
        name: String,
        sql: Sql,
    },
    Bind {
        portal: String,
        name: String,
        args: Args,
        /// Whether results are wanted in the binary format.
        binary: bool,
    },
    DescribeStatement(String),
    DescribePortal(String),
    Execute {
        portal: String,
        max: u32,
    },
    CloseStatement(String),
    ClosePortal(String),
    Flush,
    Sync,
    CopyData(Vec<u8>),
    CopyDone,
    CopyFail,
}

/// `reverse(text)`, of a number that no version of PostgreSQL has changed.
const REVERSE: u32 = 3062;

impl Request {
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Request::Query(parts) => {
                let texts: Vec<String> = parts.iter().map(|(sql, args)| sql.literal(args)).collect();
                msg::query(&texts.join("; "))
            }
            Request::Call(mark) => msg::function_call(REVERSE, &[mark]),
            Request::Parse { name, sql } => {
                let mut body = format!("{name}\0{}\0", sql.text()).into_bytes();
                let oids = sql.told_oids();
                body.extend((oids.len() as u16).to_be_bytes());
                oids.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
                msg::message(b'P', &body)
            }
            Request::Bind { portal, name, args, binary } => bind(portal, name, args, *binary),
            Request::DescribeStatement(name) => msg::describe(b'S', name),
            Request::DescribePortal(name) => msg::describe(b'P', name),
            Request::Execute { portal, max } => {
                msg::message(b'E', &[format!("{portal}\0").as_bytes(), &max.to_be_bytes()].concat())
            }
            Request::CloseStatement(name) => msg::close(b'S', name),
            Request::ClosePortal(name) => msg::close(b'P', name),
            Request::Flush => msg::flush(),
            Request::Sync => msg::sync(),
            Request::CopyData(data) => msg::message(b'd', data),
            Request::CopyDone => msg::copy_done(),
            Request::CopyFail => msg::copy_fail("enough"),
        }
    }
}

fn bind(portal: &str, name: &str, args: &[String], binary: bool) -> Vec<u8> {
    let mut body = format!("{portal}\0{name}\0\0\0").into_bytes();
    body.extend((args.len() as u16).to_be_bytes());
    for arg in args {
        body.extend((arg.len() as u32).to_be_bytes());
        body.extend(arg.as_bytes());
    }
    // One format for all columns.
    body.extend([0, 1, 0, u8::from(binary)]);
    msg::message(b'B', &body)
}

/// A reply as the model foresees it.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// One that its tag alone describes.
    Plain(u8),
    Params(Vec<u32>),
    Columns {
        columns: Vec<(String, u32)>,
        binary: bool,
    },
    Row {
        cells: Vec<Cell>,
        binary: bool,
    },
    CopyRow(String),
    Complete(String),
    Result(String),
    /// Of any of these SQLSTATEs.
    Error(&'static [&'static str]),
    Ready(u8),
}

impl Reply {
    pub(super) fn matches(&self, message: &Message) -> bool {
        match self {
            Reply::Plain(tag) => message.tag == *tag,
            Reply::Params(oids) => {
                let body = &message.body;
                message.tag == b't'
                    && body.len() == 2 + 4 * oids.len()
                    && oids.iter().enumerate().all(|(i, oid)| message.u32(2 + 4 * i) == *oid)
            }
            Reply::Columns { columns, binary } => {
                let format = [0, u8::from(*binary)];
                message.tag == b'T' && message.columns() == *columns && message.body.ends_with(&format)
            }
            Reply::Row { cells, binary } => message.tag == b'D' && message.body == row(cells, *binary),
            Reply::CopyRow(line) => message.tag == b'd' && message.body == line.as_bytes(),
            Reply::Complete(tag) => message.tag == b'C' && message.body == format!("{tag}\0").as_bytes(),
            Reply::Result(value) => message.tag == b'V' && message.body[4..] == *value.as_bytes(),
            Reply::Error(codes) => message.tag == b'E' && codes.contains(&message.error().code.as_str()),
            Reply::Ready(status) => message.tag == b'Z' && message.body == [*status],
        }
    }
}

/// The body of a DataRow.
fn row(cells: &[Cell], binary: bool) -> Vec<u8> {
    let mut body = (cells.len() as u16).to_be_bytes().to_vec();
    for cell in cells {
        let value = cell.bytes(binary);
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value);
    }
    body
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Plain(tag) => write!(f, "{}", *tag as char),
            Reply::Ready(status) => write!(f, "Z {}", *status as char),
            other => {
                let shown: String = format!("{other:?}").chars().take(300).collect();
                f.write_str(&shown)
            }
        }
    }
}
