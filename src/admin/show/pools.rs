//! SHOW POOLS

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pgweir_config::{CONSOLE_DATABASE, Named, PoolMode};

use super::cancels::CancelCounts;
use super::databases::load_balance_hosts;
use crate::admin::table::{Cell, Row, row};
use crate::net::clock;
use crate::pools::{Pools, ServerPool};
use crate::registry::CancelTarget;

/// Database and user.
type Key = (Arc<str>, Arc<str>);

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let cancels = cancels(pools);
    let now_us = clock::now_us();
    let mut rows = BTreeMap::new();
    for pool in pools.pools() {
        let key = (Arc::clone(&pool.database.name), Arc::clone(&pool.user.name));
        let cancels = cancels.get(&key).copied().unwrap_or_default();
        rows.insert(key, pool_row(&pool, cancels, now_us));
    }
    let console: Arc<str> = CONSOLE_DATABASE.into();
    rows.insert((Arc::clone(&console), console), console_row(pools.console_clients.used() as usize));
    rows.into_values().collect()
}

/// Cancel requests for the servers of each pool.
fn cancels(pools: &Pools) -> HashMap<Key, CancelCounts> {
    let mut counts: HashMap<Key, CancelCounts> = HashMap::new();
    for cancel in pools.registry.cancels() {
        if let CancelTarget::Server(server) = &cancel.target {
            counts.entry((Arc::clone(&server.database), Arc::clone(&server.user))).or_default().add(&cancel);
        }
    }
    counts
}

fn pool_row(pool: &ServerPool, cancels: CancelCounts, now_us: u64) -> Vec<Cell> {
    let counts = pool.counts();
    let waiting = pool.waiting() as u32;
    let unchecked = pool.unchecked().min(counts.idle);
    let wait_us = pool.waiting_since_us().map_or(0, |since_us| now_us.saturating_sub(since_us));
    row![
        &*pool.database.name,
        &*pool.user.name,
        pool.client_count().saturating_sub(waiting),
        waiting,
        cancels.active,
        cancels.waiting,
        counts.active,
        cancels.active,
        counts.being_canceled,
        counts.idle - unchecked,
        unchecked,
        counts.tested,
        counts.login + counts.login_dedicated + cancels.connecting,
        wait_us / 1_000_000,
        wait_us % 1_000_000,
        pool.policy.mode().name(),
        load_balance_hosts(&pool.database.entry()),
    ]
}

/// The console as PgBouncer shows it: a pool of its own.
fn console_row(clients: usize) -> Vec<Cell> {
    let mut row = row![CONSOLE_DATABASE, CONSOLE_DATABASE, clients];
    row.extend((3..15).map(|_| Cell::from(0_u32)));
    row.extend(row![PoolMode::Statement.name(), None::<&str>]);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::columns::POOLS;

    #[test]
    fn the_console_has_all_columns() {
        let row = console_row(2);
        assert_eq!(row.len(), POOLS.len());
        assert_eq!((&row[2], &row[14], &row[15]), (&Cell::from("2"), &Cell::from("0"), &Cell::from("statement")));
    }
}
