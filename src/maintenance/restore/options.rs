//! The flags of `pgweir restore`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::ArgPredicate;

use super::selection::{Part, TableName};
use crate::maintenance::backup::store::Place;
use crate::maintenance::options::{Changing, Limits, Show, Target};
use crate::maintenance::swap::SwapOptions;
use crate::maintenance::units::Span;

#[derive(Args, Clone, Debug)]
#[command(mut_arg("to", |to| {
    // A swap alone takes nothing from a storage.
    to.required(false).required_unless_present("swap_only").default_value_if("swap_only", ArgPredicate::IsPresent, "")
}))]
pub(crate) struct RestoreOptions {
    /// Id of a backup, or "latest" for the newest that no verification found broken [default: list what there is]
    pub(super) backup: Option<String>,
    #[command(flatten)]
    pub(super) place: Place,
    /// Only backups of this database count as latest [default: if there are several, the one that --dsn names]
    #[arg(long, value_name = "NAME")]
    pub(super) of: Option<String>,
    #[command(flatten)]
    pub(super) how: HowOptions,
    #[command(flatten)]
    pub(super) what: WhatOptions,
    #[command(flatten)]
    pub(super) swap: SwapOptions,
    #[command(flatten)]
    pub(super) target: Target,
    /// Database of the server to connect to while others are made and renamed
    #[arg(long, value_name = "NAME", default_value = "postgres", help_heading = "Connection")]
    pub(super) maintenance_db: String,
    /// Give up what waits longer than this for a lock, as 500ms, 5s or 1m; 0: wait for ever
    #[arg(long, value_name = "TIME", default_value = "5s", help_heading = "Limits")]
    pub(super) lock_timeout: Span,
    #[command(flatten)]
    pub(crate) changing: Changing,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// Where to, and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Destination")]
pub(super) struct HowOptions {
    /// Name of the new database [default: that of the backup's, "_restored_" and the backup's time]
    #[arg(long, value_name = "NAME")]
    pub(super) into: Option<String>,
    /// Put the new database in the place of the one that --dsn names, while the pooler of --config holds its clients; the old one is
    /// kept under another name
    #[arg(long, conflicts_with = "in_place")]
    pub(super) swap: bool,
    /// Restore nothing: put the database --into, which is there already, in place; also the way back after a swap
    #[arg(long, conflicts_with_all = ["in_place", "swap", "backup"], requires = "into")]
    pub(super) swap_only: bool,
    /// Restore over the database that --dsn names: what the backup has is dropped there and comes back, in one transaction with
    /// one job; clients of the pooler are turned away meanwhile. Asks for a typed RESTORE; --yes is not enough
    #[arg(long, conflicts_with = "into")]
    pub(super) in_place: bool,
    /// RESTORE, to confirm --in-place without a terminal
    #[arg(long, value_name = "WORD", requires = "in_place")]
    pub(super) confirm: Option<String>,
    /// Keep the new database also if it could not be restored
    #[arg(long)]
    pub(super) keep: bool,
    /// Tablespace of the new database [default: the old one's with --swap, otherwise the server's default]
    #[arg(long, value_name = "NAME")]
    pub(super) tablespace: Option<String>,
    /// Tables that pg_restore restores at the same time, 1 to 64; more than one needs the dump as a file, and with --in-place it
    /// is no single transaction any more
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) jobs: u32,
    /// Directory for a copy of the dump, if it is in S3 and has to be a file [default: TMPDIR or /tmp]
    #[arg(long, value_name = "DIR")]
    pub(super) work_dir: Option<PathBuf>,
    /// Directory of pg_restore and psql [default: the version that fits, in PATH or where packages put it]
    #[arg(long, value_name = "DIR")]
    pub(super) pg_bin: Option<PathBuf>,
}

/// What of it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Selection")]
pub(super) struct WhatOptions {
    /// Rows of this table only, as NAME or SCHEMA.NAME, where * stands for anything; the definitions of all tables come back, but
    /// for foreign keys, large objects and rows of materialized views; may be given several times
    #[arg(long, short, value_name = "TABLE")]
    pub(super) table: Vec<TableName>,
    /// Rows of the tables in this schema only, in the same way; may be given several times
    #[arg(long, value_name = "SCHEMA")]
    pub(super) schema: Vec<Part>,
    /// First make the roles and tablespaces that were backed up with it; roles that exist stay as they are
    #[arg(long)]
    pub(super) globals: bool,
    /// What is restored belongs to the user who restores it
    #[arg(long)]
    pub(super) no_owner: bool,
    /// Leave out GRANT and REVOKE
    #[arg(long)]
    pub(super) no_privileges: bool,
    /// Query that must run on the restored database; one value that it returns is shown [default: a row of the largest table]
    #[arg(long, value_name = "SQL")]
    pub(super) smoke: Option<String>,
}

impl RestoreOptions {
    pub(super) fn limits(&self) -> Limits {
        Limits { lock_timeout: self.lock_timeout, ..Limits::NONE }
    }
}
