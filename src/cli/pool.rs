//! `pgweir pool`

use clap::Subcommand;

use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::options::Changing;
use crate::maintenance::pool::{AdviseOptions, advise_pool};

/// The pooler's pools
#[derive(Subcommand)]
pub(super) enum Pool {
    /// Sizes of pools by what PostgreSQL can take, how many poolers share it, and what is used; with the reasons
    #[command(after_help = "\
Examples:
  pgweir pool advise --dsn \"host=db dbname=app user=monitor\" --instances 2 --cores 8
  pgweir pool advise --config pgbouncer.ini --database app --measure 1m")]
    Advise(AdviseOptions),
}

impl Pool {
    pub(super) fn run(self) -> Exit {
        match self {
            Pool::Advise(o) => {
                run("pool advise", o.show(), Changing::default(), async |job| advise_pool(job, &o).await)
            }
        }
    }
}
