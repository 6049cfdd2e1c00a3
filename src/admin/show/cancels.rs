//! What SHOW POOLS and SHOW PEER_POOLS count of cancel requests.

use std::sync::Arc;

use crate::registry::{CancelInfo, CancelState};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CancelCounts {
    /// Not sent yet.
    pub(super) waiting: u32,
    /// Of those, the ones whose connection is being made.
    pub(super) connecting: u32,
    /// Sent, each on a connection of its own.
    pub(super) active: u32,
}

impl CancelCounts {
    pub(super) fn of<'a>(cancels: impl IntoIterator<Item = &'a Arc<CancelInfo>>) -> CancelCounts {
        let mut counts = CancelCounts::default();
        cancels.into_iter().for_each(|cancel| counts.add(cancel));
        counts
    }

    pub(super) fn add(&mut self, cancel: &CancelInfo) {
        match cancel.state() {
            CancelState::Waiting => self.waiting += 1,
            CancelState::Connecting => {
                self.waiting += 1;
                self.connecting += 1;
            }
            CancelState::Active => self.active += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{CancelTarget, Ends};

    #[test]
    fn one_that_connects_still_waits() {
        use CancelState::{Active, Connecting, Waiting};
        let cancel = |state| {
            let cancel = CancelInfo::new(1, Ends::Unix { port: 1, peer_pid: None }, None, CancelTarget::Peer(1), 0);
            cancel.set_state(state);
            Arc::new(cancel)
        };
        let counts = CancelCounts::of(&[Waiting, Connecting, Active, Active].map(cancel));
        assert_eq!(counts, CancelCounts { waiting: 2, connecting: 1, active: 2 });
    }
}
