//! What the console looks at in a client's or a server's record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A value for each tracked parameter; `None` where none is known.
pub(crate) type Values = Arc<[Option<Arc<str>>]>;

// Where those that are always tracked stand among them.
pub(crate) const CLIENT_ENCODING: usize = 0;
pub(crate) const DATE_STYLE: usize = 1;
pub(crate) const TIME_ZONE: usize = 2;
pub(crate) const STANDARD_CONFORMING_STRINGS: usize = 3;
pub(crate) const APPLICATION_NAME: usize = 4;

/// Bytes under way from one side to the other, as of when its session has last come to rest.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// Read, and not passed on yet.
    kept: AtomicU32,
    /// Of the message that is being passed on, not come yet.
    message_left: AtomicU32,
    /// Passed on, and not taken by the other side's socket yet.
    unsent: AtomicU32,
}

/// The same, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Buffered {
    pub(crate) kept: u32,
    pub(crate) message_left: u32,
    pub(crate) unsent: u32,
}

impl Buffers {
    pub(crate) fn set(&self, now: Buffered) {
        self.kept.store(now.kept, Ordering::Relaxed);
        self.message_left.store(now.message_left, Ordering::Relaxed);
        self.unsent.store(now.unsent, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Buffered {
        Buffered {
            kept: self.kept.load(Ordering::Relaxed),
            message_left: self.message_left.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
        }
    }
}
