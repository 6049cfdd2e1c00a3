//! Two values at which something becomes a warning and critical.

use std::collections::BTreeMap;

use super::catalogue::{CHECKS, Check};
use super::finding::Status;
use crate::maintenance::exit::Failure;
use crate::maintenance::units::{Percent, Size, Span};

/// What a check's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Percent,
    Bytes,
    Seconds,
    Count,
}

impl Unit {
    fn parse(self, text: &str) -> Option<f64> {
        match self {
            Unit::Percent => text.parse::<Percent>().ok().map(|percent| percent.0),
            Unit::Bytes => text.parse::<Size>().ok().map(|size| size.0 as f64),
            Unit::Seconds => text.parse::<Span>().ok().map(Span::secs),
            Unit::Count => text.trim().parse::<u32>().ok().map(f64::from),
        }
    }

    pub(super) fn show(self, value: f64) -> String {
        match self {
            Unit::Percent => Percent(value).to_string(),
            Unit::Bytes => Size(value.max(0.0) as u64).to_string(),
            Unit::Seconds => crate::maintenance::units::span_text(value),
            Unit::Count => format!("{value:.0}"),
        }
    }

    /// As Prometheus calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Unit::Percent => "percent",
            Unit::Bytes => "bytes",
            Unit::Seconds => "seconds",
            Unit::Count => "count",
        }
    }

    /// As Nagios writes it behind a value.
    pub(super) fn nagios(self) -> &'static str {
        match self {
            Unit::Percent => "%",
            Unit::Bytes => "B",
            Unit::Seconds => "s",
            Unit::Count => "",
        }
    }
}

/// At which values to worry; `warning` below `critical` where more is worse, above it where less is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(super) warning: f64,
    pub(super) critical: f64,
}

impl Threshold {
    pub(super) fn is_lower_worse(self) -> bool {
        self.warning > self.critical
    }

    pub(super) fn status(self, value: f64) -> Status {
        let is_past = |limit: f64| if self.is_lower_worse() { value < limit } else { value >= limit };
        match (is_past(self.critical), is_past(self.warning)) {
            (true, _) => Status::Critical,
            (false, true) => Status::Warning,
            (false, false) => Status::Ok,
        }
    }
}

/// What `--threshold` says.
pub(super) struct Overrides(BTreeMap<&'static str, Threshold>);

impl Overrides {
    pub(super) fn parse(texts: &[String]) -> Result<Overrides, Failure> {
        let parsed = texts.iter().map(|text| parse(text)).collect::<Result<_, _>>();
        parsed.map(Overrides).map_err(Failure::usage)
    }

    pub(super) fn of(&self, check: &Check) -> Threshold {
        self.0.get(check.name).copied().unwrap_or(check.threshold)
    }
}

fn parse(text: &str) -> Result<(&'static str, Threshold), String> {
    let wanted = || format!("--threshold {text}: expected NAME=WARNING,CRITICAL");
    let (name, values) = text.split_once('=').ok_or_else(wanted)?;
    let check = CHECKS.iter().find(|check| check.name == name);
    let check = check.ok_or_else(|| format!("--threshold {text}: there is no check \"{name}\""))?;
    let (warning, critical) = values.split_once(',').ok_or_else(wanted)?;
    let value = |text: &str| {
        check
            .unit
            .parse(text)
            .ok_or_else(|| format!("--threshold {name}: \"{text}\" is no value in {}", check.unit.name()))
    };
    let threshold = Threshold { warning: value(warning)?, critical: value(critical)? };
    let is_reversed =
        threshold.warning != threshold.critical && threshold.is_lower_worse() != check.threshold.is_lower_worse();
    if is_reversed {
        let order = if check.threshold.is_lower_worse() { "above" } else { "below" };
        return Err(format!("--threshold {text}: the warning must be {order} the critical value"));
    }
    Ok((check.name, threshold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_thresholds_say() {
        let (name, threshold) = parse("long-queries=1m,5m").unwrap();
        assert_eq!((name, threshold), ("long-queries", Threshold { warning: 60.0, critical: 300.0 }));
        for (value, status) in [(59.0, Status::Ok), (60.0, Status::Warning), (300.0, Status::Critical)] {
            assert_eq!(threshold.status(value), status);
        }
        let (_, cache) = parse("cache=99%,95").unwrap();
        for (value, status) in [(99.0, Status::Ok), (98.9, Status::Warning), (94.0, Status::Critical)] {
            assert_eq!(cache.status(value), status);
        }
        for text in ["cache", "cache=1", "none=1,2", "cache=95,99", "cache=x,y", "connections=90,70", "growth=-1,5"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
