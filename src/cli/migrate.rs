//! `pgweir migrate`

use clap::Subcommand;

use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::migrate::{self, MigrateOptions};

/// Changes of a schema
#[derive(Subcommand)]
pub(super) enum Migrate {
    /// Run a file of SQL in one transaction, under a short lock timeout and with retries; back up the schema before, renew
    /// statistics after
    #[command(after_help = "\
An ALTER TABLE that waits for a lock makes everybody else wait behind it, who
only wants to read, too: hence the short --lock-timeout. What runs into it is
rolled back, whoever was in the way is named, and it is tried again later.

What destroys data (DROP TABLE, TRUNCATE, DROP COLUMN, ...) is asked about,
and needs --yes where there is no terminal. The result is printed with
--output json, too: file, sha256, database, outcome (done, partly, failed,
rolled back), statements, statements_done, attempts, duration_s, backup,
analyzed, error.

Examples:
  pgweir migrate run 0042_add_column.sql --dsn \"host=db dbname=app user=owner\"
  pgweir migrate run 0043_index.sql --no-transaction --lock-timeout 1m --dsn postgres://owner@db/app
  pgweir migrate run 0042_add_column.sql --dry-run --try --dsn postgres://owner@db/app")]
    Run(MigrateOptions),
}

impl Migrate {
    pub(super) fn run(self) -> Exit {
        match self {
            Migrate::Run(o) => run("migrate run", o.show, o.changing, async |job| migrate::run(job, &o).await),
        }
    }
}
