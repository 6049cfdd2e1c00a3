//! `pgweir report`: what there is and what it does, without a judgement.

mod cache;
mod connections;
mod replication;
mod sizes;
mod statements;
mod tables;
mod transactions;

use clap::Args;

pub(crate) use cache::cache;
pub(crate) use connections::connections;
pub(crate) use replication::replication;
pub(crate) use sizes::sizes;
pub(crate) use statements::{StatementOptions, statements};
pub(crate) use tables::tables;
pub(crate) use transactions::{TransactionOptions, transactions};

use super::options::Reading;

/// Of reports that are lists.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Rows of each kind to print at the most, the first in order; 0: all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: u32,
    // A group sets the heading of what follows it, hence the last place.
    #[command(flatten)]
    pub(crate) reading: Reading,
}

impl Options {
    /// For LIMIT, where NULL means all.
    fn limit(&self) -> Option<i64> {
        (self.limit > 0).then_some(i64::from(self.limit))
    }
}

/// Makes a query with `pg_class c`, then `{free}`, in it know sizes as `{size}`. To ask for the size of what is locked
/// exclusively, as by a long VACUUM FULL, would wait: of such a relation its size at the last VACUUM or ANALYZE is told.
pub(super) fn with_size(sql: &str) -> String {
    const LOCKED: &str = "
        with exclusive as materialized (
            select relation as oid from pg_locks
            where locktype = 'relation' and mode = 'AccessExclusiveLock'
              and database = (select oid from pg_database where datname = current_database())),
        locked as materialized (
            select oid from exclusive union select indrelid from pg_index where indexrelid in (select oid from exclusive))";
    const FREE: &str = "left join pg_class free on free.oid = c.oid and c.oid not in (select oid from locked)";
    const SIZE: &str = "coalesce(pg_total_relation_size(free.oid),
                                 case when free.oid is null then c.relpages * current_setting('block_size')::int8 end)";
    LOCKED.to_owned() + &sql.replace("{size}", SIZE).replace("{free}", FREE)
}
