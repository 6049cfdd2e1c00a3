//! Transactions, as a client sends them and a server answers.

use pgweir_proto::backend as back;
use pgweir_proto::frame;
use pgweir_proto::frontend as front;

pub(crate) struct Script {
    pub(crate) request: Vec<u8>,
    pub(crate) reply: Vec<u8>,
}

/// Tag and body.
type Message<'a> = (u8, &'a [u8]);

const COLUMN: Message<'_> =
    (back::ROW_DESCRIPTION, b"\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
const ROW: Message<'_> = (back::DATA_ROW, b"\0\x01\0\0\0\x011");
const DONE: Message<'_> = (back::COMMAND_COMPLETE, b"SELECT 1\0");
const READY: Message<'_> = (back::READY_FOR_QUERY, b"I");
const PARSED: Message<'_> = (back::PARSE_COMPLETE, b"");
const BOUND: Message<'_> = (back::BIND_COMPLETE, b"");
const CLOSED: Message<'_> = (back::CLOSE_COMPLETE, b"");
const DESCRIBE: Message<'_> = (front::DESCRIBE, b"P\0");
const EXECUTE: Message<'_> = (front::EXECUTE, b"\0\0\0\0\0");
const SYNC: Message<'_> = (front::SYNC, b"");

impl Script {
    fn new(request: &[Message<'_>], reply: &[Message<'_>]) -> Script {
        let stream = |messages: &[Message<'_>]| {
            let mut out = Vec::new();
            messages.iter().for_each(|(tag, body)| frame::message(&mut out, *tag, body));
            out
        };
        Script { request: stream(request), reply: stream(reply) }
    }
}

/// `select 1` as a Query.
pub(crate) fn simple() -> Script {
    Script::new(&[(front::QUERY, b"select 1\0")], &[COLUMN, ROW, DONE, READY])
}

/// The same by the extended protocol, the statement unnamed.
pub(crate) fn extended() -> Script {
    let bind = bind_to("");
    let parse = (front::PARSE, &b"\0select 1\0\0\0"[..]);
    let request = [parse, (front::BIND, bind.as_bytes()), DESCRIBE, EXECUTE, SYNC];
    Script::new(&request, &[PARSED, BOUND, COLUMN, ROW, DONE, READY])
}

/// A text for each name.
fn parse(name: &str, of: &str) -> String {
    format!("{name}\0select '{of}'\0\0\0")
}

/// Of the unnamed portal, without parameters.
fn bind_to(name: &str) -> String {
    format!("\0{name}\0\0\0\0\0\0\0")
}

/// Prepares the statement `name`.
pub(crate) fn prepare(name: &str) -> Script {
    Script::new(&[(front::PARSE, parse(name, name).as_bytes()), SYNC], &[PARSED, READY])
}

/// The same, where the server has to give up another for it.
pub(crate) fn prepare_in_place(name: &str) -> Script {
    Script { reply: Script::new(&[], &[PARSED, CLOSED, READY]).reply, ..prepare(name) }
}

/// Runs the statement `name`, which the server has.
pub(crate) fn prepared(name: &str) -> Script {
    let body = bind_to(name);
    Script::new(&[(front::BIND, body.as_bytes()), DESCRIBE, EXECUTE, SYNC], &[BOUND, COLUMN, ROW, DONE, READY])
}

/// The same, where the server has to give up another for it.
pub(crate) fn prepared_in_place(name: &str) -> Script {
    let reply = Script::new(&[], &[PARSED, CLOSED, BOUND, COLUMN, ROW, DONE, READY]).reply;
    Script { reply, ..prepared(name) }
}

/// Prepares the text of `of`, which the server has, by another name; runs and closes that.
pub(crate) fn prepared_again(of: &str) -> Script {
    let (parse, bind) = (parse("again", of), bind_to("again"));
    let close = (front::CLOSE, &b"Sagain\0"[..]);
    let request = [(front::PARSE, parse.as_bytes()), (front::BIND, bind.as_bytes()), EXECUTE, close, SYNC];
    Script::new(&request, &[BOUND, ROW, DONE, READY])
}

/// 1,000 rows of a number and 50 characters.
pub(crate) fn rows() -> Script {
    let row = [&b"\0\x02\0\0\0\x041234\0\0\0\x32"[..], &[b'x'; 50]].concat();
    let rows = std::iter::repeat_n((back::DATA_ROW, &row[..]), 1_000);
    let reply: Vec<Message<'_>> = std::iter::once(COLUMN).chain(rows).chain([DONE, READY]).collect();
    Script::new(&[(front::QUERY, b"select i, repeat('x', 50) from generate_series(1, 1000) i\0")], &reply)
}
