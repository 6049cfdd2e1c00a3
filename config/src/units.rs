//! The forms that values take as text: numbers, switches, durations, lists and named choices.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// An enum whose variants have the names that PgBouncer gives them in its files.
pub trait Named: Copy + PartialEq + 'static {
    /// Every variant, in the order in which help texts list them.
    const ALL: &'static [Self];

    /// The name as written in a configuration file.
    fn name(self) -> &'static str;

    /// The variant of that name. Like PgBouncer, without regard to case.
    fn from_name(name: &str) -> Option<Self> {
        let same = |variant: &&Self| variant.name().eq_ignore_ascii_case(name);
        Self::ALL.iter().find(same).copied()
    }
}

macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl Named for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// When a server connection goes back to its pool.
    PoolMode {
        Session = "session",
        Transaction = "transaction",
        Statement = "statement",
    }
}

named! {
    /// How a client proves who it is.
    AuthType {
        Any = "any",
        Trust = "trust",
        Plain = "plain",
        Md5 = "md5",
        ScramSha256 = "scram-sha-256",
        Cert = "cert",
        Hba = "hba",
        Ldap = "ldap",
        Pam = "pam",
    }
}

named! {
    /// How much TLS is asked for, towards clients or servers.
    SslMode {
        Disable = "disable",
        Allow = "allow",
        Prefer = "prefer",
        Require = "require",
        VerifyCa = "verify-ca",
        VerifyFull = "verify-full",
    }
}

named! {
    /// How TLS towards servers begins.
    SslNegotiation {
        /// The server is asked first.
        Postgres = "postgres",
        /// At once (PostgreSQL 17).
        Direct = "direct",
    }
}

named! {
    /// Which entry of a host list a new server connection takes.
    LoadBalanceHosts {
        /// The same one until it fails.
        Disable = "disable",
        /// The next one each time.
        RoundRobin = "round-robin",
    }
}

named! {
    /// The newest version of the protocol that servers are asked for.
    ServerMaxProtocolVersion {
        V3_0 = "3.0",
        /// Longer cancel keys (PostgreSQL 18).
        V3_2 = "3.2",
    }
}

named! {
    /// Under which heading syslog files our lines.
    SyslogFacility {
        Auth = "auth",
        Authpriv = "authpriv",
        Daemon = "daemon",
        User = "user",
        Local0 = "local0",
        Local1 = "local1",
        Local2 = "local2",
        Local3 = "local3",
        Local4 = "local4",
        Local5 = "local5",
        Local6 = "local6",
        Local7 = "local7",
    }
}

named! {
    /// Which codes errors of our own have.
    SqlStates {
        Precise = "precise",
        Pgbouncer = "pgbouncer",
    }
}

named! {
    /// How log lines look.
    LogFormat {
        Text = "text",
        Json = "json",
    }
}

/// How many threads relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One, and more up to the number of cores while they are busy.
    Auto,
    /// Exactly so many.
    Count(u32),
}

/// A list as written, with its entries: `SHOW CONFIG` shows the text, the rest of us use the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    text: String,
    entries: Vec<String>,
}

impl List {
    /// Entries are separated by commas or white space; PgBouncer takes both.
    pub fn parse(text: &str) -> List {
        let separator = |c: char| c == ',' || c.is_ascii_whitespace();
        let entries = text.split(separator).filter(|entry| !entry.is_empty());
        List { text: text.to_owned(), entries: entries.map(str::to_owned).collect() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn has(&self, entry: &str) -> bool {
        self.entries.iter().any(|e| e == entry)
    }
}

impl Deref for List {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.entries
    }
}

/// Where a PostgreSQL server or a peer listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostAddr {
    /// A name or an address, for TCP.
    Tcp(String),
    /// The directory of a Unix socket; `@` in front means the abstract namespace.
    Unix(String),
}

impl HostAddr {
    pub fn parse(text: &str) -> HostAddr {
        if text.starts_with(['/', '@']) { HostAddr::Unix(text.to_owned()) } else { HostAddr::Tcp(text.to_owned()) }
    }

    pub fn as_str(&self) -> &str {
        match self {
            HostAddr::Tcp(host) => host,
            HostAddr::Unix(dir) => dir,
        }
    }
}

impl fmt::Display for HostAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A whole number as C's `strtol` with base 0 reads it: `0x` means hexadecimal, a leading `0` octal.
pub(crate) fn parse_c_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let hexadecimal = digits.strip_prefix("0x").or(digits.strip_prefix("0X"));
    let magnitude = match hexadecimal {
        Some(hex) => i64::from_str_radix(hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    let magnitude = magnitude.ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

/// A switch: the words for yes and no, or a number of which only 0 means no.
pub(crate) fn parse_switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "yes" | "true" => Some(true),
        "off" | "no" | "false" => Some(false),
        number => parse_c_integer(number).map(|n| n != 0),
    }
}

/// Units a duration may carry, with their length in seconds.
const DURATION_UNITS: [(&str, f64); 6] =
    [("us", 1e-6), ("ms", 1e-3), ("min", 60.0), ("s", 1.0), ("h", 3600.0), ("d", 86400.0)];

/// A duration: a number, taken in `unit_s` seconds, or a number with a unit of its own such as `15s`, `200ms` or `5min`.
/// PgBouncer takes bare numbers only; the units are ours, in every kind of file.
pub(crate) fn parse_duration(text: &str, unit_s: f64) -> Option<Duration> {
    let with_unit = |(suffix, length_s): (&str, f64)| {
        let number = text.strip_suffix(suffix)?.trim_end();
        number.ends_with(|c: char| c.is_ascii_digit() || c == '.').then_some((number, length_s))
    };
    let (number, length_s) = DURATION_UNITS.into_iter().find_map(with_unit).unwrap_or((text, unit_s));
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * length_s).ok()
}

/// Seconds as PgBouncer prints them, that is as C's `%g`: six significant digits at most, no trailing zeros.
pub(crate) fn show_seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let scientific = format!("{seconds:.5e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return trim_zeros(&format!("{seconds:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim_zeros(mantissa), exponent.abs())
}

/// Cuts what follows the last digit that matters of a decimal fraction.
fn trim_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// Reads up to the closing quote, where a doubled quote stands for one. Returns the content and what is behind the quote.
pub(crate) fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut rest = text;
    loop {
        let (before, behind) = rest.split_once(quote)?;
        content.push_str(before);
        match behind.strip_prefix(quote) {
            Some(further) => {
                content.push(quote);
                rest = further;
            }
            None => return Some((content, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_c_reads_them() {
        let read = [("0", 0), ("0777", 0o777), ("0x10", 16), ("-1", -1), ("+5", 5), ("128", 128)];
        for (text, value) in read {
            assert_eq!(parse_c_integer(text), Some(value), "{text}");
        }
        for text in ["", "-", "08", "1 ", "1s", "--1", "-+1", "+-1", "0x", "99999999999999999999"] {
            assert_eq!(parse_c_integer(text), None, "{text:?}");
        }
    }

    #[test]
    fn switches() {
        for text in ["1", "on", "YES", "True", "45"] {
            assert_eq!(parse_switch(text), Some(true), "{text}");
        }
        for text in ["0", "off", "No", "false"] {
            assert_eq!(parse_switch(text), Some(false), "{text}");
        }
        assert_eq!(parse_switch("maybe"), None);
        assert_eq!(parse_switch(""), None);
    }

    #[test]
    fn durations_with_and_without_a_unit() {
        let read = [
            ("15", 15_000_000),
            ("0.5", 500_000),
            ("15s", 15_000_000),
            ("200ms", 200_000),
            ("5min", 300_000_000),
            ("1 h", 3_600_000_000),
            ("2d", 172_800_000_000),
            ("7us", 7),
            ("0", 0),
        ];
        for (text, us) in read {
            assert_eq!(parse_duration(text, 1.0), Some(Duration::from_micros(us)), "{text}");
        }
        assert_eq!(parse_duration("250", 1e-3), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("5s", 1e-3), Some(Duration::from_secs(5)));
        for text in ["", "s", "-1", "inf", "nan", "infs", "5 parsecs", "1e400", "ms"] {
            assert_eq!(parse_duration(text, 1.0), None, "{text:?}");
        }
    }

    #[test]
    fn seconds_as_printf_g() {
        let shown = [
            (Duration::ZERO, "0"),
            (Duration::from_secs(3600), "3600"),
            (Duration::from_millis(500), "0.5"),
            (Duration::from_micros(200), "0.0002"),
            (Duration::from_micros(20), "2e-05"),
            (Duration::from_secs(999_999), "999999"),
            (Duration::from_secs(1_000_000), "1e+06"),
            (Duration::from_secs(1_234_567), "1.23457e+06"),
            (Duration::from_millis(15_250), "15.25"),
        ];
        for (duration, text) in shown {
            assert_eq!(show_seconds(duration), text);
        }
    }

    #[test]
    fn names_without_regard_to_case() {
        assert_eq!(PoolMode::from_name("Transaction"), Some(PoolMode::Transaction));
        assert_eq!(AuthType::from_name("scram-sha-256"), Some(AuthType::ScramSha256));
        assert_eq!(PoolMode::from_name("trans"), None);
        assert_eq!(LoadBalanceHosts::RoundRobin.to_string(), "round-robin");
    }

    #[test]
    fn lists_keep_their_text() {
        let list = List::parse("127.0.0.1, ::1");
        assert_eq!(list.text(), "127.0.0.1, ::1");
        assert_eq!(list.to_vec(), ["127.0.0.1", "::1"]);
        assert!(List::parse("bob alice").has("alice"));
        assert!(List::parse(" , ").is_empty());
    }

    #[test]
    fn quoted_text() {
        let read = |text| unquote(text, '"');
        assert_eq!(read("a\"\"b\" rest"), Some(("a\"b".to_owned(), " rest")));
        assert_eq!(read("\"rest"), Some((String::new(), "rest")));
        assert_eq!(read("\"\""), None);
        assert_eq!(read("open"), None);
    }

    #[test]
    fn hosts() {
        assert_eq!(HostAddr::parse("/run/pg"), HostAddr::Unix("/run/pg".into()));
        assert_eq!(HostAddr::parse("@pg"), HostAddr::Unix("@pg".into()));
        assert_eq!(HostAddr::parse("::1"), HostAddr::Tcp("::1".into()));
    }
}
