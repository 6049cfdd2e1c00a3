//! Servers of all versions that the commands support.

use std::path::PathBuf;
use std::sync::LazyLock;

use crate::support::postgres::{lasting, readable};
use crate::support::*;

/// Versions 14 and 17, which `scripts/drivers.sh` has installed.
static OLDER: LazyLock<PathBuf> = LazyLock::new(|| readable("postgres_older"));
static VERSION_14: LazyLock<Postgres> = LazyLock::new(|| lasting(|| Postgres::of(OLDER.join("14/bin"))));
static VERSION_17: LazyLock<Postgres> = LazyLock::new(|| lasting(|| Postgres::of(OLDER.join("17/bin"))));

/// A server of each version, which all tests share that do not break it.
pub(crate) fn every_version() -> [(u32, &'static Postgres); 5] {
    [
        (14, &VERSION_14),
        (15, Postgres::shared()),
        (16, Postgres::shared_16()),
        (17, &VERSION_17),
        (18, Postgres::shared_18()),
    ]
}

/// Changes settings of a server of one's own that need a restart.
pub(crate) fn restart_with(pg: &Postgres, settings: &[(&str, &str)]) {
    for (name, value) in settings {
        pg.sql(&format!("alter system set {name} = {value}"));
    }
    pg.stop("INT");
    pg.start();
}
