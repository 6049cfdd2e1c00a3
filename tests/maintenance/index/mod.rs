//! `index`: lists, and changes while the tables are in use.

mod changes;
mod faults;
mod lists;
mod rebuilds;

use crate::program::{Program, Ran, pgweir};
use crate::support::*;

/// Names that are invalid indexes'.
fn invalid(wire: &mut Wire) -> Vec<String> {
    let sql = "select indexrelid::regclass::text from pg_index where not indisvalid order by 1";
    texts(wire, sql)
}

/// The first column.
#[track_caller]
fn texts(wire: &mut Wire, sql: &str) -> Vec<String> {
    let rows = wire.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    rows.into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect()
}

/// `index ...` as a superuser, with the arguments that have spaces at the end.
fn index(pg: &Postgres, database: &str, line: &str, arguments: &[&str]) -> Program {
    let program = arguments.iter().fold(pgweir(&format!("index {line}")), |program, argument| program.arg(*argument));
    program.on(pg, "postgres", database)
}

fn run(pg: &Postgres, database: &str, line: &str, arguments: &[&str]) -> Ran {
    index(pg, database, line, arguments).run()
}
