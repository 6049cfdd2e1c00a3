//! `pgweir backup`

use clap::Subcommand;

use crate::maintenance::backup;
use crate::maintenance::exit::Exit;
use crate::maintenance::job::run;
use crate::maintenance::options::Changing;

/// Backups by pg_dump in a directory or S3, each with a manifest of what is in it: without its manifest there is no backup
#[derive(Subcommand)]
pub(super) enum Backup {
    /// Dump a database in one consistent snapshot, with checksums and the row counts of that snapshot; needs the right to read all
    /// that is dumped (pg_read_all_data, and BYPASSRLS where rows are hidden)
    #[command(mut_arg("lock_timeout", |arg| arg.default_value("1m")), mut_arg("statement_timeout", |arg| arg.default_value("0")))]
    #[command(after_help = "\
Examples:
  pgweir backup run --dsn \"host=db dbname=app user=backup\" --to /var/backups/app
  pgweir backup run --dsn postgres://backup@db/app --to /var/backups/app --format directory --jobs 4 --compress 9 --globals
  pgweir backup run --dsn postgres://backup@db/app --to /tmp/part --format plain --inserts --table 'public.*' --exclude-table log
  pgweir backup run --config pgbouncer.ini --database app --to s3://backups/app --storage-class STANDARD_IA --sse s3
  pgweir backup run --dsn postgres://backup@db/app --to s3://b --s3-endpoint https://minio:9000 --path-style")]
    Run(Box<backup::RunOptions>),
    /// The backups in a place, newest first; what is left of unfinished ones is named on stderr
    #[command(after_help = "\
Examples:
  pgweir backup list --to /var/backups/app
  pgweir backup list --to s3://backups/app --of app --output json")]
    List(backup::ListOptions),
    /// Whether a backup is whole, and can be restored; the list shows the last result
    #[command(after_help = "\
Examples:
  pgweir backup verify latest --to /var/backups/app
  pgweir backup verify latest --to /var/backups --of app --level restore --dsn \"host=spare dbname=postgres user=postgres\"")]
    Verify(backup::VerifyOptions),
    /// Remove old backups and what is left of unfinished ones: never one that is held, the last verified or the newest of a database
    #[command(after_help = "\
Examples:
  pgweir backup prune --to /var/backups/app --keep-days 30 --keep-last 7
  pgweir backup prune --to s3://backups/app --keep-days 30 --keep-last 7 --yes")]
    Prune(backup::PruneOptions),
    /// Keep a backup whatever prune is told
    #[command(after_help = "\
Example:
  pgweir backup hold app-20261121T091814Z --to /var/backups/app")]
    Hold(backup::HoldOptions),
    /// Let prune remove a backup again
    #[command(after_help = "\
Example:
  pgweir backup unhold app-20261121T091814Z --to /var/backups/app")]
    Unhold(backup::HoldOptions),
}

impl Backup {
    pub(super) fn run(self) -> Exit {
        let changing = |dry_run| Changing { dry_run, yes: true };
        match self {
            Backup::Verify(o) => {
                run("backup verify", o.show, Changing::default(), async |job| backup::verify(job, &o).await)
            }
            Backup::Run(o) => run("backup run", o.show, o.changing(), async |job| backup::run(job, &o).await),
            Backup::List(o) => run("backup list", o.show, Changing::default(), async |job| backup::list(job, &o).await),
            Backup::Prune(o) => run("backup prune", o.show, o.changing(), async |job| backup::prune(job, &o).await),
            Backup::Hold(o) => {
                run("backup hold", o.show, changing(o.dry_run), async |job| backup::hold(job, &o, true).await)
            }
            Backup::Unhold(o) => {
                run("backup unhold", o.show, changing(o.dry_run), async |job| backup::hold(job, &o, false).await)
            }
        }
    }
}
