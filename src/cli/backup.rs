//! `pgweir backup`

use clap::Subcommand;

use crate::maintenance::backup;
use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::options::Changing;

/// Backups by pg_dump, each with a manifest that says what is in it
#[derive(Subcommand)]
pub(super) enum Backup {
    /// The backups in a place, newest first
    #[command(after_help = "\
Examples:
  pgweir backup list --to /var/backups/app
  pgweir backup list --to /var/backups --database app --output json")]
    List(backup::ListOptions),
}

impl Backup {
    pub(super) fn run(self) -> Exit {
        match self {
            Backup::List(o) => run("backup list", o.show, Changing::default(), async |job| backup::list(job, &o).await),
        }
    }
}
