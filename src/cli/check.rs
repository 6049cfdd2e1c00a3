//! `pgweir check`

use clap::Args;

use crate::maintenance::check::{self, CheckOptions, check};
use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::options::Changing;

/// Whether something needs attention: cache, dead rows, connections, replication, long statements, growth, wraparound and more,
/// each against a threshold for a warning and a critical one, which are the exit codes 1 and 2
#[derive(Args)]
#[command(after_help = format!("{}
Examples:
  pgweir check --dsn \"host=db dbname=app user=monitor\"
  pgweir check cache connections --dsn postgres://monitor@db/app --threshold connections=60,80
  pgweir check --config pgbouncer.ini --database app --output nagios
  pgweir check --dsn postgres://monitor@db/app --output prometheus --file /var/lib/node_exporter/pgweir.prom", check::help()))]
pub(super) struct Check {
    #[command(flatten)]
    options: CheckOptions,
}

impl Check {
    pub(super) fn run(self) -> Exit {
        run("check", self.options.show(), Changing::default(), async |job| check(job, &self.options).await)
    }
}
