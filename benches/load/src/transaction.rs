//! What a client sends for one transaction, and what it makes of the replies.

use std::io;

use pgweir_proto::frame::{self, HEADER_LEN, Header};
use pgweir_proto::{backend, frontend};

use crate::connection::refused;

/// pgbench's `-M`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Simple,
    Extended,
    Prepared,
}

impl Mode {
    pub(crate) fn read(text: &str) -> Option<Mode> {
        match text {
            "simple" => Some(Mode::Simple),
            "extended" => Some(Mode::Extended),
            "prepared" => Some(Mode::Prepared),
            _ => None,
        }
    }
}

/// The messages of one transaction, the same each time.
pub(crate) struct Transaction {
    /// Sent once by each client, before all others; empty if there is nothing to prepare.
    pub(crate) first: Vec<u8>,
    pub(crate) request: Vec<u8>,
}

/// What a prepared statement is called, with its NUL.
const STATEMENT: &[u8] = b"p0\0";

impl Transaction {
    /// As libpq sends it.
    pub(crate) fn new(sql: &str, mode: Mode) -> Transaction {
        let (mut first, mut request) = (Vec::new(), Vec::new());
        let name = if mode == Mode::Prepared { STATEMENT } else { b"\0" };
        let parse = [name, sql.as_bytes(), b"\0\0\0"].concat();
        match mode {
            Mode::Simple => {
                frontend::query(&mut request, sql);
                return Transaction { first, request };
            }
            Mode::Extended => frame::message(&mut request, frontend::PARSE, &parse),
            Mode::Prepared => {
                frame::message(&mut first, frontend::PARSE, &parse);
                frame::message(&mut first, frontend::SYNC, b"");
            }
        }
        // The unnamed portal, no parameters, results as text.
        frame::message(&mut request, frontend::BIND, &[b"\0", name, b"\0\0\0\0\0\0"].concat());
        frame::message(&mut request, frontend::DESCRIBE, b"P\0");
        frame::message(&mut request, frontend::EXECUTE, b"\0\0\0\0\0");
        frame::message(&mut request, frontend::SYNC, b"");
        Transaction { first, request }
    }
}

/// Where in the stream of replies a client is.
#[derive(Default)]
pub(crate) struct Replies {
    /// Bytes still to come of a message whose head has come.
    body_left: usize,
    /// The head of a message that has come in part.
    head: [u8; HEADER_LEN],
    head_len: usize,
}

impl Replies {
    /// Takes what was read; true: the transaction is over.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        let mut is_over = false;
        loop {
            let n = self.body_left.min(bytes.len());
            self.body_left -= n;
            bytes = &bytes[n..];
            let missing = (HEADER_LEN - self.head_len).min(bytes.len());
            if missing == 0 {
                return Ok(is_over);
            }
            self.head[self.head_len..self.head_len + missing].copy_from_slice(&bytes[..missing]);
            self.head_len += missing;
            bytes = &bytes[missing..];
            if let Some(header) = Header::read(&self.head[..self.head_len]).map_err(io::Error::other)? {
                match header.tag {
                    backend::READY_FOR_QUERY => is_over = true,
                    backend::ERROR_RESPONSE => return Err(refused(bytes)),
                    _ => {}
                }
                self.body_left = header.len - HEADER_LEN;
                self.head_len = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_over_with_its_ready_for_query_however_it_is_cut() {
        let mut stream = Vec::new();
        frame::message(&mut stream, backend::DATA_ROW, b"a row with a Z");
        frame::message(&mut stream, backend::COMMAND_COMPLETE, b"SELECT 1\0");
        let head = stream.len() + HEADER_LEN;
        frame::message(&mut stream, backend::READY_FOR_QUERY, b"I");
        for cut in 0..stream.len() {
            let mut replies = Replies::default();
            assert_eq!(replies.take(&stream[..cut]).unwrap(), cut >= head, "{cut}");
            assert_eq!(replies.take(&stream[cut..]).unwrap(), cut < head, "{cut}");
            assert!(replies.take(&stream).unwrap());
        }
    }

    #[test]
    fn an_error_ends_the_run() {
        let mut stream = Vec::new();
        frame::message(&mut stream, backend::ERROR_RESPONSE, b"SFATAL\0Mno\0\0");
        assert!(Replies::default().take(&stream).unwrap_err().to_string().contains("Mno"));
    }
}
