//! Log lines about what strangers can bring about as often as they like.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::log::{self, Level};

const PERIOD: Duration = Duration::from_secs(10);

/// Writes the first such line at once, and then one in ten seconds, which says how many it stands for.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Where the lines of later periods are written.
    control: Handle,
    /// Locked for a few assignments.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A period runs, and nothing more is written before it is over.
    is_running: bool,
    /// Lines that were held back in it, and the last of them.
    held_back: u64,
    latest: String,
}

impl Throttle {
    pub(crate) fn new(control: Handle) -> Arc<Throttle> {
        Arc::new(Throttle { control, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn warn(self: &Arc<Self>, text: fmt::Arguments<'_>) {
        if self.state().begins_period(text) {
            log::write(Level::Warning, text);
            self.control.spawn(Arc::clone(self).run());
        }
    }

    /// Goes on until nothing was held back in a period.
    async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let line = self.state().end_period();
            let Some(line) = line else { return };
            log::write(Level::Warning, format_args!("{line}"));
        }
    }
}

impl State {
    /// Whether the line is to be written now; if not, it is held back.
    fn begins_period(&mut self, text: fmt::Arguments<'_>) -> bool {
        if self.is_running {
            self.held_back += 1;
            self.latest = text.to_string();
        }
        !std::mem::replace(&mut self.is_running, true)
    }

    /// The line for all that were held back, with which another period begins.
    fn end_period(&mut self) -> Option<String> {
        self.is_running = self.held_back > 0;
        let (held_back, latest) = (std::mem::take(&mut self.held_back), std::mem::take(&mut self.latest));
        self.is_running.then(|| format!("{latest} ({held_back} times in {} s)", PERIOD.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_one_line_in_a_period() {
        let mut state = State::default();
        assert!(state.begins_period(format_args!("first")));
        for i in 1..=1000 {
            assert!(!state.begins_period(format_args!("refusal {i}")));
        }
        assert_eq!(state.end_period().as_deref(), Some("refusal 1000 (1000 times in 10 s)"));
        assert!(!state.begins_period(format_args!("once more")));
        assert_eq!(state.end_period().as_deref(), Some("once more (1 times in 10 s)"));
        assert_eq!(state.end_period(), None);
        assert!(state.begins_period(format_args!("another day")));
    }
}
