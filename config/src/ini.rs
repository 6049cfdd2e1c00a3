//! `pgbouncer.ini`, read as PgBouncer reads it.

use std::path::Path;

use crate::problem::{Place, nearest, suggestion};
use crate::raw::{Entry, Item, Raw, Section, read_text};
use crate::units::unquote;

/// How deep `%include` may nest.
const INCLUDE_DEPTH_MAX: u32 = 10;

/// White space as C's `isspace` knows it.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

/// Adds what the file at `path` says to `raw`.
pub(crate) fn read(path: &Path, raw: &mut Raw) {
    let file = Place::file(&path.display().to_string());
    match read_text(path) {
        Ok(text) => read_str(&file, &text, raw),
        Err(error) => raw.errors.push(file.problem(format!("could not load the file: {error}"))),
    }
}

/// Adds what `text`, found in `file`, says to `raw`.
pub(crate) fn read_str(file: &Place, text: &str, raw: &mut Raw) {
    let section = Current::None;
    Reader { raw, section }.read_text(file, text, 0);
}

/// The section that the lines belong to.
enum Current {
    /// No section has begun.
    None,
    /// A section that was complained about: its lines are not.
    Unknown,
    Known(Section),
}

struct Reader<'a> {
    raw: &'a mut Raw,
    /// Lasts over `%include`, both into the included file and back out of it.
    section: Current,
}

impl Reader<'_> {
    fn error(&mut self, place: &Place, message: impl Into<String>) {
        self.raw.errors.push(place.problem(message));
    }

    fn read_text(&mut self, file: &Place, text: &str, depth: u32) {
        for (line, number) in text.split('\n').zip(1..) {
            self.read_line(&file.line(number), line, depth);
        }
    }

    fn read_line(&mut self, place: &Place, line: &str, depth: u32) {
        let mut line = line.trim_matches(is_space);
        // A section's name may be followed by a comment or a key on the same line.
        while let Some(rest) = line.strip_prefix('[') {
            let Some((name, rest)) = rest.split_once(']') else {
                return self.error(place, "a section name without \"]\"");
            };
            self.start_section(place, name);
            line = rest.trim_start_matches(is_space);
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            return;
        }
        if let Some(included) = line.strip_prefix("%include").filter(|rest| rest.starts_with([' ', '\t'])) {
            return self.include(place, included.trim_start_matches([' ', '\t']), depth);
        }
        match split_key(line) {
            Ok((key, value)) => self.key_value(place, key, value),
            Err(message) => self.error(place, message),
        }
    }

    fn start_section(&mut self, place: &Place, name: &str) {
        match Section::from_name(name) {
            Some(section) => {
                if section == Section::Pgbouncer {
                    self.raw.settings.push(Item::Start(place.clone()));
                }
                self.section = Current::Known(section);
            }
            None => {
                let known = nearest(name, Section::ALL.map(Section::name)).map(|known| format!("[{known}]"));
                self.error(place, format!("unknown section [{name}]{}", suggestion(known)));
                self.section = Current::Unknown;
            }
        }
    }

    fn include(&mut self, place: &Place, path: &str, depth: u32) {
        if depth >= INCLUDE_DEPTH_MAX {
            return self.error(place, format!("%include nests deeper than {INCLUDE_DEPTH_MAX} levels"));
        }
        match read_text(Path::new(path)) {
            Ok(text) => self.read_text(&Place::file(path), &text, depth + 1),
            Err(error) => self.error(place, format!("could not load the file \"{path}\": {error}")),
        }
    }

    fn key_value(&mut self, place: &Place, key: String, value: &str) {
        let section = match self.section {
            Current::None => {
                return self.error(place, format!("\"{key}\" stands before any section"));
            }
            Current::Unknown => return,
            Current::Known(section) => section,
        };
        if key.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER) {
            return self.error(place, "not in UTF-8");
        }
        let place = place.clone();
        let list = match section {
            Section::Pgbouncer => return self.raw.set(&key, value, place),
            Section::Databases => &mut self.raw.databases,
            Section::Users => &mut self.raw.users,
            Section::Peers => &mut self.raw.peers,
            Section::Maintenance => &mut self.raw.maintenance,
        };
        match split_pairs(value) {
            Ok(pairs) => list.push(Entry::new(key, place, pairs)),
            Err(message) => self.error(&place, format!("in the entry \"{key}\": {message}")),
        }
    }
}

/// Splits `key = value`. The key is a bare word or, for names with other characters, in quotes: single ones as PgBouncer reads
/// them, or double ones with `""` for one as it documents them.
fn split_key(line: &str) -> Result<(String, &str), &'static str> {
    const WANTED: &str = "syntax error, expected \"key = value\"";
    let (key, rest) = if let Some(quoted) = line.strip_prefix('\'') {
        let (key, rest) = quoted.split_once('\'').ok_or("a quoted name without an end")?;
        (key.to_owned(), rest)
    } else if let Some(quoted) = line.strip_prefix('"') {
        unquote(quoted, '"').ok_or("a quoted name without an end")?
    } else {
        let bare = |c: char| c.is_ascii_alphanumeric() || "_.-*".contains(c);
        let end = line.find(|c| !bare(c)).unwrap_or(line.len());
        (line[..end].to_owned(), &line[end..])
    };
    if key.is_empty() {
        return Err(WANTED);
    }
    let value = rest.trim_start_matches([' ', '\t']).strip_prefix('=').ok_or(WANTED)?;
    Ok((key, value.trim_start_matches([' ', '\t'])))
}

/// Splits a connection string, `key=value key='quoted value' ...`. Errors do not quote the text: it may be part of a password.
pub(crate) fn split_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_start_matches(' ');
    while !rest.is_empty() {
        let end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let key = &rest[..end];
        let Some(value) = rest[end..].trim_start_matches(' ').strip_prefix('=').filter(|_| end > 0) else {
            let behind = pairs.last().map(|(key, _)| format!(" behind \"{key}\"")).unwrap_or_default();
            return Err(format!("expected key=value{behind}; a value with spaces needs single quotes"));
        };
        let value = value.trim_start_matches(' ');
        let (value, behind) = match value.strip_prefix('\'') {
            Some(quoted) => {
                let (value, behind) =
                    unquote(quoted, '\'').ok_or(format!("the value of \"{key}\" has no closing quote"))?;
                // Whatever follows the quote is taken for the separator.
                let mut separator = behind.chars();
                separator.next();
                (value, separator.as_str())
            }
            None => match value.split_once(' ') {
                Some((value, behind)) => (value.to_owned(), behind),
                None => (value.to_owned(), ""),
            },
        };
        if value.is_empty() {
            return Err(format!("the value of \"{key}\" is empty"));
        }
        pairs.push((key.to_owned(), value));
        rest = behind.trim_start_matches(' ');
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Raw {
        let mut raw = Raw::default();
        read_str(&Place::file("x.ini"), text, &mut raw);
        raw
    }

    /// The settings read, as `line key value`.
    fn settings(text: &str) -> Vec<String> {
        let raw = read(text);
        assert_eq!(raw.errors, []);
        let shown = |item: &Item| match item {
            Item::Start(_) => None,
            Item::Set(pair) => {
                let line = pair.place.line.unwrap();
                Some(format!("{line} {} {}", pair.key, pair.value))
            }
        };
        raw.settings.iter().filter_map(shown).collect()
    }

    fn errors(text: &str) -> Vec<String> {
        read(text).errors.iter().map(ToString::to_string).collect()
    }

    fn pairs(text: &str) -> Vec<(String, String)> {
        split_pairs(text).unwrap()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn lines_of_all_forms() {
        let text =
            "; comment\n# comment\n\n [pgbouncer] ; main\n a=1\n\tb  =\t2 3 ; not a comment \nc =\n'odd key'= 4\n";
        assert_eq!(settings(text), ["5 a 1", "6 b 2 3 ; not a comment", "7 c ", "8 odd key 4"]);
    }

    #[test]
    fn line_ends_of_windows() {
        assert_eq!(settings("[pgbouncer]\r\na = 1\r\nb =\r\n"), ["2 a 1", "3 b "]);
    }

    #[test]
    fn a_key_behind_the_section_on_its_line() {
        assert_eq!(settings("[pgbouncer] a = 1"), ["1 a 1"]);
    }

    #[test]
    fn every_error_is_reported() {
        let text = "early = 1\n[pgbouncer\n[databasez]\nskipped = host=x\n[databases]\nno equals sign\n= x\n'open = x\ndb = host\n";
        assert_eq!(
            errors(text),
            [
                "x.ini:1: \"early\" stands before any section",
                "x.ini:2: a section name without \"]\"",
                "x.ini:3: unknown section [databasez], the nearest known one is [databases]",
                "x.ini:6: syntax error, expected \"key = value\"",
                "x.ini:7: syntax error, expected \"key = value\"",
                "x.ini:8: a quoted name without an end",
                "x.ini:9: in the entry \"db\": expected key=value; a value with spaces needs single quotes",
            ]
        );
    }

    #[test]
    fn names_of_databases() {
        let raw = read("[databases]\na.b-c_d* =\n'with space' =\n\"double \"\"q\"\"\" = port=1\n* = host=h\n");
        assert_eq!(raw.errors, []);
        let names: Vec<&str> = raw.databases.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["a.b-c_d*", "with space", "double \"q\"", "*"]);
    }

    #[test]
    fn connection_strings() {
        assert_eq!(pairs("  host=a   port = 5 "), [pair("host", "a"), pair("port", "5")]);
        assert_eq!(pairs("password='it''s \\ a=b' user=u"), [pair("password", "it's \\ a=b"), pair("user", "u")]);
        // Whatever stands behind the closing quote is taken for the separator.
        assert_eq!(pairs("a='x';b=1"), [pair("a", "x"), pair("b", "1")]);
        assert_eq!(pairs("connect_query='set x=1; set y=2'"), [pair("connect_query", "set x=1; set y=2")]);
        assert_eq!(pairs(""), []);
    }

    #[test]
    fn broken_connection_strings_do_not_show_their_text() {
        for text in ["password=my hunter2", "password='hunter2", "=hunter2", "password='' user=hunter2"] {
            let error = split_pairs(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(
            split_pairs("password=my hunter2").unwrap_err(),
            "expected key=value behind \"password\"; a value with spaces needs single quotes"
        );
        assert_eq!(split_pairs("user=''").unwrap_err(), "the value of \"user\" is empty");
    }

    #[test]
    fn bytes_that_are_not_text() {
        assert_eq!(settings("[pgbouncer]\n; caf\u{fffd}\na = 1"), ["3 a 1"]);
        assert_eq!(errors("[pgbouncer]\na = caf\u{fffd}"), ["x.ini:2: not in UTF-8"]);
    }

    #[test]
    fn an_included_file_that_is_missing() {
        let errors = errors("[pgbouncer]\n%include  no/such.ini\n");
        assert!(errors[0].starts_with("x.ini:2: could not load the file \"no/such.ini\": "), "{errors:?}");
    }
}
