//! Clients whose server is made for them alone, as replication needs it. They stand in the same
//! order as the others, but what they wait for is a place for a login of their own.

use std::task::{Context, Poll, Waker};

use super::{Inner, LOGINS_MAX, Pool};
use crate::pool::Permit;

/// Names a client that waits for a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlaceKey(usize);

/// Units of the limits that the pool shares with others, for one server.
pub(crate) type Permits = [Permit; 2];

/// A login that was counted in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Begun<C> {
    /// Idle servers that make room for it: they are counted out, and to be closed.
    pub(crate) evicted: Vec<C>,
    pub(crate) is_of_reserve: bool,
}

impl<C> Pool<C> {
    pub(crate) fn wait_for_place(&self, worker: usize, now_us: u64) -> PlaceKey {
        PlaceKey(self.lock().dedicated.push(worker, now_us))
    }

    /// The permits for the client's login, which is counted in; `None` if it was turned away.
    /// After `Ready` the key is spent.
    pub(crate) fn poll_place(&self, key: &PlaceKey, cx: &Context<'_>) -> Poll<Option<Permits>> {
        self.lock().dedicated.poll(key.0, cx)
    }

    /// Ends a wait. True if a login was counted in for it meanwhile, which is counted out again.
    pub(crate) fn abandon_place(&self, key: &PlaceKey) -> bool {
        let mut inner = self.lock();
        let had_place = inner.dedicated.abandon(key.0).flatten().is_some();
        inner.counts.login_dedicated -= u32::from(had_place);
        had_place
    }

    /// Counts in the login of a client that is next and waits for a place, if there is one.
    pub(crate) fn begin_dedicated(&self, now_us: u64) -> Option<Begun<C>> {
        let mut inner = self.lock();
        let counts = inner.counts;
        if inner.paused || !inner.is_dedicated_next() || counts.login + counts.login_dedicated >= LOGINS_MAX {
            return None;
        }
        let (_, since_us) = inner.dedicated.oldest()?;
        let size = inner.size_for(now_us.saturating_sub(since_us));
        let over = (counts.total() + 1).saturating_sub(size);
        if over > counts.idle {
            return None;
        }
        let evicted: Vec<C> = (0..over).filter_map(|_| inner.pop_longest_idle()).map(|idle| idle.conn).collect();
        inner.counts.idle -= evicted.len() as u32;
        inner.counts.login_dedicated += 1;
        let is_of_reserve = inner.counts.total() > inner.size_for(0);
        Some(Begun { evicted, is_of_reserve })
    }

    /// Hands over the place that was just counted in. The permits come back, and the place is
    /// still counted, if nobody waits for it any more.
    pub(crate) fn grant(&self, permits: Permits) -> Result<(), Permits> {
        let waker = self.lock().dedicated.serve(None, Some(permits));
        match waker {
            Ok(waker) => waker.into_iter().for_each(Waker::wake),
            Err(permits) => return permits.map_or(Ok(()), Err),
        }
        Ok(())
    }

    /// Whether logins may be tried. While not, no server is given up for one.
    pub(crate) fn set_may_log_in(&self, may_log_in: bool) {
        self.lock().may_log_in = may_log_in;
    }
}

impl<C> Inner<C> {
    /// Of all that wait, a client that needs a place waits longest.
    pub(super) fn is_dedicated_next(&self) -> bool {
        match (self.dedicated.oldest(), self.waiters.oldest()) {
            (Some((place, _)), Some((server, _))) => place < server,
            (place, _) => place.is_some(),
        }
    }

    /// A login of its own could be begun for a waiter, as far as this pool's own limits go.
    pub(super) fn wants_place(&self) -> bool {
        let size = self.size_for(0);
        !self.paused && self.is_dedicated_next() && self.counts.total() - self.counts.idle < size
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{limits, pool, take, wait};
    use super::super::{Counts, Limits, Released, ServerState};
    use super::*;
    use crate::pool::Quota;

    fn permits() -> Permits {
        let quota = Arc::new(Quota::default());
        [quota.try_take(0).unwrap(), quota.try_take(0).unwrap()]
    }

    fn is_granted(pool: &Pool<char>, key: &PlaceKey) -> bool {
        matches!(pool.poll_place(key, &Context::from_waker(Waker::noop())), Poll::Ready(Some(_)))
    }

    #[test]
    fn a_place_is_counted_from_its_login_to_its_end() {
        let pool = pool(limits(1), "");
        let key = pool.wait_for_place(0, 1);
        assert!(!is_granted(&pool, &key) && pool.waiting() == 1);
        assert_eq!(pool.begin_dedicated(1), Some(Begun { evicted: vec![], is_of_reserve: false }));
        assert!(pool.grant(permits()).is_ok() && is_granted(&pool, &key));
        assert_eq!(pool.counts(), Counts { login_dedicated: 1, ..Counts::default() });
        let second = pool.wait_for_place(0, 2);
        assert_eq!(pool.begin_dedicated(2), None);
        pool.closed(ServerState::LoginDedicated);
        assert!(pool.begin_dedicated(2).is_some() && pool.grant(permits()).is_ok());
        // It goes away before it has looked.
        assert!(pool.abandon_place(&second));
        assert_eq!((pool.counts(), pool.waiting()), (Counts::default(), 0));
        assert!(pool.grant(permits()).is_err());
    }

    #[test]
    fn idle_servers_make_room_in_a_full_pool_only() {
        let pool = pool(limits(3), "ab");
        let _keys: Vec<_> = (0..3).map(|_| pool.wait_for_place(0, 1)).collect();
        let begin = || {
            let begun = pool.begin_dedicated(1)?;
            pool.grant(permits()).unwrap();
            Some(begun.evicted)
        };
        assert_eq!([begin(), begin(), begin()], [Some(vec![]), Some(vec!['a']), Some(vec!['b'])]);
        assert_eq!(pool.counts(), Counts { login_dedicated: 3, ..Counts::default() });
    }

    #[test]
    fn places_and_servers_are_waited_for_in_one_order() {
        let pool = pool(limits(2), "ab");
        let (a, b) = (take(&pool), take(&pool));
        let _first = wait(&pool, 1);
        let place = pool.wait_for_place(0, 2);
        let _last = wait(&pool, 3);
        assert_eq!(pool.begin_dedicated(3), None);
        assert_eq!(pool.release(ServerState::Active, Some(0), a, 4), Released::Kept);
        // The first has it; now a server that comes free makes room for the second.
        assert_eq!(pool.release(ServerState::Active, Some(0), b, 5), Released::Evicted(b));
        assert!(pool.begin_dedicated(5).is_some() && pool.grant(permits()).is_ok() && is_granted(&pool, &place));
        assert_eq!(pool.begin_logins(5, u32::MAX), (0, 0));
        assert_eq!(pool.counts(), Counts { active: 1, login_dedicated: 1, ..Counts::default() });
    }

    #[test]
    fn nothing_is_given_up_while_logins_fail() {
        let pool = pool(limits(1), "a");
        let a = take(&pool);
        let _place = pool.wait_for_place(0, 1);
        let _server = wait(&pool, 2);
        pool.set_may_log_in(false);
        assert_eq!(pool.release(ServerState::Active, Some(0), a, 3), Released::Kept);
        assert_eq!(pool.waiting(), 1);
    }

    #[test]
    fn the_reserve_is_for_places_too() {
        let with_reserve = Limits { reserve_pool_size: 1, reserve_pool_timeout_us: 50, ..limits(1) };
        let pool = pool(with_reserve, "a");
        take(&pool);
        let _place = pool.wait_for_place(0, 100);
        assert_eq!(pool.begin_dedicated(149), None);
        assert_eq!(pool.begin_dedicated(150), Some(Begun { evicted: vec![], is_of_reserve: true }));
    }

    #[test]
    fn a_place_can_be_turned_away() {
        let pool = pool(limits(1), "");
        let key = pool.wait_for_place(0, 1);
        pool.turn_away();
        assert!(matches!(pool.poll_place(&key, &Context::from_waker(Waker::noop())), Poll::Ready(None)));
    }
}
