//! SHOW LISTS

use std::sync::atomic::Ordering::Relaxed;

use super::{dns_zones, users};
use crate::admin::table::{Row, row};
use crate::pools::Pools;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let all = pools.pools();
    let servers: u32 = all.iter().map(|pool| pool.counts().total()).sum();
    let (dns_names, dns_queries) = pools.connector.hosts.counts();
    let registry = &pools.registry;
    let count = |n: u32| n as usize;
    let lists = [
        // With those of the console.
        ("databases", pools.databases().len() + 1),
        ("users", users::count(pools)),
        ("peers", pools.config().peers.len()),
        ("pools", all.len() + 1),
        ("peer_pools", pools.peers.ids().len()),
        // What we have none of: memory kept for later.
        ("free_clients", 0),
        ("used_clients", count(registry.connected.load(Relaxed))),
        ("login_clients", registry.newcomers_count()),
        ("free_servers", 0),
        ("used_servers", count(servers)),
        ("dns_names", dns_names),
        ("dns_zones", dns_zones::count(pools)),
        ("dns_queries", dns_queries),
        ("dns_pending", 0),
    ];
    lists.map(|(list, items)| row![list, items]).into()
}
