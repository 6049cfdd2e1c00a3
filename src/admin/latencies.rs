//! Percentiles over the last `stats_period` or two, pool by pool.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pools::latencies::Times;
use crate::pools::{Pools, ServerPool};

/// What each pool has counted at the last two looks, by its number.
#[derive(Debug, Default)]
pub(super) struct LatencyHistory {
    looks: Mutex<Looks>,
}

#[derive(Debug, Default)]
struct Looks {
    older: HashMap<u64, Look>,
    newer: HashMap<u64, Look>,
}

/// A pool's times; the maxima are those of the time before the look.
#[derive(Debug, Clone, Default)]
struct Look {
    /// Times that a client was given a server.
    assignments: u64,
    /// Waits, queries, transactions.
    times: [Times; 3],
}

impl LatencyHistory {
    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what has been counted. Pools that are gone are forgotten.
    pub(super) fn look(&self, pools: &Pools) {
        let now = pools.pools().iter().map(|pool| (pool.number, Look::at(pool, true))).collect();
        let mut looks = self.looks();
        looks.older = std::mem::replace(&mut looks.newer, now);
    }

    /// Waits, queries and transactions of a pool since the last look but one. Who was given a server
    /// at once has waited for no time.
    pub(super) fn recent(&self, pool: &ServerPool) -> [Times; 3] {
        let now = Look::at(pool, false);
        let looks = self.looks();
        let (nothing, none) = (Look::default(), Look::default());
        let older = looks.older.get(&pool.number).unwrap_or(&nothing);
        let newer = looks.newer.get(&pool.number).unwrap_or(&none);
        let mut kind = 0;
        let mut recent = now.times.map(|times| {
            let mut new = times.since(&older.times[kind]);
            new.max_us = new.max_us.max(newer.times[kind].max_us);
            kind += 1;
            new
        });
        let [waits, ..] = &mut recent;
        let assigned = now.assignments.saturating_sub(older.assignments);
        waits.add_zeros(assigned.saturating_sub(waits.count()));
        recent
    }
}

impl Look {
    fn at(pool: &ServerPool, is_taken: bool) -> Look {
        Look { assignments: pool.totals().server_assignments, times: pool.times(is_taken) }
    }
}
