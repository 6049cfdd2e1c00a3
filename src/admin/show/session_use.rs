//! SHOW SESSION_USE: what clients do that needs a session, in pools that give them none.

use crate::admin::table::{Cell, Row, row};
use crate::pools::Pools;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let rows = pools.pools().into_iter().map(|pool| {
        let mut row = row![&*pool.database.name, &*pool.user.name];
        row.extend(pool.session_uses().map(Cell::from));
        row
    });
    rows.collect()
}
