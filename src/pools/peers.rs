//! The peers that cancel requests are passed on to: how many at once, and their turns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgweir_config::{Config, Peer as Entry};
use tokio::sync::{Semaphore, SemaphorePermit};

/// All peers that something was passed on to.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// By `peer_id`. Looked at by cancel requests for others, by the console and at a reload.
    known: Mutex<BTreeMap<u32, Arc<Peer>>>,
}

/// A process that cancel requests are passed on to.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) entry: Entry,
    pool_size: u32,
    /// Units of `pool_size`, given in the order in which they are asked for; closed when the
    /// peer is removed.
    turns: Semaphore,
}

impl Peers {
    fn known(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Peer>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer of this `peer_id`, if there is one.
    pub(crate) fn get(&self, id: u32, config: &Config) -> Option<Arc<Peer>> {
        let mut known = self.known();
        if let Some(peer) = known.get(&id) {
            return Some(Arc::clone(peer));
        }
        let peer = Arc::new(Peer::new(config.peers.get(&id)?, config));
        known.insert(id, Arc::clone(&peer));
        Some(peer)
    }

    /// Those that something was passed on to, by `peer_id`.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.known().keys().copied().collect()
    }

    /// A reload: what waits for a peer that is gone has waited in vain. Of one that has changed,
    /// what waits goes where it was meant to go.
    pub(super) fn configure(&self, config: &Config) {
        self.known().retain(|id, peer| {
            let entry = config.peers.get(id);
            if entry.is_none() {
                peer.turns.close();
            }
            let same = |entry: &Entry| peer.entry == *entry && peer.pool_size == config.peer_pool_size(entry);
            if let Some(entry) = entry.filter(|entry| !same(entry)) {
                *peer = Arc::new(Peer::new(entry, config));
            }
            entry.is_some()
        });
    }
}

impl Peer {
    fn new(entry: &Entry, config: &Config) -> Peer {
        let pool_size = config.peer_pool_size(entry);
        let turns = if pool_size == 0 { Semaphore::MAX_PERMITS } else { pool_size as usize };
        Peer { entry: entry.clone(), pool_size, turns: Semaphore::new(turns) }
    }

    /// Waits until a request may be sent. `None`: the peer was removed.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pgweir_config::HostAddr;

    use super::*;

    fn config(peers: &[(u32, Option<u32>)]) -> Config {
        let mut config = Config::default();
        config.settings.default_pool_size = 3;
        for &(id, pool_size) in peers {
            config.peers.insert(id, Entry { hosts: vec![HostAddr::parse("h")], pool_size, ..Entry::new(id) });
        }
        config
    }

    async fn waits(peer: &Peer) -> bool {
        tokio::time::timeout(Duration::from_millis(1), peer.turn()).await.is_err()
    }

    #[tokio::test]
    async fn as_many_at_once_as_the_pool_is_large() {
        let (peers, config) = (Peers::default(), config(&[(1, Some(1)), (2, None), (3, Some(0))]));
        assert!(peers.get(4, &config).is_none());
        for (id, size) in [(1, 1), (2, 3), (3, 100)] {
            let peer = peers.get(id, &config).unwrap();
            let mut turns = Vec::new();
            for _ in 0..size {
                turns.push(peer.turn().await.unwrap());
            }
            assert_eq!(waits(&peer).await, id != 3);
            drop(turns.pop());
            assert!(!waits(&peer).await);
        }
        assert_eq!(peers.ids(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_reload_ends_the_wait_for_a_peer_that_is_gone() {
        let (peers, before) = (Peers::default(), config(&[(1, Some(1)), (2, Some(1)), (3, Some(1))]));
        let old: Vec<Arc<Peer>> = [1, 2, 3].map(|id| peers.get(id, &before).unwrap()).into();
        let mut turns = Vec::new();
        for peer in &old {
            turns.push(peer.turn().await.unwrap());
        }
        let after = config(&[(2, Some(1)), (3, Some(2))]);
        peers.configure(&after);
        assert!(old[0].turn().await.is_none() && peers.get(1, &after).is_none());
        assert!(Arc::ptr_eq(&old[1], &peers.get(2, &after).unwrap()) && waits(&old[1]).await);
        let grown = peers.get(3, &after).unwrap();
        assert_eq!(grown.turns.available_permits(), 2);
    }
}
