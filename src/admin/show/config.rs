//! SHOW CONFIG

use crate::admin::columns::CONFIG;
use crate::admin::table::{Table, row};
use crate::pools::Pools;

pub(super) fn show(pools: &Pools) -> Table {
    let rows = pools.config().settings.show().into_iter().map(|line| {
        let changeable = if line.changeable { "yes" } else { "no" };
        row![line.key, line.value, line.default, changeable]
    });
    Table::with(CONFIG, rows)
}
