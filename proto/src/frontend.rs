//! Tags of the messages that a client sends after startup, and builders for those
//! that the pooler itself sends to a server.

use crate::frame;

pub const BIND: u8 = b'B';
pub const CLOSE: u8 = b'C';
pub const COPY_DATA: u8 = b'd';
pub const COPY_DONE: u8 = b'c';
pub const COPY_FAIL: u8 = b'f';
pub const DESCRIBE: u8 = b'D';
pub const EXECUTE: u8 = b'E';
pub const FLUSH: u8 = b'H';
pub const FUNCTION_CALL: u8 = b'F';
pub const PARSE: u8 = b'P';
/// PasswordMessage, SASLInitialResponse and SASLResponse share this tag.
pub const PASSWORD: u8 = b'p';
pub const QUERY: u8 = b'Q';
pub const SYNC: u8 = b'S';
pub const TERMINATE: u8 = b'X';

/// Terminate has no body.
pub const TERMINATE_MESSAGE: [u8; 5] = *b"X\0\0\0\x04";

/// Appends a Query. A NUL in `sql` would end it early, so it is cut there.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    let at = frame::begin(out, QUERY);
    out.extend(sql.bytes().take_while(|&b| b != 0));
    out.push(0);
    frame::finish(out, at);
}

/// Appends Parse, Bind, Describe, Execute and Sync for `sql` with one parameter, given as text
/// and of a type that the server chooses. Both are cut at a NUL.
pub fn query_with_parameter(out: &mut Vec<u8>, sql: &str, parameter: &str) {
    let text = |text: &str| text.bytes().take_while(|&b| b != 0).collect::<Vec<u8>>();
    // Unnamed, no types.
    let at = frame::begin(out, PARSE);
    out.push(0);
    out.extend(text(sql));
    out.extend([0, 0, 0]);
    frame::finish(out, at);
    // Unnamed portal and statement, all formats text.
    let at = frame::begin(out, BIND);
    let parameter = text(parameter);
    out.extend([0, 0, 0, 0, 0, 1]);
    out.extend((parameter.len() as u32).to_be_bytes());
    out.extend(parameter);
    out.extend([0, 0]);
    frame::finish(out, at);
    frame::message(out, DESCRIBE, b"P\0");
    // All rows.
    frame::message(out, EXECUTE, &[0; 5]);
    frame::message(out, SYNC, b"");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_goes_beside_the_text() {
        let mut out = Vec::new();
        query_with_parameter(&mut out, "select $1", "o'b\0x");
        let expected: [&[u8]; 5] = [
            b"P\0\0\0\x11\0select $1\0\0\0",
            b"B\0\0\0\x13\0\0\0\0\0\x01\0\0\0\x03o'b\0\0",
            b"D\0\0\0\x06P\0",
            b"E\0\0\0\x09\0\0\0\0\0",
            b"S\0\0\0\x04",
        ];
        assert_eq!(out, expected.concat());
    }
}
