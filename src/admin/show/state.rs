//! SHOW STATE

use crate::admin::columns::STATE;
use crate::admin::table::{Table, row};
use crate::pools::Pools;

pub(super) fn show(pools: &Pools) -> Table {
    let is_paused = pools.is_paused();
    let rows = [
        ("active", !is_paused),
        ("paused", is_paused),
        ("suspended", false),
        ("shutting_down", pools.shutdown().is_some()),
    ];
    Table::with(STATE, rows.map(|(key, is_so)| row![key, if is_so { "yes" } else { "no" }]))
}
