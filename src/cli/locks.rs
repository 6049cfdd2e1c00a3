//! `pgweir locks`

use clap::Args;

use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::locks::locks;
use crate::maintenance::options::{Changing, Reading};

/// Who waits for whose lock, as a tree: first those that wait for nobody, below each who waits for it; prepared transactions
/// and deadlocks included
#[derive(Args)]
#[command(mut_arg("statement_timeout", |arg| arg.default_value("10s")))]
#[command(after_help = "\
Examples:
  pgweir locks --dsn \"host=db dbname=app user=monitor\"
  pgweir locks --config pgbouncer.ini --database app --output json")]
pub(super) struct Locks {
    #[command(flatten)]
    reading: Reading,
}

impl Locks {
    pub(super) fn run(self) -> Exit {
        run("locks", self.reading.show, Changing::default(), async |job| locks(job, &self.reading).await)
    }
}
