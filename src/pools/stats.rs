//! What is counted per pool: a set of cells per worker, each written by that worker alone, so
//! that counting is a plain addition; they are summed when somebody looks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::latencies::{Latencies, Times};
use crate::relay::SessionUse;

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only the worker that owns the cell may call this: it is no atomic addition.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

type SessionUses = [Counter; SessionUse::KINDS];

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counters of one worker for one pool. Aligned so that two workers share no cache line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Stats {
            $($(#[$doc])* pub(crate) $name: Counter,)*
            /// What needs a session, by `SessionUse::kind`, from clients that have none.
            pub(crate) session_uses: SessionUses,
            /// `None` until the worker has something to count: 6 KB.
            latencies: OnceLock<Box<Latencies>>,
        }

        /// Their sums over workers, pools, or a stretch of time.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct Totals {
            $($(#[$doc])* pub(crate) $name: u64,)*
        }

        impl Totals {
            pub(crate) fn add(&mut self, stats: &Stats) {
                $(self.$name += stats.$name.0.load(Ordering::Relaxed);)*
            }

            pub(crate) fn plus(self, other: Totals) -> Totals {
                Totals { $($name: self.$name + other.$name,)* }
            }

            /// In their order, for another process.
            pub(crate) fn values(self) -> Vec<u64> {
                vec![$(self.$name),*]
            }

            /// `None`: there are more or less of them there.
            pub(crate) fn from_values(values: Vec<u64>) -> Option<Totals> {
                let mut values = values.into_iter();
                let totals = Totals { $($name: values.next()?,)* };
                values.next().is_none().then_some(totals)
            }

            /// What came since `before`.
            pub(crate) fn since(self, before: Totals) -> Totals {
                Totals { $($name: self.$name.saturating_sub(before.$name),)* }
            }
        }
    };
}

stats! {
    /// Times that a client was given a server.
    server_assignments,
    xacts,
    queries,
    /// Bytes from clients.
    received,
    /// Bytes from servers.
    sent,
    xact_time_us,
    query_time_us,
    /// Time that clients waited for a server.
    wait_time_us,
    client_parses,
    server_parses,
    binds,
    client_logins,
}

impl Stats {
    #[inline]
    pub(crate) fn latencies(&self) -> &Latencies {
        self.latencies.get_or_init(Box::default)
    }
}

/// What the workers of one pool have counted of waits, queries and transactions.
pub(super) fn times(workers: &[Stats], is_taken: bool) -> [Times; 3] {
    let all = || workers.iter().filter_map(|stats| stats.latencies.get());
    [
        Times::of(all().map(|latencies| &latencies.wait), is_taken),
        Times::of(all().map(|latencies| &latencies.query), is_taken),
        Times::of(all().map(|latencies| &latencies.xact), is_taken),
    ]
}

/// What the workers of one pool have counted of each kind.
pub(super) fn session_uses(workers: &[Stats]) -> [u64; SessionUse::KINDS] {
    let sum = |kind: usize| workers.iter().map(|stats| stats.session_uses[kind].0.load(Ordering::Relaxed)).sum();
    std::array::from_fn(sum)
}

/// The counters of all pools, also of those that are gone: no sum ever falls.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Looked at by the console and the statistics, and when a pool is made.
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// Counters that a pool may still add to, by database.
    open: Vec<(Arc<str>, Arc<[Stats]>)>,
    /// Sums of pools that are gone, by database.
    settled: BTreeMap<Arc<str>, Totals>,
    /// Sums of databases that nobody knows any more.
    nameless: Totals,
}

/// What all pools have counted so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) databases: BTreeMap<Arc<str>, Totals>,
    /// Over all databases, also those that are gone.
    pub(crate) all: Totals,
}

impl Ledger {
    /// Counters for a new pool, one set per worker.
    pub(super) fn open(&self, database: &Arc<str>, workers: usize) -> Arc<[Stats]> {
        let stats: Arc<[Stats]> = (0..workers).map(|_| Stats::default()).collect();
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.open.push((Arc::clone(database), Arc::clone(&stats)));
        stats
    }

    /// Adds what another process has counted.
    pub(crate) fn add(&self, database: &Arc<str>, totals: Totals) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = books.settled.entry(Arc::clone(database)).or_default();
        *sum = sum.plus(totals);
    }

    /// Databases without a pool for which `is_known` does not hold lose their own sums: their
    /// names may come from clients, and must not pile up.
    pub(crate) fn sums(&self, is_known: impl Fn(&str) -> bool) -> Sums {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let Books { open, settled, nameless } = &mut *books;
        open.retain_mut(|(database, stats)| {
            // Nobody else holds them: what they say is final.
            let is_final = Arc::get_mut(stats).is_some();
            if is_final {
                settled.entry(Arc::clone(database)).or_default().add_all(stats);
            }
            !is_final
        });
        settled.retain(|database, totals| {
            let keep = is_known(database) || open.iter().any(|(name, _)| name == database);
            if !keep {
                *nameless = nameless.plus(*totals);
            }
            keep
        });
        let mut databases = settled.clone();
        for (database, stats) in open {
            databases.entry(Arc::clone(database)).or_default().add_all(stats);
        }
        let all = databases.values().fold(*nameless, |sum, totals| sum.plus(*totals));
        Sums { databases, all }
    }
}

impl Totals {
    pub(crate) fn add_all(&mut self, workers: &[Stats]) {
        workers.iter().for_each(|stats| self.add(stats));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_another_process_are_added() {
        let ledger = Ledger::default();
        let database: Arc<str> = "a".into();
        let counted = Totals { queries: 3, binds: 4, ..Totals::default() };
        assert_eq!(Totals::from_values(counted.values()), Some(counted));
        assert_eq!(Totals::from_values(vec![1]), None);
        ledger.open(&database, 1)[0].queries.add(1);
        ledger.add(&database, counted);
        let sums = ledger.sums(|_| true);
        assert_eq!((sums.all.queries, sums.databases[&database].binds), (4, 4));
    }

    #[test]
    fn sums_outlive_their_pools() {
        let ledger = Ledger::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (first, second) = (ledger.open(&a, 2), ledger.open(&a, 2));
        let other = ledger.open(&b, 1);
        first[0].queries.add(1);
        first[1].queries.add(2);
        second[0].queries.add(4);
        other[0].queries.add(8);
        let queries = |known: &[&str]| {
            let sums = ledger.sums(|name| known.contains(&name));
            let databases: Vec<_> = sums.databases.iter().map(|(name, t)| (name.to_string(), t.queries)).collect();
            (databases, sums.all.queries)
        };
        let both = vec![("a".to_owned(), 7), ("b".to_owned(), 8)];
        assert_eq!(queries(&[]), (both.clone(), 15));
        drop((first, other));
        assert_eq!(queries(&["a", "b"]), (both.clone(), 15));
        second[0].queries.add(1);
        assert_eq!(queries(&[]), (vec![("a".to_owned(), 8)], 16));
        drop(second);
        assert_eq!(queries(&[]), (vec![], 16));
    }
}
