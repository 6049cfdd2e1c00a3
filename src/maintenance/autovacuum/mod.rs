//! `pgweir autovacuum`: what is effective per table, what would be better, and settings that can be taken back.

mod keys;
mod set;
mod show;
mod state;
mod suggest;

use clap::Args;

pub(crate) use keys::help;
pub(crate) use set::{set, undo};
pub(crate) use show::show;
pub(crate) use suggest::suggest;

use super::exit::Failure;
use super::options::{Changing, Limits, Reading, Show, Target};
use super::relations::{leaves, named, relations};
use super::server::Server;

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowOptions {
    /// Tables, as NAME, SCHEMA.NAME or '"Odd.Name"', where * and ? stand for other characters [default: all but the system's]
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
    /// Every setting of each table with where it comes from, instead of when autovacuum will come
    #[arg(long)]
    settings: bool,
    /// Only those for which it is to come at once
    #[arg(long, conflicts_with = "settings")]
    due: bool,
    /// Tables at the most, the nearest first, if none is named; 0: all
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "settings")]
    limit: u32,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SuggestOptions {
    /// Tables, as NAME, SCHEMA.NAME or '"Odd.Name"', where * and ? stand for other characters [default: all but the system's]
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
    #[command(flatten)]
    reading: Reading,
}

impl SuggestOptions {
    pub(crate) fn show(&self) -> Show {
        self.reading.show
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SetOptions {
    /// Table, as NAME, SCHEMA.NAME or '"Odd.Name"', where * and ? stand for other characters; of a partitioned one its partitions
    #[arg(value_name = "TABLE")]
    table: String,
    /// Settings, as vacuum_threshold=1000; see the list below
    #[arg(value_name = "KEY=VALUE", required = true)]
    settings: Vec<String>,
    /// Do not keep what was there before for "undo", which is kept in the database's table pgweir.autovacuum_before
    #[arg(long)]
    no_undo: bool,
    #[command(flatten)]
    pub(crate) changing: Changing,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct UndoOptions {
    /// Table, as NAME, SCHEMA.NAME or '"Odd.Name"', where * and ? stand for other characters; of a partitioned one its partitions
    #[arg(value_name = "TABLE")]
    table: String,
    #[command(flatten)]
    pub(crate) changing: Changing,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// The tables that are named, with their partitions; None: none is named.
async fn chosen(server: &Server, names: &[String]) -> Result<Option<Vec<u32>>, Failure> {
    if names.is_empty() {
        return Ok(None);
    }
    let all = relations(server, None).await?;
    Ok(Some(leaves(&all, &named(&all, names)?).iter().map(|table| table.oid).collect()))
}
