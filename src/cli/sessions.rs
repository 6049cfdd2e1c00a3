//! `pgweir sessions`

use clap::Subcommand;

use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::options::Changing;
use crate::maintenance::sessions::{self, End};

/// Sessions of clients: which there are, cancel what they run, end them; never replication, pgweir's own, or idle servers of the
/// pooler
#[derive(Subcommand)]
pub(super) enum Sessions {
    /// Sessions that meet all conditions given, those longest in their state first
    #[command(after_help = "\
Examples:
  pgweir sessions list --dsn \"host=db dbname=app user=monitor\" --active 30s
  pgweir sessions list --dsn postgres://monitor@db/app --state idle-in-transaction --in-database '*'")]
    List(sessions::ListOptions),
    /// Cancel the statements of sessions that meet all conditions given; needs pg_signal_backend or the sessions' role
    #[command(after_help = "\
Examples:
  pgweir sessions cancel --dsn \"host=db dbname=app user=admin\" --active 1m --dry-run
  pgweir sessions cancel --dsn postgres://admin@db/app --query 'select .* from big' --yes")]
    Cancel(sessions::EndOptions),
    /// End sessions that meet all conditions given; needs pg_signal_backend or the sessions' role. With --config, idle servers of
    /// the pooler are known and stay
    #[command(after_help = "\
Examples:
  pgweir sessions terminate --config pgbouncer.ini --database app --idle 10m --limit 20
  pgweir sessions terminate --dsn postgres://admin@db/app --pid 4711 --yes")]
    Terminate(sessions::EndOptions),
}

impl Sessions {
    pub(super) fn run(self) -> Exit {
        match self {
            Sessions::List(o) => {
                run("sessions list", o.reading.show, Changing::default(), async |job| sessions::list(job, &o).await)
            }
            Sessions::Cancel(o) => run("sessions cancel", o.reading.show, o.changing, async |job| {
                sessions::end(job, &o, End::Cancel).await
            }),
            Sessions::Terminate(o) => run("sessions terminate", o.reading.show, o.changing, async |job| {
                sessions::end(job, &o, End::Terminate).await
            }),
        }
    }
}
