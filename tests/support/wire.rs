//! A client that sends what it is told to, whole or cut to pieces, and checks every message it
//! gets.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use socket2::{Domain, SockAddr, Socket, Type};

use super::messages::{self as msg, Message, PgError, Row};
use super::process::{PATIENCE, wait_until};

/// Why no further message was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Closed,
    Timeout,
}

pub(crate) struct Wire {
    socket: Socket,
    /// Received.
    pending: Vec<u8>,
    /// How much of `pending` was taken: moving the rest for every message would make many slow.
    taken: usize,
    /// The latest value of every ParameterStatus seen.
    pub(crate) params: BTreeMap<String, String>,
    /// Notices seen by [`Wire::query`] and during login.
    pub(crate) notices: Vec<PgError>,
    /// Body of BackendKeyData; empty before login.
    pub(crate) key: Vec<u8>,
}

impl Wire {
    pub(crate) fn tcp(port: u16) -> Wire {
        Wire::try_tcp(port).expect("connect")
    }

    pub(crate) fn try_tcp(port: u16) -> std::io::Result<Wire> {
        Wire::try_tcp_at((Ipv4Addr::LOCALHOST, port).into())
    }

    pub(crate) fn try_tcp_at(address: SocketAddr) -> std::io::Result<Wire> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        Wire::connect(socket, &address.into())
    }

    pub(crate) fn tcp_from(from: Ipv4Addr, port: u16) -> Wire {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("bind");
        Wire::connect(socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("connect")
    }

    /// With a receive buffer so small that an unread result soon fills it.
    pub(crate) fn tcp_narrow(port: u16) -> Wire {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_recv_buffer_size(4096).expect("set SO_RCVBUF");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Wire::connect(socket, &address.into()).expect("connect")
    }

    pub(crate) fn unix(path: impl AsRef<Path>) -> Wire {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
        Wire::connect(socket, &SockAddr::unix(path).expect("a path")).expect("connect")
    }

    fn connect(socket: Socket, address: &SockAddr) -> std::io::Result<Wire> {
        socket.connect(address)?;
        if !address.is_unix() {
            socket.set_tcp_nodelay(true)?;
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire {
            socket,
            pending: Vec::new(),
            taken: 0,
            params: BTreeMap::new(),
            notices: Vec::new(),
            key: Vec::new(),
        })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("send");
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends while taking in what arrives, so that neither side waits for the other to read.
    pub(crate) fn send_and_take_in(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        self.set_write_timeout(Duration::from_millis(1));
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => self.take_in()?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what is there.
    fn take_in(&mut self) -> std::io::Result<()> {
        self.set_timeout(Duration::from_millis(1));
        let mut chunk = [0; 65_536];
        let read = self.socket.read(&mut chunk);
        self.set_timeout(PATIENCE);
        match read {
            Ok(count) => self.pending.extend(&chunk[..count]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    pub(crate) fn try_shutdown_write(&mut self) -> std::io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Ends the connection with a TCP reset.
    pub(crate) fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("set SO_LINGER");
    }

    /// Waits until the other side has read all that was sent over TCP, so that what follows
    /// arrives apart from it.
    pub(crate) fn wait_taken(&self) {
        let port = |address: SockAddr| address.as_socket().expect("TCP").port();
        let mine = port(self.socket.local_addr().expect("an address"));
        let theirs = port(self.socket.peer_addr().expect("an address"));
        // Addresses are in hexadecimal; 01 is ESTABLISHED; the queues are those of the peer.
        let peer = format!("0100007F:{theirs:04X} 0100007F:{mine:04X} 01 ");
        wait_until("the other side reads", PATIENCE, || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("read /proc/net/tcp");
            let rest = table.split_once(&peer).map(|(_, rest)| rest);
            rest.and_then(|rest| rest.get(9..17)).is_some_and(|queued| queued == "00000000")
        });
    }

    /// Reads whatever messages come until the connection ends, which it must; their tags.
    pub(crate) fn drain(&mut self) -> String {
        let mut tags = String::new();
        loop {
            match self.read() {
                Ok(message) => tags.push(message.tag as char),
                Err(Gone::Closed) => return tags,
                Err(Gone::Timeout) => panic!("still open after {tags:?}"),
            }
        }
    }

    /// Sends startup for `user` and `database` and what else is given, and logs in.
    pub(crate) fn login(
        &mut self,
        user: &str,
        database: &str,
        password: &str,
        more: &[(&str, &str)],
    ) -> Result<(), PgError> {
        let params = [&[("user", user), ("database", database)], more].concat();
        self.send(&msg::startup(msg::PROTOCOL_3_0, &params));
        self.authenticate(user, password)
    }

    /// Whether `user` gets into `database`; also false when the connection ends.
    pub(crate) fn try_login(&mut self, user: &str, database: &str) -> bool {
        let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", user), ("database", database)]);
        if self.try_send(&startup).is_err() {
            return false;
        }
        loop {
            match self.read() {
                Ok(message) if message.tag == b'Z' => return true,
                Ok(message) if message.tag != b'E' => {}
                _ => return false,
            }
        }
    }

    /// Answers whatever the server asks for until ReadyForQuery.
    pub(crate) fn authenticate(&mut self, user: &str, password: &str) -> Result<(), PgError> {
        loop {
            let message = self.recv();
            match message.tag {
                b'R' => self.answer(&message, user, password),
                b'S' => self.note_parameter(&message),
                b'K' => self.key = message.body,
                b'N' => self.notices.push(message.error()),
                b'E' => return Err(message.error()),
                b'Z' => return Ok(()),
                _ => panic!("unexpected during login: {message}"),
            }
        }
    }

    fn answer(&mut self, request: &Message, user: &str, password: &str) {
        match request.u32(0) {
            0 => {}
            3 => self.send(&msg::password(password)),
            5 => {
                let salt = request.body[4..8].try_into().expect("a salt");
                let hash = md5_hash(user.as_bytes(), password.as_bytes(), salt);
                self.send(&msg::password(&hash));
            }
            10 => self.scram(password),
            other => panic!("authentication request {other}"),
        }
    }

    /// Leaves a refusal for the caller to read; a server that cannot prove itself is a failure.
    fn scram(&mut self, password: &str) {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        self.send(&msg::sasl_initial("SCRAM-SHA-256", scram.message()));
        let Some(first) = self.recv_unless_error() else { return };
        assert_eq!(first.u32(0), 11, "not AuthenticationSASLContinue: {first}");
        scram.update(&first.body[4..]).expect("server-first-message");
        self.send(&msg::sasl_response(scram.message()));
        let Some(last) = self.recv_unless_error() else { return };
        assert_eq!(last.u32(0), 12, "not AuthenticationSASLFinal: {last}");
        scram.finish(&last.body[4..]).expect("the server's signature");
    }

    fn recv_unless_error(&mut self) -> Option<Message> {
        let message = self.recv();
        if message.tag != b'E' {
            return Some(message);
        }
        let bytes = msg::message(message.tag, &message.body);
        self.pending.splice(self.taken..self.taken, bytes);
        None
    }

    fn note_parameter(&mut self, message: &Message) {
        let [name, value] = message.strings(0).try_into().expect("name and value");
        self.params.insert(name, value);
    }

    /// The next message, or why there is none.
    pub(crate) fn read(&mut self) -> Result<Message, Gone> {
        self.fill(5)?;
        let head = &self.pending[self.taken..self.taken + 5];
        let length = u32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize;
        assert!((4..1 << 30).contains(&length), "no message begins with {head:?}");
        self.fill(1 + length)?;
        let bytes = &self.pending[self.taken..self.taken + 1 + length];
        let message = Message { tag: bytes[0], body: bytes[5..].to_vec() };
        self.taken += 1 + length;
        Ok(message)
    }

    fn fill(&mut self, needed: usize) -> Result<(), Gone> {
        if self.pending.len() - self.taken >= needed {
            return Ok(());
        }
        self.pending.drain(..self.taken);
        self.taken = 0;
        let mut chunk = [0; 65_536];
        while self.pending.len() < needed {
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(Gone::Closed),
                Ok(count) => self.pending.extend(&chunk[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(Gone::Timeout),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Err(Gone::Closed),
                Err(e) => panic!("read: {e}"),
            }
        }
        Ok(())
    }

    /// One byte outside of the message framing, as the answer to an SSLRequest is.
    pub(crate) fn read_byte(&mut self) -> Result<u8, Gone> {
        self.fill(1)?;
        self.taken += 1;
        Ok(self.pending[self.taken - 1])
    }

    pub(crate) fn recv(&mut self) -> Message {
        self.read().unwrap_or_else(|gone| panic!("expected a message, got {gone:?}"))
    }

    /// Reads as many messages as there are tags and compares.
    #[track_caller]
    pub(crate) fn expect(&mut self, tags: &str) -> Vec<Message> {
        let mut got: Vec<Message> = Vec::new();
        for tag in tags.bytes() {
            let seen = || got.iter().map(|m| format!("\n  {m}")).collect::<String>();
            match self.read() {
                Ok(message) if message.tag == tag => got.push(message),
                Ok(other) => panic!("expected {} of {tags}, got {other}\nafter:{}", tag as char, seen()),
                Err(gone) => panic!("expected {} of {tags}, got {gone:?}\nafter:{}", tag as char, seen()),
            }
        }
        got
    }

    /// Nothing arrives for as long as `quiet`.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self, quiet: Duration) {
        self.set_timeout(quiet);
        match self.read() {
            Err(Gone::Timeout) => {}
            Err(Gone::Closed) => panic!("expected silence, got the end"),
            Ok(message) => panic!("expected silence, got {message}"),
        }
        self.set_timeout(PATIENCE);
    }

    /// The other side closes without a further message.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        match self.read() {
            Err(Gone::Closed) => {}
            Err(Gone::Timeout) => panic!("the connection is still open"),
            Ok(message) => panic!("expected the end, got {message}"),
        }
    }

    /// One ErrorResponse, then the end.
    #[track_caller]
    pub(crate) fn expect_fatal(&mut self) -> PgError {
        let error = self.expect("E")[0].error();
        assert_eq!(error.severity, "FATAL", "{error}");
        self.expect_closed();
        error
    }

    pub(crate) fn set_timeout(&mut self, limit: Duration) {
        self.socket.set_read_timeout(Some(limit)).expect("set the read timeout");
    }

    pub(crate) fn set_write_timeout(&mut self, limit: Duration) {
        self.socket.set_write_timeout(Some(limit)).expect("set the write timeout");
    }

    /// The rows of everything up to ReadyForQuery, or the first error.
    pub(crate) fn answer_of_query(&mut self) -> Result<Vec<Row>, PgError> {
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let message = self.read().map_err(|gone| {
                failed.clone().unwrap_or_else(|| PgError {
                    severity: "GONE".into(),
                    code: String::new(),
                    message: format!("{gone:?}"),
                })
            })?;
            match message.tag {
                b'D' => rows.push(message.row()),
                b'S' => self.note_parameter(&message),
                b'N' => self.notices.push(message.error()),
                b'E' => failed = failed.or(Some(message.error())),
                b'Z' => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    pub(crate) fn query(&mut self, sql: &str) -> Result<Vec<Row>, PgError> {
        self.send(&msg::query(sql));
        self.answer_of_query()
    }

    /// Runs `sql`, which must succeed.
    #[track_caller]
    pub(crate) fn run(&mut self, sql: &str) {
        if let Err(e) = self.query(sql) {
            panic!("{sql}: {e}");
        }
    }

    /// The only value of the only row.
    #[track_caller]
    pub(crate) fn one(&mut self, sql: &str) -> String {
        let mut rows = self.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
        rows.remove(0).remove(0).unwrap_or_default()
    }

    /// The error of `sql`, which must fail.
    #[track_caller]
    pub(crate) fn fails(&mut self, sql: &str) -> PgError {
        match self.query(sql) {
            Ok(rows) => panic!("{sql} did not fail but gave {rows:?}"),
            Err(e) => e,
        }
    }

    /// The process that serves this client right now.
    #[track_caller]
    pub(crate) fn backend(&mut self) -> u32 {
        self.one("select pg_backend_pid()").parse().expect("a process id")
    }

    pub(crate) fn cancel_packet(&self) -> Vec<u8> {
        msg::packet(msg::CANCEL_REQUEST, &self.key)
    }
}
