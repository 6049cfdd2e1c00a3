//! `--set`: storage parameters for the index that is built.
//!
//! They are set on the old index, which takes no notice of them, since all that counts for what is stored is what the index
//! was built with. REINDEX CONCURRENTLY then builds a new one with them beside it and puts it in its place, with all that hangs
//! on it: constraints, comments, statistics targets, marks. If that fails, they are set back.

use std::str::FromStr;

use super::plan::Target;
use crate::maintenance::exit::Failure;
use crate::maintenance::index::build::Builder;
use crate::maintenance::interrupt::Undo;
use crate::maintenance::job::Job;
use crate::maintenance::options::Limits;
use crate::maintenance::sql::literal;
use crate::maintenance::units::Span;

/// `key=value` of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Parameter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Parameter, Self::Err> {
        const WANTED: &str = "expected KEY=VALUE, such as fillfactor=80";
        let (key, value) = text.split_once('=').ok_or(WANTED)?;
        let (key, value) = (key.trim(), value.trim());
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_key || value.is_empty() {
            return Err(WANTED);
        }
        Ok(Parameter { key: key.to_ascii_lowercase(), value: value.to_owned() })
    }
}

impl Parameter {
    /// As WITH and SET take it.
    pub(crate) fn sql(&self) -> String {
        format!("{} = {}", self.key, literal(&self.value))
    }
}

/// How long setting back may wait for a lock.
const UNDO_LIMITS: Limits = Limits {
    lock_timeout: Span(std::time::Duration::from_secs(15)),
    statement_timeout: Span(std::time::Duration::from_secs(30)),
};

pub(super) async fn set(
    job: &Job,
    builder: &Builder<'_>,
    target: &Target,
    parameters: &[Parameter],
) -> Result<Vec<Undo>, Failure> {
    if parameters.is_empty() {
        return Ok(Vec::new());
    }
    let name = &target.name;
    let (job_then, here, back) = (job.for_later(), builder.session().here(), back(target, parameters));
    let undo = job.cleanup.later(format!("set back the parameters of {name}"), async move {
        let server = job_then.connect_to(&here, UNDO_LIMITS).await?;
        for sql in &back {
            job_then.change(&server, sql).await?;
        }
        Ok(())
    });
    let list: Vec<String> = parameters.iter().map(Parameter::sql).collect();
    let sql = format!("ALTER INDEX {name} SET ({})", list.join(", "));
    match builder.run_briefly(name, &sql).await {
        Ok(_) => Ok(vec![undo]),
        Err(failure) => {
            // It has not been set, or by an interrupt at the last moment: then the end sets it back.
            if !job.interrupt.is_requested() {
                undo.dismiss();
            }
            Err(failure)
        }
    }
}

/// The statements that make them what they were.
fn back(target: &Target, parameters: &[Parameter]) -> Vec<String> {
    let name = &target.name;
    let old = |key: &str| {
        target
            .options
            .iter()
            .filter_map(|option| option.split_once('='))
            .find(|(had, _)| *had == key)
            .map(|(_, old)| old)
    };
    let one = |parameter: &Parameter| match old(&parameter.key) {
        Some(old) => format!("ALTER INDEX {name} SET ({} = {})", parameter.key, literal(old)),
        None => format!("ALTER INDEX {name} RESET ({})", parameter.key),
    };
    parameters.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let parsed: Parameter = "Lists = 200".parse().unwrap();
        assert_eq!(parsed.sql(), "lists = '200'");
        for text in ["", "lists", "lists=", "a b=1", "=1", "a);drop=1"] {
            assert!(text.parse::<Parameter>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_there_before() {
        let target = Target {
            oid: 1,
            name: "s.i".to_owned(),
            table: "s.t".to_owned(),
            table_oid: 2,
            bytes: 0,
            tablespace: String::new(),
            options: vec!["lists=100".to_owned()],
            obstacle: None,
        };
        let parameters: Vec<Parameter> = ["lists=200", "m=3"].map(|text| text.parse().unwrap()).to_vec();
        let wanted = ["ALTER INDEX s.i SET (lists = '100')", "ALTER INDEX s.i RESET (m)"];
        assert_eq!(back(&target, &parameters), wanted);
    }
}
