//! Time in whole microseconds since the process began, read once per loop turn by a worker.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static START: LazyLock<(Instant, SystemTime)> = LazyLock::new(|| (Instant::now(), SystemTime::now()));

/// Microseconds since the process began. Never 0, so that 0 can mean "not set".
pub(crate) fn now_us() -> u64 {
    START.0.elapsed().as_micros() as u64 + 1
}

/// The wall clock's microseconds since 1970 at `at_us` of this clock.
pub(crate) fn unix_us(at_us: u64) -> u64 {
    let start = START.1.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    start.as_micros() as u64 + at_us
}
