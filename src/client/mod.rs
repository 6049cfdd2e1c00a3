//! A client's whole life, a file per phase, in the order in which they come:
//! `admission` (is there a place), `login_stream` (how it is read and written until it is in), `proxy` (where a balancer says it comes from), `handshake` (startup packet), `login` (who, where,
//! may it; its secret from `secrets`), `welcome` (or `replication`), `session` (asks) and `wait` (for a server), `relay` and `replies` (is served), `end`; or `handover` to another
//! process, and from it. `timeouts` looks on.

pub(crate) mod admission;
pub(crate) mod throttle;
mod proxy;
mod login_stream;
mod handshake;
mod login;
mod secrets;
mod welcome;
mod replication;
mod session;
mod session_use;
mod wait;
mod relay;
mod replies;
mod end;
pub(crate) mod handover;
mod cancel;
pub(crate) mod timeouts;

pub(crate) use cancel::carry_out_for_successor;

use std::io;
use std::os::fd::RawFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgweir_config::Settings;
use pgweir_proto::sqlstate::SqlStates;
use tokio::sync::mpsc::UnboundedSender;

use crate::auth::AuthContext;
use crate::net::clock;
use crate::net::stream::{Detached, Stream};
use crate::pool::Permit;
use crate::pools::Pools;
use crate::registry::{Ends, NewcomerInfo, Registry};
use crate::worker::{Placed, SessionCell, Worker};
use admission::{Admission, LoginPlace};
use throttle::Throttle;

/// What the session of a client takes, in bytes, without what it refers to.
pub(crate) const SESSION_SIZE: usize = size_of::<session::Session>() + size_of::<SessionCell>();

/// What all clients need, whichever worker they are on.
pub(crate) struct Clients {
    pub(crate) pools: Arc<Pools>,
    pub(crate) auth: AuthContext,
    pub(crate) admission: Arc<Admission>,
    /// Tells of those who come to `proxy_protocol_port` and are no balancers.
    pub(crate) untrusted: Arc<Throttle>,
    /// Where a client of the console goes.
    pub(crate) console: UnboundedSender<ConsoleClient>,
}

/// What a console user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConsoleAccess {
    /// `admin_users`.
    Admin,
    /// `stats_users`: SHOW, without the commands that reveal or change something.
    Stats,
}

/// `sqlstates`
pub(crate) fn sqlstates(settings: &Settings) -> SqlStates {
    match settings.sqlstates {
        pgweir_config::SqlStates::Precise => SqlStates::Precise,
        pgweir_config::SqlStates::Pgbouncer => SqlStates::Pgbouncer,
    }
}

/// A client of the console, logged in but not yet welcomed.
pub(crate) struct ConsoleClient {
    pub(crate) id: u64,
    pub(crate) socket: Detached,
    /// Read already, and not looked at.
    pub(crate) ahead: Vec<u8>,
    pub(crate) ends: Ends,
    pub(crate) user: Arc<str>,
    pub(crate) access: ConsoleAccess,
    pub(crate) application_name: Option<Arc<str>>,
    pub(crate) slot: ClientSlot,
    /// Its units of `max_db_client_connections` and `max_user_client_connections`.
    pub(crate) permits: [Permit; 2],
    pub(crate) connect_us: u64,
}

/// A connected client, in login at first; counted out when dropped.
pub(crate) struct ClientSlot {
    registry: Arc<Registry>,
    id: u64,
    /// Its line in the registry while it is in its login.
    newcomer: Option<Arc<NewcomerInfo>>,
}

impl ClientSlot {
    pub(crate) fn new(registry: &Arc<Registry>, ends: &Ends, fd: RawFd) -> ClientSlot {
        registry.connected.fetch_add(1, Ordering::Relaxed);
        let id = registry.next_id();
        let newcomer = Arc::new(NewcomerInfo::new(id, ends.clone(), fd, clock::now_us()));
        registry.add_newcomer(&newcomer);
        ClientSlot { registry: Arc::clone(registry), id, newcomer: Some(newcomer) }
    }

    /// What it is called in the log and in the console.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// A balancer has told whom it comes from.
    pub(crate) fn set_ends(&self, ends: &Ends) {
        if let Some(newcomer) = &self.newcomer {
            newcomer.set_ends(ends);
        }
    }

    /// The startup packet has come.
    pub(crate) fn set_names(&self, user: &str, database: &str) {
        if let Some(newcomer) = &self.newcomer {
            newcomer.set_names(user, database);
        }
    }

    pub(crate) fn logged_in(&mut self) {
        if self.newcomer.take().is_some() {
            self.registry.remove_newcomer(self.id);
        }
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.logged_in();
        self.registry.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that has just been accepted, its socket on the runtime of its worker or, as yet, on none.
pub(crate) struct Arrival<S> {
    pub(crate) socket: S,
    pub(crate) ends: Ends,
    /// It comes from a balancer, and begins with a PROXY header.
    pub(crate) is_proxied: bool,
    pub(crate) slot: ClientSlot,
    pub(crate) place: LoginPlace,
}

impl<S> Arrival<S> {
    fn with<T>(self, make: impl FnOnce(S) -> io::Result<T>) -> io::Result<Arrival<T>> {
        let Arrival { socket, ends, is_proxied, slot, place } = self;
        Ok(Arrival { socket: make(socket)?, ends, is_proxied, slot, place })
    }
}

impl Arrival<Stream> {
    /// To go to another worker.
    pub(crate) fn detach(self) -> io::Result<Arrival<Detached>> {
        self.with(Stream::detach)
    }
}

impl Arrival<Detached> {
    /// On the runtime of the calling thread.
    pub(crate) fn attach(self) -> io::Result<Arrival<Stream>> {
        self.with(Detached::attach)
    }
}

/// An arrival that its worker has taken.
struct Newcomer {
    stream: Stream,
    ends: Ends,
    is_proxied: bool,
    slot: ClientSlot,
    place: LoginPlace,
    connect_us: u64,
}

/// Serves a client that has just connected, until it is gone.
pub(crate) async fn serve(clients: Arc<Clients>, worker: Rc<Worker>, arrival: Arrival<Stream>, placed: Placed) {
    let Arrival { socket: stream, ends, is_proxied, slot, place } = arrival;
    let connect_us = clock::now_us();
    if is_given_away(&clients, &stream, is_proxied).await {
        return;
    }
    let newcomer = Newcomer { stream, ends, is_proxied, slot, place, connect_us };
    // Tasks of their own: what a phase needed is given back before the next.
    tokio::task::spawn_local(async move {
        let log_in = pin!(login::log_in(&clients, &worker, newcomer));
        if let Some(session) = worker.paced(log_in).await {
            tokio::task::spawn_local(session.run(placed));
        }
    });
}

/// A login takes some KB, which somebody who says nothing does not get. Waits until something has come, or it is too late,
/// as the login will say; true: the connection is another process' by then.
async fn is_given_away(clients: &Clients, stream: &Stream, is_proxied: bool) -> bool {
    let limit = clients.pools.config().settings.client_login_timeout;
    let limit = if limit.is_zero() { Duration::MAX } else { limit };
    let mut heard = pin!(tokio::time::timeout(limit, stream.readable()));
    tokio::select! {
        // Most have sent something by now.
        biased;
        _ = &mut heard => false,
        giver = clients.pools.giver() => {
            let is_given = handover::give_arrival(giver, stream, is_proxied).await;
            if !is_given {
                let _ = heard.await;
            }
            is_given
        }
    }
}
