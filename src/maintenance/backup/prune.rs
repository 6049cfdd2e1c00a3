//! `pgweir backup prune`: which backups go, and their removal.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::list::warn_of_others;
use super::manifest::Manifest;
use super::store::{Leftover, Listing, Place, Store};
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::options::{Changing, Show};
use crate::maintenance::rows::Columns;
use crate::maintenance::units::Span;

const DAY_SECS: f64 = 86_400.0;

#[derive(Args, Clone, Debug)]
pub(crate) struct PruneOptions {
    #[command(flatten)]
    rule: Rule,
    /// Backups of this database only [default: of all]
    #[arg(long, value_name = "NAME")]
    of: Option<String>,
    /// Remove what is left of a backup that did not end, if nothing of it was written for this time
    #[arg(long, value_name = "TIME", default_value = "1h")]
    leftovers_after: Span,
    #[command(flatten)]
    place: Place,
    /// Remove; without it, only say what would be removed
    #[arg(long, short, help_heading = "Safety")]
    yes: bool,
    /// Only say what would be removed, also with --yes
    #[arg(long, help_heading = "Safety")]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// What is kept: whatever one of the two keeps.
#[derive(Args, Clone, Copy, Debug)]
#[group(required = true, multiple = true)]
struct Rule {
    /// Keep backups that ended in the last N days
    #[arg(long, value_name = "N")]
    keep_days: Option<u32>,
    /// Keep the newest N backups of each database
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
}

impl PruneOptions {
    /// Dry unless it is said otherwise.
    pub(crate) fn changing(&self) -> Changing {
        Changing { dry_run: self.dry_run || !self.yes, yes: self.yes }
    }
}

/// What becomes of a backup.
#[derive(Clone, Debug, Serialize)]
struct PruneRow {
    id: String,
    /// None: of a leftover nobody knows.
    database: Option<String>,
    /// None: it did not end.
    finished_at: Option<String>,
    bytes: u64,
    /// `keep`, `remove` in a dry run, `removed`, `failed`
    action: &'static str,
    reason: String,
}

impl Columns for PruneRow {
    const COLUMNS: &'static [&'static str] = &["id", "database", "finished_at", "bytes", "action", "reason"];
}

pub(crate) async fn prune(job: &Job, options: &PruneOptions) -> Done {
    let store = Store::open(&options.place).await?;
    let mut listing = job.interrupt.or(store.listing()).await??;
    warn_of_others(job, &listing.unreadable);
    if let Some(database) = &options.of {
        listing.backups.retain(|manifest| manifest.database == *database);
    }
    let mut rows = plan(&listing, options, Timestamp::now());
    let mut removed = 0;
    let mut failed = 0;
    for row in rows.iter_mut().filter(|row| row.action == "remove" && !job.is_dry_run()) {
        match job.interrupt.or(store.delete(&row.id)).await? {
            Ok(()) => {
                row.action = "removed";
                removed += 1;
            }
            Err(failure) => {
                failed += 1;
                job.warn(format!("{}: {}", row.id, failure.message));
                (row.action, row.reason) = ("failed", failure.message);
            }
        }
    }
    job.out.rows(&rows, &format!("There are no backups in {store}."))?;
    if job.is_dry_run() && rows.iter().any(|row| row.action == "remove") {
        job.say("nothing was removed; --yes removes them");
    }
    match (failed, removed) {
        (0, _) => Ok(Exit::Fine),
        (_, 0) => Err(Failure::failed(format!("{failed} could not be removed"))),
        _ => Ok(Exit::Partly),
    }
}

/// Newest first, then what is left of others.
fn plan(listing: &Listing, options: &PruneOptions, now: Timestamp) -> Vec<PruneRow> {
    let verified = last_verified(&listing.backups);
    let mut ranks: BTreeMap<&str, u32> = BTreeMap::new();
    let mut rows = Vec::new();
    for manifest in &listing.backups {
        // One that a verification has found broken stands in for no other.
        let rank = manifest.failed.is_none().then(|| {
            let rank = ranks.entry(&manifest.database).or_default();
            *rank += 1;
            *rank
        });
        let kept = kept(manifest, rank, options.rule, now)
            .or_else(|| verified.contains(manifest.id.as_str()).then(|| "the last one verified".to_owned()));
        let (action, reason) = match kept {
            Some(reason) => ("keep", reason),
            None => ("remove", String::new()),
        };
        rows.push(PruneRow {
            id: manifest.id.clone(),
            database: Some(manifest.database.clone()),
            finished_at: Some(manifest.finished_at.to_string()),
            bytes: manifest.bytes,
            action,
            reason,
        });
    }
    rows.extend(listing.leftovers.iter().map(|leftover| leftover_row(leftover, options.leftovers_after, now)));
    rows
}

/// Why a backup is kept, the `rank`th newest of its database; None: it is broken.
fn kept(manifest: &Manifest, rank: Option<u32>, rule: Rule, now: Timestamp) -> Option<String> {
    let age_days = now.duration_since(manifest.finished_at).as_secs_f64() / DAY_SECS;
    if manifest.held {
        return Some("held".to_owned());
    }
    if let (Some(rank), Some(last)) = (rank, rule.keep_last)
        && rank <= last
    {
        return Some(format!("number {rank} of its database"));
    }
    if rule.keep_days.is_some_and(|days| age_days < f64::from(days)) {
        return Some(format!("{age_days:.1} days old"));
    }
    // However old it is: there is no other.
    (rank == Some(1)).then(|| "the newest of its database".to_owned())
}

/// Of each database.
fn last_verified(backups: &[Manifest]) -> BTreeSet<&str> {
    let mut databases = BTreeSet::new();
    let verified = backups.iter().filter(|manifest| manifest.verified.is_some() && manifest.failed.is_none());
    verified.filter(|manifest| databases.insert(&manifest.database)).map(|manifest| manifest.id.as_str()).collect()
}

fn leftover_row(leftover: &Leftover, after: Span, now: Timestamp) -> PruneRow {
    let age = now.duration_since(leftover.written_at).as_secs_f64();
    let (action, reason) = if age >= after.secs() {
        ("remove", "did not end".to_owned())
    } else {
        ("keep", "did not end, or is being made: see --leftovers-after".to_owned())
    };
    PruneRow { id: leftover.id.clone(), database: None, finished_at: None, bytes: leftover.bytes, action, reason }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::maintenance::backup::manifest::Verified;
    use crate::maintenance::backup::manifest::tests::sample;

    /// What is removed of backups that ended on these days of November 2026, newest first, seen on the 30th at noon.
    fn removed(backups: Vec<Manifest>, keep_days: Option<u32>, keep_last: Option<u32>) -> Vec<String> {
        let listing = Listing { backups, ..Listing::default() };
        let options = PruneOptions {
            rule: Rule { keep_days, keep_last },
            of: None,
            leftovers_after: Span(Duration::from_secs(3600)),
            place: Place {
                to: String::new(),
                #[cfg(feature = "s3")]
                s3: s3_options(),
            },
            yes: true,
            dry_run: false,
            show: Show::default(),
        };
        let rows = plan(&listing, &options, "2026-11-30T12:00:00Z".parse().unwrap());
        rows.into_iter().filter(|row| row.action == "remove").map(|row| row.id).collect()
    }

    #[cfg(feature = "s3")]
    fn s3_options() -> crate::maintenance::backup::store::S3Options {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            s3: crate::maintenance::backup::store::S3Options,
        }
        <Only as clap::Parser>::parse_from([""]).s3
    }

    fn on(database: &str, day: u32) -> Manifest {
        sample(database, &format!("2026-11-{day:02}T00:00:00Z"))
    }

    #[test]
    fn what_one_rule_keeps_stays() {
        let all = || vec![on("a", 29), on("b", 20), on("a", 15), on("a", 5), on("a", 1)];
        let ids = |days: &[u32]| days.iter().map(|day| on("a", *day).id).collect::<Vec<_>>();
        assert_eq!(removed(all(), Some(20), None), ids(&[5, 1]));
        assert_eq!(removed(all(), None, Some(2)), ids(&[5, 1]));
        assert_eq!(removed(all(), Some(26), Some(2)), ids(&[1]));
        assert_eq!(removed(all(), Some(40), Some(0)), ids(&[]));
        // The newest of each database, whatever is said.
        assert_eq!(removed(all(), Some(0), Some(0)), ids(&[15, 5, 1]));
    }

    #[test]
    fn held_and_last_verified_ones_stay() {
        let verified = Verified { level: "full".to_owned(), at: Timestamp::UNIX_EPOCH };
        let with = |day, held, is_verified: bool| Manifest {
            held,
            verified: is_verified.then(|| verified.clone()),
            ..on("a", day)
        };
        let all = vec![with(29, false, false), with(10, false, true), with(9, false, true), with(8, true, false)];
        assert_eq!(removed(all, Some(1), None), [on("a", 9).id]);
    }

    #[test]
    fn broken_ones_count_for_no_other() {
        let broken = |day| {
            let failed = Some(Verified { level: "full".to_owned(), at: Timestamp::UNIX_EPOCH });
            Manifest { failed: failed.clone(), verified: failed, ..on("a", day) }
        };
        let all = || vec![broken(29), on("a", 20), on("a", 10)];
        assert_eq!(removed(all(), None, Some(1)), [on("a", 29).id, on("a", 10).id]);
        assert_eq!(removed(all(), Some(5), None), [on("a", 10).id]);
    }

    #[test]
    fn leftovers_stay_as_long_as_they_may_be_at_work() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let leftover = |written_at| Leftover { id: "x".to_owned(), bytes: 1, written_at };
        let hour = Span(Duration::from_secs(3600));
        let action = |at: &str| leftover_row(&leftover(at.parse().unwrap()), hour, now).action;
        assert_eq!([action("2026-11-30T11:30:00Z"), action("2026-11-30T10:30:00Z")], ["keep", "remove"]);
    }
}
