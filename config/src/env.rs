//! Settings from the environment: `PGWEIR_<SETTING>`, over any file.
//!
//! Any variable that is read may be given as `<NAME>_FILE` instead, the path of a file that holds the value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::problem::{ENVIRONMENT, Place, nearest, suggestion};
use crate::raw::{Raw, read_secret};
use crate::settings::SETTINGS;

pub(crate) type Variables = BTreeMap<String, String>;

/// The prefix of our own variables.
pub(crate) const PREFIX: &str = "PGWEIR_";
/// What a name ends with that names a file holding the value.
pub(crate) const FILE_SUFFIX: &str = "_FILE";

fn is_setting(key: &str) -> bool {
    SETTINGS.iter().any(|row| row.key == key)
}

/// Whether Kubernetes made the variable, as it does for every service: a service of our name would make `PGWEIR_PORT`.
fn is_service_link(name: &str, value: &str) -> bool {
    let protocol = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let port = name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    protocol || port || name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT")
}

/// Reads variables and keeps what is wrong with them.
pub(crate) struct Reader<'a> {
    pub(crate) variables: &'a Variables,
    pub(crate) raw: &'a mut Raw,
    /// The names asked for, whether they are set or not.
    asked: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(variables: &'a Variables, raw: &'a mut Raw) -> Reader<'a> {
        Reader { variables, raw, asked: BTreeSet::new() }
    }

    pub(crate) fn place(name: &str) -> Place {
        Place::file(&format!("{ENVIRONMENT} variable {name}"))
    }

    pub(crate) fn error(&mut self, name: &str, message: impl Into<String>) {
        self.raw.errors.push(Self::place(name).problem(message));
    }

    /// The content of the file that the variable `name` names.
    fn secret_file(&mut self, name: &str) -> Option<String> {
        let path = self.variables.get(name).filter(|path| !path.is_empty())?;
        match read_secret(Path::new(path)) {
            Ok(secret) => Some(secret),
            Err(error) => {
                let message = format!("could not read the file \"{path}\": {error}");
                self.error(name, message);
                None
            }
        }
    }

    /// A variable's value, or the content of the file that `<name>_FILE` names. As in the images, empty means not set.
    pub(crate) fn get(&mut self, name: &str) -> Option<String> {
        let is_set = |value: &&String| !value.is_empty() && !is_service_link(name, value);
        let own = self.variables.get(name).filter(is_set).cloned();
        let file_name = format!("{name}{FILE_SUFFIX}");
        let from_file = self.secret_file(&file_name);
        self.asked.extend([name.to_owned(), file_name]);
        if own.is_some() && from_file.is_some() {
            self.error(name, format!("set as well as {name}{FILE_SUFFIX}; which of the two counts?"));
        }
        own.or(from_file)
    }

    /// Tells of the variables with this prefix that nobody asked for.
    pub(crate) fn warn_unread(&mut self, prefix: &str) {
        for (name, value) in self.variables {
            if name.starts_with(prefix) && !self.asked.contains(name) && !is_service_link(name, value) {
                self.raw.warnings.push(Self::place(name).problem("means nothing here, ignored"));
            }
        }
    }

    /// Takes a setting from the variable `name`, if that is set.
    pub(crate) fn setting(&mut self, key: &str, name: &str) {
        if let Some(value) = self.get(name) {
            self.raw.set(key, value, Self::place(name));
        }
    }
}

/// Adds `PGWEIR_<SETTING>` to `raw`. Names of no setting are errors: a misspelt `auth_type` must not pass.
pub(crate) fn read_prefixed(variables: &Variables, raw: &mut Raw) {
    let mut reader = Reader::new(variables, raw);
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let key = rest.to_ascii_lowercase();
        let file_key = key.strip_suffix("_file").unwrap_or_default();
        if is_setting(&key) {
            if variables.contains_key(&format!("{name}{FILE_SUFFIX}")) {
                reader.error(name, format!("set as well as {name}{FILE_SUFFIX}; which of the two counts?"));
            }
            reader.raw.set(&key, value.clone(), Reader::place(name));
        } else if is_setting(file_key) {
            if let Some(value) = reader.secret_file(name) {
                reader.raw.set(file_key, value, Reader::place(name));
            }
        } else if !is_service_link(name, value) {
            let known = nearest(&key, SETTINGS.iter().map(|row| row.key));
            let known = known.map(|known| format!("{PREFIX}{}", known.to_ascii_uppercase()));
            reader.error(name, format!("no such setting{}", suggestion(known)));
        }
    }
}
