//! The native file: the names of `pgbouncer.ini`, with tables in place of connection strings.

use std::path::Path;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use crate::problem::{Place, nearest, suggestion};
use crate::raw::{Entry, Item, Pair, Raw, Section, read_text};

/// Adds what the file at `path` says to `raw`.
pub(crate) fn read(path: &Path, raw: &mut Raw) {
    let file = Place::file(&path.display().to_string());
    match read_text(path) {
        Ok(text) => read_str(file, &text, raw),
        Err(error) => raw.errors.push(file.problem(format!("could not load the file: {error}"))),
    }
}

/// Adds what `text`, found in `file`, says to `raw`.
pub(crate) fn read_str(file: Place, text: &str, raw: &mut Raw) {
    let mut reader = Reader { file, text, raw };
    if let Some(offset) = text.find(char::REPLACEMENT_CHARACTER) {
        return reader.error(offset, "not in UTF-8");
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let start = error.span().map_or(0, |span| span.start);
        reader.error(start, error.message());
    }
    for (name, value) in document.get_ref() {
        reader.read_section(name, value);
    }
}

struct Reader<'a> {
    file: Place,
    text: &'a str,
    raw: &'a mut Raw,
}

type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;

impl Reader<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        self.file.line(u32::try_from(line).unwrap_or(u32::MAX))
    }

    fn error(&mut self, offset: usize, message: impl Into<String>) {
        let problem = self.place(offset).problem(message);
        self.raw.errors.push(problem);
    }

    fn read_section(&mut self, name: &Key<'_>, value: &Spanned<DeValue<'_>>) {
        let start = name.span().start;
        let Some(section) = Section::from_name(name.get_ref()) else {
            let known = nearest(name.get_ref(), Section::ALL.map(Section::name)).map(|known| format!("[{known}]"));
            let message = format!("unknown section [{}]{}", name.get_ref(), suggestion(known));
            return self.error(start, message);
        };
        let DeValue::Table(table) = value.get_ref() else {
            return self.error(start, format!("{} must be a table", name.get_ref()));
        };
        if section == Section::Pgbouncer {
            let place = self.place(start);
            self.raw.settings.push(Item::Start(place));
            let pairs = self.read_pairs(table);
            self.raw.settings.extend(pairs.into_iter().map(Item::Set));
            return;
        }
        for (name, value) in table {
            self.read_entry(section, name, value);
        }
    }

    fn read_entry(&mut self, section: Section, name: &Key<'_>, value: &Spanned<DeValue<'_>>) {
        let start = name.span().start;
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("{}.{} must be a table", section.name(), name.get_ref());
            return self.error(start, message);
        };
        let place = self.place(start);
        let pairs = self.read_pairs(table);
        let entry = Entry { name: name.get_ref().to_string(), place, pairs };
        match section {
            Section::Pgbouncer => {}
            Section::Databases => self.raw.databases.push(entry),
            Section::Users => self.raw.users.push(entry),
            Section::Peers => self.raw.peers.push(entry),
            Section::Maintenance => self.raw.maintenance.push(entry),
        }
    }

    fn read_pairs(&mut self, table: &DeTable<'_>) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for (key, value) in table {
            let place = self.place(key.span().start);
            let key = key.get_ref().to_string();
            match text_of(value.get_ref()) {
                Some(value) => pairs.push(Pair { key, value, place }),
                None => {
                    let message = format!("{key} must be text, a number, true, false or a list of these");
                    self.raw.errors.push(place.problem(message));
                }
            }
        }
        pairs
    }
}

/// A value as it would stand in an ini file; lists are joined by commas. None for what no setting can be.
fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(switch) => Some(u8::from(*switch).to_string()),
        DeValue::Array(list) => {
            let entries: Option<Vec<String>> = list
                .iter()
                .map(|entry| match entry.get_ref() {
                    DeValue::Array(_) => None,
                    scalar => text_of(scalar),
                })
                .collect();
            entries.map(|entries| entries.join(","))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Raw {
        let mut raw = Raw::default();
        read_str(Place::file("x.toml"), text, &mut raw);
        raw
    }

    fn errors(text: &str) -> Vec<String> {
        read(text).errors.iter().map(ToString::to_string).collect()
    }

    fn shown(pair: &Pair) -> String {
        format!("{} {} {}", pair.place.line.unwrap(), pair.key, pair.value)
    }

    #[test]
    fn values_of_all_types() {
        let text = "[pgbouncer]\na = \"text\"\nb = 1_000\nc = 0o777\nd = 0.5\ne = true\nf = [\"x\", \"y\", 3]\n";
        let raw = read(text);
        assert_eq!(raw.errors, []);
        let pairs = raw.settings.iter().filter_map(|item| match item {
            Item::Start(_) => None,
            Item::Set(pair) => Some(shown(pair)),
        });
        let expected = ["2 a text", "3 b 1000", "4 c 511", "5 d 0.5", "6 e 1", "7 f x,y,3"];
        assert_eq!(pairs.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn entries_are_tables() {
        let raw = read(
            "[databases.\"*\"]\nhost = [\"a\", \"b\"]\n\n[databases]\nx = { port = 5 }\n[users.u]\n[peers.2]\nhost = \"/tmp\"\n",
        );
        assert_eq!(raw.errors, []);
        let names: Vec<&str> = raw.databases.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["*", "x"]);
        assert_eq!(shown(&raw.databases[0].pairs[0]), "2 host a,b");
        assert_eq!(shown(&raw.databases[1].pairs[0]), "5 port 5");
        assert_eq!((raw.users.len(), raw.peers.len()), (1, 1));
    }

    #[test]
    fn every_error_is_reported_with_its_line() {
        let text = "stray = 1\n[pgbouncer]\na = 2020-01-01\nb = { c = 1 }\n[databases]\nd = \"host=x\"\n[userz]\n";
        let mut errors = errors(text);
        errors.sort();
        assert_eq!(
            errors,
            [
                "x.toml:1: unknown section [stray]",
                "x.toml:3: a must be text, a number, true, false or a list of these",
                "x.toml:4: b must be text, a number, true, false or a list of these",
                "x.toml:6: databases.d must be a table",
                "x.toml:7: unknown section [userz], the nearest known one is [users]",
            ]
        );
    }

    #[test]
    fn broken_syntax_names_its_line() {
        let errors = errors("[pgbouncer]\na = \nb = 1\n");
        assert!(errors.iter().all(|error| error.starts_with("x.toml:2: ")), "{errors:?}");
        assert!(!errors.is_empty());
    }

    #[test]
    fn bytes_that_are_not_text() {
        let errors = errors("[pgbouncer]\na = \"caf\u{fffd}\"\n");
        assert_eq!(errors, ["x.toml:2: not in UTF-8"]);
    }

    #[test]
    fn a_key_set_twice_is_an_error() {
        let errors = errors("[pgbouncer]\na = 1\na = 2\n");
        assert!(errors[0].starts_with("x.toml:3: "), "{errors:?}");
    }
}
