//! Server connections that are being made.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pgweir_proto::replication::Replication;

use super::{Ends, Registry};

/// A connection from its first step to the end of its login. For the console only.
#[derive(Debug)]
pub(crate) struct Dial {
    /// That of the server it will be.
    pub(crate) id: u64,
    pub(crate) user: Arc<str>,
    pub(crate) database: Arc<str>,
    pub(crate) replication: Option<Replication>,
    pub(crate) connect_us: u64,
    /// `None` until it is connected.
    socket: Mutex<Option<(Ends, RawFd)>>,
    /// RECONNECT or RELOAD has made it obsolete: it will be closed when it is logged in.
    close_needed: AtomicBool,
}

impl Dial {
    pub(crate) fn new(
        id: u64,
        user: Arc<str>,
        database: Arc<str>,
        replication: Option<Replication>,
        connect_us: u64,
    ) -> Dial {
        let (socket, close_needed) = (Mutex::new(None), AtomicBool::new(false));
        Dial { id, user, database, replication, connect_us, socket, close_needed }
    }

    /// Both ends and the descriptor of the socket, as long as there is one.
    pub(crate) fn socket(&self) -> Option<(Ends, RawFd)> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_socket(&self, socket: Option<(Ends, RawFd)>) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    pub(crate) fn set_close_needed(&self) {
        self.close_needed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_close_needed(&self) -> bool {
        self.close_needed.load(Ordering::Relaxed)
    }
}

impl Registry {
    /// Lists a connection for as long as what is returned lives.
    pub(crate) fn add_dial(self: &Arc<Self>, dial: Dial) -> Dialing {
        let dial = Arc::new(dial);
        self.dials.insert(dial.id, Arc::clone(&dial));
        Dialing { registry: Arc::clone(self), dial }
    }

    /// All connections that are being made, oldest first.
    pub(crate) fn dials(&self) -> Vec<Arc<Dial>> {
        let mut all: Vec<_> = self.dials.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_unstable_by_key(|dial| dial.id);
        all
    }
}

/// A connection in the registry.
#[derive(Debug)]
pub(crate) struct Dialing {
    registry: Arc<Registry>,
    pub(crate) dial: Arc<Dial>,
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.registry.dials.remove(&self.dial.id);
    }
}
