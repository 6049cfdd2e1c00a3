//! Findings in each format.

use super::CheckFormat;
use super::finding::{Finding, Status};
use crate::maintenance::exit::Failure;
use crate::maintenance::output::{Format, Output};

pub(super) fn text(format: CheckFormat, findings: &[Finding], database: &str) -> Result<String, Failure> {
    let rows = || findings.iter().map(Finding::row).collect::<Vec<_>>();
    match format {
        CheckFormat::Table => {
            let rows: Vec<_> = findings.iter().map(Finding::shown).collect();
            Output::new(Format::Table).rows_text(&rows, "No checks were made.")
        }
        CheckFormat::Json => Output::new(Format::Json).rows_text(&rows(), ""),
        CheckFormat::Csv => Output::new(Format::Csv).rows_text(&rows(), ""),
        CheckFormat::Nagios => Ok(nagios(findings)),
        CheckFormat::Prometheus => Ok(prometheus(findings, database)),
    }
}

/// Plugins may not have a vertical bar in what they say: performance data come behind it.
fn said(text: &str) -> String {
    text.replace('|', "/").replace(['\n', '\r'], " ")
}

pub(super) fn nagios_failure(message: &str) -> String {
    format!("PGWEIR UNKNOWN - {}\n", said(message))
}

/// The plugin guidelines: a line with performance data, then a line per finding.
fn nagios(findings: &[Finding]) -> String {
    let worst = findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok);
    let line = |finding: &Finding| {
        let subject = if finding.subject.is_empty() { String::new() } else { format!(" {}", finding.subject) };
        said(&format!("{}{subject}: {}", finding.check.name, finding.message))
    };
    let bad: Vec<String> = findings.iter().filter(|finding| finding.status != Status::Ok).map(line).collect();
    let summary = if bad.is_empty() { format!("{} checks made", findings.len()) } else { bad.join("; ") };
    let data: Vec<String> = findings.iter().filter_map(performance).collect();
    let rest: String = findings
        .iter()
        .map(|finding| format!("{} {}\n", finding.status.name().to_uppercase(), line(finding)))
        .collect();
    format!("PGWEIR {} - {summary} | {}\n{rest}", worst.name().to_uppercase(), data.join(" "))
}

/// 'label'=value[unit];warning;critical
fn performance(finding: &Finding) -> Option<String> {
    let Finding { check, threshold, subject, .. } = finding;
    let value = finding.value?;
    let subject = if subject.is_empty() { String::new() } else { format!(" {subject}") };
    let label = said(&format!("{}{subject}", check.name)).replace(['\'', '='], "");
    // Below instead of above.
    let mark = if threshold.is_lower_worse() { ":" } else { "" };
    let (warning, critical) = (threshold.warning, threshold.critical);
    Some(format!("'{label}'={value:.3}{};{warning}{mark};{critical}{mark}", check.unit.nagios()))
}

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
fn prometheus(findings: &[Finding], database: &str) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels = |finding: &Finding| {
        let (check, subject) = (finding.check.name, escaped(&finding.subject));
        format!("{{database=\"{}\",check=\"{check}\",subject=\"{subject}\"", escaped(database))
    };
    let mut text = String::from(
        "# HELP pgweir_check_status What a check found: 0 ok, 1 warning, 2 critical, 3 unknown.\n\
         # TYPE pgweir_check_status gauge\n",
    );
    for finding in findings {
        text += &format!("pgweir_check_status{}}} {}\n", labels(finding), finding.status.number());
    }
    text += "# HELP pgweir_check_value What a check measured, in the unit that its label says.\n\
             # TYPE pgweir_check_value gauge\n";
    for finding in findings {
        if let Some(value) = finding.value {
            text +=
                &format!("pgweir_check_value{},unit=\"{}\"}} {value}\n", labels(finding), finding.check.unit.name());
        }
    }
    text
}
