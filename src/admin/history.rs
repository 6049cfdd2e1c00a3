//! What was counted, and how fast: totals that live as long as the process, and averages over
//! the last `stats_period` or two, for SHOW STATS and the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgweir_config::CONSOLE_DATABASE;

use super::latencies::LatencyHistory;
use crate::log::log_at;
use crate::net::clock;
use crate::pools::Pools;
use crate::pools::stats::{Sums, Totals};

/// Averages are over at least so much, also just after the start.
const PERIOD_MIN_US: u64 = 1_000_000;

/// Totals of all databases and of the console, now and at the last two looks.
pub(crate) struct StatsHistory {
    pools: Arc<Pools>,
    /// Logins and commands of the console, which has no pool to count them.
    console_logins: AtomicU64,
    console_commands: AtomicU64,
    looks: Mutex<Looks>,
    pub(super) latencies: LatencyHistory,
}

struct Looks {
    older: Look,
    newer: Look,
}

/// Totals at a moment of the process clock.
#[derive(Debug, Clone, Default)]
struct Look {
    at_us: u64,
    sums: Sums,
}

/// Totals, and what they mean per second or per piece.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) totals: Totals,
    /// Counts and bytes per second; times per transaction, query and assignment.
    pub(super) averages: Totals,
}

impl StatsHistory {
    pub(crate) fn new(pools: Arc<Pools>) -> Arc<StatsHistory> {
        let now_us = clock::now_us();
        // Something may have been counted by the process before this one.
        let sums = pools.ledger.sums(|_| true);
        let at = |at_us| Look { at_us, sums: sums.clone() };
        let looks = Looks { older: at(now_us.saturating_sub(PERIOD_MIN_US)), newer: at(now_us) };
        Arc::new(StatsHistory {
            pools,
            console_logins: AtomicU64::new(0),
            console_commands: AtomicU64::new(0),
            looks: Mutex::new(looks),
            latencies: LatencyHistory::default(),
        })
    }

    /// Looks every `stats_period`, until the process ends.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let period = self.pools.config().settings.stats_period;
            tokio::time::sleep(period.max(Duration::from_secs(1))).await;
            let all = self.look();
            self.latencies.look(&self.pools);
            if self.pools.config().settings.log_stats {
                log_at!(Log, "{}", log_line(&all));
            }
        }
    }

    pub(super) fn count_console_login(&self) {
        self.console_logins.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_console_command(&self) {
        self.console_commands.fetch_add(1, Ordering::Relaxed);
    }

    /// By database, the console's included.
    pub(super) fn databases(&self) -> BTreeMap<Arc<str>, Line> {
        let now = self.now();
        let looks = self.looks();
        let lines = now.sums.databases.iter().map(|(name, totals)| {
            let before = looks.older.sums.databases.get(name).copied().unwrap_or_default();
            (Arc::clone(name), line(*totals, before, looks.older.at_us, now.at_us))
        });
        lines.collect()
    }

    /// Over all databases.
    pub(super) fn all(&self) -> Line {
        let now = self.now();
        let looks = self.looks();
        line(now.sums.all, looks.older.sums.all, looks.older.at_us, now.at_us)
    }

    /// Remembers the totals; returns what has come since they were remembered last.
    fn look(&self) -> Line {
        let now = self.now();
        let mut looks = self.looks();
        let line = line(now.sums.all, looks.newer.sums.all, looks.newer.at_us, now.at_us);
        looks.older = std::mem::replace(&mut looks.newer, now);
        line
    }

    fn now(&self) -> Look {
        let known: Vec<_> = self.pools.databases();
        let is_known = |name: &str| known.binary_search_by(|database| (*database.name).cmp(name)).is_ok();
        let mut sums = self.pools.ledger.sums(is_known);
        let commands = self.console_commands.load(Ordering::Relaxed);
        let console = Totals {
            xacts: commands,
            queries: commands,
            client_logins: self.console_logins.load(Ordering::Relaxed),
            ..Totals::default()
        };
        sums.all = sums.all.plus(console);
        sums.databases.insert(CONSOLE_DATABASE.into(), console);
        Look { at_us: clock::now_us(), sums }
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(totals: Totals, before: Totals, before_us: u64, now_us: u64) -> Line {
    Line { totals, averages: averages(totals.since(before), now_us.saturating_sub(before_us)) }
}

/// Of what came in `us`: counts and bytes per second, times in microseconds per piece.
fn averages(new: Totals, us: u64) -> Totals {
    let rate = |n: u64| match us {
        0 => 0,
        us => u64::try_from(u128::from(n) * 1_000_000 / u128::from(us)).unwrap_or(u64::MAX),
    };
    let each = |time_us: u64, n: u64| time_us.checked_div(n).unwrap_or(0);
    Totals {
        server_assignments: rate(new.server_assignments),
        xacts: rate(new.xacts),
        queries: rate(new.queries),
        received: rate(new.received),
        sent: rate(new.sent),
        xact_time_us: each(new.xact_time_us, new.xacts),
        query_time_us: each(new.query_time_us, new.queries),
        wait_time_us: each(new.wait_time_us, new.server_assignments),
        client_parses: rate(new.client_parses),
        server_parses: rate(new.server_parses),
        binds: rate(new.binds),
        client_logins: rate(new.client_logins),
    }
}

fn log_line(Line { averages, .. }: &Line) -> String {
    let Totals { xacts, queries, client_parses, server_parses, binds, client_logins, .. } = averages;
    let Totals { received, sent, xact_time_us, query_time_us, wait_time_us, .. } = averages;
    format!(
        "stats: {xacts} xacts/s, {queries} queries/s, {client_parses} client parses/s, \
         {server_parses} server parses/s, {binds} binds/s, {client_logins} client logins/s, \
         in {received} B/s, out {sent} B/s, xact {xact_time_us} us, query {query_time_us} us, wait {wait_time_us} us"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Totals = Totals {
        server_assignments: 4,
        xacts: 10,
        queries: 25,
        received: 5_000,
        sent: u64::MAX / 1_000,
        xact_time_us: 105,
        query_time_us: 100,
        wait_time_us: 10,
        client_parses: 5,
        server_parses: 10,
        binds: 15,
        client_logins: 20,
    };

    #[test]
    fn averages_are_per_second_and_per_piece() {
        let expected = Totals {
            server_assignments: 0,
            xacts: 2,
            queries: 5,
            received: 1_000,
            sent: NEW.sent / 5,
            xact_time_us: 10,
            query_time_us: 4,
            wait_time_us: 2,
            client_parses: 1,
            server_parses: 2,
            binds: 3,
            client_logins: 4,
        };
        assert_eq!(averages(NEW, 5_000_000), expected);
        assert_eq!(averages(Totals::default(), 0), Totals::default());
        // No time has gone by: nothing can be said per second.
        assert_eq!((averages(NEW, 0).queries, averages(NEW, 0).query_time_us), (0, 4));
    }

    #[test]
    fn a_line_counts_from_the_look_before() {
        let before = Totals { queries: 20, query_time_us: 60, ..NEW };
        let line = line(NEW, before, 1_000_000, 2_000_000);
        assert_eq!((line.totals, line.averages.queries, line.averages.query_time_us), (NEW, 5, 8));
        assert_eq!(line.averages.xacts, 0);
    }

    #[test]
    fn the_log_line_is_pgbouncers() {
        let line = Line { totals: Totals::default(), averages: Totals { sent: 7, ..NEW } };
        assert_eq!(
            log_line(&line),
            "stats: 10 xacts/s, 25 queries/s, 5 client parses/s, 10 server parses/s, 15 binds/s, \
             20 client logins/s, in 5000 B/s, out 7 B/s, xact 105 us, query 100 us, wait 10 us"
        );
    }
}
