//! SHOW CLIENTS

use super::sockets::{Socket, remote_pid};
use crate::admin::table::Row;
use crate::net::clock;
use crate::pools::Pools;
use crate::registry::{
    APPLICATION_NAME, Buffered, CancelInfo, CancelState, CancelTarget, ClientInfo, ClientState, NewcomerInfo,
};

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let listen_port = pools.config().settings.listen_port;
    let cancels = pools.registry.cancels();
    let sockets = list(pools).into_iter().chain(cancels.iter().map(|cancel| canceling(cancel)));
    sockets.map(|socket| socket.row(listen_port)).collect()
}

/// Pool by pool, those that wait behind the others; oldest first, as they come.
pub(super) fn list(pools: &Pools) -> Vec<Socket> {
    let now_us = clock::now_us();
    let mut clients = pools.registry.clients();
    clients.sort_by(|a, b| (&a.database, &a.user, is_waiting(a)).cmp(&(&b.database, &b.user, is_waiting(b))));
    let listed = clients.iter().filter_map(|client| Some((client, state_name(client)?)));
    listed.map(|(client, state)| socket(client, state, now_us)).collect()
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

/// Clients that are not logged in yet. One that waits for what its server has to say at the
/// login is a client of its pool already.
pub(super) fn newcomers(pools: &Pools) -> Vec<Socket> {
    let known: Vec<u64> = pools.registry.clients().iter().map(|client| client.id).collect();
    let mut newcomers = pools.registry.newcomers();
    newcomers.retain(|newcomer| !known.contains(&newcomer.id));
    newcomers.iter().map(|newcomer| logging_in(newcomer)).collect()
}

fn logging_in(newcomer: &NewcomerInfo) -> Socket {
    let ends = newcomer.ends();
    let (user, database) = newcomer.names().unwrap_or_else(|| ("(nouser)".into(), "(nodb)".into()));
    Socket {
        kind: "C",
        id: newcomer.id,
        remote_pid: remote_pid(&ends),
        ends: Some(ends),
        user,
        database,
        replication: None,
        state: "cl_login",
        connect_us: newcomer.connect_us,
        request_us: newcomer.connect_us,
        wait_us: 0,
        close_needed: false,
        link: 0,
        tls: None,
        application_name: None,
        prepared: 0,
        buffered: Buffered::default(),
    }
}

/// A client of its own is who asks for a cancel.
fn canceling(cancel: &CancelInfo) -> Socket {
    let database = match &cancel.target {
        CancelTarget::Server(server) => server.database.clone(),
        CancelTarget::Peer(_) => "(nodb)".into(),
    };
    let (link, _) = cancel.sent_on();
    Socket {
        kind: "C",
        id: cancel.id,
        ends: Some(cancel.ends.clone()),
        user: "(nouser)".into(),
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
        tls: cancel.tls.clone(),
        application_name: None,
        prepared: 0,
        buffered: Buffered::default(),
    }
}

fn socket(client: &ClientInfo, state: &'static str, now_us: u64) -> Socket {
    let query_us = client.query_us();
    Socket {
        kind: "C",
        id: client.id,
        ends: Some(client.ends.clone()),
        user: client.user.clone(),
        database: client.database.clone(),
        replication: client.replication,
        state,
        connect_us: client.connect_us,
        request_us: client.request_us(),
        wait_us: if query_us == 0 { 0 } else { now_us.saturating_sub(query_us) },
        close_needed: false,
        link: client.link(),
        remote_pid: remote_pid(&client.ends),
        tls: client.tls.clone(),
        application_name: client.value(APPLICATION_NAME),
        prepared: client.prepared(),
        buffered: client.buffers.get(),
    }
}
