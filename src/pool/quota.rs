//! A limit shared by several pools: server or client connections of a database or a user.

use std::sync::Arc;

use crate::sync::{AtomicU32, Ordering};

/// Counts what is taken; the limit itself comes with each call, since a reload may change it.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    used: AtomicU32,
}

/// One unit of a quota, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Quota>);

impl Quota {
    /// Takes one unit, unless `max` are taken; 0 is no limit.
    pub(crate) fn try_take(self: &Arc<Self>, max: u32) -> Option<Permit> {
        let below = |used| (max == 0 || used < max).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).ok()?;
        Some(Permit(Arc::clone(self)))
    }

    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_comes_back_when_dropped() {
        let quota = Arc::new(Quota::default());
        let one = quota.try_take(1).unwrap();
        assert!(quota.try_take(1).is_none());
        let _over = quota.try_take(0).unwrap();
        drop(one);
        assert_eq!(quota.used(), 1);
    }
}
