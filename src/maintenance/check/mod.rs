//! `pgweir check`: what an operator should know of, each against two thresholds.

mod backups;
mod catalogue;
mod database;
mod finding;
mod format;
mod growth;
mod pooler;
mod threshold;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(crate) use catalogue::help;
use catalogue::{CHECKS, Check, Subject};
use finding::{Finding, Status};
use threshold::Overrides;

use super::backup::store::Place;
#[cfg(feature = "s3")]
use super::backup::store::S3Options;
use super::exit::{Done, Exit, Failure};
use super::job::Job;
use super::options::{Limits, Show, Target};
use super::output;
use super::server::Server;
use crate::process::kept;

/// What `--output` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    /// For people
    #[default]
    Table,
    /// An array of objects
    Json,
    /// With a line of names
    Csv,
    /// A line of status with performance data, and the exit codes of a plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
    Nagios,
    /// Metrics in Prometheus' text format
    Prometheus,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CheckOptions {
    /// Checks to make, or groups of them: see the list below [default: all that can be made]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Check to leave out; may be given several times
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// Thresholds of a check in its unit, as long-queries=30s,2m or cache=99,95; may be given several times
    #[arg(long = "threshold", value_name = "NAME=WARNING,CRITICAL")]
    thresholds: Vec<String>,
    /// Dead rows below which a table is not looked at by dead-tuples
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    min_dead: u32,
    /// File in which sizes are kept between runs, for growth [default: pgweir/growth.json in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Where the result goes instead of stdout, written whole and then put in place, as node_exporter wants it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where this database's backups are, a directory or s3://BUCKET/PREFIX: for the check backups
    #[arg(long, value_name = "DIR_OR_S3_URL")]
    backups: Option<String>,
    #[cfg(feature = "s3")]
    #[command(flatten)]
    s3: S3Options,
    /// How to print the result
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = CheckFormat::Table)]
    output: CheckFormat,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    limits: Limits,
}

impl CheckOptions {
    fn place(&self) -> Result<Place, Failure> {
        let missing = || Failure::usage("nothing says where the backups are").hint("name the place by --backups");
        Ok(Place {
            to: self.backups.clone().ok_or_else(missing)?,
            #[cfg(feature = "s3")]
            s3: self.s3.clone(),
        })
    }

    pub(crate) fn show(&self) -> Show {
        Show { output: output::Format::Table, quiet: self.quiet }
    }
}

/// A plugin tells everything on stdout, and that it could not look at anything is UNKNOWN.
pub(crate) async fn check(job: &Job, options: &CheckOptions) -> Done {
    let done = checked(job, options).await;
    match done {
        Err(failure) if options.output == CheckFormat::Nagios => {
            output::print(&format::nagios_failure(&failure.message))?;
            Ok(Exit::Unreachable)
        }
        done => done,
    }
}

async fn checked(job: &Job, options: &CheckOptions) -> Done {
    let thresholds = Overrides::parse(&options.thresholds)?;
    let chosen = chosen(options)?;
    let server = job.connect(&options.target, options.limits).await?;
    server.warn_unless_monitor(job).await?;
    let mut findings = Vec::new();
    for check in &chosen {
        let threshold = thresholds.of(check);
        match measure(job, &server, options, check).await {
            Ok(subjects) => findings.extend(Finding::all(check, threshold, subjects)),
            // One that cannot be made is no reason not to make the others.
            Err(failure) if failure.exit == Exit::Unreachable && !check.is_pooler() => return Err(failure),
            Err(failure) => {
                job.interrupt.check()?;
                findings.push(Finding::unknown(check, threshold, failure.message));
            }
        }
    }
    let text = format::text(options.output, &findings, &server.conninfo.dbname)?;
    match &options.file {
        Some(file) => kept::write_whole(file, text.as_bytes())
            .map_err(|e| Failure::failed(format!("could not write {}: {e}", file.display())))?,
        None => output::print(&text)?,
    }
    let worst = findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok);
    Ok(exit(worst, options.output))
}

/// That something is not known is worth a look; a plugin has a code for it.
fn exit(worst: Status, output: CheckFormat) -> Exit {
    match worst {
        Status::Ok => Exit::Fine,
        Status::Warning => Exit::Warning,
        Status::Critical => Exit::Failed,
        Status::Unknown if output == CheckFormat::Nagios => Exit::Unreachable,
        Status::Unknown => Exit::Warning,
    }
}

/// Those that were named, or all; those of the pooler only where it is known.
fn chosen(options: &CheckOptions) -> Result<Vec<&'static Check>, Failure> {
    let known = |name: &String| CHECKS.iter().any(|check| check.answers_to(name));
    if let Some(name) = options.names.iter().chain(&options.skip).find(|name| !known(name)) {
        return Err(Failure::usage(format!("there is no check \"{name}\"")).hint("pgweir check --help lists them"));
    }
    let has_pooler = options.target.config.is_some() || options.target.console.is_some();
    let is_named = |check: &Check| options.names.iter().any(|name| check.answers_to(name));
    let is_skipped = |check: &Check| options.skip.iter().any(|name| check.answers_to(name));
    let is_wanted = |check: &&Check| match options.names.is_empty() {
        true => {
            let has_backups = options.backups.is_some();
            (has_pooler || !check.is_pooler()) && (has_backups || !matches!(check.source, catalogue::Source::Backups))
        }
        false => is_named(check),
    };
    Ok(CHECKS.iter().filter(is_wanted).filter(|check| !is_skipped(check)).collect())
}

async fn measure(job: &Job, server: &Server, options: &CheckOptions, check: &Check) -> Result<Vec<Subject>, Failure> {
    match check.source {
        catalogue::Source::Query(sql) => database::subjects(server, sql, i64::from(options.min_dead)).await,
        catalogue::Source::Sequences => database::sequences(server).await,
        catalogue::Source::Growth => growth::subjects(server, options.state.as_deref()).await,
        catalogue::Source::Backups => backups::subjects(&options.place()?, &server.conninfo.dbname).await,
        catalogue::Source::Pooler(figure) => pooler::subjects(job, &options.target, figure).await,
    }
}
