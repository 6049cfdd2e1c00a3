//! Two clients and one server between which the relay's core stands, as `client/` drives it.
//! What a client gets is held against a session of its own, to which it says the same.

use pgweir_proto::error_response::ErrorFields;
use pgweir_proto::frame::{HEADER_LEN, Header};

use super::super::{
    Books, Dialect, Edit, First, Names, Outstanding, Parses, Prepared, Replies, RequestLimits, Requests, Stop,
    Tracking, TrackingSettings,
};
use super::postgres::{Postgres, SYNTAX, TAKEN};

const LIMITS: RequestLimits = RequestLimits {
    max_packet_size: i32::MAX as usize,
    disable_pqexec: false,
    // So few that statements are evicted all the time.
    tracking: TrackingSettings { per_server: 2, client_len_max: 1 << 20 },
    track_session_use: true,
};

/// What one read can take.
const READ_MAX: usize = 64 * 1024;

const FLUSH: &[u8] = b"H\0\0\0\x04";

struct Server {
    postgres: Postgres,
    owed: Outstanding,
    prepared: Prepared,
    replies: Replies,
    partial: Vec<u8>,
}

impl Server {
    fn new() -> Server {
        Server {
            postgres: Postgres::new(),
            owed: Outstanding::new(),
            prepared: Prepared::default(),
            replies: Replies::default(),
            partial: Vec::new(),
        }
    }
}

#[derive(Default)]
struct Client {
    names: Names,
    requests: Requests,
    partial: Vec<u8>,
    is_held: bool,
    /// Sent, and not read by the pooler.
    unread: Vec<u8>,
    /// What it got.
    got: Vec<u8>,
    /// What it would have got without a pooler.
    due: Vec<u8>,
    /// Its connection was closed.
    is_gone: bool,
    /// It has sent Syncs in a COPY that has failed: nobody can tell which of them are answered.
    is_unsure: bool,
}

pub(super) struct Pooler {
    clients: [Client; 2],
    direct: [Postgres; 2],
    server: Server,
    /// The client that has the server.
    holder: Option<usize>,
}

impl Pooler {
    pub(super) fn new() -> Pooler {
        Pooler {
            clients: Default::default(),
            direct: [Postgres::new(), Postgres::new()],
            server: Server::new(),
            holder: None,
        }
    }

    /// The client's session without a pooler, which has carried out all that the client has sent.
    pub(super) fn direct(&self, client: usize) -> &Postgres {
        &self.direct[client]
    }

    /// Nothing of what the client has sent waits or is being carried out, and nothing it sends would wait.
    pub(super) fn is_at_ease(&self, client: usize) -> bool {
        let Client { unread, partial, .. } = &self.clients[client];
        let has_turn = match self.holder {
            Some(holder) => holder == client && self.server.owed.is_at_ease(),
            None => true,
        };
        has_turn && unread.is_empty() && partial.is_empty()
    }

    pub(super) fn send(&mut self, client: usize, message: &[u8]) {
        self.direct[client].send(message);
        while self.direct[client].step() {}
        let Client { unread, due, .. } = &mut self.clients[client];
        due.append(&mut self.direct[client].output);
        unread.extend_from_slice(message);
    }

    /// The pooler reads so many bytes of what a client has sent; false: nothing has happened.
    pub(super) fn read_client(&mut self, at: usize, len: usize) -> bool {
        let client = &mut self.clients[at];
        let is_linked = self.holder == Some(at);
        if client.is_gone || client.is_held || (self.holder.is_some() && !is_linked) {
            return false;
        }
        let n = len.min(client.unread.len()).min(READ_MAX - client.partial.len());
        if n == 0 && (is_linked || client.partial.is_empty()) {
            return false;
        }
        let mut buf = std::mem::take(&mut client.partial);
        buf.extend(client.unread.drain(..n));
        if is_linked {
            self.forward_requests(at, &buf);
            self.try_release();
            return true;
        }
        let mut rest = &buf[..];
        loop {
            match client.requests.first(rest, LIMITS) {
                First::Server => break,
                First::NeedMore => {
                    client.partial = rest.to_vec();
                    return n > 0;
                }
                First::Discard(n) => rest = &rest[n..],
                First::Terminate => panic!("nobody has said goodbye"),
                First::Fault(fault) => panic!("{fault:?}"),
            }
        }
        self.holder = Some(at);
        self.forward_requests(at, rest);
        self.try_release();
        true
    }

    fn forward_requests(&mut self, at: usize, buf: &[u8]) {
        let Client { names, requests, partial, is_held, got, .. } = &mut self.clients[at];
        let Server { postgres, owed, prepared, replies, .. } = &mut self.server;
        let mut tracking = Tracking {
            owed,
            names,
            prepared,
            settings: LIMITS.tracking,
            dialect: Dialect { pool: 1, settings: 0 },
            parses: Parses::default(),
            taken: None,
        };
        let (n, stop) = requests.track(buf, LIMITS, &mut tracking, &mut |bytes| postgres.send(bytes), |_| {});
        if owed.is_full() {
            postgres.send(FLUSH);
        }
        while replies.at_boundary()
            && let Some(answer) = owed.answer(&mut Books { names, prepared })
        {
            got.extend_from_slice(answer);
        }
        *is_held = stop == Stop::Hold;
        match stop {
            Stop::NeedMore | Stop::Hold => partial.extend_from_slice(&buf[n..]),
            stop => panic!("{stop:?}"),
        }
    }

    /// The server carries out its next message.
    pub(super) fn step_server(&mut self) -> bool {
        self.server.postgres.step()
    }

    /// The pooler reads so many bytes of what the server has sent.
    pub(super) fn read_server(&mut self, len: usize) -> bool {
        let Server { postgres, owed, prepared, replies, partial } = &mut self.server;
        let n = len.min(postgres.output.len()).min(READ_MAX - partial.len());
        if n == 0 {
            return false;
        }
        let at = self.holder.expect("a server that nobody has says nothing");
        let client = &mut self.clients[at];
        partial.extend(postgres.output.drain(..n));
        let buf = std::mem::take(partial);
        let mut edits = Vec::new();
        let mut books = Books { names: &mut client.names, prepared };
        match replies.scan(&buf, owed, &mut books, &mut edits, |_| {}) {
            Ok(n) => {
                push_edited(&mut client.got, &buf[..n], &edits);
                partial.extend_from_slice(&buf[n..]);
            }
            Err(_) if owed.is_doubtful() => {
                self.part(at);
                return true;
            }
            Err(fault) => panic!("{fault:?}"),
        }
        client.is_unsure |= owed.is_doubtful();
        if client.is_held && owed.has_room() {
            let held = std::mem::take(&mut client.partial);
            self.forward_requests(at, &held);
        }
        self.try_release();
        true
    }

    /// As `is_clean` and `try_release` of `client/relay.rs`.
    fn try_release(&mut self) {
        let Server { postgres, owed, prepared, replies, partial } = &mut self.server;
        let Some(at) = self.holder else { return };
        let client = &mut self.clients[at];
        let is_clean = owed.is_idle() && replies.at_boundary() && partial.is_empty() && client.requests.at_boundary();
        if !is_clean || prepared.is_pinned() {
            return;
        }
        if owed.is_doubtful() {
            self.server = Server::new();
        } else {
            assert!(postgres.is_free(), "another client would get what is not its own");
        }
        client.names.part();
        client.is_held = false;
        self.holder = None;
    }

    /// Both connections are closed.
    fn part(&mut self, at: usize) {
        self.clients[at].is_gone = true;
        self.server = Server::new();
        self.holder = None;
    }

    /// Lets everything that can happen happen.
    pub(super) fn settle(&mut self) {
        loop {
            let read = [0, 1].map(|client| self.read_client(client, READ_MAX)).contains(&true);
            let stepped = self.step_server();
            if !(read | stepped | self.read_server(READ_MAX)) {
                return;
            }
        }
    }

    /// Everybody has got the beginning of what was due, whole messages or not.
    pub(super) fn check(&self) {
        for client in self.clients.iter().filter(|client| !client.is_unsure) {
            let (got, due) = (seen(&client.got), seen(&client.due));
            assert!(due.starts_with(&got), "{}", Difference { got, due });
        }
    }

    /// Everybody has got all of it, and nobody has the server, unless one who has is unsure.
    pub(super) fn check_end(&self) {
        self.check();
        if self.holder.is_some_and(|holder| self.clients[holder].is_unsure) {
            return;
        }
        for client in self.clients.iter().filter(|client| !client.is_gone && !client.is_unsure) {
            let (got, due) = (seen(&client.got), seen(&client.due));
            assert!(got == due, "{}", Difference { got, due });
        }
        assert_eq!(self.holder, None, "the server is not released");
    }
}

fn push_edited(out: &mut Vec<u8>, buf: &[u8], edits: &[Edit]) {
    let mut at = 0;
    for edit in edits {
        out.extend_from_slice(&buf[at..edit.at]);
        out.extend_from_slice(edit.insert);
        at = edit.at + edit.hide_len;
    }
    out.extend_from_slice(&buf[at..]);
}

/// A message as a client sees it: errors by their SQLSTATE.
type Seen = (char, String);

/// The whole messages of a stream.
fn seen(stream: &[u8]) -> Vec<Seen> {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Ok(Some(head)) = Header::read(&stream[at..])
        && let Some(message) = stream.get(at..at + head.len)
    {
        let body = &message[HEADER_LEN..];
        let text = match head.tag {
            b'E' => match ErrorFields::parse(body).sqlstate.expect("an SQLSTATE").to_string() {
                // Of two things that are wrong with a Parse, the pooler may have another one named.
                code if code == TAKEN || code == SYNTAX => "42".to_owned(),
                code => code,
            },
            _ => body.escape_ascii().to_string(),
        };
        all.push((char::from(head.tag), text));
        at += head.len;
    }
    all
}

struct Difference {
    got: Vec<Seen>,
    due: Vec<Seen>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let same = self.got.iter().zip(&self.due).take_while(|(got, due)| got == due).count();
        let tail = |all: &[Seen]| all[same..].iter().take(5).cloned().collect::<Vec<_>>();
        write!(f, "after {same} replies: got {:?}, due {:?}", tail(&self.got), tail(&self.due))
    }
}
