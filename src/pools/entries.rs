//! Databases and users as they live in the process: limits shared by their pools.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use pgweir_config as config;

use crate::pool::Quota;

/// A database that clients have asked for or that is configured.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) name: Arc<str>,
    /// Its entry, or what the `*` entry makes of its name; replaced by a reload.
    entry: RwLock<Arc<config::Database>>,
    /// Server connections, against `max_db_connections`.
    pub(crate) servers: Arc<Quota>,
    /// Client connections, against `max_db_client_connections`.
    pub(crate) clients: Arc<Quota>,
    /// PAUSE was said for it, or KILL.
    paused: AtomicBool,
    /// It was KILL without a database, which RESUME without a database ends.
    killed: AtomicBool,
    /// DISABLE was said for it.
    disabled: AtomicBool,
}

impl Database {
    pub(crate) fn new(entry: Arc<config::Database>) -> Database {
        Database {
            name: entry.name.as_str().into(),
            entry: RwLock::new(entry),
            servers: Arc::default(),
            clients: Arc::default(),
            paused: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            disabled: AtomicBool::new(false),
        }
    }

    pub(crate) fn entry(&self) -> Arc<config::Database> {
        Arc::clone(&self.entry.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_entry(&self, entry: Arc<config::Database>) {
        *self.entry.write().unwrap_or_else(PoisonError::into_inner) = entry;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.killed.store(false, Ordering::Relaxed);
        self.paused.store(paused, Ordering::Relaxed);
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_killed(&self) {
        // One that was paused by name is resumed by name.
        if !self.paused.swap(true, Ordering::Relaxed) {
            self.killed.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed)
    }

    pub(crate) fn set_disabled(&self, disabled: bool) {
        self.disabled.store(disabled, Ordering::Relaxed);
    }
}

/// A user, as a client or as the one that pools log in with.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) name: Arc<str>,
    /// Server connections, against `max_user_connections`.
    pub(crate) servers: Arc<Quota>,
    /// Client connections, against `max_user_client_connections`.
    pub(crate) clients: Arc<Quota>,
}

impl User {
    pub(crate) fn new(name: &str) -> User {
        User { name: name.into(), servers: Arc::default(), clients: Arc::default() }
    }
}
