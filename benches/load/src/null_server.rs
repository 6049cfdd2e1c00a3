//! `null-server`: speaks as much of PostgreSQL as a pooler needs to log in, and answers each query at once, whatever it
//! is. Behind it a pooler is all that takes time.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use pgweir_proto::auth::authentication_ok;
use pgweir_proto::backend::{self, TransactionStatus};
use pgweir_proto::console::{command_complete, parameter_status, ready_for_query};
use pgweir_proto::extended::{bind_complete, close_complete, no_parameters, parse_complete};
use pgweir_proto::frame::{self, HEADER_LEN, Header};
use pgweir_proto::frontend;
use pgweir_proto::startup::{StartupRequest, packet_len, parse_startup};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

const EVENTS_MAX: usize = 1024;
const READ_MAX: usize = 64 * 1024;

/// The listener among the connections.
const LISTENER: u64 = 0;

/// What a PostgreSQL reports at the login, of that which poolers keep.
const PARAMETERS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", "17.0"),
    ("session_authorization", "bench"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];

pub(crate) struct NullServer {
    /// 0: any.
    pub(crate) port: u16,
    pub(crate) rows: usize,
    /// Bytes of the one value in each.
    pub(crate) row_len: usize,
}

/// The replies, made once.
struct Replies {
    row_description: Vec<u8>,
    /// All rows and the CommandComplete behind them.
    rows: Vec<u8>,
    ready: Vec<u8>,
}

impl Replies {
    fn new(server: &NullServer) -> Replies {
        let (mut row_description, mut rows, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        // One column of type text, of no table, in text form.
        let column = b"\0\x01value\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
        frame::message(&mut row_description, backend::ROW_DESCRIPTION, column);
        let row = [b"\0\x01", &(server.row_len as u32).to_be_bytes()[..], &vec![b'x'; server.row_len]].concat();
        (0..server.rows).for_each(|_| frame::message(&mut rows, backend::DATA_ROW, &row));
        command_complete(&mut rows, &format!("SELECT {}", server.rows));
        ready_for_query(&mut ready, TransactionStatus::Idle);
        Replies { row_description, rows, ready }
    }

    /// What comes back for one message; false: nothing does, and the connection is over.
    fn answer(&self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> bool {
        match tag {
            frontend::QUERY => {
                [&self.row_description, &self.rows, &self.ready].iter().for_each(|reply| out.extend_from_slice(reply));
            }
            frontend::PARSE => parse_complete(out),
            frontend::BIND => bind_complete(out),
            frontend::DESCRIBE => {
                if body.first() == Some(&b'S') {
                    no_parameters(out);
                }
                out.extend_from_slice(&self.row_description);
            }
            frontend::EXECUTE => out.extend_from_slice(&self.rows),
            frontend::CLOSE => close_complete(out),
            frontend::SYNC => out.extend_from_slice(&self.ready),
            frontend::FLUSH => {}
            _ => return false,
        }
        true
    }
}

struct Connection {
    stream: TcpStream,
    is_in: bool,
    input: Vec<u8>,
    /// What the socket did not take; while there is some, nothing is read.
    output: Vec<u8>,
}

/// Serves until it is ended; prints the port.
pub(crate) fn run(server: &NullServer) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, server.port))?;
    listener.set_nonblocking(true)?;
    println!(r#"{{"port": {}}}"#, listener.local_addr()?.port());
    let replies = Replies::new(server);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut numbers = LISTENER + 1..;
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
    let mut scratch = vec![0; READ_MAX];
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        for event in events.drain(..) {
            let number = { event.data }.u64();
            if number == LISTENER {
                while let Some(connection) = Connection::accept(&listener)? {
                    let number = numbers.next().expect("fewer than 2^64 connections");
                    epoll::add(&epoll, &connection.stream, EventData::new_u64(number), EventFlags::IN)?;
                    connections.insert(number, connection);
                }
            } else if let Some(connection) = connections.get_mut(&number)
                && !connection.serve(&epoll, number, &replies, &mut scratch)
            {
                connections.remove(&number);
            }
        }
    }
}

impl Connection {
    fn accept(listener: &TcpListener) -> io::Result<Option<Connection>> {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Some(Connection { stream, is_in: false, input: Vec::new(), output: Vec::new() }))
    }

    /// Its socket is ready; false: it is over.
    fn serve(&mut self, epoll: &OwnedFd, number: u64, replies: &Replies, scratch: &mut [u8]) -> bool {
        let was_blocked = !self.output.is_empty();
        if !was_blocked {
            match self.stream.read(scratch) {
                Ok(0) => return false,
                Ok(n) => self.input.extend_from_slice(&scratch[..n]),
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
            if !self.answer(replies) {
                return false;
            }
        }
        if self.send().is_err() {
            return false;
        }
        let is_blocked = !self.output.is_empty();
        let waits_for = if is_blocked { EventFlags::OUT } else { EventFlags::IN };
        is_blocked == was_blocked || epoll::modify(epoll, &self.stream, EventData::new_u64(number), waits_for).is_ok()
    }

    /// Answers what has come whole.
    fn answer(&mut self, replies: &Replies) -> bool {
        let mut at = 0;
        while !self.is_in {
            match self.log_in(at) {
                Some(Some(n)) => at += n,
                Some(None) => break,
                None => return false,
            }
        }
        while self.is_in {
            let header = match Header::read(&self.input[at..]) {
                Ok(Some(header)) if self.input.len() - at >= header.len => header,
                Ok(_) => break,
                Err(_) => return false,
            };
            if !replies.answer(header.tag, &self.input[at + HEADER_LEN..at + header.len], &mut self.output) {
                return false;
            }
            at += header.len;
        }
        self.input.drain(..at);
        true
    }

    /// The packet at `at`, before the login: `Some` of its length if it is whole, `None` if it is none.
    fn log_in(&mut self, at: usize) -> Option<Option<usize>> {
        let Some(header) = self.input[at..].first_chunk() else { return Some(None) };
        let len = packet_len(header).ok()?;
        let Some(packet) = self.input.get(at..at + len) else { return Some(None) };
        match parse_startup(packet).ok()? {
            StartupRequest::Startup(_) => {
                authentication_ok(&mut self.output);
                for (name, value) in PARAMETERS {
                    parameter_status(&mut self.output, name, value);
                }
                frame::message(&mut self.output, backend::BACKEND_KEY_DATA, &[0; 8]);
                ready_for_query(&mut self.output, TransactionStatus::Idle);
                self.is_in = true;
            }
            StartupRequest::Ssl | StartupRequest::GssEnc => self.output.push(b'N'),
            StartupRequest::Cancel(_) => return None,
        }
        Some(Some(len))
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
