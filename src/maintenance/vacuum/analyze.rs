//! `pgweir analyze`: the planner's statistics.

use std::cmp::Reverse;
use std::collections::HashSet;

use clap::Args;

use super::work::{self, Ended, Outcome, Plan, Task};
use super::{refuse_standby, warn_forbidden};
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::lock::JobLock;
use crate::maintenance::options::{Changing, Limits, Show, Target};
use crate::maintenance::relations::{Relation, named, relations};
use crate::maintenance::rows::row;
use crate::maintenance::units::Percent;

#[derive(Args, Clone, Debug)]
pub(crate) struct AnalyzeOptions {
    /// Tables to analyze, as NAME, SCHEMA.NAME or '"Odd.Name"', where * and ? stand for other characters; of a partitioned table its
    /// partitions, too [default: all but the system's and foreign ones]
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
    /// Only tables of whose rows more than this share has changed since the last ANALYZE, or that never had one, 0 to 100
    #[arg(long, value_name = "PERCENT")]
    stale_pct: Option<Percent>,
    /// Tables at a time, each in a session of its own, 1 to 64
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// How often a table is tried again, after the others, when its lock is not to be had within --lock-timeout
    #[arg(long, value_name = "N", default_value_t = 3)]
    lock_retries: u32,
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
    /// What has become of a table.
    AnalyzeRow {
        table: String,
        /// done, not permitted, failed and why, not begun and why.
        result: String,
        /// Since the ANALYZE before; of a partitioned table in its partitions.
        changed_rows: i64,
        /// Live ones as they were counted or estimated before.
        rows: i64,
        took_s: Option<f64>,
    }
}

pub(crate) async fn analyze(job: &Job, options: &AnalyzeOptions) -> Done {
    let server = job.connect(&options.target, options.limits).await?;
    refuse_standby(job, &server).await?;
    let lock = JobLock::take(job, &server).await?;
    let chosen = chosen(&relations(&server, None).await?, options)?;
    if chosen.is_empty() {
        job.out.rows::<AnalyzeRow>(&[], "Nothing to analyze: no table has changed as much.")?;
        return Ok(Exit::Fine);
    }
    let (permitted, forbidden): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|table| table.is_permitted);
    forbidden.iter().for_each(|table| warn_forbidden(job, &server, &table.shown()));
    let tasks: Vec<Task> = permitted.into_iter().map(task).collect();
    let plan = Plan {
        jobs: usize::from(options.jobs),
        limits: options.limits,
        retries: options.lock_retries,
        settings: Vec::new(),
        opening: None,
        is_full: false,
    };
    let mut ended = work::run(job, &server, lock.as_ref(), &plan, vec![tasks]).await?;
    ended.extend(forbidden.into_iter().map(|table| Ended::without(table, Outcome::Forbidden)));
    if !job.is_dry_run() {
        let rows: Vec<AnalyzeRow> = ended.iter().map(analyze_row).collect();
        job.out.rows(&rows, "")?;
    }
    work::exit(job, &ended)
}

fn task(relation: Relation) -> Task {
    let why = if relation.is_analyzed { "" } else { ", never analyzed" };
    let why = format!("{} of {} rows changed{why}", relation.changed, relation.live);
    Task { why, statements: vec![format!("ANALYZE {}", relation.sql())], relation, attempts: 0 }
}

fn analyze_row(ended: &Ended) -> AnalyzeRow {
    let Ended { before, outcome, took_s, .. } = ended;
    AnalyzeRow {
        table: before.shown(),
        result: outcome.text(),
        changed_rows: before.changed,
        rows: before.live,
        took_s: *took_s,
    }
}

/// Those that have changed most first. The statistics of a partitioned table include those of its partitions, which are left out
/// then.
fn chosen(all: &[Relation], options: &AnalyzeOptions) -> Result<Vec<Relation>, Failure> {
    let considered: Vec<&Relation> = match options.tables.is_empty() {
        true => all.iter().filter(|table| !table.is_system && table.kind != "f").collect(),
        false => named(all, &options.tables)?,
    };
    let oids: HashSet<u32> = considered.iter().map(|table| table.oid).collect();
    let mut wanted: Vec<Relation> = match options.stale_pct {
        None => considered.into_iter().cloned().collect(),
        Some(Percent(pct)) => {
            let with_parts = all.iter().filter(|table| oids.contains(&table.oid) || table.is_part_of(&oids));
            with_parts.filter(|table| is_stale(all, table, pct)).cloned().collect()
        }
    };
    let roots: HashSet<u32> = wanted.iter().filter(|table| table.is_partitioned()).map(|table| table.oid).collect();
    wanted.retain(|table| !table.is_part_of(&roots));
    for table in &mut wanted {
        (table.changed, table.live, table.total_bytes) = sums(all, table);
    }
    wanted.sort_by_key(|table| Reverse(table.changed));
    Ok(wanted)
}

/// One without rows has nothing to say unless something was done to it.
fn is_stale(all: &[Relation], table: &Relation, pct: f64) -> bool {
    let (changed, live, _) = sums(all, table);
    let is_new = !table.is_analyzed && changed.max(live) > 0;
    is_new || 100.0 * changed as f64 > pct * live as f64
}

/// Changed and live rows and bytes, of a partitioned table in its partitions.
fn sums(all: &[Relation], table: &Relation) -> (i64, i64, i64) {
    let parts = all.iter().filter(|part| part.ancestors.contains(&table.oid) && !part.is_partitioned());
    let own = (table.changed, table.live, table.total_bytes);
    if !table.is_partitioned() {
        return own;
    }
    parts.fold((0, 0, 0), |(changed, live, bytes), part| {
        (changed + part.changed, live + part.live, bytes + part.total_bytes)
    })
}
