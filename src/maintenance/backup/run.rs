//! `pgweir backup run`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::dump::{Destination, checksum_of_all};
use super::list::BackupRow;
#[cfg(feature = "s3")]
use super::manifest::Encryption;
use super::manifest::{DumpFormat, DumpOptions, File, Manifest, Upload, new_id};
use super::snapshot::{BEGIN, EXPORT, Snapshot};
use super::store::{Draft, Place, Store};
use crate::maintenance::conninfo::child::Passfile;
use crate::maintenance::databases::Facts;
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::lock::JobLock;
use crate::maintenance::options::{Changing, Limits, Show, Target};
use crate::maintenance::programs::{Program, command, find};
use crate::maintenance::progress::Counted;
use crate::maintenance::server::Server;
use crate::maintenance::units::Size;

const GLOBALS: &str = "globals.sql";

/// Jobs of the directory format where nothing is said.
const JOBS: u32 = 4;

#[derive(Args, Clone, Debug)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    dump: Dump,
    #[command(flatten)]
    place: Place,
    #[cfg(feature = "s3")]
    #[command(flatten)]
    upload: UploadOptions,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    pub(crate) show: Show,
    /// Print what would be done, and do nothing
    #[arg(long, help_heading = "Safety")]
    dry_run: bool,
}

/// What is dumped, and how.
#[derive(Args, Clone, Debug)]
struct Dump {
    /// Form of the dump
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = DumpFormat::Custom)]
    format: DumpFormat,
    /// Tables that are dumped at once, each by a connection of its own; directory format only [default: 4]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=128))]
    jobs: Option<u32>,
    /// Dump rows as INSERT statements, which other databases read, too; plain format only
    #[arg(long)]
    inserts: bool,
    /// Dump definitions and no rows
    #[arg(long)]
    schema_only: bool,
    /// Dump only tables that fit this pattern of pg_dump's, as app.log_* or '"Odd Name"'; may be given several times
    #[arg(long, value_name = "PATTERN")]
    table: Vec<String>,
    /// Leave out tables that fit this pattern; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude_table: Vec<String>,
    /// Compression as pg_dump takes it: 0 to 9, and from version 16 on gzip:9, lz4, zstd:3; not for plain format [default:
    /// pg_dump's]
    #[arg(long, value_name = "LEVEL")]
    compress: Option<String>,
    /// Dump roles and tablespaces of the server, too, by pg_dumpall; roles without their passwords unless the user is a superuser
    #[arg(long)]
    globals: bool,
    /// Dump roles without their passwords in any case
    #[arg(long, requires = "globals")]
    no_role_passwords: bool,
    /// Do not count the rows of the tables, so that a restored copy cannot be compared
    #[arg(long)]
    no_counts: bool,
    /// Directory with pg_dump and pg_dumpall [default: PATH and where packages put them; not older than the server]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}

/// How S3 keeps it.
#[cfg(feature = "s3")]
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Storage")]
struct UploadOptions {
    /// Storage class in S3, as STANDARD_IA or GLACIER_IR [default: the bucket's]
    #[arg(long, value_name = "CLASS")]
    storage_class: Option<String>,
    /// Encryption by S3 [default: the bucket's]
    #[arg(long, value_name = "KIND", value_enum)]
    sse: Option<Encryption>,
    /// Key of --sse kms [default: the account's for S3]
    #[arg(long, value_name = "KEY", requires = "sse")]
    kms_key: Option<String>,
}

impl RunOptions {
    /// Nothing is destroyed, so nothing is asked.
    pub(crate) fn changing(&self) -> Changing {
        Changing { dry_run: self.dry_run, yes: true }
    }

    fn dump_options(&self) -> DumpOptions {
        DumpOptions {
            schema_only: self.dump.schema_only,
            tables: self.dump.table.clone(),
            excluded: self.dump.exclude_table.clone(),
            inserts: self.dump.inserts,
            compress: self.dump.compress.clone(),
        }
    }

    /// None: it is not kept in S3.
    #[cfg(feature = "s3")]
    fn upload(&self, store: &Store) -> Result<Option<Upload>, Failure> {
        let UploadOptions { storage_class, sse, kms_key } = self.upload.clone();
        let is_asked = storage_class.is_some() || sse.is_some();
        match store {
            Store::S3(_) if kms_key.is_some() && sse != Some(Encryption::Kms) => {
                Err(Failure::usage("--kms-key is for --sse kms"))
            }
            Store::S3(_) => Ok(Some(Upload { storage_class, sse, kms_key })),
            Store::Local(_) if is_asked => Err(Failure::usage("--storage-class and --sse are for s3://")),
            Store::Local(_) => Ok(None),
        }
    }

    #[cfg(not(feature = "s3"))]
    fn upload(&self, _store: &Store) -> Result<Option<Upload>, Failure> {
        Ok(None)
    }

    fn check(&self, store: &Store) -> Result<(), Failure> {
        let Dump { format, jobs, inserts, compress, .. } = &self.dump;
        let wrong = match format {
            DumpFormat::Directory if store.path("", "").is_none() => {
                "--format directory cannot be streamed into S3: pg_dump writes its files itself; take custom, which is restored by several jobs, too"
            }
            DumpFormat::Custom | DumpFormat::Plain if jobs.is_some() => "--jobs is for --format directory",
            DumpFormat::Custom | DumpFormat::Directory if *inserts => "--inserts is for --format plain",
            DumpFormat::Plain if compress.is_some() => "--compress is not for --format plain",
            _ => return Ok(()),
        };
        Err(Failure::usage(wrong))
    }

    /// pg_dump's arguments; a password is in none of them.
    fn arguments(&self, snapshot: &str, dir: Option<PathBuf>) -> Vec<OsString> {
        let Dump { format, jobs, inserts, schema_only, table, exclude_table, compress, .. } = &self.dump;
        let letter = match format {
            DumpFormat::Custom => "custom",
            DumpFormat::Directory => "directory",
            DumpFormat::Plain => "plain",
        };
        let mut arguments =
            vec![format!("--format={letter}"), format!("--snapshot={snapshot}"), "--no-password".to_owned()];
        let flags = [(*inserts, "--inserts"), (*schema_only, "--schema-only")];
        arguments.extend(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| (*flag).to_owned()));
        arguments.extend(table.iter().map(|pattern| format!("--table={pattern}")));
        arguments.extend(exclude_table.iter().map(|pattern| format!("--exclude-table={pattern}")));
        arguments.extend(compress.iter().map(|level| format!("--compress={level}")));
        let lock_timeout = self.limits.lock_timeout.millis();
        if lock_timeout > 0 {
            arguments.push(format!("--lock-wait-timeout={lock_timeout}"));
        }
        if *format == DumpFormat::Directory {
            arguments.push(format!("--jobs={}", jobs.unwrap_or(JOBS)));
        }
        let file = dir.map(|dir| {
            let mut file = OsString::from("--file=");
            file.push(dir);
            file
        });
        arguments.into_iter().map(OsString::from).chain(file).collect()
    }
}

/// What a backup is made with.
struct Making<'a> {
    job: &'a Job,
    options: &'a RunOptions,
    store: Store,
    upload: Option<Upload>,
    server: Server,
    pg_dump: Program,
    /// None: globals are not wanted.
    pg_dumpall: Option<Program>,
    passfile: Option<Passfile>,
}

/// Makes a backup, and prints what has become of it.
pub(crate) async fn run(job: &Job, options: &RunOptions) -> Done {
    let store = Store::open(&options.place).await?;
    options.check(&store)?;
    let upload = options.upload(&store)?;
    let server = job.connect(&options.target, options.limits).await?;
    let major = server.version.major();
    let bin = options.dump.pg_bin.as_deref();
    let pg_dump = find("pg_dump", major, bin).await?;
    let pg_dumpall = if options.dump.globals { Some(find("pg_dumpall", major, bin).await?) } else { None };
    let passfile = Passfile::create(&server.conninfo)
        .map_err(|e| Failure::failed(format!("could not write a password file for pg_dump: {e}")))?;
    let lock = JobLock::take(job, &server).await?;
    let making = Making { job, options, store, upload, server, pg_dump, pg_dumpall, passfile };
    if job.is_dry_run() {
        return making.plan();
    }
    let manifest = making.make(lock.as_ref()).await?;
    job.out.one(&BackupRow::from(manifest))?;
    Ok(Exit::Fine)
}

/// Manifests have whole seconds.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

impl Making<'_> {
    fn plan(&self) -> Done {
        let Making { job, options, store, server, pg_dump, pg_dumpall, .. } = self;
        let id = new_id(&server.conninfo.dbname, now());
        let shown = |program: &Program, arguments: &[OsString]| {
            let words: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
            format!("{} {}", program.path.display(), words.join(" "))
        };
        let data = options.dump.format.data();
        let dir = self.dump_dir(&id);
        let to = if dir.is_some() { String::new() } else { format!(" > {store}/{id}/{data}") };
        job.step(&format!("a transaction of our own: {BEGIN}; {EXPORT}"))?;
        job.step(&format!("{}{to}", shown(pg_dump, &options.arguments("SNAPSHOT", dir))))?;
        if let Some(program) = pg_dumpall {
            job.step(&format!("{} --globals-only > {store}/{id}/{GLOBALS}", program.path.display()))?;
        }
        if !options.dump.no_counts && !options.dump.schema_only {
            job.step("count the rows of every table that is dumped, in the same snapshot")?;
        }
        job.step(&format!("write the manifest {store}/{id}/manifest.json"))?;
        Ok(Exit::Fine)
    }

    /// Where pg_dump itself writes; None: to us.
    fn dump_dir(&self, id: &str) -> Option<PathBuf> {
        let format = self.options.dump.format;
        (format == DumpFormat::Directory).then(|| self.store.path(id, format.data())).flatten()
    }

    /// A backup from its beginning to its manifest. What fails leaves nothing behind.
    async fn make(&self, lock: Option<&JobLock>) -> Result<Manifest, Failure> {
        let Making { job, options, store, upload, server, pg_dump, .. } = self;
        let started_at = now();
        let database = &server.conninfo.dbname;
        let size: Option<i64> = server.value("select pg_database_size(current_database())", &[]).await.ok();
        let size = size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let dump_options = options.dump_options();
        let snapshot = Snapshot::take(server, &dump_options).await?;
        let draft = job.interrupt.or(store.begin(&new_id(database, started_at), upload.as_ref())).await??;
        let id = draft.id().to_owned();
        let removed = (store.clone(), id.clone());
        let undo = job.cleanup.later(format!("remove the unfinished backup {id} from {store}"), async move {
            removed.0.delete(&removed.1).await
        });
        job.say(format!("dumping {database} ({} on disk) by pg_dump {} to {store}/{id}", Size(size), pg_dump.version));
        let mut files = self.dump(&draft, &snapshot.name, size).await?;
        let data: Vec<&File> = files.iter().collect();
        let sha256 = checksum_of_all(&data);
        files.extend(self.globals(&draft).await?);
        let is_counted = !options.dump.no_counts;
        let rows = if is_counted { Some(snapshot.count(job).await?) } else { None };
        snapshot.end().await?;
        if let Some(lock) = lock {
            lock.check().await?;
        }
        let manifest = Manifest {
            manifest_version: Manifest::VERSION,
            id,
            database: database.clone(),
            server_version: server.version.to_string(),
            server_version_num: server.version.0,
            pg_dump_version: pg_dump.version.to_string(),
            format: options.dump.format,
            options: dump_options,
            started_at,
            finished_at: now(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            sha256,
            globals: self.pg_dumpall.as_ref().map(|_| GLOBALS.to_owned()),
            files,
            rows,
            upload: upload.clone(),
            verified: None,
            failed: None,
            made_with: Facts::of(server, database).await?,
            held: false,
        };
        job.interrupt.or(store.finish(&manifest)).await??;
        undo.dismiss();
        Ok(manifest)
    }

    fn command(&self, program: &Program) -> tokio::process::Command {
        command(&program.path, self.job, &self.server, self.passfile.as_ref())
    }

    async fn dump(&self, draft: &Draft, snapshot: &str, size: u64) -> Result<Vec<File>, Failure> {
        let format = self.options.dump.format;
        let dir = self.dump_dir(draft.id());
        let mut command = self.command(&self.pg_dump);
        command.args(self.options.arguments(snapshot, dir));
        // Only plain SQL is about as large as the database.
        let total = (format == DumpFormat::Plain && !self.options.dump.schema_only && size > 0).then_some(size);
        let progress = self.job.progress("pg_dump", Counted::Bytes, total);
        let to = Destination { job: self.job, draft, progress: &progress, expected: size };
        match format {
            DumpFormat::Directory => to.directory(command, &self.store, format.data()).await,
            DumpFormat::Custom | DumpFormat::Plain => Ok(vec![to.stream(command, format.data()).await?]),
        }
    }

    async fn globals(&self, draft: &Draft) -> Result<Option<File>, Failure> {
        let Some(program) = &self.pg_dumpall else { return Ok(None) };
        let is_superuser: bool = self.server.value("select current_setting('is_superuser')::bool", &[]).await?;
        let mut command = self.command(program);
        // It would take a name with an equals sign for a connection string.
        let dbname = self.server.conninfo.dbname.replace('\\', "\\\\").replace('\'', "\\'");
        command.args(["--globals-only", "--no-password"]).arg(format!("--database=dbname='{dbname}'"));
        if self.options.dump.no_role_passwords || !is_superuser {
            command.arg("--no-role-passwords");
        }
        let progress = self.job.progress("pg_dumpall", Counted::Bytes, None);
        let to = Destination { job: self.job, draft, progress: &progress, expected: 0 };
        to.stream(command, GLOBALS).await.map(Some)
    }
}
