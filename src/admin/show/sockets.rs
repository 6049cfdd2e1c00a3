//! What SHOW CLIENTS and SHOW SERVERS have in common: a row per connection.

use std::sync::Arc;

use pgweir_proto::replication::Replication;

use crate::admin::table::{Cell, row, timestamp};
use crate::registry::Ends;

/// A connection, client's or server's.
pub(super) struct Socket<'a> {
    /// `C` or `S`
    pub(super) kind: &'a str,
    pub(super) id: u64,
    pub(super) ends: &'a Ends,
    pub(super) user: &'a str,
    pub(super) database: &'a str,
    pub(super) replication: Option<Replication>,
    pub(super) state: &'a str,
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
    pub(super) tls: Option<&'a str>,
    pub(super) application_name: Option<Arc<str>>,
    /// Prepared statements that it has.
    pub(super) prepared: u32,
}

impl Socket<'_> {
    /// `listen_port` stands for the port at our end of a Unix socket.
    pub(super) fn row(&self, listen_port: u16) -> Vec<Cell> {
        let (addr, port, local_addr, local_port) = match self.ends {
            Ends::Tcp { peer, local } => (peer.ip().to_string(), peer.port(), local.ip().to_string(), local.port()),
            Ends::Unix { port, .. } => ("unix".to_owned(), *port, "unix".to_owned(), listen_port),
        };
        row![
            self.kind,
            self.user,
            self.database,
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
            self.tls.unwrap_or_default(),
            self.application_name.as_deref().unwrap_or_default(),
            self.prepared,
            int4(self.id),
        ]
    }
}

/// What log lines call a connection, in the place of an address in memory.
fn pointer(id: u64) -> String {
    format!("{id:#x}")
}

/// The column is an int4: after two thousand million connections ids begin anew.
fn int4(id: u64) -> u64 {
    id & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::columns::SOCKETS;

    fn texts(socket: &Socket<'_>) -> Vec<String> {
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
            ends: &tcp,
            user: "alice",
            database: "app",
            replication: None,
            state: "active",
            connect_us: 1,
            request_us: 2,
            wait_us: 1_000_007,
            close_needed: false,
            link: 0x1_8000_0001,
            remote_pid: None,
            tls: Some("TLSv1.3/X"),
            application_name: Some("psql".into()),
            prepared: 3,
        };
        let expected = "C alice app none active ::1 4711 ::1 6432 1 7 0 0x2a 0x180000001 0 TLSv1.3/X psql 3 42";
        assert_eq!(texts(&socket).join(" "), expected);
        let unix = Ends::Unix { port: 5432, peer_pid: Some(99) };
        socket.ends = &unix;
        (socket.kind, socket.id, socket.link) = ("S", 0x1_8000_0001, 0);
        (socket.close_needed, socket.remote_pid, socket.application_name) = (true, Some(99), None);
        (socket.replication, socket.tls) = (Some(Replication::Logical), None);
        let expected = "S alice app logical active unix 5432 unix 6432 1 7 1 0x180000001  99   3 1";
        assert_eq!(texts(&socket).join(" "), expected);
    }
}
