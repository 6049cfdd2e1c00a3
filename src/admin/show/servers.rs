//! SHOW SERVERS

use std::collections::HashMap;

use super::sockets::Socket;
use crate::admin::table::Row;
use crate::net::clock;
use crate::pools::Pools;
use crate::registry::{Ends, ServerInfo, ServerPhase};

/// The states in PgBouncer's order, by their places in [`state`].
const STATES: [&str; 6] = ["active", "idle", "used", "tested", "new", "being_canceled"];

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let listen_port = pools.config().settings.listen_port;
    let now_us = clock::now_us();
    let known: HashMap<_, _> =
        pools.pools().into_iter().map(|pool| ((pool.database.name.clone(), pool.user.name.clone()), pool)).collect();
    let mut servers: Vec<_> = pools
        .registry
        .servers()
        .into_iter()
        .map(|server| {
            let pool = known.get(&(server.database.clone(), server.user.clone()));
            let needs_check = |since_us| pool.is_some_and(|pool| pool.policy.needs_check(since_us, now_us));
            (state(&server, needs_check), server)
        })
        .collect();
    // Pool by pool, state by state; oldest first, as they come.
    servers.sort_by(|(a_state, a), (b_state, b)| (&a.database, &a.user, a_state).cmp(&(&b.database, &b.user, b_state)));
    let rows = servers.iter().map(|(state, server)| socket(server, STATES[*state]).row(listen_port));
    rows.collect()
}

fn state(server: &ServerInfo, needs_check: impl Fn(u64) -> bool) -> usize {
    match server.phase() {
        ServerPhase::Active => 0,
        ServerPhase::Idle if !needs_check(server.request_us()) => 1,
        ServerPhase::Idle => 2,
        ServerPhase::Tested => 3,
        ServerPhase::Login => 4,
        ServerPhase::BeingCanceled => 5,
    }
}

fn socket<'a>(server: &'a ServerInfo, state: &'a str) -> Socket<'a> {
    let told = match server.ends {
        Ends::Unix { peer_pid, .. } => peer_pid,
        Ends::Tcp { .. } => None,
    };
    Socket {
        kind: "S",
        id: server.id,
        ends: &server.ends,
        user: &server.user,
        database: &server.database,
        replication: server.replication,
        state,
        connect_us: server.connect_us,
        request_us: server.request_us(),
        wait_us: 0,
        close_needed: server.is_close_needed(),
        link: server.link(),
        // Over TCP, what it calls itself in its cancel key.
        remote_pid: told.or(Some(server.cancel_key.pid)),
        tls: server.tls.as_deref(),
        application_name: server.application_name(),
        prepared: server.prepared(),
    }
}
