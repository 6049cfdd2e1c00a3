//! `pgweir backup verify`: whether a backup is what its manifest says, can be read, and can be restored.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::archive::{Archive, How};
use super::loading::{self, Input};
use super::manifest::{Manifest, Verified};
use super::reading::check_all;
use super::store::{LATEST, Place, Store};
use crate::maintenance::conninfo::child::Passfile;
use crate::maintenance::databases;
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::options::{Limits, Show, Target};
use crate::maintenance::programs;
use crate::maintenance::progress::Counted;
use crate::maintenance::restore::{Selection, compare, facts, smoke};
use crate::maintenance::rows::row;
use crate::maintenance::scratch::Scratch;
use crate::maintenance::server::Server;

#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyOptions {
    /// Id of a backup, or "latest" for the newest
    #[arg(default_value = LATEST)]
    backup: String,
    #[command(flatten)]
    place: Place,
    /// Only backups of this database count as latest [default: any]
    #[arg(long, value_name = "NAME")]
    of: Option<String>,
    /// How thoroughly; each level does what those before it do
    #[arg(long, value_enum, default_value_t = Level::Checksum)]
    level: Level,
    /// Tables that pg_restore restores at the same time, 1 to 64; more than one needs the dump as a file
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Directory for a copy of the dump, if it is in S3 and has to be a file [default: TMPDIR or /tmp]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Directory of pg_restore, psql and pg_amcheck [default: the version that fits, in PATH or where packages put it]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// In this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Level {
    /// All files are there, with the SHA-256 that the manifest says
    Checksum,
    /// The archive is read to its end
    Full,
    /// It is restored into a scratch database of the server that --dsn names, and the rows of all tables are counted
    Restore,
    /// pg_amcheck looks at every table and B-tree index of that; needs its extension and a superuser
    Amcheck,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Checksum => "checksum",
            Level::Full => "full",
            Level::Restore => "restore",
            Level::Amcheck => "amcheck",
        }
    }

    /// Of one in a manifest; what is not known there is above all.
    fn covers(self, other: &str) -> bool {
        <Level as ValueEnum>::from_str(other, false).is_ok_and(|other| other <= self)
    }
}

row! {
    VerifiedRow {
        backup: String,
        database: String,
        level: String,
        bytes: i64,
        /// Whose rows were counted; None: none were.
        tables: Option<i64>,
        rows: Option<i64>,
        took_s: f64,
        result: String,
    }
}

/// What restoring has shown.
#[derive(Default)]
struct Counts {
    tables: Option<i64>,
    rows: Option<i64>,
}

/// A verification under way.
struct Verifying<'a> {
    job: &'a Job,
    options: &'a VerifyOptions,
    store: &'a Store,
    manifest: &'a Manifest,
    /// For a scratch database; None: the level needs none.
    server: Option<Server>,
    /// The level that it is at, which finds the fault if there is one.
    reached: Cell<Level>,
}

pub(crate) async fn verify(job: &Job, options: &VerifyOptions) -> Done {
    let store = Store::open(&options.place).await?;
    let needs_server = options.level >= Level::Restore;
    let target = &options.target;
    if needs_server && target.dsn.is_none() && target.database.is_none() {
        return Err(Failure::usage(format!("--level {} needs a server for a scratch database", options.level.name()))
            .hint("name one by --dsn, best one that serves nobody"));
    }
    let manifest = store.find(&options.backup, options.of.as_deref()).await?;
    let server = if needs_server { Some(job.connect(target, Limits::NONE).await?) } else { None };
    let reached = Cell::new(Level::Checksum);
    let verifying = Verifying { job, options, store: &store, manifest: &manifest, server, reached };
    let begun = Instant::now();
    let counts = match verifying.run().await {
        Ok(counts) => counts,
        Err(failure) => {
            // A program that was ended says what one says that has failed.
            if failure.exit == Exit::Unverified && !job.interrupt.is_requested() {
                verifying.note(verifying.reached.get(), false).await?;
            }
            return Err(failure);
        }
    };
    verifying.note(options.level, true).await?;
    job.out.one(&VerifiedRow {
        backup: manifest.id.clone(),
        database: manifest.database.clone(),
        level: options.level.name().to_owned(),
        bytes: i64::try_from(manifest.bytes).unwrap_or(i64::MAX),
        tables: counts.tables,
        rows: counts.rows,
        took_s: begun.elapsed().as_secs_f64(),
        result: "good".to_owned(),
    })?;
    Ok(Exit::Fine)
}

impl Verifying<'_> {
    async fn run(&self) -> Result<Counts, Failure> {
        let Verifying { job, options, store, manifest, server, reached } = self;
        check_all(job, store, manifest).await?;
        if options.level == Level::Checksum {
            return Ok(Counts::default());
        }
        let version = server.as_ref().map(|server| server.version);
        let dump = Archive::open(store, manifest, options.pg_bin.as_deref(), version).await?;
        reached.set(Level::Full);
        dump.read_whole(job, options.work_dir.as_deref()).await?;
        match server {
            Some(server) => self.restored(&dump, server).await,
            None => Ok(Counts::default()),
        }
    }

    /// In a scratch database, which is gone afterwards.
    async fn restored(&self, dump: &Archive<'_>, server: &Server) -> Result<Counts, Failure> {
        let (job, manifest) = (self.job, self.manifest);
        if !databases::may_create(server).await? {
            return Err(Failure::refused(format!("{} may not make databases", server.conninfo.user))
                .hint("name a user with CREATEDB by --dsn"));
        }
        let facts = facts(server, manifest).await?;
        let scratch = Scratch::make(job, server, &manifest.id, facts.as_ref()).await?;
        job.say(format!("restoring into {}", scratch.name));
        self.reached.set(Level::Restore);
        let done = self.in_scratch(dump, server, &scratch.name).await;
        scratch.remove().await?;
        done
    }

    async fn in_scratch(&self, dump: &Archive<'_>, server: &Server, name: &str) -> Result<Counts, Failure> {
        let Verifying { job, options, manifest, .. } = self;
        let scratch = job.connect_to(&server.here().with_dbname(name), Limits::NONE).await?;
        // Who owns what is nothing that a backup could have wrong, and roles may be missing here.
        let how = How {
            jobs: options.jobs,
            no_owner: true,
            no_privileges: true,
            work_dir: options.work_dir.clone(),
            ..How::default()
        };
        let loaded = dump.load(job, &scratch, &how, None, std::future::pending()).await;
        loaded.map_err(|failure| unrestorable(manifest, failure))?;
        let compared = compare(job, &scratch, manifest, &Selection::default()).await?;
        if let [first, ..] = &compared.differences[..] {
            job.out.rows(&compared.differences, "")?;
            let (tables, table) = (compared.differences.len(), format!("{}.{}", first.schema, first.table));
            return Err(Failure::unverified(format!(
                "{}: {tables} tables do not have the rows that the manifest says, {table} the first",
                manifest.id
            )));
        }
        smoke(job, &scratch, None).await?;
        if options.level == Level::Amcheck {
            self.amcheck(&scratch).await?;
        }
        let tables = compared.tables.and_then(|tables| i64::try_from(tables).ok());
        Ok(Counts { tables, rows: tables.map(|_| compared.rows) })
    }

    async fn amcheck(&self, scratch: &Server) -> Result<(), Failure> {
        /// Its exit status when it has found something.
        const CORRUPT: i32 = 2;
        let Verifying { job, options, manifest, .. } = self;
        self.reached.set(Level::Amcheck);
        // So that what is missing is told before, and is not taken for damage.
        scratch.batch("create extension if not exists amcheck with schema pg_catalog").await.map_err(|failure| {
            failure.while_at("amcheck").hint("it takes the extension amcheck on the server, and a superuser to make it")
        })?;
        let program = programs::find("pg_amcheck", scratch.version.major(), options.pg_bin.as_deref()).await?;
        let passfile = Passfile::create(&scratch.conninfo)
            .map_err(|e| Failure::failed(format!("could not write a password file: {e}")))?;
        // Its database is that of the environment: an argument would be a pattern.
        let mut command = programs::command(&program.path, job, scratch, passfile.as_ref());
        command.args(["--install-missing", "--jobs", &options.jobs.to_string()]);
        let progress = job.progress("pg_amcheck", Counted::Things("tables"), None);
        // It reads nothing.
        let mut input = Input::Path(PathBuf::new());
        let watch = std::future::pending();
        let (status, said) = loading::run_partly(job, "pg_amcheck", command, &mut input, &progress, watch).await?;
        match status.code() {
            Some(0) => Ok(()),
            Some(CORRUPT) => Err(Failure::unverified(format!("{}: pg_amcheck: {}", manifest.id, said.trim_end()))),
            _ => Err(loading::failed("pg_amcheck", status, &said)),
        }
    }

    /// Writes down what was found. What a lower level finds good says nothing of what a higher one has found broken.
    async fn note(&self, level: Level, is_good: bool) -> Result<(), Failure> {
        let now = Verified { level: level.name().to_owned(), at: Timestamp::now() };
        let change = |manifest: &mut Manifest| {
            if !is_good {
                manifest.verified = None;
                manifest.failed = Some(now.clone());
                return;
            }
            if manifest.failed.as_ref().is_some_and(|failed| level.covers(&failed.level)) {
                manifest.failed = None;
            }
            if manifest.failed.is_none() {
                manifest.verified = Some(now.clone());
            }
        };
        self.store.change(&self.manifest.id, change).await.map(|_| ())
    }
}

/// That the server refuses the dump is the dump's fault; that it is full, or gone, is not.
fn unrestorable(manifest: &Manifest, failure: Failure) -> Failure {
    const NOT_ITS_FAULT: [&str; 6] = [
        "No space left on device",
        "permission denied",
        "must be superuser",
        "server closed the connection",
        "could not connect",
        "is not available",
    ];
    let is_its_fault = failure.exit == Exit::Failed && !NOT_ITS_FAULT.iter().any(|text| failure.message.contains(text));
    let exit = if is_its_fault { Exit::Unverified } else { failure.exit };
    Failure { exit, ..failure }.while_at(format!("{} could not be restored", manifest.id))
}

/// The backup that is to be restored. `latest` is the newest that nobody has found broken; where there are backups of several
/// databases it is one of `database`, or else of the database that is `named` elsewhere.
pub(crate) async fn usable(
    job: &Job,
    store: &Store,
    which: &str,
    database: Option<&str>,
    named: &str,
) -> Result<Manifest, Failure> {
    if which != LATEST {
        let manifest = store.find(which, database).await?;
        if let Some(Verified { level, at }) = &manifest.failed {
            job.warn(format!("{which} was found broken at {at} (level {level})"));
        }
        return Ok(manifest);
    }
    let listing = store.listing().await?;
    super::list::warn_of_others(job, &listing.unreadable);
    let databases: BTreeSet<&str> = listing.backups.iter().map(|manifest| manifest.database.as_str()).collect();
    let database = match database {
        None if databases.len() > 1 && databases.contains(named) => Some(named),
        None if databases.len() > 1 => {
            let several = databases.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Failure::usage(format!("there are backups of several databases: {several}"))
                .hint("--of says the latest of which"));
        }
        database => database,
    };
    let is_of = |manifest: &Manifest| database.is_none_or(|database| manifest.database == database);
    for manifest in listing.backups.into_iter().filter(is_of) {
        match &manifest.failed {
            None => return Ok(manifest),
            Some(Verified { at, .. }) => {
                job.warn(format!("{} was found broken at {at}, an older one is taken", manifest.id))
            }
        }
    }
    let of = database.map(|database| format!(" of {database}")).unwrap_or_default();
    Err(Failure::usage(format!("there is no backup{of} in {store} that could be restored")))
}
