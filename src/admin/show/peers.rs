//! SHOW PEERS, SHOW PEER_POOLS

use super::cancels::CancelCounts;
use crate::admin::columns::{PEER_POOLS, PEERS};
use crate::admin::table::{Table, row};
use crate::pools::Pools;
use crate::registry::CancelTarget;

pub(super) fn show(pools: &Pools) -> Table {
    let config = pools.config();
    let row = |(id, peer): (&u32, &pgweir_config::Peer)| {
        row![*id, peer.host().map(ToString::to_string), u32::from(peer.port), config.peer_pool_size(peer)]
    };
    Table::with(PEERS, config.peers.iter().map(row))
}

pub(super) fn show_pools(pools: &Pools) -> Table {
    let cancels = pools.registry.cancels();
    let row = |id| {
        let to_peer = |target: &CancelTarget| matches!(target, CancelTarget::Peer(peer) if *peer == id);
        let counts = CancelCounts::of(cancels.iter().filter(|cancel| to_peer(&cancel.target)));
        row![id, counts.active, counts.waiting, counts.active, counts.connecting]
    };
    Table::with(PEER_POOLS, pools.peers.ids().into_iter().map(row))
}
