//! Looks after the files of certificates: changed ones are taken without a RELOAD, and what
//! expires is warned about.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::tls_setup;
use crate::control::{Command, Commands};
use crate::log::log_at;
use crate::net::tls::{Stamps, TlsSetup};
use crate::pools::Pools;

/// How often the files are looked at. A change is taken at the second look that finds it.
const LOOK: Duration = Duration::from_secs(1);

/// How often the same is warned about.
const WARN_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// Runs until the process ends.
pub(super) async fn watch(pools: Arc<Pools>, commands: Commands) {
    let (mut changes, mut warnings) = (Changes::default(), Warnings::default());
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let tls = pools.tls();
        warnings.log(&tls);
        let look = {
            let tls = Arc::clone(&tls);
            // It may hang where files are on a network.
            tokio::task::spawn_blocking(move || tls.stamps.now())
        };
        let Ok(now) = look.await else { return };
        if changes.are_due(&tls.stamps, now) {
            // Whoever carries it out is gone only when the process goes.
            let _ = commands.send(Command::RenewTls);
        }
    }
}

/// Takes what is in the files now, all of it or nothing, for new connections.
pub(super) fn renew(pools: &Pools) {
    let before = pools.tls();
    let tls = match tls_setup(&pools.config(), Some(&before)) {
        Ok(tls) => tls,
        Err(e) => {
            log_at!(Error, "{e}");
            log_at!(
                Error,
                "certificate files have changed but cannot be used: those in force stay; \
                 the files are tried again when they change"
            );
            return;
        }
    };
    for (is_same, whom) in [(tls.accepts_like(&before), "clients"), (tls.dialer.is_like(&before.dialer), "servers")] {
        if !is_same {
            log_at!(Log, "certificate files have changed: TLS of new connections with {whom} uses them");
        }
    }
    pools.renew_tls(tls);
}

/// When files that have changed are to be taken.
#[derive(Default)]
struct Changes {
    /// As the files were at the last look.
    last: Stamps,
    /// As they were when they were taken, or tried, last.
    tried: Option<Stamps>,
}

impl Changes {
    /// `read` is how the files were when they were read. They must be at rest, lest one is taken
    /// that is only half written, or without the other of its pair.
    fn are_due(&mut self, read: &Stamps, now: Stamps) -> bool {
        let is_at_rest = self.last == now;
        let is_due = is_at_rest && now != *read && self.tried.as_ref() != Some(&now);
        if is_due {
            self.tried = Some(now.clone());
        }
        self.last = now;
        is_due
    }
}

/// What was warned about, and when.
#[derive(Default)]
struct Warnings {
    last: Vec<String>,
    at: Option<Instant>,
}

impl Warnings {
    /// At once when there is something new, and again every day.
    fn log(&mut self, tls: &TlsSetup) {
        let lines = tls.expiry_warnings();
        let is_old = self.at.is_some_and(|at| at.elapsed() < WARN_AGAIN);
        if lines == self.last && is_old {
            return;
        }
        for line in lines.iter().filter(|line| !is_old || !self.last.contains(line)) {
            log_at!(Warning, "{line}");
        }
        (self.last, self.at) = (lines, Some(Instant::now()));
    }
}
