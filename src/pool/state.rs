//! The state of one pool, behind its lock.

mod dedicated;

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use super::waiters::Waiters;
use crate::sync::{Mutex, MutexGuard};
pub(crate) use dedicated::{Permits, PlaceKey};

/// Connections that log in at once. A cold pool grows in parallel, but a server that has just
/// come up is not stormed.
const LOGINS_MAX: u32 = 16;

/// What a reload or the janitor may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `pool_size`; 0 is no limit.
    pub(crate) pool_size: u32,
    /// `min_pool_size`.
    pub(crate) min_pool_size: u32,
    /// `reserve_pool_size`: servers above `pool_size` for waiters that waited too long.
    pub(crate) reserve_pool_size: u32,
    /// `reserve_pool_timeout`; 0: the reserve is not used.
    pub(crate) reserve_pool_timeout_us: u64,
    /// `server_round_robin`: the longest idle server first, instead of the last used.
    pub(crate) round_robin: bool,
}

/// Which list a server is in; the names of SHOW POOLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// Connecting or logging in.
    Login,
    /// The same, for the one client that the server is made for.
    LoginDedicated,
    Idle,
    Active,
    /// Runs `server_check_query`, `server_reset_query` or the pooler's own clean-up.
    Tested,
    /// Waits for a cancel request, meant for its last client, to be over.
    BeingCanceled,
}

/// Servers by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) login: u32,
    pub(crate) login_dedicated: u32,
    pub(crate) idle: u32,
    pub(crate) active: u32,
    pub(crate) tested: u32,
    pub(crate) being_canceled: u32,
    /// Still with the process that this one takes over from, and expected here.
    pub(crate) coming: u32,
}

impl Counts {
    /// Servers that are logged in.
    pub(crate) fn connected(self) -> u32 {
        self.idle + self.active + self.tested + self.being_canceled
    }

    /// Servers that are not logged in yet.
    pub(crate) fn logins(self) -> u32 {
        self.login + self.login_dedicated
    }

    pub(crate) fn total(self) -> u32 {
        self.connected() + self.logins()
    }

    /// All that the pool has, or may count on.
    pub(crate) fn claimed(self) -> u32 {
        self.total() + self.coming
    }

    fn of(&mut self, state: ServerState) -> &mut u32 {
        match state {
            ServerState::Login => &mut self.login,
            ServerState::LoginDedicated => &mut self.login_dedicated,
            ServerState::Idle => &mut self.idle,
            ServerState::Active => &mut self.active,
            ServerState::Tested => &mut self.tested,
            ServerState::BeingCanceled => &mut self.being_canceled,
        }
    }
}

/// A server nobody uses.
#[derive(Debug)]
pub(crate) struct Idle<C> {
    pub(crate) conn: C,
    /// Since when, in microseconds of the process clock.
    pub(crate) since_us: u64,
    /// The worker whose runtime its socket is registered with; `None` for one just connected.
    pub(crate) worker: Option<usize>,
}

/// Names a waiter of one pool.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WaitKey(usize);

/// What a client that asks for a server gets.
#[derive(Debug)]
pub(crate) enum Checkout<C> {
    Ready(Idle<C>),
    Wait {
        key: WaitKey,
        /// A login may be begun for it, as far as this pool's own limits go.
        may_grow: bool,
    },
}

/// What became of a released server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Released<C> {
    Kept,
    /// The pool has no use for it (it is paused, or shrank): close it, it is counted out.
    Surplus(C),
    /// A client that is next needs its place for a server of its own: likewise.
    Evicted(C),
}

/// One pool.
pub(crate) struct Pool<C> {
    /// Protects lists and counts; held for a few dozen instructions, never across an await.
    inner: Mutex<Inner<C>>,
}

struct Inner<C> {
    limits: Limits,
    counts: Counts,
    /// PAUSE, or the database is being removed: nobody is served.
    paused: bool,
    /// A stack per worker; the last is for servers that no worker has had yet.
    idle: Vec<VecDeque<(C, u64)>>,
    waiters: Waiters<Option<Idle<C>>>,
    /// Those that wait for a place for a server of their own.
    dedicated: Waiters<Option<Permits>>,
    /// The server's host is not known to be down.
    may_log_in: bool,
}

impl<C> Pool<C> {
    pub(crate) fn new(workers: usize, limits: Limits) -> Self {
        let idle = (0..=workers).map(|_| VecDeque::new()).collect();
        let inner = Inner {
            limits,
            counts: Counts::default(),
            paused: false,
            idle,
            waiters: Waiters::new(),
            dedicated: Waiters::new(),
            may_log_in: true,
        };
        Pool { inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        // Nothing under the lock panics half way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Clients that have no server yet, those included whose own is logging in.
    pub(crate) fn waiting(&self) -> usize {
        let inner = self.lock();
        inner.waiters.len() + inner.dedicated.len() + inner.counts.login_dedicated as usize
    }

    /// Ticket of the oldest waiter of this pool among those of all pools, and since when it waits.
    pub(crate) fn oldest_waiter(&self) -> Option<(u64, u64)> {
        let inner = self.lock();
        [inner.waiters.oldest(), inner.dedicated.oldest()].into_iter().flatten().min()
    }

    pub(crate) fn limits(&self) -> Limits {
        self.lock().limits
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.lock().paused
    }

    pub(crate) fn pause(&self) {
        self.lock().paused = true;
    }

    /// Serves again, idle servers first.
    pub(crate) fn resume(&self) {
        let mut inner = self.lock();
        inner.paused = false;
        let mut wakers = Vec::new();
        while !inner.waiters.is_empty() {
            let Some(idle) = inner.pop_idle(None) else { break };
            inner.counts.shift(ServerState::Idle, ServerState::Active);
            if let Ok(waker) = inner.waiters.serve(idle.worker, Some(idle)) {
                wakers.extend(waker);
            }
        }
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A server for a client of `worker`, now or later. It counts as active from here on.
    pub(crate) fn checkout(&self, worker: usize, now_us: u64) -> Checkout<C> {
        let mut inner = self.lock();
        if !inner.paused
            && inner.waiters.is_empty()
            && let Some(idle) = inner.pop_idle(Some(worker))
        {
            inner.counts.shift(ServerState::Idle, ServerState::Active);
            return Checkout::Ready(idle);
        }
        let key = WaitKey(inner.waiters.push(worker, now_us));
        Checkout::Wait { key, may_grow: inner.wanted(now_us) > 0 }
    }

    /// The server that the waiter was given, active already, or `None` if it was turned away.
    /// After `Ready` the key is spent.
    pub(crate) fn poll_wait(&self, key: &WaitKey, cx: &Context<'_>) -> Poll<Option<Idle<C>>> {
        self.lock().waiters.poll(key.0, cx)
    }

    /// Ends a wait. A server that it was given meanwhile comes back, active: release it.
    pub(crate) fn abandon(&self, key: WaitKey) -> Option<Idle<C>> {
        self.lock().waiters.abandon(key.0).flatten()
    }

    /// A server is free: the waiter whose turn it is gets it, else it becomes idle.
    /// `from` is where it was, `worker` whose runtime it is registered with.
    pub(crate) fn release(&self, from: ServerState, worker: Option<usize>, conn: C, now_us: u64) -> Released<C> {
        let mut inner = self.lock();
        if inner.paused || inner.is_surplus() {
            *inner.counts.of(from) -= 1;
            return Released::Surplus(conn);
        }
        if inner.may_log_in && inner.is_dedicated_next() {
            *inner.counts.of(from) -= 1;
            return Released::Evicted(conn);
        }
        let idle = Idle { conn, since_us: now_us, worker };
        match inner.waiters.serve(worker, Some(idle)) {
            Ok(waker) => {
                inner.counts.shift(from, ServerState::Active);
                drop(inner);
                waker.into_iter().for_each(Waker::wake);
            }
            Err(idle) => {
                inner.counts.shift(from, ServerState::Idle);
                let stack = worker.unwrap_or(inner.idle.len() - 1);
                inner.idle[stack].extend(idle.map(|idle| (idle.conn, now_us)));
            }
        }
        Released::Kept
    }

    /// A server goes from one list to another without becoming free.
    pub(crate) fn shift(&self, from: ServerState, to: ServerState) {
        self.lock().counts.shift(from, to);
    }

    /// A server that was in `from` is closed, or its login has failed.
    pub(crate) fn closed(&self, from: ServerState) {
        *self.lock().counts.of(from) -= 1;
    }

    /// A server comes from another process, to be in `state`.
    pub(crate) fn adopt(&self, state: ServerState) {
        let counts = &mut self.lock().counts;
        counts.coming = counts.coming.saturating_sub(1);
        *counts.of(state) += 1;
    }

    /// So many more will come.
    pub(crate) fn expect(&self, coming: u32) {
        self.lock().counts.coming = coming;
    }

    /// How many logins to begin now, and how many of them are of the reserve; they are counted
    /// as begun. `allowed` bounds them from outside (1 while the server is failing).
    pub(crate) fn begin_logins(&self, now_us: u64, allowed: u32) -> (u32, u32) {
        let mut inner = self.lock();
        let n = inner.wanted(now_us).min(allowed);
        inner.counts.login += n;
        let size = inner.limits.pool_size;
        let above = if size == 0 { 0 } else { inner.counts.claimed().saturating_sub(size) };
        (n, n.min(above))
    }

    /// Waiters call for a login that this pool's own limits allow.
    pub(crate) fn wants_login(&self, now_us: u64) -> bool {
        let inner = self.lock();
        inner.wants_place() || inner.wanted(now_us) > 0
    }

    /// Begins one login to keep `min_pool_size`, if there are fewer servers and room.
    pub(crate) fn begin_minimum(&self) -> u32 {
        let mut inner = self.lock();
        let Limits { pool_size, min_pool_size, .. } = inner.limits;
        let total = inner.counts.claimed();
        let room = pool_size == 0 || total < pool_size;
        let n = u32::from(!inner.paused && room && total < min_pool_size);
        inner.counts.login += n;
        n
    }

    /// Turns every waiter away: no server can be had.
    pub(crate) fn turn_away(&self) {
        let mut inner = self.lock();
        let mut wakers = Vec::new();
        while let Ok(waker) = inner.waiters.serve(None, None) {
            wakers.extend(waker);
        }
        while let Ok(waker) = inner.dedicated.serve(None, None) {
            wakers.extend(waker);
        }
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes out the idle servers for which `unwanted` holds, longest idle first. They are
    /// counted out; the caller closes them. The closure learns since when each is idle and how
    /// many servers are connected if it goes on being kept.
    pub(crate) fn take_idle(&self, mut unwanted: impl FnMut(&C, u64, u32) -> bool) -> Vec<C> {
        let mut inner = self.lock();
        let Inner { idle, counts, .. } = &mut *inner;
        let mut taken = Vec::new();
        for stack in idle {
            let mut i = 0;
            while let Some((conn, since_us)) = stack.get(i) {
                if unwanted(conn, *since_us, counts.connected()) {
                    counts.idle -= 1;
                    taken.extend(stack.remove(i).map(|(conn, _)| conn));
                } else {
                    i += 1;
                }
            }
        }
        taken
    }

    /// Since when the longest idle server is idle.
    pub(crate) fn longest_idle(&self) -> Option<u64> {
        self.lock().idle.iter().filter_map(|stack| stack.front()).map(|(_, since_us)| *since_us).min()
    }

    /// Takes out the longest idle server, to make room for another pool.
    pub(crate) fn evict(&self) -> Option<C> {
        let mut inner = self.lock();
        let conn = inner.pop_longest_idle()?.conn;
        inner.counts.idle -= 1;
        Some(conn)
    }

    /// Looks at every idle server.
    pub(crate) fn each_idle(&self, mut look: impl FnMut(&C, u64)) {
        let inner = self.lock();
        inner.idle.iter().flatten().for_each(|(conn, since_us)| look(conn, *since_us));
    }
}

impl<C> Inner<C> {
    /// More servers than the pool may have, as after a reload.
    fn is_surplus(&self) -> bool {
        let Limits { pool_size, reserve_pool_size, .. } = self.limits;
        pool_size > 0 && self.counts.connected() > pool_size + reserve_pool_size
    }

    fn pop_idle(&mut self, worker: Option<usize>) -> Option<Idle<C>> {
        if self.limits.round_robin {
            return self.pop_longest_idle();
        }
        let stacks = self.idle.len();
        let own = worker.filter(|w| !self.idle[*w].is_empty());
        let stack = own.or_else(|| (0..stacks).rev().find(|s| !self.idle[*s].is_empty()))?;
        let (conn, since_us) = self.idle[stack].pop_back()?;
        Some(Idle { conn, since_us, worker: (stack < stacks - 1).then_some(stack) })
    }

    fn pop_longest_idle(&mut self) -> Option<Idle<C>> {
        let oldest = |(i, stack): (usize, &VecDeque<(C, u64)>)| stack.front().map(|(_, since)| (*since, i));
        let (_, stack) = self.idle.iter().enumerate().filter_map(oldest).min()?;
        let (conn, since_us) = self.idle[stack].pop_front()?;
        Some(Idle { conn, since_us, worker: (stack < self.idle.len() - 1).then_some(stack) })
    }

    fn wanted(&self, now_us: u64) -> u32 {
        if self.paused {
            return 0;
        }
        let soon = self.counts.login + self.counts.tested;
        let missing = (self.waiters.len() as u32).saturating_sub(soon);
        let waited_us = self.waiters.oldest().map_or(0, |(_, since_us)| now_us.saturating_sub(since_us));
        let room = self.size_for(waited_us).saturating_sub(self.counts.claimed());
        missing.min(room).min(LOGINS_MAX.saturating_sub(self.counts.login + self.counts.login_dedicated))
    }

    /// How many servers there may be for a client that has waited so long.
    fn size_for(&self, waited_us: u64) -> u32 {
        let Limits { pool_size, reserve_pool_size, reserve_pool_timeout_us, .. } = self.limits;
        let use_reserve = reserve_pool_timeout_us > 0 && waited_us >= reserve_pool_timeout_us;
        match (pool_size, use_reserve) {
            (0, _) => u32::MAX,
            (_, false) => pool_size,
            (_, true) => pool_size + reserve_pool_size,
        }
    }
}

impl Counts {
    /// The one place where a server changes its list.
    fn shift(&mut self, from: ServerState, to: ServerState) {
        *self.of(from) -= 1;
        *self.of(to) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ServerState::{Active, Login};

    type TestPool = Pool<char>;

    pub(super) fn limits(pool_size: u32) -> Limits {
        Limits { pool_size, min_pool_size: 0, reserve_pool_size: 0, reserve_pool_timeout_us: 0, round_robin: false }
    }

    /// A pool with these servers, idle in this order.
    pub(super) fn pool(limits: Limits, servers: &str) -> TestPool {
        let pool = Pool::new(2, limits);
        for (i, conn) in servers.chars().enumerate() {
            pool.lock().counts.login += 1;
            assert_eq!(pool.release(Login, Some(0), conn, i as u64 + 1), Released::Kept);
        }
        pool
    }

    pub(super) fn take(pool: &TestPool) -> char {
        match pool.checkout(0, 100) {
            Checkout::Ready(idle) => idle.conn,
            Checkout::Wait { .. } => panic!("no server"),
        }
    }

    pub(super) fn wait(pool: &TestPool, now_us: u64) -> WaitKey {
        match pool.checkout(0, now_us) {
            Checkout::Wait { key, .. } => key,
            Checkout::Ready(_) => panic!("a server"),
        }
    }

    fn polled(pool: &TestPool, key: &WaitKey) -> Option<char> {
        match pool.poll_wait(key, &Context::from_waker(Waker::noop())) {
            Poll::Ready(idle) => idle.map(|idle| idle.conn).or(Some('-')),
            Poll::Pending => None,
        }
    }

    #[test]
    fn last_in_first_out_or_round_robin() {
        let lifo = pool(limits(3), "abc");
        assert_eq!([take(&lifo), take(&lifo), take(&lifo)], ['c', 'b', 'a']);
        let fifo = pool(Limits { round_robin: true, ..limits(3) }, "abc");
        assert_eq!([take(&fifo), take(&fifo), take(&fifo)], ['a', 'b', 'c']);
        assert_eq!(fifo.counts(), Counts { active: 3, ..Counts::default() });
    }

    #[test]
    fn waiters_are_served_in_order_and_adoptees_queue_behind_them() {
        let pool = pool(limits(1), "a");
        let server = take(&pool);
        let (first, second) = (wait(&pool, 1), wait(&pool, 2));
        assert_eq!(pool.release(Active, Some(0), server, 3), Released::Kept);
        assert_eq!(polled(&pool, &second), None);
        assert_eq!(polled(&pool, &first), Some('a'));
        assert_eq!(pool.counts(), Counts { active: 1, ..Counts::default() });
        assert_eq!(pool.release(Active, Some(0), 'a', 4), Released::Kept);
        // `second` holds it already, though it has not looked yet.
        let third = wait(&pool, 5);
        assert_eq!(pool.abandon(second).unwrap().conn, 'a');
        assert_eq!(pool.release(Active, Some(0), 'a', 6), Released::Kept);
        assert_eq!(polled(&pool, &third), Some('a'));
    }

    #[test]
    fn a_cold_pool_grows_in_parallel_to_its_size() {
        let pool = pool(limits(5), "");
        let _keys: Vec<_> = (0..3).map(|_| wait(&pool, 1)).collect();
        assert_eq!(pool.begin_logins(1, u32::MAX), (3, 0));
        assert_eq!(pool.begin_logins(1, u32::MAX), (0, 0));
        let _more: Vec<_> = (0..10).map(|_| wait(&pool, 1)).collect();
        assert_eq!(pool.begin_logins(1, 1), (1, 0));
        assert_eq!(pool.begin_logins(1, u32::MAX), (1, 0));
        assert_eq!(pool.counts().total(), 5);
        pool.closed(Login);
        assert_eq!(pool.begin_logins(1, u32::MAX), (1, 0));
    }

    #[test]
    fn the_reserve_is_for_those_who_waited_long() {
        let with_reserve = Limits { reserve_pool_size: 2, reserve_pool_timeout_us: 50, ..limits(1) };
        let pool = pool(with_reserve, "a");
        take(&pool);
        let _keys = [wait(&pool, 100), wait(&pool, 100), wait(&pool, 100)];
        assert_eq!(pool.begin_logins(149, u32::MAX), (0, 0));
        assert_eq!(pool.begin_logins(150, u32::MAX), (2, 2));
    }

    #[test]
    fn a_paused_pool_serves_nobody_and_takes_no_server_back() {
        let pool = pool(limits(2), "ab");
        let server = take(&pool);
        pool.pause();
        let key = wait(&pool, 1);
        assert_eq!(pool.release(Active, Some(0), server, 1), Released::Surplus('b'));
        assert_eq!(pool.begin_logins(1, u32::MAX), (0, 0));
        assert_eq!(polled(&pool, &key), None);
        pool.resume();
        assert_eq!(polled(&pool, &key), Some('a'));
    }

    #[test]
    fn a_smaller_pool_sheds_servers_on_release() {
        let pool = pool(limits(3), "abc");
        let held: Vec<_> = (0..3).map(|_| take(&pool)).collect();
        pool.set_limits(limits(2));
        assert_eq!(pool.release(Active, Some(0), held[0], 1), Released::Surplus('c'));
        assert_eq!(pool.release(Active, Some(0), held[1], 1), Released::Kept);
    }

    #[test]
    fn waiters_can_be_turned_away() {
        let pool = pool(limits(1), "");
        let key = wait(&pool, 1);
        pool.turn_away();
        assert_eq!((polled(&pool, &key), pool.waiting()), (Some('-'), 0));
    }

    #[test]
    fn idle_servers_are_evicted_longest_idle_first() {
        let pool = pool(limits(3), "abc");
        assert_eq!(pool.longest_idle(), Some(1));
        assert_eq!(pool.evict(), Some('a'));
        assert_eq!(pool.take_idle(|_, since, connected| since == 3 && connected == 2), vec!['c']);
        assert_eq!(pool.counts(), Counts { idle: 1, ..Counts::default() });
    }
}
