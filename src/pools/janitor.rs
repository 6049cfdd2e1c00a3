//! What is done from time to time: servers that are too old or idle too long are closed,
//! waiting clients get connections that could not be had before, unused pools go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::entries::Database;
use super::launch::Room;
use super::{Pools, ServerPool};
use crate::log::log_at;
use crate::net::clock;

/// PgBouncer looks after its pools three times a second.
const PERIOD: Duration = Duration::from_millis(333);

impl Pools {
    /// Runs until the process ends.
    pub(crate) async fn maintain(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // As in PgBouncer, nothing moves.
            if self.is_suspended() {
                continue;
            }
            if !self.is_giving() {
                self.open_forced();
            }
            for pool in self.pools() {
                self.close_idle(&pool);
                pool.launch();
                if !self.is_giving() {
                    self.keep_minimum(&pool);
                }
            }
            self.forget_unused();
            self.connector.hosts.refresh();
        }
    }

    /// Closes idle servers that are of no more use.
    fn close_idle(&self, pool: &Arc<ServerPool>) {
        let now_us = clock::now_us();
        let settings = &self.config().settings;
        let idle_timeout_us = settings.server_idle_timeout.as_micros() as u64;
        let limits = pool.core.limits();
        let mut reasons = Vec::new();
        let mut lifetime_over = false;
        let servers = pool.core.take_idle(|server, since_us, connected| {
            let reason = if server.info.is_close_needed() {
                Some("database configuration changed")
            } else if let Some(reason) = server.reason_to_drop() {
                Some(reason)
            } else if idle_timeout_us > 0
                && now_us.saturating_sub(since_us) > idle_timeout_us
                && (limits.min_pool_size == 0 || connected > limits.min_pool_size)
            {
                Some("server idle timeout")
            } else if limits.pool_size > 0 && connected > limits.pool_size + limits.reserve_pool_size {
                Some("too many servers in the pool")
            } else if !lifetime_over && pool.is_life_over(server, now_us) {
                lifetime_over = true;
                Some("server lifetime over")
            } else {
                None
            };
            reasons.extend(reason);
            reason.is_some()
        });
        if lifetime_over {
            pool.last_lifetime_close_us.store(now_us, Ordering::Relaxed);
        }
        if !servers.is_empty() {
            servers.into_iter().zip(reasons).for_each(|(server, reason)| server.close(reason));
            pool.freed();
        }
    }

    /// Pools that have servers before they have clients: `min_pool_size` of a database that
    /// always logs in as the same user.
    fn open_forced(self: &Arc<Self>) {
        let config = self.config();
        for (name, entry) in &config.databases {
            if let Some(user) = &entry.user
                && config.min_pool_size(entry) > 0
                && let Some(database) = self.database(name)
            {
                drop(self.join(&database, user));
            }
        }
    }

    /// `min_pool_size`, for pools that have clients, or that always log in as the same user.
    fn keep_minimum(self: &Arc<Self>, pool: &Arc<ServerPool>) {
        let has_clients = pool.clients.load(Ordering::Relaxed) > 0;
        let is_forced = pool.database.entry().user.as_deref() == Some(&*pool.user.name);
        let may_try = pool.failing().is_none_or(|failing| failing.may_retry(clock::now_us()));
        if (has_clients || is_forced) && may_try {
            self.begin(pool, pool.core.begin_minimum(), Room::Taken);
        }
    }

    /// Pools without clients for `pool_idle_timeout`, and databases made from `*` that have
    /// had no pool for `autodb_idle_timeout`.
    fn forget_unused(&self) {
        let now_us = clock::now_us();
        let config = self.config();
        let settings = &config.settings;
        // Made from the `*` entry.
        let is_auto = |database: &Database| !config.databases.contains_key(&*database.name);
        let unused_for = |pool: &ServerPool, timeout: Duration| {
            let since_us = pool.empty_since_us.load(Ordering::Relaxed);
            !timeout.is_zero()
                && pool.clients.load(Ordering::Relaxed) == 0
                && pool.waiting() == 0
                && now_us.saturating_sub(since_us) > timeout.as_micros() as u64
        };
        let mut gone = Vec::new();
        let mut maps = self.maps();
        maps.pools.retain(|_, pool| {
            let auto_over =
                is_auto(&pool.database) && !pool.database.is_paused() && unused_for(pool, settings.autodb_idle_timeout);
            let keep = !auto_over && !unused_for(pool, settings.pool_idle_timeout);
            if !keep {
                gone.push(Arc::clone(pool));
            }
            keep
        });
        let used: Vec<_> = maps.pools.values().map(|pool| Arc::clone(&pool.database)).collect();
        maps.databases.retain(|_, database| {
            let in_use = used.iter().any(|d| Arc::ptr_eq(d, database)) || database.clients.used() > 0;
            in_use || !is_auto(database) || database.is_paused() || database.is_disabled()
        });
        // Names that nobody uses any more; with auth_type any they can be made up.
        maps.users.retain(|_, user| Arc::strong_count(user) > 1 || user.clients.used() + user.servers.used() > 0);
        drop(maps);
        for pool in gone {
            log_at!(Log, "{}/{}: cleaning up idle pool", pool.database.name, pool.user.name);
            pool.retire("pool idle timeout");
        }
    }
}

impl ServerPool {
    /// The pool is no longer known: its servers go, at once or when they come back.
    pub(super) fn retire(&self, reason: &str) {
        self.core.pause();
        self.core.take_idle(|_, _, _| true).into_iter().for_each(|server| server.close(reason));
    }
}
