//! A server that says what a test wants it to say, for what PostgreSQL itself never does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::messages as msg;

pub(crate) struct FakeServer {
    pub(crate) port: u16,
    accepted: Arc<AtomicUsize>,
}

impl FakeServer {
    /// Runs `serve` on a thread for every connection, with its number from 0.
    pub(crate) fn start(serve: impl Fn(usize, Peer) + Send + Sync + 'static) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, serve) = (accepted.clone(), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (number, serve) = (count.fetch_add(1, Ordering::SeqCst), serve.clone());
                thread::spawn(move || serve(number, Peer(stream)));
            }
        });
        FakeServer { port, accepted }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// The pooler, as the server sees it. A write it no longer takes is no concern of the test's.
pub(crate) struct Peer(TcpStream);

impl Peer {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// What comes next, of whatever protocol; `None` at the end of the stream.
    pub(crate) fn read_some(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 4096];
        let n = self.0.read(&mut bytes).ok().filter(|&n| n > 0)?;
        bytes.truncate(n);
        Some(bytes)
    }

    /// Reads a request for TLS and leaves the answer to the test.
    pub(crate) fn read_ssl_request(&mut self) -> bool {
        let mut request = [0; 8];
        self.0.read_exact(&mut request).is_ok() && request[4..] == msg::SSL_REQUEST.to_be_bytes()
    }

    /// Declines encryption, and reads the startup packet; false at the end of the stream.
    pub(crate) fn read_startup(&mut self) -> bool {
        self.read_packet().is_some()
    }

    /// Declines encryption, and reads the packet that follows: a startup packet or a cancel
    /// request, by their code, and what is behind that.
    pub(crate) fn read_packet(&mut self) -> Option<(u32, Vec<u8>)> {
        loop {
            let mut head = [0; 8];
            self.0.read_exact(&mut head).ok()?;
            let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four"));
            let mut rest = vec![0; word(0) as usize - 8];
            self.0.read_exact(&mut rest).ok()?;
            match word(4) {
                msg::SSL_REQUEST | msg::GSSENC_REQUEST => self.send(b"N"),
                code => return Some((code, rest)),
            }
        }
    }

    /// The next message's tag, or `None` at the end of the stream.
    pub(crate) fn read_tag(&mut self) -> Option<u8> {
        self.read_message().map(|(tag, _)| tag)
    }

    /// The same with its body.
    pub(crate) fn read_message(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize;
        let mut body = vec![0; length - 4];
        self.0.read_exact(&mut body).ok()?;
        Some((head[0], body))
    }

    /// Lets the pooler in, as PostgreSQL would without a password.
    pub(crate) fn welcome(&mut self) {
        self.welcome_with(&[0, 0, 0, 1, 0, 0, 0, 2]);
    }

    /// The same with this cancel key.
    pub(crate) fn welcome_with(&mut self, key: &[u8]) {
        let status = |name: &str, value: &str| msg::message(b'S', format!("{name}\0{value}\0").as_bytes());
        let greeting = [
            msg::message(b'R', &[0, 0, 0, 0]),
            status("server_version", "15.0"),
            status("client_encoding", "UTF8"),
            status("DateStyle", "ISO, MDY"),
            status("TimeZone", "UTC"),
            status("standard_conforming_strings", "on"),
            msg::message(b'K', key),
            ready(b'I'),
        ];
        self.send(&greeting.concat());
    }

    /// Logs the pooler in; false when it left.
    pub(crate) fn accept_login(&mut self) -> bool {
        let came = self.read_startup();
        if came {
            self.welcome();
        }
        came
    }

    /// The pooler sees the end.
    pub(crate) fn close(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// Keeps the connection open until the pooler closes it.
    pub(crate) fn hold(&mut self) {
        while self.read_tag().is_some() {}
    }
}

pub(crate) fn ready(status: u8) -> Vec<u8> {
    msg::message(b'Z', &[status])
}

/// An ErrorResponse of fields like `"SFATAL"`.
pub(crate) fn error_response(fields: &[&str]) -> Vec<u8> {
    let body: String = fields.iter().map(|field| format!("{field}\0")).collect();
    msg::message(b'E', format!("{body}\0").as_bytes())
}

/// The answer to a query with one row of one column.
pub(crate) fn one_row(value: &str) -> Vec<u8> {
    let mut columns = vec![0, 1];
    columns.extend(b"value\0");
    columns.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    let mut row = vec![0, 1];
    row.extend((value.len() as u32).to_be_bytes());
    row.extend(value.as_bytes());
    [msg::message(b'T', &columns), msg::message(b'D', &row), msg::message(b'C', b"SELECT 1\0"), ready(b'I')].concat()
}
