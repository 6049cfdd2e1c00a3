//! Whose turn it is in lists of hosts.
//!
//! The pools that have the same list share its turn: many small pools spread over the hosts as
//! one big one does, and what one has learned of a host that fails, all have.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pgweir_config::{HostAddr, LoadBalanceHosts};
use tokio::sync::OwnedMutexGuard;

/// Hosts and port.
type Key = (Vec<HostAddr>, u16);

/// As many lists as configurations have had.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Protects the map; what is in the lists is atomic.
    lists: Mutex<HashMap<Key, Arc<List>>>,
}

#[derive(Debug, Default)]
struct List {
    /// Whose turn it is, before the remainder by the list's length is taken.
    place: AtomicUsize,
    /// The latest attempt that began there was taken in. Without balancing, others wait until one has found out.
    is_proven: AtomicBool,
    /// Held by the attempt that finds out.
    scout: Arc<tokio::sync::Mutex<()>>,
}

/// A connection attempt's place in a list of hosts.
#[derive(Debug)]
pub(super) struct Turn {
    list: Arc<List>,
    balance: LoadBalanceHosts,
    /// Place of the first host to try.
    start: usize,
    /// How far from there the host is that has taken us in, if one has.
    worked: Option<usize>,
    /// Others wait for what this attempt finds out.
    _scout: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    pub(super) async fn begin(&self, hosts: &[HostAddr], port: u16, balance: LoadBalanceHosts) -> Turn {
        let list = {
            let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(lists.entry((hosts.to_vec(), port)).or_default())
        };
        let mut scout = None;
        let start = match balance {
            LoadBalanceHosts::RoundRobin => list.place.fetch_add(1, Ordering::Relaxed),
            LoadBalanceHosts::Disable => {
                if hosts.len() > 1 && !list.is_proven.load(Ordering::Relaxed) {
                    let first = Arc::clone(&list.scout).lock_owned().await;
                    scout = Some(first).filter(|_| !list.is_proven.load(Ordering::Relaxed));
                }
                list.place.load(Ordering::Relaxed)
            }
        };
        Turn { list, balance, start, worked: None, _scout: scout }
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
        self.worked = Some(tried);
    }
}

impl Drop for Turn {
    /// Without balancing, the next attempt begins with the host that worked, or else with the
    /// next one; unless another attempt has found out already.
    fn drop(&mut self) {
        if self.balance == LoadBalanceHosts::Disable {
            let next = self.start.wrapping_add(self.worked.unwrap_or(1));
            let place = &self.list.place;
            if place.compare_exchange(self.start, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.list.is_proven.store(self.worked.is_some(), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn hosts() -> Vec<HostAddr> {
        ["a", "b", "c"].map(HostAddr::parse).to_vec()
    }

    fn order(turn: &Turn) -> String {
        turn.order(&hosts()).map(HostAddr::as_str).collect()
    }

    #[tokio::test]
    async fn round_robin_takes_the_next_each_time() {
        let (turns, hosts) = (Turns::default(), hosts());
        for (port, expected) in [(1, "abc"), (1, "bca"), (1, "cab"), (1, "abc"), (2, "abc")] {
            assert_eq!(order(&turns.begin(&hosts, port, LoadBalanceHosts::RoundRobin).await), expected);
        }
    }

    #[tokio::test]
    async fn disabled_stays_until_it_fails() {
        let (turns, hosts) = (Turns::default(), hosts());
        let begin = || turns.begin(&hosts, 1, LoadBalanceHosts::Disable);
        begin().await.worked(0);
        begin().await.worked(0);
        // Two attempts at a time that fail count once.
        let (one, two) = (begin().await, begin().await);
        assert_eq!((order(&one), order(&two)), ("abc".into(), "abc".into()));
        drop((one, two));
        let mut third = begin().await;
        assert_eq!(order(&third), "bca");
        third.worked(1);
        drop(third);
        assert_eq!(order(&begin().await), "cab");
    }

    #[tokio::test]
    async fn disabled_finds_out_once_who_takes_us_in() {
        let (turns, hosts) = (Turns::default(), hosts());
        let begin = || turns.begin(&hosts, 1, LoadBalanceHosts::Disable);
        let mut cx = Context::from_waker(Waker::noop());
        let mut scout = begin().await;
        let (mut second, mut third) = (pin!(begin()), pin!(begin()));
        assert!(second.as_mut().poll(&mut cx).is_pending() && third.as_mut().poll(&mut cx).is_pending());
        scout.worked(1);
        drop(scout);
        let Poll::Ready(second) = second.as_mut().poll(&mut cx) else { panic!("still waits") };
        let Poll::Ready(third) = third.as_mut().poll(&mut cx) else { panic!("waits for somebody who knows") };
        assert_eq!((order(&second), order(&third)), ("bca".into(), "bca".into()));
        // When that host fails, too, one goes ahead again.
        drop((second, third));
        let scout = begin().await;
        assert_eq!(order(&scout), "cab");
        assert!(pin!(begin()).as_mut().poll(&mut cx).is_pending());
        drop(scout);
        assert_eq!(order(&begin().await), "abc");
    }
}
