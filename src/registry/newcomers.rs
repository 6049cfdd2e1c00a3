//! Clients that have connected and are not logged in yet.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Ends, Registry};

/// A client in its login. For SHOW only.
#[derive(Debug)]
pub(crate) struct NewcomerInfo {
    pub(crate) id: u64,
    /// A balancer's until it has told of its client.
    ends: Mutex<Ends>,
    pub(crate) fd: RawFd,
    pub(crate) connect_us: u64,
    /// User and database; `None` until its startup packet has come.
    names: Mutex<Option<(Arc<str>, Arc<str>)>>,
}

impl NewcomerInfo {
    pub(crate) fn new(id: u64, ends: Ends, fd: RawFd, connect_us: u64) -> NewcomerInfo {
        NewcomerInfo { id, ends: Mutex::new(ends), fd, connect_us, names: Mutex::new(None) }
    }

    pub(crate) fn set_ends(&self, ends: &Ends) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone_from(ends);
    }

    pub(crate) fn ends(&self) -> Ends {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_names(&self, user: &str, database: &str) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = Some((user.into(), database.into()));
    }

    pub(crate) fn names(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Registry {
    pub(crate) fn add_newcomer(&self, info: &Arc<NewcomerInfo>) {
        self.newcomers.insert(info.id, Arc::clone(info));
    }

    pub(crate) fn remove_newcomer(&self, id: u64) {
        self.newcomers.remove(&id);
    }

    /// All clients that are not logged in yet, oldest first.
    pub(crate) fn newcomers(&self) -> Vec<Arc<NewcomerInfo>> {
        let mut all: Vec<_> = self.newcomers.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_unstable_by_key(|newcomer| newcomer.id);
        all
    }

    pub(crate) fn newcomers_count(&self) -> usize {
        self.newcomers.len()
    }
}
