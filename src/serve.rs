//! The listeners, and who accepts from them: the first worker, who places each client on the worker with the fewest.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use crate::accept::Door;
use crate::client::Clients;
use crate::crew::Crew;
use crate::log::log_at;
use crate::net::listener::{Listeners, UnixSocket, set_defer_accept};

/// Open listeners, and whether they are accepted from. Closed when dropped.
pub(crate) struct Accepting {
    clients: Arc<Clients>,
    crew: Arc<Crew>,
    is_accepting: bool,
    /// What is accepted from has descriptors of its own.
    listeners: Listeners,
}

impl Accepting {
    /// Nobody accepts yet.
    pub(crate) fn new(listeners: Listeners, clients: &Arc<Clients>, crew: &Arc<Crew>) -> Accepting {
        Accepting { clients: Arc::clone(clients), crew: Arc::clone(crew), is_accepting: false, listeners }
    }

    /// Accepts on all listeners.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        self.listeners.unix.iter_mut().for_each(UnixSocket::own_file);
        self.is_accepting = true;
        // Until it has begun, clients queue.
        drop(self.crew.accept(self.doors()?));
        self.list();
        Ok(())
    }

    fn doors(&self) -> io::Result<Vec<Door>> {
        let config = self.clients.pools.config();
        let settings = &config.settings;
        let tcp = self.listeners.of_tcp().map(|(listener, is_proxied)| Door::tcp(listener, is_proxied, settings));
        let unix = self.listeners.unix.iter().map(|socket| Door::unix(&socket.listener, settings.listen_port));
        tcp.chain(unix).collect()
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
        self.is_accepting = false;
        // Fails if the process ends.
        let _ = self.crew.accept(Vec::new()).await;
    }

    /// Another process can take the port. The Unix socket stays: peers pass on cancel requests
    /// for the clients that are left, and the console can be reached.
    pub(crate) async fn close_tcp(&mut self) {
        self.listeners.tcp.clear();
        self.listeners.proxied.clear();
        self.list();
        if self.is_accepting {
            let doors = self.doors().unwrap_or_else(|e| {
                log_at!(Error, "cannot accept on the Unix socket any more: {e}");
                Vec::new()
            });
            let _ = self.crew.accept(doors).await;
        }
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
