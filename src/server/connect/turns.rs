//! Whose turn it is in lists of hosts.
//!
//! The pools that have the same list share its turn: many small pools spread over the hosts as
//! one big one does, and what one has learned of a host that fails, all have.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pgweir_config::{HostAddr, LoadBalanceHosts};

/// Hosts and port.
type List = (Vec<HostAddr>, u16);

/// The place in each list; as many as configurations have had.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Protects the map; the places are atomic.
    lists: Mutex<HashMap<List, Arc<AtomicUsize>>>,
}

/// A connection attempt's place in a list of hosts.
#[derive(Debug)]
pub(super) struct Turn {
    list: Arc<AtomicUsize>,
    balance: LoadBalanceHosts,
    /// Place of the first host to try, before the remainder by the list's length is taken.
    start: usize,
    /// How far from there the next attempt begins, if it is not just the next one's turn.
    next: usize,
}

impl Turns {
    pub(super) fn begin(&self, hosts: &[HostAddr], port: u16, balance: LoadBalanceHosts) -> Turn {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let list = Arc::clone(lists.entry((hosts.to_vec(), port)).or_default());
        let start = match balance {
            LoadBalanceHosts::RoundRobin => list.fetch_add(1, Ordering::Relaxed),
            LoadBalanceHosts::Disable => list.load(Ordering::Relaxed),
        };
        Turn { list, balance, start, next: 1 }
    }
}

impl Turn {
    /// The hosts, in the order in which they are to be tried.
    pub(super) fn order<'a>(&self, hosts: &'a [HostAddr]) -> impl Iterator<Item = &'a HostAddr> + use<'a> {
        let start = self.start % hosts.len().max(1);
        hosts[start..].iter().chain(&hosts[..start])
    }

    /// The host in the order's place `tried` has taken us in.
    pub(super) fn worked(&mut self, tried: usize) {
        self.next = tried;
    }
}

impl Drop for Turn {
    /// Without balancing, the next attempt begins with the host that worked, or else with the
    /// next one; unless another attempt has found out already.
    fn drop(&mut self) {
        if self.balance == LoadBalanceHosts::Disable {
            let next = self.start.wrapping_add(self.next);
            let _ = self.list.compare_exchange(self.start, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<HostAddr> {
        ["a", "b", "c"].map(HostAddr::parse).to_vec()
    }

    fn order(turn: &Turn) -> String {
        turn.order(&hosts()).map(HostAddr::as_str).collect()
    }

    #[test]
    fn round_robin_takes_the_next_each_time() {
        let turns = Turns::default();
        let begin = |port| turns.begin(&hosts(), port, LoadBalanceHosts::RoundRobin);
        assert_eq!([1, 1, 1, 1, 2].map(|port| order(&begin(port))), ["abc", "bca", "cab", "abc", "abc"]);
    }

    #[test]
    fn disabled_stays_until_it_fails() {
        let turns = Turns::default();
        let begin = || turns.begin(&hosts(), 1, LoadBalanceHosts::Disable);
        begin().worked(0);
        begin().worked(0);
        // Two attempts at a time that fail count once.
        let (one, two) = (begin(), begin());
        assert_eq!((order(&one), order(&two)), ("abc".into(), "abc".into()));
        drop((one, two));
        let mut third = begin();
        assert_eq!(order(&third), "bca");
        third.worked(1);
        drop(third);
        assert_eq!(order(&begin()), "cab");
    }
}
