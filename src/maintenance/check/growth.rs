//! How much a database grows in a day, from sizes kept between runs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::catalogue::Subject;
use super::finding::Status;
use crate::maintenance::exit::Failure;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::{Size, span_text};
use crate::process::kept;

const DAY_SECS: f64 = 86_400.0;

/// Of sizes measured more often than this, one is kept.
const BETWEEN_SECS: f64 = 600.0;
const KEPT_SECS: f64 = 8.0 * DAY_SECS;

/// Sizes by cluster and database, oldest first.
type Kept = BTreeMap<String, Vec<Sample>>;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    /// Seconds since 1970, by the server's clock.
    at: f64,
    bytes: f64,
}

row! {
    Now {
        key: String,
        at: f64,
        bytes: f64,
    }
}

pub(super) async fn subjects(server: &Server, file: Option<&Path>) -> Result<Vec<Subject>, Failure> {
    let default = kept::default_dir().map(|dir| dir.join("growth.json"));
    let file = file.or(default.as_deref()).ok_or_else(|| {
        Failure::usage("growth needs a file to keep sizes in").hint("name one by --state: there is no HOME")
    })?;
    let now: Now = server.one(NOW, &[]).await?;
    let at = |e: &dyn std::fmt::Display| Failure::failed(format!("{}: {e}", file.display()));
    let mut kept: Kept = match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| at(&e))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Kept::new(),
        Err(e) => return Err(at(&e)),
    };
    let samples = kept.entry(now.key).or_default();
    let sample = Sample { at: now.at, bytes: now.bytes };
    let subject = measured(samples, sample);
    keep(samples, sample);
    let text = serde_json::to_vec(&kept).map_err(|e| at(&e))?;
    kept::write_whole(file, &text).map_err(|e| at(&e))?;
    Ok(subject.into_iter().collect())
}

/// Against the size of a day ago, or the oldest known if none is as old: never more than it has really grown. None: there is
/// nothing to compare with.
fn measured(samples: &[Sample], now: Sample) -> Option<Subject> {
    let is_day_old = |sample: &&Sample| now.at - sample.at >= DAY_SECS;
    let past = samples.iter().rev().find(is_day_old).or(samples.first()).filter(|past| past.at < now.at)?;
    let days = ((now.at - past.at) / DAY_SECS).max(1.0);
    let percent = (past.bytes > 0.0).then(|| 100.0 * (now.bytes - past.bytes) / past.bytes / days);
    let note = format!(
        "{} now, {} {} ago",
        Size(now.bytes as u64),
        Size(past.bytes as u64),
        span_text((now.at - past.at).round())
    );
    Some(Subject { subject: String::new(), value: percent, note, at_least: Status::Ok })
}

fn keep(samples: &mut Vec<Sample>, now: Sample) {
    samples.retain(|sample| now.at - sample.at < KEPT_SECS && sample.at < now.at);
    if samples.last().is_none_or(|last| now.at - last.at >= BETWEEN_SECS) {
        samples.push(now);
    }
}

const NOW: &str = "
    select (select system_identifier from pg_control_system()) || '/' || current_database() as key,
           extract(epoch from clock_timestamp())::float8 as at, pg_database_size(current_database())::float8 as bytes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_of_a_day() {
        let sample = |days: f64, bytes: f64| Sample { at: days * DAY_SECS, bytes };
        let percent = |samples: &[Sample], now| measured(samples, now).and_then(|subject| subject.value);
        assert_eq!(percent(&[], sample(1.0, 100.0)), None);
        // Not extrapolated.
        assert_eq!(percent(&[sample(1.0, 100.0)], sample(1.1, 103.0)), Some(3.0));
        let two = [sample(0.0, 50.0), sample(1.0, 100.0), sample(1.9, 190.0)];
        assert_eq!(percent(&two, sample(2.0, 110.0)), Some(10.0));
        // Several days without a run.
        assert_eq!(percent(&[sample(0.0, 100.0)], sample(4.0, 140.0)), Some(10.0));
        assert_eq!(percent(&[sample(0.0, 100.0)], sample(1.0, 90.0)), Some(-10.0));
    }

    #[test]
    fn few_sizes_are_kept() {
        let mut samples = Vec::new();
        for minute in 0..20_000 {
            keep(&mut samples, Sample { at: f64::from(minute) * 60.0, bytes: 1.0 });
        }
        assert!(samples.len() <= 8 * 144, "{}", samples.len());
        assert!(samples.windows(2).all(|pair| pair[1].at - pair[0].at >= BETWEEN_SECS));
    }
}
