//! `pgweir report`

use clap::Subcommand;

use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::options::Changing;
use crate::maintenance::report;

/// What there is and what it does, as lists: sizes, connections, cache, tables, statements, replication, transactions
#[derive(Subcommand)]
pub(super) enum Report {
    /// Sizes of databases, tables and indexes, the largest first
    #[command(after_help = "\
Examples:
  pgweir report sizes --dsn \"host=db dbname=app user=monitor\"
  pgweir report sizes --config pgbouncer.ini --database app --limit 5 --output json")]
    Sizes(report::Options),
    /// Connections of clients by state, database, user, application and address
    #[command(after_help = "\
Example:
  pgweir report connections --dsn \"host=db dbname=app user=monitor\"")]
    Connections(report::Options),
    /// How often blocks were found in shared_buffers, by database, table and index; those that were read most come first
    #[command(after_help = "\
Example:
  pgweir report cache --dsn \"host=db dbname=app user=monitor\" --limit 10")]
    Cache(report::Options),
    /// What was done to each table, its dead rows, and when it was vacuumed; the largest first
    #[command(after_help = "\
Example:
  pgweir report tables --dsn \"host=db dbname=app user=monitor\" --output csv > tables.csv")]
    Tables(report::Options),
    /// The statements that take most time, by the extension pg_stat_statements
    #[command(after_help = "\
Examples:
  pgweir report statements --dsn \"host=db dbname=app user=monitor\"
  pgweir report statements --dsn postgres://monitor@db/app --by mean --all-databases")]
    Statements(report::StatementOptions),
    /// Standbys and subscribers with their lag, slots with the WAL they keep
    #[command(after_help = "\
Example:
  pgweir report replication --dsn \"host=db dbname=app user=monitor\"")]
    Replication(report::Options),
    /// Transactions per second of each database, measured for a while
    #[command(after_help = "\
Example:
  pgweir report transactions --dsn \"host=db dbname=app user=monitor\" --interval 10s")]
    Transactions(report::TransactionOptions),
}

impl Report {
    pub(super) fn run(self) -> Exit {
        let none = Changing::default();
        match self {
            Report::Sizes(o) => run("report sizes", o.reading.show, none, async |job| report::sizes(job, &o).await),
            Report::Connections(o) => {
                run("report connections", o.reading.show, none, async |job| report::connections(job, &o).await)
            }
            Report::Cache(o) => run("report cache", o.reading.show, none, async |job| report::cache(job, &o).await),
            Report::Tables(o) => run("report tables", o.reading.show, none, async |job| report::tables(job, &o).await),
            Report::Statements(o) => {
                run("report statements", o.list.reading.show, none, async |job| report::statements(job, &o).await)
            }
            Report::Replication(o) => {
                run("report replication", o.reading.show, none, async |job| report::replication(job, &o).await)
            }
            Report::Transactions(o) => {
                run("report transactions", o.list.reading.show, none, async |job| report::transactions(job, &o).await)
            }
        }
    }
}
