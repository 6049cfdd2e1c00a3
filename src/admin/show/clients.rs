//! SHOW CLIENTS

use std::sync::Arc;

use pgweir_config::CONSOLE_DATABASE;

use super::sockets::Socket;
use crate::admin::columns::SOCKETS;
use crate::admin::table::Table;
use crate::net::clock;
use crate::pools::Pools;
use crate::registry::{ClientInfo, ClientState, Ends};

pub(super) fn show(pools: &Pools) -> Table {
    let listen_port = pools.config().settings.listen_port;
    let now_us = clock::now_us();
    let mut clients = pools.registry.clients();
    // Pool by pool, those that wait behind the others; oldest first, as they come.
    clients.sort_by(|a, b| (&a.database, &a.user, is_waiting(a)).cmp(&(&b.database, &b.user, is_waiting(b))));
    let listed = clients.iter().filter_map(|client| Some((client, state_name(client)?)));
    Table::with(SOCKETS, listed.map(|(client, state)| socket(client, state, now_us).row(listen_port)))
}

/// The clients of the console.
pub(super) fn of_console(pools: &Pools) -> Vec<Arc<ClientInfo>> {
    let mut clients = pools.registry.clients();
    clients.retain(|client| &*client.database == CONSOLE_DATABASE);
    clients
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
        ClientState::ActiveCancel => Some("active_cancel_req"),
        ClientState::WaitingCancel => Some("waiting_cancel_req"),
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
        remote_pid: match client.ends {
            Ends::Unix { peer_pid, .. } => peer_pid,
            Ends::Tcp { .. } => None,
        },
        application_name: client.application_name(),
        prepared: client.prepared(),
    }
}
