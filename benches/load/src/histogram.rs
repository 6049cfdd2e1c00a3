//! Times counted by length: each power of two has 128 buckets, so that a figure read from them is less than 0.8 % too large.

use std::time::Duration;

const PARTS_LOG2: u32 = 7;
const PARTS: usize = 1 << PARTS_LOG2;

/// Longer times, from 2^40 ns (18 minutes) on, count into the last bucket.
const POWERS: u32 = 40;
const BUCKETS: usize = (POWERS - PARTS_LOG2 + 1) as usize * PARTS;

pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], count: 0, max: Duration::ZERO }
    }

    #[inline]
    pub(crate) fn add(&mut self, took: Duration) {
        self.counts[bucket(took.as_nanos() as u64)] += 1;
        self.count += 1;
        self.max = self.max.max(took);
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The time that this part of all did not exceed; zero if there are none.
    pub(crate) fn at(&self, part: f64) -> Duration {
        let rank = ((self.count as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|n| {
            seen += n;
            seen >= rank
        });
        found.map_or(Duration::ZERO, |bucket| Duration::from_nanos(longest_ns(bucket)).min(self.max))
    }

    /// The fields of a JSON object that say how long it took.
    pub(crate) fn json(&self) -> String {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| ms(self.at(part)));
        format!(r#""p50_ms": {p50:.4}, "p99_ms": {p99:.4}, "p999_ms": {p999:.4}, "max_ms": {:.4}"#, ms(self.max))
    }
}

#[inline]
fn bucket(ns: u64) -> usize {
    let ns = ns.min((1 << POWERS) - 1);
    if ns < PARTS as u64 {
        return ns as usize;
    }
    let power = ns.ilog2();
    let part = (ns >> (power - PARTS_LOG2)) as usize & (PARTS - 1);
    (power - PARTS_LOG2 + 1) as usize * PARTS + part
}

/// The longest time that counts into a bucket.
fn longest_ns(bucket: usize) -> u64 {
    if bucket < PARTS {
        return bucket as u64;
    }
    let (power, part) = ((bucket / PARTS - 1) as u32, bucket % PARTS);
    (((PARTS + part + 1) as u64) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_where_the_next_begins() {
        for of in 0..BUCKETS - 1 {
            assert_eq!((bucket(longest_ns(of)), bucket(longest_ns(of) + 1)), (of, of + 1));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_at_most_a_hundredth_too_large() {
        let mut histogram = Histogram::new();
        (1..=100_000).for_each(|us| histogram.add(Duration::from_micros(us)));
        for (part, exact_us) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0), (1.0, 100_000.0)] {
            let us = histogram.at(part).as_secs_f64() * 1e6;
            assert!((exact_us..exact_us * 1.008).contains(&us), "{part}: {us}");
        }
        assert_eq!(Histogram::new().at(0.5), Duration::ZERO);
    }

    #[test]
    fn merged_counts_are_sums() {
        let (mut a, mut b) = (Histogram::new(), Histogram::new());
        a.add(Duration::from_nanos(5));
        b.add(Duration::from_nanos(7));
        a.merge(&b);
        assert_eq!((a.count(), a.at(0.5), a.at(1.0)), (2, Duration::from_nanos(5), Duration::from_nanos(7)));
    }
}
