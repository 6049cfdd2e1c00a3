//! Cron expressions, and when they come true in a time zone.

use std::fmt;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

/// Leap days may be eight years apart; an expression that has not come true by then never does.
const YEARS_MAX: i16 = 9;

/// One field: what it may hold, from the first number to the last.
struct Field {
    first: u8,
    last: u8,
    /// Names of the numbers, from `first` on.
    names: &'static [&'static str],
}

const SECOND: Field = Field { first: 0, last: 59, names: &[] };
const MINUTE: Field = Field { first: 0, last: 59, names: &[] };
const HOUR: Field = Field { first: 0, last: 23, names: &[] };
const DAY: Field = Field { first: 1, last: 31, names: &[] };
const MONTH: Field = Field {
    first: 1,
    last: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
/// Sunday is 0 and 7.
const WEEKDAY: Field = Field { first: 0, last: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"] };

const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// A cron expression: minute, hour, day of the month, month, day of the week, with seconds in front if there are six fields.
#[derive(Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    /// A bit for each number.
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Days of the month and of the week are both restricted: either suffices, as cron has it.
    is_either_day: bool,
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({})", self.text)
    }
}

impl Cron {
    /// None: it is no cron expression, or one that never comes true.
    pub fn parse(text: &str) -> Option<Cron> {
        let text = text.trim();
        let nickname = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let fields: Vec<&str> = nickname.map_or(text, |(_, meaning)| meaning).split_whitespace().collect();
        let (seconds, rest) = match fields.len() {
            5 => (1, &fields[..]),
            6 => (SECOND.parse(fields[0])?, &fields[1..]),
            _ => return None,
        };
        let weekdays = WEEKDAY.parse(rest[4])?;
        let cron = Cron {
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
            seconds,
            minutes: MINUTE.parse(rest[0])?,
            hours: HOUR.parse(rest[1])?,
            days: DAY.parse(rest[2])?,
            months: MONTH.parse(rest[3])?,
            weekdays: weekdays | weekdays >> 7 & 1,
            is_either_day: !rest[2].starts_with('*') && !rest[4].starts_with('*'),
        };
        let any = DateTime::constant(2024, 1, 1, 0, 0, 0, 0);
        cron.next_local(any).is_some().then_some(cron)
    }

    /// The first moment after `after` at which it comes true; None: never again.
    ///
    /// Where a clock is put forward, what would have come in the hour that there is not comes once, right after it. Where it is
    /// put back, what comes in the hour that there is twice comes in the first of them; but what comes in every hour of the day
    /// comes in both.
    pub fn next_after(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        if self.hours == HOUR.all() { self.next_elapsed(zone, after) } else { self.next_of_day(zone, after) }
    }

    /// By times of the day.
    fn next_of_day(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let mut local = zone.to_datetime(after);
        loop {
            local = self.next_local(local)?;
            let ambiguous = zone.to_ambiguous_timestamp(local);
            let at = match ambiguous.offset() {
                AmbiguousOffset::Gap { after: offset, .. } => {
                    let before = offset.to_timestamp(local).ok()?;
                    zone.following(before).next()?.timestamp()
                }
                _ => ambiguous.compatible().ok()?,
            };
            if at > after {
                return Some(at);
            }
        }
    }

    /// By the time that passes: an hour is as good as any other, whatever it is called.
    fn next_elapsed(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let mut from = after;
        loop {
            let offset = zone.to_offset(from);
            let at = offset.to_timestamp(self.next_local(offset.to_datetime(from))?).ok()?;
            match zone.following(from).next().map(|change| change.timestamp()) {
                // From then on the clock shows something else.
                Some(change) if change <= at => {
                    let offset = zone.to_offset(change);
                    let shown = offset.to_datetime(change);
                    if self.is_true(shown) {
                        return Some(change);
                    }
                    from = change;
                }
                _ => return Some(at),
            }
        }
    }

    fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        if self.is_either_day { day || weekday } else { day && weekday }
    }

    fn is_true(&self, local: DateTime) -> bool {
        let time =
            has(self.hours, local.hour()) && has(self.minutes, local.minute()) && has(self.seconds, local.second());
        has(self.months, local.month()) && self.has_day(local.date()) && time
    }

    /// The first time after `after` on a clock that is never put forward or back.
    fn next_local(&self, after: DateTime) -> Option<DateTime> {
        let mut date = after.date();
        let mut time = self.next_time(after.hour(), after.minute(), after.second());
        let last_year = after.year().checked_add(YEARS_MAX)?;
        while date.year() <= last_year {
            if !has(self.months, date.month()) {
                date = date.first_of_month().checked_add(1.month()).ok()?;
            } else if let Some((hour, minute, second)) = time.filter(|_| self.has_day(date)) {
                return Some(date.at(hour, minute, second, 0));
            } else {
                date = date.tomorrow().ok()?;
            }
            time = Some(self.first_time());
        }
        None
    }

    fn first_time(&self) -> (i8, i8, i8) {
        (lowest(self.hours), lowest(self.minutes), lowest(self.seconds))
    }

    /// The first time of the same day after this one.
    fn next_time(&self, hour: i8, minute: i8, second: i8) -> Option<(i8, i8, i8)> {
        let (_, first_minute, first_second) = self.first_time();
        let is_this_hour = has(self.hours, hour);
        if is_this_hour
            && has(self.minutes, minute)
            && let Some(next) = above(self.seconds, second)
        {
            return Some((hour, minute, next));
        }
        if is_this_hour && let Some(next) = above(self.minutes, minute) {
            return Some((hour, next, first_second));
        }
        above(self.hours, hour).map(|next| (next, first_minute, first_second))
    }
}

fn has(bits: u64, number: i8) -> bool {
    bits >> number & 1 == 1
}

/// The lowest number; there always is one.
fn lowest(bits: u64) -> i8 {
    bits.trailing_zeros() as i8
}

/// The lowest number above another one, which is below 63.
fn above(bits: u64, number: i8) -> Option<i8> {
    let rest = bits >> (number + 1) << (number + 1);
    (rest != 0).then(|| lowest(rest))
}

impl Field {
    fn all(&self) -> u64 {
        self.range(self.first, self.last, 1)
    }

    fn range(&self, from: u8, to: u8, step: usize) -> u64 {
        (from..=to).step_by(step).fold(0, |bits, number| bits | 1 << number)
    }

    fn number(&self, text: &str) -> Option<u8> {
        let name = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = match name {
            Some(index) => self.first + u8::try_from(index).ok()?,
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok()?,
            None => return None,
        };
        (self.first..=self.last).contains(&number).then_some(number)
    }

    /// `*`, `*/5`, `7`, `1-5`, `1-59/2`, `10/20`, and lists of these.
    fn parse(&self, text: &str) -> Option<u64> {
        text.split(',').try_fold(0, |bits, part| {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(step.parse::<u8>().ok().filter(|step| *step > 0)?)),
                None => (part, None),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (self.first, self.last),
                Some((from, to)) => match (self.number(from)?, self.number(to)?) {
                    // Until Sunday, by its name.
                    (from, 0) if from > 0 && self.last == WEEKDAY.last => (from, self.last),
                    range => range,
                },
                // From there to the end.
                None if step.is_some() => (self.number(range)?, self.last),
                None => (self.number(range)?, self.number(range)?),
            };
            (from <= to).then(|| bits | self.range(from, to, usize::from(step.unwrap_or(1))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(text: &str) -> Cron {
        Cron::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    /// The next `count` times after a moment, each in local time.
    fn times(text: &str, zone_name: &str, after: &str, count: usize) -> Vec<String> {
        let (cron, zone) = (cron(text), zone(zone_name));
        let mut at: Timestamp = after.parse().unwrap();
        let mut found = Vec::new();
        while found.len() < count {
            at = cron.next_after(&zone, at).unwrap();
            found.push(at.to_zoned(zone.clone()).strftime("%m-%d %H:%M:%S %:z").to_string());
        }
        found
    }

    #[test]
    fn expressions() {
        for (text, wanted) in [
            ("0 2 * * *", ["01-02 02:00:00", "01-03 02:00:00"]),
            ("*/20 * * * *", ["01-01 12:40:00", "01-01 13:00:00"]),
            ("10/25 12 * * *", ["01-01 12:35:00", "01-02 12:10:00"]),
            ("0 2 * * 0", ["01-07 02:00:00", "01-14 02:00:00"]),
            ("0 2 * * 7", ["01-07 02:00:00", "01-14 02:00:00"]),
            ("0 2 * * sat-SUN,mon", ["01-06 02:00:00", "01-07 02:00:00"]),
            ("0 2 1 */3 *", ["04-01 02:00:00", "07-01 02:00:00"]),
            ("0 0 31 * *", ["01-31 00:00:00", "03-31 00:00:00"]),
            ("0 0 13 * 5", ["01-05 00:00:00", "01-12 00:00:00"]),
            ("0 0 */2 * 5", ["01-05 00:00:00", "01-19 00:00:00"]),
            ("*/10 * * * * *", ["01-01 12:34:00", "01-01 12:34:10"]),
            ("5,7 34 12 1 1 *", ["01-01 12:34:05", "01-01 12:34:07"]),
            ("@hourly", ["01-01 13:00:00", "01-01 14:00:00"]),
            ("@Monthly", ["02-01 00:00:00", "03-01 00:00:00"]),
            ("0 0 29 feb *", ["02-29 00:00:00", "02-29 00:00:00"]),
        ] {
            // A Monday.
            let found = times(text, "UTC", "2024-01-01T12:33:59.5Z", 2);
            let wanted: Vec<String> = wanted.iter().map(|time| format!("{time} +00:00")).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression() {
        for text in [
            "",
            "* * * *",
            "* * * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "5-0 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "-1 * * * *",
            "+1 * * * *",
            "1, * * * *",
            "1-2-3 * * * *",
            "@often",
            "0 0 30 2 *",
            "0 0 31 4,6 *",
            "* * ? * *",
            "* * * * mon-",
            "1/ * * * *",
        ] {
            assert_eq!(Cron::parse(text), None, "{text}");
        }
        assert_eq!(cron(" 0  2\t* * * ").to_string(), "0 2 * * *");
    }

    #[test]
    fn a_time_that_there_is_not_comes_once_right_after() {
        // 02:00 is followed by 03:00.
        let berlin = |text, count| times(text, "Europe/Berlin", "2024-03-30T12:00:00Z", count);
        let wanted = ["03-31 03:00:00 +02:00", "04-01 02:30:00 +02:00"];
        assert_eq!(berlin("30 2 * * *", 2), wanted);
        let wanted =
            ["03-31 01:30:00 +01:00", "03-31 03:00:00 +02:00", "03-31 03:30:00 +02:00", "04-01 01:00:00 +02:00"];
        assert_eq!(berlin("0,30 1-3 * * *", 5)[1..], wanted);
        // Both would be at that moment: once.
        assert_eq!(berlin("45 2 31 3 *", 1), ["03-31 03:00:00 +02:00"]);
        assert_eq!(berlin("*/50 2,3 31 3 *", 2), ["03-31 03:00:00 +02:00", "03-31 03:50:00 +02:00"]);
        // A zone that leaves out half an hour, and one that left out a day.
        let lord_howe = times("15 2 * * *", "Australia/Lord_Howe", "2024-10-05T00:00:00Z", 2);
        assert_eq!(lord_howe, ["10-06 02:30:00 +11:00", "10-07 02:15:00 +11:00"]);
        let apia = times("0 12 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", 2);
        assert_eq!(apia, ["12-31 00:00:00 +14:00", "12-30 12:00:00 +14:00"]);
    }

    #[test]
    fn a_time_that_there_is_twice_comes_once() {
        // 03:00 is followed by 02:00.
        let berlin = |text, after, count| times(text, "Europe/Berlin", after, count);
        let wanted = ["10-27 02:30:00 +02:00", "10-28 02:30:00 +01:00"];
        assert_eq!(berlin("30 2 * * *", "2024-10-26T12:00:00Z", 2), wanted);
        // Asked between the two.
        assert_eq!(berlin("30 2 * * *", "2024-10-27T00:45:00Z", 1), ["10-28 02:30:00 +01:00"]);
        assert_eq!(berlin("30 2 * * *", "2024-10-27T01:10:00Z", 1), ["10-28 02:30:00 +01:00"]);
    }

    #[test]
    fn what_comes_every_hour_goes_by_the_time_that_passes() {
        let wanted = [
            "10-27 01:30:00 +02:00",
            "10-27 02:00:00 +02:00",
            "10-27 02:30:00 +02:00",
            "10-27 02:00:00 +01:00",
            "10-27 02:30:00 +01:00",
            "10-27 03:00:00 +01:00",
        ];
        assert_eq!(times("*/30 * * * *", "Europe/Berlin", "2024-10-26T23:00:00Z", 6), wanted);
        let wanted = ["03-31 01:40:00 +01:00", "03-31 03:10:00 +02:00", "03-31 03:40:00 +02:00"];
        assert_eq!(times("10,40 * * * *", "Europe/Berlin", "2024-03-31T00:10:00Z", 3), wanted);
        let wanted = ["03-31 01:00:00 +01:00", "03-31 03:00:00 +02:00"];
        assert_eq!(times("@hourly", "Europe/Berlin", "2024-03-30T23:00:00Z", 2), wanted);
    }

    #[test]
    fn every_time_is_later_than_the_one_before() {
        for text in ["*/7 * * * *", "30 2 * * *", "0,59 0-5 * * *", "0 3 * * sun", "* * * * * *"] {
            for name in ["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "UTC"] {
                for start in
                    ["2024-03-30T22:00:00Z", "2024-10-05T12:00:00Z", "2024-10-26T22:00:00Z", "2024-03-10T00:00:00Z"]
                {
                    let (cron, zone) = (cron(text), zone(name));
                    let mut at: Timestamp = start.parse().unwrap();
                    for _ in 0..300 {
                        let next = cron.next_after(&zone, at).unwrap();
                        assert!(next > at, "{text} {name} {at}");
                        at = next;
                    }
                }
            }
        }
    }
}
