//! The time of day in which something may run.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::maintenance::exit::Failure;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

const DAY_MINUTES: u32 = 24 * 60;

/// From a minute of the day to another, on the next day if that is not later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    from_minute: u32,
    to_minute: u32,
}

impl FromStr for Window {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Window, Self::Err> {
        const WANTED: &str = "expected two times of day such as 02:00-04:30 or 23:00-03:00";
        let (from, to) = text.split_once('-').ok_or(WANTED)?;
        let window = minute(from).zip(minute(to)).ok_or(WANTED)?;
        match window {
            (DAY_MINUTES, _) => Err(WANTED),
            (from, to) if from == to => Err("a window must be longer than 0; the whole day is 00:00-24:00"),
            (from_minute, to_minute) => Ok(Window { from_minute, to_minute }),
        }
    }
}

/// Of `HH:MM`, to 24:00.
fn minute(text: &str) -> Option<u32> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |text: &str| {
        let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse::<u32>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = 60 * hours + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{}", clock(self.from_minute), clock(self.to_minute))
    }
}

impl Window {
    /// What is left of it at this second of the day; None: it is closed.
    fn left(self, second: f64) -> Option<Duration> {
        let (from, to) = (f64::from(self.from_minute) * 60.0, f64::from(self.to_minute) * 60.0);
        let day = f64::from(DAY_MINUTES) * 60.0;
        let is_next_day = to <= from;
        let left = match second {
            now if !is_next_day => (now >= from && now < to).then_some(to - now),
            now if now >= from => Some(day - now + to),
            now => (now < to).then_some(to - now),
        };
        left.map(Duration::from_secs_f64)
    }
}

/// A window on the clock of a place.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) window: Window,
    /// None: the server's.
    pub(super) time_zone: Option<String>,
}

row! {
    Now {
        second: f64,
        shown: String,
    }
}

impl Opening {
    /// What is left of it. A refusal tells what the clock says there.
    pub(super) async fn left(&self, server: &Server) -> Result<Duration, Failure> {
        let now: Now = server.one(NOW, &[&self.time_zone]).await?;
        let closed = || {
            Failure::refused(format!("the window {} is closed: it is {} now", self.window, now.shown))
                .hint("--time-zone names the zone of the window, which is the server's otherwise")
        };
        self.window.left(now.second).ok_or_else(closed)
    }
}

const NOW: &str = "
    select extract(epoch from here::time)::float8 as second, to_char(here, 'HH24:MI ') || zone as shown
    from (select coalesce($1::text, current_setting('TimeZone')) as zone) z
         cross join lateral (select clock_timestamp() at time zone zone as here) t";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let left = |window: &str, hour: f64| {
            let window: Window = window.parse().unwrap();
            window.left(hour * 3600.0).map(|left| left.as_secs())
        };
        assert_eq!(left("02:00-04:30", 1.9), None);
        assert_eq!(left("02:00-04:30", 2.0), Some(9000));
        assert_eq!(left("02:00-04:30", 4.5), None);
        assert_eq!(left("23:00-3:00", 23.5), Some(12600));
        assert_eq!(left("23:00-3:00", 2.0), Some(3600));
        assert_eq!(left("23:00-3:00", 12.0), None);
        assert_eq!(left("00:00-24:00", 0.0), Some(86400));
        assert_eq!(left("20:00-00:00", 21.0), Some(10800));
        for text in
            ["", "2-4", "02:00", "02:60-03:00", "24:00-01:00", "25:00-26:00", "03:00-03:00", "-1:00-2:00", "+1:00-2:00"]
        {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
        assert_eq!("2:00-24:00".parse::<Window>().unwrap().to_string(), "02:00-24:00");
    }
}
