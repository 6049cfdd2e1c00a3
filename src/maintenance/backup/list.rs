//! `pgweir backup list`

use clap::Args;

use super::manifest::{Manifest, Verified};
use super::store::{Place, Store};
use crate::maintenance::exit::{Done, Exit};
use crate::maintenance::job::Job;
use crate::maintenance::options::Show;
use crate::maintenance::rows::Columns;
use crate::maintenance::units::Size;

#[derive(Args, Clone, Debug)]
pub(crate) struct ListOptions {
    /// Backups of this database only
    #[arg(long, value_name = "NAME")]
    of: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// What stands in place of a level where a verification has failed.
const FAILED: &str = "failed";

/// A backup.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct BackupRow {
    id: String,
    database: String,
    format: super::manifest::DumpFormat,
    server_version: String,
    started_at: String,
    finished_at: String,
    bytes: u64,
    /// The level and time of the last successful verification; "failed" if one has found it broken since.
    verified: Option<String>,
    verified_at: Option<String>,
    held: bool,
    sha256: String,
}

impl Columns for BackupRow {
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "database",
        "format",
        "server_version",
        "started_at",
        "finished_at",
        "bytes",
        "verified",
        "verified_at",
        "held",
        "sha256",
    ];
}

impl From<Manifest> for BackupRow {
    fn from(manifest: Manifest) -> BackupRow {
        let failed = manifest.failed.map(|failed| Verified { level: FAILED.to_owned(), ..failed });
        let last = failed.or(manifest.verified);
        let (verified, verified_at) = last.map(|verified| (verified.level, verified.at.to_string())).unzip();
        BackupRow {
            id: manifest.id,
            database: manifest.database,
            format: manifest.format,
            server_version: manifest.server_version,
            started_at: manifest.started_at.to_string(),
            finished_at: manifest.finished_at.to_string(),
            bytes: manifest.bytes,
            verified,
            verified_at,
            held: manifest.held,
            sha256: manifest.sha256,
        }
    }
}

/// Lists backups, newest first, and says on stderr what does not count.
pub(crate) async fn list(job: &Job, options: &ListOptions) -> Done {
    let store = Store::open(&options.place).await?;
    list_all(job, &store, options.of.as_deref()).await
}

/// The same for whoever wants one to be chosen.
pub(crate) async fn list_all(job: &Job, store: &Store, database: Option<&str>) -> Done {
    let listing = store.listing().await?;
    warn_of_others(job, &listing.unreadable);
    for leftover in &listing.leftovers {
        let (id, bytes, at) = (&leftover.id, Size(leftover.bytes), leftover.written_at);
        job.warn(format!("{id} is no backup: it has not ended, or is being made ({bytes}, last written {at}); backup prune removes what is left of it"));
    }
    let is_wanted = |manifest: &Manifest| database.is_none_or(|database| *database == manifest.database);
    let rows: Vec<BackupRow> = listing.backups.into_iter().filter(is_wanted).map(BackupRow::from).collect();
    job.out.rows(&rows, &format!("There are no backups in {store}."))?;
    Ok(Exit::Fine)
}

/// Backups that there are, but cannot be read.
pub(super) fn warn_of_others(job: &Job, unreadable: &[(String, String)]) {
    for (id, why) in unreadable {
        job.warn(format!("{id}: {why}"));
    }
}
