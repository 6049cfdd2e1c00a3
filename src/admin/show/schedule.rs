//! SHOW SCHEDULE: the jobs of `[maintenance]`.

use jiff::Timestamp;

use crate::admin::table::{Cell, Row, row, unix_timestamp};
use crate::pools::Pools;
use crate::schedule::status::{Status, statuses};

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    statuses(&pools.config(), Timestamp::now()).iter().map(job_row).collect()
}

fn job_row(status: &Status) -> Vec<Cell> {
    let time = |at: Option<Timestamp>| at.map(|at| unix_timestamp(u64::try_from(at.as_microsecond()).unwrap_or(0)));
    let begun = status.begun();
    // Of the run under way nothing more is known.
    let last = status.last.as_ref().filter(|_| status.running.is_none());
    row![
        &*status.name,
        &*status.schedule,
        time(status.next),
        status.state(),
        time(begun.and_then(|begun| begun.due)),
        time(begun.map(|begun| begun.at)),
        time(last.and_then(|last| last.at)),
        last.and_then(|last| last.exit_code).map(|code| code.to_string()),
        last.and_then(|last| last.message.clone()),
        status.missed.to_string(),
        time(status.last_missed.as_ref().map(|missed| missed.due)),
        status.last_missed.as_ref().map(|missed| missed.why.clone()),
        &*status.command,
    ]
}
