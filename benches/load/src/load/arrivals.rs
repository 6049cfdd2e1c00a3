//! When transactions are due.

use std::time::{Duration, Instant};

/// In a closed loop, whenever a client is free; in an open one, at a fixed rate.
pub(super) struct Arrivals {
    /// Between two; `None`: closed.
    every: Option<Duration>,
    start: Instant,
    /// How many were taken.
    taken: u32,
}

impl Arrivals {
    /// Per second.
    pub(super) fn new(rate: Option<f64>) -> Arrivals {
        let every = rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        Arrivals { every, start: Instant::now(), taken: 0 }
    }

    /// When the next is or was due.
    pub(super) fn next_due(&self, now: Instant) -> Instant {
        match self.every {
            Some(every) => self.start + every * self.taken,
            None => now,
        }
    }

    /// The moment at which the next was due, if it is.
    #[inline]
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next_due(now);
        if due > now {
            return None;
        }
        self.taken += 1;
        Some(due)
    }

    /// Of an open loop, those that were due before `end`, and that no client was free for.
    pub(super) fn left(&mut self, end: Instant) -> impl Iterator<Item = Instant> {
        let is_open = self.every.is_some();
        std::iter::from_fn(move || self.take(end).filter(|due| is_open && *due < end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_goes_on_by_its_own_clock() {
        let mut arrivals = Arrivals::new(Some(1_000.0));
        let at = |ms| arrivals.start + Duration::from_millis(ms);
        let [start, one, nine] = [0, 1, 9].map(at);
        assert_eq!([arrivals.take(start), arrivals.take(start)], [Some(start), None]);
        // Late, but due when it was due.
        assert_eq!((arrivals.take(nine), arrivals.next_due(nine)), (Some(one), one + Duration::from_millis(1)));
        // What is due when the run ends is not.
        assert_eq!(arrivals.left(nine).count(), 7);
    }

    #[test]
    fn in_a_closed_loop_the_next_is_always_due() {
        let mut arrivals = Arrivals::new(None);
        let now = Instant::now();
        assert_eq!([arrivals.take(now), arrivals.take(now)], [Some(now), Some(now)]);
        assert_eq!(arrivals.left(now).count(), 0);
    }
}
