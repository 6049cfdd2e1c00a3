//! `pgweir migrate run`: one file of SQL, such that nobody waits long for it.
//!
//! `script` cuts the file into statements, `kind` knows what they are, `plan` puts together what is done at once, `execute`
//! does it; `touched` knows which tables need ANALYZE, `dump` saves the schema before, `journal` what was run.

mod dump;
mod execute;
mod journal;
mod kind;
mod plan;
mod script;
mod touched;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};

use dump::Dump;
use execute::{Progress, Runner};
use plan::Unit;
use script::{Position, Unreadable};

use super::exit::{Done, Exit, Failure};
use super::job::Job;
use super::lock::JobLock;
use super::options::{Changing, Limits, Show, Target};
use super::rows::row;
use super::server::Server;
use super::units::Span;

/// Whose statistics are renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Analyze {
    /// The whole database's.
    All,
    /// Those of the tables whose rows, columns or indexes the file has changed.
    Touched,
    /// Nobody's
    None,
}

#[derive(Args, Clone, Debug)]
#[command(mut_arg("lock_timeout", |arg| arg.default_value("3s")), mut_arg("statement_timeout", |arg| arg.default_value("0")))]
pub(crate) struct MigrateOptions {
    /// File of SQL, in UTF-8. Commands of psql and COPY FROM STDIN are refused
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Run the file statement by statement, for CREATE INDEX CONCURRENTLY, VACUUM and the like, which no transaction may hold.
    /// Each other statement has a transaction of its own, and those between BEGIN and COMMIT have one together
    #[arg(long)]
    no_transaction: bool,
    /// How often to try again after a lock timeout, a deadlock or a serialization failure; never what ran outside of a
    /// transaction
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: u32,
    /// Wait before the first retry; twice as long before each further one, up to 30s, and randomly up to half less
    #[arg(long, value_name = "TIME", default_value = "1s")]
    retry_wait: Span,
    /// Whose statistics to renew afterwards
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Analyze::Touched)]
    analyze: Analyze,
    /// Directory for the backup of the schema that pg_dump makes before [default: pgweir/migrations in $XDG_STATE_HOME or
    /// ~/.local/state]
    #[arg(long, value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// Do not back up the schema before
    #[arg(long, conflicts_with = "backup_dir")]
    no_backup: bool,
    /// Directory of PostgreSQL's programs [default: found in PATH and where packages put them]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// With --dry-run: run the file all the same, in a transaction that is rolled back. Its locks are held meanwhile, and
    /// numbers taken from sequences stay taken
    #[arg(long = "try", requires = "dry_run", conflicts_with = "no_transaction")]
    trial: bool,
    /// File to which a line of JSON with the checksum and the result is added [default: pgweir/migrations.jsonl in
    /// $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) changing: Changing,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    pub(crate) show: Show,
}

row! {
    /// How it went.
    MigrationRow {
        file: String,
        /// Of the file's bytes.
        sha256: String,
        database: String,
        /// done, partly, failed, or rolled back as asked.
        outcome: String,
        statements: i64,
        statements_done: i64,
        /// Of the transaction that needed most.
        attempts: i64,
        duration_s: f64,
        backup: Option<String>,
        analyzed: Vec<String>,
        error: Option<String>,
    }
}

/// The file as it was read.
struct Read {
    /// As it was named.
    name: String,
    text: String,
    sha256: String,
}

pub(crate) async fn run(job: &Job, options: &MigrateOptions) -> Done {
    let read = Read::new(options)?;
    // What is wrong with the file, whatever the server's settings are, is told before anything is asked of the server.
    read.units(options, false).or_else(|failure| read.units(options, true).map_err(|_| failure))?;
    let conninfo = options.target.conninfo()?;
    let server = job.connect_as_user(&conninfo, options.limits).await?;
    job.say_connected(&server, options.limits);
    let plain_escapes = server.value::<String>("show standard_conforming_strings", &[]).await? == "off";
    let units = read.units(options, plain_escapes)?;
    let began = Timestamp::now();
    let dump = Dump::prepare(&server, options, began).await?;
    let lock = JobLock::take(job, &server).await?;
    if job.is_dry_run() {
        print_plan(job, &server, options, dump.as_ref(), &units).await?;
        if !options.trial {
            return Ok(Exit::Fine);
        }
    }
    let journal = journal::file(options.journal.as_deref());
    let address = server.address.to_string();
    let before = journal
        .as_ref()
        .and_then(|journal| journal::ran_before(journal, &address, &server.conninfo.dbname, &read.sha256));
    if let Some(at) = before {
        job.warn(format!("{} was run on this database before, at {at}", read.name));
    }
    confirm(job, &read, &units).await?;
    let backup = match &dump {
        Some(dump) if !job.is_dry_run() => Some(dump.make(job, &server, options).await?),
        _ => None,
    };
    let begun = Instant::now();
    let progress = execute(job, &server, options, &read, &units).await?;
    drop(lock);
    let mut row = read.row(&server, &units, &progress, backup, options);
    let analyzed = analyze(job, &server, options, &progress, &mut row).await;
    row.duration_s = begun.elapsed().as_secs_f64();
    if !job.is_dry_run() {
        note(job, journal, &address, &row);
    }
    job.out.one(&row)?;
    match progress.failure {
        Some(failure) => Err(failure),
        None => analyzed,
    }
}

impl Read {
    fn new(options: &MigrateOptions) -> Result<Read, Failure> {
        let name = options.file.display().to_string();
        let bytes = fs::read(&options.file).map_err(|e| Failure::usage(format!("{name}: {e}")))?;
        let hash = digest(&SHA256, &bytes);
        let sha256 = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8(bytes).map_err(|e| {
            let valid = e.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&e.as_bytes()[..valid]).into_owned();
            Failure::usage(format!("{name}:{}: not in UTF-8", Position::START.after(&before)))
        })?;
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Ok(Read { name, text, sha256 })
    }

    fn units(&self, options: &MigrateOptions, plain_escapes: bool) -> Result<Vec<Unit>, Failure> {
        let refused = |Unreadable { at, message }| Failure::refused(format!("{}:{at}: {message}", self.name));
        let statements = script::split(&self.text, plain_escapes).map_err(refused)?;
        if statements.is_empty() {
            return Err(Failure::usage(format!("there is no statement in {}", self.name)));
        }
        plan::units(statements, !options.no_transaction).map_err(refused)
    }

    fn row(
        &self,
        server: &Server,
        units: &[Unit],
        progress: &Progress,
        backup: Option<String>,
        options: &MigrateOptions,
    ) -> MigrationRow {
        let outcome = match &progress.failure {
            None if options.trial => "rolled back",
            None => "done",
            Some(failure) if failure.exit == Exit::Partly => "partly",
            Some(_) => "failed",
        };
        MigrationRow {
            file: self.name.clone(),
            sha256: self.sha256.clone(),
            database: server.conninfo.dbname.clone(),
            outcome: outcome.to_owned(),
            statements: units.iter().map(|unit| unit.statements().len() as i64).sum(),
            statements_done: progress.done as i64,
            attempts: i64::from(progress.attempts),
            duration_s: 0.0,
            backup,
            analyzed: Vec::new(),
            error: progress.failure.as_ref().map(|failure| failure.message.clone()),
        }
    }
}

/// What destroys rows is not done by an oversight.
async fn confirm(job: &Job, read: &Read, units: &[Unit]) -> Result<(), Failure> {
    let statements = units.iter().flat_map(Unit::statements);
    let destroying: Vec<_> = statements.filter(|statement| statement.destroys_data()).collect();
    let Some(first) = destroying.first() else { return Ok(()) };
    let more = match destroying.len() {
        1 => String::new(),
        many => format!(" and {} more", many - 1),
    };
    job.confirm(&format!("run what destroys data: {}:{}: {}{more}", read.name, first.at, first.summary()), "MIGRATE")
        .await
}

async fn print_plan(
    job: &Job,
    server: &Server,
    options: &MigrateOptions,
    dump: Option<&Dump>,
    units: &[Unit],
) -> Result<(), Failure> {
    if let Some(dump) = dump {
        job.step(&dump.line())?;
    }
    for unit in units {
        match unit {
            Unit::Alone(statement) => _ = job.change(server, &statement.text).await?,
            Unit::Transaction { begin, statements } => {
                job.change(server, Unit::begin_sql(begin.as_ref())).await?;
                for statement in statements {
                    job.change(server, &statement.text).await?;
                }
                job.change(server, "COMMIT").await?;
            }
        }
    }
    match options.analyze {
        Analyze::All => _ = job.change(server, "ANALYZE").await?,
        Analyze::Touched => _ = job.step("ANALYZE of each table that these have changed")?,
        Analyze::None => {}
    }
    Ok(())
}

async fn execute(
    job: &Job,
    server: &Server,
    options: &MigrateOptions,
    read: &Read,
    units: &[Unit],
) -> Result<Progress, Failure> {
    let watcher = job.connect_to(&server.here(), options.limits).await?;
    let runner = Runner {
        job,
        server,
        watcher: &watcher,
        file: &read.name,
        limits: options.limits,
        retries: options.retries,
        retry_wait: options.retry_wait,
        is_trial: options.trial,
    };
    let mut progress = runner.run(units).await;
    progress.failure = progress.failure.map(|failure| runner.outcome(failure, progress.done, units));
    Ok(progress)
}

/// The migration is done by now: that its statistics are not is worth a warning.
async fn analyze(
    job: &Job,
    server: &Server,
    options: &MigrateOptions,
    progress: &Progress,
    row: &mut MigrationRow,
) -> Done {
    if progress.done == 0 || job.is_dry_run() || job.interrupt.is_requested() {
        return Ok(Exit::Fine);
    }
    // The file may have left settings and roles behind in its own session.
    let fresh = job.connect_to(&server.here(), options.limits).await?;
    let is_all = match options.analyze {
        Analyze::None => true,
        Analyze::All => {
            job.change(&fresh, "ANALYZE").await?;
            row.analyzed = vec!["all".to_owned()];
            true
        }
        Analyze::Touched => {
            let tables = progress.touched.tables(&fresh).await?;
            let (done, is_all) = touched::analyze(job, &fresh, &tables).await?;
            row.analyzed = done;
            is_all
        }
    };
    Ok(if is_all { Exit::Fine } else { Exit::Warning })
}

fn note(job: &Job, journal: Option<PathBuf>, server: &str, row: &MigrationRow) {
    let Some(journal) = journal else {
        return job.warn("not noted in a journal: there is no home directory, and no --journal");
    };
    if let Err(e) = journal::note(&journal, server, Timestamp::now().to_string(), row) {
        job.warn(format!("could not add to the journal {}: {e}", journal.display()));
    }
}
