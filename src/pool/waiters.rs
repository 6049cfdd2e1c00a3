//! Clients without a server, in the order in which they came.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::sync::{Ordering, tickets};

/// A worker may serve its own waiter before older ones of other workers, if it came at most so
/// many places behind the oldest: a server that stays on its worker saves moving the socket.
const OWN_WORKER_LEAD: u64 = 16;

/// One waiting client.
struct Waiter<T> {
    worker: usize,
    since_us: u64,
    /// Its place among the waiters of all pools.
    ticket: u64,
    /// How many had come to this queue before it.
    place: u64,
    waker: Option<Waker>,
    /// What it was given; it has then left the queue.
    outcome: Option<T>,
}

pub(super) struct Waiters<T> {
    /// Keys of those not served yet, oldest first.
    queue: VecDeque<usize>,
    all: Slab<Waiter<T>>,
    /// How many have come so far.
    arrivals: u64,
}

impl<T> Waiters<T> {
    pub(super) fn new() -> Self {
        Waiters { queue: VecDeque::new(), all: Slab::new(), arrivals: 0 }
    }

    /// How many wait and are not served yet.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Ticket of the oldest, and since when it waits.
    pub(super) fn oldest(&self) -> Option<(u64, u64)> {
        self.queue.front().map(|&key| (self.all[key].ticket, self.all[key].since_us))
    }

    pub(super) fn push(&mut self, worker: usize, now_us: u64) -> usize {
        let ticket = tickets().fetch_add(1, Ordering::Relaxed);
        let place = self.arrivals;
        self.arrivals += 1;
        let key = self.all.insert(Waiter { worker, since_us: now_us, ticket, place, waker: None, outcome: None });
        self.queue.push_back(key);
        key
    }

    /// Gives `outcome` to the one whose turn it is; gives it back if nobody waits.
    /// `worker` is where the server is, if anywhere.
    pub(super) fn serve(&mut self, worker: Option<usize>, outcome: T) -> Result<Option<Waker>, T> {
        // By arrival, and not by who is left: else those who keep coming back to one worker would
        // go before the oldest of another for ever.
        let last = self.queue.front().map_or(0, |&oldest| self.all[oldest].place + OWN_WORKER_LEAD);
        let mut near = self.queue.iter().map(|&key| &self.all[key]).take_while(|waiter| waiter.place <= last);
        let at = near.position(|waiter| Some(waiter.worker) == worker).unwrap_or(0);
        match self.queue.remove(at) {
            None => Err(outcome),
            Some(key) => {
                let waiter = &mut self.all[key];
                waiter.outcome = Some(outcome);
                Ok(waiter.waker.take())
            }
        }
    }

    /// Takes what `key` was given, after which the key is no more; else notes whom to wake.
    pub(super) fn poll(&mut self, key: usize, cx: &Context<'_>) -> Poll<T> {
        let waiter = &mut self.all[key];
        if let Some(outcome) = waiter.outcome.take() {
            self.all.remove(key);
            return Poll::Ready(outcome);
        }
        if !waiter.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            waiter.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Forgets `key`; what it was given meanwhile comes back.
    pub(super) fn abandon(&mut self, key: usize) -> Option<T> {
        if self.all[key].outcome.is_none() {
            self.queue.retain(|k| *k != key);
        }
        self.all.remove(key).outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_first_with_a_bounded_lead_for_the_own_worker() {
        let mut waiters = Waiters::new();
        let keys: Vec<_> = (0..OWN_WORKER_LEAD + 2).map(|_| waiters.push(0, 1)).collect();
        let near = waiters.push(1, 2);
        let cx = Context::from_waker(Waker::noop());
        // 18 older ones of worker 0: worker 1 must serve the oldest, until 16 are left.
        assert!(waiters.serve(Some(1), 'a').is_ok());
        assert!(waiters.serve(Some(1), 'b').is_ok());
        assert!(waiters.serve(Some(1), 'c').is_ok());
        assert_eq!(waiters.poll(keys[0], &cx), Poll::Ready('a'));
        assert_eq!(waiters.poll(keys[1], &cx), Poll::Ready('b'));
        assert_eq!(waiters.poll(near, &cx), Poll::Ready('c'));
        assert_eq!(waiters.poll(keys[2], &cx), Poll::Pending);
    }

    #[test]
    fn those_who_keep_coming_back_do_not_starve_another_worker() {
        let mut waiters = Waiters::new();
        let other = waiters.push(0, 1);
        let mut own = waiters.push(1, 1);
        let cx = Context::from_waker(Waker::noop());
        for turn in 0..OWN_WORKER_LEAD {
            assert!(waiters.serve(Some(1), turn).is_ok());
            assert_eq!(waiters.poll(own, &cx), Poll::Ready(turn));
            own = waiters.push(1, 1);
        }
        assert!(waiters.serve(Some(1), 99).is_ok());
        assert_eq!(waiters.poll(other, &cx), Poll::Ready(99));
    }

    #[test]
    fn an_abandoned_wait_returns_what_it_got() {
        let mut waiters = Waiters::new();
        let (a, b) = (waiters.push(0, 1), waiters.push(0, 1));
        assert!(waiters.serve(None, 'x').is_ok());
        assert_eq!(waiters.abandon(a), Some('x'));
        assert_eq!(waiters.abandon(b), None);
        assert_eq!(waiters.serve(None, 'y').unwrap_err(), 'y');
        assert_eq!(waiters.len(), 0);
    }
}
