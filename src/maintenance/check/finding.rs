//! What a check has found.

use super::catalogue::{Check, Subject};
use super::threshold::Threshold;
use crate::maintenance::rows::row;

/// In the order of what matters more when one code has to stand for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Ok,
    /// It could not be looked at.
    Unknown,
    Warning,
    Critical,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Critical => "critical",
            Status::Unknown => "unknown",
        }
    }

    /// Nagios' and Prometheus' number.
    pub(super) fn number(self) -> u8 {
        match self {
            Status::Ok => 0,
            Status::Warning => 1,
            Status::Critical => 2,
            Status::Unknown => 3,
        }
    }
}

pub(super) struct Finding {
    pub(super) check: &'static Check,
    pub(super) threshold: Threshold,
    pub(super) status: Status,
    /// A table, a process; empty: the check has one value only.
    pub(super) subject: String,
    /// None: there is nothing to measure, or it is not known.
    pub(super) value: Option<f64>,
    pub(super) message: String,
}

/// Of many subjects that are past a threshold, so many are told.
const TOLD: usize = 10;

impl Finding {
    /// The worst subjects past a threshold, or the worst alone if none is.
    pub(super) fn all(check: &'static Check, threshold: Threshold, mut subjects: Vec<Subject>) -> Vec<Finding> {
        if subjects.is_empty() {
            let message = check.nothing.to_owned();
            let status = Status::Ok;
            return vec![Finding { check, threshold, status, subject: String::new(), value: None, message }];
        }
        let badness = |subject: &Subject| match subject.value {
            Some(value) if threshold.is_lower_worse() => -value,
            Some(value) => value,
            None => f64::INFINITY,
        };
        subjects.sort_by(|a, b| badness(b).total_cmp(&badness(a)));
        let past = subjects.iter().take_while(|subject| status(threshold, subject) != Status::Ok).count();
        let mut findings: Vec<Finding> = subjects
            .into_iter()
            .take(past.clamp(1, TOLD))
            .map(|subject| {
                let status = status(threshold, &subject);
                let Subject { subject, value, note, .. } = subject;
                let message = match value {
                    Some(value) if note.is_empty() => check.unit.show(value),
                    Some(value) => format!("{}, {note}", check.unit.show(value)),
                    None => note,
                };
                Finding { check, threshold, status, subject, value, message }
            })
            .collect();
        if past > TOLD
            && let Some(last) = findings.last_mut()
        {
            last.message += &format!(" (and {} more)", past - TOLD);
        }
        findings
    }

    pub(super) fn unknown(check: &'static Check, threshold: Threshold, message: String) -> Finding {
        Finding { check, threshold, status: Status::Unknown, subject: String::new(), value: None, message }
    }

    pub(super) fn row(&self) -> FindingRow {
        FindingRow {
            check: self.check.name.to_owned(),
            status: self.status.name().to_owned(),
            subject: self.subject.clone(),
            value: self.value,
            unit: self.check.unit.name().to_owned(),
            warning: self.threshold.warning,
            critical: self.threshold.critical,
            message: self.message.clone(),
        }
    }

    pub(super) fn shown(&self) -> ShownFinding {
        let show = |value| self.check.unit.show(value);
        ShownFinding {
            status: match self.status {
                Status::Ok => "ok".to_owned(),
                status => status.name().to_uppercase(),
            },
            check: self.check.name.to_owned(),
            subject: self.subject.clone(),
            found: self.message.clone(),
            warning: show(self.threshold.warning),
            critical: show(self.threshold.critical),
        }
    }
}

/// A condition of the server's may be worse than the figure: a lost slot.
fn status(threshold: Threshold, subject: &Subject) -> Status {
    match subject.value {
        Some(value) => threshold.status(value).max(subject.at_least),
        None => Status::Unknown.max(subject.at_least),
    }
}

row! {
    /// For programs.
    FindingRow {
        check: String,
        status: String,
        subject: String,
        value: Option<f64>,
        unit: String,
        warning: f64,
        critical: f64,
        message: String,
    }
}

row! {
    /// For people.
    ShownFinding {
        status: String,
        check: String,
        subject: String,
        found: String,
        warning: String,
        critical: String,
    }
}
