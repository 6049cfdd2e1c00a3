//! New server connections: when they may be begun, and what they make room with.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pgweir_config::{Database as Entry, ServerMaxProtocolVersion, UserSecret};
use pgweir_proto::startup::ProtocolVersion;

use super::failing::Failing;
use super::{Pools, ServerPool};
use crate::log::log_at;
use crate::net::clock;
use crate::net::tcp::TcpOptions;
use crate::pool::{Permits, ServerState};
use crate::registry::ServerInfo;
use crate::server::Server;
use crate::server::connect::{ConnectError, Connected, Epoch, ServerSecret, Target};

/// A pool without any server gets one of another pool's when it has waited for so long.
const PATIENCE_EMPTY_US: u64 = 100_000;

/// A pool with servers gets another only when its oldest client waits so much longer than any
/// of the pool that would give one away: otherwise connections would do nothing but change hands.
const PATIENCE_US: u64 = 1_000_000;

/// Whose idle servers are closed to make room under the limits that pools share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Taken,
    OfOthers,
    /// For a client that has no use for its own pool's idle servers.
    OfAll,
}

impl Pools {
    /// Begins as many logins for `pool` as its waiters need and limits allow.
    pub(super) fn launch(self: &Arc<Self>, pool: &Arc<ServerPool>) {
        let now_us = clock::now_us();
        let failing = pool.failing();
        let counts = pool.counts();
        let allowed = match &failing {
            None => u32::MAX,
            Some(failing) if !failing.may_retry(now_us) => 0,
            // One attempt tells whether the server is back.
            Some(_) => u32::from(counts.login + counts.login_dedicated == 0),
        };
        let is_host_up = failing.is_none_or(|failing| !failing.is_about_host());
        self.grant_places(pool, if is_host_up { u32::MAX } else { allowed });
        if allowed == 0 {
            return;
        }
        let (n, of_reserve) = pool.core.begin_logins(now_us, allowed);
        (0..of_reserve).for_each(|_| pool.log_reserve());
        self.begin(pool, n, Room::OfOthers);
    }

    /// Begins `n` logins that are counted in already.
    pub(super) fn begin(self: &Arc<Self>, pool: &Arc<ServerPool>, n: u32, room: Room) {
        for _ in 0..n {
            let login = Login::new(pool, ServerState::Login);
            let Some(permits) = self.permits(pool, room) else {
                // Whoever closes or gives back a server looks for starving pools. One that has
                // only less than its minimum has clients that wait for nothing.
                self.starving.fetch_or(room != Room::Taken, Ordering::Relaxed);
                continue;
            };
            let (pools, pool) = (Arc::clone(self), Arc::clone(pool));
            self.control.spawn(async move { pools.log_in(&pool, login, permits).await });
        }
    }

    /// Units of the database's and the user's limit, with room made by closing idle servers.
    pub(super) fn permits(&self, pool: &Arc<ServerPool>, room: Room) -> Option<Permits> {
        let config = self.config();
        let of_database = config.max_db_connections(&pool.database.entry());
        let of_user = config.max_user_connections(&pool.user.name);
        loop {
            let Some(first) = pool.database.servers.try_take(of_database) else {
                if self.evict(pool, room, |other| Arc::ptr_eq(&other.database, &pool.database)) {
                    continue;
                }
                return None;
            };
            let Some(second) = pool.user.servers.try_take(of_user) else {
                drop(first);
                if self.evict(pool, room, |other| Arc::ptr_eq(&other.user, &pool.user)) {
                    continue;
                }
                return None;
            };
            return Some([first, second]);
        }
    }

    /// Closes the longest idle server of the pools for which `shares` holds, if there is one.
    fn evict(&self, pool: &Arc<ServerPool>, room: Room, shares: impl Fn(&ServerPool) -> bool) -> bool {
        if room == Room::Taken {
            return false;
        }
        let mut others = self.pools();
        others.retain(|other| shares(other) && (room == Room::OfAll || !Arc::ptr_eq(other, pool)));
        let longest_idle =
            others.iter().filter_map(|p| Some((p.core.longest_idle()?, p))).min_by_key(|(since, _)| *since);
        let Some(server) = longest_idle.and_then(|(_, other)| other.core.evict()) else { return false };
        server.close("evicted");
        true
    }

    /// Of the pools that share a limit with `pool` and could grow but for it, the one whose
    /// oldest client waits longest, and since when.
    pub(super) fn hungriest(&self, pool: &ServerPool) -> Option<(u64, Arc<ServerPool>)> {
        let now_us = clock::now_us();
        let shares = |other: &Arc<ServerPool>| {
            let same = Arc::ptr_eq(&other.database, &pool.database) || Arc::ptr_eq(&other.user, &pool.user);
            let may_log_in = || other.failing().is_none_or(|failing| failing.may_retry(now_us));
            same && !std::ptr::eq(&**other, pool) && other.core.wants_login(now_us) && may_log_in()
        };
        let since = |other: Arc<ServerPool>| Some((other.waiting_since_us()?, other));
        self.pools().into_iter().filter(shares).filter_map(since).min_by_key(|(since_us, _)| *since_us)
    }

    async fn log_in(&self, pool: &Arc<ServerPool>, login: Login, permits: Permits) {
        let target = self.target(pool);
        let done = self.connector.connect(&target, permits).await;
        let is_current = !target.epoch.is_over();
        match done {
            Ok(Connected { server, .. }) if !is_current => {
                Box::new(server).close("database configuration changed");
                drop(login);
            }
            Ok(Connected { server, welcome }) => {
                pool.set_failing(None);
                if pool.welcome().is_none() {
                    pool.set_welcome(Some(Arc::new(welcome)));
                }
                login.done();
                pool.give_back(ServerState::Login, Box::new(server), None, clock::now_us());
                return pool.launch();
            }
            Err(_) if !is_current => drop(login),
            Err(error) => {
                // Counted out first: whether it was the last hope is judged by what is left.
                drop(login);
                self.login_failed(pool, &error);
            }
        }
        pool.freed();
    }

    fn login_failed(&self, pool: &ServerPool, error: &ConnectError) {
        let failing = self.note_failure(pool, error);
        // Others that log in at the same time may be let in: a limit may allow some.
        let counts = pool.counts();
        if failing.refusal().is_some() && counts.logins() + counts.coming == 0 && !self.has_usable_server(pool) {
            pool.core.turn_away();
        }
    }

    /// One that is to be closed as soon as it is free will serve none of those who wait.
    fn has_usable_server(&self, pool: &ServerPool) -> bool {
        let is_usable = |server: &Arc<ServerInfo>| {
            *server.database == *pool.database.name
                && *server.user == *pool.user.name
                && server.replication.is_none()
                && !server.is_close_needed()
        };
        pool.counts().total() > 0 && self.registry.servers().iter().any(is_usable)
    }

    /// Says in the log that there is no connection, and puts off the next attempt.
    pub(super) fn note_failure(&self, pool: &ServerPool, error: &ConnectError) -> Failing {
        let retry_us = self.config().settings.server_login_retry.as_micros() as u64;
        let failing = Failing::after(pool.failing().as_ref(), error, clock::now_us(), retry_us);
        let (database, user) = (&pool.database.name, &pool.user.name);
        log_at!(Warning, "{database}/{user}: no server connection: {error}; {}", error.what_to_do());
        pool.set_failing(Some(failing.clone()));
        failing
    }

    pub(super) fn target(&self, pool: &ServerPool) -> Target {
        // First this: what is changed after it is looked at ends it.
        let epoch = Epoch::begin(&pool.epoch);
        let config = self.config();
        let entry = pool.database.entry();
        let named = |name: &str, value: &Option<String>| value.clone().map(|value| (name.to_owned(), value));
        Target {
            database: Arc::clone(&pool.database.name),
            dbname: entry.server_dbname().to_owned(),
            user: Arc::clone(&pool.user.name),
            secret: self.secret(&entry, pool),
            hosts: config.hosts(&entry),
            port: entry.port,
            load_balance: entry.load_balance_hosts,
            startup: [
                named("client_encoding", &entry.client_encoding),
                named("datestyle", &entry.datestyle),
                named("timezone", &entry.timezone),
                named("application_name", &entry.application_name),
            ]
            .into_iter()
            .flatten()
            .collect(),
            connect_query: entry.connect_query.clone(),
            tcp: TcpOptions::for_servers(&config.settings),
            tls: self.tls(),
            timeout: config.settings.server_connect_timeout,
            protocol: match config.settings.server_max_protocol_version {
                ServerMaxProtocolVersion::V3_0 => ProtocolVersion::V3_0,
                ServerMaxProtocolVersion::V3_2 => ProtocolVersion::V3_2,
            },
            replication: None,
            epoch,
        }
    }

    /// What to log in with: the entry's password, the user's line in the `auth_file`, or what
    /// the client's own login has shown, if that line alone is of no use.
    fn secret(&self, entry: &Entry, pool: &ServerPool) -> ServerSecret {
        if let Some(password) = &entry.password
            && entry.user.as_deref().is_none_or(|user| user == &*pool.user.name)
        {
            return ServerSecret::Plain(password.clone());
        }
        let config = self.config();
        match config.userlist.get(&pool.user.name) {
            // As in PgBouncer, what has passed there counts.
            Some(_) if config.asks_outside() && pool.learned_secret() != ServerSecret::None => pool.learned_secret(),
            Some(UserSecret::Plain(password)) => ServerSecret::Plain(password.clone()),
            Some(UserSecret::Md5(hash)) => match pool.learned_secret() {
                ServerSecret::None => ServerSecret::Md5(hash.clone()),
                learned => learned,
            },
            Some(UserSecret::Scram(_) | UserSecret::Empty) | None => pool.learned_secret(),
        }
    }
}

/// A login that has been counted in; it is counted out if it is dropped before it is done.
pub(super) struct Login {
    /// `None` once it is done.
    pool: Option<Arc<ServerPool>>,
    /// How it was counted in.
    state: ServerState,
}

impl Login {
    pub(super) fn new(pool: &Arc<ServerPool>, state: ServerState) -> Login {
        Login { pool: Some(Arc::clone(pool)), state }
    }

    /// It has become a server, or somebody else's, which is counted from here on.
    pub(super) fn done(mut self) {
        self.pool = None;
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.core.closed(self.state);
        }
    }
}

impl ServerPool {
    pub(super) fn log_reserve(&self) {
        log_at!(Warning, "{}/{}: taking connection from reserve_pool", self.database.name, self.user.name);
    }

    /// Another pool of this database needs a place more than anybody here.
    pub(super) fn must_yield(&self, server: &Server, now_us: u64) -> bool {
        // It was made for somebody here: making it was worth that much use at least.
        if now_us < server.info.connect_us + PATIENCE_EMPTY_US {
            return false;
        }
        let Some(pools) = self.pools.upgrade() else { return false };
        let Some((theirs_us, other)) = pools.hungriest(self) else { return false };
        match self.waiting_since_us() {
            None => true,
            Some(_) if other.counts().total() == 0 => theirs_us + PATIENCE_EMPTY_US < now_us,
            Some(ours_us) => theirs_us + PATIENCE_US < ours_us,
        }
    }

    /// A place under the shared limits is free: the pool that waits longest may use it.
    pub(super) fn feed_others(&self) {
        let Some(pools) = self.pools.upgrade() else { return };
        match pools.hungriest(self) {
            Some((_, other)) => other.launch(),
            None => self.starving.store(false, Ordering::Relaxed),
        }
    }
}
