//! What the benchmarks drive of the console.

use pgweir_proto::console::TypeOid;

use super::columns::SOCKETS;
use super::parse::Command;
use super::reply::Reply;
use super::table::{Cell, Row, Table};

/// Whether `text` is a command.
pub fn parse(text: &str) -> bool {
    Command::parse(text).is_ok()
}

/// Appends what SHOW CLIENTS answers, with so many rows that each say the same.
pub fn show_clients(rows: usize, out: &mut Vec<u8>) {
    let row = || -> Row {
        let cell = |kind: &TypeOid| match kind {
            TypeOid::Text => Cell::from("127.0.0.1"),
            _ => Cell::from(6432_u32),
        };
        SOCKETS.iter().map(|(_, kind)| cell(kind)).collect()
    };
    let table = Table { columns: SOCKETS, rows: (0..rows).map(|_| row()).collect() };
    Reply::rows(table).encode(out);
}
