//! Settings of one pool that the data path looks at, as atomics: no lock, no configuration tree.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use pgweir_config::{Config, Database, PoolMode};

/// Settings that every release looks at; a reload writes them anew.
#[derive(Debug)]
pub(crate) struct Policy {
    mode: AtomicU8,
    /// `server_lifetime`; 0: a server is used once.
    lifetime_us: AtomicU64,
    /// Servers are not closed for their age all at once, but one in so long: their lifetime
    /// divided by the pool's size.
    lifetime_gap_us: AtomicU64,
    /// `server_check_delay`: an idle server older than this is tested before it is used.
    check_delay_us: AtomicU64,
    /// `server_check_query` is set.
    is_checked: AtomicBool,
    /// `server_reset_query_always`, with a `server_reset_query` to run.
    is_reset_always: AtomicBool,
    /// A `server_reset_query` is set.
    is_reset: AtomicBool,
}

impl Policy {
    pub(super) fn new() -> Policy {
        Policy {
            mode: AtomicU8::new(0),
            lifetime_us: AtomicU64::new(0),
            lifetime_gap_us: AtomicU64::new(0),
            check_delay_us: AtomicU64::new(0),
            is_checked: AtomicBool::new(false),
            is_reset_always: AtomicBool::new(false),
            is_reset: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn mode(&self) -> PoolMode {
        match self.mode.load(Ordering::Relaxed) {
            0 => PoolMode::Session,
            1 => PoolMode::Transaction,
            _ => PoolMode::Statement,
        }
    }

    /// Takes the settings that concern the pool of `entry` and `user`.
    pub(super) fn set(&self, config: &Config, entry: &Database, user: &str) {
        let settings = &config.settings;
        let has_reset = !settings.server_reset_query.is_empty();
        self.set_mode(config.pool_mode(entry, user));
        let lifetime_us = us(config.server_lifetime(entry));
        let size = config.pool_size(entry, user);
        self.lifetime_us.store(lifetime_us, Ordering::Relaxed);
        self.lifetime_gap_us.store(lifetime_us.checked_div(u64::from(size)).unwrap_or(0), Ordering::Relaxed);
        self.check_delay_us.store(us(settings.server_check_delay), Ordering::Relaxed);
        self.is_checked.store(settings.server_check_query.is_some(), Ordering::Relaxed);
        self.is_reset.store(has_reset, Ordering::Relaxed);
        self.is_reset_always.store(has_reset && settings.server_reset_query_always, Ordering::Relaxed);
    }

    fn set_mode(&self, mode: PoolMode) {
        let mode = match mode {
            PoolMode::Session => 0,
            PoolMode::Transaction => 1,
            PoolMode::Statement => 2,
        };
        self.mode.store(mode, Ordering::Relaxed);
    }

    pub(super) fn needs_reset(&self) -> bool {
        let always = self.is_reset_always.load(Ordering::Relaxed);
        always || self.mode() == PoolMode::Session && self.is_reset.load(Ordering::Relaxed)
    }

    /// A server of this age has to be closed, if the last that was closed for its age was
    /// closed so long ago.
    pub(super) fn is_life_over(&self, age_us: u64, since_last_us: u64) -> bool {
        age_us >= self.lifetime_us.load(Ordering::Relaxed)
            && since_last_us >= self.lifetime_gap_us.load(Ordering::Relaxed)
    }

    /// Idle since `since_us`, does a server have to be tested before it is used?
    pub(crate) fn needs_check(&self, since_us: u64, now_us: u64) -> bool {
        self.is_checked.load(Ordering::Relaxed)
            && now_us.saturating_sub(since_us) >= self.check_delay_us.load(Ordering::Relaxed)
    }
}

fn us(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
