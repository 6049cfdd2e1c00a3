//! What threads share in the pool, taken from here so that the models in `tests/models` can put loom's in its place.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
pub(crate) use std::sync::{Mutex, MutexGuard};

/// The next place in the order of all waiters.
pub(crate) fn tickets() -> &'static AtomicU64 {
    static TICKETS: AtomicU64 = AtomicU64::new(0);
    &TICKETS
}
