//! This process as the system sees it: its user, its limits, its pidfile, and whether it runs in the background.

pub(crate) mod activation;
pub(crate) mod daemon;
pub(crate) mod kept;
pub(crate) mod limits;
pub(crate) mod notify;
pub(crate) mod pidfile;
pub(crate) mod user;

use std::path::PathBuf;

use pgweir_config::{Config, Loaded, Source};

use daemon::Background;
use pidfile::{Pidfile, PidfileError};

use crate::log::log_at;
use crate::net::listener::Inherited;

/// What `--version` and `SHOW VERSION` print; PgBouncer's users expect the two to be the same.
pub(crate) const VERSION: &str = concat!("pgweir ", env!("CARGO_PKG_VERSION"), " (compatible with PgBouncer 1.25)");

/// What the command line decided, for the process that is to serve.
pub(crate) struct Options {
    /// Read again at a RELOAD.
    pub(crate) source: Source,
    /// What `source` held at the start.
    pub(crate) loaded: Loaded,
    /// What else is wrong with a configuration; nothing is with that of the start.
    pub(crate) check: fn(&Config) -> Vec<String>,
    /// Whether stderr is none of the log's targets: so with `-q`, and in the background.
    pub(crate) quiet: bool,
    /// How often `-v` was given. As in PgBouncer it counts where the setting `verbose` says nothing.
    pub(crate) verbose: u32,
    pub(crate) launch: Launch,
}

/// What is left to do when clients can connect.
pub(crate) struct Launch {
    pub(crate) pidfile: Option<PathBuf>,
    /// None: in the foreground.
    pub(crate) background: Option<Background>,
    /// `-R`: from the process that runs already, if one does.
    pub(crate) takes_over: bool,
    /// Listening sockets that a service manager has passed.
    pub(crate) activated: Vec<Inherited>,
}

impl Launch {
    /// Fails if another process holds the pidfile.
    pub(crate) fn check_pidfile(&self) -> Result<(), PidfileError> {
        self.pidfile.as_deref().map_or(Ok(()), Pidfile::check)
    }

    /// Writes the pidfile and lets the command that started us in the background end with success. To be called when clients can
    /// connect; what it returns is to be kept until they cannot any more.
    pub(crate) fn ready(self, has_taken_over: bool) -> Result<Option<Pidfile>, PidfileError> {
        let pidfile = match has_taken_over {
            false => self.pidfile.map(Pidfile::create).transpose()?,
            // There is no way back: clients come first.
            true => self.pidfile.and_then(|path| Pidfile::take(path).inspect_err(|e| log_at!(Error, "{e}")).ok()),
        };
        if let Some(background) = self.background {
            background.ready();
        }
        notify::ready();
        Ok(pidfile)
    }
}
