//! What a line says, as PgBouncer writes it or as a JSON object.
//!
//! Names come from whoever connects. Control characters in them are escaped, so that nobody can
//! write lines of his own into the log, or change the terminal of whoever reads it.

use std::fmt::{self, Write};

use jiff::Zoned;

use super::Level;

/// Longest text of a line in bytes; what is longer is cut. PgBouncer has 2 KB for the whole line.
const TEXT_MAX: usize = 4096;
/// Longest name in a line. PostgreSQL's own have 63 bytes.
const NAME_MAX: usize = 256;

/// Which of our two sides a connection is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// The connection that a line is about.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    side: Side,
    /// `ptr` of SHOW CLIENTS and SHOW SERVERS.
    id: u64,
    database: &'a str,
    user: &'a str,
    address: &'a (dyn fmt::Display + Sync),
}

impl<'a> Subject<'a> {
    pub(crate) fn client(id: u64, database: &'a str, user: &'a str, address: &'a (dyn fmt::Display + Sync)) -> Self {
        Subject { side: Side::Client, id, database, user, address }
    }

    pub(crate) fn server(id: u64, database: &'a str, user: &'a str, address: &'a (dyn fmt::Display + Sync)) -> Self {
        Subject { side: Side::Server, id, database, user, address }
    }
}

/// A subject on its way to the writer.
pub(super) struct Owned {
    side: Side,
    id: u64,
    database: String,
    user: String,
    address: String,
}

impl From<Subject<'_>> for Owned {
    fn from(subject: Subject<'_>) -> Owned {
        Owned {
            side: subject.side,
            id: subject.id,
            database: clipped(subject.database, NAME_MAX),
            user: clipped(subject.user, NAME_MAX),
            address: clipped(&subject.address.to_string(), NAME_MAX),
        }
    }
}

fn clipped(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

pub(super) struct Line {
    pub(super) at: Zoned,
    pub(super) level: Level,
    about: Option<Owned>,
    text: String,
}

impl Line {
    pub(super) fn new(at: Zoned, level: Level, about: Option<Owned>, text: String) -> Line {
        let text = if text.len() <= TEXT_MAX { text } else { clipped(&text, TEXT_MAX) };
        Line { at, level, about, text }
    }

    /// Without time and level, which syslog has words of its own for.
    pub(super) fn message(&self) -> String {
        let mut message = String::new();
        if let Some(Owned { side, id, database, user, address }) = &self.about {
            let side = match side {
                Side::Client => 'C',
                Side::Server => 'S',
            };
            // To a string, writing does not fail.
            let _ = write!(message, "{side}-{id:#x}: ");
            push_escaped(&mut message, database);
            message.push('/');
            push_escaped(&mut message, user);
            let _ = write!(message, "@{address} ");
        }
        push_escaped(&mut message, &self.text);
        message
    }

    /// As PgBouncer writes it, without the end of the line.
    pub(super) fn text(&self) -> String {
        let Line { at, level, .. } = self;
        let (time, pid) = (at.strftime("%Y-%m-%d %H:%M:%S.%3f %Z"), std::process::id());
        format!("{time} [{pid}] {} {}", level.name(), self.message())
    }

    /// One JSON object, without the end of the line.
    pub(super) fn json(&self) -> String {
        let mut json = String::from("{");
        push_member(&mut json, "time", &self.at.strftime("%Y-%m-%dT%H:%M:%S.%3f%:z").to_string());
        let _ = write!(json, "\"pid\":{},", std::process::id());
        push_member(&mut json, "level", self.level.name());
        if let Some(Owned { side, id, database, user, address }) = &self.about {
            let side = match side {
                Side::Client => "client",
                Side::Server => "server",
            };
            push_member(&mut json, side, &format!("{id:#x}"));
            push_member(&mut json, "user", user);
            push_member(&mut json, "database", database);
            push_member(&mut json, "address", address);
        }
        push_member(&mut json, "message", &self.text);
        json.pop();
        json.push('}');
        json
    }
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        if is_disruptive(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
}

/// Ends a line or steers a terminal.
fn is_disruptive(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `"key":"value",` with what JSON wants escaped, and what is disruptive.
fn push_member(out: &mut String, key: &str, value: &str) {
    let _ = write!(out, "\"{key}\":\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_disruptive(c) => drop(write!(out, "\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push_str("\",");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(user: &str, text: &str) -> Line {
        let at = "2026-11-21T09:18:14.309Z".parse::<jiff::Timestamp>().unwrap().to_zoned(jiff::tz::TimeZone::UTC);
        let address = "127.0.0.1:49974";
        Line::new(at, Level::Log, Some(Subject::client(42, "app", user, &address).into()), text.to_owned())
    }

    #[test]
    fn lines_have_the_format_of_pgbouncer() {
        let pid = std::process::id();
        assert_eq!(
            line("postgres", "login attempt: db=app").text(),
            format!(
                "2026-11-21 09:18:14.309 UTC [{pid}] LOG C-0x2a: app/postgres@127.0.0.1:49974 login attempt: db=app"
            )
        );
        let at = Zoned::now();
        assert!(Line::new(at, Level::Fatal, None, "no words".into()).text().ends_with("] FATAL no words"));
    }

    #[test]
    fn lines_in_json() {
        assert_eq!(
            line("a \"b\\", "one\ntwo\u{1b}[2J\u{85}\u{2028}é").json(),
            format!(
                "{{\"time\":\"2026-11-21T09:18:14.309+00:00\",\"pid\":{},\"level\":\"LOG\",\"client\":\"0x2a\",\
                 \"user\":\"a \\\"b\\\\\",\"database\":\"app\",\"address\":\"127.0.0.1:49974\",\
                 \"message\":\"one\\ntwo\\u001b[2J\\u0085\\u2028é\"}}",
                std::process::id()
            )
        );
    }

    #[test]
    fn nobody_writes_lines_of_his_own() {
        let message = line("x\n2026-11-21 FATAL \r\u{1b}]0;owned\u{7}", "hello\nworld").message();
        assert_eq!(message, "C-0x2a: app/x\\n2026-11-21 FATAL \\r\\u{1b}]0;owned\\u{7}@127.0.0.1:49974 hello\\nworld");
    }

    #[test]
    fn long_lines_are_cut() {
        let long = line(&"é".repeat(10_000), &"é".repeat(10_000));
        assert!(long.text().len() < TEXT_MAX + 2 * NAME_MAX, "{}", long.text().len());
        assert!(long.text().ends_with("é..."));
    }
}
