//! pgweir's settings: read from an ini or TOML file and the environment, checked, and resolved into an immutable [`Config`].
//!
//! Text becomes `raw` pairs of key and value that know their place; all of them are checked against the tables of settings;
//! only a configuration without errors is handed out. There is no global state, and no I/O but reading the files named.

mod changes;
mod config;
mod container;
mod cron;
mod document;
mod entries;
mod env;
mod fields;
mod hba;
mod ident;
mod ini;
mod kind;
mod ldap;
mod network;
mod problem;
mod raw;
mod resolve;
mod secret;
mod settings;
mod table;
mod toml;
mod units;
mod url;
mod userlist;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use changes::changes;
pub use config::{Config, Loaded};
pub use cron::Cron;
pub use document::{reference_markdown, sample_ini};
pub use entries::{Database, MaintenanceJob, Peer, User};
pub use hba::{Access, Hba, HbaMethod, HbaRule};
pub use ident::IdentMap;
pub use kind::{CONSOLE_DATABASE, NetworkList, Zone};
pub use ldap::{Comparison, LdapBind, LdapFilter, LdapOptions, LdapScope, LdapSearch, Template, bind_name};
pub use network::Network;
pub use problem::{Problem, Problems};
pub use secret::{MASK, Secret};
pub use settings::{SetError, Settings, ShowRow};
pub use units::{
    AuthType, HostAddr, List, LoadBalanceHosts, LogFormat, Named, PoolMode, ServerMaxProtocolVersion, SqlStates,
    SslMode, SslNegotiation, SyslogFacility, Workers,
};
pub use userlist::{SCRAM_KEY_LEN, ScramSecret, UserSecret, Userlist};

/// Where the configuration comes from; kept, so that a RELOAD reads the same again.
#[derive(Clone)]
pub struct Source {
    /// The ini or TOML file; None: the environment alone.
    path: Option<PathBuf>,
    /// The environment at the start. It may hold secrets, hence no `Debug`.
    env: BTreeMap<String, String>,
}

impl Source {
    /// A source from the file at `path`, if any, and the environment, normally `std::env::vars_os()`. Variables that are not
    /// Unicode are left out: none of ours is.
    pub fn new(path: Option<&Path>, env: impl IntoIterator<Item = (OsString, OsString)>) -> Source {
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Source { path: path.map(Path::to_owned), env: env.into_iter().filter_map(text).collect() }
    }

    /// Reads and checks everything: the file, if any, then `PGWEIR_<SETTING>` over it. Without a file, the variables of the
    /// container images stand in for it.
    pub fn load(&self) -> Result<Loaded, Problems> {
        let mut raw = raw::Raw::default();
        match &self.path {
            None => container::read(&self.env, &mut raw),
            Some(path) if path.extension().is_some_and(|extension| extension == "toml") => toml::read(path, &mut raw),
            Some(path) => ini::read(path, &mut raw),
        }
        let begun = raw.settings.iter().any(|item| matches!(item, raw::Item::Start(_)));
        if !begun && raw.errors.is_empty() {
            let place = problem::Place::of_source(self.path());
            raw.errors.push(place.problem("there is no [pgbouncer] section"));
        }
        env::read_prefixed(&self.env, &mut raw);
        resolve::resolve(raw, self.path())
    }

    /// The file that [`Source::load`] reads.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The same environment with another file, for `SET conffile`.
    pub fn with_path(&self, path: Option<&Path>) -> Source {
        Source { path: path.map(Path::to_owned), env: self.env.clone() }
    }
}
