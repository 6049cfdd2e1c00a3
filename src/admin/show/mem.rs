//! SHOW MEM: what there is of each kind of thing that takes memory, and how much that comes to.

use std::fs;
use std::mem::size_of;

use crate::admin::table::{Row, row};
use crate::client::SESSION_SIZE;
use crate::pools::entries::{Database, User};
use crate::pools::stats::Stats;
use crate::pools::{Pools, ServerPool};
use crate::registry::{Buffered, CancelInfo, ClientInfo, Dial, NewcomerInfo, ServerInfo};
use crate::relay;
use crate::server::Server;
use crate::worker::{Roster, SCRATCH_LEN};

/// One kind of thing.
struct Kind {
    name: &'static str,
    /// Of one, in bytes, without what it refers to.
    size: usize,
    used: usize,
    /// Room for more, which is kept.
    free: usize,
}

pub(super) fn show(pools: &Pools, roster: &Roster) -> Vec<Row> {
    let registry = &pools.registry;
    let (clients, servers) = (registry.clients(), registry.servers());
    let ([client_slots, server_slots], slot) = (registry.capacities(), size_of::<(u64, usize)>());
    let buffers = clients.iter().map(|client| client.buffers.get()).chain(servers.iter().map(|s| s.buffers.get()));
    let (mut kept, mut unsent) = (0, 0);
    for buffered in buffers {
        let Buffered { kept: k, unsent: u, .. } = buffered;
        (kept, unsent) = (kept + k as usize, unsent + u as usize);
    }
    let (statements, statement_bytes) = relay::in_memory();
    let all = pools.pools();
    let kind = |name, size, used| Kind { name, size, used, free: 0 };
    let kinds = [
        kind("client", SESSION_SIZE + size_of::<ClientInfo>(), clients.len()),
        Kind { free: client_slots.saturating_sub(clients.len()), ..kind("client_slot", slot, clients.len()) },
        kind("client_login", size_of::<NewcomerInfo>(), registry.newcomers_count()),
        kind("server", size_of::<Server>() + size_of::<ServerInfo>(), servers.len()),
        Kind { free: server_slots.saturating_sub(servers.len()), ..kind("server_slot", slot, servers.len()) },
        kind("server_login", size_of::<Dial>(), registry.dials().len()),
        kind("cancel_request", size_of::<CancelInfo>(), registry.cancels().len()),
        kind("database", size_of::<Database>(), pools.databases().len()),
        kind("user", size_of::<User>(), pools.users().len()),
        kind("pool", size_of::<ServerPool>() + pools.workers * size_of::<Stats>(), all.len()),
        kind("prepared_statement", statement_bytes.checked_div(statements).unwrap_or(0), statements),
        kind("auth_query_answer", pools.lookups.entry_size(), pools.lookups.count()),
        kind("dns_name", pools.connector.hosts.entry_size(), pools.connector.hosts.counts().0),
        kind("worker_buffer", SCRATCH_LEN, roster.loads().len()),
        // By the byte: read and not passed on, passed on and not taken.
        kind("bytes_kept", 1, kept),
        kind("bytes_unsent", 1, unsent),
    ];
    kinds.into_iter().chain(process()).map(Kind::row).collect()
}

/// All that the process has in memory, by the page; `None` where the system does not tell.
fn process() -> Option<Kind> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let used = text.split_whitespace().nth(1)?.parse().ok()?;
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(Kind { name: "process", size: size as usize, used, free: 0 })
}

impl Kind {
    fn row(self) -> Row {
        let total = self.size.saturating_mul(self.used.saturating_add(self.free));
        row![self.name, int4(self.size), int4(self.used), int4(self.free), int4(total)]
    }
}

/// The columns are int4.
fn int4(n: usize) -> usize {
    n.min(i32::MAX as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_of_all_and_fits_its_column() {
        let row = Kind { name: "x", size: 8, used: 3, free: 2 }.row();
        assert_eq!(row, row!["x", 8_usize, 3_usize, 2_usize, 40_usize]);
        let row = Kind { name: "x", size: 1 << 20, used: 1 << 30, free: 0 }.row();
        assert_eq!(row[4], row![i32::MAX as usize][0]);
        let own = process().unwrap();
        assert!(own.size * own.used > 1_000_000);
    }
}
