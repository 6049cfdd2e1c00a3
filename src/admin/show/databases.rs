//! SHOW DATABASES

use std::collections::BTreeMap;
use std::sync::Arc;

use pgweir_config::{CONSOLE_DATABASE, Config, Database as Entry, Named, PoolMode};

use crate::admin::table::{Cell, Row, row};
use crate::pools::Pools;
use crate::pools::entries::Database;

pub(super) fn show(pools: &Pools) -> Vec<Row> {
    let config = pools.config();
    let mut rows: BTreeMap<Arc<str>, Vec<Cell>> = BTreeMap::new();
    for database in pools.databases() {
        rows.insert(Arc::clone(&database.name), database_row(&config, &database));
    }
    rows.insert(CONSOLE_DATABASE.into(), console_row(&config, pools.console_clients.used() as usize));
    rows.into_values().collect()
}

fn database_row(config: &Config, database: &Database) -> Vec<Cell> {
    let entry = database.entry();
    row![
        &*database.name,
        entry.show_hosts(),
        u32::from(entry.port),
        entry.server_dbname(),
        entry.user.as_deref(),
        entry.pool_size.unwrap_or(config.settings.default_pool_size),
        config.min_pool_size(&entry),
        entry.reserve_pool_size.unwrap_or(config.settings.reserve_pool_size),
        config.server_lifetime(&entry).as_secs(),
        entry.pool_mode.map(Named::name),
        load_balance_hosts(&entry),
        config.max_db_connections(&entry),
        database.servers.used(),
        config.max_db_client_connections(&entry),
        database.clients.used(),
        database.is_paused(),
        database.is_disabled(),
    ]
}

/// The console as PgBouncer shows it: a database of its own.
fn console_row(config: &Config, clients: usize) -> Vec<Cell> {
    row![
        CONSOLE_DATABASE,
        None::<&str>,
        u32::from(config.settings.listen_port),
        CONSOLE_DATABASE,
        CONSOLE_DATABASE,
        2_u32,
        config.settings.min_pool_size,
        config.settings.reserve_pool_size,
        config.settings.server_lifetime.as_secs(),
        PoolMode::Statement.name(),
        None::<&str>,
        config.settings.max_db_connections,
        0_u32,
        config.settings.max_db_client_connections,
        clients,
        false,
        false,
    ]
}

/// Shown where there is something to balance.
pub(super) fn load_balance_hosts(entry: &Entry) -> Option<&'static str> {
    (entry.hosts.len() > 1).then(|| entry.load_balance_hosts.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgweir_config::{HostAddr, LoadBalanceHosts};

    fn texts(row: &[Cell]) -> String {
        row.iter().map(|cell| cell.0.as_deref().unwrap_or("-")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rows_show_what_is_effective() {
        let mut config = Config::default();
        config.settings.max_db_connections = 50;
        let plain = Database::new(Arc::new(Entry::new("app")));
        assert_eq!(texts(&database_row(&config, &plain)), "app - 5432 app - 20 0 0 3600 - - 50 0 0 0 0 0");
        let entry = Entry {
            hosts: vec![HostAddr::parse("a"), HostAddr::parse("b")],
            dbname: Some("real".into()),
            user: Some("owner".into()),
            pool_size: Some(7),
            pool_mode: Some(PoolMode::Session),
            load_balance_hosts: LoadBalanceHosts::Disable,
            max_db_connections: Some(9),
            ..Entry::new("own")
        };
        let own = Database::new(Arc::new(entry));
        own.set_paused(true);
        let _server = own.servers.try_take(9);
        let expected = "own a,b 5432 real owner 7 0 0 3600 session disable 9 1 0 0 1 0";
        assert_eq!(texts(&database_row(&config, &own)), expected);
    }

    #[test]
    fn the_console_is_a_database() {
        let expected = "pgbouncer - 6432 pgbouncer pgbouncer 2 0 0 3600 statement - 0 0 0 3 0 0";
        assert_eq!(texts(&console_row(&Config::default(), 3)), expected);
    }
}
