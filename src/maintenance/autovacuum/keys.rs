//! The settings that a table may have of its own, by which autovacuum deals with it.

use crate::maintenance::exit::Failure;
use crate::maintenance::server::Version;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Values {
    Bool,
    Int(i64, i64),
    Float(f64, f64),
    OneOf(&'static [&'static str]),
}

#[derive(Debug, PartialEq)]
pub(super) struct Key {
    /// The storage parameter of tables.
    pub(super) name: &'static str,
    /// The server's setting that counts without it.
    pub(super) server_setting: &'static str,
    values: Values,
    about: &'static str,
    /// Whether TOAST tables have it.
    has_toast: bool,
    /// The first version that knows it.
    since: i32,
}

const INT_MAX: i64 = i32::MAX as i64;

const fn key(name: &'static str, server_setting: &'static str, values: Values, about: &'static str) -> Key {
    Key { name, server_setting, values, about, has_toast: true, since: 14 }
}

pub(super) const KEYS: [Key; 19] = [
    key("autovacuum_enabled", "autovacuum", Values::Bool, "whether it is looked after, but for wraparound"),
    key(
        "autovacuum_vacuum_threshold",
        "autovacuum_vacuum_threshold",
        Values::Int(0, INT_MAX),
        "dead rows before a VACUUM, to which the scale factor's share is added",
    ),
    key(
        "autovacuum_vacuum_scale_factor",
        "autovacuum_vacuum_scale_factor",
        Values::Float(0.0, 100.0),
        "share of the table's rows, 0.2 for 20 %",
    ),
    Key {
        since: 18,
        ..key(
            "autovacuum_vacuum_max_threshold",
            "autovacuum_vacuum_max_threshold",
            Values::Int(-1, INT_MAX),
            "dead rows with which it comes at the latest; -1: no such limit",
        )
    },
    key(
        "autovacuum_vacuum_insert_threshold",
        "autovacuum_vacuum_insert_threshold",
        Values::Int(-1, INT_MAX),
        "the same for inserted rows; -1: they do not count",
    ),
    key(
        "autovacuum_vacuum_insert_scale_factor",
        "autovacuum_vacuum_insert_scale_factor",
        Values::Float(0.0, 100.0),
        "share of the table's rows",
    ),
    Key {
        has_toast: false,
        ..key(
            "autovacuum_analyze_threshold",
            "autovacuum_analyze_threshold",
            Values::Int(0, INT_MAX),
            "changed rows before an ANALYZE",
        )
    },
    Key {
        has_toast: false,
        ..key(
            "autovacuum_analyze_scale_factor",
            "autovacuum_analyze_scale_factor",
            Values::Float(0.0, 100.0),
            "share of the table's rows",
        )
    },
    key(
        "autovacuum_vacuum_cost_delay",
        "autovacuum_vacuum_cost_delay",
        Values::Float(0.0, 100.0),
        "milliseconds of rest whenever the cost limit is used up: smaller is faster; 0: no rest",
    ),
    key(
        "autovacuum_vacuum_cost_limit",
        "autovacuum_vacuum_cost_limit",
        Values::Int(1, 10_000),
        "work between two rests: larger is faster",
    ),
    key("autovacuum_freeze_min_age", "vacuum_freeze_min_age", Values::Int(0, 1_000_000_000), "transactions"),
    key(
        "autovacuum_freeze_max_age",
        "autovacuum_freeze_max_age",
        Values::Int(100_000, 2_000_000_000),
        "transactions after which a VACUUM against wraparound comes; more than the server's has no effect",
    ),
    key("autovacuum_freeze_table_age", "vacuum_freeze_table_age", Values::Int(0, 2_000_000_000), "transactions"),
    key(
        "autovacuum_multixact_freeze_min_age",
        "vacuum_multixact_freeze_min_age",
        Values::Int(0, 1_000_000_000),
        "multixacts",
    ),
    key(
        "autovacuum_multixact_freeze_max_age",
        "autovacuum_multixact_freeze_max_age",
        Values::Int(10_000, 2_000_000_000),
        "multixacts; more than the server's has no effect",
    ),
    key(
        "autovacuum_multixact_freeze_table_age",
        "vacuum_multixact_freeze_table_age",
        Values::Int(0, 2_000_000_000),
        "multixacts",
    ),
    key(
        "log_autovacuum_min_duration",
        "log_autovacuum_min_duration",
        Values::Int(-1, INT_MAX),
        "milliseconds from which it is logged; -1: never",
    ),
    key(
        "vacuum_index_cleanup",
        "",
        Values::OneOf(&["auto", "on", "off"]),
        "whether dead entries of indexes are removed",
    ),
    key(
        "vacuum_truncate",
        "vacuum_truncate",
        Values::Bool,
        "whether empty pages at the end are given back, under a short exclusive lock",
    ),
];

impl Values {
    /// The value as it is written into SQL, or what would be one.
    fn check(self, text: &str) -> Result<String, String> {
        match self {
            Values::Bool => {
                let is_on = ["on", "true", "yes", "1"].contains(&text);
                let is_off = ["off", "false", "no", "0"].contains(&text);
                if is_on || is_off {
                    Ok(if is_on { "on" } else { "off" }.to_owned())
                } else {
                    Err("on or off".to_owned())
                }
            }
            Values::Int(least, most) => {
                let number = text.parse().ok().filter(|n: &i64| (least..=most).contains(n));
                number.map(|n| n.to_string()).ok_or_else(|| format!("a whole number from {least} to {most}"))
            }
            Values::Float(least, most) => {
                let number = text.parse().ok().filter(|n: &f64| (least..=most).contains(n));
                number.map(|n| n.to_string()).ok_or_else(|| format!("a number from {least} to {most}"))
            }
            Values::OneOf(words) => {
                let word = words.iter().find(|word| **word == text);
                word.map(|word| (*word).to_owned()).ok_or_else(|| words.join(", "))
            }
        }
    }
}

/// One setting of a table.
#[derive(Debug, PartialEq)]
pub(super) struct Assignment {
    pub(super) key: &'static Key,
    /// Of its TOAST table.
    pub(super) is_toast: bool,
    /// None: the server's is to count.
    pub(super) value: Option<String>,
}

impl Assignment {
    /// As ALTER TABLE has it.
    pub(super) fn name(&self) -> String {
        format!("{}{}", if self.is_toast { TOAST } else { "" }, self.key.name)
    }

    /// Of `key=value`; the value `default` resets it.
    pub(super) fn parse(text: &str) -> Result<Assignment, Failure> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("{text} is no setting")).hint("write it as key=value"))?;
        let value = value.trim();
        Assignment::of(name.trim(), (value != "default").then_some(value))
    }

    pub(super) fn of(name: &str, value: Option<&str>) -> Result<Assignment, Failure> {
        let (is_toast, bare) = name.strip_prefix(TOAST).map_or((false, name), |bare| (true, bare));
        let key = find(bare).filter(|key| !is_toast || key.has_toast).ok_or_else(|| {
            Failure::usage(format!("tables have no setting {name} for autovacuum"))
                .hint("pgweir autovacuum set --help lists them")
        })?;
        let checked = value.map(|value| {
            let wanted = |wanted| Failure::usage(format!("{name}={value}: expected {wanted}, or default"));
            key.values.check(value).map_err(wanted)
        });
        Ok(Assignment { key, is_toast, value: checked.transpose()? })
    }

    pub(super) fn check_version(&self, version: Version) -> Result<(), Failure> {
        if version.major() < self.key.since {
            return Err(Failure::usage(format!("PostgreSQL {version} has no {} yet", self.key.name))
                .hint(format!("{} is the first that has", self.key.since)));
        }
        Ok(())
    }
}

const TOAST: &str = "toast.";

/// By its whole name, or without autovacuum_ in front.
fn find(name: &str) -> Option<&'static Key> {
    let is_it = |key: &&Key| key.name == name || key.name.strip_prefix("autovacuum_") == Some(name);
    KEYS.iter().find(is_it)
}

/// The list for `--help`.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Settings, also without autovacuum_ in front; with toast. in front they are of the TOAST table:\n",
    );
    for Key { name, values, about, since, .. } in &KEYS {
        let values = match values {
            Values::Bool => "on, off".to_owned(),
            Values::Int(least, most) => format!("{least} to {most}"),
            Values::Float(least, most) => format!("{least} to {most}, also fractions"),
            Values::OneOf(words) => words.join(", "),
        };
        let since = if *since > 14 { format!("; from PostgreSQL {since} on") } else { String::new() };
        text += &format!("  {name}\n      {values}: {about}{since}\n");
    }
    text + "The value default takes a setting away, so that the server's counts.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments() {
        for (text, name, value) in [
            ("vacuum_threshold=1000", "autovacuum_vacuum_threshold", Some("1000")),
            ("autovacuum_vacuum_scale_factor = 0.01", "autovacuum_vacuum_scale_factor", Some("0.01")),
            ("toast.enabled=false", "toast.autovacuum_enabled", Some("off")),
            ("enabled=default", "autovacuum_enabled", None),
            ("vacuum_cost_delay=2", "autovacuum_vacuum_cost_delay", Some("2")),
            ("vacuum_index_cleanup=auto", "vacuum_index_cleanup", Some("auto")),
            ("log_autovacuum_min_duration=-1", "log_autovacuum_min_duration", Some("-1")),
        ] {
            let found = Assignment::parse(text).unwrap();
            assert_eq!((found.name().as_str(), found.value.as_deref()), (name, value), "{text}");
        }
        for text in [
            "vacuum_threshold",
            "vacuum_threshold=",
            "vacuum_threshold=-1",
            "vacuum_threshold=1e3",
            "vacuum_scale_factor=101",
            "vacuum_scale_factor=nan",
            "enabled=maybe",
            "fillfactor=70",
            "toast.analyze_threshold=5",
            "freeze_max_age=99999",
            "vacuum_cost_limit=0); drop table t; --",
        ] {
            assert!(Assignment::parse(text).is_err(), "{text}");
        }
    }
}
