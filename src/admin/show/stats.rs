//! SHOW STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS

use crate::admin::history::StatsHistory;
use crate::admin::table::{Cell, Row, row};
use crate::pools::stats::Totals;

pub(super) fn show(stats: &StatsHistory) -> Vec<Row> {
    let rows = stats.databases().into_iter().map(|(name, line)| {
        let figures = figures(line.totals).into_iter().chain(figures(line.averages));
        row![&*name].into_iter().chain(figures.map(Cell::from)).collect()
    });
    rows.collect()
}

pub(super) fn show_totals(stats: &StatsHistory) -> Vec<Row> {
    let rows = stats.databases().into_iter().map(|(name, line)| named(&name, line.totals));
    rows.collect()
}

pub(super) fn show_averages(stats: &StatsHistory) -> Vec<Row> {
    let rows = stats.databases().into_iter().map(|(name, line)| named(&name, line.averages));
    rows.collect()
}

/// SHOW TOTALS: over all databases, a row per figure.
pub(super) fn show_all(stats: &StatsHistory) -> Vec<Row> {
    let all = stats.all();
    let rows = |prefix: &'static str, totals: Totals| {
        NAMES.into_iter().zip(figures(totals)).map(move |(name, figure)| row![format!("{prefix}_{name}"), figure])
    };
    rows("total", all.totals).chain(rows("avg", all.averages)).collect()
}

fn named(name: &str, totals: Totals) -> Vec<Cell> {
    row![name].into_iter().chain(figures(totals).map(Cell::from)).collect()
}

/// What SHOW TOTALS calls the figures.
const NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// In the order of the columns.
fn figures(totals: Totals) -> [u64; 12] {
    [
        totals.server_assignments,
        totals.xacts,
        totals.queries,
        totals.received,
        totals.sent,
        totals.xact_time_us,
        totals.query_time_us,
        totals.wait_time_us,
        totals.client_parses,
        totals.server_parses,
        totals.binds,
        totals.client_logins,
    ]
}
