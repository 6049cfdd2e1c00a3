//! Log lines about what strangers can bring about as often as they like.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::log::{self, Level};

const PERIOD: Duration = Duration::from_secs(10);

/// Writes the first such line at once, and then one in ten seconds, which says how many it stands for.
pub(crate) struct Throttle {
    /// Where the lines of later periods are written.
    control: Handle,
    /// Locked for a few assignments.
    state: Mutex<State>,
}

#[derive(Default)]
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
        let mut state = self.state();
        if state.is_running {
            state.held_back += 1;
            state.latest = text.to_string();
            return;
        }
        state.is_running = true;
        drop(state);
        log::write(Level::Warning, text);
        self.control.spawn(Arc::clone(self).run());
    }

    /// Goes on until nothing was held back in a period.
    async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let (held_back, latest) = {
                let mut state = self.state();
                state.is_running = state.held_back > 0;
                (std::mem::take(&mut state.held_back), std::mem::take(&mut state.latest))
            };
            if held_back == 0 {
                return;
            }
            log::write(Level::Warning, format_args!("{latest} ({held_back} times in {} s)", PERIOD.as_secs()));
        }
    }
}
