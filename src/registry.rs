//! Who is connected: a record per client and per server, kept current by relaxed stores, so
//! that the console, the janitor and cancel requests can look without stopping anyone.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use pgweir_proto::cancel::CancelKey;
use pgweir_proto::replication::Replication;

mod cancels;
mod dials;
mod live;
mod newcomers;

use crate::net::clock;
use cancels::Cancels;
pub(crate) use cancels::{CancelInfo, CancelState, CancelTarget, Listed};
pub(crate) use dials::{Dial, Dialing};
pub(crate) use live::{
    APPLICATION_NAME, Buffered, Buffers, CLIENT_ENCODING, DATE_STYLE, STANDARD_CONFORMING_STRINGS, TIME_ZONE, Values,
};
pub(crate) use newcomers::NewcomerInfo;

/// The other end of a socket, and ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ends {
    Tcp {
        peer: SocketAddr,
        local: SocketAddr,
    },
    /// Port number in the socket's name; process id of the peer, where the system tells it.
    Unix {
        port: u16,
        peer_pid: Option<u32>,
    },
}

impl std::fmt::Display for Ends {
    /// As log lines name the peer.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ends::Tcp { peer, .. } => peer.fmt(f),
            Ends::Unix { port, peer_pid: Some(pid) } => write!(f, "unix({pid}):{port}"),
            Ends::Unix { port, peer_pid: None } => write!(f, "unix:{port}"),
        }
    }
}

/// Where a server listens, as connected to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    /// Path of the socket; `@` in front means the abstract namespace.
    Unix(Arc<str>),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.fmt(f),
        }
    }
}

/// What SHOW CLIENTS and SHOW POOLS call a client's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ClientState {
    Login,
    /// Logged in; `link` tells whether it has a server.
    Active,
    /// Asked for a server and has none yet.
    Waiting,
}

impl ClientState {
    const ALL: [ClientState; 3] = [ClientState::Login, ClientState::Active, ClientState::Waiting];
}

/// A client, from its login until it is gone.
#[derive(Debug)]
pub(crate) struct ClientInfo {
    pub(crate) id: u64,
    /// What it is given to cancel its queries with, and what a cancel request must bring.
    pub(crate) cancel_key: CancelKey,
    pub(crate) ends: Ends,
    pub(crate) user: Arc<str>,
    pub(crate) database: Arc<str>,
    pub(crate) connect_us: u64,
    /// It came for replication.
    pub(crate) replication: Option<Replication>,
    /// Version and cipher; `None`: no TLS.
    pub(crate) tls: Option<Arc<str>>,
    /// When its last request came.
    request_us: AtomicU64,
    /// Since when it waits for a server; 0: it does not.
    wait_us: AtomicU64,
    /// When the running query began; 0: none runs.
    query_us: AtomicU64,
    /// When the open transaction began; 0: none is open.
    xact_us: AtomicU64,
    state: AtomicU8,
    /// Id of the server that it is linked to; 0: none.
    link: AtomicU64,
    /// Number of its latest query: a cancel request is for one query and for none after it.
    query_no: AtomicU64,
    /// Number of the query that a cancel request has come for; `NO_QUERY`: none has come yet.
    canceled_query: AtomicU64,
    /// It is on its way to the process that takes over.
    is_leaving: AtomicBool,
    /// The session's task.
    waker: Mutex<Option<Waker>>,
    /// Prepared statements that it has. For SHOW only.
    prepared: AtomicU32,
    /// The parameters as the session has them now. For SHOW only.
    values: Mutex<Values>,
    /// Of what it sends. For SHOW only.
    pub(crate) buffers: Buffers,
    /// Of its socket; -1 only in tests.
    pub(crate) fd: RawFd,
}

const NO_QUERY: u64 = u64::MAX;

/// One microsecond figure of a client; relaxed, for whoever looks from outside.
macro_rules! figure {
    ($($set:ident $get:ident $field:ident),*) => {$(
        #[inline]
        pub(crate) fn $set(&self, us: u64) {
            self.$field.store(us, Ordering::Relaxed);
        }

        #[inline]
        pub(crate) fn $get(&self) -> u64 {
            self.$field.load(Ordering::Relaxed)
        }
    )*};
}

/// What a client and a server have both: parameters, prepared statements.
macro_rules! named {
    () => {
        #[inline]
        pub(crate) fn set_prepared(&self, n: usize) {
            self.prepared.store(n as u32, Ordering::Relaxed);
        }

        pub(crate) fn prepared(&self) -> u32 {
            self.prepared.load(Ordering::Relaxed)
        }

        pub(crate) fn set_values(&self, values: &Values) {
            let mut known = self.values.lock().unwrap_or_else(PoisonError::into_inner);
            if !Arc::ptr_eq(&known, values) {
                *known = Arc::clone(values);
            }
        }

        /// That of the parameter at this position, if it is known.
        pub(crate) fn value(&self, position: usize) -> Option<Arc<str>> {
            self.values.lock().unwrap_or_else(PoisonError::into_inner).get(position)?.clone()
        }
    };
}

impl ClientInfo {
    pub(crate) fn new(
        id: u64,
        cancel_key: CancelKey,
        ends: Ends,
        user: Arc<str>,
        database: Arc<str>,
        connect_us: u64,
    ) -> Self {
        ClientInfo {
            id,
            cancel_key,
            ends,
            user,
            database,
            connect_us,
            replication: None,
            tls: None,
            request_us: AtomicU64::new(clock::now_us()),
            wait_us: AtomicU64::new(0),
            query_us: AtomicU64::new(0),
            xact_us: AtomicU64::new(0),
            state: AtomicU8::new(ClientState::Active as u8),
            link: AtomicU64::new(0),
            query_no: AtomicU64::new(0),
            canceled_query: AtomicU64::new(NO_QUERY),
            is_leaving: AtomicBool::new(false),
            waker: Mutex::new(None),
            prepared: AtomicU32::new(0),
            values: Mutex::new(Arc::new([])),
            buffers: Buffers::default(),
            fd: -1,
        }
    }

    named!();

    figure!(set_request_us request_us request_us, set_wait_us wait_us wait_us,
            set_xact_us xact_us xact_us);

    /// A query begins, unless one runs already; 0: it is over.
    #[inline]
    pub(crate) fn set_query_us(&self, us: u64) {
        if us > 0 && self.query_us() == 0 {
            // Only the client's own task writes it.
            self.query_no.store(self.query_no.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.query_us.store(us, Ordering::Release);
    }

    #[inline]
    pub(crate) fn query_us(&self) -> u64 {
        self.query_us.load(Ordering::Acquire)
    }

    /// The number of the query that runs, or for which the client waits.
    pub(crate) fn running_query(&self) -> Option<u64> {
        (self.query_us() > 0).then(|| self.query_no.load(Ordering::Relaxed))
    }

    pub(crate) fn set_waker(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    pub(crate) fn begin_wait(&self, now_us: u64) {
        self.set_wait_us(now_us);
        self.set_state(ClientState::Waiting);
    }

    pub(crate) fn end_wait(&self) {
        self.set_wait_us(0);
        self.set_state(ClientState::Active);
    }

    /// A cancel request has come for this query. It ends there if the client has not been linked
    /// to a server for it: either the asker sees the link after this, or the client sees this
    /// after it has set the link, since all four are sequentially consistent.
    pub(crate) fn cancel_query(&self, query: u64) {
        self.canceled_query.store(query, Ordering::SeqCst);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    /// A cancel request has come for the query that the client waits with.
    #[inline]
    pub(crate) fn is_query_canceled(&self) -> bool {
        self.running_query() == Some(self.canceled_query.load(Ordering::SeqCst))
    }

    /// Sequentially consistent, as a cancel request's note is: either the asker sees this after it has left its
    /// note, or the client sees the note after it has set this.
    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        self.is_leaving.store(is_leaving, Ordering::SeqCst);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::SeqCst)
    }

    #[inline]
    pub(crate) fn set_state(&self, state: ClientState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> ClientState {
        ClientState::ALL[usize::from(self.state.load(Ordering::Relaxed)) % ClientState::ALL.len()]
    }

    /// Sequentially consistent: see [`ServerInfo::begin_cancel`].
    #[inline]
    pub(crate) fn set_link(&self, server: u64) {
        self.link.store(server, Ordering::SeqCst);
    }

    pub(crate) fn link(&self) -> u64 {
        self.link.load(Ordering::SeqCst)
    }
}

/// A server connection, from its login until it is closed.
#[derive(Debug)]
pub(crate) struct ServerInfo {
    pub(crate) id: u64,
    pub(crate) ends: Ends,
    /// Where cancel requests go.
    pub(crate) address: Address,
    pub(crate) user: Arc<str>,
    pub(crate) database: Arc<str>,
    pub(crate) cancel_key: CancelKey,
    pub(crate) connect_us: u64,
    /// It is a walsender, of one client only.
    pub(crate) replication: Option<Replication>,
    /// Version and cipher; `None`: no TLS.
    pub(crate) tls: Option<Arc<str>>,
    /// As the database's entry names it, for whoever checks its certificate again; `None` only
    /// in tests.
    pub(crate) host: Option<Arc<str>>,
    request_us: AtomicU64,
    state: AtomicU8,
    /// Id of the client that it is linked to; 0: none.
    link: AtomicU64,
    /// The pooler's statements that it has prepared. For SHOW only.
    prepared: AtomicU32,
    /// The parameters as the server reports them. For SHOW only.
    values: Mutex<Values>,
    /// Of what it sends. For SHOW only.
    pub(crate) buffers: Buffers,
    /// Of its socket; -1 only in tests.
    pub(crate) fd: RawFd,
    /// To be closed as soon as it is free: RECONNECT or RELOAD made it obsolete.
    close_needed: AtomicBool,
    cancels: Cancels,
}

/// What SHOW SERVERS calls a server's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ServerPhase {
    Login,
    Active,
    Idle,
    Tested,
    BeingCanceled,
}

impl ServerPhase {
    const ALL: [ServerPhase; 5] =
        [ServerPhase::Login, ServerPhase::Active, ServerPhase::Idle, ServerPhase::Tested, ServerPhase::BeingCanceled];
}

impl ServerInfo {
    pub(crate) fn new(
        id: u64,
        ends: Ends,
        address: Address,
        user: Arc<str>,
        database: Arc<str>,
        cancel_key: CancelKey,
        connect_us: u64,
    ) -> Self {
        ServerInfo {
            id,
            ends,
            address,
            user,
            database,
            cancel_key,
            connect_us,
            replication: None,
            tls: None,
            host: None,
            request_us: AtomicU64::new(connect_us),
            state: AtomicU8::new(ServerPhase::Login as u8),
            link: AtomicU64::new(0),
            prepared: AtomicU32::new(0),
            values: Mutex::new(Arc::new([])),
            buffers: Buffers::default(),
            fd: -1,
            close_needed: AtomicBool::new(false),
            cancels: Cancels::default(),
        }
    }

    pub(crate) fn host(&self) -> &str {
        self.host.as_deref().unwrap_or_default()
    }

    named!();
    figure!(set_request_us request_us request_us);

    #[inline]
    pub(crate) fn set_phase(&self, phase: ServerPhase) {
        self.state.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> ServerPhase {
        ServerPhase::ALL[usize::from(self.state.load(Ordering::Relaxed)) % ServerPhase::ALL.len()]
    }

    #[inline]
    pub(crate) fn set_link(&self, client: u64) {
        self.link.store(client, Ordering::Relaxed);
    }

    pub(crate) fn link(&self) -> u64 {
        self.link.load(Ordering::Relaxed)
    }

    pub(crate) fn set_close_needed(&self) {
        self.close_needed.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_close_needed(&self) -> bool {
        self.close_needed.load(Ordering::Relaxed)
    }
}

/// All clients and servers of the process.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// By the first 8 bytes of their cancel keys, of which no two have the same.
    clients: DashMap<u64, Arc<ClientInfo>>,
    servers: DashMap<u64, Arc<ServerInfo>>,
    cancels: DashMap<u64, Arc<CancelInfo>>,
    newcomers: DashMap<u64, Arc<NewcomerInfo>>,
    dials: DashMap<u64, Arc<Dial>>,
    /// Descriptors of the sockets that we listen on, and where; `None`: the Unix socket.
    listeners: Mutex<Vec<(RawFd, Option<SocketAddr>)>>,
    /// Ids of clients, servers and cancel requests alike, as PgBouncer gives them.
    next_id: AtomicU64,
    /// Clients connected, logged in or not.
    pub(crate) connected: AtomicU32,
}

impl Registry {
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Lists the client that `make` makes of a key that no other client has.
    pub(crate) fn add_client(
        &self,
        new_key: impl Fn() -> CancelKey,
        make: impl FnOnce(CancelKey) -> ClientInfo,
    ) -> Arc<ClientInfo> {
        loop {
            let key = new_key();
            if let Entry::Vacant(free) = self.clients.entry(key.head()) {
                return Arc::clone(&free.insert(Arc::new(make(key))));
            }
        }
    }

    /// Lists a client that another process has given its key.
    pub(crate) fn adopt_client(&self, info: &Arc<ClientInfo>) {
        self.clients.insert(info.cancel_key.head(), Arc::clone(info));
    }

    pub(crate) fn remove_client(&self, info: &ClientInfo) {
        self.clients.remove(&info.cancel_key.head());
    }

    pub(crate) fn add_server(&self, info: &Arc<ServerInfo>) {
        self.servers.insert(info.id, Arc::clone(info));
    }

    pub(crate) fn remove_server(&self, info: &ServerInfo) {
        self.servers.remove(&info.id);
    }

    /// The client that was given this key.
    pub(crate) fn client_with(&self, key: &CancelKey) -> Option<Arc<ClientInfo>> {
        let client = Arc::clone(self.clients.get(&key.head())?.value());
        (client.cancel_key == *key).then_some(client)
    }

    /// How many clients and servers the tables have room for.
    pub(crate) fn capacities(&self) -> [usize; 2] {
        [self.clients.capacity(), self.servers.capacity()]
    }

    pub(crate) fn set_listeners(&self, listeners: Vec<(RawFd, Option<SocketAddr>)>) {
        *self.listeners.lock().unwrap_or_else(PoisonError::into_inner) = listeners;
    }

    pub(crate) fn listeners(&self) -> Vec<(RawFd, Option<SocketAddr>)> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn server(&self, id: u64) -> Option<Arc<ServerInfo>> {
        self.servers.get(&id).map(|entry| Arc::clone(entry.value()))
    }

    /// All clients that are logged in, oldest first.
    pub(crate) fn clients(&self) -> Vec<Arc<ClientInfo>> {
        let mut all: Vec<_> = self.clients.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_unstable_by_key(|c| c.id);
        all
    }

    /// All servers, oldest first.
    pub(crate) fn servers(&self) -> Vec<Arc<ServerInfo>> {
        let mut all: Vec<_> = self.servers.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_unstable_by_key(|s| s.id);
        all
    }
}
