//! SHOW: what the process knows of itself.

mod cancels;
mod certificates;
mod clients;
mod config;
mod databases;
mod dns_hosts;
mod dns_zones;
mod fds;
mod help;
mod latencies;
mod lists;
mod mem;
pub(super) mod parameters;
mod peers;
mod pools;
mod prepared_statements;
mod schedule;
mod servers;
mod session_use;
pub(super) mod sockets;
mod state;
mod stats;
mod users;
mod version;
mod workers;

use pgweir_proto::admin_error::AdminError;

use super::Console;
use super::columns::{self, Columns};
use super::history::StatsHistory;
use super::reply::Reply;
use super::session::Session;
use super::table::{Row, Table};
use crate::pools::Pools;

/// A SHOW that answers with rows.
struct Show {
    name: &'static str,
    columns: Columns,
    rows: Rows,
}

impl Show {
    const fn new(name: &'static str, columns: Columns, rows: Rows) -> Show {
        Show { name, columns, rows }
    }
}

/// What the rows are made of.
enum Rows {
    Pools(fn(&Pools) -> Vec<Row>),
    Stats(fn(&StatsHistory) -> Vec<Row>),
    Console(fn(&Console) -> Vec<Row>),
}

/// Shows what `stats_users` may not see: the keys that queries are cancelled with.
const FDS: &str = "fds";

/// All of them.
const ALL: &[Show] = &[
    Show::new("active_sockets", columns::SOCKETS_DEBUG, Rows::Pools(sockets::show_active)),
    Show::new("certificates", columns::CERTIFICATES, Rows::Pools(certificates::show)),
    Show::new("clients", columns::SOCKETS, Rows::Pools(clients::show)),
    Show::new("config", columns::CONFIG, Rows::Pools(config::show)),
    Show::new("databases", columns::DATABASES, Rows::Pools(databases::show)),
    Show::new("dns_hosts", columns::DNS_HOSTS, Rows::Pools(dns_hosts::show)),
    Show::new("dns_zones", columns::DNS_ZONES, Rows::Pools(dns_zones::show)),
    Show::new(FDS, columns::FDS, Rows::Pools(fds::show)),
    Show::new(
        "latencies",
        columns::LATENCIES,
        Rows::Console(|console| latencies::show(&console.pools, &console.stats)),
    ),
    Show::new("lists", columns::LISTS, Rows::Pools(lists::show)),
    Show::new("mem", columns::MEM, Rows::Console(|console| mem::show(&console.pools, &console.roster))),
    Show::new("peers", columns::PEERS, Rows::Pools(peers::show)),
    Show::new("peer_pools", columns::PEER_POOLS, Rows::Pools(peers::show_pools)),
    Show::new("pools", columns::POOLS, Rows::Pools(pools::show)),
    Show::new("prepared_statements", columns::PREPARED_STATEMENTS, Rows::Pools(prepared_statements::show)),
    Show::new("schedule", columns::SCHEDULE, Rows::Pools(schedule::show)),
    Show::new("servers", columns::SOCKETS, Rows::Pools(servers::show)),
    Show::new("session_use", columns::SESSION_USE, Rows::Pools(session_use::show)),
    Show::new("sockets", columns::SOCKETS_DEBUG, Rows::Pools(sockets::show)),
    Show::new("state", columns::STATE, Rows::Pools(state::show)),
    Show::new("stats", columns::STATS, Rows::Stats(stats::show)),
    Show::new("stats_averages", columns::STATS_AVERAGES, Rows::Stats(stats::show_averages)),
    Show::new("stats_totals", columns::STATS_TOTALS, Rows::Stats(stats::show_totals)),
    Show::new("totals", columns::TOTALS, Rows::Stats(stats::show_all)),
    Show::new("users", columns::USERS, Rows::Pools(users::show)),
    Show::new("version", columns::VERSION, Rows::Console(|_| version::show())),
    Show::new("workers", columns::WORKERS, Rows::Console(|console| workers::show(&console.roster))),
];

impl Rows {
    fn of(&self, console: &Console) -> Vec<Row> {
        match self {
            Rows::Pools(rows) => rows(&console.pools),
            Rows::Stats(rows) => rows(&console.stats),
            Rows::Console(rows) => rows(console),
        }
    }
}

fn named(what: &str) -> Option<&'static Show> {
    ALL.iter().find(|show| show.name.eq_ignore_ascii_case(what))
}

/// The columns of `SHOW what`, `Some(None)` where it has no rows; `None` if there is no such SHOW.
pub(super) fn columns(what: &str) -> Option<Option<Columns>> {
    if is_help(what) {
        return Some(None);
    }
    let of_parameter = || parameters::show(what).map(|table| table.columns);
    named(what).map(|show| show.columns).or_else(of_parameter).map(Some)
}

/// The answer to `SHOW what`; `None` if there is no such SHOW.
pub(super) fn show(session: &Session, what: &str) -> Result<Option<Reply>, AdminError> {
    if is_help(what) {
        return Ok(Some(help::show()));
    }
    if what.eq_ignore_ascii_case(FDS) {
        session.require_admin()?;
    }
    let table = named(what).map(|show| Table { columns: show.columns, rows: show.rows.of(&session.console) });
    Ok(table.or_else(|| parameters::show(what)).map(Reply::rows))
}

fn is_help(what: &str) -> bool {
    what.eq_ignore_ascii_case("help")
}
