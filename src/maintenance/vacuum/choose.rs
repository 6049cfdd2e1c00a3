//! Which tables are vacuumed, in which order, and by which statements.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::{Task, VacuumOptions};
use crate::maintenance::exit::Failure;
use crate::maintenance::relations::{Relation, leaves, named, percent};
use crate::maintenance::units::{Percent, Size};

const MIN_DEAD_PCT: f64 = 20.0;
const MIN_DEAD_ROWS: i64 = 10_000;

/// What a table must have both of.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Thresholds {
    pct: f64,
    rows: i64,
}

impl Thresholds {
    /// What is said counts alone. None: what was named needs no reason.
    fn of(has_names: bool, pct: Option<Percent>, rows: Option<u32>) -> Option<Thresholds> {
        let (pct, rows) = (pct.map(|Percent(pct)| pct), rows.map(i64::from));
        match (pct, rows) {
            (None, None) if has_names => None,
            (None, None) => Some(Thresholds { pct: MIN_DEAD_PCT, rows: MIN_DEAD_ROWS }),
            (pct, rows) => Some(Thresholds { pct: pct.unwrap_or(0.0), rows: rows.unwrap_or(0) }),
        }
    }

    fn are_met(self, table: &Relation) -> bool {
        let met = |dead: i64, live: i64| dead >= self.rows && percent(dead, live) >= self.pct;
        met(table.dead, table.live) || met(table.toast_dead, table.toast_live)
    }
}

fn thresholds(options: &VacuumOptions) -> Option<Thresholds> {
    Thresholds::of(!options.tables.is_empty(), options.min_dead_pct, options.min_dead_rows)
}

/// For the sentence that there is none.
pub(super) fn wanted(options: &VacuumOptions) -> String {
    match thresholds(options) {
        Some(Thresholds { pct, rows }) => format!("{pct} % of its rows dead and {rows} of them"),
        None => "partitions".to_owned(),
    }
}

/// In the order of their need.
pub(super) fn tables(all: &[Relation], options: &VacuumOptions) -> Result<Vec<Relation>, Failure> {
    let has_names = !options.tables.is_empty();
    let considered: Vec<&Relation> = match has_names {
        true => leaves(all, &named(all, &options.tables)?),
        // The shared ones are for superusers: nobody else misses them.
        false => all.iter().filter(|table| !table.is_system || (options.catalogs && table.is_permitted)).collect(),
    };
    let thresholds = thresholds(options);
    let is_wanted = |table: &&Relation| {
        let is_met = thresholds.is_none_or(|thresholds| thresholds.are_met(table));
        matches!(table.kind.as_str(), "r" | "m") && (is_met || (!has_names && is_due(table)))
    };
    let mut tables: Vec<Relation> = considered.into_iter().filter(is_wanted).cloned().collect();
    if tables.is_empty() && has_names && thresholds.is_none() {
        return Err(Failure::usage(format!("nothing to vacuum in {}", options.tables.join(", ")))
            .hint("foreign tables and partitioned tables without partitions have no rows of their own"));
    }
    tables.sort_by_key(|table| Reverse(need(table)));
    Ok(tables)
}

/// Whether autovacuum has to freeze it anyway.
fn is_due(table: &Relation) -> bool {
    table.freeze_pct >= 100.0
}

/// What is near wraparound goes first, then dead rows count as much as the size of what they make slow.
fn need(table: &Relation) -> (u64, u128) {
    let freeze = if is_due(table) { table.freeze_pct as u64 } else { 0 };
    let number = |n: i64| u128::try_from(n).unwrap_or(0);
    (freeze, number(table.dead + table.toast_dead) * number(table.total_bytes))
}

/// The statements for each. A partitioned table that was named is analyzed when all else is done, which includes its partitions.
pub(super) fn stages(all: &[Relation], tables: Vec<Relation>, options: &VacuumOptions) -> Vec<Vec<Task>> {
    let roots: Vec<&Relation> = match named(all, &options.tables) {
        Ok(named) if options.analyze => named.into_iter().filter(|table| table.is_partitioned()).collect(),
        _ => Vec::new(),
    };
    let oids: HashSet<u32> = roots.iter().map(|root| root.oid).collect();
    let vacuum = tables.into_iter().map(|table| {
        let analyzes = options.analyze && !table.is_part_of(&oids);
        let statements = statements(&table, options, analyzes);
        Task { why: why(&table), statements, relation: table, attempts: 0 }
    });
    let is_top = |root: &&&Relation| root.is_permitted && !root.is_part_of(&oids);
    let analyze = roots.iter().filter(is_top).map(|root| Task {
        relation: (*root).clone(),
        why: "statistics of the whole and of its partitions".to_owned(),
        statements: vec![format!("ANALYZE {}", root.sql())],
        attempts: 0,
    });
    vec![vacuum.collect(), analyze.collect()]
}

/// VACUUM FULL leaves no visibility map, and does not tell the statistics what it has done: a plain one after it does both.
fn statements(table: &Relation, options: &VacuumOptions, analyzes: bool) -> Vec<String> {
    let command = |words: &[(bool, &str)]| {
        let words: Vec<&str> = words.iter().filter(|(is_on, _)| *is_on).map(|(_, word)| *word).collect();
        let list = if words.is_empty() { String::new() } else { format!("({}) ", words.join(", ")) };
        format!("VACUUM {list}{}", table.sql())
    };
    let plain = command(&[(options.freeze, "FREEZE"), (analyzes, "ANALYZE")]);
    match options.full {
        true => vec![command(&[(true, "FULL"), (options.freeze, "FREEZE")]), plain],
        false => vec![plain],
    }
}

fn why(table: &Relation) -> String {
    let Relation { dead, toast_dead, live, toast_live, xid_age, .. } = table;
    let size = Size(u64::try_from(table.total_bytes).unwrap_or(0));
    let (dead, rows) = (dead + toast_dead, live + toast_live + dead + toast_dead);
    let due = if is_due(table) { ", due against wraparound" } else { "" };
    format!("{:.1} % dead ({dead} of {rows} rows), {size}, frozen {xid_age} transactions ago{due}", table.dead_pct())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_counts_alone() {
        let both = |pct, rows| Some(Thresholds { pct, rows });
        assert_eq!(Thresholds::of(true, None, None), None);
        assert_eq!(Thresholds::of(false, None, None), both(20.0, 10_000));
        assert_eq!(Thresholds::of(false, Some(Percent(5.0)), None), both(5.0, 0));
        assert_eq!(Thresholds::of(true, None, Some(7)), both(0.0, 7));
        assert_eq!(Thresholds::of(true, Some(Percent(5.0)), Some(7)), both(5.0, 7));
    }
}
