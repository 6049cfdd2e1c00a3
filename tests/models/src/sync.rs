//! In the place of `src/sync.rs`.

pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
pub(crate) use loom::sync::{Mutex, MutexGuard};

pub(crate) fn tickets() -> &'static AtomicU64 {
    loom::lazy_static! {
        static ref TICKETS: AtomicU64 = AtomicU64::new(0);
    }
    &TICKETS
}
