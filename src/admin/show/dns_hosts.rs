//! SHOW DNS_HOSTS

use std::net::{IpAddr, SocketAddr};

use crate::admin::table::{Row, row};
use crate::pools::Pools;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let mut hosts = pools.connector.hosts.snapshot();
    hosts.sort_unstable_by(|a, b| a.hostname.cmp(&b.hostname));
    let rows = hosts.into_iter().map(|host| row![host.hostname, host.ttl.as_secs(), addresses(&host.addresses)]);
    rows.collect()
}

/// As PgBouncer has them, with a port that is always 0.
fn addresses(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(|address| SocketAddr::new(*address, 0).to_string()).collect();
    texts.join(",")
}
