//! One process takes over from another (`-R`): the language that the two speak.
//!
//! ```text
//!   new process                                      old process
//!     console login, TAKEOVER and the format  ─────▶  checks who asks
//!                        ◀─────  HELLO, LISTENER..., HELLO_END
//!     binds what is missing, starts its workers
//!     READY  ─────────────────────────────────────▶  stops accepting
//!     accepts            ◀─────  STATE, POOL..., STATS, COMMIT
//!                        ◀─────  POOL, STATEMENT, CLIENT, SERVER, COMING, as clients come to rest
//!     ACK, a client or server each; serves it  ────▶  forgets it
//!     CANCEL  ────────────────────────────────────▶  looks for the client
//!                        ◀─────  CANCEL_DONE
//!     BYE: it ends, but not in need of help  ──────▶  goes on with those that are left, to their end
//!                        ◀─────  STATS, FINISHED, and the end of the connection
//! ```
//!
//! Before COMMIT whatever goes wrong leaves the old process as it was. After it, an end of the connection without
//! BYE means that the new process is gone: the old one serves on, and accepts again. A client or server
//! is the old process' until it has the ACK, and the new one touches it only after that was sent.
//!
//! `record` has the messages, `channel` the connection; the modules `give` and `take`, on a higher floor, are the two sides.

pub(crate) mod channel;
pub(crate) mod record;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use pgweir_proto::cancel::CancelKey;
use tokio::sync::{mpsc, oneshot};

use crate::relay::Statement;
use record::{ClientRecord, ServerRecord};

/// The number of the language; only processes of the same can take over from one another.
pub(crate) const FORMAT: u32 = 2;

/// So many clients at once have further descriptors, before those are sent: the system may allow few.
const PLACES: usize = 8;

/// The first byte of a message; those of the console's own messages are others.
pub(crate) mod tag {
    pub(crate) const HELLO: u8 = b'h';
    pub(crate) const LISTENER: u8 = b'l';
    pub(crate) const POOL: u8 = b'p';
    pub(crate) const HELLO_END: u8 = b'e';
    pub(crate) const STATE: u8 = b'z';
    pub(crate) const COMMIT: u8 = b'c';
    pub(crate) const STATEMENT: u8 = b't';
    pub(crate) const CLIENT: u8 = b'u';
    pub(crate) const SERVER: u8 = b's';
    pub(crate) const COMING: u8 = b'n';
    pub(crate) const STATS: u8 = b'i';
    pub(crate) const CANCEL_DONE: u8 = b'd';
    pub(crate) const FINISHED: u8 = b'f';

    pub(crate) const READY: u8 = b'r';
    pub(crate) const ACK: u8 = b'a';
    pub(crate) const CANCEL: u8 = b'k';
    pub(crate) const BYE: u8 = b'b';
}

/// What goes over.
#[derive(Debug)]
pub(crate) enum Carried {
    Client(Box<ClientRecord>),
    Server(Box<ServerRecord>),
}

/// A client or server on its way.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) carried: Carried,
    /// All that it refers to.
    pub(crate) statements: Vec<Arc<Statement>>,
    /// Further descriptors of its sockets, in the order of the record.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) answer: oneshot::Sender<Given>,
}

/// What has become of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// It is the other process'.
    Taken,
    /// It cannot go there.
    Stays,
    /// There is no other process any more.
    Lost,
}

/// Where sessions give themselves to.
#[derive(Debug, Clone)]
pub(crate) struct Giver(mpsc::Sender<Parcel>);

/// Room for one client, whose further descriptors may be made now.
pub(crate) struct Place<'a>(mpsc::Permit<'a, Parcel>);

impl Giver {
    pub(crate) fn new() -> (Giver, mpsc::Receiver<Parcel>) {
        let (send, receive) = mpsc::channel(PLACES);
        (Giver(send), receive)
    }

    /// `None`: there is no other process any more.
    pub(crate) async fn place(&self) -> Option<Place<'_>> {
        self.0.reserve().await.ok().map(Place)
    }
}

impl Place<'_> {
    /// To be awaited to its end: only then it is known whose the sockets are.
    pub(crate) async fn give(self, carried: Carried, statements: Vec<Arc<Statement>>, fds: Vec<OwnedFd>) -> Given {
        let (answer, answered) = oneshot::channel();
        self.0.send(Parcel { carried, statements, fds, answer });
        answered.await.unwrap_or(Given::Lost)
    }
}

/// A cancel request for a client that the process before this one may still have.
#[derive(Debug)]
pub(crate) struct ElderCancel {
    pub(crate) key: CancelKey,
    /// Whether it has had the client; dropped when that process is gone.
    pub(crate) done: oneshot::Sender<bool>,
}

/// The process before this one, for as long as it is there.
#[derive(Debug, Default)]
pub(crate) struct Elder(Mutex<Option<mpsc::Sender<ElderCancel>>>);

impl Elder {
    fn get(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<ElderCancel>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, cancels: Option<mpsc::Sender<ElderCancel>>) {
        *self.get() = cancels;
    }

    /// Has it carry out a cancel request; false if the client is not there.
    pub(crate) async fn cancel(&self, key: &CancelKey) -> bool {
        let Some(cancels) = self.get().clone() else { return false };
        let (done, is_done) = oneshot::channel();
        if cancels.send(ElderCancel { key: key.clone(), done }).await.is_err() {
            return false;
        }
        is_done.await.unwrap_or(false)
    }
}
