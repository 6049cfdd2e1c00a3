//! Servers for one client each, as replication needs them: made for it with what it asks for at
//! its login, never handed on, closed when it is done.
//!
//! ```text
//!   queued ──place granted──▶ logging in ──▶ the client's
//!      ▲                          │
//!      └──── host is not there ───┘
//! ```

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use pgweir_proto::client_error::ClientError;
use pgweir_proto::replication::Replication;
use tokio::sync::oneshot;

use super::launch::{Login, Room};
use super::{Pools, ServerPool};
use crate::log::log_at;
use crate::net::clock;
use crate::pool::{Permits, PlaceKey, ServerState};
use crate::registry::ServerPhase;
use crate::server::Server;
use crate::server::connect::{ConnectError, Connected, Target, Welcome};
use crate::server::parameters::{Parameters, Tracked};

/// What a client of replication asks for besides its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Walsender {
    pub(crate) kind: Replication,
    /// `options` as the client sent it: any, since nobody else gets the server.
    pub(crate) options: Option<String>,
}

/// A client's claim to a server of its own; given up when dropped.
pub(crate) struct Claim {
    pool: Arc<ServerPool>,
    worker: usize,
    walsender: Walsender,
    /// The client's parameters. A walsender may not take SET, so they go with its login.
    parameters: Parameters,
    state: State,
}

enum State {
    Queued(PlaceKey),
    LoggingIn(oneshot::Receiver<Made>),
    /// The client has it, or none.
    Over,
}

/// What a login has come to.
enum Made {
    Server(Fresh),
    /// Nobody's fault here: the host is not there, or the login was overtaken by a reload.
    Again,
    Refused(ClientError),
}

/// There is nobody to log in any more: the process ends.
const ENDING: Made = Made::Refused(ClientError::ShuttingDown);

/// A server on its way to its client; closed and counted out if the client has gone.
struct Fresh {
    pool: Arc<ServerPool>,
    /// `None` once the client has it.
    made: Option<(Box<Server>, Welcome)>,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some((server, _)) = self.made.take() {
            self.pool.close(ServerState::LoginDedicated, server, "replication client disconnected");
        }
    }
}

impl Claim {
    /// Queues a client of `worker` for a server of `pool`.
    pub(crate) fn new(
        pool: Arc<ServerPool>,
        worker: usize,
        walsender: Walsender,
        parameters: Parameters,
        now_us: u64,
    ) -> Claim {
        let key = pool.core.wait_for_place(worker, now_us);
        pool.launch();
        Claim { pool, worker, walsender, parameters, state: State::Queued(key) }
    }

    /// The server, attached to this thread's runtime and counted as active.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Box<Server>, Welcome), ClientError>> {
        loop {
            let made = match &mut self.state {
                State::Queued(key) => match ready!(self.pool.core.poll_place(key, cx)) {
                    Some(permits) => match self.log_in(permits) {
                        Some(made) => {
                            self.state = State::LoggingIn(made);
                            continue;
                        }
                        None => ENDING,
                    },
                    None => Made::Again,
                },
                State::LoggingIn(made) => ready!(Pin::new(made).poll(cx)).unwrap_or(ENDING),
                State::Over => ENDING,
            };
            self.state = State::Over;
            match made {
                Made::Server(fresh) => return Poll::Ready(fresh.hand_over()),
                Made::Refused(error) => return Poll::Ready(Err(error)),
                Made::Again if self.pool.is_removed() => return Poll::Ready(Err(ClientError::DatabaseRemoved)),
                Made::Again => {
                    self.state = State::Queued(self.pool.core.wait_for_place(self.worker, clock::now_us()));
                    self.pool.launch();
                }
            }
        }
    }

    /// Begins the login that was counted in for this client.
    fn log_in(&self, permits: Permits) -> Option<oneshot::Receiver<Made>> {
        let login = Login::new(&self.pool, ServerState::LoginDedicated);
        let pools = self.pool.pools.upgrade()?;
        let (pool, walsender, parameters) = (Arc::clone(&self.pool), self.walsender.clone(), self.parameters.clone());
        let (mut to_client, made) = oneshot::channel();
        pools.control.clone().spawn(async move {
            let target = pools.target(&pool).for_walsender(&walsender, &parameters, &pools.tracked);
            let log_in = pools.log_in_dedicated(&pool, &target, login, permits);
            let made = tokio::select! {
                made = log_in => made,
                // The client is gone: the login ends here.
                () = poll_fn(|cx| to_client.poll_closed(cx)) => Made::Again,
            };
            let is_fresh = matches!(made, Made::Server(_));
            // If nobody takes it, it counts itself out.
            let _ = to_client.send(made);
            if is_fresh {
                pool.launch();
            } else {
                pool.freed();
            }
        });
        Some(made)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let State::Queued(key) = &self.state
            && self.pool.core.abandon_place(key)
        {
            self.pool.freed();
        }
    }
}

impl Fresh {
    /// It would be obsolete, or in the way, before it was used.
    fn throw_away(mut self, reason: &str) -> Made {
        if let Some((server, _)) = self.made.take() {
            server.close(reason);
            self.pool.core.closed(ServerState::LoginDedicated);
        }
        Made::Again
    }

    fn hand_over(mut self) -> Result<(Box<Server>, Welcome), ClientError> {
        let Some((mut server, welcome)) = self.made.take() else { return Err(ClientError::ServerCrashed) };
        if let Err(e) = server.attach(false) {
            server.log(format_args!("cannot move the connection to a worker: {e}"));
            self.pool.close(ServerState::LoginDedicated, server, "attach failed");
            return Err(ClientError::ServerCrashed);
        }
        self.pool.core.shift(ServerState::LoginDedicated, ServerState::Active);
        server.info.set_phase(ServerPhase::Active);
        Ok((server, welcome))
    }
}

impl Pools {
    /// Gives places to clients that wait for one, at most `allowed`.
    pub(super) fn grant_places(self: &Arc<Self>, pool: &Arc<ServerPool>, allowed: u32) {
        for _ in 0..allowed {
            let Some(begun) = pool.core.begin_dedicated(clock::now_us()) else { return };
            let login = Login::new(pool, ServerState::LoginDedicated);
            begun.evicted.into_iter().for_each(|server| server.close("evicted"));
            if begun.is_of_reserve {
                pool.log_reserve();
            }
            let Some(permits) = self.permits(pool, Room::OfAll) else {
                self.starving.store(true, Ordering::Relaxed);
                return;
            };
            if pool.core.grant(permits).is_ok() {
                // The client counts it out from here on.
                login.done();
            }
        }
    }

    async fn log_in_dedicated(&self, pool: &Arc<ServerPool>, target: &Target, login: Login, permits: Permits) -> Made {
        let done = self.connector.connect(target, permits).await;
        let is_current = !target.epoch.is_over();
        match done {
            Ok(Connected { server, welcome }) => {
                login.done();
                let fresh = Fresh { pool: Arc::clone(pool), made: Some((Box::new(server), welcome)) };
                if !is_current {
                    return fresh.throw_away("database configuration changed");
                }
                if pool.core.is_paused() {
                    return fresh.throw_away("pause mode");
                }
                pool.host_is_up();
                Made::Server(fresh)
            }
            Err(_) if !is_current => Made::Again,
            Err(error) => self.dedicated_failed(pool, &error),
        }
    }

    /// A host that is not there concerns the whole pool; a refusal of a walsender, for the want
    /// of a role or an HBA line, nobody else.
    fn dedicated_failed(&self, pool: &ServerPool, error: &ConnectError) -> Made {
        if error.is_about_host() {
            self.note_failure(pool, error);
            return Made::Again;
        }
        let (database, user) = (&pool.database.name, &pool.user.name);
        log_at!(Warning, "{database}/{user}: no server connection for replication: {error}; {}", error.what_to_do());
        let (detail, sqlstate) = error.to_client();
        Made::Refused(ClientError::ReplicationLoginFailed { detail, sqlstate })
    }
}

impl Target {
    /// The same, but for what makes the connection that of a walsender.
    fn for_walsender(mut self, walsender: &Walsender, parameters: &Parameters, tracked: &Tracked) -> Target {
        self.replication = Some(walsender.kind);
        let mut ask = |name: &str, value: &str| self.startup.push((name.to_owned(), value.to_owned()));
        ask("replication", walsender.kind.value());
        parameters.values().for_each(|(position, value)| ask(tracked.name(position), value));
        if let Some(options) = &walsender.options {
            ask("options", options);
        }
        self
    }
}
