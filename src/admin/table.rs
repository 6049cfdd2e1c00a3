//! Results: rows of text under the columns of a SHOW.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::columns::Columns;
use crate::net::clock;

/// A result, the rows not yet in the form that the client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: Columns,
    pub(super) rows: Vec<Row>,
}

/// A cell for each column.
pub(super) type Row = Vec<Cell>;

/// One value in text form; `None` is NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell(pub(super) Option<String>);

/// A row of whatever has a text form.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($crate::admin::table::Cell::from($cell)),*] };
}
pub(super) use row;

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell(Some(text.to_owned()))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell(Some(text))
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Cell {
        Cell(Some(number.to_string()))
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Cell {
        Cell(Some(number.to_string()))
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Cell {
        Cell(Some(number.to_string()))
    }
}

impl From<bool> for Cell {
    fn from(switch: bool) -> Cell {
        Cell::from(u32::from(switch))
    }
}

impl<T> From<Option<T>> for Cell
where
    Cell: From<T>,
{
    fn from(value: Option<T>) -> Cell {
        Cell(value.and_then(|value| Cell::from(value).0))
    }
}

/// A moment of the process clock, as `2026-11-21 09:18:14 UTC` in the system's time zone.
pub(super) fn timestamp(at_us: u64) -> String {
    unix_timestamp(clock::unix_us(at_us))
}

/// The same of a moment by the calendar's clock.
pub(super) fn unix_timestamp(unix_us: u64) -> String {
    timestamp_in(unix_us, TimeZone::system())
}

fn timestamp_in(unix_us: u64, zone: TimeZone) -> String {
    let at = i64::try_from(unix_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    at.unwrap_or_default().to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_a_text_form() {
        let row = row!["a", 7_u32, 8_u64, true, None::<&str>, Some("b".to_owned())];
        let texts: Vec<Option<&str>> = row.iter().map(|cell| cell.0.as_deref()).collect();
        assert_eq!(texts, [Some("a"), Some("7"), Some("8"), Some("1"), None, Some("b")]);
    }

    #[test]
    fn timestamps_are_pgbouncers() {
        assert_eq!(timestamp_in(1_795_252_694_999_999, TimeZone::UTC), "2026-11-21 09:18:14 UTC");
        assert_eq!(timestamp_in(u64::MAX, TimeZone::UTC), "1970-01-01 00:00:00 UTC");
    }
}
