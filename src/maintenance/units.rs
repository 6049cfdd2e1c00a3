//! Times, sizes and shares as people write and read them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const SPANS: [(&str, f64); 5] = [("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("m", 60.0), ("s", 1.0)];

/// A length of time: `90s`, `10m`, `1.5h`, `2d`, `500ms`; a bare number is seconds. `0` often means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    pub(crate) fn secs(self) -> f64 {
        self.0.as_secs_f64()
    }

    /// As PostgreSQL's time settings take it.
    pub(crate) fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Span, Self::Err> {
        const WANTED: &str = "expected a length of time such as 500ms, 90s, 10m, 1.5h or 2d";
        let text = text.trim();
        let (number, scale) = match text.strip_suffix("ms") {
            Some(number) => (number, 0.001),
            None => {
                SPANS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale))).unwrap_or((text, 1.0))
            }
        };
        let number: f64 = number.trim().parse().map_err(|_| WANTED)?;
        Duration::try_from_secs_f64(number * scale).map(Span).map_err(|_| WANTED)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&span_text(self.secs()))
    }
}

/// A length of time in at most two units.
pub(crate) fn span_text(secs: f64) -> String {
    if secs < 0.0 {
        return format!("-{}", span_text(-secs));
    }
    if secs == 0.0 {
        return "0s".to_owned();
    }
    if secs < 1.0 {
        return format!("{}ms", decimals(secs * 1000.0));
    }
    if secs < 59.95 {
        return format!("{}s", decimals(secs));
    }
    let whole = secs.round() as u64;
    let (days, hours, minutes, seconds) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    let units = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")];
    let first = units.iter().position(|(number, _)| *number > 0).unwrap_or(3);
    let shown = units[first..].iter().take(2).filter(|(number, _)| *number > 0);
    shown.map(|(number, unit)| format!("{number}{unit}")).collect()
}

/// One decimal where it tells something.
fn decimals(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

const SIZES: [(&str, u64); 4] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];

/// A number of bytes: `10MB`, `1.5GB`, `8192`. The units are PostgreSQL's, multiples of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Size, Self::Err> {
        const WANTED: &str = "expected a size such as 8192, 64kB, 10MB or 1.5GB";
        let text = text.trim();
        let ends = |unit: &str| {
            let split = text.len().checked_sub(unit.len())?;
            text.get(split..).is_some_and(|end| end.eq_ignore_ascii_case(unit)).then(|| &text[..split])
        };
        let (number, scale) = SIZES
            .iter()
            .find_map(|(unit, scale)| Some((ends(unit)?, *scale)))
            .unwrap_or((ends("B").unwrap_or(text), 1));
        let number: f64 = number.trim().parse().map_err(|_| WANTED)?;
        let bytes = number * scale as f64;
        // Beyond this, f64 has no whole numbers.
        if (0.0..9e15).contains(&bytes) { Ok(Size(bytes as u64)) } else { Err(WANTED) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES.iter().find(|(_, scale)| self.0 >= *scale) {
            Some((unit, scale)) => write!(f, "{} {unit}", decimals(self.0 as f64 / *scale as f64)),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// A share in percent, 0 to 100: `20` or `20%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Percent(pub(crate) f64);

impl FromStr for Percent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Percent, Self::Err> {
        let number = text.trim().trim_end_matches('%').trim_end().parse().ok();
        number.filter(|n| (0.0..=100.0).contains(n)).map(Percent).ok_or("expected a percentage from 0 to 100")
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", decimals(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, millis, shown) in [
            ("0", 0, "0s"),
            ("500ms", 500, "500ms"),
            ("90", 90_000, "1m30s"),
            ("90s", 90_000, "1m30s"),
            ("10m", 600_000, "10m"),
            ("10min", 600_000, "10m"),
            ("1.5h", 5_400_000, "1h30m"),
            ("2 d", 172_800_000, "2d"),
            ("25h", 90_000_000, "1d1h"),
            ("0.25s", 250, "250ms"),
            ("2.5s", 2500, "2.5s"),
        ] {
            let span: Span = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((span.millis(), span.to_string().as_str()), (millis, shown), "{text}");
        }
        for text in ["", "m", "ten", "-5s", "5 weeks", "1e400s", "NaN"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("0", 0, "0 B"),
            ("512", 512, "512 B"),
            ("8kb", 8192, "8 kB"),
            ("10MB", 10 << 20, "10 MB"),
            ("1.5 GB", 3 << 29, "1.5 GB"),
            ("2TB", 2 << 40, "2 TB"),
            ("1000B", 1000, "1000 B"),
        ] {
            let size: Size = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
        }
        for text in ["", "MB", "-1", "1PB", "ä", "NaN"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn percentages() {
        assert_eq!("20".parse(), Ok(Percent(20.0)));
        assert_eq!("99.5 %".parse::<Percent>().map(|p| p.to_string()), Ok("99.5 %".to_owned()));
        assert!("101".parse::<Percent>().is_err() && "-1".parse::<Percent>().is_err());
    }
}
