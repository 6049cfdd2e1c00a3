//! SHOW STATE

use crate::admin::table::{Row, row};
use crate::pools::Pools;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let (is_paused, is_suspended) = (pools.is_paused(), pools.is_suspended());
    let rows = [
        ("active", !is_paused && !is_suspended),
        ("paused", is_paused),
        ("suspended", is_suspended),
        ("shutting_down", pools.shutdown().is_some()),
    ];
    rows.map(|(key, is_so)| row![key, if is_so { "yes" } else { "no" }]).into()
}
