//! Accepting: a worker takes new connections from the listening sockets.

use std::io::{self, Read, Write};
use std::net::{self, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix;
use std::time::Duration;

use pgweir_config::Settings;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::sqlstate::SqlStates;
use socket2::{Domain, Socket};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::client::admission::Source;
use crate::client::{Arrival, ClientSlot, Clients, sqlstates};
use crate::log::log_at;
use crate::net::stream::Stream;
use crate::net::tcp::TcpOptions;
use crate::registry::Ends;

/// After a failed accept (out of descriptors, mostly) others may close something meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// So many new clients are taken on before those who are in have their turn again.
const ARRIVALS_PER_TURN: usize = 16;

/// What a client that is turned away has sent by then: a request for TLS, or a startup packet.
const UNREAD_MAX: usize = 1024;

/// A socket that clients come to, not yet on a runtime.
pub(crate) enum Door {
    Tcp(net::TcpListener, Tcp),
    /// With the port in the name of the socket.
    Unix(unix::net::UnixListener, u16),
}

/// What is the same for all connections of a listener.
pub(crate) struct Tcp {
    /// They begin with a PROXY header.
    is_proxied: bool,
    /// The address of ours that they have come to; `None`: each may have come to another.
    local: Option<SocketAddr>,
    /// What they have inherited.
    options: TcpOptions,
}

impl Door {
    /// Has a descriptor of its own, as [`Door::unix`].
    pub(crate) fn tcp(listener: &net::TcpListener, is_proxied: bool, settings: &Settings) -> io::Result<Door> {
        let options = TcpOptions::for_clients(settings);
        // Once here instead of for each connection.
        options.apply(listener)?;
        let local = listener.local_addr().ok().filter(|local| !local.ip().is_unspecified());
        Ok(Door::Tcp(listener.try_clone()?, Tcp { is_proxied, local, options }))
    }

    pub(crate) fn unix(listener: &unix::net::UnixListener, port: u16) -> io::Result<Door> {
        Ok(Door::Unix(listener.try_clone()?, port))
    }
}

/// Accepts on the runtime of the calling thread while SUSPEND is not in force. Never ends.
pub(crate) async fn accept(door: Door, clients: &Clients, place: impl FnMut(Arrival<Stream>)) {
    let ended = match door {
        Door::Tcp(listener, tcp) => match TcpListener::from_std(listener) {
            Ok(listener) => {
                let arrival = |(stream, peer)| tcp_arrival(stream, peer, &tcp, clients);
                return go_on(clients, async || listener.accept().await, arrival, place).await;
            }
            Err(e) => e,
        },
        Door::Unix(listener, port) => match UnixListener::from_std(listener) {
            Ok(listener) => {
                let arrival = |(stream, _)| unix_arrival(stream, port, clients);
                return go_on(clients, async || listener.accept().await, arrival, place).await;
            }
            Err(e) => e,
        },
    };
    log_at!(Error, "cannot accept new clients: {ended}");
}

/// Never ends.
async fn go_on<T>(
    clients: &Clients,
    accept: impl AsyncFn() -> io::Result<T>,
    arrival: impl Fn(T) -> io::Result<Option<Arrival<Stream>>>,
    mut place: impl FnMut(Arrival<Stream>),
) {
    let mut suspended = clients.pools.suspended();
    let mut accepted = 0;
    loop {
        if *suspended.borrow_and_update() {
            let _ = suspended.changed().await;
            continue;
        }
        let next = tokio::select! {
            next = accept() => next,
            _ = suspended.changed() => continue,
        };
        match next.map(&arrival) {
            Ok(Ok(Some(arrival))) => place(arrival),
            Ok(Ok(None)) => {}
            // A connection that ended before it began is not worth more than this.
            Ok(Err(e)) => log_at!(Debug, "new connection was lost: {e}"),
            Err(e) => {
                log_at!(Warning, "accept() failed: {e}; is the limit on open files high enough?");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
        accepted += 1;
        if accepted % ARRIVALS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// A connection that the process before has accepted, and that nothing has come on. `None`: it was turned away.
pub(crate) fn adopt(fd: OwnedFd, is_proxied: bool, clients: &Clients) -> io::Result<Option<Arrival<Stream>>> {
    let config = clients.pools.config();
    let socket = Socket::from(fd);
    if socket.domain()? == Domain::UNIX {
        return unix_arrival(UnixStream::from_std(socket.into())?, config.settings.listen_port, clients);
    }
    let options = TcpOptions::for_clients(&config.settings);
    options.apply(&socket)?;
    let stream = TcpStream::from_std(socket.into())?;
    let peer = stream.peer_addr()?;
    tcp_arrival(stream, peer, &Tcp { is_proxied, local: None, options }, clients)
}

/// `None`: it was turned away.
fn tcp_arrival(
    stream: TcpStream,
    peer: SocketAddr,
    tcp: &Tcp,
    clients: &Clients,
) -> io::Result<Option<Arrival<Stream>>> {
    let ends = Ends::Tcp { peer, local: tcp.local.map_or_else(|| stream.local_addr(), Ok)? };
    let config = clients.pools.config();
    let (settings, is_proxied) = (&config.settings, tcp.is_proxied);
    if is_proxied && !settings.proxy_protocol_networks.has(peer.ip()) {
        // Not a word to those who are none of the balancers.
        let text = "connection to proxy_protocol_port closed, which is not from one of proxy_protocol_networks";
        clients.untrusted.warn(format_args!("{text}: {peer}"));
        return Ok(None);
    }
    let source = if is_proxied { Source::Balancer } else { Source::Address(peer.ip()) };
    let place = match clients.admission.admit(settings, source) {
        Ok(place) => place,
        Err(error) => {
            clients.admission.report(&error, &ends);
            return turn_away(stream.into_std()?, &error, sqlstates(settings)).map(|()| None);
        }
    };
    let options = TcpOptions::for_clients(settings);
    // A RELOAD has changed them.
    if options != tcp.options {
        options.apply(&stream)?;
    }
    let slot = ClientSlot::new(&clients.pools.registry, &ends, stream.as_raw_fd());
    Ok(Some(Arrival { socket: Stream::tcp(stream), ends, is_proxied, slot, place }))
}

fn unix_arrival(stream: UnixStream, port: u16, clients: &Clients) -> io::Result<Option<Arrival<Stream>>> {
    let peer_pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
    let ends = Ends::Unix { port, peer_pid };
    let config = clients.pools.config();
    let Ok(place) = clients.admission.admit(&config.settings, Source::Unix) else { return Ok(None) };
    let slot = ClientSlot::new(&clients.pools.registry, &ends, stream.as_raw_fd());
    Ok(Some(Arrival { socket: Stream::unix(stream), ends, is_proxied: false, slot, place }))
}

/// Tells a client that there is no place for it, at no further cost.
fn turn_away(mut socket: net::TcpStream, error: &ClientError, sqlstates: SqlStates) -> io::Result<()> {
    // What it has sent is taken off the socket, since closing it over unread bytes resets the
    // connection, and the client might not see what it is told.
    let _ = socket.read(&mut [0; UNREAD_MAX]);
    let mut message = Vec::new();
    error.encode(sqlstates, &mut message);
    socket.write_all(&message)
}
