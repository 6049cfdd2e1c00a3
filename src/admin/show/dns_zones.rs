//! SHOW DNS_ZONES: what the names of servers have behind their first dot.

use crate::admin::table::{Row, row};
use crate::pools::Pools;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let zones = pools.connector.hosts.zones().into_iter();
    zones.map(|zone| row![zone.zonename, zone.serial, zone.hosts]).collect()
}

/// How many zones there are.
pub(super) fn count(pools: &Pools) -> usize {
    pools.connector.hosts.zones().len()
}
