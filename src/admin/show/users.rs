//! SHOW USERS

use std::collections::BTreeMap;

use pgweir_config::{CONSOLE_DATABASE, Config, Named};

use crate::admin::table::{Cell, Row, row};
use crate::pools::Pools;

/// Connections of a user, to servers and of clients.
#[derive(Debug, Clone, Copy, Default)]
struct Connections {
    servers: u32,
    clients: u32,
}

/// Users of the `auth_file` and of `[users]`, those seen, and the console's own.
pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let config = pools.config();
    connections(pools, &config).into_iter().map(|(name, used)| user_row(&config, &name, used)).collect()
}

/// How many rows SHOW USERS has.
pub(super) fn count(pools: &Pools) -> usize {
    connections(pools, &pools.config()).len()
}

fn connections(pools: &Pools, config: &Config) -> BTreeMap<String, Connections> {
    let listed = config.userlist.iter().map(|(name, _)| name).chain(config.users.keys().map(String::as_str));
    let mut all: BTreeMap<String, Connections> =
        listed.chain([CONSOLE_DATABASE]).map(|name| (name.to_owned(), Connections::default())).collect();
    for user in pools.users() {
        let used = Connections { servers: user.servers.used(), clients: user.clients.used() };
        all.insert(user.name.to_string(), used);
    }
    all
}

fn user_row(config: &Config, name: &str, used: Connections) -> Vec<Cell> {
    let own = config.users.get(name);
    // PgBouncer's width.
    let size = |size: Option<u32>| size.map_or(String::new(), |size| format!("{size:9}"));
    row![
        name,
        size(own.and_then(|user| user.pool_size)),
        size(own.and_then(|user| user.reserve_pool_size)),
        own.and_then(|user| user.pool_mode).map(Named::name),
        config.max_user_connections(name),
        used.servers,
        config.max_user_client_connections(name),
        used.clients,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgweir_config::{PoolMode, User};
    use std::sync::Arc;

    #[test]
    fn rows_show_what_is_effective() {
        let mut config = Config::default();
        config.settings.max_user_connections = 8;
        let alice = User { pool_size: Some(3), pool_mode: Some(PoolMode::Session), ..User::new("alice") };
        config.users.insert("alice".into(), Arc::new(alice));
        let used = Connections { servers: 1, clients: 2 };
        let texts = |name| user_row(&config, name, used).into_iter().map(|cell| cell.0).collect::<Vec<_>>();
        let some = |texts: [&str; 8]| texts.map(|text| Some(text.to_owned())).to_vec();
        assert_eq!(texts("alice"), some(["alice", "        3", "", "session", "8", "1", "0", "2"]));
        let mut expected = some(["bob", "", "", "", "8", "1", "0", "2"]);
        expected[3] = None;
        assert_eq!(texts("bob"), expected);
    }
}
