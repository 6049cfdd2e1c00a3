//! How many files, thus connections, the system lets us have.

use std::collections::HashSet;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pgweir_config::Config;

use crate::log::log_at;

/// What a process needs beside connections, as PgBouncer reckons.
const SPARE_FILES: u64 = 10;

/// Raises the limit of open files as far as it goes and logs it beside what the configuration may need.
pub(crate) fn check_limits(config: &Config) {
    let (soft, hard) = match raise_file_limit() {
        Ok(limits) => limits,
        Err(error) => {
            log_at!(Error, "could not get or set RLIMIT_NOFILE: {}", error.desc());
            return;
        }
    };
    let needed = expected_files(config);
    log_at!(
        Log,
        "kernel file descriptor limit: {soft} (hard: {hard}); max_client_conn: {}, max expected fd use: {needed}",
        config.settings.max_client_conn
    );
    if needed > soft {
        log_at!(
            Warning,
            "the file descriptor limit is below what the configuration may need; raise it (LimitNOFILE= in a systemd unit, ulimit -n), or lower max_client_conn or the pool sizes"
        );
    }
}

/// Makes the hard limit the soft one and returns both. The soft limit only guards programs that use `select`; there is no
/// reason to stay below the hard one, and databases made from a `*` entry cannot be foreseen.
fn raise_file_limit() -> nix::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    getrlimit(Resource::RLIMIT_NOFILE)
}

/// The most connections that clients and servers may need: every database has a pool for each user, or one for its forced user.
fn expected_files(config: &Config) -> u64 {
    let users: HashSet<&str> =
        config.userlist.iter().map(|(user, _)| user).chain(config.users.keys().map(String::as_str)).collect();
    let of_database = |database: &pgweir_config::Database| match &database.user {
        Some(user) => u64::from(config.pool_size(database, user)),
        None => users.iter().map(|user| u64::from(config.pool_size(database, user))).sum(),
    };
    let servers: u64 = config.databases.values().map(|database| of_database(database)).sum();
    u64::from(config.settings.max_client_conn) + SPARE_FILES + servers
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise_file_limit(), Ok((hard, hard)));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((hard, hard)));
    }

    #[test]
    fn every_user_may_have_a_pool_in_every_database() {
        let path: PathBuf = std::env::temp_dir().join(format!("pgweir-limits-{}.ini", std::process::id()));
        let text = "[databases]\nforced = host=h user=x pool_size=7\nplain = host=h\n[users]\na =\nb = pool_size=3\n[pgbouncer]\nmax_client_conn = 100\ndefault_pool_size = 5\n";
        std::fs::write(&path, text).unwrap();
        let loaded = pgweir_config::Source::new(Some(&path), []).load();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(expected_files(&loaded.unwrap().config), 100 + 10 + 7 + (5 + 3));
    }
}
