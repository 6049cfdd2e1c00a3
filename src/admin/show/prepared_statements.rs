//! SHOW PREPARED_STATEMENTS: what is kept for `max_prepared_statements`.

use crate::admin::table::{Row, row};
use crate::pools::Pools;
use crate::relay;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    // Each text is kept once, whoever has prepared it.
    let (statements, bytes) = relay::in_memory();
    let client_names: u64 = pools.registry.clients().iter().map(|client| u64::from(client.prepared())).sum();
    let on_servers: u64 = pools.registry.servers().iter().map(|server| u64::from(server.prepared())).sum();
    vec![row![statements, bytes, client_names, on_servers]]
}
