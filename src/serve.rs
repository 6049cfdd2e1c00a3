//! Accepting: new connections go to the workers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::client::{ClientSlot, Clients};
use crate::crew::Crew;
use crate::log::log_at;
use crate::net::listener::{Listeners, SocketFile, UnixSocket, set_defer_accept};
use crate::net::stream::Stream;
use crate::net::tcp::TcpOptions;
use crate::registry::Ends;

/// After a failed accept (out of descriptors, mostly) others may close something meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Accepts on all of `listeners` until what is returned is dropped, which closes them.
pub(crate) fn accept(listeners: Listeners, clients: &Arc<Clients>, crew: &Arc<Crew>) -> io::Result<Accepting> {
    let mut tcp_tasks = JoinSet::new();
    let Listeners { tcp, unix } = listeners;
    let port = clients.pools.config().settings.listen_port;
    let same = tcp.iter().map(std::net::TcpListener::try_clone).collect::<io::Result<_>>()?;
    for listener in tcp {
        let listener = TcpListener::from_std(listener)?;
        let (clients, crew) = (Arc::clone(clients), Arc::clone(crew));
        tcp_tasks.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => report(place_tcp(stream, &clients, &crew)),
                    Err(e) => pause(&e).await,
                }
            }
        });
    }
    let (mut file, mut unix_tasks) = (None, JoinSet::new());
    if let Some(UnixSocket { listener, file: its_file }) = unix {
        file = its_file;
        let listener = UnixListener::from_std(listener)?;
        let (clients, crew) = (Arc::clone(clients), Arc::clone(crew));
        unix_tasks.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => report(place_unix(stream, port, &clients, &crew)),
                    Err(e) => pause(&e).await,
                }
            }
        });
    }
    Ok(Accepting { tcp_tasks, _unix_tasks: unix_tasks, tcp: same, _file: file })
}

/// Open listeners.
pub(crate) struct Accepting {
    tcp_tasks: JoinSet<()>,
    _unix_tasks: JoinSet<()>,
    /// The TCP listeners again, for what a reload changes.
    tcp: Vec<std::net::TcpListener>,
    /// The Unix socket's name, which goes with this.
    _file: Option<SocketFile>,
}

impl Accepting {
    /// Another process can take the port. The Unix socket stays: peers pass on cancel requests
    /// for the clients that are left, and the console can be reached.
    pub(crate) async fn close_tcp(&mut self) {
        self.tcp.clear();
        self.tcp_tasks.shutdown().await;
    }

    pub(crate) fn set_defer_accept(&self, on: bool) {
        self.tcp.iter().for_each(|listener| set_defer_accept(listener, on));
    }
}

fn place_tcp(stream: TcpStream, clients: &Clients, crew: &Crew) -> io::Result<()> {
    let ends = Ends::Tcp { peer: stream.peer_addr()?, local: stream.local_addr()? };
    TcpOptions::for_clients(&clients.pools.config().settings).apply(&stream)?;
    crew.place(Stream::tcp(stream).detach()?, ends, ClientSlot::new(&clients.pools.registry));
    Ok(())
}

fn place_unix(stream: UnixStream, port: u16, clients: &Clients, crew: &Crew) -> io::Result<()> {
    let peer_pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
    let ends = Ends::Unix { port, peer_pid };
    crew.place(Stream::unix(stream).detach()?, ends, ClientSlot::new(&clients.pools.registry));
    Ok(())
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
