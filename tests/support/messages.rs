//! Protocol messages as bytes, and what comes back.

use std::fmt;

fn framed(tag: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = tag.into_iter().collect();
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(body);
    out
}

/// Any message with a tag.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    framed(Some(tag), body)
}

/// A packet without a tag: startup, cancel, SSL and GSS requests begin with their code.
pub(crate) fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    framed(None, &[&code.to_be_bytes()[..], body].concat())
}

fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

pub(crate) const PROTOCOL_3_0: u32 = 3 << 16;
pub(crate) const CANCEL_REQUEST: u32 = 80_877_102;
pub(crate) const SSL_REQUEST: u32 = 80_877_103;
pub(crate) const GSSENC_REQUEST: u32 = 80_877_104;

pub(crate) fn startup(version: u32, params: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in params {
        body.extend(cstr(name));
        body.extend(cstr(value));
    }
    body.push(0);
    packet(version, &body)
}

pub(crate) fn password(text: &str) -> Vec<u8> {
    message(b'p', &cstr(text))
}

pub(crate) fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    message(b'p', &[&cstr(mechanism), &length[..], data].concat())
}

pub(crate) fn sasl_response(data: &[u8]) -> Vec<u8> {
    message(b'p', data)
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &cstr(sql))
}

pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[cstr(name), cstr(sql), vec![0, 0]].concat())
}

/// Binds text parameters to the unnamed portal.
pub(crate) fn bind(statement: &str, params: &[&str]) -> Vec<u8> {
    let mut body = [cstr(""), cstr(statement), vec![0, 0]].concat();
    body.extend((params.len() as u16).to_be_bytes());
    for param in params {
        body.extend((param.len() as u32).to_be_bytes());
        body.extend(param.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// `kind` is `S` for a statement, `P` for a portal.
pub(crate) fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[vec![kind], cstr(name)].concat())
}

pub(crate) fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[vec![kind], cstr(name)].concat())
}

/// Executes the unnamed portal up to `max_rows`, 0 meaning all.
pub(crate) fn execute(max_rows: u32) -> Vec<u8> {
    message(b'E', &[&cstr("")[..], &max_rows.to_be_bytes()].concat())
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub(crate) fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub(crate) fn copy_data(data: &str) -> Vec<u8> {
    message(b'd', data.as_bytes())
}

pub(crate) fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub(crate) fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &cstr(reason))
}

pub(crate) fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

/// Calls the function with text arguments and a text result.
pub(crate) fn function_call(oid: u32, args: &[&str]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend((args.len() as u16).to_be_bytes());
    for arg in args {
        body.extend((arg.len() as u32).to_be_bytes());
        body.extend(arg.as_bytes());
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

/// Parse, Bind and Execute of one unnamed statement, without a Sync.
pub(crate) fn unsynced(sql: &str, params: &[&str]) -> Vec<u8> {
    [parse("", sql), bind("", params), execute(0)].concat()
}

/// The same with its Sync.
pub(crate) fn extended(sql: &str, params: &[&str]) -> Vec<u8> {
    [unsynced(sql, params), sync()].concat()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

pub(crate) type Row = Vec<Option<String>>;

impl Message {
    /// Zero-terminated strings from `offset` on.
    pub(crate) fn strings(&self, offset: usize) -> Vec<String> {
        let mut parts: Vec<String> = self.body[offset..]
            .split(|byte| *byte == 0)
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect();
        parts.pop();
        parts
    }

    pub(crate) fn u32(&self, offset: usize) -> u32 {
        u32::from_be_bytes(self.body[offset..offset + 4].try_into().expect("four bytes"))
    }

    fn u16(&self, offset: usize) -> usize {
        usize::from(u16::from_be_bytes([self.body[offset], self.body[offset + 1]]))
    }

    /// The values of a DataRow.
    pub(crate) fn row(&self) -> Row {
        assert_eq!(self.tag, b'D', "not a DataRow: {self}");
        let mut at = 2;
        (0..self.u16(0))
            .map(|_| {
                let length = self.u32(at) as i32;
                at += 4;
                let end = at + usize::try_from(length).ok()?;
                let value = String::from_utf8_lossy(&self.body[at..end]).into_owned();
                at = end;
                Some(value)
            })
            .collect()
    }

    /// Name and type OID of every column of a RowDescription.
    pub(crate) fn columns(&self) -> Vec<(String, u32)> {
        assert_eq!(self.tag, b'T', "not a RowDescription: {self}");
        let mut at = 2;
        (0..self.u16(0))
            .map(|_| {
                let length = self.body[at..].iter().position(|byte| *byte == 0).expect("a name");
                let name = String::from_utf8_lossy(&self.body[at..at + length]).into_owned();
                at += length + 1;
                let oid = self.u32(at + 6);
                at += 18;
                (name, oid)
            })
            .collect()
    }

    /// The fields of an ErrorResponse or NoticeResponse.
    pub(crate) fn error(&self) -> PgError {
        assert!(matches!(self.tag, b'E' | b'N'), "not an error: {self}");
        let field = |code: char| {
            let found = self.strings(0).into_iter().find(|part| part.starts_with(code));
            found.map(|part| part[1..].to_owned()).unwrap_or_default()
        };
        PgError { severity: field('S'), code: field('C'), message: field('M') }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(200)];
        write!(f, "{} {:?}", self.tag as char, String::from_utf8_lossy(shown))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PgError {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) message: String,
}

impl fmt::Display for PgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)
    }
}
