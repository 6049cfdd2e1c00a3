//! Each function is a handful of threads as workers would run them. loom runs it once for every order of their steps, and
//! fails where one of them waits for ever. Servers are numbers, and no thread may have the number that another has: that holds
//! by ownership; what is to be shown is that none gets lost, none is made too many, and nobody is forgotten.

use std::future::poll_fn;
use std::ops::RangeInclusive;
use std::sync::Arc;

use loom::future::block_on;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

use crate::pool::{Checkout, Counts, Idle, Limits, Permits, Pool, Quota, Released, ServerState};
use ServerState::{Active, LoginDedicated};

type Server = u32;

/// A pool, and what the workers do around it.
struct Scene {
    pool: Pool<Server>,
    /// Servers made so far.
    made: AtomicU32,
    /// So many logins fail before one succeeds.
    failures: AtomicU32,
}

impl Scene {
    fn new(pool_size: u32) -> Arc<Scene> {
        Scene::failing(pool_size, 0)
    }

    fn failing(pool_size: u32, failures: u32) -> Arc<Scene> {
        let limits = Limits {
            pool_size,
            min_pool_size: 0,
            reserve_pool_size: 0,
            reserve_pool_timeout_us: 0,
            round_robin: false,
        };
        let (made, failures) = (AtomicU32::new(0), AtomicU32::new(failures));
        Arc::new(Scene { pool: Pool::new(2, limits), made, failures })
    }

    /// With so many servers, idle.
    fn warm(pool_size: u32) -> Arc<Scene> {
        let scene = Scene::new(pool_size);
        for _ in 0..pool_size {
            scene.pool.adopt(Active);
            scene.give_back(None, scene.made.fetch_add(1, Ordering::Relaxed));
        }
        scene
    }

    fn spawn(self: &Arc<Self>, work: impl FnOnce(&Scene) + 'static) -> thread::JoinHandle<()> {
        let scene = Arc::clone(self);
        thread::spawn(move || work(&scene))
    }

    /// Begins the logins that are wanted, and ends them.
    fn launch(&self) {
        while self.pool.begin_dedicated(0).is_some() {
            if self.pool.grant(permits()).is_err() {
                self.pool.closed(LoginDedicated);
            }
        }
        let (logins, _) = self.pool.begin_logins(0, u32::MAX);
        for _ in 0..logins {
            self.log_in();
        }
    }

    fn log_in(&self) {
        let one_less = |left: u32| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            self.pool.closed(ServerState::Login);
            self.pool.turn_away();
            return;
        }
        let server = self.made.fetch_add(1, Ordering::Relaxed);
        self.bounded();
        self.back(ServerState::Login, None, server);
    }

    fn give_back(&self, worker: Option<usize>, server: Server) {
        self.back(Active, worker, server);
    }

    fn back(&self, from: ServerState, worker: Option<usize>, server: Server) {
        match self.pool.release(from, worker, server, 0) {
            Released::Kept => {}
            Released::Surplus(_) | Released::Evicted(_) => self.launch(),
        }
    }

    fn wait(&self, worker: usize) -> Option<Idle<Server>> {
        match self.pool.checkout(worker, 0) {
            Checkout::Ready(idle) => Some(idle),
            Checkout::Wait { key, may_grow } => {
                if may_grow {
                    self.launch();
                }
                block_on(poll_fn(|cx| self.pool.poll_wait(&key, cx)))
            }
        }
    }

    /// A client of `worker` that runs one transaction. False if it was turned away.
    fn transaction(&self, worker: usize) -> bool {
        let Some(idle) = self.wait(worker) else { return false };
        self.bounded();
        self.give_back(Some(worker), idle.conn);
        true
    }

    /// The client comes, and goes away before it has looked whether there is a server for it.
    fn gone_at_once(&self, worker: usize) {
        match self.pool.checkout(worker, 0) {
            Checkout::Ready(idle) => self.give_back(Some(worker), idle.conn),
            Checkout::Wait { key, .. } => {
                if let Some(idle) = self.pool.abandon(key) {
                    self.give_back(Some(worker), idle.conn);
                }
            }
        }
    }

    /// A client with a server of its own: it waits for a place, logs in, works and closes.
    fn dedicated(&self, worker: usize) {
        let key = self.pool.wait_for_place(worker, 0);
        self.launch();
        let place = block_on(poll_fn(|cx| self.pool.poll_place(&key, cx)));
        assert!(place.is_some());
        self.bounded();
        self.pool.closed(LoginDedicated);
        self.launch();
    }

    fn bounded(&self) {
        let (counts, limits) = (self.pool.counts(), self.pool.limits());
        assert!(counts.total() <= limits.pool_size, "{counts:?}");
    }

    /// All work is over: so many servers are left, idle, and nobody waits.
    fn ends_with(&self, servers: RangeInclusive<u32>) {
        let idle = self.pool.counts().idle;
        assert!(servers.contains(&idle), "{idle}");
        assert_eq!(self.pool.counts(), Counts { idle, ..Counts::default() });
        assert_eq!(self.pool.waiting(), 0);
        assert_eq!(self.pool.take_idle(|_, _, _| true).len() as u32, idle);
    }
}

fn permits() -> Permits {
    let quota = Arc::new(Quota::default());
    [(); 2].map(|()| quota.try_take(0).expect("no limit"))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("a worker that panics"));
}

/// More clients than servers, on two workers and the one that has just given back.
pub fn clients_share_a_server() {
    let scene = Scene::warm(1);
    let threads = [0, 1].map(|worker| scene.spawn(move |scene| assert!(scene.transaction(worker))));
    assert!(scene.transaction(0));
    join(threads);
    scene.ends_with(1..=1);
}

/// What was given to a client that is gone is not lost.
pub fn a_client_goes_while_it_is_served() {
    let scene = Scene::warm(1);
    let gone = scene.spawn(|scene| scene.gone_at_once(0));
    let stays = scene.spawn(|scene| assert!(scene.transaction(1)));
    assert!(scene.transaction(0));
    join([gone, stays]);
    scene.ends_with(1..=1);
}

/// Both see that the pool is cold.
pub fn a_cold_pool_grows_to_its_size_only() {
    let scene = Scene::new(1);
    let threads = [0, 1].map(|worker| scene.spawn(move |scene| assert!(scene.transaction(worker))));
    join(threads);
    assert_eq!(scene.made.load(Ordering::Relaxed), 1);
    scene.ends_with(1..=1);
}

/// A login that fails turns away those who counted on it; who comes after begins another.
pub fn a_login_fails_while_others_come() {
    let scene = Scene::failing(1, 1);
    let threads = [0, 1].map(|worker| {
        scene.spawn(move |scene| {
            // As a client that is told, and comes again.
            while !scene.transaction(worker) {}
        })
    });
    join(threads);
    scene.ends_with(1..=1);
}

/// Servers given back to a paused pool are closed: with RESUME the waiting ones need others.
pub fn a_pool_is_paused_and_resumed() {
    let scene = Scene::warm(1);
    let threads = [0, 1].map(|worker| scene.spawn(move |scene| assert!(scene.transaction(worker))));
    scene.pool.pause();
    scene.pool.resume();
    scene.launch();
    join(threads);
    // None, if the last was given back in the pause.
    scene.ends_with(0..=1);
}

/// RELOAD takes a place away while both are in use.
pub fn a_pool_shrinks_in_use() {
    let scene = Scene::warm(2);
    let threads = [0, 1].map(|worker| {
        scene.spawn(move |scene| {
            let idle = scene.wait(worker).expect("nobody is turned away");
            scene.give_back(Some(worker), idle.conn);
        })
    });
    scene.pool.set_limits(Limits { pool_size: 1, ..scene.pool.limits() });
    join(threads);
    // One that was never in use is the janitor's to close.
    scene.ends_with(1..=2);
}

/// A client that needs a place for a server of its own, and one that needs any server, in a pool for one.
pub fn places_and_servers_take_turns() {
    let scene = Scene::warm(1);
    let own = scene.spawn(|scene| scene.dedicated(0));
    let any = scene.spawn(|scene| assert!(scene.transaction(1)));
    join([own, any]);
    // None, if the place was had last.
    scene.ends_with(0..=1);
}

/// Who waits is served before those who come later, whichever worker gives back: the one that waits has seen no other served
/// that had not come yet when it did.
pub fn who_waits_is_not_overtaken() {
    let scene = Scene::warm(1);
    let held = scene.wait(0).expect("it is idle");
    let (is_waiting, is_served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let first = {
        let (is_waiting, is_served) = (Arc::clone(&is_waiting), Arc::clone(&is_served));
        scene.spawn(move |scene| {
            let Checkout::Wait { key, .. } = scene.pool.checkout(1, 0) else { panic!("it is held") };
            is_waiting.store(true, Ordering::Release);
            let idle = block_on(poll_fn(|cx| scene.pool.poll_wait(&key, cx))).expect("a server");
            is_served.store(true, Ordering::Release);
            scene.give_back(Some(1), idle.conn);
        })
    };
    let second = scene.spawn(move |scene| {
        if !is_waiting.load(Ordering::Acquire) {
            return;
        }
        let idle = scene.wait(1).expect("a server");
        assert!(is_served.load(Ordering::Acquire));
        scene.give_back(Some(1), idle.conn);
    });
    // Of no worker's: the order alone decides.
    while scene.pool.waiting() == 0 {
        thread::yield_now();
    }
    scene.give_back(None, held.conn);
    join([first, second]);
    scene.ends_with(1..=1);
}

/// The order of all pools' waiters is one: no two have the same ticket.
pub fn tickets_are_of_one_order() {
    let scenes = [Scene::new(1), Scene::new(1)];
    let threads = scenes.each_ref().map(|scene| {
        scene.spawn(|scene| {
            scene.pool.wait_for_place(0, 0);
        })
    });
    join(threads);
    let [a, b] = scenes.each_ref().map(|scene| scene.pool.oldest_waiter().expect("one waits").0);
    assert_ne!(a, b);
}

/// A limit that pools share is never exceeded, and what is given back can be taken.
pub fn a_shared_limit_is_exact() {
    let (quota, at_work) = (Arc::new(Quota::default()), Arc::new(AtomicU32::new(0)));
    let take = |quota: &Arc<Quota>, at_work: &AtomicU32| {
        let Some(permit) = quota.try_take(1) else { return };
        assert_eq!(at_work.fetch_add(1, Ordering::Relaxed), 0);
        at_work.fetch_sub(1, Ordering::Relaxed);
        drop(permit);
    };
    let threads = [0, 1].map(|_| {
        let (quota, at_work) = (Arc::clone(&quota), Arc::clone(&at_work));
        thread::spawn(move || take(&quota, &at_work))
    });
    take(&quota, &at_work);
    join(threads);
    assert_eq!(quota.used(), 0);
    assert!(quota.try_take(1).is_some());
}
