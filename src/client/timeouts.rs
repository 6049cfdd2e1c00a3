//! Clients that wait, idle or run for too long.
//!
//! No session has a timer: the worker looks at all of them a few times a second, as PgBouncer
//! does, so that a message costs no more than a store.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pgweir_config::Config;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::error_response::{ErrorResponse, Severity};
use pgweir_proto::sqlstate::SqlState;

use crate::control::Shutdown;
use crate::net::clock;
use crate::pools::{Leaving, Pools};
use crate::registry::{ClientInfo, ClientState};
use crate::worker::{SessionCell, Worker};

const PERIOD: Duration = Duration::from_millis(333);

/// Sent to a client that has waited for `query_wait_notify`; PgBouncer's words.
const WAIT_NOTICE: &str = "No server connection available in postgres backend, client being queued";

/// Looks after the sessions of `worker` until the process ends.
pub(crate) async fn watch(worker: Rc<Worker>, pools: Arc<Pools>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.note_load();
        if pools.is_suspended() {
            continue;
        }
        let (config, now_us) = (pools.config(), clock::now_us());
        if worker.is_giving() {
            // Not all that a session has to wait for before it can go wakes it.
            worker.wake_sessions();
        }
        let waits_for_servers = pools.shutdown() == Some(Shutdown::WaitForServers);
        let leaving = pools.leaving();
        worker.each_session(|cell| {
            if cell.info.is_leaving() {
                // The other process may be serving it already.
                return;
            }
            let is_waiting = cell.info.state() == ClientState::Waiting;
            if (waits_for_servers && is_waiting) || must_leave(leaving, &cell.info) {
                cell.kill(ClientError::ServerShuttingDown, true);
            } else if is_obsolete(&config, &pools, &cell.info) {
                cell.kill(ClientError::DatabaseChanged, true);
            } else if let Some(error) = overdue(&config, cell, now_us) {
                cell.kill(error, true);
            } else if must_notify(&config, cell, now_us) {
                let mut notice = Vec::new();
                ErrorResponse::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, WAIT_NOTICE).notice(&mut notice);
                cell.was_notified.set(true);
                worker.outbox.push(&cell.to_client, &notice);
            }
        });
    }
}

fn must_leave(leaving: Leaving, info: &ClientInfo) -> bool {
    match leaving {
        Leaving::Nobody => false,
        Leaving::Idle => info.xact_us() == 0 && info.state() != ClientState::Waiting,
        Leaving::Everybody => true,
    }
}

/// A client that holds a server which should have been closed, and with `server_fast_close` does
/// nothing with it (session pooling). That of a client of replication might be held for ever.
fn is_obsolete(config: &Config, pools: &Pools, info: &ClientInfo) -> bool {
    let is_unused = || config.settings.server_fast_close && info.xact_us() == 0;
    info.link() != 0
        && (info.replication.is_some() || is_unused())
        && pools.registry.server(info.link()).is_some_and(|server| server.is_close_needed())
}

/// What a session has to end for, if it has.
fn overdue(config: &Config, cell: &SessionCell, now_us: u64) -> Option<ClientError> {
    let info = &*cell.info;
    let user = &*info.user;
    let over = |since_us: u64, limit: Option<Duration>| {
        since_us > 0 && limit.is_some_and(|limit| now_us.saturating_sub(since_us) > limit.as_micros() as u64)
    };
    if info.state() == ClientState::Waiting {
        if over(info.wait_us(), config.query_timeout(user)) {
            return Some(ClientError::QueryTimeoutWaiting);
        }
        return over(info.wait_us(), wait_limit(config, info)).then_some(ClientError::QueryWaitTimeout);
    }
    if info.link() == 0 {
        return over(info.request_us(), config.client_idle_timeout(user)).then_some(ClientError::ClientIdleTimeout);
    }
    if over(info.query_us(), config.query_timeout(user)) {
        return Some(ClientError::QueryTimeout);
    }
    if cell.is_idle_in_transaction.get() && over(info.request_us(), config.idle_transaction_timeout(user)) {
        return Some(ClientError::IdleTransactionTimeout);
    }
    over(info.xact_us(), config.transaction_timeout(user)).then_some(ClientError::TransactionTimeout)
}

fn wait_limit(config: &Config, info: &ClientInfo) -> Option<Duration> {
    match config.database(&info.database) {
        Some(database) => config.query_wait_timeout(&database, Some(&info.user)),
        None => Some(config.settings.query_wait_timeout).filter(|limit| !limit.is_zero()),
    }
}

fn must_notify(config: &Config, cell: &SessionCell, now_us: u64) -> bool {
    let after = config.settings.query_wait_notify;
    !after.is_zero()
        // The other process may be sending already.
        && !cell.info.is_leaving()
        && cell.info.state() == ClientState::Waiting
        && cell.is_welcomed.get()
        && !cell.was_notified.get()
        && now_us.saturating_sub(cell.info.wait_us()) > after.as_micros() as u64
}
