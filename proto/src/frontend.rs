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
