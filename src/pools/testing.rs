//! Servers in our own hands: tested, reset, or waiting for a cancel request to be over.

use std::sync::Arc;
use std::time::Duration;

use super::ServerPool;
use crate::net::clock;
use crate::pool::ServerState;
use crate::registry::{ServerInfo, ServerPhase};
use crate::server::{Server, query};

impl ServerPool {
    pub(super) fn wait_for_cancels(self: &Arc<Self>, server: Box<Server>, worker: usize) {
        self.core.shift(ServerState::Active, ServerState::BeingCanceled);
        server.info.set_phase(ServerPhase::BeingCanceled);
        let held = Held::new(self, ServerState::BeingCanceled, server);
        tokio::task::spawn_local(async move {
            held.info().cancels_over().await;
            // A cancel that came too late to find its query leaves a signal behind that the
            // next one would get; a round trip makes sure that it has come.
            let pool = Arc::clone(&held.pool);
            let server = held.take();
            if server.info.is_close_needed() {
                return pool.close(ServerState::BeingCanceled, server, "close_needed");
            }
            pool.core.shift(ServerState::BeingCanceled, ServerState::Tested);
            let cleaning = pool.cleaning(&server).unwrap_or(Test::Drain);
            pool.test(server, worker, cleaning);
        });
    }

    /// Runs a query on a server that is counted as tested, then gives it back.
    pub(super) fn test(self: &Arc<Self>, server: Box<Server>, worker: usize, test: Test) {
        server.info.set_phase(ServerPhase::Tested);
        let Some(pools) = self.pools.upgrade() else {
            return self.close(ServerState::Tested, server, "shutting down");
        };
        let config = pools.config();
        let mut held = Held::new(self, ServerState::Tested, server);
        tokio::task::spawn_local(async move {
            let settings = &config.settings;
            let sql = match test {
                Test::Check => settings.server_check_query.as_deref().unwrap_or(""),
                Test::Reset => &settings.server_reset_query,
                Test::Drain => "",
                Test::Deallocate => "DEALLOCATE ALL",
            };
            let timeout = some(settings.server_connect_timeout).unwrap_or(TEST_TIMEOUT);
            let mut done = query::run(held.server(), &pools.tracked, sql, timeout).await;
            if done.is_err() && matches!(test, Test::Drain) {
                // The late cancel hit our own query; the server is clean after it.
                done = query::run(held.server(), &pools.tracked, "", timeout).await;
            }
            let (pool, server) = (Arc::clone(&held.pool), held.take());
            match done {
                Ok(()) => pool.give_back(ServerState::Tested, server, Some(worker), clock::now_us()),
                Err(e) => {
                    server.log(format_args!("{} failed: {e}", test.name()));
                    pool.close(ServerState::Tested, server, test.failed());
                }
            }
        });
    }
}

/// Without `server_connect_timeout`, a test must still end.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

fn some(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

/// Why a server runs a query of ours.
#[derive(Debug, Clone, Copy)]
pub(super) enum Test {
    /// `server_check_query`: is it still alive?
    Check,
    /// `server_reset_query`: makes it clean for the next client.
    Reset,
    /// An empty query after a cancel request.
    Drain,
    /// Takes the SQL-level statements of the client that has gone.
    Deallocate,
}

impl Test {
    fn name(self) -> &'static str {
        match self {
            Test::Check => "server_check_query",
            Test::Reset => "server_reset_query",
            Test::Drain => "round trip after a cancel request",
            Test::Deallocate => "DEALLOCATE ALL",
        }
    }

    fn failed(self) -> &'static str {
        match self {
            Test::Check => "test query failed",
            Test::Reset => "reset query failed",
            Test::Drain | Test::Deallocate => "unclean server",
        }
    }
}

/// A server in the hands of a task of ours; closed and counted out if the task is dropped.
pub(super) struct Held {
    pool: Arc<ServerPool>,
    state: ServerState,
    /// `None` once it was taken.
    server: Option<Box<Server>>,
}

impl Held {
    pub(super) fn new(pool: &Arc<ServerPool>, state: ServerState, server: Box<Server>) -> Held {
        Held { pool: Arc::clone(pool), state, server: Some(server) }
    }

    pub(super) fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("it is there until it is taken")
    }

    fn info(&self) -> &ServerInfo {
        &self.server.as_ref().expect("it is there until it is taken").info
    }

    pub(super) fn take(mut self) -> Box<Server> {
        self.server.take().expect("it is taken once, since `take` consumes")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            // The process ends, or nobody waits any more for what the server was doing.
            self.pool.close(self.state, server, "given up");
        }
    }
}
