//! SHOW PEERS, SHOW PEER_POOLS

use super::cancels::CancelCounts;
use crate::admin::table::{Row, row};
use crate::pools::Pools;
use crate::registry::CancelTarget;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let config = pools.config();
    let row = |(id, peer): (&u32, &pgweir_config::Peer)| {
        row![*id, peer.host().map(ToString::to_string), u32::from(peer.port), config.peer_pool_size(peer)]
    };
    config.peers.iter().map(row).collect()
}

pub(super) fn show_pools(pools: &Pools) -> Vec<Row> {
    let cancels = pools.registry.cancels();
    let row = |id| {
        let to_peer = |target: &CancelTarget| matches!(target, CancelTarget::Peer(peer) if *peer == id);
        let counts = CancelCounts::of(cancels.iter().filter(|cancel| to_peer(&cancel.target)));
        row![id, counts.active, counts.waiting, counts.active, counts.connecting]
    };
    pools.peers.ids().into_iter().map(row).collect()
}
