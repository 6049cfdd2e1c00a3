//! SHOW SERVERS

use std::collections::{HashMap, HashSet};

use super::sockets::{Socket, remote_pid};
use crate::admin::table::Row;
use crate::net::clock;
use crate::pools::Pools;
use crate::registry::{
    APPLICATION_NAME, Buffered, CancelInfo, CancelState, CancelTarget, Dial, ServerInfo, ServerPhase,
};

/// The states in PgBouncer's order, by their places in [`state`].
const STATES: [&str; 7] = ["active", "idle", "used", "tested", "new", "active_cancel", "being_canceled"];
const NEW: usize = 4;
const ACTIVE_CANCEL: usize = 5;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let listen_port = pools.config().settings.listen_port;
    list(pools).iter().map(|socket| socket.row(listen_port)).collect()
}

/// Pool by pool, state by state; oldest first, as they come.
pub(super) fn list(pools: &Pools) -> Vec<Socket> {
    let now_us = clock::now_us();
    let known: HashMap<_, _> =
        pools.pools().into_iter().map(|pool| ((pool.database.name.clone(), pool.user.name.clone()), pool)).collect();
    let registry = &pools.registry;
    // Before the servers: one that becomes a server meanwhile is then known as such.
    let dials = registry.dials();
    let servers = registry.servers();
    let there: HashSet<u64> = servers.iter().map(|server| server.id).collect();
    let servers = servers.iter().map(|server| {
        let pool = known.get(&(server.database.clone(), server.user.clone()));
        let needs_check = |since_us| pool.is_some_and(|pool| pool.policy.needs_check(since_us, now_us));
        let state = state(server, needs_check);
        (state, socket(server, STATES[state]))
    });
    let dials = dials.iter().filter(|dial| !there.contains(&dial.id)).map(|dial| (NEW, connecting(dial)));
    let cancels = registry.cancels();
    let cancels = cancels.iter().filter_map(|cancel| canceling(cancel));
    let mut all: Vec<_> = servers.chain(dials).chain(cancels).collect();
    all.sort_by(|(a_state, a), (b_state, b)| (&a.database, &a.user, a_state).cmp(&(&b.database, &b.user, b_state)));
    all.into_iter().map(|(_, socket)| socket).collect()
}

fn state(server: &ServerInfo, needs_check: impl Fn(u64) -> bool) -> usize {
    match server.phase() {
        ServerPhase::Active => 0,
        ServerPhase::Idle if !needs_check(server.request_us()) => 1,
        ServerPhase::Idle => 2,
        ServerPhase::Tested => 3,
        ServerPhase::Login => NEW,
        ServerPhase::BeingCanceled => 6,
    }
}

/// A connection that is being made.
fn connecting(dial: &Dial) -> Socket {
    let ends = dial.socket().map(|(ends, _)| ends);
    Socket {
        kind: "S",
        id: dial.id,
        remote_pid: ends.as_ref().and_then(remote_pid),
        ends,
        user: dial.user.clone(),
        database: dial.database.clone(),
        replication: dial.replication,
        state: STATES[NEW],
        connect_us: dial.connect_us,
        request_us: dial.connect_us,
        wait_us: 0,
        close_needed: dial.is_close_needed(),
        link: 0,
        tls: None,
        application_name: None,
        prepared: 0,
        buffered: Buffered::default(),
    }
}

/// The connection that a cancel request is sent on, if there is one.
fn canceling(cancel: &CancelInfo) -> Option<(usize, Socket)> {
    let state = match cancel.state() {
        CancelState::Waiting => return None,
        CancelState::Connecting => NEW,
        CancelState::Active => ACTIVE_CANCEL,
    };
    let (id, ends) = cancel.sent_on();
    let (user, database) = match &cancel.target {
        CancelTarget::Server(server) => (server.user.clone(), server.database.clone()),
        CancelTarget::Peer(_) => ("(nouser)".into(), "(nodb)".into()),
    };
    let socket = Socket {
        kind: "S",
        id,
        remote_pid: ends.as_ref().and_then(remote_pid),
        ends,
        user,
        database,
        replication: None,
        state: STATES[state],
        connect_us: cancel.connect_us,
        request_us: cancel.connect_us,
        wait_us: 0,
        close_needed: false,
        link: cancel.id,
        tls: None,
        application_name: None,
        prepared: 0,
        buffered: Buffered::default(),
    };
    Some((state, socket))
}

fn socket(server: &ServerInfo, state: &'static str) -> Socket {
    Socket {
        kind: "S",
        id: server.id,
        ends: Some(server.ends.clone()),
        user: server.user.clone(),
        database: server.database.clone(),
        replication: server.replication,
        state,
        connect_us: server.connect_us,
        request_us: server.request_us(),
        wait_us: 0,
        close_needed: server.is_close_needed(),
        link: server.link(),
        // Over TCP, what it calls itself in its cancel key.
        remote_pid: remote_pid(&server.ends).or(Some(server.cancel_key.pid)),
        tls: server.tls.clone(),
        application_name: server.value(APPLICATION_NAME),
        prepared: server.prepared(),
        buffered: server.buffers.get(),
    }
}
