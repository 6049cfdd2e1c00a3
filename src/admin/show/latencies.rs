//! SHOW LATENCIES: how long clients of each pool wait, and their queries and transactions take.

use crate::admin::history::StatsHistory;
use crate::admin::table::{Cell, Row, row};
use crate::pools::Pools;

pub(super) fn show(pools: &Pools, stats: &StatsHistory) -> Vec<Row> {
    let rows = pools.pools().into_iter().map(|pool| {
        let mut row = row![&*pool.database.name, &*pool.user.name];
        for times in stats.latencies.recent(&pool) {
            let percentiles = [50, 90, 99].map(|percent| times.percentile_us(percent));
            row.push(times.count().into());
            row.extend(percentiles.map(Cell::from));
            row.push(times.max_us.into());
        }
        row
    });
    rows.collect()
}
