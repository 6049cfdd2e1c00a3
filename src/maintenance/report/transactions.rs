//! `report transactions`: what the databases do in a second, measured over some.

use std::collections::HashMap;

use clap::Args;
use tokio::time::Instant;

use super::Options;
use crate::maintenance::exit::{Done, Exit};
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;
use crate::maintenance::units::Span;

#[derive(Args, Clone, Debug)]
pub(crate) struct TransactionOptions {
    /// How long to measure, as 5s or 1m; longer than 0
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = longer_than_0)]
    pub(crate) interval: Span,
    #[command(flatten)]
    pub(crate) list: Options,
}

fn longer_than_0(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.0.is_zero() { Err("must be longer than 0".to_owned()) } else { Ok(span) }
}

row! {
    /// What a database has done since its statistics were reset.
    Counters {
        database: String,
        commits: i64,
        rollbacks: i64,
        deadlocks: i64,
        temp_bytes: i64,
    }
}

row! {
    /// The same per second.
    RateRow {
        database: String,
        commits_per_second: f64,
        rollbacks_per_second: f64,
        rollback_pct: Option<f64>,
        /// In the time measured.
        deadlocks: i64,
        temp_bytes: i64,
    }
}

pub(crate) async fn transactions(job: &Job, options: &TransactionOptions) -> Done {
    let reading = &options.list.reading;
    let server = job.connect(&reading.target, reading.limits).await?;
    let begun = Instant::now();
    let before: Vec<Counters> = server.rows(COUNTERS, &[]).await?;
    job.interrupt.sleep(options.interval.0).await?;
    let after: Vec<Counters> = server.rows(COUNTERS, &[]).await?;
    let mut rows = rates(before, after, begun.elapsed().as_secs_f64());
    if let Some(limit) = options.list.limit() {
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    job.out.rows(&rows, "There are no databases.")?;
    Ok(Exit::Fine)
}

/// The busiest first. One that is new, or whose statistics were reset meanwhile, is left out.
fn rates(before: Vec<Counters>, after: Vec<Counters>, secs: f64) -> Vec<RateRow> {
    let mut before: HashMap<String, Counters> =
        before.into_iter().map(|counters| (counters.database.clone(), counters)).collect();
    let mut rows: Vec<RateRow> = after
        .into_iter()
        .filter_map(|now| {
            let then = before.remove(&now.database)?;
            let (commits, rollbacks) = (now.commits - then.commits, now.rollbacks - then.rollbacks);
            let all = commits + rollbacks;
            (commits >= 0 && rollbacks >= 0).then(|| RateRow {
                database: now.database,
                commits_per_second: per_second(commits, secs),
                rollbacks_per_second: per_second(rollbacks, secs),
                rollback_pct: (all > 0).then(|| 100.0 * rollbacks as f64 / all as f64),
                deadlocks: now.deadlocks - then.deadlocks,
                temp_bytes: now.temp_bytes - then.temp_bytes,
            })
        })
        .collect();
    rows.sort_by(|a, b| b.commits_per_second.total_cmp(&a.commits_per_second).then(a.database.cmp(&b.database)));
    rows
}

/// To a tenth.
fn per_second(number: i64, secs: f64) -> f64 {
    (10.0 * number as f64 / secs).round() / 10.0
}

const COUNTERS: &str = "
    select datname::text as database, xact_commit as commits, xact_rollback as rollbacks, deadlocks, temp_bytes
    from pg_stat_database where datname is not null";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_leave_out_what_was_reset() {
        let counters = |database: &str, commits, rollbacks| Counters {
            database: database.to_owned(),
            commits,
            rollbacks,
            deadlocks: 0,
            temp_bytes: 0,
        };
        let before = vec![counters("a", 10, 0), counters("reset", 100, 0), counters("b", 0, 0)];
        let after = vec![counters("a", 14, 1), counters("reset", 3, 0), counters("b", 30, 0), counters("new", 9, 9)];
        let rows = rates(before, after, 2.0);
        let shown: Vec<_> = rows.iter().map(|r| (r.database.as_str(), r.commits_per_second, r.rollback_pct)).collect();
        assert_eq!(shown, [("b", 15.0, Some(0.0)), ("a", 2.0, Some(20.0))]);
    }
}
