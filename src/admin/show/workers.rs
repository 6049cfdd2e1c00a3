//! SHOW WORKERS: the threads that relay.

use crate::admin::table::{Row, row};
use crate::worker::Roster;

pub(super) fn show(roster: &Roster) -> Vec<Row> {
    let rows = roster.loads().into_iter().enumerate().map(|(id, load)| {
        row![
            id,
            load.thread_id(),
            load.clients(),
            load.linked(),
            load.waiting(),
            load.busy_us(),
            load.busy_permille() / 10,
            load.turns(),
            load.is_uring(),
        ]
    });
    rows.collect()
}
