//! What the benchmarks in `benches/micro` drive: floors without I/O, put together as `client/` puts them.

use std::task::{Context, Poll, Waker};

pub use crate::admin::benching as console;
use crate::pool::{Checkout, Limits, Pool, Released, ServerState};
use crate::relay::{
    Books, Dialect, Edit, First, Names, Outstanding, Parses, Prepared, Replies, RequestLimits, Requests, Stop,
    Tracking, TrackingSettings,
};

/// What one read can take.
const READ_MAX: usize = 64 * 1024;

/// Longer runs are sent from where they were read, and not copied.
const COPY_MAX: usize = 4096;

const LIMITS: Limits =
    Limits { pool_size: 0, min_pool_size: 0, reserve_pool_size: 0, reserve_pool_timeout_us: 0, round_robin: false };

/// Servers that have logged in.
fn pool<C>(servers: impl IntoIterator<Item = C>) -> Pool<C> {
    let pool = Pool::new(1, LIMITS);
    for server in servers {
        pool.adopt(ServerState::Active);
        assert!(matches!(pool.release(ServerState::Active, Some(0), server, 0), Released::Kept));
    }
    pool
}

/// A server, as far as the relay's core goes.
struct Server {
    owed: Outstanding,
    prepared: Prepared,
    replies: Replies,
}

/// A client and a pool of one server, with neither sockets nor a clock between them.
pub struct Relay {
    limits: RequestLimits,
    requests: Requests,
    names: Names,
    pool: Pool<Box<Server>>,
    /// What the server got in the last transaction.
    pub to_server: Vec<u8>,
    /// What was copied for the client in the last transaction.
    to_client: Vec<u8>,
    /// Bytes that the client got in the last transaction.
    pub to_client_len: usize,
    edits: Vec<Edit>,
}

impl Relay {
    /// `max_prepared_statements`; 0: statements are not looked at.
    pub fn new(max_prepared_statements: usize) -> Relay {
        let server = Server { owed: Outstanding::new(), prepared: Prepared::default(), replies: Replies::default() };
        Relay {
            limits: RequestLimits {
                max_packet_size: i32::MAX as usize,
                disable_pqexec: false,
                tracking: TrackingSettings { per_server: max_prepared_statements, client_len_max: 1 << 24 },
                track_session_use: true,
            },
            requests: Requests::default(),
            names: Names::default(),
            pool: pool([Box::new(server)]),
            to_server: Vec::new(),
            to_client: Vec::new(),
            to_client_len: 0,
            edits: Vec::new(),
        }
    }

    /// A whole transaction: `request` comes from the client, `reply` from the server, and the server is released.
    ///
    /// # Panics
    /// If the relay would wait for more of either.
    pub fn transaction(&mut self, request: &[u8], reply: &[u8]) {
        assert_eq!(self.requests.first(request, self.limits), First::Server);
        let Checkout::Ready(idle) = self.pool.checkout(0, 0) else { panic!("the server is not free") };
        let mut server = idle.conn;
        self.to_server.clear();
        self.to_client.clear();
        self.to_client_len = 0;
        self.forward_requests(&mut server, request);
        let mut at = 0;
        while at < reply.len() {
            at += self.forward_replies(&mut server, &reply[at..reply.len().min(at + READ_MAX)]);
        }
        let Server { owed, replies, .. } = &*server;
        assert!(owed.is_idle() && replies.at_boundary() && self.requests.at_boundary(), "the transaction is not over");
        self.names.part();
        assert!(matches!(self.pool.release(ServerState::Active, Some(0), server, 0), Released::Kept));
    }

    fn forward_requests(&mut self, server: &mut Server, request: &[u8]) {
        let Relay { limits, requests, names, to_server, to_client, to_client_len, .. } = self;
        let Server { owed, prepared, replies } = server;
        let mut tracking = Tracking {
            owed,
            names,
            prepared,
            settings: limits.tracking,
            dialect: Dialect { pool: 1, settings: 0 },
            parses: Parses::default(),
            taken: None,
        };
        let (n, stop) = if limits.tracking.per_server > 0 {
            requests.track(request, *limits, &mut tracking, &mut |bytes| to_server.extend_from_slice(bytes), |_| {})
        } else {
            let (n, stop) = requests.scan(request, *limits, tracking.owed, |_| {});
            to_server.extend_from_slice(&request[..n]);
            (n, stop)
        };
        assert_eq!((n, stop), (request.len(), Stop::NeedMore));
        while replies.at_boundary()
            && let Some(answer) = owed.answer(&mut Books { names, prepared })
        {
            send(answer, to_client, to_client_len);
        }
    }

    /// Returns how much of `read` is dealt with; the rest comes again, with more behind it.
    fn forward_replies(&mut self, server: &mut Server, read: &[u8]) -> usize {
        let Relay { names, to_client, to_client_len, edits, .. } = self;
        let Server { owed, prepared, replies } = server;
        edits.clear();
        let n = replies.scan(read, owed, &mut Books { names, prepared }, edits, |_| {}).expect("a good server");
        assert!(n > 0, "half a reply");
        let mut at = 0;
        for edit in edits {
            send(&read[at..edit.at], to_client, to_client_len);
            send(edit.insert, to_client, to_client_len);
            at = edit.at + edit.hide_len;
        }
        send(&read[at..n], to_client, to_client_len);
        n
    }
}

fn send(bytes: &[u8], out: &mut Vec<u8>, len: &mut usize) {
    *len += bytes.len();
    if bytes.len() <= COPY_MAX {
        out.extend_from_slice(bytes);
    }
}

/// A pool whose servers are handed out and taken back.
pub struct Handout(Pool<u32>);

impl Handout {
    /// With so many servers, all of them idle.
    pub fn new(servers: u32) -> Handout {
        Handout(pool(0..servers))
    }

    /// A client comes, gets a server, and gives it back.
    ///
    /// # Panics
    /// If none is idle.
    pub fn turn(&self) {
        let Checkout::Ready(idle) = self.0.checkout(0, 0) else { panic!("no server is idle") };
        assert_eq!(self.0.release(ServerState::Active, Some(0), idle.conn, 0), Released::Kept);
    }

    /// With one server, which another client has: a client comes and waits, the other gives it back, the client
    /// gets it and gives it back in its turn.
    ///
    /// # Panics
    /// If there is more than one server.
    pub fn turn_with_a_wait(&self) {
        let Checkout::Ready(first) = self.0.checkout(0, 0) else { panic!("no server is idle") };
        let Checkout::Wait { key, .. } = self.0.checkout(0, 0) else { panic!("there is a second server") };
        let cx = Context::from_waker(Waker::noop());
        assert!(self.0.poll_wait(&key, &cx).is_pending());
        assert_eq!(self.0.release(ServerState::Active, Some(0), first.conn, 0), Released::Kept);
        let Poll::Ready(Some(second)) = self.0.poll_wait(&key, &cx) else { panic!("nothing was handed over") };
        assert_eq!(self.0.release(ServerState::Active, Some(0), second.conn, 0), Released::Kept);
    }
}
