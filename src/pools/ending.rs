//! The end of the process, as far as its clients are concerned.
//!
//! ```text
//! SIGTERM ── shutdown_grace ──▶ clients leave when idle ── shutdown_timeout ──▶ all leave ── FAREWELL ──▶ exit
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgweir_config::Settings;

use crate::control::Shutdown;

/// For those who have to leave at the very end to be told so.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who has to leave by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    Nobody,
    /// Clients outside a transaction.
    Idle,
    Everybody,
}

/// `None`: the process is not about to end.
#[derive(Default)]
pub(super) struct Ending(Mutex<Option<(Shutdown, Instant)>>);

impl Ending {
    fn begun(&self) -> MutexGuard<'_, Option<(Shutdown, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is asked for while another waits does not get more time.
    pub(super) fn begin(&self, how: Shutdown) {
        let mut begun = self.begun();
        let since = begun.map_or_else(Instant::now, |(_, since)| since);
        *begun = Some((how, since));
    }

    pub(super) fn how(&self) -> Option<Shutdown> {
        self.begun().map(|(how, _)| how)
    }

    pub(super) fn leaving(&self, settings: &Settings) -> Leaving {
        self.begun().map_or(Leaving::Nobody, |(how, since)| leaving(how, since.elapsed(), settings))
    }

    /// Nobody is waited for any more.
    pub(super) fn is_over(&self, settings: &Settings) -> bool {
        let before = |(how, since): (Shutdown, Instant)| {
            since.elapsed().checked_sub(FAREWELL).map(|elapsed| leaving(how, elapsed, settings))
        };
        self.begun().and_then(before) == Some(Leaving::Everybody)
    }
}

fn leaving(how: Shutdown, elapsed: Duration, settings: &Settings) -> Leaving {
    let is_over = |limit: Duration| !limit.is_zero() && elapsed >= limit;
    if is_over(settings.shutdown_timeout) {
        Leaving::Everybody
    } else if how == Shutdown::WaitForClients && is_over(settings.shutdown_grace) {
        Leaving::Idle
    } else {
        Leaving::Nobody
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_leave_first() {
        let settings = Settings {
            shutdown_grace: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(25),
            ..Settings::default()
        };
        let after = |how, s| leaving(how, Duration::from_secs(s), &settings);
        assert_eq!(after(Shutdown::WaitForClients, 9), Leaving::Nobody);
        assert_eq!(after(Shutdown::WaitForClients, 10), Leaving::Idle);
        assert_eq!(after(Shutdown::WaitForServers, 24), Leaving::Nobody);
        assert_eq!(after(Shutdown::WaitForServers, 25), Leaving::Everybody);
        assert_eq!(after(Shutdown::WaitForClients, 25), Leaving::Everybody);
    }

    #[test]
    fn without_limits_it_takes_as_long_as_it_takes() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for how in [Shutdown::WaitForClients, Shutdown::WaitForServers] {
            assert_eq!(leaving(how, year, &Settings::default()), Leaving::Nobody);
        }
    }
}
