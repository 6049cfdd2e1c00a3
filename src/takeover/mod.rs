//! One process takes over from another (`-R`): the language that the two speak.
//!
//! ```text
//!   new process                                      old process
//!     console login, TAKEOVER and the format  ─────▶  checks who asks
//!                        ◀─────  HELLO, LISTENER..., HELLO_END
//!     binds what is missing, starts its workers
//!     READY  ─────────────────────────────────────▶  stops accepting
//!     accepts            ◀─────  STATE, POOL..., STATS, COMMIT
//!                        ◀─────  POOL, STATEMENT, CLIENT, SERVER, COMING, ARRIVAL, as clients come to rest
//!     ACK, a client, server or arrival each  ──────▶  forgets it
//!     ASK: a cancel request, or what its console
//!     was told that is about old clients, too  ────▶  does it
//!                        ◀─────  ANSWER
//!     BYE: it ends, but not in need of help  ──────▶  goes on with those that are left, or ends as well
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

use tokio::sync::{mpsc, oneshot};

use crate::relay::Statement;
use record::{Ask, ClientRecord, ServerRecord};

/// The number of the language; only processes of the same can take over from one another.
pub(crate) const FORMAT: u32 = 3;

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
    pub(crate) const ARRIVAL: u8 = b'v';
    pub(crate) const ANSWER: u8 = b'd';
    pub(crate) const FINISHED: u8 = b'f';

    pub(crate) const READY: u8 = b'r';
    pub(crate) const ACK: u8 = b'a';
    pub(crate) const ASK: u8 = b'k';
    pub(crate) const BYE: u8 = b'b';
}

/// What goes over.
#[derive(Debug)]
pub(crate) enum Carried {
    Client(Box<ClientRecord>),
    Server(Box<ServerRecord>),
    /// A connection that nothing has come on yet.
    Arrival {
        is_proxied: bool,
    },
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
pub(crate) struct Place(mpsc::OwnedPermit<Parcel>);

impl Giver {
    pub(crate) fn new() -> (Giver, mpsc::Receiver<Parcel>) {
        let (send, receive) = mpsc::channel(PLACES);
        (Giver(send), receive)
    }

    /// `None`: there is no other process any more.
    pub(crate) async fn place(self) -> Option<Place> {
        self.0.reserve_owned().await.ok().map(Place)
    }
}

impl Place {
    /// To be awaited to its end: only then it is known whose the sockets are.
    pub(crate) async fn give(self, carried: Carried, statements: Vec<Arc<Statement>>, fds: Vec<OwnedFd>) -> Given {
        let (answer, answered) = oneshot::channel();
        // What is sent when nobody receives any more is dropped with the last sender, so this must not be one.
        drop(self.0.send(Parcel { carried, statements, fds, answer }));
        answered.await.unwrap_or(Given::Lost)
    }
}

/// Something for the process before this one to do.
#[derive(Debug)]
pub(crate) struct ElderAsk {
    pub(crate) ask: Ask,
    /// Whether it has; dropped when that process is gone.
    pub(crate) answer: oneshot::Sender<bool>,
}

/// The process before this one, for as long as it is there.
#[derive(Debug, Default)]
pub(crate) struct Elder(Mutex<Option<mpsc::Sender<ElderAsk>>>);

impl Elder {
    fn get(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<ElderAsk>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, asks: Option<mpsc::Sender<ElderAsk>>) {
        *self.get() = asks;
    }

    /// Has it do something; false if that is about nothing that it has, or there is no such process.
    pub(crate) async fn ask(&self, ask: Ask) -> bool {
        let Some(asks) = self.get().clone() else { return false };
        let (answer, answered) = oneshot::channel();
        if asks.send(ElderAsk { ask, answer }).await.is_err() {
            return false;
        }
        // As with a parcel.
        drop(asks);
        answered.await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_given_too_late_is_told() {
        let (giver, receiver) = Giver::new();
        let place = giver.clone().place().await.unwrap();
        drop(receiver);
        assert!(giver.clone().place().await.is_none());
        drop(giver);
        let given = place.give(Carried::Arrival { is_proxied: false }, Vec::new(), Vec::new());
        assert_eq!(tokio::time::timeout(std::time::Duration::from_secs(5), given).await, Ok(Given::Lost));
    }
}
