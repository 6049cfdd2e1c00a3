//! Time in whole microseconds, read once per loop turn by a worker. It is the system's monotonic clock, the
//! same in all processes: one that takes over from another goes on with its times.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// What the wall clock said when this one said 0.
static OFFSET_US: LazyLock<u64> = LazyLock::new(|| {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (wall.as_micros() as u64).saturating_sub(now_us())
});

/// Microseconds since some moment before the process began. Never 0, so that 0 can mean "not set".
pub(crate) fn now_us() -> u64 {
    // The clock is always there.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    now.as_micros() as u64 + 1
}

/// The wall clock's microseconds since 1970 at `at_us` of this clock.
pub(crate) fn unix_us(at_us: u64) -> u64 {
    *OFFSET_US + at_us
}
