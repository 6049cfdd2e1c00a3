//! Ctrl-C: what runs on the server is cancelled, the command ends, and what it would leave behind is cleaned up.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use pgweir_config::SslMode;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_postgres::CancelToken;

use super::conninfo::{Address, Conninfo};
use super::exit::Failure;
use super::stream::{ReadyMade, Stream};

/// How long the server may take to be told.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// How to cancel what one connection runs.
#[derive(Clone)]
pub(super) struct Canceller {
    pub(super) conninfo: Conninfo,
    /// The server that answered.
    pub(super) address: Address,
    /// How TLS was begun with it.
    pub(super) attempt: SslMode,
    pub(super) token: CancelToken,
}

impl Canceller {
    /// Whether it came in time, nobody says.
    async fn cancel(self) {
        let told = async {
            let stream = Stream::dial(&self.conninfo, &self.address, self.attempt).await?;
            self.token.cancel_query_raw(stream, ReadyMade).await.map_err(Failure::from)
        };
        // Too late, or the server is gone: then nothing runs there.
        let _ = timeout(CANCEL_TIMEOUT, told).await;
    }
}

/// Whether the command is to end, and what runs for it. Clones are of the same.
#[derive(Clone, Default)]
pub(crate) struct Interrupt {
    is_requested: Rc<Cell<bool>>,
    /// Wakes those that wait for nothing but time.
    requested: Rc<Notify>,
    running: Rc<RefCell<Slab<Canceller>>>,
}

impl Interrupt {
    /// To be asked between steps; queries ask by themselves.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.is_requested.get() { Err(Failure::failed("interrupted")) } else { Ok(()) }
    }

    /// Waits for something that is no query of ours, or fails as soon as the command is interrupted.
    pub(crate) async fn or<T>(&self, something: impl Future<Output = T>) -> Result<T, Failure> {
        self.check()?;
        tokio::select! {
            done = something => Ok(done),
            () = self.requested.notified() => Err(Failure::failed("interrupted")),
        }
    }

    pub(crate) async fn sleep(&self, time: Duration) -> Result<(), Failure> {
        self.or(sleep(time)).await
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.is_requested.get()
    }

    /// The connection is cancelled when the command is interrupted, until this is dropped.
    pub(super) fn register(&self, canceller: Canceller) -> Registered {
        let key = self.running.borrow_mut().insert(canceller);
        Registered { running: Rc::clone(&self.running), key }
    }

    /// Cancels all that runs now.
    pub(super) async fn request(&self) {
        self.is_requested.set(true);
        self.requested.notify_waiters();
        let running: Vec<Canceller> = self.running.borrow().iter().map(|(_, canceller)| canceller.clone()).collect();
        for canceller in running {
            canceller.cancel().await;
        }
    }
}

/// A connection that can be cancelled.
pub(super) struct Registered {
    running: Rc<RefCell<Slab<Canceller>>>,
    key: usize,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.running.borrow_mut().try_remove(self.key);
    }
}

type Action = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// What has to be undone however the command ends: a scratch database, a paused pooler, a half-made upload. The last is undone
/// first. Clones are of the same.
#[derive(Clone, Default)]
pub(crate) struct Cleanup {
    pending: Rc<RefCell<Vec<(u64, String, Action)>>>,
    next: Rc<Cell<u64>>,
}

/// One thing to undo. Dropping it changes nothing: it is undone at the end of the command.
#[must_use = "it is undone at the end of the command unless dismissed"]
pub(crate) struct Undo {
    cleanup: Cleanup,
    id: u64,
}

impl Cleanup {
    /// Registers `action`, to be called `what` in messages ("drop the database x"). It must not use connections that an
    /// interrupt cancels: see `Job::for_later`.
    pub(crate) fn later(
        &self,
        what: impl Into<String>,
        action: impl Future<Output = Result<(), Failure>> + 'static,
    ) -> Undo {
        let id = self.next.replace(self.next.get() + 1);
        self.pending.borrow_mut().push((id, what.into(), Box::pin(action)));
        Undo { cleanup: self.clone(), id }
    }

    fn take(&self, id: u64) -> Option<(u64, String, Action)> {
        let mut pending = self.pending.borrow_mut();
        let index = pending.iter().position(|(own, ..)| *own == id)?;
        Some(pending.remove(index))
    }

    /// What is still to be undone.
    pub(super) fn names(&self) -> Vec<String> {
        self.pending.borrow().iter().rev().map(|(_, what, _)| what.clone()).collect()
    }

    /// Undoes everything; what could not be undone is returned.
    pub(super) async fn run(&self) -> Vec<Failure> {
        let mut failures = Vec::new();
        loop {
            // Not borrowed while it runs.
            let last = self.pending.borrow_mut().pop();
            let Some((_, what, action)) = last else { return failures };
            failures.extend(action.await.err().map(|failure| failure.while_at(format!("could not {what}"))));
        }
    }
}

impl Undo {
    /// Undoes it now.
    pub(crate) async fn now(self) -> Result<(), Failure> {
        match self.cleanup.take(self.id) {
            Some((_, what, action)) => action.await.map_err(|failure| failure.while_at(format!("could not {what}"))),
            None => Ok(()),
        }
    }

    /// There is nothing to undo any more.
    pub(crate) fn dismiss(self) {
        self.cleanup.take(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_dismissed_is_undone_last_first() {
        let done = Rc::new(RefCell::new(Vec::new()));
        let cleanup = Cleanup::default();
        let later = |name: &'static str, result: Result<(), Failure>| {
            let done = Rc::clone(&done);
            cleanup.later(name, async move {
                done.borrow_mut().push(name);
                result
            })
        };
        let first = later("first", Ok(()));
        let second = later("second", Err(Failure::failed("no")));
        let third = later("third", Ok(()));
        let now = later("now", Ok(()));
        drop((first, second));
        third.dismiss();
        now.now().await.unwrap();
        assert_eq!(cleanup.names(), ["second", "first"]);
        let failures: Vec<String> = cleanup.run().await.iter().map(Failure::to_string).collect();
        assert_eq!(failures, ["could not second: no"]);
        assert_eq!(*done.borrow(), ["now", "second", "first"]);
        assert!(cleanup.names().is_empty());
    }
}
