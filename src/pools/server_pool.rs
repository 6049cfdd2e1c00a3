//! The pool of one database and user: servers handed out, taken back, tested and closed.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use pgweir_proto::client_error::ClientError;

use super::Pools;
use super::entries::{Database, User};
use super::failing::Failing;
use super::latencies::Times;
use super::policy::Policy;
use super::stats::{self, Stats, Totals};
use super::testing::Test;
use crate::net::clock;
use crate::pool::{Checkout, Counts, Idle, Limits, Pool, Released, ServerState, WaitKey};
use crate::registry::{Dial, ServerInfo, ServerPhase};
use crate::relay::SessionUse;
use crate::server::Server;
use crate::server::connect::{ServerSecret, Welcome};
use crate::server::parameters::Parameters;

/// What a client that asks for a server gets.
pub(crate) enum Got {
    Server(Box<Server>),
    Wait(WaitKey),
}

/// What a wait has come to.
pub(crate) enum Waited {
    Server(Box<Server>),
    /// The server was of no use: it has died meanwhile.
    Again,
    /// The server has refused the login that the client waited for.
    Refused(ClientError),
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// A place in the queue, given up when dropped.
pub(crate) struct Waiting {
    pub(crate) pool: Arc<ServerPool>,
    /// `None` once it was served.
    pub(crate) key: Option<WaitKey>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.pool.abandon(key);
        }
    }
}

/// The servers of one database and user.
pub(crate) struct ServerPool {
    /// No other pool has or had it.
    pub(crate) number: u64,
    pub(crate) database: Arc<Database>,
    /// The user that the servers are logged in as.
    pub(crate) user: Arc<User>,
    pub(super) core: Pool<Box<Server>>,
    pub(super) pools: Weak<Pools>,
    pub(crate) policy: Policy,
    /// Counted up when the servers become obsolete (RECONNECT, a changed database): a login
    /// that began before is thrown away, without counting as failed.
    pub(super) epoch: Arc<AtomicU32>,
    /// What a client's login gave us to log in to the server with.
    learned: Mutex<ServerSecret>,
    /// What the first server said at its login; new clients are told the same.
    welcome: Mutex<Option<Arc<Welcome>>>,
    failing: Mutex<Option<Failing>>,
    /// `failing` is set: looked at by every client that finds no idle server.
    is_failing: AtomicBool,
    /// Spellings of tracked parameters that clients asked for, and what servers made of them.
    spellings: Mutex<super::spelling::Spellings>,
    /// Clients that are logged in to this pool.
    pub(super) clients: AtomicU32,
    /// A reload removed the database: its clients must go.
    is_removed: AtomicBool,
    /// When the last client went; the pool may go after `pool_idle_timeout`.
    pub(super) empty_since_us: AtomicU64,
    /// Some pool may be waiting for a place under a limit that it shares with others.
    pub(super) starving: Arc<AtomicBool>,
    /// When the last server was closed for its age: they go one at a time.
    pub(super) last_lifetime_close_us: AtomicU64,
    /// One per worker.
    stats: Arc<[Stats]>,
}

impl ServerPool {
    pub(super) fn new(pools: &Arc<Pools>, database: Arc<Database>, user: Arc<User>) -> ServerPool {
        let limits = Limits {
            pool_size: 0,
            min_pool_size: 0,
            reserve_pool_size: 0,
            reserve_pool_timeout_us: 0,
            round_robin: false,
        };
        let stats = pools.ledger.open(&database.name, pools.workers);
        let pool = ServerPool {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            database,
            user,
            core: Pool::new(pools.workers, limits),
            pools: Arc::downgrade(pools),
            policy: Policy::new(),
            epoch: Arc::default(),
            learned: Mutex::new(ServerSecret::None),
            welcome: Mutex::new(None),
            failing: Mutex::new(None),
            is_failing: AtomicBool::new(false),
            spellings: Mutex::default(),
            clients: AtomicU32::new(0),
            is_removed: AtomicBool::new(false),
            empty_since_us: AtomicU64::new(clock::now_us()),
            starving: Arc::clone(&pools.starving),
            last_lifetime_close_us: AtomicU64::new(0),
            stats,
        };
        pool.configure(pools);
        if pools.is_paused() || pool.database.is_paused() {
            pool.core.pause();
        }
        pool
    }

    /// Takes the settings that concern this pool from the current configuration.
    pub(super) fn configure(&self, pools: &Pools) {
        let config = pools.config();
        let (entry, settings) = (self.database.entry(), &config.settings);
        let us = |d: Duration| d.as_micros() as u64;
        self.core.set_limits(Limits {
            pool_size: config.pool_size(&entry, &self.user.name),
            min_pool_size: config.min_pool_size(&entry),
            reserve_pool_size: config.reserve_pool_size(&entry, &self.user.name),
            reserve_pool_timeout_us: us(settings.reserve_pool_timeout),
            round_robin: settings.server_round_robin,
        });
        self.policy.set(&config, &entry, &self.user.name);
    }

    /// The counters of one worker; only its thread may add to them.
    #[inline]
    pub(crate) fn stats(&self, worker: usize) -> &Stats {
        &self.stats[worker]
    }

    /// What its clients did that needs a session, by `SessionUse::kind`.
    pub(crate) fn session_uses(&self) -> [u64; SessionUse::KINDS] {
        stats::session_uses(&self.stats)
    }

    /// How long its clients wait, and their queries and transactions take. `is_taken` begins a new
    /// stretch of time for the maxima.
    pub(crate) fn times(&self, is_taken: bool) -> [Times; 3] {
        stats::times(&self.stats, is_taken)
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        totals.add_all(&self.stats);
        totals
    }

    pub(crate) fn counts(&self) -> Counts {
        self.core.counts()
    }

    /// Clients that are logged in to this pool, those that wait included.
    pub(crate) fn client_count(&self) -> u32 {
        self.clients.load(Ordering::Relaxed)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.core.waiting()
    }

    /// Since when the longest waiting client waits.
    pub(crate) fn waiting_since_us(&self) -> Option<u64> {
        self.core.oldest_waiter().map(|(_, since_us)| since_us)
    }

    /// Idle servers that will be tested before they are used (`sv_used` in SHOW POOLS).
    pub(crate) fn unchecked(&self) -> u32 {
        let (now_us, mut n) = (clock::now_us(), 0);
        self.core.each_idle(|_, since_us| n += u32::from(self.policy.needs_check(since_us, now_us)));
        n
    }

    // What clients learn and give at login

    pub(crate) fn welcome(&self) -> Option<Arc<Welcome>> {
        self.welcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The server reports this value to whoever asks for none.
    pub(crate) fn is_default(&self, name: &str, value: &str) -> bool {
        self.welcome().is_some_and(|welcome| welcome.parameters.iter().any(|(n, v)| n == name && v == value))
    }

    pub(super) fn set_welcome(&self, welcome: Option<Arc<Welcome>>) {
        *self.welcome.lock().unwrap_or_else(PoisonError::into_inner) = welcome;
    }

    pub(super) fn learned_secret(&self) -> ServerSecret {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A client's login has shown a secret that its user can log in to the server with.
    pub(crate) fn learn_secret(&self, secret: ServerSecret) {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = secret;
    }

    /// What servers make of `asked`, as far as it is known; the flag says whether all of it is.
    pub(crate) fn spell(&self, asked: &Parameters) -> (Parameters, bool) {
        self.spellings.lock().unwrap_or_else(PoisonError::into_inner).spell(asked)
    }

    /// A server with `asked` set reports `reported`.
    pub(crate) fn learn_spelling(&self, asked: &Parameters, reported: &Parameters) {
        self.spellings.lock().unwrap_or_else(PoisonError::into_inner).learn(asked, reported);
    }

    pub(super) fn client_came(&self) {
        self.clients.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn client_went(&self) {
        self.empty_since_us.store(clock::now_us(), Ordering::Relaxed);
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn set_removed(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    pub(super) fn pause(&self) {
        self.core.pause();
        for server in self.core.take_idle(|_, _, _| true) {
            server.close("pause mode");
        }
    }

    pub(super) fn resume(self: &Arc<Self>) {
        self.core.resume();
        self.launch();
    }

    /// RECONNECT, or the database has changed: every server is replaced as soon as it is free.
    pub(crate) fn make_obsolete(self: &Arc<Self>) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for info in self.servers() {
            info.set_close_needed();
        }
        for dial in self.dials() {
            dial.set_close_needed();
        }
        for server in self.core.take_idle(|_, _, _| true) {
            server.close("database configuration changed");
        }
        self.set_welcome(None);
        self.set_failing(None);
        self.freed();
    }

    /// The records of this pool's servers.
    pub(crate) fn servers(&self) -> Vec<Arc<ServerInfo>> {
        let Some(pools) = self.pools.upgrade() else { return Vec::new() };
        let mut servers = pools.registry.servers();
        servers.retain(|s| s.database == self.database.name && s.user == self.user.name);
        servers
    }

    /// The records of its connections that are being made.
    fn dials(&self) -> Vec<Arc<Dial>> {
        let Some(pools) = self.pools.upgrade() else { return Vec::new() };
        let mut dials = pools.registry.dials();
        dials.retain(|dial| dial.database == self.database.name && dial.user == self.user.name);
        dials
    }

    // Failing logins

    pub(super) fn failing(&self) -> Option<Failing> {
        if !self.is_failing.load(Ordering::Relaxed) {
            return None;
        }
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_failing(&self, failing: Option<Failing>) {
        self.is_failing.store(failing.is_some(), Ordering::Relaxed);
        self.core.set_may_log_in(!failing.as_ref().is_some_and(Failing::is_about_host));
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = failing;
    }

    /// A login that is no measure for those of ordinary servers has found the host there.
    pub(super) fn host_is_up(&self) {
        if self.failing().is_some_and(|failing| failing.is_about_host()) {
            self.set_failing(None);
        }
    }

    /// What a client is told at once instead of being made to wait: no server is connected, the
    /// last login has failed, and none will be tried for a while.
    pub(crate) fn cached_error(&self) -> Option<ClientError> {
        let failing = self.failing()?;
        let is_final =
            !failing.is_passing() && !failing.may_retry(clock::now_us()) && self.core.counts().claimed() == 0;
        is_final.then(|| failing.client_error())
    }

    /// The same, if the server itself has refused and will not be asked again yet.
    pub(crate) fn cached_refusal(&self) -> Option<ClientError> {
        self.failing()?.refusal()?;
        self.cached_error()
    }

    // Handing out

    /// A server for a client of `worker`, or a place in the queue.
    #[inline]
    pub(crate) fn checkout(self: &Arc<Self>, worker: usize, now_us: u64) -> Got {
        loop {
            match self.core.checkout(worker, now_us) {
                Checkout::Ready(idle) => {
                    let since_us = idle.since_us;
                    let Some(server) = self.prepare(idle, worker) else { continue };
                    if !self.policy.needs_check(since_us, now_us) {
                        return Got::Server(server);
                    }
                    self.core.shift(ServerState::Active, ServerState::Tested);
                    self.test(server, worker, Test::Check);
                }
                Checkout::Wait { key, may_grow } => {
                    if may_grow {
                        self.launch();
                    }
                    return Got::Wait(key);
                }
            }
        }
    }

    /// What the waiter was given.
    pub(crate) fn poll_wait(self: &Arc<Self>, key: &WaitKey, worker: usize, cx: &Context<'_>) -> Poll<Waited> {
        self.core.poll_wait(key, cx).map(|idle| match idle {
            Some(idle) => self.prepare(idle, worker).map_or(Waited::Again, Waited::Server),
            None => self.failing().and_then(|failing| failing.refusal()).map_or(Waited::Again, Waited::Refused),
        })
    }

    /// The client does not wait any longer.
    pub(crate) fn abandon(self: &Arc<Self>, key: WaitKey) {
        if let Some(Idle { conn, worker, .. }) = self.core.abandon(key) {
            self.give_back(ServerState::Active, conn, worker, clock::now_us());
        }
    }

    /// Makes a server fit for use on `worker`, or closes it.
    #[inline]
    fn prepare(self: &Arc<Self>, idle: Idle<Box<Server>>, worker: usize) -> Option<Box<Server>> {
        let Idle { conn: mut server, worker: home, .. } = idle;
        if server.info.is_close_needed() {
            self.close(ServerState::Active, server, "obsolete connection");
            return None;
        }
        if let Some(reason) = server.reason_to_drop() {
            self.close(ServerState::Active, server, reason);
            return None;
        }
        if let Err(e) = server.attach(home == Some(worker)) {
            server.log(format_args!("cannot move the connection to another worker: {e}"));
            self.close(ServerState::Active, server, "attach failed");
            return None;
        }
        server.info.set_phase(ServerPhase::Active);
        Some(server)
    }

    // Taking back

    /// Takes back a server whose client is done with it, at the end of a transaction or of its
    /// session; its runtime is that of `worker`.
    #[inline]
    pub(crate) fn release(self: &Arc<Self>, server: Box<Server>, worker: usize, now_us: u64) {
        if let Some(reason) = self.reason_to_close(&server, now_us) {
            return self.close(ServerState::Active, server, reason);
        }
        if server.info.is_being_canceled() {
            return self.wait_for_cancels(server, worker);
        }
        if let Some(cleaning) = self.cleaning(&server) {
            self.core.shift(ServerState::Active, ServerState::Tested);
            return self.test(server, worker, cleaning);
        }
        self.give_back(ServerState::Active, server, Some(worker), now_us);
    }

    /// What must be run before another client gets the server.
    pub(super) fn cleaning(&self, server: &Server) -> Option<Test> {
        if self.policy.needs_reset() {
            return Some(Test::Reset);
        }
        server.prepared.is_pinned().then_some(Test::Deallocate)
    }

    fn reason_to_close(&self, server: &Server, now_us: u64) -> Option<&'static str> {
        if server.info.replication.is_some() {
            return Some("replication client was closed");
        }
        if server.outstanding.is_doubtful() {
            return Some("unclean server");
        }
        if server.info.is_close_needed() {
            return Some("close_needed");
        }
        // With `server_lifetime = 0` it is for one use, and has had none.
        if !server.is_fresh && self.is_life_over(server, now_us) {
            self.last_lifetime_close_us.store(now_us, Ordering::Relaxed);
            return Some("server lifetime over");
        }
        None
    }

    /// Old enough to be closed. Called under the pool's lock too, so it must not take that.
    pub(super) fn is_life_over(&self, server: &Server, now_us: u64) -> bool {
        let last_us = self.last_lifetime_close_us.load(Ordering::Relaxed);
        let age_us = now_us.saturating_sub(server.info.connect_us);
        self.policy.is_life_over(age_us, now_us.saturating_sub(last_us))
    }

    /// Nobody needs it now: the next waiter, or idle.
    #[inline]
    pub(super) fn give_back(
        self: &Arc<Self>,
        from: ServerState,
        server: Box<Server>,
        worker: Option<usize>,
        now_us: u64,
    ) {
        debug_assert!(server.info.replication.is_none(), "a walsender is nobody else's");
        server.info.set_phase(ServerPhase::Idle);
        server.info.set_request_us(now_us);
        if self.starving.load(Ordering::Relaxed) && self.must_yield(&server, now_us) {
            self.close(from, server, "evicted");
            return;
        }
        // Whoever gets it marks it as active.
        let (server, reason) = match self.core.release(from, worker, server, now_us) {
            Released::Kept => return,
            Released::Surplus(server) if self.core.is_paused() => (server, "pause mode"),
            Released::Surplus(server) => (server, "too many servers in the pool"),
            Released::Evicted(server) => (server, "evicted"),
        };
        server.close(reason);
        self.freed();
    }

    /// Closes a server that was in `from`.
    pub(crate) fn close(self: &Arc<Self>, from: ServerState, server: Box<Server>, reason: &str) {
        server.close(reason);
        self.core.closed(from);
        self.freed();
    }

    /// A place is free, here and under the limits: somebody may be waiting for it.
    pub(super) fn freed(self: &Arc<Self>) {
        // First whoever this pool may have made room for.
        if self.starving.load(Ordering::Relaxed) {
            self.feed_others();
        }
        self.launch();
    }

    /// Begins as many logins as waiters need and limits allow.
    pub(crate) fn launch(self: &Arc<Self>) {
        if let Some(pools) = self.pools.upgrade() {
            pools.launch(self);
        }
    }
}
