//! Who is connected: a record per client and per server, kept current by relaxed stores, so
//! that the console, the janitor and cancel requests can look without stopping anyone.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use dashmap::DashMap;
use pgweir_proto::cancel::{CancelKey, SecretKey};
use pgweir_proto::replication::Replication;
use tokio::sync::Notify;

use crate::net::clock;

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    ActiveCancel,
    WaitingCancel,
}

impl ClientState {
    const ALL: [ClientState; 5] = [
        ClientState::Login,
        ClientState::Active,
        ClientState::Waiting,
        ClientState::ActiveCancel,
        ClientState::WaitingCancel,
    ];
}

/// A client, from its login until it is gone.
#[derive(Debug)]
pub(crate) struct ClientInfo {
    pub(crate) id: u64,
    /// What a cancel request must bring, besides the id as the process id.
    pub(crate) cancel_secret: SecretKey,
    pub(crate) ends: Ends,
    pub(crate) user: Arc<str>,
    pub(crate) database: Arc<str>,
    pub(crate) connect_us: u64,
    /// It came for replication.
    pub(crate) replication: Option<Replication>,
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
    /// A cancel request came while the client waited.
    is_wait_canceled: AtomicBool,
    /// The session's task.
    waker: Mutex<Option<Waker>>,
    /// Prepared statements that it has. For SHOW only.
    prepared: AtomicU32,
    /// As the session has it now; `None` where it is not known. For SHOW only.
    application_name: Mutex<Option<Arc<str>>>,
}

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

/// What a client and a server have both: `application_name`, prepared statements.
macro_rules! named {
    () => {
        #[inline]
        pub(crate) fn set_prepared(&self, n: usize) {
            self.prepared.store(n as u32, Ordering::Relaxed);
        }

        pub(crate) fn prepared(&self) -> u32 {
            self.prepared.load(Ordering::Relaxed)
        }

        pub(crate) fn set_application_name(&self, name: Option<&Arc<str>>) {
            let mut known = self.application_name.lock().unwrap_or_else(PoisonError::into_inner);
            if known.as_deref() != name.map(|name| &**name) {
                *known = name.cloned();
            }
        }

        pub(crate) fn application_name(&self) -> Option<Arc<str>> {
            self.application_name.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    };
}

impl ClientInfo {
    pub(crate) fn new(key: &CancelKey, ends: Ends, user: Arc<str>, database: Arc<str>, connect_us: u64) -> Self {
        ClientInfo {
            id: u64::from(key.pid),
            cancel_secret: key.secret.clone(),
            ends,
            user,
            database,
            connect_us,
            replication: None,
            request_us: AtomicU64::new(clock::now_us()),
            wait_us: AtomicU64::new(0),
            query_us: AtomicU64::new(0),
            xact_us: AtomicU64::new(0),
            state: AtomicU8::new(ClientState::Active as u8),
            link: AtomicU64::new(0),
            is_wait_canceled: AtomicBool::new(false),
            waker: Mutex::new(None),
            prepared: AtomicU32::new(0),
            application_name: Mutex::new(None),
        }
    }

    named!();

    /// What the client is given to cancel its queries with.
    pub(crate) fn key(&self) -> CancelKey {
        CancelKey { pid: self.id as u32, secret: self.cancel_secret.clone() }
    }

    figure!(set_request_us request_us request_us, set_wait_us wait_us wait_us,
            set_query_us query_us query_us, set_xact_us xact_us xact_us);

    pub(crate) fn set_waker(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    pub(crate) fn begin_wait(&self, now_us: u64) {
        self.is_wait_canceled.store(false, Ordering::Relaxed);
        self.set_wait_us(now_us);
        self.set_state(ClientState::Waiting);
    }

    pub(crate) fn end_wait(&self) {
        self.set_wait_us(0);
        self.set_state(ClientState::Active);
    }

    /// Ends the wait of a client that waits.
    pub(crate) fn cancel_wait(&self) {
        self.is_wait_canceled.store(true, Ordering::Relaxed);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    #[inline]
    pub(crate) fn is_wait_canceled(&self) -> bool {
        self.is_wait_canceled.load(Ordering::Relaxed)
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
    request_us: AtomicU64,
    state: AtomicU8,
    /// Id of the client that it is linked to; 0: none.
    link: AtomicU64,
    /// The pooler's statements that it has prepared. For SHOW only.
    prepared: AtomicU32,
    /// As the server reports it. For SHOW only.
    application_name: Mutex<Option<Arc<str>>>,
    /// To be closed as soon as it is free: RECONNECT or RELOAD made it obsolete.
    close_needed: AtomicBool,
    /// Cancel requests on their way to this server.
    cancels: AtomicU32,
    /// Tells that one of them is over.
    cancel_over: Notify,
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
            request_us: AtomicU64::new(connect_us),
            state: AtomicU8::new(ServerPhase::Login as u8),
            link: AtomicU64::new(0),
            prepared: AtomicU32::new(0),
            application_name: Mutex::new(None),
            close_needed: AtomicBool::new(false),
            cancels: AtomicU32::new(0),
            cancel_over: Notify::new(),
        }
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

    /// Notes a cancel request for `client`, unless the client has let go of this server.
    ///
    /// The fence that keeps a cancel from a later query: here the count goes up before the link
    /// is looked at; a release clears the link before it looks at the count. All four are
    /// sequentially consistent, so at least one side sees the other: either the request is not
    /// sent, or the server waits until it is over.
    pub(crate) fn begin_cancel(self: &Arc<Self>, client: &ClientInfo) -> Option<CancelGuard> {
        self.cancels.fetch_add(1, Ordering::SeqCst);
        let guard = CancelGuard(Arc::clone(self));
        (client.link() == self.id).then_some(guard)
    }

    /// A cancel request is on its way here.
    #[inline]
    pub(crate) fn is_being_canceled(&self) -> bool {
        self.cancels.load(Ordering::SeqCst) > 0
    }

    /// Cancel requests on their way here.
    pub(crate) fn cancels(&self) -> u32 {
        self.cancels.load(Ordering::Relaxed)
    }

    /// Waits until no cancel request is on its way here.
    pub(crate) async fn cancels_over(&self) {
        while self.is_being_canceled() {
            // Stores a permit if it comes before we wait, and there is one waiter only.
            self.cancel_over.notified().await;
        }
    }
}

/// A cancel request on its way; the server is not reused while it lives.
#[derive(Debug)]
pub(crate) struct CancelGuard(Arc<ServerInfo>);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.cancels.fetch_sub(1, Ordering::SeqCst);
        self.0.cancel_over.notify_one();
    }
}

/// All clients and servers of the process.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    clients: DashMap<u64, Arc<ClientInfo>>,
    servers: DashMap<u64, Arc<ServerInfo>>,
    /// Ids of clients and servers alike, as PgBouncer gives them.
    next_id: AtomicU64,
    /// Clients connected, logged in or not, and those of them not logged in yet.
    pub(crate) connected: AtomicU32,
    pub(crate) in_login: AtomicU32,
}

impl Registry {
    /// An id for a new client. It goes out as a process id: positive in the client's eyes.
    pub(crate) fn next_client_id(&self) -> u32 {
        loop {
            let id = (self.next_id.fetch_add(1, Ordering::Relaxed) % i32::MAX as u64) as u32 + 1;
            if !self.clients.contains_key(&u64::from(id)) {
                return id;
            }
        }
    }

    pub(crate) fn next_server_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn add_client(&self, info: &Arc<ClientInfo>) {
        self.clients.insert(info.id, Arc::clone(info));
    }

    pub(crate) fn remove_client(&self, info: &ClientInfo) {
        self.clients.remove(&info.id);
    }

    pub(crate) fn add_server(&self, info: &Arc<ServerInfo>) {
        self.servers.insert(info.id, Arc::clone(info));
    }

    pub(crate) fn remove_server(&self, info: &ServerInfo) {
        self.servers.remove(&info.id);
    }

    pub(crate) fn client(&self, id: u64) -> Option<Arc<ClientInfo>> {
        self.clients.get(&id).map(|entry| Arc::clone(entry.value()))
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
