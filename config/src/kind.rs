//! How each kind of setting is read and shown. A table row names its kind, and the kind decides the type of the field.

// Addresses as values; there is no socket in here.
use core::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::cron::Cron;
use crate::network::Network;
use crate::secret::{MASK, Secret};
use crate::units::{self, HostAddr, List, Named, Workers};

/// The name of the console, which no server database can have.
pub const CONSOLE_DATABASE: &str = "pgbouncer";

/// One kind of setting.
pub trait Kind {
    type Value: Clone + PartialEq;

    /// The value that `text` stands for; None if it stands for nothing of this kind.
    fn parse(text: &str) -> Option<Self::Value>;

    /// As `SHOW CONFIG` prints it; None where nothing is set.
    fn show(value: &Self::Value) -> Option<String>;

    /// As a file would have it: [`Kind::parse`] reads it back.
    fn write(value: &Self::Value) -> Option<String> {
        Self::show(value)
    }

    /// What [`Kind::parse`] takes, to complete a sentence that begins with "expected".
    fn accepts() -> String;

    /// Whether the value must never be printed.
    const SECRET: bool = false;
}

/// A program's arguments: words separated by spaces, or in double or single quotes, which are doubled inside.
pub struct CommandLine;

impl Kind for CommandLine {
    type Value = Vec<String>;

    fn parse(text: &str) -> Option<Vec<String>> {
        let mut words = Vec::new();
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let (word, behind) = match first {
                '"' | '\'' => units::unquote(&rest[1..], first)?,
                _ => {
                    let (word, behind) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
                    (word.to_owned(), behind)
                }
            };
            if !behind.is_empty() && !behind.starts_with(char::is_whitespace) {
                return None;
            }
            words.push(word);
            rest = behind.trim_start();
        }
        // As in an ini file, it is one line.
        (!words.is_empty() && !text.contains('\n')).then_some(words)
    }

    fn show(words: &Vec<String>) -> Option<String> {
        let quoted = |word: &String| match word {
            word if word.is_empty() || word.starts_with(['"', '\'']) || word.contains(char::is_whitespace) => {
                format!("\"{}\"", word.replace('"', "\"\""))
            }
            word => word.clone(),
        };
        Some(words.iter().map(quoted).collect::<Vec<_>>().join(" "))
    }

    fn accepts() -> String {
        "words separated by spaces; one with spaces in double quotes".into()
    }
}

pub struct CronExpression;

impl Kind for CronExpression {
    type Value = Cron;

    fn parse(text: &str) -> Option<Cron> {
        Cron::parse(text)
    }

    fn show(value: &Cron) -> Option<String> {
        Some(value.to_string())
    }

    fn accepts() -> String {
        "a cron expression of five fields, or six with seconds in front, that comes true some day, or @hourly, @daily, @weekly, @monthly or @yearly".into()
    }
}

/// A time zone, as it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    name: String,
    pub zone: TimeZone,
}

impl Zone {
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The name of a time zone.
pub struct TimeZoneName;

impl Kind for TimeZoneName {
    type Value = Zone;

    fn parse(text: &str) -> Option<Zone> {
        let zone = TimeZone::get(text).ok()?;
        Some(Zone { name: zone.iana_name().unwrap_or(text).to_owned(), zone })
    }

    fn show(value: &Zone) -> Option<String> {
        Some(value.name.clone())
    }

    fn accepts() -> String {
        "the name of a time zone, such as UTC or Europe/Berlin".into()
    }
}

/// A length of time in seconds, in which `m` is minutes, too, as in the maintenance commands' flags.
pub struct Span;

impl Kind for Span {
    type Value = Duration;

    fn parse(text: &str) -> Option<Duration> {
        let minutes = text.strip_suffix('m').filter(|number| number.ends_with(|c: char| c.is_ascii_digit()));
        match minutes {
            Some(number) => units::parse_duration(&format!("{number}min"), 1.0),
            None => units::parse_duration(text, 1.0),
        }
    }

    fn show(value: &Duration) -> Option<String> {
        Some(units::show_seconds(*value))
    }

    fn write(value: &Duration) -> Option<String> {
        Seconds::write(value)
    }

    fn accepts() -> String {
        "a number of seconds, or a number with ms, s, m, h or d behind it".into()
    }
}

/// A switch, shown as 0 or 1.
pub struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn parse(text: &str) -> Option<bool> {
        units::parse_switch(text)
    }

    fn show(value: &bool) -> Option<String> {
        Some(u8::from(*value).to_string())
    }

    fn accepts() -> String {
        "1, 0, on, off, yes, no, true or false".into()
    }
}

/// A whole number of a range. `C` reads it as C does with base 0, which PgBouncer does for settings; without, the number is
/// decimal whatever it begins with, which PgBouncer does inside connection strings.
pub struct Number<const MIN: u32, const MAX: u32, const C: bool>;

impl<const MIN: u32, const MAX: u32, const C: bool> Kind for Number<MIN, MAX, C> {
    type Value = u32;

    fn parse(text: &str) -> Option<u32> {
        let number = if C { units::parse_c_integer(text)? } else { text.parse().ok()? };
        u32::try_from(number).ok().filter(|n| (MIN..=MAX).contains(n))
    }

    fn show(value: &u32) -> Option<String> {
        Some(value.to_string())
    }

    fn accepts() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }
}

const INT_MAX: u32 = i32::MAX.unsigned_abs();

/// A number of things, in a setting.
pub(crate) type Count = Number<0, INT_MAX, true>;
/// A number of things of which there must be one at least, in a setting.
pub(crate) type Positive = Number<1, INT_MAX, true>;
/// A number of bytes as large as PgBouncer's unsigned int.
pub(crate) type Bytes = Number<1, { u32::MAX }, true>;
/// A TCP port, 0 for none.
pub(crate) type PortOrNone = Number<0, 65535, true>;
/// What may be a peer's number, 0 for none.
pub(crate) type PeerId = Number<0, 16383, true>;
/// A number of things, inside a connection string.
pub(crate) type EntryCount = Number<0, INT_MAX, false>;

/// How much to log; nothing is 0.
pub struct Verbosity;

impl Kind for Verbosity {
    type Value = u32;

    fn parse(text: &str) -> Option<u32> {
        if text.is_empty() { Some(0) } else { Count::parse(text) }
    }

    fn show(value: &u32) -> Option<String> {
        Some(value.to_string())
    }

    fn accepts() -> String {
        Count::accepts()
    }
}

/// A TCP port; also the number in a Unix socket's name. Decimal if `C` is false, see [`Number`].
pub struct Port<const C: bool>;

impl<const C: bool> Kind for Port<C> {
    type Value = u16;

    fn parse(text: &str) -> Option<u16> {
        let number = Number::<1, 65535, C>::parse(text)?;
        u16::try_from(number).ok()
    }

    fn show(value: &u16) -> Option<String> {
        Some(value.to_string())
    }

    fn accepts() -> String {
        "a port from 1 to 65535".into()
    }
}

/// Permission bits. `SHOW CONFIG` prints them in decimal because PgBouncer does.
pub struct FileMode;

impl Kind for FileMode {
    type Value = u32;

    fn parse(text: &str) -> Option<u32> {
        Number::<0, 0o7777, true>::parse(text)
    }

    fn show(value: &u32) -> Option<String> {
        Some(value.to_string())
    }

    fn write(value: &u32) -> Option<String> {
        Some(format!("0{value:03o}"))
    }

    fn accepts() -> String {
        "permissions in octal with a leading 0, such as 0770".into()
    }
}

/// A time in seconds with fractions.
pub struct Seconds;

impl Kind for Seconds {
    type Value = Duration;

    fn parse(text: &str) -> Option<Duration> {
        units::parse_duration(text, 1.0)
    }

    fn show(value: &Duration) -> Option<String> {
        Some(units::show_seconds(*value))
    }

    fn write(value: &Duration) -> Option<String> {
        Some(value.as_secs_f64().to_string())
    }

    fn accepts() -> String {
        "a number of seconds, or a number with us, ms, s, min, h or d behind it".into()
    }
}

/// A time in seconds without fractions, `MIN` at least.
pub struct WholeSeconds<const MIN: u64>;

impl<const MIN: u64> Kind for WholeSeconds<MIN> {
    type Value = Duration;

    fn parse(text: &str) -> Option<Duration> {
        let duration = units::parse_duration(text, 1.0)?;
        (duration.subsec_nanos() == 0 && duration.as_secs() >= MIN).then_some(duration)
    }

    fn show(value: &Duration) -> Option<String> {
        Some(value.as_secs().to_string())
    }

    fn accepts() -> String {
        format!("a whole number of seconds from {MIN}, or with s, min, h or d behind it")
    }
}

/// A time in whole milliseconds.
pub struct Millis;

impl Kind for Millis {
    type Value = Duration;

    fn parse(text: &str) -> Option<Duration> {
        let duration = units::parse_duration(text, 1e-3)?;
        (duration.subsec_nanos() % 1_000_000 == 0).then_some(duration)
    }

    fn show(value: &Duration) -> Option<String> {
        Some(value.as_millis().to_string())
    }

    fn accepts() -> String {
        "a whole number of milliseconds, or a number with ms, s, min, h or d behind it".into()
    }
}

/// Text of any form, empty included.
pub struct Text;

impl Kind for Text {
    type Value = String;

    fn parse(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn show(value: &String) -> Option<String> {
        Some(value.clone())
    }

    fn accepts() -> String {
        "text".into()
    }
}

/// Entries separated by commas.
pub struct Names;

impl Kind for Names {
    type Value = List;

    fn parse(text: &str) -> Option<List> {
        Some(List::parse(text))
    }

    fn show(value: &List) -> Option<String> {
        Some(value.text().to_owned())
    }

    fn accepts() -> String {
        "a list separated by commas".into()
    }
}

/// Addresses and networks, separated by commas.
pub struct Networks;

/// What [`Networks`] reads, and the text of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkList {
    text: String,
    networks: Vec<Network>,
}

impl NetworkList {
    pub fn has(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.has(address))
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }
}

impl Kind for Networks {
    type Value = NetworkList;

    fn parse(text: &str) -> Option<NetworkList> {
        let networks = List::parse(text).iter().map(|entry| Network::parse(entry)).collect::<Option<_>>()?;
        Some(NetworkList { text: text.to_owned(), networks })
    }

    fn show(value: &NetworkList) -> Option<String> {
        Some(value.text.clone())
    }

    fn accepts() -> String {
        "a list of addresses and networks such as 10.0.0.0/8, separated by commas".into()
    }
}

/// One of the names of an enum.
pub struct OneOf<E>(std::marker::PhantomData<E>);

impl<E: Named> Kind for OneOf<E> {
    type Value = E;

    fn parse(text: &str) -> Option<E> {
        E::from_name(text)
    }

    fn show(value: &E) -> Option<String> {
        Some(value.name().to_owned())
    }

    fn accepts() -> String {
        let names: Vec<&str> = E::ALL.iter().map(|variant| variant.name()).collect();
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => names.concat(),
        }
    }
}

/// A path.
pub struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;

    fn parse(text: &str) -> Option<PathBuf> {
        Some(PathBuf::from(text))
    }

    fn show(value: &PathBuf) -> Option<String> {
        Some(value.display().to_string())
    }

    fn accepts() -> String {
        "a path".into()
    }
}

/// A password. Never printed.
pub struct Password;

impl Kind for Password {
    type Value = Secret;

    fn parse(text: &str) -> Option<Secret> {
        Some(Secret::new(text))
    }

    fn show(_: &Secret) -> Option<String> {
        Some(MASK.to_owned())
    }

    fn accepts() -> String {
        "text".into()
    }

    const SECRET: bool = true;
}

/// The name of a database on a server, so not the console's.
pub struct ServerDatabase;

impl Kind for ServerDatabase {
    type Value = String;

    fn parse(text: &str) -> Option<String> {
        (text != CONSOLE_DATABASE).then(|| text.to_owned())
    }

    fn show(value: &String) -> Option<String> {
        Some(value.clone())
    }

    fn accepts() -> String {
        format!(
            "a database of a server: pgweir cannot use the reserved \"{CONSOLE_DATABASE}\" database as an auth_dbname"
        )
    }
}

/// What `server_check_query` takes: `<empty>` is the empty query, nothing at all means no check (None).
pub struct CheckQuery;

const EMPTY_QUERY: &str = "<empty>";

impl Kind for CheckQuery {
    type Value = Option<String>;

    fn parse(text: &str) -> Option<Option<String>> {
        Some(match text {
            "" => None,
            EMPTY_QUERY => Some(String::new()),
            query => Some(query.to_owned()),
        })
    }

    fn show(value: &Option<String>) -> Option<String> {
        let query = value.as_ref()?;
        Some(if query.is_empty() { EMPTY_QUERY.to_owned() } else { query.clone() })
    }

    fn accepts() -> String {
        format!("a query, {EMPTY_QUERY} for an empty one, or nothing for no check")
    }
}

/// `auto` or a number of threads.
pub struct WorkerCount;

impl Kind for WorkerCount {
    type Value = Workers;

    fn parse(text: &str) -> Option<Workers> {
        if text.eq_ignore_ascii_case("auto") {
            return Some(Workers::Auto);
        }
        Number::<1, 1024, false>::parse(text).map(Workers::Count)
    }

    fn show(value: &Workers) -> Option<String> {
        Some(match value {
            Workers::Auto => "auto".to_owned(),
            Workers::Count(count) => count.to_string(),
        })
    }

    fn accepts() -> String {
        "auto or a whole number from 1 to 1024".into()
    }
}

/// A comma-separated list of hosts; empty means the default Unix socket.
pub struct Hosts;

impl Kind for Hosts {
    type Value = Vec<HostAddr>;

    fn parse(text: &str) -> Option<Vec<HostAddr>> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Some(entries.map(HostAddr::parse).collect())
    }

    fn show(value: &Vec<HostAddr>) -> Option<String> {
        let hosts: Vec<&str> = value.iter().map(HostAddr::as_str).collect();
        (!hosts.is_empty()).then(|| hosts.join(","))
    }

    fn accepts() -> String {
        "a host, a directory of a Unix socket, or a list of them separated by commas".into()
    }
}

/// Something that need not be set: None if it is not, or if it is set to nothing.
pub struct Unset<K>(std::marker::PhantomData<K>);

impl<K: Kind> Kind for Unset<K> {
    type Value = Option<K::Value>;

    fn parse(text: &str) -> Option<Option<K::Value>> {
        if text.is_empty() { Some(None) } else { K::parse(text).map(Some) }
    }

    fn show(value: &Option<K::Value>) -> Option<String> {
        value.as_ref().and_then(K::show)
    }

    fn write(value: &Option<K::Value>) -> Option<String> {
        value.as_ref().and_then(K::write)
    }

    fn accepts() -> String {
        K::accepts()
    }

    const SECRET: bool = K::SECRET;
}

/// A number that, when absent or -1, is inherited (None) from the next wider scope.
pub struct Inherited<K>(std::marker::PhantomData<K>);

impl<K: Kind> Kind for Inherited<K> {
    type Value = Option<K::Value>;

    fn parse(text: &str) -> Option<Option<K::Value>> {
        if text.is_empty() || text == "-1" { Some(None) } else { K::parse(text).map(Some) }
    }

    fn show(value: &Option<K::Value>) -> Option<String> {
        value.as_ref().and_then(K::show)
    }

    fn write(value: &Option<K::Value>) -> Option<String> {
        value.as_ref().and_then(K::write)
    }

    fn accepts() -> String {
        format!("{}; -1 to inherit", K::accepts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PoolMode;

    #[test]
    fn settings_read_octal_and_connection_strings_decimal() {
        assert_eq!(Count::parse("010"), Some(8));
        assert_eq!(EntryCount::parse("010"), Some(10));
        assert_eq!(Port::<false>::parse("05432"), Some(5432));
        assert_eq!(Port::<true>::parse("0"), None);
        assert_eq!(Port::<true>::parse("65536"), None);
        assert_eq!(FileMode::parse("0777"), Some(0o777));
        assert_eq!(FileMode::show(&0o777).as_deref(), Some("511"));
        assert_eq!(FileMode::write(&0o777).as_deref(), Some("0777"));
        assert_eq!(FileMode::write(&0o4770).as_deref(), Some("04770"));
    }

    #[test]
    fn ranges() {
        assert_eq!(Count::parse("-1"), None);
        assert_eq!(Count::parse("2147483648"), None);
        assert_eq!(Bytes::parse("4294967295"), Some(u32::MAX));
        assert_eq!(PeerId::parse("16384"), None);
        assert_eq!(Positive::parse("0"), None);
    }

    #[test]
    fn times() {
        assert_eq!(WholeSeconds::<0>::parse("1.5"), None);
        assert_eq!(WholeSeconds::<1>::parse("0"), None);
        assert_eq!(WholeSeconds::<0>::parse("2min"), Some(Duration::from_secs(120)));
        assert_eq!(Millis::parse("250"), Some(Duration::from_millis(250)));
        assert_eq!(Millis::parse("0.5"), None);
        assert_eq!(Millis::show(&Duration::from_secs(2)).as_deref(), Some("2000"));
    }

    #[test]
    fn accepted_names_are_listed() {
        assert_eq!(OneOf::<PoolMode>::accepts(), "session, transaction or statement");
    }

    #[test]
    fn check_query_forms() {
        assert_eq!(CheckQuery::parse(""), Some(None));
        assert_eq!(CheckQuery::parse("<empty>"), Some(Some(String::new())));
        assert_eq!(CheckQuery::show(&Some(String::new())).as_deref(), Some("<empty>"));
        assert_eq!(CheckQuery::show(&Some("select 1".into())).as_deref(), Some("select 1"));
    }

    #[test]
    fn absent_and_inherited() {
        type Size = Inherited<EntryCount>;
        assert_eq!(Size::parse("-1"), Some(None));
        assert_eq!(Size::parse("0"), Some(Some(0)));
        assert_eq!(Size::parse("x"), None);
        assert_eq!(Unset::<Text>::parse(""), Some(None));
        let words = |text| CommandLine::parse(text).map(|words| (words.join("|"), CommandLine::show(&words).unwrap()));
        let quoted = Some(("a|b c|d\"e||f'g".to_owned(), "a \"b c\" d\"e \"\" f'g".to_owned()));
        assert_eq!(words(" a \"b c\"  'd\"e' '' f'g "), quoted);
        assert_eq!(words("\"a\"\"b\" 'c''d'"), Some(("a\"b|c'd".to_owned(), "a\"b c'd".to_owned())));
        for text in ["", " ", "a \"b", "\"a\"b", "a\nb"] {
            assert_eq!(words(text), None, "{text}");
        }
        assert_eq!(Span::parse("10m"), Some(Duration::from_secs(600)));
        assert_eq!(
            (Span::parse("5ms"), Span::parse("2h")),
            (Some(Duration::from_millis(5)), Some(Duration::from_secs(7200)))
        );
        assert_eq!((Span::parse("m"), Span::parse("-1m"), Span::parse("1w")), (None, None, None));
        assert_eq!(
            TimeZoneName::parse("europe/berlin").and_then(|zone| TimeZoneName::show(&zone)).as_deref(),
            Some("Europe/Berlin")
        );
        assert_eq!(TimeZoneName::parse("Mars/Base"), None);
        assert_eq!(Unset::<Password>::show(&Some(Secret::new("x"))).as_deref(), Some("***"));
    }

    #[test]
    fn the_console_is_no_server_database() {
        assert_eq!(ServerDatabase::parse("pgbouncer"), None);
        assert_eq!(ServerDatabase::parse("postgres").as_deref(), Some("postgres"));
    }

    #[test]
    fn workers() {
        assert_eq!(WorkerCount::parse("Auto"), Some(Workers::Auto));
        assert_eq!(WorkerCount::parse("4"), Some(Workers::Count(4)));
        assert_eq!(WorkerCount::parse("0"), None);
    }
}
