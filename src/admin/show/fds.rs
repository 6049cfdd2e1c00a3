//! SHOW FDS: every socket, with what another process would have to know of it.
//!
//! The descriptors themselves are not passed on, and no secrets are shown: neither passwords nor
//! SCRAM keys.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::Arc;

use pgweir_config::CONSOLE_DATABASE;

use super::sockets::addresses;
use crate::admin::table::{Row, row};
use crate::pools::Pools;
use crate::registry::{CLIENT_ENCODING, DATE_STYLE, Ends, STANDARD_CONFORMING_STRINGS, TIME_ZONE};

/// A row of it.
struct Fd {
    fd: RawFd,
    task: &'static str,
    user: Option<Arc<str>>,
    database: Option<Arc<str>>,
    ends: Ends,
    /// The first 8 bytes of its cancel key.
    cancel: u64,
    /// Descriptor of the other side's socket; 0: it has none.
    link: RawFd,
    /// Encoding, strings, date style, time zone.
    parameters: [Option<Arc<str>>; 4],
}

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let (registry, port) = (&pools.registry, pools.config().settings.listen_port);
    let (clients, servers) = (registry.clients(), registry.servers());
    let fds: HashMap<u64, (RawFd, bool)> =
        (clients.iter().map(|client| (client.id, (client.fd, client.tls.is_some()))))
            .chain(servers.iter().map(|server| (server.id, (server.fd, server.tls.is_some()))))
            .collect();
    let linked = |id: u64| fds.get(&id).copied().unwrap_or((0, false));
    let mut rows: Vec<Row> =
        registry.listeners().into_iter().map(|(fd, address)| listener(fd, address, port)).collect();
    let newcomers = registry.newcomers();
    let plain = |fd, task, ends| Fd {
        fd,
        task,
        user: None,
        database: None,
        ends,
        cancel: 0,
        link: 0,
        parameters: Default::default(),
    };
    for newcomer in newcomers.iter().filter(|newcomer| !fds.contains_key(&newcomer.id)) {
        let (user, database) = newcomer.names().unzip();
        rows.push(Fd { user, database, ..plain(newcomer.fd, "client", newcomer.ends()) }.row(port));
    }
    let is_pooled = |database: &str| database != CONSOLE_DATABASE;
    // As in PgBouncer, no state of TLS can be handed on.
    let is_plain = |tls: bool, link: u64| !tls && !linked(link).1;
    for client in clients.iter().filter(|client| is_pooled(&client.database)) {
        if is_plain(client.tls.is_some(), client.link()) {
            let fd = Fd {
                user: Some(client.user.clone()),
                database: Some(client.database.clone()),
                cancel: client.cancel_key.head(),
                link: linked(client.link()).0,
                parameters: shown().map(|position| client.value(position)),
                ..plain(client.fd, "client", client.ends.clone())
            };
            rows.push(fd.row(port));
        }
    }
    for server in servers.iter().filter(|server| is_plain(server.tls.is_some(), server.link())) {
        let fd = Fd {
            user: Some(server.user.clone()),
            database: Some(server.database.clone()),
            cancel: server.cancel_key.head(),
            link: linked(server.link()).0,
            parameters: shown().map(|position| server.value(position)),
            ..plain(server.fd, "server", server.ends.clone())
        };
        rows.push(fd.row(port));
    }
    for dial in registry.dials() {
        if let Some((ends, fd)) = dial.socket().filter(|_| !fds.contains_key(&dial.id)) {
            let (user, database) = (Some(dial.user.clone()), Some(dial.database.clone()));
            rows.push(Fd { user, database, ..plain(fd, "server", ends) }.row(port));
        }
    }
    rows
}

/// The parameters in the order of their columns.
fn shown() -> [usize; 4] {
    [CLIENT_ENCODING, STANDARD_CONFORMING_STRINGS, DATE_STYLE, TIME_ZONE]
}

/// A socket that we listen on; `None`: the Unix socket.
fn listener(fd: RawFd, address: Option<std::net::SocketAddr>, port: u16) -> Row {
    let address = match address {
        Some(address) => Ends::Tcp { peer: address, local: address },
        None => Ends::Unix { port, peer_pid: None },
    };
    let (user, database, parameters) = (None, None, Default::default());
    Fd { fd, task: "pooler", user, database, ends: address, cancel: 0, link: 0, parameters }.row(port)
}

impl Fd {
    fn row(self, listen_port: u16) -> Row {
        let (addr, port, ..) = addresses(Some(&self.ends), listen_port);
        let [encoding, strings, date_style, time_zone] = self.parameters;
        let (password, client_key, server_key) = (None::<&str>, None::<&str>, None::<&str>);
        row![
            self.fd.to_string(),
            self.task,
            self.user.as_deref(),
            self.database.as_deref(),
            addr,
            u32::from(port),
            self.cancel.cast_signed().to_string(),
            self.link.to_string(),
            encoding.as_deref(),
            strings.as_deref(),
            date_style.as_deref(),
            time_zone.as_deref(),
            password,
            client_key,
            server_key,
        ]
    }
}
