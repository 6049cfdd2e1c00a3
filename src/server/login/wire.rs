//! Whole messages over a stream, for the few that a login takes.

use std::fmt;
use std::io;

use pgweir_proto::backend;
use pgweir_proto::frame::{BadLength, HEADER_LEN, Header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest message taken, in bytes. PostgreSQL's own longest is an error text.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// The most that a whole login may say, in bytes. PostgreSQL needs less than 1000.
const LOGIN_LEN_MAX: usize = 1024 * 1024;

const READ_LEN: usize = 2048;

/// Why there is no next message.
#[derive(Debug)]
pub(crate) enum WireError {
    Io(io::Error),
    /// The server closed the connection.
    Closed,
    BadHeader(BadLength),
    /// A message, or all of them together, longer than any login's.
    TooLong,
    /// An error as of protocol 2: text without a frame, which is what PostgreSQL has to say
    /// when it cannot even start a process for us.
    Unframed(String),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Io(error) => error.fmt(f),
            WireError::Closed => f.write_str("the server closed the connection"),
            WireError::BadHeader(header) => write!(f, "bad packet header: '{header}'"),
            WireError::TooLong => f.write_str("message too long for a login"),
            WireError::Unframed(text) => f.write_str(text),
        }
    }
}

/// A message from the server.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

/// A stream with what was read of it ahead.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    stream: S,
    buf: Vec<u8>,
    /// Bytes that may still come.
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Wire<S> {
        Wire::begun(stream, Vec::new())
    }

    /// On a stream of which `buf` was read already.
    pub(crate) fn begun(stream: S, buf: Vec<u8>) -> Wire<S> {
        Wire { stream, buf, left: LOGIN_LEN_MAX }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.stream.write_all(bytes).await.map_err(WireError::Io)?;
        self.stream.flush().await.map_err(WireError::Io)
    }

    /// The next message, whole.
    pub(crate) async fn next(&mut self) -> Result<Message, WireError> {
        let head = loop {
            match Header::read(&self.buf) {
                Ok(Some(head)) if head.len > MESSAGE_LEN_MAX => return Err(self.unframed(WireError::TooLong).await),
                Ok(Some(head)) if head.len <= self.buf.len() => break head,
                Ok(_) => self.read().await?,
                Err(bad) => return Err(self.unframed(WireError::BadHeader(bad)).await),
            }
        };
        let body = self.buf.drain(..head.len).skip(HEADER_LEN).collect();
        Ok(Message { tag: head.tag, body })
    }

    /// Everything that was read has been taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    async fn read(&mut self) -> Result<(), WireError> {
        if self.left == 0 {
            return Err(WireError::TooLong);
        }
        self.buf.reserve(READ_LEN);
        let mut limited = (&mut self.stream).take(self.left as u64);
        match limited.read_buf(&mut self.buf).await.map_err(WireError::Io)? {
            0 => Err(WireError::Closed),
            n => {
                self.left -= n;
                Ok(())
            }
        }
    }

    /// What stands where no header does: an old error's text up to its end, or just `otherwise`.
    async fn unframed(&mut self, otherwise: WireError) -> WireError {
        if self.buf.first() != Some(&backend::ERROR_RESPONSE) {
            return otherwise;
        }
        while !self.buf.contains(&0) && self.buf.len() < MESSAGE_LEN_MAX {
            if self.read().await.is_err() {
                break;
            }
        }
        let text = self.buf[1..].split(|&byte| byte == 0).next().unwrap_or_default();
        let is_text = |&byte: &u8| byte >= b' ' || byte.is_ascii_whitespace();
        match text.iter().all(is_text) {
            true => WireError::Unframed(String::from_utf8_lossy(text).trim().to_owned()),
            false => otherwise,
        }
    }
}
