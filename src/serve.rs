//! Accepting: new connections go to the workers.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pgweir_proto::client_error::ClientError;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::client::admission::Source;
use crate::client::{Arrival, ClientSlot, Clients};
use crate::crew::Crew;
use crate::log::log_at;
use crate::net::listener::{Listeners, SocketFile, UnixSocket, set_defer_accept};
use crate::net::stream::Stream;
use crate::net::tcp::TcpOptions;
use crate::pools::Pools;
use crate::registry::{Ends, Registry};

/// After a failed accept (out of descriptors, mostly) others may close something meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// What a client that is turned away has sent by then: a request for TLS, or a startup packet.
const UNREAD_MAX: usize = 1024;

/// Accepts on all of `listeners` until what is returned is dropped, which closes them.
pub(crate) fn accept(listeners: Listeners, clients: &Arc<Clients>, crew: &Arc<Crew>) -> io::Result<Accepting> {
    let mut tcp_tasks = JoinSet::new();
    let Listeners { tcp, proxied, unix } = listeners;
    let port = clients.pools.config().settings.listen_port;
    let same: Vec<_> = tcp.iter().chain(&proxied).map(std::net::TcpListener::try_clone).collect::<io::Result<_>>()?;
    let direct = tcp.into_iter().map(|listener| (listener, false));
    for (listener, is_proxied) in direct.chain(proxied.into_iter().map(|listener| (listener, true))) {
        let listener = TcpListener::from_std(listener)?;
        let (clients, crew) = (Arc::clone(clients), Arc::clone(crew));
        tcp_tasks.spawn(async move {
            loop {
                match unless_suspended(&clients.pools, listener.accept()).await {
                    Some(Ok((stream, peer))) => report(place_tcp(stream, peer, is_proxied, &clients, &crew)),
                    Some(Err(e)) => pause(&e).await,
                    None => {}
                }
            }
        });
    }
    let tcp_fds = same.iter().map(|listener| (listener.as_raw_fd(), listener.local_addr().ok()));
    let unix_fd = unix.iter().map(|unix| (unix.listener.as_raw_fd(), None));
    clients.pools.registry.set_listeners(tcp_fds.chain(unix_fd).collect());
    let (mut file, mut unix_tasks) = (None, JoinSet::new());
    if let Some(UnixSocket { listener, file: its_file }) = unix {
        file = its_file;
        let listener = UnixListener::from_std(listener)?;
        let (clients, crew) = (Arc::clone(clients), Arc::clone(crew));
        unix_tasks.spawn(async move {
            loop {
                match unless_suspended(&clients.pools, listener.accept()).await {
                    Some(Ok((stream, _))) => report(place_unix(stream, port, &clients, &crew)),
                    Some(Err(e)) => pause(&e).await,
                    None => {}
                }
            }
        });
    }
    let registry = Arc::clone(&clients.pools.registry);
    Ok(Accepting { tcp_tasks, _unix_tasks: unix_tasks, tcp: same, _file: file, registry })
}

/// What is accepted while SUSPEND is not in force; `None`: it has just begun, or ended.
async fn unless_suspended<T>(pools: &Pools, accept: impl Future<Output = T>) -> Option<T> {
    let mut suspended = pools.suspended();
    if *suspended.borrow_and_update() {
        let _ = suspended.changed().await;
        return None;
    }
    tokio::select! {
        accepted = accept => Some(accepted),
        _ = suspended.changed() => None,
    }
}

/// Open listeners.
pub(crate) struct Accepting {
    tcp_tasks: JoinSet<()>,
    _unix_tasks: JoinSet<()>,
    /// The TCP listeners again, for what a reload changes.
    tcp: Vec<std::net::TcpListener>,
    /// The Unix socket's name, which goes with this.
    _file: Option<SocketFile>,
    registry: Arc<Registry>,
}

impl Accepting {
    /// Another process can take the port. The Unix socket stays: peers pass on cancel requests
    /// for the clients that are left, and the console can be reached.
    pub(crate) async fn close_tcp(&mut self) {
        self.tcp.clear();
        self.tcp_tasks.shutdown().await;
        let mut left = self.registry.listeners();
        left.retain(|(_, address)| address.is_none());
        self.registry.set_listeners(left);
    }

    pub(crate) fn set_defer_accept(&self, on: bool) {
        self.tcp.iter().for_each(|listener| set_defer_accept(listener, on));
    }
}

fn place_tcp(stream: TcpStream, peer: SocketAddr, is_proxied: bool, clients: &Clients, crew: &Crew) -> io::Result<()> {
    let ends = Ends::Tcp { peer, local: stream.local_addr()? };
    let config = clients.pools.config();
    let settings = &config.settings;
    if is_proxied && !settings.proxy_protocol_networks.has(peer.ip()) {
        // Not a word to those who are none of the balancers.
        let text = "connection to proxy_protocol_port closed, which is not from one of proxy_protocol_networks";
        clients.untrusted.warn(format_args!("{text}: {peer}"));
        return Ok(());
    }
    let source = if is_proxied { Source::Balancer } else { Source::Address(peer.ip()) };
    let place = match clients.admission.admit(settings, source) {
        Ok(place) => place,
        Err(error) => {
            clients.admission.report(&error, &ends);
            return turn_away(stream.into_std()?, &error);
        }
    };
    TcpOptions::for_clients(settings).apply(&stream)?;
    let slot = ClientSlot::new(&clients.pools.registry, &ends, stream.as_raw_fd());
    let socket = Stream::tcp(stream).detach()?;
    crew.place(Arrival { socket, ends, is_proxied, slot, place });
    Ok(())
}

fn place_unix(stream: UnixStream, port: u16, clients: &Clients, crew: &Crew) -> io::Result<()> {
    let peer_pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
    let ends = Ends::Unix { port, peer_pid };
    let Ok(place) = clients.admission.admit(&clients.pools.config().settings, Source::Unix) else { return Ok(()) };
    let slot = ClientSlot::new(&clients.pools.registry, &ends, stream.as_raw_fd());
    let socket = Stream::unix(stream).detach()?;
    crew.place(Arrival { socket, ends, is_proxied: false, slot, place });
    Ok(())
}

/// Tells a client that there is no place for it, at no further cost.
fn turn_away(mut socket: std::net::TcpStream, error: &ClientError) -> io::Result<()> {
    // What it has sent is taken off the socket, since closing it over unread bytes resets the
    // connection, and the client might not see what it is told.
    let _ = socket.read(&mut [0; UNREAD_MAX]);
    let mut message = Vec::new();
    error.encode(&mut message);
    socket.write_all(&message)
}

/// A connection that ended before it began is not worth more than this.
fn report(placed: io::Result<()>) {
    if let Err(e) = placed {
        log_at!(Debug, "new connection was lost: {e}");
    }
}

async fn pause(e: &io::Error) {
    log_at!(Warning, "accept() failed: {e}; is the limit on open files high enough?");
    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
}
