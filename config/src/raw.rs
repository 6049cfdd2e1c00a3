//! A configuration as text: keys and values with their places, not yet checked.

use std::path::Path;

use crate::problem::{Place, Problem};
use crate::userlist::UserSecret;

/// A key with its value, which may be a password: no `Debug`.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) place: Place,
}

/// What `[pgbouncer]` holds, in order.
pub(crate) enum Item {
    /// The section begins.
    Start(Place),
    Set(Pair),
}

/// One database, user, peer or job.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) pairs: Vec<Pair>,
}

impl Entry {
    pub(crate) fn new(name: String, place: Place, pairs: impl IntoIterator<Item = (String, String)>) -> Entry {
        let pair = |(key, value)| Pair { key, value, place: place.clone() };
        let pairs = pairs.into_iter().map(pair).collect();
        Entry { name, place, pairs }
    }
}

/// A user and a secret from the environment.
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) secret: UserSecret,
}

/// All that was read, in the order of reading: what comes later overrides.
#[derive(Default)]
pub(crate) struct Raw {
    pub(crate) settings: Vec<Item>,
    pub(crate) databases: Vec<Entry>,
    pub(crate) users: Vec<Entry>,
    pub(crate) peers: Vec<Entry>,
    pub(crate) maintenance: Vec<Entry>,
    /// Users beside those of the `auth_file`, which has precedence.
    pub(crate) logins: Vec<Login>,
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Raw {
    pub(crate) fn set(&mut self, key: &str, value: impl Into<String>, place: Place) {
        let pair = Pair { key: key.to_owned(), value: value.into(), place };
        self.settings.push(Item::Set(pair));
    }
}

/// The sections of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Pgbouncer,
    Databases,
    Users,
    Peers,
    Maintenance,
}

impl Section {
    pub(crate) const ALL: [Section; 5] =
        [Section::Pgbouncer, Section::Databases, Section::Users, Section::Peers, Section::Maintenance];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Section::Pgbouncer => "pgbouncer",
            Section::Databases => "databases",
            Section::Users => "users",
            Section::Peers => "peers",
            Section::Maintenance => "maintenance",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Section> {
        Section::ALL.into_iter().find(|section| section.name() == name)
    }
}

/// The text of a file, without a byte order mark. Bytes that are not UTF-8 become U+FFFD: in a comment they do no harm, and
/// elsewhere the readers refuse them.
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    let bytes = std::fs::read(path)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// A secret from a file that holds nothing else: the line break at the end is not part of it.
pub(crate) fn read_secret(path: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
