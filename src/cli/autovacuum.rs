//! `pgweir autovacuum`

use clap::Subcommand;

use crate::maintenance::autovacuum::{self, SetOptions, ShowOptions, SuggestOptions, UndoOptions};
use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::options::Changing;

/// What autovacuum does to each table and when, settings that would fit better, and settings that can be taken back
#[derive(Subcommand)]
pub(super) enum Autovacuum {
    /// When autovacuum will come to each table, what it does now, when it last came, and the table's own settings; the nearest first
    #[command(after_help = "\
Examples:
  pgweir autovacuum show --dsn \"host=db dbname=app user=monitor\"
  pgweir autovacuum show orders --dsn postgres://monitor@db/app --settings
  pgweir autovacuum show --dsn postgres://monitor@db/app --due --output json")]
    Show(ShowOptions),
    /// Settings for tables that are changed a lot, that are used like a cache, or that only grow, with the reasons and the command
    #[command(after_help = "\
It goes by the updates, deletes and inserts counted since the statistics were reset:
  more than 10000 rows, half of them changed or 10 % dead   threshold 1000, scale factor 0.01
  fewer rows, all changed five times                         threshold 25, scale factor 0.05
  more than 10000 rows, one change in 100 inserts            scale factor 0.2, for inserts 0.05
and suggests nothing that would come later than what is set.

Examples:
  pgweir autovacuum suggest --dsn \"host=db dbname=app user=monitor\"
  pgweir autovacuum suggest 'sales.*' --dsn postgres://monitor@db/app --output json")]
    Suggest(SuggestOptions),
    /// Give a table settings of its own for autovacuum; what was there before is kept in the database, for undo
    #[command(after_help = set_help())]
    Set(SetOptions),
    /// Put back what was there before the first \"autovacuum set\"; if nothing is known of it, take all own settings for autovacuum away
    #[command(after_help = "\
Examples:
  pgweir autovacuum undo orders --dsn \"host=db dbname=app user=admin\"
  pgweir autovacuum undo 'sales.*' --dsn postgres://admin@db/app --yes")]
    Undo(UndoOptions),
}

fn set_help() -> String {
    autovacuum::help()
        + "
Examples:
  pgweir autovacuum set orders vacuum_threshold=1000 vacuum_scale_factor=0.01 --dsn \"host=db dbname=app user=admin\"
  pgweir autovacuum set 'sales.*' toast.vacuum_scale_factor=0.05 vacuum_cost_delay=default --dsn postgres://admin@db/app"
}

impl Autovacuum {
    pub(super) fn run(self) -> Exit {
        match self {
            Autovacuum::Show(o) => {
                run("autovacuum show", o.reading.show, Changing::default(), async |job| autovacuum::show(job, &o).await)
            }
            Autovacuum::Suggest(o) => {
                run("autovacuum suggest", o.show(), Changing::default(), async |job| autovacuum::suggest(job, &o).await)
            }
            Autovacuum::Set(o) => run("autovacuum set", o.show, o.changing, async |job| autovacuum::set(job, &o).await),
            Autovacuum::Undo(o) => {
                run("autovacuum undo", o.show, o.changing, async |job| autovacuum::undo(job, &o).await)
            }
        }
    }
}
