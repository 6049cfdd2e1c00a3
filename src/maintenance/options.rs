//! Flags that commands share. A command's own options flatten the groups that it needs.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::output::Format;
use super::units::Span;

/// A connection string, which may hold a password: `Debug` shows nothing of it.
#[derive(Clone)]
pub(crate) struct Dsn(pub(crate) String);

impl From<String> for Dsn {
    fn from(text: String) -> Dsn {
        Dsn(text)
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Which database, and where the pooler's configuration is.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Target {
    /// Connection string, "host=... dbname=... user=..." or postgres://...; what it leaves out comes from --database, PGHOST and
    /// the other variables of libpq, its service file and its password file
    #[arg(long, value_name = "DSN")]
    pub(crate) dsn: Option<Dsn>,
    /// Configuration of the pooler, ini or TOML: for --database, and to find its console
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Database of the pooler's configuration whose host, port, user and password are used [default: none; needs --config]
    #[arg(long, value_name = "NAME", requires = "config")]
    pub(crate) database: Option<String>,
    /// Connection string of the pooler's console, for commands that need it [default: found by --config, as its admin_users]
    #[arg(long, value_name = "DSN")]
    pub(crate) console: Option<Dsn>,
}

/// How long the server's statements may take. A command sets its own defaults by `mut_arg`.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Give up a statement that waits longer than this for a lock, as 500ms, 5s or 1m; 0: wait for ever
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub(crate) lock_timeout: Span,
    /// Give up a statement that takes longer than this; 0: no limit
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub(crate) statement_timeout: Span,
}

impl Limits {
    pub(crate) const NONE: Limits =
        Limits { lock_timeout: Span(Duration::ZERO), statement_timeout: Span(Duration::ZERO) };
}

/// How results are shown.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Output")]
pub(crate) struct Show {
    /// How to print the result on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Of commands that change something.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Safety")]
pub(crate) struct Changing {
    /// Print what would be done and the SQL for it, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask; without a terminal nothing is changed unless this is given
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// What every read-only command of one database takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Reading {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) show: Show,
}
