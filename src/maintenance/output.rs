//! Results to stdout as a table, JSON or CSV; everything that is said beside them to stderr.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::exit::Failure;
use super::rows::Columns;
use super::units::{Size, span_text};

/// What `--output` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people: sizes and times with their units.
    #[default]
    Table,
    /// An array of objects; sizes in bytes, times in seconds.
    Json,
    /// With a line of names; values as in json.
    Csv,
}

/// Prints rows in one format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    /// Columns that a table may take; None: any number, stdout is no terminal.
    width: Option<usize>,
}

impl Output {
    pub(crate) fn new(format: Format) -> Output {
        let is_terminal = io::stdout().is_terminal();
        let size = is_terminal.then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten();
        Output { format, width: size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0) }
    }

    /// Prints a list of rows. In a table, an empty one is `nothing`, a sentence.
    pub(crate) fn rows<T: Columns>(&self, rows: &[T], nothing: &str) -> Result<(), Failure> {
        print(&self.rows_text(rows, nothing)?)
    }

    /// The same as text.
    pub(crate) fn rows_text<T: Columns>(&self, rows: &[T], nothing: &str) -> Result<String, Failure> {
        Ok(match self.format {
            Format::Json => json(rows)?,
            Format::Csv => csv(T::COLUMNS, &values(rows)?),
            Format::Table if rows.is_empty() => format!("{nothing}\n"),
            Format::Table => table(T::COLUMNS, &values(rows)?, self.width),
        })
    }

    /// Prints one result: in a table a line per field.
    pub(crate) fn one<T: Columns>(&self, row: &T) -> Result<(), Failure> {
        let text = match self.format {
            Format::Json => json(row)?,
            Format::Csv => csv(T::COLUMNS, &values(std::slice::from_ref(row))?),
            Format::Table => {
                let fields = values(std::slice::from_ref(row))?.remove(0);
                let named = T::COLUMNS.iter().zip(&fields).map(|(name, value)| (heading(name), cell(name, value)));
                let width = T::COLUMNS.iter().map(|name| heading(name).len()).max().unwrap_or(0);
                named.map(|(name, text)| format!("{name:width$}  {text}\n")).collect()
            }
        };
        print(&text)
    }
}

/// Writes to stdout. A reader that has seen enough and went is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("could not write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

fn unwritable(e: serde_json::Error) -> Failure {
    Failure::failed(format!("could not write the result as JSON: {e}"))
}

fn json(value: &(impl Serialize + ?Sized)) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(unwritable)
}

/// The fields of each row in the order of its columns.
fn values<T: Columns>(rows: &[T]) -> Result<Vec<Vec<Value>>, Failure> {
    rows.iter()
        .map(|row| {
            let mut object = serde_json::to_value(row).map_err(unwritable)?;
            Ok(T::COLUMNS.iter().map(|name| object.get_mut(name).map(Value::take).unwrap_or_default()).collect())
        })
        .collect()
}

fn csv(columns: &[&str], rows: &[Vec<Value>]) -> String {
    let mut text = columns.join(",") + "\n";
    for row in rows {
        let fields: Vec<String> = row.iter().map(|value| csv_field(&plain(value))).collect();
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The units by the ends of names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Percent,
    Seconds,
    Millis,
    None,
}

const UNITS: [(&str, Unit); 4] =
    [("bytes", Unit::Bytes), ("pct", Unit::Percent), ("s", Unit::Seconds), ("ms", Unit::Millis)];

fn unit(column: &str) -> Unit {
    let end = column.rsplit('_').next().unwrap_or(column);
    let is_whole = end == column && end != "bytes";
    UNITS.iter().find(|(name, _)| *name == end && !is_whole).map_or(Unit::None, |(_, unit)| *unit)
}

/// The name without its unit, which stands in the cells.
fn heading(column: &str) -> String {
    let name = match unit(column) {
        Unit::None => column,
        _ => column.rsplit_once('_').map_or(column, |(name, _)| name),
    };
    name.replace('_', " ")
}

fn cell(column: &str, value: &Value) -> String {
    let text = match (unit(column), value.as_f64()) {
        (Unit::Bytes, Some(bytes)) if bytes < 0.0 => format!("-{}", Size(-bytes as u64)),
        (Unit::Bytes, Some(bytes)) => Size(bytes as u64).to_string(),
        (Unit::Percent, Some(percent)) => format!("{percent:.1} %"),
        (Unit::Seconds, Some(secs)) => span_text(secs),
        (Unit::Millis, Some(millis)) => format!("{millis:.1} ms"),
        _ => plain(value),
    };
    // A query may have many lines, and bytes that a terminal would obey.
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace(char::is_control, "?")
}

const GAP: usize = 2;

/// A column does not get narrower than this to fit a terminal.
const NARROWEST: usize = 12;

fn table(columns: &[&str], rows: &[Vec<Value>], width: Option<usize>) -> String {
    let headings: Vec<String> = columns.iter().map(|column| heading(column)).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().zip(row).map(|(column, value)| cell(column, value)).collect()).collect();
    let longest = |index: usize| cells.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
    let mut widths: Vec<usize> =
        headings.iter().enumerate().map(|(index, heading)| heading.chars().count().max(longest(index))).collect();
    if let Some(width) = width {
        fit(&mut widths, width);
    }
    let is_number = |index: usize| rows.iter().all(|row| row[index].is_number() || row[index].is_null());
    let aligned: Vec<bool> = (0..columns.len()).map(is_number).collect();
    let mut text = String::new();
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    for row in [&headings, &rule].into_iter().chain(&cells) {
        let line: String = (row.iter().zip(&widths).zip(&aligned))
            .map(|((cell, width), is_right)| padded(cell, *width, *is_right) + &" ".repeat(GAP))
            .collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Takes from the widest columns until all fit.
fn fit(widths: &mut [usize], available: usize) {
    loop {
        let total: usize = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > NARROWEST) else { return };
        if total <= available {
            return;
        }
        *widest -= 1;
    }
}

fn padded(text: &str, width: usize, is_right: bool) -> String {
    let length = text.chars().count();
    if length > width {
        return text.chars().take(width.saturating_sub(1)).chain(['…']).collect();
    }
    let space = " ".repeat(width - length);
    if is_right { space + text } else { text.to_owned() + &space }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maintenance::rows::row;

    row! {
        Sample {
            name: String,
            bytes: i64,
            dead_pct: Option<f64>,
            age_s: f64,
            s: i32,
        }
    }

    fn sample(name: &str, bytes: i64) -> Sample {
        Sample { name: name.to_owned(), bytes, dead_pct: Some(12.34), age_s: 90.0, s: 7 }
    }

    #[test]
    fn tables_show_units() {
        let rows = values(&[sample("a\nb\u{1b}", 2048), Sample { dead_pct: None, ..sample("c", -2048) }]).unwrap();
        let text = table(Sample::COLUMNS, &rows, None);
        let wanted = "\
name  bytes    dead    age  s
----  -----  ------  -----  -
a b?   2 kB  12.3 %  1m30s  7
c     -2 kB          1m30s  7
";
        assert_eq!(text, wanted);
    }

    #[test]
    fn tables_fit_a_terminal() {
        let rows = values(&[sample(&"ä".repeat(60), 1)]).unwrap();
        let text = table(Sample::COLUMNS, &rows, Some(40));
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(text.contains("ä…"), "{text}");
    }

    #[test]
    fn csv_quotes_what_it_must() {
        let rows = values(&[sample("a,\"b\"", 1)]).unwrap();
        let wanted = "name,bytes,dead_pct,age_s,s\n\"a,\"\"b\"\"\",1,12.34,90.0,7\n";
        assert_eq!(csv(Sample::COLUMNS, &rows), wanted);
    }

    #[test]
    fn json_keeps_the_order() {
        let text = json(&[sample("a", 1)]).unwrap();
        assert!(text.find("\"name\"") < text.find("\"bytes\"") && text.find("\"bytes\"") < text.find("\"age_s\""));
    }
}
