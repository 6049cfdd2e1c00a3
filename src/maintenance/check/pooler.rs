//! The pooler's own waits.

use super::catalogue::Subject;
use super::finding::Status;
use crate::maintenance::console::{Console, Need, Shown};
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::options::Target;

/// A figure of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Waiting,
    MaxWait,
    AverageWait,
    AverageQuery,
}

const MICROS: f64 = 1e-6;

impl Figure {
    fn show(self) -> &'static str {
        match self {
            Figure::Waiting | Figure::MaxWait => "POOLS",
            Figure::AverageWait | Figure::AverageQuery => "STATS",
        }
    }

    fn value(self, row: &Shown) -> Option<f64> {
        match self {
            Figure::Waiting => row.number("cl_waiting"),
            Figure::MaxWait => Some(row.number("maxwait")? + row.number("maxwait_us").unwrap_or(0.0) * MICROS),
            Figure::AverageWait => row.number("avg_wait_time").map(|micros| micros * MICROS),
            Figure::AverageQuery => row.number("avg_query_time").map(|micros| micros * MICROS),
        }
    }
}

pub(super) async fn subjects(job: &Job, target: &Target, figure: Figure) -> Result<Vec<Subject>, Failure> {
    let mut subjects = Vec::new();
    for console in Console::connect_all(job, target, Need::Figures).await? {
        for row in console.show(figure.show()).await? {
            let database = row.text("database").to_owned();
            // The console's own.
            if database == pgweir_config::CONSOLE_DATABASE {
                continue;
            }
            let user = row.text("user");
            let subject = if user.is_empty() { database } else { format!("{database}/{user}") };
            let value = figure.value(&row);
            subjects.push(Subject { subject, value, note: String::new(), at_least: Status::Ok });
        }
    }
    Ok(subjects)
}
