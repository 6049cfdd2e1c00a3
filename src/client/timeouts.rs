//! Clients that wait, idle or run for too long.
//!
//! No session has a timer: the worker looks at them a few times a second, as PgBouncer does, so that
//! a message costs no more than a store. At those that idle it looks when their time may be over.

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

/// When clients that have no server and want none are to be looked at, all of them.
struct IdleLook {
    /// What the rest is for.
    config: Arc<Config>,
    /// The shortest time that a client may idle; `None`: all may for ever.
    limit_min_us: Option<u64>,
    /// Nobody's time is over before this.
    due_us: u64,
}

impl IdleLook {
    fn new(config: Arc<Config>) -> IdleLook {
        let limit_min_us = config.client_idle_timeout_min().map(|limit| limit.as_micros() as u64);
        IdleLook { config, limit_min_us, due_us: 0 }
    }

    fn is_due(&self, now_us: u64) -> bool {
        self.limit_min_us.is_some() && now_us >= self.due_us
    }

    /// All are being looked at. Whoever logs in from now on has at least so long.
    fn begin(&mut self, now_us: u64) {
        self.due_us = now_us + self.limit_min_us.unwrap_or_default();
    }

    /// This client may be idle.
    fn note(&mut self, info: &ClientInfo) {
        if self.limit_min_us.is_some()
            && info.link() == 0
            && let Some(limit) = self.config.client_idle_timeout(&info.user)
        {
            self.due_us = self.due_us.min(info.request_us() + limit.as_micros() as u64);
        }
    }
}

/// Looks after the sessions of `worker` until the process ends: at those that have a server or wait for one,
/// and at all when somebody may have idled for too long or has to leave.
pub(crate) async fn watch(worker: Rc<Worker>, pools: Arc<Pools>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut idle = IdleLook::new(pools.config());
    loop {
        ticks.tick().await;
        let (config, now_us, is_suspended) = (pools.config(), clock::now_us(), pools.is_suspended());
        if is_suspended || !Arc::ptr_eq(&config, &idle.config) {
            idle = IdleLook::new(Arc::clone(&config));
        }
        if worker.is_giving() && !is_suspended {
            // Not all that a session has to wait for before it can go wakes it.
            worker.wake_sessions();
        }
        let waits_for_servers = pools.shutdown() == Some(Shutdown::WaitForServers);
        let leaving = pools.leaving();
        let is_for_all = !is_suspended && (leaving != Leaving::Nobody || idle.is_due(now_us));
        if is_for_all {
            idle.begin(now_us);
        }
        let (mut linked, mut waiting) = (0, 0);
        let look = |cell: &SessionCell| {
            if cell.info.is_leaving() {
                // The other process may be serving it already; or it stays.
                return idle.note(&cell.info);
            }
            let is_waiting = cell.info.state() == ClientState::Waiting;
            linked += u32::from(cell.info.link() != 0);
            waiting += u32::from(is_waiting);
            if is_suspended {
                return;
            }
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
            idle.note(&cell.info);
        };
        match is_for_all {
            true => worker.each_session(look),
            false => worker.each_busy(look),
        }
        worker.note_load(linked, waiting);
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
        && cell.info.state() == ClientState::Waiting
        && cell.is_welcomed.get()
        && !cell.was_notified.get()
        && now_us.saturating_sub(cell.info.wait_us()) > after.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use pgweir_proto::cancel::CancelKey;

    use super::*;
    use crate::registry::Ends;

    fn info(request_us: u64) -> ClientInfo {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let key = CancelKey::from_random(&[1; 8], 0).unwrap();
        let info = ClientInfo::new(1, key, Ends::Tcp { peer: here, local: here }, "u".into(), "d".into(), 0);
        info.set_request_us(request_us);
        info
    }

    fn look(timeout_s: u64) -> IdleLook {
        let mut config = Config::default();
        config.settings.client_idle_timeout = Duration::from_secs(timeout_s);
        IdleLook::new(Arc::new(config))
    }

    #[test]
    fn the_idle_are_looked_at_when_the_first_of_them_may_have_to_go() {
        const S: u64 = 1_000_000;
        let mut idle = look(10);
        assert!(idle.is_due(0), "nobody knows yet how long they have idled");
        idle.begin(100 * S);
        assert!(!idle.is_due(110 * S - 1) && idle.is_due(110 * S), "one that came when the look was over");
        idle.note(&info(95 * S));
        idle.note(&info(99 * S));
        assert!(!idle.is_due(105 * S - 1) && idle.is_due(105 * S));
        let busy = info(91 * S);
        busy.set_link(7);
        idle.note(&busy);
        assert!(!idle.is_due(105 * S - 1), "it is looked at again when it has become idle");
        busy.set_link(0);
        idle.note(&busy);
        assert!(idle.is_due(101 * S));
    }

    #[test]
    fn who_may_idle_for_ever_is_not_looked_at() {
        let mut idle = look(0);
        idle.note(&info(0));
        assert!(!idle.is_due(u64::MAX));
    }
}
