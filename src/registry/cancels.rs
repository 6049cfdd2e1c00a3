//! Cancel requests: which are under way, and what keeps them from hitting a later query.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, MutexGuard, Notify};

use super::{ClientInfo, Ends, Registry, ServerInfo};

/// More requests at once are turned away. A client sends one and waits until it is over.
const CANCELS_MAX: usize = 10_000;

/// What SHOW CLIENTS and SHOW POOLS call the state of a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CancelState {
    /// For its turn.
    Waiting,
    /// For the connection that it will be sent on.
    Connecting,
    /// It has been sent.
    Active,
}

impl CancelState {
    const ALL: [CancelState; 3] = [CancelState::Waiting, CancelState::Connecting, CancelState::Active];
}

/// Where a cancel request goes.
#[derive(Debug)]
pub(crate) enum CancelTarget {
    Server(Arc<ServerInfo>),
    /// By its `peer_id`.
    Peer(u32),
}

/// A cancel request that is carried out.
#[derive(Debug)]
pub(crate) struct CancelInfo {
    pub(crate) id: u64,
    /// Of the connection that it came on.
    pub(crate) ends: Ends,
    /// Version and cipher, if that connection is encrypted.
    pub(crate) tls: Option<Arc<str>>,
    pub(crate) target: CancelTarget,
    pub(crate) connect_us: u64,
    state: AtomicU8,
    /// Id of the connection that it is sent on; 0: there is none yet.
    sent_as: AtomicU64,
    /// The ends of that connection, once it is there.
    sent_on: std::sync::Mutex<Option<Ends>>,
    /// KILL or KILL_CLIENT: it is given up, if it was not sent yet.
    pub(crate) killed: Notify,
}

impl CancelInfo {
    pub(crate) fn new(id: u64, ends: Ends, tls: Option<Arc<str>>, target: CancelTarget, connect_us: u64) -> CancelInfo {
        CancelInfo {
            id,
            ends,
            tls,
            target,
            connect_us,
            state: AtomicU8::new(CancelState::Waiting as u8),
            sent_as: AtomicU64::new(0),
            sent_on: std::sync::Mutex::default(),
            killed: Notify::new(),
        }
    }

    /// Id of the connection that it is sent on, and its ends as far as they are known.
    pub(crate) fn sent_on(&self) -> (u64, Option<Ends>) {
        let ends = self.sent_on.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.sent_as.load(Ordering::Relaxed), ends)
    }

    /// It is for a server of this database.
    pub(crate) fn is_for(&self, database: &str) -> bool {
        matches!(&self.target, CancelTarget::Server(server) if &*server.database == database)
    }

    pub(crate) fn set_state(&self, state: CancelState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> CancelState {
        CancelState::ALL[usize::from(self.state.load(Ordering::Relaxed)) % CancelState::ALL.len()]
    }
}

impl Registry {
    /// Lists a cancel request for as long as what is returned lives; `None`: there are too many.
    pub(crate) fn add_cancel(self: &Arc<Self>, info: CancelInfo) -> Option<Listed> {
        if self.cancels.len() >= CANCELS_MAX {
            return None;
        }
        let info = Arc::new(info);
        self.cancels.insert(info.id, Arc::clone(&info));
        Some(Listed { registry: Arc::clone(self), info })
    }

    /// All cancel requests under way, oldest first.
    pub(crate) fn cancels(&self) -> Vec<Arc<CancelInfo>> {
        let mut all: Vec<_> = self.cancels.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_unstable_by_key(|c| c.id);
        all
    }
}

/// A cancel request in the registry.
#[derive(Debug)]
pub(crate) struct Listed {
    registry: Arc<Registry>,
    info: Arc<CancelInfo>,
}

impl Listed {
    pub(crate) fn info(&self) -> &CancelInfo {
        &self.info
    }

    /// A connection is being made for it.
    pub(crate) fn connecting(&self) {
        self.info.sent_as.store(self.registry.next_id(), Ordering::Relaxed);
        self.info.set_state(CancelState::Connecting);
    }

    /// It is sent on a connection with these ends.
    pub(crate) fn sending(&self, ends: Option<Ends>) {
        *self.info.sent_on.lock().unwrap_or_else(PoisonError::into_inner) = ends;
        self.info.set_state(CancelState::Active);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.registry.cancels.remove(&self.info.id);
    }
}

/// The cancel requests for what one server runs.
#[derive(Debug, Default)]
pub(super) struct Cancels {
    /// Held by the one that is being sent; the others wait in the order in which they came.
    turn: Mutex<()>,
    /// How many have been sent.
    sent: AtomicU64,
    /// Sent, and perhaps not arrived yet.
    on_their_way: AtomicU32,
    /// Tells that one of them is over.
    over: Notify,
}

impl ServerInfo {
    /// One cancel request at a time is sent to a server.
    pub(crate) async fn cancel_turn(&self) -> MutexGuard<'_, ()> {
        self.cancels.turn.lock().await
    }

    /// How many cancel requests have been sent. One that is sent after another has come does
    /// for that one too.
    pub(crate) fn cancels_sent(&self) -> u64 {
        self.cancels.sent.load(Ordering::SeqCst)
    }

    /// Notes that a cancel request for `query` of `client` is about to be sent, unless that is
    /// over or the client has let go of this server.
    ///
    /// The fence that keeps a cancel from a later query: here the count goes up before the link
    /// is looked at; a release clears the link before it looks at the count. All four are
    /// sequentially consistent, so at least one side sees the other: either the request is not
    /// sent, or the server waits until it is over.
    pub(crate) fn begin_cancel(self: &Arc<Self>, client: &ClientInfo, query: u64) -> Option<CancelGuard> {
        self.cancels.on_their_way.fetch_add(1, Ordering::SeqCst);
        let guard = CancelGuard(Arc::clone(self));
        if client.link() != self.id || client.running_query() != Some(query) {
            return None;
        }
        self.cancels.sent.fetch_add(1, Ordering::SeqCst);
        Some(guard)
    }

    /// A cancel request is on its way here.
    #[inline]
    pub(crate) fn is_being_canceled(&self) -> bool {
        self.cancels.on_their_way.load(Ordering::SeqCst) > 0
    }

    /// Waits until no cancel request is on its way here.
    pub(crate) async fn cancels_over(&self) {
        while self.is_being_canceled() {
            // Stores a permit if it comes before we wait, and there is one waiter only.
            self.cancels.over.notified().await;
        }
    }
}

/// A cancel request on its way; the server is not reused while it lives.
#[derive(Debug)]
pub(crate) struct CancelGuard(Arc<ServerInfo>);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.cancels.on_their_way.fetch_sub(1, Ordering::SeqCst);
        self.0.cancels.over.notify_one();
    }
}
