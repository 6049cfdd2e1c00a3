//! SHOW CONFIG

use crate::admin::table::{Row, row};
use crate::pools::Pools;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let rows = pools.config().settings.show().into_iter().map(|line| {
        let changeable = if line.changeable { "yes" } else { "no" };
        row![line.key, line.value, line.default, changeable]
    });
    rows.collect()
}
