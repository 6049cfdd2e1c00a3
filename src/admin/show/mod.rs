//! SHOW: what the process knows of itself.

mod cancels;
mod certificates;
mod clients;
mod config;
mod databases;
mod dns_hosts;
mod help;
mod lists;
pub(super) mod parameters;
mod peers;
mod pools;
mod prepared_statements;
mod servers;
mod session_use;
mod sockets;
mod state;
mod stats;
mod users;
mod version;

use super::Console;
use super::session::done;
use super::table::Table;

/// The answer to `SHOW what`; `None` if there is no such SHOW.
pub(super) fn show(console: &Console, what: &str) -> Option<Vec<u8>> {
    let what = what.to_ascii_lowercase();
    let mut out = match what.as_str() {
        "help" => help::show(),
        _ => table(console, &what).map(Table::into_messages).or_else(|| parameters::show(&what))?,
    };
    out.extend(done("SHOW"));
    Some(out)
}

fn table(console: &Console, what: &str) -> Option<Table> {
    let Console { pools, stats, .. } = console;
    Some(match what {
        "certificates" => certificates::show(pools),
        "clients" => clients::show(pools),
        "config" => config::show(pools),
        "databases" => databases::show(pools),
        "dns_hosts" => dns_hosts::show(pools),
        "lists" => lists::show(pools),
        "prepared_statements" => prepared_statements::show(pools),
        "peers" => peers::show(pools),
        "peer_pools" => peers::show_pools(pools),
        "pools" => pools::show(pools),
        "servers" => servers::show(pools),
        "session_use" => session_use::show(pools),
        "state" => state::show(pools),
        "stats" => stats::show(stats),
        "stats_averages" => stats::show_averages(stats),
        "stats_totals" => stats::show_totals(stats),
        "totals" => stats::show_all(stats),
        "users" => users::show(pools),
        "version" => version::show(),
        _ => return None,
    })
}
