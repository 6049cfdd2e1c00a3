//! The configuration as everything else sees it: checked, resolved and immutable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::entries::{Database, MaintenanceJob, Peer, User};
use crate::hba::Hba;
use crate::kind::CONSOLE_DATABASE;
use crate::ldap::LdapOptions;
use crate::problem::{Place, Problem, Problems};
use crate::resolve::{read_hba, read_ldap};
use crate::settings::{SetError, Settings};
use crate::units::{AuthType, HostAddr, PoolMode};
use crate::userlist::Userlist;

/// A whole configuration. Never changed in place: a reload makes a new one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub settings: Settings,
    /// `[databases]` without the fallback, by the name that clients ask for.
    pub databases: BTreeMap<String, Arc<Database>>,
    /// The `*` entry of `[databases]`, for every name that has none.
    pub autodb: Option<Arc<Database>>,
    /// `[users]`, which need not have an entry in the `auth_file`. `*` is a user's name like any other.
    pub users: BTreeMap<String, Arc<User>>,
    /// `[peers]` by their `peer_id`, this process included if it is listed.
    pub peers: BTreeMap<u32, Peer>,
    /// `[maintenance]`: what is run by the calendar, by name.
    pub maintenance: BTreeMap<String, Arc<MaintenanceJob>>,
    /// The users of the `auth_file`.
    pub userlist: Arc<Userlist>,
    /// The rules of the `auth_hba_file`; None unless `auth_type` is hba.
    pub hba: Option<Arc<Hba>>,
    /// `auth_ldap_options`; None unless `auth_type` is ldap.
    pub ldap: Option<Arc<LdapOptions>>,
}

/// A configuration that can be used, with what the operator should know about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Problem>,
    /// Every line of the `auth_file` was read, or there is no such file to be read. What is missing is missed less at a
    /// start, as by PgBouncer, than by those who were let in before a RELOAD.
    pub is_userlist_whole: bool,
}

impl Config {
    /// Changes one setting, for the console's `SET`. On an error nothing is changed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SetError> {
        let mut settings = self.settings.clone();
        settings.set(key, value)?;
        let (mut hba, mut ldap) = (self.hba.clone(), self.ldap.clone());
        if matches!(key, "auth_type" | "auth_hba_file" | "auth_ident_file") {
            hba = without_problems(read_hba(&settings))?;
        }
        if matches!(key, "auth_type" | "auth_ldap_options") {
            ldap = without_problems(read_ldap(&settings, &Place::of_source(settings.conffile.as_deref())))?;
        }
        (self.hba, self.ldap) = (hba, ldap);
        self.settings = settings;
        Ok(())
    }

    /// Whether there are passwords that directories or PAM know, whatever the `auth_file` says.
    pub fn asks_outside(&self) -> bool {
        let has_line = || self.hba.iter().any(|hba| hba.directories().next().is_some());
        matches!(self.settings.auth_type, AuthType::Ldap | AuthType::Pam) || has_line()
    }

    /// Whether a directory is to be asked over TLS.
    pub fn needs_ldap_tls(&self) -> bool {
        let lines = self.hba.iter().flat_map(|hba| hba.directories());
        self.ldap.as_deref().into_iter().chain(lines).any(LdapOptions::is_tls)
    }

    /// The database that a client asks for by this name; made from the `*` entry if it has none of its own.
    pub fn database(&self, name: &str) -> Option<Arc<Database>> {
        if name == CONSOLE_DATABASE {
            return None;
        }
        let fallback = || self.autodb.as_ref().map(|autodb| Arc::new(autodb.named(name)));
        self.databases.get(name).cloned().or_else(fallback)
    }

    /// Who looks up users of a database that the `auth_file` does not have; None: nobody, they are unknown. A database that
    /// has no entry is the console, or there is none.
    pub fn auth_user<'a>(&'a self, database: Option<&'a Database>) -> Option<&'a str> {
        database.and_then(|database| database.auth_user.as_deref()).or(self.settings.auth_user.as_deref())
    }

    /// What is run to look a user up.
    pub fn auth_query<'a>(&'a self, database: Option<&'a Database>) -> &'a str {
        database.and_then(|database| database.auth_query.as_deref()).unwrap_or(&self.settings.auth_query)
    }

    /// In which database; None: in the one that the client asks for.
    pub fn auth_dbname<'a>(&'a self, database: Option<&'a Database>) -> Option<&'a str> {
        database.and_then(|database| database.auth_dbname.as_deref()).or(self.settings.auth_dbname.as_deref())
    }

    /// Where the servers of a database are. Empty only if it has no host and there is no `unix_socket_dir`.
    pub fn hosts(&self, database: &Database) -> Vec<HostAddr> {
        if !database.hosts.is_empty() {
            return database.hosts.clone();
        }
        self.settings.unix_socket_dir.iter().map(|dir| HostAddr::Unix(dir.clone())).collect()
    }

    fn user<T>(&self, user: &str, field: impl Fn(&User) -> Option<T>) -> Option<T> {
        self.users.get(user).and_then(|user| field(user))
    }

    /// The mode of a pool. `user` is the one that the pool logs in to the server with.
    pub fn pool_mode(&self, database: &Database, user: &str) -> PoolMode {
        let own = self.user(user, |user| user.pool_mode).or(database.pool_mode);
        own.unwrap_or(self.settings.pool_mode)
    }

    /// The size of a pool. `user` is the one that the pool logs in to the server with.
    pub fn pool_size(&self, database: &Database, user: &str) -> u32 {
        let own = self.user(user, |user| user.pool_size).or(database.pool_size);
        own.unwrap_or(self.settings.default_pool_size)
    }

    /// The reserve of a pool. `user` is the one that the pool logs in to the server with.
    pub fn reserve_pool_size(&self, database: &Database, user: &str) -> u32 {
        let own = self.user(user, |user| user.reserve_pool_size).or(database.reserve_pool_size);
        own.unwrap_or(self.settings.reserve_pool_size)
    }

    /// How many cancel requests may be on their way to a peer at once; 0 means no limit.
    pub fn peer_pool_size(&self, peer: &Peer) -> u32 {
        peer.pool_size.unwrap_or(self.settings.default_pool_size)
    }

    /// How many connections to keep in each pool of a database; the pool's size caps it.
    pub fn min_pool_size(&self, database: &Database) -> u32 {
        database.min_pool_size.unwrap_or(self.settings.min_pool_size)
    }

    /// Server connections allowed to a database; 0 means no limit.
    pub fn max_db_connections(&self, database: &Database) -> u32 {
        above_zero(database.max_db_connections).unwrap_or(self.settings.max_db_connections)
    }

    /// Client connections allowed to a database; 0 means no limit.
    pub fn max_db_client_connections(&self, database: &Database) -> u32 {
        above_zero(database.max_db_client_connections).unwrap_or(self.settings.max_db_client_connections)
    }

    /// Server connections allowed to a user, the one that pools log in with; 0 means no limit.
    pub fn max_user_connections(&self, user: &str) -> u32 {
        above_zero(self.user(user, |user| user.max_user_connections)).unwrap_or(self.settings.max_user_connections)
    }

    /// Client connections allowed to a user, the one that clients log in as; 0 means no limit.
    pub fn max_user_client_connections(&self, user: &str) -> u32 {
        above_zero(self.user(user, |user| user.max_user_client_connections))
            .unwrap_or(self.settings.max_user_client_connections)
    }

    /// How old an unused server connection of a database may grow; 0 means used once.
    pub fn server_lifetime(&self, database: &Database) -> Duration {
        some_time(database.server_lifetime).unwrap_or(self.settings.server_lifetime)
    }

    /// How long a client may wait for a server. `user` is the one it logged in as, if it has; None means forever.
    pub fn query_wait_timeout(&self, database: &Database, user: Option<&str>) -> Option<Duration> {
        let own = user.and_then(|user| self.user(user, |user| user.query_wait_timeout));
        let timeout = own.or(database.query_wait_timeout);
        some_time(Some(timeout.unwrap_or(self.settings.query_wait_timeout)))
    }

    /// How long a query of a client logged in as `user` may run; None means forever.
    pub fn query_timeout(&self, user: &str) -> Option<Duration> {
        self.timeout(user, |user| user.query_timeout, self.settings.query_timeout)
    }

    /// How long a client logged in as `user` may idle inside a transaction; None means forever.
    pub fn idle_transaction_timeout(&self, user: &str) -> Option<Duration> {
        let global = self.settings.idle_transaction_timeout;
        self.timeout(user, |user| user.idle_transaction_timeout, global)
    }

    /// How long a transaction of a client logged in as `user` may take; None means forever.
    pub fn transaction_timeout(&self, user: &str) -> Option<Duration> {
        self.timeout(user, |user| user.transaction_timeout, self.settings.transaction_timeout)
    }

    /// How long a client logged in as `user` may idle; None means forever.
    pub fn client_idle_timeout(&self, user: &str) -> Option<Duration> {
        self.timeout(user, |user| user.client_idle_timeout, self.settings.client_idle_timeout)
    }

    /// The shortest of those times; `None`: everybody may idle for ever.
    pub fn client_idle_timeout_min(&self) -> Option<Duration> {
        let own = self.users.values().map(|user| user.client_idle_timeout);
        own.chain([Some(self.settings.client_idle_timeout)]).filter_map(some_time).min()
    }

    /// A timeout of a user where 0 does not override the global one, and globally means none.
    fn timeout(&self, user: &str, field: impl Fn(&User) -> Option<Duration>, global: Duration) -> Option<Duration> {
        some_time(self.user(user, field)).or(some_time(Some(global)))
    }
}

fn without_problems<T>((read, problems): (T, Problems)) -> Result<T, SetError> {
    problems.errors.into_iter().next().map_or(Ok(read), |problem| Err(SetError::File(problem)))
}

fn above_zero(number: Option<u32>) -> Option<u32> {
    number.filter(|n| *n > 0)
}

fn some_time(duration: Option<Duration>) -> Option<Duration> {
    duration.filter(|d| !d.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration in which everything has a value of its own: 1x globally, 2x for the database "d", 3x for the user "u".
    fn config() -> Config {
        let seconds = Duration::from_secs;
        let mut config = Config::default();
        let settings = &mut config.settings;
        settings.default_pool_size = 11;
        settings.reserve_pool_size = 12;
        settings.min_pool_size = 13;
        settings.max_db_connections = 14;
        settings.max_db_client_connections = 15;
        settings.max_user_connections = 16;
        settings.max_user_client_connections = 17;
        settings.server_lifetime = seconds(18);
        settings.query_wait_timeout = seconds(19);
        settings.query_timeout = seconds(110);
        settings.idle_transaction_timeout = seconds(111);
        settings.transaction_timeout = seconds(112);
        settings.client_idle_timeout = seconds(113);
        let database = Database {
            pool_mode: Some(PoolMode::Transaction),
            pool_size: Some(21),
            reserve_pool_size: Some(22),
            min_pool_size: Some(23),
            max_db_connections: Some(24),
            max_db_client_connections: Some(25),
            server_lifetime: Some(seconds(28)),
            query_wait_timeout: Some(seconds(29)),
            ..Database::new("d")
        };
        let user = User {
            pool_mode: Some(PoolMode::Statement),
            pool_size: Some(31),
            reserve_pool_size: Some(32),
            max_user_connections: Some(36),
            max_user_client_connections: Some(37),
            query_wait_timeout: Some(seconds(39)),
            query_timeout: Some(seconds(310)),
            idle_transaction_timeout: Some(seconds(311)),
            transaction_timeout: Some(seconds(312)),
            client_idle_timeout: Some(seconds(313)),
            ..User::new("u")
        };
        config.databases.insert("d".into(), Arc::new(database));
        config.users.insert("u".into(), Arc::new(user));
        config
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn the_user_comes_before_the_database_before_the_global_setting() {
        let config = config();
        let (own, plain) = (config.database("d").unwrap(), Database::new("plain"));
        let mode = |database, user| config.pool_mode(database, user);
        assert_eq!(mode(&own, "u"), PoolMode::Statement);
        assert_eq!(mode(&own, "x"), PoolMode::Transaction);
        assert_eq!(mode(&plain, "x"), PoolMode::Session);
        let sizes = |database, user| (config.pool_size(database, user), config.reserve_pool_size(database, user));
        assert_eq!(sizes(&own, "u"), (31, 32));
        assert_eq!(sizes(&own, "x"), (21, 22));
        assert_eq!(sizes(&plain, "x"), (11, 12));
        assert_eq!(config.peer_pool_size(&Peer::new(1)), 11);
        assert_eq!(config.peer_pool_size(&Peer { pool_size: Some(0), ..Peer::new(1) }), 0);
        assert_eq!(config.query_wait_timeout(&own, Some("u")), seconds(39));
        assert_eq!(config.query_wait_timeout(&own, Some("x")), seconds(29));
        assert_eq!(config.query_wait_timeout(&own, None), seconds(29));
        assert_eq!(config.query_wait_timeout(&plain, Some("x")), seconds(19));
    }

    #[test]
    fn the_database_comes_before_the_global_setting() {
        let config = config();
        let (own, plain) = (config.database("d").unwrap(), Database::new("plain"));
        let limits = |database: &Database| {
            let lifetime = config.server_lifetime(database);
            let connections = config.max_db_connections(database);
            let clients = config.max_db_client_connections(database);
            (config.min_pool_size(database), connections, clients, lifetime)
        };
        assert_eq!(limits(&own), (23, 24, 25, Duration::from_secs(28)));
        assert_eq!(limits(&plain), (13, 14, 15, Duration::from_secs(18)));
    }

    #[test]
    fn the_user_comes_before_the_global_setting() {
        let config = config();
        let limits = |user| (config.max_user_connections(user), config.max_user_client_connections(user));
        assert_eq!(limits("u"), (36, 37));
        assert_eq!(limits("x"), (16, 17));
        let timeouts = |user| {
            [
                config.query_timeout(user),
                config.idle_transaction_timeout(user),
                config.transaction_timeout(user),
                config.client_idle_timeout(user),
            ]
        };
        assert_eq!(timeouts("u"), [310, 311, 312, 313].map(seconds));
        assert_eq!(timeouts("x"), [110, 111, 112, 113].map(seconds));
        assert_eq!(config.client_idle_timeout_min(), seconds(113));
    }

    #[test]
    fn users_are_looked_up_as_the_database_says() {
        let mut config = config();
        let own = Database {
            auth_user: Some("own".into()),
            auth_query: Some("own query".into()),
            auth_dbname: Some("own db".into()),
            ..Database::new("own")
        };
        let plain = Database::new("plain");
        let told = |config: &Config, database: Option<&Database>| {
            let told = [config.auth_user(database), Some(config.auth_query(database)), config.auth_dbname(database)];
            told.map(|text| text.map(str::to_owned).unwrap_or_default())
        };
        let default = Settings::default().auth_query;
        assert_eq!(told(&config, Some(&plain)), ["", &default, ""]);
        config.settings.auth_user = Some("asker".into());
        config.settings.auth_query = "query".into();
        config.settings.auth_dbname = Some("db".into());
        assert_eq!(told(&config, Some(&own)), ["own", "own query", "own db"]);
        assert_eq!(told(&config, Some(&plain)), ["asker", "query", "db"]);
        // The console.
        assert_eq!(told(&config, None), ["asker", "query", "db"]);
    }

    #[test]
    fn what_zero_means() {
        let mut config = config();
        let zero = Some(Duration::ZERO);
        let database = Database {
            pool_size: Some(0),
            min_pool_size: Some(0),
            max_db_connections: Some(0),
            max_db_client_connections: Some(0),
            server_lifetime: zero,
            query_wait_timeout: zero,
            ..Database::new("z")
        };
        let user = User {
            max_user_connections: Some(0),
            max_user_client_connections: Some(0),
            query_timeout: zero,
            ..User::new("z")
        };
        config.users.insert("z".into(), Arc::new(user));
        // It is a size like any other, and the end of waiting.
        assert_eq!(config.pool_size(&database, "z"), 0);
        assert_eq!(config.min_pool_size(&database), 0);
        assert_eq!(config.query_wait_timeout(&database, None), None);
        // As a limit or another timeout it leaves the decision to the global setting.
        assert_eq!(config.max_db_connections(&database), 14);
        assert_eq!(config.max_db_client_connections(&database), 15);
        assert_eq!(config.max_user_connections("z"), 16);
        assert_eq!(config.max_user_client_connections("z"), 17);
        assert_eq!(config.server_lifetime(&database), Duration::from_secs(18));
        assert_eq!(config.query_timeout("z"), seconds(110));
        config.settings.query_timeout = Duration::ZERO;
        config.settings.query_wait_timeout = Duration::ZERO;
        assert_eq!(config.query_timeout("z"), None);
        assert_eq!(config.query_wait_timeout(&Database::new("p"), None), None);
    }

    #[test]
    fn the_fallback_takes_the_name_that_was_asked_for() {
        let mut config = config();
        assert_eq!(config.database("other"), None);
        let fallback = Database { hosts: vec![HostAddr::parse("h")], ..Database::new("*") };
        config.autodb = Some(Arc::new(fallback));
        let other = config.database("other").unwrap();
        assert_eq!((other.name.as_str(), other.server_dbname()), ("other", "other"));
        assert_eq!(other.hosts, [HostAddr::Tcp("h".into())]);
        assert_eq!(config.database("d").unwrap().pool_size, Some(21));
        assert_eq!(config.database("pgbouncer"), None);
    }

    #[test]
    fn no_host_means_the_unix_socket() {
        let mut config = Config::default();
        let database = Database::new("d");
        assert_eq!(config.hosts(&database), [HostAddr::Unix("/tmp".into())]);
        assert_eq!(database.show_hosts(), None);
        config.settings.unix_socket_dir = None;
        assert_eq!(config.hosts(&database), []);
        let two = Database { hosts: vec![HostAddr::parse("a"), HostAddr::parse("/b")], ..database };
        assert_eq!(config.hosts(&two), two.hosts);
        assert_eq!(two.show_hosts().as_deref(), Some("a,/b"));
    }
}
