//! The extended query protocol as a server sees it; here, as our console does.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>

use crate::console::Format;
use crate::read::{Reader, text};
use crate::{backend, frame};

/// Parse: a statement is to be prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parse {
    /// Empty: the unnamed statement.
    pub name: String,
    pub sql: String,
}

/// Bind: a portal is to be made of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Empty: the unnamed portal.
    pub portal: String,
    pub statement: String,
    /// How many values are given for parameters.
    pub parameters: u16,
    pub formats: Formats,
}

/// What Describe and Close name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Statement(String),
    Portal(String),
}

/// Execute: a portal is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execute {
    pub portal: String,
    /// 0: all.
    pub rows_max: u32,
}

/// The forms that a client wants its columns in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Formats(Vec<Format>);

impl Formats {
    /// How the column is to be sent: none given means text, one is for all.
    pub fn of(&self, column: usize) -> Format {
        match self.0.as_slice() {
            [] => Format::Text,
            [all] => *all,
            formats => formats.get(column).copied().unwrap_or(Format::Text),
        }
    }

    /// They are for a result of so many columns.
    pub fn fit(&self, columns: usize) -> bool {
        self.0.len() <= 1 || self.0.len() == columns
    }

    /// How many were given.
    pub fn given(&self) -> usize {
        self.0.len()
    }
}

impl Parse {
    /// Body: name, text, `u16` count, as many `u32` types. `None` for anything else.
    pub fn read(body: &[u8]) -> Option<Parse> {
        let mut reader = Reader::new(body);
        let (name, sql) = (string(&mut reader)?, string(&mut reader)?);
        for _ in 0..u16(&mut reader)? {
            reader.u32()?;
        }
        reader.is_empty().then_some(Parse { name, sql })
    }
}

impl Bind {
    /// Body: portal, statement, parameter formats, parameter values, result formats; each list
    /// begins with its `u16` count. `None` for anything else.
    pub fn read(body: &[u8]) -> Option<Bind> {
        let mut reader = Reader::new(body);
        let (portal, statement) = (string(&mut reader)?, string(&mut reader)?);
        formats(&mut reader)?;
        let parameters = u16(&mut reader)?;
        for _ in 0..parameters {
            let len = i32::from_be_bytes(reader.array()?);
            // -1 is NULL.
            if len != -1 {
                reader.skip(usize::try_from(len).ok()?)?;
            }
        }
        let formats = formats(&mut reader)?;
        reader.is_empty().then_some(Bind { portal, statement, parameters, formats })
    }
}

impl Target {
    /// Body: `S` or `P`, and the name. `None` for anything else.
    pub fn read(body: &[u8]) -> Option<Target> {
        let mut reader = Reader::new(body);
        let [kind] = reader.array()?;
        let name = string(&mut reader)?;
        let target = match kind {
            b'S' => Target::Statement(name),
            b'P' => Target::Portal(name),
            _ => return None,
        };
        reader.is_empty().then_some(target)
    }
}

impl Execute {
    /// Body: portal and `u32` number of rows. `None` for anything else.
    pub fn read(body: &[u8]) -> Option<Execute> {
        let mut reader = Reader::new(body);
        let execute = Execute { portal: string(&mut reader)?, rows_max: reader.u32()? };
        reader.is_empty().then_some(execute)
    }
}

fn string(reader: &mut Reader<'_>) -> Option<String> {
    reader.cstr().map(text)
}

fn u16(reader: &mut Reader<'_>) -> Option<u16> {
    reader.array().map(u16::from_be_bytes)
}

fn formats(reader: &mut Reader<'_>) -> Option<Formats> {
    let count = u16(reader)?;
    (0..count).map(|_| Format::read(u16(reader)?)).collect::<Option<_>>().map(Formats)
}

/// Appends ParseComplete.
pub fn parse_complete(out: &mut Vec<u8>) {
    frame::message(out, backend::PARSE_COMPLETE, b"");
}

/// Appends BindComplete.
pub fn bind_complete(out: &mut Vec<u8>) {
    frame::message(out, backend::BIND_COMPLETE, b"");
}

/// Appends CloseComplete.
pub fn close_complete(out: &mut Vec<u8>) {
    frame::message(out, backend::CLOSE_COMPLETE, b"");
}

/// Appends NoData.
pub fn no_data(out: &mut Vec<u8>) {
    frame::message(out, backend::NO_DATA, b"");
}

/// Appends PortalSuspended.
pub fn portal_suspended(out: &mut Vec<u8>) {
    frame::message(out, backend::PORTAL_SUSPENDED, b"");
}

/// Appends the ParameterDescription of a statement that has no parameters.
pub fn no_parameters(out: &mut Vec<u8>) {
    frame::message(out, backend::PARAMETER_DESCRIPTION, &[0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    /// Whatever is cut off or added makes it something else.
    fn only_whole<T: PartialEq + std::fmt::Debug>(whole: &[u8], read: fn(&[u8]) -> Option<T>) {
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(read(&[whole, b"x"].concat()), None);
    }

    #[test]
    fn parse_has_a_name_and_a_text() {
        let whole = body(&[b"s\0SHOW POOLS\0", &[0, 1, 0, 0, 0, 23]]);
        assert_eq!(Parse::read(&whole), Some(Parse { name: "s".into(), sql: "SHOW POOLS".into() }));
        only_whole(&whole, Parse::read);
    }

    #[test]
    fn bind_has_values_and_formats() {
        let whole = body(&[b"p\0s\0", &[0, 1, 0, 0], &[0, 2, 0, 0, 0, 2], b"ab", &[255; 4], &[0, 2, 0, 1, 0, 0]]);
        let bind = Bind::read(&whole).unwrap();
        assert_eq!((bind.portal.as_str(), bind.statement.as_str(), bind.parameters), ("p", "s", 2));
        assert_eq!([bind.formats.of(0), bind.formats.of(1)], [Format::Binary, Format::Text]);
        assert!(bind.formats.fit(2) && !bind.formats.fit(3));
        only_whole(&whole, Bind::read);
        // A format that there is none of; a value that is shorter than nothing.
        assert_eq!(Bind::read(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 2]), None);
        assert_eq!(Bind::read(&[0, 0, 0, 0, 0, 1, 255, 255, 255, 254, 0, 0]), None);
    }

    #[test]
    fn formats_are_none_one_or_each() {
        let all = Bind::read(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 1]).unwrap().formats;
        assert!(all.fit(0) && all.fit(7) && all.of(6) == Format::Binary);
        assert!(Formats::default().fit(7) && Formats::default().of(6) == Format::Text);
    }

    #[test]
    fn describe_close_and_execute_name_their_target() {
        assert_eq!(Target::read(b"Sx\0"), Some(Target::Statement("x".into())));
        assert_eq!(Target::read(b"P\0"), Some(Target::Portal(String::new())));
        assert_eq!(Target::read(b"Xx\0"), None);
        only_whole(b"Sx\0", Target::read);
        assert_eq!(Execute::read(b"p\0\0\0\0\x05"), Some(Execute { portal: "p".into(), rows_max: 5 }));
        only_whole(b"p\0\0\0\0\x05", Execute::read);
    }
}
