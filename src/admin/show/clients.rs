//! SHOW CLIENTS

use super::sockets::Socket;
use crate::admin::table::Row;
use crate::net::clock;
use crate::pools::Pools;
use crate::registry::{CancelInfo, CancelState, CancelTarget, ClientInfo, ClientState, Ends};

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let listen_port = pools.config().settings.listen_port;
    let now_us = clock::now_us();
    let mut clients = pools.registry.clients();
    // Pool by pool, those that wait behind the others; oldest first, as they come.
    clients.sort_by(|a, b| (&a.database, &a.user, is_waiting(a)).cmp(&(&b.database, &b.user, is_waiting(b))));
    let listed = clients.iter().filter_map(|client| Some((client, state_name(client)?)));
    let rows = listed.map(|(client, state)| socket(client, state, now_us).row(listen_port));
    let cancels = pools.registry.cancels();
    rows.chain(cancels.iter().map(|cancel| canceling(cancel).row(listen_port))).collect()
}

fn is_waiting(client: &ClientInfo) -> bool {
    client.state() == ClientState::Waiting
}

/// `None`: not listed.
fn state_name(client: &ClientInfo) -> Option<&'static str> {
    match client.state() {
        ClientState::Login => None,
        ClientState::Active if client.link() == 0 => Some("idle"),
        ClientState::Active => Some("active"),
        ClientState::Waiting => Some("waiting"),
    }
}

/// A client of its own is who asks for a cancel.
fn canceling(cancel: &CancelInfo) -> Socket<'_> {
    let (database, link) = match &cancel.target {
        CancelTarget::Server(server) => (&*server.database, server.id),
        CancelTarget::Peer(_) => ("(nodb)", 0),
    };
    Socket {
        kind: "C",
        id: cancel.id,
        ends: &cancel.ends,
        user: "(nouser)",
        database,
        replication: None,
        state: match cancel.state() {
            CancelState::Waiting | CancelState::Connecting => "waiting_cancel_req",
            CancelState::Active => "active_cancel_req",
        },
        connect_us: cancel.connect_us,
        request_us: cancel.connect_us,
        wait_us: 0,
        close_needed: false,
        link,
        remote_pid: remote_pid(&cancel.ends),
        tls: cancel.tls.as_deref(),
        application_name: None,
        prepared: 0,
    }
}

/// Nobody tells it over TCP.
fn remote_pid(ends: &Ends) -> Option<u32> {
    match ends {
        Ends::Unix { peer_pid, .. } => *peer_pid,
        Ends::Tcp { .. } => None,
    }
}

fn socket<'a>(client: &'a ClientInfo, state: &'a str, now_us: u64) -> Socket<'a> {
    let query_us = client.query_us();
    Socket {
        kind: "C",
        id: client.id,
        ends: &client.ends,
        user: &client.user,
        database: &client.database,
        replication: client.replication,
        state,
        connect_us: client.connect_us,
        request_us: client.request_us(),
        wait_us: if query_us == 0 { 0 } else { now_us.saturating_sub(query_us) },
        close_needed: false,
        link: client.link(),
        remote_pid: remote_pid(&client.ends),
        tls: client.tls.as_deref(),
        application_name: client.application_name(),
        prepared: client.prepared(),
    }
}
