//! Accepting: new connections go to the workers.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use pgweir_proto::client_error::ClientError;
use pgweir_proto::sqlstate::SqlStates;
use socket2::{Domain, Socket};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::client::admission::Source;
use crate::client::{Arrival, ClientSlot, Clients, sqlstates};
use crate::crew::Crew;
use crate::log::log_at;
use crate::net::listener::{Listeners, UnixSocket, set_defer_accept};
use crate::net::stream::Stream;
use crate::net::tcp::TcpOptions;
use crate::pools::Pools;
use crate::registry::Ends;

/// After a failed accept (out of descriptors, mostly) others may close something meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// What a client that is turned away has sent by then: a request for TLS, or a startup packet.
const UNREAD_MAX: usize = 1024;

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

/// Open listeners, and the tasks that accept from them. Closed when dropped.
pub(crate) struct Accepting {
    clients: Arc<Clients>,
    crew: Arc<Crew>,
    tcp_tasks: JoinSet<()>,
    unix_tasks: JoinSet<()>,
    /// What the tasks accept from has descriptors of its own.
    listeners: Listeners,
}

impl Accepting {
    /// Nobody accepts yet.
    pub(crate) fn new(listeners: Listeners, clients: &Arc<Clients>, crew: &Arc<Crew>) -> Accepting {
        Accepting {
            clients: Arc::clone(clients),
            crew: Arc::clone(crew),
            tcp_tasks: JoinSet::new(),
            unix_tasks: JoinSet::new(),
            listeners,
        }
    }

    /// Accepts on all listeners.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        let port = self.clients.pools.config().settings.listen_port;
        self.listeners.unix.iter_mut().for_each(UnixSocket::own_file);
        for (listener, is_proxied) in self.listeners.of_tcp() {
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            let (clients, crew) = (Arc::clone(&self.clients), Arc::clone(&self.crew));
            self.tcp_tasks.spawn(async move {
                loop {
                    match unless_suspended(&clients.pools, listener.accept()).await {
                        Some(Ok((stream, peer))) => report(place_tcp(stream, peer, is_proxied, &clients, &crew)),
                        Some(Err(e)) => pause(&e).await,
                        None => {}
                    }
                }
            });
        }
        for socket in &self.listeners.unix {
            let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
            let (clients, crew) = (Arc::clone(&self.clients), Arc::clone(&self.crew));
            self.unix_tasks.spawn(async move {
                loop {
                    match unless_suspended(&clients.pools, listener.accept()).await {
                        Some(Ok((stream, _))) => report(place_unix(stream, port, &clients, &crew)),
                        Some(Err(e)) => pause(&e).await,
                        None => {}
                    }
                }
            });
        }
        self.list();
        Ok(())
    }

    /// What is open, for the console.
    fn list(&self) {
        let tcp = self.listeners.of_tcp().map(|(listener, _)| (listener.as_raw_fd(), listener.local_addr().ok()));
        let unix = self.listeners.unix.iter().map(|socket| (socket.listener.as_raw_fd(), None));
        self.clients.pools.registry.set_listeners(tcp.chain(unix).collect());
    }

    /// Accepts no more, but holds the listeners open: another process accepts.
    pub(crate) async fn stop(&mut self) {
        self.listeners.unix.iter_mut().for_each(UnixSocket::leave_file);
        self.tcp_tasks.shutdown().await;
        self.unix_tasks.shutdown().await;
    }

    /// Another process can take the port. The Unix socket stays: peers pass on cancel requests
    /// for the clients that are left, and the console can be reached.
    pub(crate) async fn close_tcp(&mut self) {
        self.listeners.tcp.clear();
        self.listeners.proxied.clear();
        self.tcp_tasks.shutdown().await;
        self.list();
    }

    pub(crate) fn set_defer_accept(&self, on: bool) {
        self.listeners.of_tcp().for_each(|(listener, _)| set_defer_accept(listener, on));
    }

    pub(crate) fn are_activated(&self) -> bool {
        self.listeners.are_activated
    }

    /// Further descriptors of all listeners, each with whether its connections begin with a PROXY header.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<(OwnedFd, bool)>> {
        let tcp = self.listeners.of_tcp().map(|(listener, is_proxied)| (listener.as_fd(), is_proxied));
        let unix = self.listeners.unix.iter().map(|socket| (socket.listener.as_fd(), false));
        tcp.chain(unix).map(|(fd, is_proxied)| Ok((fd.try_clone_to_owned()?, is_proxied))).collect()
    }
}

/// A connection that the process before has accepted, and that nothing has come on.
pub(crate) fn place(fd: OwnedFd, is_proxied: bool, clients: &Clients, crew: &Crew) {
    let socket = Socket::from(fd);
    let placed = || {
        if socket.domain()? == Domain::UNIX {
            let port = clients.pools.config().settings.listen_port;
            return place_unix(UnixStream::from_std(socket.into())?, port, clients, crew);
        }
        let stream = TcpStream::from_std(socket.into())?;
        let peer = stream.peer_addr()?;
        place_tcp(stream, peer, is_proxied, clients, crew)
    };
    report(placed());
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
            return turn_away(stream.into_std()?, &error, sqlstates(settings));
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
fn turn_away(mut socket: std::net::TcpStream, error: &ClientError, sqlstates: SqlStates) -> io::Result<()> {
    // What it has sent is taken off the socket, since closing it over unread bytes resets the
    // connection, and the client might not see what it is told.
    let _ = socket.read(&mut [0; UNREAD_MAX]);
    let mut message = Vec::new();
    error.encode(sqlstates, &mut message);
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
