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
use super::reply::Reply;
use super::session::Session;
use super::table::{Row, Table};

/// A SHOW that answers with rows.
struct Show {
    name: &'static str,
    columns: Columns,
    rows: fn(&Console) -> Vec<Row>,
}

/// Shows what `stats_users` may not see: the keys that queries are cancelled with.
const FDS: &str = "fds";

/// All of them.
const ALL: &[Show] = &[
    Show {
        name: "active_sockets",
        columns: columns::SOCKETS_DEBUG,
        rows: |console| sockets::show_active(&console.pools),
    },
    Show { name: "certificates", columns: columns::CERTIFICATES, rows: |console| certificates::show(&console.pools) },
    Show { name: "clients", columns: columns::SOCKETS, rows: |console| clients::show(&console.pools) },
    Show { name: "config", columns: columns::CONFIG, rows: |console| config::show(&console.pools) },
    Show { name: "databases", columns: columns::DATABASES, rows: |console| databases::show(&console.pools) },
    Show { name: "dns_hosts", columns: columns::DNS_HOSTS, rows: |console| dns_hosts::show(&console.pools) },
    Show { name: "dns_zones", columns: columns::DNS_ZONES, rows: |console| dns_zones::show(&console.pools) },
    Show { name: FDS, columns: columns::FDS, rows: |console| fds::show(&console.pools) },
    Show {
        name: "latencies",
        columns: columns::LATENCIES,
        rows: |console| latencies::show(&console.pools, &console.stats),
    },
    Show { name: "lists", columns: columns::LISTS, rows: |console| lists::show(&console.pools) },
    Show { name: "mem", columns: columns::MEM, rows: |console| mem::show(&console.pools, &console.roster) },
    Show { name: "peers", columns: columns::PEERS, rows: |console| peers::show(&console.pools) },
    Show { name: "peer_pools", columns: columns::PEER_POOLS, rows: |console| peers::show_pools(&console.pools) },
    Show { name: "pools", columns: columns::POOLS, rows: |console| pools::show(&console.pools) },
    Show {
        name: "prepared_statements",
        columns: columns::PREPARED_STATEMENTS,
        rows: |console| prepared_statements::show(&console.pools),
    },
    Show { name: "servers", columns: columns::SOCKETS, rows: |console| servers::show(&console.pools) },
    Show { name: "session_use", columns: columns::SESSION_USE, rows: |console| session_use::show(&console.pools) },
    Show { name: "sockets", columns: columns::SOCKETS_DEBUG, rows: |console| sockets::show(&console.pools) },
    Show { name: "state", columns: columns::STATE, rows: |console| state::show(&console.pools) },
    Show { name: "stats", columns: columns::STATS, rows: |console| stats::show(&console.stats) },
    Show {
        name: "stats_averages",
        columns: columns::STATS_AVERAGES,
        rows: |console| stats::show_averages(&console.stats),
    },
    Show { name: "stats_totals", columns: columns::STATS_TOTALS, rows: |console| stats::show_totals(&console.stats) },
    Show { name: "totals", columns: columns::TOTALS, rows: |console| stats::show_all(&console.stats) },
    Show { name: "users", columns: columns::USERS, rows: |console| users::show(&console.pools) },
    Show { name: "version", columns: columns::VERSION, rows: |_| version::show() },
    Show { name: "workers", columns: columns::WORKERS, rows: |console| workers::show(&console.roster) },
];

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
    let table = named(what).map(|show| Table { columns: show.columns, rows: (show.rows)(&session.console) });
    Ok(table.or_else(|| parameters::show(what)).map(Reply::rows))
}

fn is_help(what: &str) -> bool {
    what.eq_ignore_ascii_case("help")
}
