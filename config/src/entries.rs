//! The settings of one entry of `[databases]`, `[users]`, `[peers]` and `[maintenance]`: one row each, as for `[pgbouncer]`.

use crate::kind::{
    CommandLine, CronExpression, EntryCount, FilePath, Hosts, Inherited, Kind, OneOf, Password, Port, Seconds, Span,
    Switch, Text, TimeZoneName, Unset,
};
use crate::table::Status::Acts;
use crate::table::section;
use crate::units::{HostAddr, LoadBalanceHosts, PoolMode};

section! {
    /// One entry of `[databases]`. None always means: as the wider scope says.
    pub struct Database {
        /// What clients ask for; `*` for the fallback entry.
        pub name: String,
    }

    /// The settings of a database.
    DATABASE [
        dbname: Unset<Text>, None, Reload, Acts,
            "Database to connect to on the server. Not set: the name that the client asked for.";
        hosts("host"): Hosts, None, Reload, Acts,
            "Host name, address or directory of a Unix socket, or a list of them. Not set: a Unix socket in `unix_socket_dir`.";
        port: Port<false>, Some("5432"), Reload, Acts,
            "Port of the server.";
        user: Unset<Text>, None, Reload, Acts,
            "User of all connections to the server, whoever the client is. Not set: the client's user.";
        password: Unset<Password>, None, Reload, Acts,
            "Password of `user`. Not set: the secret that `auth_file` has for it.";
        password_file: Unset<FilePath>, None, Reload, Acts,
            "File that holds the password of `user`, so that it need not be in the configuration.", ours;
        auth_user: Unset<Text>, None, Reload, Acts,
            "In place of the global `auth_user`.";
        auth_query: Unset<Text>, None, Reload, Acts,
            "In place of the global `auth_query`.";
        auth_dbname: Unset<Text>, None, Reload, Acts,
            "In place of the global `auth_dbname`.";
        pool_size: Inherited<EntryCount>, None, Reload, Acts,
            "Server connections of each pool of this database. Not set: `default_pool_size`.";
        min_pool_size: Inherited<EntryCount>, None, Reload, Acts,
            "In place of the global `min_pool_size`.";
        reserve_pool_size: Inherited<EntryCount>, None, Reload, Acts,
            "In place of the global `reserve_pool_size`. `reserve_pool` is another name for it.";
        max_db_connections: Inherited<EntryCount>, None, Reload, Acts,
            "In place of the global `max_db_connections`, unless 0.";
        max_db_client_connections: Inherited<EntryCount>, None, Reload, Acts,
            "In place of the global `max_db_client_connections`, unless 0.";
        server_lifetime: Inherited<Seconds>, None, Reload, Acts,
            "In place of the global `server_lifetime`, unless 0.";
        query_wait_timeout: Inherited<Seconds>, None, Reload, Acts,
            "In place of the global `query_wait_timeout`. 0: wait forever.";
        pool_mode: Unset<OneOf<PoolMode>>, None, Reload, Acts,
            "In place of the global `pool_mode`.";
        load_balance_hosts: OneOf<LoadBalanceHosts>, Some("round-robin"), Reload, Acts,
            "Which entry of a list of hosts a new connection takes: the next, or (disable) the same until it fails.";
        connect_query: Unset<Text>, None, Reload, Acts,
            "Query run on every new server connection before clients use it.";
        client_encoding: Unset<Text>, None, Reload, Acts,
            "Encoding asked of the server at login.";
        datestyle: Unset<Text>, None, Reload, Acts,
            "DateStyle asked of the server at login.";
        timezone: Unset<Text>, None, Reload, Acts,
            "TimeZone asked of the server at login.";
        application_name: Unset<Text>, None, Reload, Acts,
            "application_name given to the server at login.";
    ]
}

/// Another name under which PgBouncer takes a setting of a database.
pub(crate) const DATABASE_ALIASES: &[(&str, &str)] = &[("reserve_pool", "reserve_pool_size")];

impl Database {
    pub fn new(name: impl Into<String>) -> Database {
        Database::with_defaults(name.into())
    }

    /// The database to connect to on the server.
    pub fn server_dbname(&self) -> &str {
        self.dbname.as_deref().unwrap_or(&self.name)
    }

    /// The hosts as `SHOW DATABASES` prints them; None for the default Unix socket.
    pub fn show_hosts(&self) -> Option<String> {
        <Hosts as Kind>::show(&self.hosts)
    }

    /// Whether server connections made for `other` are as good as those made for this one; if not, a reload replaces them.
    pub fn connects_like(&self, other: &Database) -> bool {
        self.connection() == other.connection()
    }

    /// The same entry without what makes no difference to connections.
    fn connection(&self) -> Database {
        Database {
            pool_size: None,
            min_pool_size: None,
            reserve_pool_size: None,
            max_db_connections: None,
            max_db_client_connections: None,
            server_lifetime: None,
            query_wait_timeout: None,
            pool_mode: None,
            auth_user: None,
            auth_query: None,
            auth_dbname: None,
            password_file: None,
            ..self.clone()
        }
    }

    /// What connections depend on, as text that another process can compare; a password shows as a mask.
    pub fn connection_text(&self) -> String {
        format!("{:?}", self.connection())
    }

    /// What a database of this name gets from the fallback entry.
    pub(crate) fn named(&self, name: &str) -> Database {
        Database { name: name.to_owned(), ..self.clone() }
    }
}

section! {
    /// One entry of `[users]`. None always means: as the database or the wider scope says.
    pub struct User {
        pub name: String,
    }

    /// The settings of a user.
    USER [
        pool_mode: Unset<OneOf<PoolMode>>, None, Reload, Acts,
            "Pool mode of this user's connections. Not set: the database's or the global one.";
        pool_size: Inherited<EntryCount>, None, Reload, Acts,
            "Server connections of each pool of this user. Not set: the database's or `default_pool_size`.";
        reserve_pool_size: Inherited<EntryCount>, None, Reload, Acts,
            "Reserve of each pool of this user. Not set: the database's or the global one.";
        max_user_connections: Inherited<EntryCount>, None, Reload, Acts,
            "In place of the global `max_user_connections`, unless 0.";
        max_user_client_connections: Inherited<EntryCount>, None, Reload, Acts,
            "In place of the global `max_user_client_connections`, unless 0.";
        query_timeout: Inherited<Seconds>, None, Reload, Acts,
            "In place of the global `query_timeout`, unless 0.";
        query_wait_timeout: Inherited<Seconds>, None, Reload, Acts,
            "In place of the database's or the global `query_wait_timeout`. 0: wait forever.";
        idle_transaction_timeout: Inherited<Seconds>, None, Reload, Acts,
            "In place of the global `idle_transaction_timeout`, unless 0.";
        transaction_timeout: Inherited<Seconds>, None, Reload, Acts,
            "In place of the global `transaction_timeout`, unless 0.";
        client_idle_timeout: Inherited<Seconds>, None, Reload, Acts,
            "In place of the global `client_idle_timeout`, unless 0.";
    ]
}

impl User {
    pub fn new(name: impl Into<String>) -> User {
        User::with_defaults(name.into())
    }
}

section! {
    /// One entry of `[peers]`: another process to which cancel requests can be passed on.
    pub struct Peer {
        /// The peer's `peer_id`.
        pub id: u32,
    }

    /// The settings of a peer.
    PEER [
        hosts("host"): Hosts, None, Reload, Acts,
            "Host name, address or directory of a Unix socket. Required.";
        port: Port<false>, Some("6432"), Reload, Acts,
            "Port of the peer.";
        pool_size: Inherited<EntryCount>, None, Reload, Acts,
            "Cancel requests on their way to the peer at once. Not set: `default_pool_size`. 0: no limit.";
    ]
}

impl Peer {
    pub fn new(id: u32) -> Peer {
        Peer::with_defaults(id)
    }

    /// The address, of which an entry accepted by the resolver has exactly one.
    pub fn host(&self) -> Option<&HostAddr> {
        self.hosts.first()
    }
}

section! {
    /// One entry of `[maintenance]`: a command that is run by the calendar.
    pub struct MaintenanceJob {
        pub name: String,
    }

    /// The settings of a job.
    MAINTENANCE [
        command: Unset<CommandLine>, None, Reload, Acts,
            "Command of pgweir with its arguments, without the word pgweir. Words with spaces stand in double quotes. Required.", ours;
        schedule: Unset<CronExpression>, None, Reload, Acts,
            "When: minute, hour, day of the month, month, day of the week. Required.", ours;
        timezone: Unset<TimeZoneName>, None, Reload, Acts,
            "In which time zone. Not set: the system's.", ours;
        jitter: Span, Some("0"), Reload, Acts,
            "A run begins up to so much later, at another moment for each job and time, but the same one for all processes.", ours;
        deadline: Span, Some("0"), Reload, Acts,
            "A run that takes longer is interrupted, as by Ctrl-C. 0: no limit.", ours;
        kill_after: Span, Some("120"), Reload, Acts,
            "A run that is interrupted and has not cleaned up by then is killed.", ours;
        lock_database: Unset<Text>, None, Reload, Acts,
            "Entry of `[databases]` on whose server processes agree who runs. Not set: the database that the command is about.", ours;
        every_process: Switch, Some("0"), Reload, Acts,
            "Run by each process that has this job, not by one of them: for what concerns its machine only.", ours;
    ]
}

impl MaintenanceJob {
    pub fn new(name: impl Into<String>) -> MaintenanceJob {
        MaintenanceJob::with_defaults(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_do_not_touch_connections() {
        let own = Database { hosts: vec![HostAddr::parse("a")], ..Database::new("d") };
        let limits = Database { pool_size: Some(5), pool_mode: Some(PoolMode::Session), ..own.clone() };
        assert!(own.connects_like(&limits));
        let moved = Database { hosts: vec![HostAddr::parse("b")], ..own.clone() };
        let forced = Database { user: Some("u".into()), ..own.clone() };
        let greeted = Database { connect_query: Some("select 1".into()), ..own.clone() };
        let encoded = Database { client_encoding: Some("UTF8".into()), ..own.clone() };
        for other in [moved, forced, greeted, encoded] {
            assert!(!own.connects_like(&other), "{other:?}");
        }
    }
}
