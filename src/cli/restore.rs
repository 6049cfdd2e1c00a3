//! `pgweir restore`

use clap::Args;

use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::restore::{RestoreOptions, restore};

/// A backup comes back as a new database, is checked, and takes the old one's place if that is wanted; or it is restored over an
/// existing one. Without a backup named: the list of backups
#[derive(Args)]
#[command(after_help = "\
Examples:
  pgweir restore --to /var/backups
  pgweir restore latest --to /var/backups --dsn \"host=db dbname=app user=postgres\" --into app_restored
  pgweir restore latest --to /var/backups --of app --dsn postgres://postgres@db/app --swap --config pgbouncer.ini
  pgweir restore app-20261121T091814Z --to /var/backups --dsn postgres://postgres@db/app --into look --table 'sales.order*'
  pgweir restore latest --to /var/backups --dsn postgres://postgres@db/app --config pgbouncer.ini --in-place --confirm RESTORE")]
pub(super) struct Restore {
    #[command(flatten)]
    options: RestoreOptions,
}

impl Restore {
    pub(super) fn run(self) -> Exit {
        let Restore { options } = self;
        run("restore", options.show, options.changing, async |job| restore(job, &options).await)
    }
}
