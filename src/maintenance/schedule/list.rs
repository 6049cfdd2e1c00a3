//! `pgweir schedule list`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::{Configured, Parse, problems};
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::options::Show;
use crate::maintenance::output::{self, Format, Output};
use crate::maintenance::rows::Columns;
use crate::process::kept;
use crate::schedule::status::{Status, statuses};

/// What `--output` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// For people
    #[default]
    Table,
    /// An array of objects
    Json,
    /// With a line of names
    Csv,
    /// Metrics in Prometheus' text format
    Prometheus,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListOptions {
    /// How to print the result
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ListFormat::Table)]
    output: ListFormat,
    /// Where the result goes instead of stdout, written whole and then put in place, as node_exporter wants it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    configured: Configured,
}

impl ListOptions {
    pub(crate) fn show(&self) -> Show {
        Show { output: Format::Table, quiet: self.quiet }
    }
}

/// One job. Times are in UTC.
#[derive(Clone, Debug, serde::Serialize)]
struct JobRow {
    name: String,
    /// running, never, or how it ended: ok, warning, failed, deadline, interrupted, killed.
    state: &'static str,
    next_at: Option<String>,
    due_at: Option<String>,
    started_at: Option<String>,
    finished_at: Option<String>,
    duration_s: Option<f64>,
    late_s: Option<f64>,
    exit_code: Option<i32>,
    message: Option<String>,
    /// Since the job is known.
    missed: u64,
    missed_at: Option<String>,
    missed_why: Option<String>,
    schedule: String,
    command: String,
}

impl Columns for JobRow {
    const COLUMNS: &'static [&'static str] = &[
        "name",
        "state",
        "next_at",
        "due_at",
        "started_at",
        "finished_at",
        "duration_s",
        "late_s",
        "exit_code",
        "message",
        "missed",
        "missed_at",
        "missed_why",
        "schedule",
        "command",
    ];
}

/// What people want of it.
#[derive(Clone, Debug, serde::Serialize)]
struct ShownRow {
    name: String,
    schedule: String,
    next: Option<String>,
    state: &'static str,
    started: Option<String>,
    duration_s: Option<f64>,
    exit: Option<i32>,
    message: Option<String>,
    missed: u64,
}

impl Columns for ShownRow {
    const COLUMNS: &'static [&'static str] =
        &["name", "schedule", "next", "state", "started", "duration_s", "exit", "message", "missed"];
}

pub(crate) async fn list(job: &Job, options: &ListOptions, parse: Parse) -> Done {
    let config = options.configured.load()?;
    problems(&config, parse).iter().for_each(|problem| job.warn(problem));
    let statuses = statuses(&config, Timestamp::now());
    let text = match options.output {
        ListFormat::Table => {
            let rows: Vec<ShownRow> = statuses.iter().map(shown).collect();
            Output::new(Format::Table).rows_text(&rows, "There are no jobs in [maintenance].")?
        }
        ListFormat::Json => Output::new(Format::Json).rows_text(&rows(&statuses), "")?,
        ListFormat::Csv => Output::new(Format::Csv).rows_text(&rows(&statuses), "")?,
        ListFormat::Prometheus => prometheus(&statuses),
    };
    match &options.file {
        Some(file) => kept::write_whole(file, text.as_bytes())
            .map_err(|e| Failure::failed(format!("could not write {}: {e}", file.display())))?,
        None => output::print(&text)?,
    }
    Ok(Exit::Fine)
}

fn rows(statuses: &[Status]) -> Vec<JobRow> {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let row = |status: &Status| {
        let begun = status.begun();
        // Of the run under way nothing more is known.
        let last = status.last.as_ref().filter(|_| status.running.is_none());
        JobRow {
            name: status.name.clone(),
            state: status.state(),
            next_at: time(status.next),
            due_at: time(begun.and_then(|begun| begun.due)),
            started_at: time(begun.map(|begun| begun.at)),
            finished_at: time(last.and_then(|last| last.at)),
            duration_s: last.and_then(|last| last.duration()).map(|duration| duration.as_secs_f64()),
            late_s: begun.and_then(|begun| begun.late()).map(|late| late.as_secs_f64()),
            exit_code: last.and_then(|last| last.exit_code),
            message: last.and_then(|last| last.message.clone()),
            missed: status.missed,
            missed_at: time(status.last_missed.as_ref().map(|missed| missed.due)),
            missed_why: status.last_missed.as_ref().map(|missed| missed.why.clone()),
            schedule: status.schedule.clone(),
            command: status.command.clone(),
        }
    };
    statuses.iter().map(row).collect()
}

/// Times in the machine's own zone.
fn shown(status: &Status) -> ShownRow {
    let zone = jiff::tz::TimeZone::system();
    let time = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let last = status.last.as_ref().filter(|_| status.running.is_none());
    ShownRow {
        name: status.name.clone(),
        schedule: status.schedule.clone(),
        next: status.next.map(time),
        state: status.state(),
        started: status.begun().map(|begun| time(begun.at)),
        duration_s: last.and_then(|last| last.duration()).map(|duration| duration.as_secs_f64()),
        exit: last.and_then(|last| last.exit_code),
        message: last.and_then(|last| last.message.clone()),
        missed: status.missed,
    }
}

/// A metric's name, its type, what it tells, and its value for a job, if it has one.
type Metric = (&'static str, &'static str, &'static str, fn(&Status) -> Option<f64>);

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

const METRICS: [Metric; 7] = [
    ("running", "gauge", "1 while the job runs.", |status| Some(f64::from(u8::from(status.running.is_some())))),
    ("last_failed", "gauge", "1 if the last run failed or did not end.", |status| {
        status.last.as_ref().map(|_| f64::from(u8::from(status.is_bad())))
    }),
    ("last_exit_code", "gauge", "Exit code of the last run.", |status| {
        Some(f64::from(status.last.as_ref()?.exit_code?))
    }),
    ("last_start_timestamp_seconds", "gauge", "When the last run began.", |status| Some(seconds(status.begun()?.at))),
    ("last_duration_seconds", "gauge", "How long the last run that ended took.", |status| {
        Some(status.last.as_ref()?.duration()?.as_secs_f64())
    }),
    ("next_timestamp_seconds", "gauge", "When the job is due next.", |status| Some(seconds(status.next?))),
    ("missed_total", "counter", "How many times the job was not run when it was due.", |status| {
        Some(status.missed as f64)
    }),
];

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
fn prometheus(statuses: &[Status]) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in METRICS {
        text += &format!("# HELP pgweir_schedule_{name} {help}\n# TYPE pgweir_schedule_{name} {kind}\n");
        for status in statuses {
            if let Some(value) = value(status) {
                // A job's name needs no escapes.
                text += &format!("pgweir_schedule_{name}{{job=\"{}\"}} {value}\n", status.name);
            }
        }
    }
    text
}
