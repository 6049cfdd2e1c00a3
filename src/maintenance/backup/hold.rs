//! `pgweir backup hold` and `unhold`.

use clap::Args;

use super::list::BackupRow;
use super::store::{Place, Store};
use crate::maintenance::exit::{Done, Exit};
use crate::maintenance::job::Job;
use crate::maintenance::options::Show;

#[derive(Args, Clone, Debug)]
pub(crate) struct HoldOptions {
    /// Which backup, or latest for the newest one
    #[arg(value_name = "ID")]
    id: String,
    /// With latest: the newest of this database [default: of all]
    #[arg(long, value_name = "NAME")]
    of: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Say which backup it is, and change nothing
    #[arg(long, help_heading = "Safety")]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// Prints the backup as it is afterwards.
pub(crate) async fn hold(job: &Job, options: &HoldOptions, held: bool) -> Done {
    let store = Store::open(&options.place).await?;
    let found = job.interrupt.or(store.find(&options.id, options.of.as_deref())).await??;
    let word = if held { "hold" } else { "let go" };
    if !job.step(&format!("{word} {}", found.id))? {
        return Ok(Exit::Fine);
    }
    let manifest = store.change(&found.id, |manifest| manifest.held = held).await?;
    job.out.one(&BackupRow::from(manifest))?;
    Ok(Exit::Fine)
}
