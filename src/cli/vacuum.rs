//! `pgweir vacuum` and `pgweir analyze`

use clap::Args;

use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::vacuum::{self, AnalyzeOptions, VacuumOptions};

/// Vacuum tables by name or by what they need, worst first and several at a time; names what keeps dead rows from going, shows how
/// far the server is, and goes on with the others where a table is locked
#[derive(Args)]
#[command(mut_arg("statement_timeout", |arg| arg.default_value("0")), mut_arg("lock_timeout", |arg| arg.default_value("2s")))]
#[command(after_help = "\
Examples:
  pgweir vacuum --dsn \"host=db dbname=app user=admin\" --dry-run
  pgweir vacuum --dsn postgres://admin@db/app --min-dead-pct 20 --analyze --jobs 4 --yes
  pgweir vacuum --config pgbouncer.ini --database app 'sales.*' '\"Odd Name\"' --freeze --cost-delay 2 --cost-limit 1000 --yes
  pgweir vacuum --dsn postgres://admin@db/app orders --full --window 02:00-04:00 --free-space 50GB --yes

In JSON: table, result, dead_rows_before, dead_rows_after, size_before_bytes, size_after_bytes, xid_age_before, xid_age_after,
took_s, held_by. Tables that could not be done make the exit status 7, or 2 if none could.")]
pub(super) struct Vacuum {
    #[command(flatten)]
    options: VacuumOptions,
}

impl Vacuum {
    pub(super) fn run(self) -> Exit {
        let VacuumOptions { show, changing, .. } = self.options;
        run("vacuum", show, changing, async |job| vacuum::vacuum(job, &self.options).await)
    }
}

/// Update the planner's statistics of tables, those that have changed most first and several at a time; asks nothing, since it does
/// no harm
#[derive(Args)]
#[command(mut_arg("statement_timeout", |arg| arg.default_value("0")), mut_arg("lock_timeout", |arg| arg.default_value("2s")))]
#[command(after_help = "\
Examples:
  pgweir analyze --dsn \"host=db dbname=app user=admin\" --jobs 4
  pgweir analyze --dsn postgres://admin@db/app --stale-pct 10 'sales.*'

In JSON: table, result, changed_rows, rows, took_s. Tables that could not be done make the exit status 7, or 2 if none could.")]
pub(super) struct Analyze {
    #[command(flatten)]
    options: AnalyzeOptions,
}

impl Analyze {
    pub(super) fn run(self) -> Exit {
        let AnalyzeOptions { show, changing, .. } = self.options;
        run("analyze", show, changing, async |job| vacuum::analyze(job, &self.options).await)
    }
}
