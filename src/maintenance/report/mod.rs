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
