//! All pools by database and user, and what they share: the configuration in force, limits
//! over several pools, the making of connections.

mod dedicated;
mod ending;
pub(crate) mod entries;
mod failing;
pub(crate) mod handover;
mod janitor;
pub(crate) mod latencies;
mod launch;
pub(crate) mod lookup;
mod peers;
mod policy;
mod reload;
mod server_pool;
mod spelling;
pub(crate) mod stats;
mod testing;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use pgweir_config::Config;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::control::Shutdown;
use crate::log::log_at;
use crate::net::tls::TlsSetup;
use crate::pool::Quota;
use crate::registry::Registry;
use crate::server::connect::Connector;
use crate::server::parameters::Tracked;
use crate::takeover::{Elder, Giver};
pub(crate) use dedicated::{Claim, Walsender};
use ending::Ending;
pub(crate) use ending::Leaving;
use entries::{Database, User};
use lookup::Lookups;
pub(crate) use peers::{Peer, Peers};
pub(crate) use server_pool::{Got, ServerPool, Waited, Waiting};
use stats::Ledger;

/// Everything that is pooled.
pub(crate) struct Pools {
    /// The configuration in force; replaced whole.
    config: RwLock<Arc<Config>>,
    /// What its TLS settings come to; replaced whole.
    tls: RwLock<Arc<TlsSetup>>,
    /// Protects the maps; looked at when a client logs in, by the janitor and the console.
    maps: Mutex<Maps>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) tracked: Arc<Tracked>,
    pub(crate) connector: Connector,
    pub(crate) ledger: Ledger,
    pub(crate) peers: Peers,
    pub(crate) lookups: Lookups,
    /// The runtime beside the data path.
    pub(crate) control: Handle,
    /// Clients of the console, against `max_db_client_connections`.
    pub(crate) console_clients: Arc<Quota>,
    /// How many workers there are at the most.
    pub(crate) workers: usize,
    /// Some pool may be waiting for a place under a limit that it shares with others.
    starving: Arc<AtomicBool>,
    /// PAUSE without a database.
    paused: AtomicBool,
    /// SUSPEND, for all who wait for its end.
    suspended: watch::Sender<bool>,
    /// Another process is taking over; where clients go.
    giving: watch::Sender<Option<Giver>>,
    /// The process before this one, while it still has clients.
    pub(crate) elder: Elder,
    /// SHUTDOWN has begun: no new clients.
    ending: Ending,
}

#[derive(Default)]
struct Maps {
    pools: BTreeMap<(Arc<str>, Arc<str>), Arc<ServerPool>>,
    databases: BTreeMap<Arc<str>, Arc<Database>>,
    users: HashMap<Arc<str>, Arc<User>>,
}

/// A client's place in a pool.
pub(crate) struct Membership {
    pub(crate) pool: Arc<ServerPool>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.pool.client_went();
    }
}

impl Pools {
    pub(crate) fn new(
        config: Arc<Config>,
        tls: Arc<TlsSetup>,
        registry: Arc<Registry>,
        tracked: Arc<Tracked>,
        connector: Connector,
        control: Handle,
        workers: usize,
    ) -> Arc<Pools> {
        let pools = Pools {
            config: RwLock::new(config),
            tls: RwLock::new(tls),
            maps: Mutex::default(),
            registry,
            tracked,
            connector,
            ledger: Ledger::default(),
            peers: Peers::default(),
            lookups: Lookups::default(),
            control,
            console_clients: Arc::default(),
            workers,
            starving: Arc::default(),
            paused: AtomicBool::new(false),
            suspended: watch::Sender::new(false),
            giving: watch::Sender::new(None),
            elder: Elder::default(),
            ending: Ending::default(),
        };
        let config = pools.config();
        for name in config.databases.keys() {
            pools.database(name);
        }
        Arc::new(pools)
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn tls(&self) -> Arc<TlsSetup> {
        Arc::clone(&self.tls.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database that a client asks for by this name, if there is one or `*` makes one.
    pub(crate) fn database(&self, name: &str) -> Option<Arc<Database>> {
        if let Some(known) = self.maps().databases.get(name) {
            return Some(Arc::clone(known));
        }
        let config = self.config();
        let entry = config.database(name)?;
        let database = Arc::new(Database::new(entry));
        if !config.databases.contains_key(name) {
            log_at!(Log, "registered new auto-database: {name}");
        }
        let mut maps = self.maps();
        let known = maps.databases.entry(Arc::clone(&database.name)).or_insert(database);
        Some(Arc::clone(known))
    }

    pub(crate) fn user(&self, name: &str) -> Arc<User> {
        let mut maps = self.maps();
        if let Some(known) = maps.users.get(name) {
            return Arc::clone(known);
        }
        let user = Arc::new(User::new(name));
        maps.users.insert(Arc::clone(&user.name), Arc::clone(&user));
        user
    }

    /// Makes a client a member of the pool of a database and the user that its servers are
    /// logged in as. A pool with members is not forgotten.
    pub(crate) fn join(self: &Arc<Self>, database: &Arc<Database>, user: &str) -> Membership {
        let user = self.user(user);
        let key = (Arc::clone(&database.name), Arc::clone(&user.name));
        let fresh = || Arc::new(ServerPool::new(self, Arc::clone(database), user));
        // Counted under the lock under which unused pools are forgotten.
        let mut maps = self.maps();
        let known = maps.pools.get(&key).cloned();
        let pool = known.unwrap_or_else(|| {
            let pool = fresh();
            maps.pools.insert(key, Arc::clone(&pool));
            pool
        });
        pool.client_came();
        Membership { pool }
    }

    /// All pools, by database and user.
    pub(crate) fn pools(&self) -> Vec<Arc<ServerPool>> {
        self.maps().pools.values().cloned().collect()
    }

    /// All databases that are configured or in use, by name.
    pub(crate) fn databases(&self) -> Vec<Arc<Database>> {
        self.maps().databases.values().cloned().collect()
    }

    /// All users that have been seen, by name.
    pub(crate) fn users(&self) -> Vec<Arc<User>> {
        let mut users: Vec<_> = self.maps().users.values().cloned().collect();
        users.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        users
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn is_suspended(&self) -> bool {
        *self.suspended.borrow()
    }

    pub(crate) fn suspended(&self) -> watch::Receiver<bool> {
        self.suspended.subscribe()
    }

    /// SUSPEND and its end; false if it was so already. Sessions are told by the crew.
    pub(crate) fn set_suspended(&self, is_so: bool) -> bool {
        self.suspended.send_if_modified(|suspended| std::mem::replace(suspended, is_so) != is_so)
    }

    /// KILL: as PAUSE, and what is idle or waits to be sent is given up. Clients are the crew's.
    pub(crate) fn kill(&self, database: Option<&Database>) {
        match database {
            Some(database) => self.pause(Some(database)),
            None => {
                for pool in self.pools() {
                    pool.database.set_killed();
                    pool.pause();
                }
            }
        }
        for cancel in self.registry.cancels() {
            if database.is_none_or(|database| cancel.is_for(&database.name)) {
                cancel.killed.notify_one();
            }
        }
    }

    /// RESUME after a KILL without a database; false if there was none.
    pub(crate) fn resume_killed(&self) -> bool {
        let killed: Vec<_> = self.databases().into_iter().filter(|database| database.is_killed()).collect();
        for database in &killed {
            self.resume(Some(database));
        }
        !killed.is_empty()
    }

    /// How the process is about to end, if it is.
    pub(crate) fn shutdown(&self) -> Option<Shutdown> {
        self.ending.how()
    }

    /// Who has to leave because the process is about to end.
    pub(crate) fn leaving(&self) -> Leaving {
        self.ending.leaving(&self.config().settings)
    }

    pub(crate) fn begin_shutdown(&self, how: Shutdown) {
        self.ending.begin(how);
        if how == Shutdown::WaitForServers {
            self.pause(None);
        }
    }

    /// Whether what the shutdown waits for has come; why, in PgBouncer's words.
    pub(crate) fn reason_to_exit(&self) -> Option<&'static str> {
        let config = self.config();
        if self.ending.is_over(&config.settings) {
            return Some("shutdown_timeout is over, exiting");
        }
        let connected = self.registry.connected.load(Ordering::Relaxed);
        // Whoever watches the console must not hold up the rest when even the idle have to leave.
        let consoles = || if self.leaving() == Leaving::Nobody { 0 } else { self.console_clients.used() };
        match self.shutdown()? {
            Shutdown::Immediate => Some("shutting down"),
            Shutdown::WaitForServers if self.in_use(None) == 0 => Some("server connections dropped, exiting"),
            Shutdown::WaitForClients if connected <= consoles() => Some("client connections dropped, exiting"),
            Shutdown::WaitForServers | Shutdown::WaitForClients => None,
        }
    }

    /// PAUSE: closes idle servers and hands out none, of one database or of all.
    pub(crate) fn pause(&self, database: Option<&Database>) {
        match database {
            Some(database) => database.set_paused(true),
            None => self.paused.store(true, Ordering::Relaxed),
        }
        for pool in self.pools_of(database) {
            pool.pause();
        }
    }

    /// RESUME after PAUSE; false if there was nothing to resume.
    pub(crate) fn resume(&self, database: Option<&Database>) -> bool {
        let was_paused = match database {
            Some(database) => {
                let was = database.is_paused();
                database.set_paused(false);
                was
            }
            None => self.paused.swap(false, Ordering::Relaxed),
        };
        for pool in self.pools_of(database) {
            if !self.is_paused() && !pool.database.is_paused() {
                pool.resume();
            }
        }
        was_paused
    }

    /// RECONNECT: servers are replaced as soon as they are free.
    pub(crate) fn reconnect(&self, database: Option<&Database>) {
        self.pools_of(database).iter().for_each(ServerPool::make_obsolete);
    }

    /// Servers that PAUSE still waits for.
    pub(crate) fn in_use(&self, database: Option<&Database>) -> u32 {
        // One that logs in will be closed, but until then its server knows of it.
        let busy = |pool: &Arc<ServerPool>| {
            let counts = pool.counts();
            counts.total() - counts.idle
        };
        self.pools_of(database).iter().map(busy).sum()
    }

    fn pools_of(&self, database: Option<&Database>) -> Vec<Arc<ServerPool>> {
        let mut pools = self.pools();
        pools.retain(|pool| database.is_none_or(|d| d.name == pool.database.name));
        pools
    }
}
