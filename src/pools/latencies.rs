//! How long clients wait and queries and transactions take: counts by length, for percentiles.
//!
//! A bucket is at most an eighth wider than it begins, so that a figure read from it is at most
//! 12.5 % too large. Below 8 us each microsecond has a bucket of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use super::stats::Counter;

/// Buckets that each power of two is divided into, and its logarithm.
const PARTS: usize = 1 << PARTS_LOG2;
const PARTS_LOG2: u32 = 3;

/// Longer times, from 2^36 us (19 hours) on, count into the last bucket.
const POWERS: u32 = 36;
const BUCKETS: usize = (POWERS - PARTS_LOG2 + 1) as usize * PARTS;

/// Times of one kind of one worker in one pool. One writer, as the other counters.
#[derive(Debug)]
pub(crate) struct Latency {
    counts: [Counter; BUCKETS],
    /// The longest since somebody has last taken it away.
    max_us: AtomicU64,
}

/// All kinds.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    /// Of those clients that had to wait for a server.
    pub(crate) wait: Latency,
    pub(crate) query: Latency,
    pub(crate) xact: Latency,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { counts: std::array::from_fn(|_| Counter::default()), max_us: AtomicU64::new(0) }
    }
}

impl Latency {
    #[inline]
    pub(crate) fn add(&self, us: u64) {
        self.counts[bucket(us)].add(1);
        if us > self.max_us.load(Ordering::Relaxed) {
            self.max_us.store(us, Ordering::Relaxed);
        }
    }
}

#[inline]
fn bucket(us: u64) -> usize {
    let us = us.min((1 << POWERS) - 1);
    if us < PARTS as u64 {
        return us as usize;
    }
    let power = us.ilog2();
    let part = (us >> (power - PARTS_LOG2)) as usize & (PARTS - 1);
    (power - PARTS_LOG2 + 1) as usize * PARTS + part
}

/// The longest time that counts into a bucket.
fn longest_us(bucket: usize) -> u64 {
    if bucket < PARTS {
        return bucket as u64;
    }
    let (power, part) = ((bucket / PARTS - 1) as u32, bucket % PARTS);
    (((PARTS + part + 1) as u64) << power) - 1
}

/// Times of one kind, over all workers of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// Buckets that something has counted into, in their order, with how much.
    counts: Vec<(u16, u64)>,
    pub(crate) max_us: u64,
}

impl Times {
    /// `is_taken` begins a new stretch of time for the maximum.
    pub(crate) fn of<'a>(latencies: impl Iterator<Item = &'a Latency> + Clone, is_taken: bool) -> Times {
        let count = |bucket: usize| latencies.clone().map(|latency| latency.counts[bucket].get()).sum::<u64>();
        let counts = (0..BUCKETS).map(|bucket| (bucket as u16, count(bucket))).filter(|(_, n)| *n > 0).collect();
        let max_us = latencies.clone().map(|latency| match is_taken {
            true => latency.max_us.swap(0, Ordering::Relaxed),
            false => latency.max_us.load(Ordering::Relaxed),
        });
        Times { counts, max_us: max_us.max().unwrap_or(0) }
    }

    /// What came since `before`; the maximum is for whoever knows those of the stretches between.
    pub(crate) fn since(&self, before: &Times) -> Times {
        let earlier = |bucket: u16| match before.counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => before.counts[at].1,
            Err(_) => 0,
        };
        let new = self.counts.iter().map(|&(bucket, n)| (bucket, n.saturating_sub(earlier(bucket))));
        Times { counts: new.filter(|(_, n)| *n > 0).collect(), max_us: self.max_us }
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|(_, n)| n).sum()
    }

    /// Counts `n` more that took no time at all.
    pub(crate) fn add_zeros(&mut self, n: u64) {
        match self.counts.first_mut() {
            Some((0, zeros)) => *zeros += n,
            _ if n > 0 => self.counts.insert(0, (0, n)),
            _ => {}
        }
    }

    /// The time that `percent` of all do not exceed.
    pub(crate) fn percentile_us(&self, percent: u64) -> u64 {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for &(bucket, n) in &self.counts {
            seen += n;
            if seen >= rank {
                return longest_us(usize::from(bucket)).min(self.max_us);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_next_to_each_other_and_narrow() {
        assert_eq!([bucket(0), bucket(7), bucket(8), bucket(15), bucket(16), bucket(17)], [0, 7, 8, 15, 16, 16]);
        for at in 1..BUCKETS {
            let (first, last) = (longest_us(at - 1) + 1, longest_us(at));
            assert!(first <= last && bucket(first) == at && bucket(last) == at, "{at}: {first}..={last}");
            assert!((last - first) * 8 <= first, "{at}: {first}..={last}");
        }
        assert_eq!([bucket(u64::MAX), bucket(1 << 36)], [BUCKETS - 1; 2]);
    }

    #[test]
    fn percentiles_are_of_all_workers() {
        let (one, other) = (Latency::default(), Latency::default());
        (1..=50).for_each(|us| one.add(us * 100));
        (51..=100).for_each(|us| other.add(us * 100));
        let times = Times::of([&one, &other].into_iter(), false);
        assert_eq!((times.count(), times.max_us), (100, 10_000));
        for (percent, exact) in [(1, 100), (50, 5_000), (90, 9_000), (99, 9_900), (100, 10_000)] {
            let told = times.percentile_us(percent);
            assert!(exact <= told && told * 8 <= exact * 9, "{percent} %: {told}");
        }
        assert_eq!(Times::default().percentile_us(50), 0);
    }

    #[test]
    fn a_stretch_of_time_counts_for_itself() {
        let latency = Latency::default();
        latency.add(1_000_000);
        let before = Times::of([&latency].into_iter(), true);
        latency.add(5);
        latency.add(5);
        let mut new = Times::of([&latency].into_iter(), false).since(&before);
        assert_eq!((new.count(), new.max_us, new.percentile_us(99)), (2, 5, 5));
        new.add_zeros(98);
        assert_eq!((new.count(), new.percentile_us(98), new.percentile_us(99)), (100, 0, 5));
        assert_eq!(before.max_us, 1_000_000);
    }
}
