//! SHOW SOCKETS and ACTIVE_SOCKETS, and what they have in common with SHOW CLIENTS and SHOW
//! SERVERS: a row per connection.

use std::sync::Arc;

use pgweir_proto::replication::Replication;

use super::{clients, servers};
use crate::admin::table::{Cell, Row, row, timestamp};
use crate::pools::Pools;
use crate::registry::{Buffered, Ends};

/// A connection, client's or server's.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    /// `C` or `S`
    pub(super) kind: &'static str,
    pub(super) id: u64,
    /// `None`: not connected yet.
    pub(super) ends: Option<Ends>,
    pub(super) user: Arc<str>,
    pub(super) database: Arc<str>,
    pub(super) replication: Option<Replication>,
    pub(super) state: &'static str,
    pub(super) connect_us: u64,
    pub(super) request_us: u64,
    /// How long its request has been taking; 0: there is none.
    pub(super) wait_us: u64,
    pub(super) close_needed: bool,
    /// Id of the connection at the other side; 0: none.
    pub(super) link: u64,
    /// What the other end calls itself; `None`: over TCP nobody tells a client's.
    pub(super) remote_pid: Option<u32>,
    /// Version and cipher.
    pub(super) tls: Option<Arc<str>>,
    pub(super) application_name: Option<Arc<str>>,
    /// Prepared statements that it has.
    pub(super) prepared: u32,
    pub(super) buffered: Buffered,
}

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    all(pools).map(|socket| socket.debug_row(pools)).collect()
}

/// Those that have something under way.
pub(super) fn show_active(pools: &Pools) -> Vec<Row> {
    let active = all(pools).filter(|socket| socket.buffered != Buffered::default());
    active.map(|socket| socket.debug_row(pools)).collect()
}

/// Clients and servers pool by pool, then clients that log in.
fn all(pools: &Pools) -> impl Iterator<Item = Socket> {
    let in_list = |socket: Socket, name: Option<&'static str>| name.map(|state| Socket { state, ..socket });
    let clients = clients::list(pools).into_iter().filter_map(move |socket| {
        let name = match socket.state {
            "waiting" => "cl_waiting",
            _ => "cl_active",
        };
        in_list(socket, Some(name))
    });
    let servers = servers::list(pools).into_iter().filter_map(move |socket| {
        let name = match socket.state {
            "active" => Some("sv_active"),
            "idle" => Some("sv_idle"),
            "used" => Some("sv_used"),
            "tested" => Some("sv_tested"),
            "new" => Some("sv_login"),
            // As in PgBouncer, in SHOW SERVERS only.
            _ => None,
        };
        in_list(socket, name)
    });
    clients.chain(servers).chain(clients::newcomers(pools))
}

impl Socket {
    /// `listen_port` stands for the port at our end of a Unix socket.
    pub(super) fn row(&self, listen_port: u16) -> Row {
        let (addr, port, local_addr, local_port) = addresses(self.ends.as_ref(), listen_port);
        row![
            self.kind,
            &*self.user,
            &*self.database,
            self.replication.map_or("none", Replication::name),
            self.state,
            addr,
            u32::from(port),
            local_addr,
            u32::from(local_port),
            timestamp(self.connect_us),
            timestamp(self.request_us),
            self.wait_us / 1_000_000,
            self.wait_us % 1_000_000,
            self.close_needed,
            pointer(self.id),
            if self.link == 0 { String::new() } else { pointer(self.link) },
            self.remote_pid.unwrap_or(0),
            self.tls.as_deref().unwrap_or_default(),
            self.application_name.as_deref().unwrap_or_default(),
            self.prepared,
            int4(self.id),
        ]
    }

    /// With the state of its buffer, as if there were one per connection as in PgBouncer: what was
    /// passed on and not taken, then what was not passed on.
    fn debug_row(&self, pools: &Pools) -> Row {
        let Buffered { kept, message_left, unsent } = self.buffered;
        let (send_pos, send_remain) = (0, 0);
        let buffer = [unsent + kept, unsent, message_left, send_pos, send_remain, kept, unsent];
        let mut row = self.row(pools.config().settings.listen_port);
        row.extend(buffer.map(Cell::from));
        row
    }
}

/// Address and port of the other end, and of ours.
pub(super) fn addresses(ends: Option<&Ends>, listen_port: u16) -> (String, u16, String, u16) {
    match ends {
        Some(Ends::Tcp { peer, local }) => (peer.ip().to_string(), peer.port(), local.ip().to_string(), local.port()),
        Some(Ends::Unix { port, .. }) => ("unix".to_owned(), *port, "unix".to_owned(), listen_port),
        None => Default::default(),
    }
}

/// What log lines call a connection, in the place of an address in memory.
fn pointer(id: u64) -> String {
    format!("{id:#x}")
}

/// The column is an int4: after two thousand million connections ids begin anew.
pub(in crate::admin) fn int4(id: u64) -> u64 {
    id & 0x7fff_ffff
}

/// What a client at the other end of a Unix socket is; nobody tells it over TCP.
pub(super) fn remote_pid(ends: &Ends) -> Option<u32> {
    match ends {
        Ends::Unix { peer_pid, .. } => *peer_pid,
        Ends::Tcp { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::columns::SOCKETS;

    fn texts(socket: &Socket) -> Vec<String> {
        let row = socket.row(6432);
        assert_eq!(row.len(), SOCKETS.len());
        let mut texts: Vec<String> = row.into_iter().map(|cell| cell.0.unwrap()).collect();
        // The two times.
        texts.drain(9..11);
        texts
    }

    #[test]
    fn rows_are_pgbouncers() {
        let tcp = Ends::Tcp { peer: "[::1]:4711".parse().unwrap(), local: "[::1]:6432".parse().unwrap() };
        let mut socket = Socket {
            kind: "C",
            id: 0x2a,
            ends: Some(tcp),
            user: "alice".into(),
            database: "app".into(),
            replication: None,
            state: "active",
            connect_us: 1,
            request_us: 2,
            wait_us: 1_000_007,
            close_needed: false,
            link: 0x1_8000_0001,
            remote_pid: None,
            tls: Some("TLSv1.3/X".into()),
            application_name: Some("psql".into()),
            prepared: 3,
            buffered: Buffered::default(),
        };
        let expected = "C alice app none active ::1 4711 ::1 6432 1 7 0 0x2a 0x180000001 0 TLSv1.3/X psql 3 42";
        assert_eq!(texts(&socket).join(" "), expected);
        socket.ends = Some(Ends::Unix { port: 5432, peer_pid: Some(99) });
        (socket.kind, socket.id, socket.link) = ("S", 0x1_8000_0001, 0);
        (socket.close_needed, socket.remote_pid, socket.application_name) = (true, Some(99), None);
        (socket.replication, socket.tls) = (Some(Replication::Logical), None);
        let expected = "S alice app logical active unix 5432 unix 6432 1 7 1 0x180000001  99   3 1";
        assert_eq!(texts(&socket).join(" "), expected);
        socket.ends = None;
        assert_eq!(texts(&socket)[5..9], ["", "0", "", "0"]);
    }
}
