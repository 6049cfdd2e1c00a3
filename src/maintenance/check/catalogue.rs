//! The checks: a row each.

use super::database;
use super::finding::Status;
use super::pooler::Figure;
use super::threshold::{Threshold, Unit};

/// One thing that a check has measured.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Empty: there is one only.
    pub(super) subject: String,
    /// None: not known, `note` says why.
    pub(super) value: Option<f64>,
    /// What else there is to say; may be empty.
    pub(super) note: String,
    /// However good the value is.
    pub(super) at_least: Status,
}

/// Where the values come from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// A query that returns subject, value and note.
    Query(&'static str),
    Sequences,
    Growth,
    Backups,
    Pooler(Figure),
}

pub(crate) struct Check {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) unit: Unit,
    pub(super) threshold: Threshold,
    /// Said when there is no subject.
    pub(super) nothing: &'static str,
    pub(super) source: Source,
}

/// The name that stands for all checks of the pooler.
const POOLER: &str = "pooler";

impl Check {
    pub(super) fn is_pooler(&self) -> bool {
        matches!(self.source, Source::Pooler(_))
    }

    pub(super) fn answers_to(&self, name: &str) -> bool {
        self.name == name || (name == POOLER && self.is_pooler())
    }
}

const fn at(warning: f64, critical: f64) -> Threshold {
    Threshold { warning, critical }
}

const GIB: f64 = (1u64 << 30) as f64;
const HOUR: f64 = 3600.0;
const MIB: f64 = (1u64 << 20) as f64;

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "cache",
        about: "blocks of this database that were found in shared_buffers",
        unit: Unit::Percent,
        threshold: at(99.0, 95.0),
        nothing: "too little has been read to tell",
        source: Source::Query(database::CACHE),
    },
    Check {
        name: "dead-tuples",
        about: "dead rows of a table, of all its rows",
        unit: Unit::Percent,
        threshold: at(10.0, 30.0),
        nothing: "no table has many",
        source: Source::Query(database::DEAD_TUPLES),
    },
    Check {
        name: "connections",
        about: "connections of clients, of max_connections",
        unit: Unit::Percent,
        threshold: at(70.0, 90.0),
        nothing: "none",
        source: Source::Query(database::CONNECTIONS),
    },
    Check {
        name: "replication-lag",
        about: "WAL that a standby has not replayed",
        unit: Unit::Bytes,
        threshold: at(MIB, 10.0 * MIB),
        nothing: "no standbys",
        source: Source::Query(database::REPLICATION_LAG),
    },
    Check {
        name: "long-queries",
        about: "how long a client's statement has been running",
        unit: Unit::Seconds,
        threshold: at(30.0, 120.0),
        nothing: "none runs",
        source: Source::Query(database::LONG_QUERIES),
    },
    Check {
        name: "idle-in-transaction",
        about: "how long a client has been idle in a transaction",
        unit: Unit::Seconds,
        threshold: at(60.0, 300.0),
        nothing: "nobody is",
        source: Source::Query(database::IDLE_IN_TRANSACTION),
    },
    Check {
        name: "growth",
        about: "growth of this database in a day, from run to run",
        unit: Unit::Percent,
        threshold: at(5.0, 10.0),
        nothing: "measured for the first time",
        source: Source::Growth,
    },
    Check {
        name: "wraparound",
        about: "transaction and multixact numbers used up, of those that can be used before the server stops",
        unit: Unit::Percent,
        threshold: at(40.0, 70.0),
        nothing: "none",
        source: Source::Query(database::WRAPAROUND),
    },
    Check {
        name: "slots",
        about: "WAL that a replication slot keeps",
        unit: Unit::Bytes,
        threshold: at(GIB, 10.0 * GIB),
        nothing: "no slots",
        source: Source::Query(database::SLOTS),
    },
    Check {
        name: "invalid-indexes",
        about: "indexes that a failed CREATE or REINDEX CONCURRENTLY has left, each costing writes",
        unit: Unit::Count,
        threshold: at(1.0, 10.0),
        nothing: "none",
        source: Source::Query(database::INVALID_INDEXES),
    },
    Check {
        name: "sequences",
        about: "numbers of a sequence used up, of those that it or its column can hold",
        unit: Unit::Percent,
        threshold: at(70.0, 90.0),
        nothing: "none has been used",
        source: Source::Sequences,
    },
    Check {
        name: "backups",
        about: "how long ago the newest backup of this database ended, if --backups says where they are",
        unit: Unit::Seconds,
        threshold: at(26.0 * HOUR, 50.0 * HOUR),
        nothing: "none",
        source: Source::Backups,
    },
    Check {
        name: "pooler-waiting",
        about: "clients of a pool that wait for a server",
        unit: Unit::Count,
        threshold: at(1.0, 100.0),
        nothing: "no pools",
        source: Source::Pooler(Figure::Waiting),
    },
    Check {
        name: "pooler-maxwait",
        about: "how long the first client of a pool has been waiting",
        unit: Unit::Seconds,
        threshold: at(5.0, 30.0),
        nothing: "no pools",
        source: Source::Pooler(Figure::MaxWait),
    },
    Check {
        name: "pooler-avg-wait",
        about: "how long clients of a database waited on average in the last stats_period",
        unit: Unit::Seconds,
        threshold: at(0.1, 1.0),
        nothing: "no databases",
        source: Source::Pooler(Figure::AverageWait),
    },
    Check {
        name: "pooler-avg-query",
        about: "how long statements of a database took on average in the last stats_period",
        unit: Unit::Seconds,
        threshold: at(0.5, 5.0),
        nothing: "no databases",
        source: Source::Pooler(Figure::AverageQuery),
    },
];

/// The list of checks for `--help`.
pub(crate) fn help() -> String {
    let mut text = String::from("Checks, with their thresholds for a warning and critical:\n");
    for check in CHECKS {
        let Check { name, about, unit, threshold, .. } = check;
        let order = if threshold.is_lower_worse() { "below " } else { "" };
        let (warning, critical) = (unit.show(threshold.warning), unit.show(threshold.critical));
        text += &format!("  {name:20} {order}{warning}, {critical}\n      {about}\n");
    }
    text + "\"pooler\" stands for the last four, which are made if --config or --console names a pooler.\n"
}
