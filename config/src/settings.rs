//! The settings of `[pgbouncer]`: one row each, in the order of PgBouncer's `SHOW CONFIG`, ours at the end.

use std::fmt;

use crate::changes::difference;
use crate::kind::{
    Bytes, CheckQuery, Count, FileMode, FilePath, Millis, Names, Networks, OneOf, Password, PeerId, Port, PortOrNone,
    Positive, Seconds, ServerDatabase, Switch, Text, Unset, Verbosity, WholeSeconds, WorkerCount,
};
use crate::problem::{Problem, nearest, suggestion};
use crate::table::Status::{Acts, ActsExcept, NoEffect};
use crate::table::{Change, Row, Status, section};
use crate::units::{
    AuthType, LogFormat, PoolMode, ServerMaxProtocolVersion, SqlStates, SslMode, SslNegotiation, SyslogFacility,
};

/// Methods for which this is not built are not ignored.
const METHODS: Status = match (cfg!(feature = "ldap"), cfg!(feature = "pam")) {
    (true, true) => Acts,
    (true, false) => ActsExcept(&["pam"]),
    (false, true) => ActsExcept(&["ldap"]),
    (false, false) => ActsExcept(&["ldap", "pam"]),
};

section! {
    /// What `[pgbouncer]` says, all of it, with defaults filled in.
    pub struct Settings {}

    /// The settings of `[pgbouncer]`.
    SETTINGS [
        admin_users: Names, Some(""), Reload, Acts,
            "Users who may log in to the console and run every command. With `auth_type=any` everyone may.";
        application_name_add_host: Switch, Some("0"), Reload, Acts,
            "Add the client's address and port to the application_name it starts with.";
        auth_dbname: Unset<ServerDatabase>, None, Reload, Acts,
            "Database in which `auth_query` runs. Not set: the one the client asked for.";
        auth_file: Unset<FilePath>, None, Reload, Acts,
            "File with the names and secrets of users.";
        auth_hba_file: Unset<FilePath>, Some(""), Reload, Acts,
            "Rules that choose the authentication method when `auth_type` is hba, in the form of pg_hba.conf.";
        auth_ident_file: Unset<FilePath>, None, Reload, Acts,
            "Maps system users to database users when `auth_type` is hba, in the form of pg_ident.conf.";
        auth_ldap_options: Unset<Password>, None, Reload, Acts,
            "LDAP options when `auth_type` is ldap. May hold a password, so it is never shown.";
        auth_query: Text, Some("SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin"), Reload, Acts,
            "Query that reads the secret of a user whom `auth_file` does not have; run as `auth_user`.";
        auth_type: OneOf<AuthType>, Some("md5"), Reload, METHODS,
            "How clients log in. With md5, users with a SCRAM secret log in with SCRAM.";
        auth_user: Unset<Text>, None, Reload, Acts,
            "User who runs `auth_query`. Not set: only users of `auth_file` are known.";
        autodb_idle_timeout: Seconds, Some("3600"), Reload, Acts,
            "A database made from the `*` entry is forgotten when unused for this long.";
        cancel_wait_timeout: Seconds, Some("10"), Reload, Acts,
            "A cancel request waits no longer than this for a server connection. 0: forever.";
        client_idle_timeout: Seconds, Some("0"), Reload, Acts,
            "Disconnect clients idle outside a transaction for longer than this. 0: never.";
        client_login_timeout: Seconds, Some("60"), Reload, Acts,
            "Disconnect clients that have not logged in within this time. 0: never.";
        client_tls13_ciphers: Unset<Text>, None, Reload, Acts,
            "Cipher suites for TLS 1.3 towards clients. Not set: the library's.";
        client_tls_ca_file: Unset<FilePath>, Some(""), Reload, Acts,
            "Certificates of the authorities that sign client certificates.";
        client_tls_cert_file: Unset<FilePath>, Some(""), Reload, Acts,
            "Certificate shown to clients.";
        client_tls_ciphers: Text, Some("default"), Reload, Acts,
            "Ciphers for TLS 1.2 towards clients.";
        client_tls_dheparams: Text, Some("auto"), Reload, NoEffect("key exchange is by elliptic curves only"),
            "Kind of DHE key exchange towards clients.";
        client_tls_ecdhcurve: Text, Some("auto"), Reload, Acts,
            "Curve of the ECDH key exchange towards clients.";
        client_tls_key_file: Unset<FilePath>, Some(""), Reload, Acts,
            "Private key of the certificate shown to clients.";
        client_tls_protocols: Text, Some("secure"), Reload, Acts,
            "TLS versions offered to clients: all, secure, or a list of tlsv1.2 and tlsv1.3.";
        client_tls_sslmode: OneOf<SslMode>, Some("disable"), Reload, Acts,
            "Whether clients may or must use TLS.";
        conffile: Unset<FilePath>, None, Reload, Acts,
            "The configuration file in use. Changing it makes the next RELOAD read another.";
        default_pool_size: Count, Some("20"), Reload, Acts,
            "Server connections of a pool (a database and a user) where neither sets `pool_size`.";
        disable_pqexec: Switch, Some("0"), Restart, Acts,
            "Refuse the simple query protocol, which allows several statements in one message.";
        dns_max_ttl: Seconds, Some("15"), Reload, Acts,
            "How long the addresses of a host name are kept.";
        dns_nxdomain_ttl: Seconds, Some("15"), Reload, Acts,
            "How long the failure to resolve a host name is kept.";
        dns_zone_check_period: Seconds, Some("0"), Reload, Acts,
            "How often the serials of the DNS zones that names of servers are in are asked for; when one has changed, its names are looked up again. 0: never.";
        idle_transaction_timeout: Seconds, Some("0"), Reload, Acts,
            "Disconnect clients idle inside a transaction for longer than this. 0: never.";
        ignore_startup_parameters: Names, Some(""), Reload, Acts,
            "Startup parameters that are accepted and dropped, beside those that are tracked.";
        job_name: Text, Some("pgbouncer"), Restart, NoEffect("it names the service on Windows"),
            "Name of the service on Windows.";
        listen_addr: Names, Some(""), Restart, Acts,
            "Addresses to listen on for TCP, `*` for all. Empty: Unix socket only.";
        listen_backlog: Count, Some("128"), Restart, Acts,
            "Length of the queue of connections not yet accepted.";
        listen_port: Port<true>, Some("6432"), Restart, Acts,
            "Port to listen on, also part of the Unix socket's name.";
        log_connections: Switch, Some("1"), Reload, Acts,
            "Log successful logins.";
        log_disconnections: Switch, Some("1"), Reload, Acts,
            "Log disconnections with their reason.";
        log_pooler_errors: Switch, Some("1"), Reload, Acts,
            "Log errors that the pooler sends to clients.";
        log_stats: Switch, Some("1"), Reload, Acts,
            "Log statistics every `stats_period`.";
        logfile: Unset<FilePath>, Some(""), Reload, Acts,
            "File to log to, reopened at RELOAD.";
        login_notify_message: Unset<Text>, Some(""), Reload, Acts,
            "Notice sent to every client after its login. Empty: none.";
        max_client_conn: Count, Some("100"), Reload, Acts,
            "Client connections allowed in all.";
        max_db_client_connections: Count, Some("0"), Reload, Acts,
            "Client connections allowed per database. 0: no limit.";
        max_db_connections: Count, Some("0"), Reload, Acts,
            "Server connections allowed per database, whoever the user. 0: no limit.";
        max_packet_size: Bytes, Some("2147483647"), Reload, Acts,
            "Longest message let through, in bytes.";
        max_prepared_statements: Count, Some("200"), Reload, Acts,
            "Prepared statements kept per server connection in transaction and statement pooling. 0: not tracked.";
        max_user_client_connections: Count, Some("0"), Reload, Acts,
            "Client connections allowed per user. 0: no limit.";
        max_user_connections: Count, Some("0"), Reload, Acts,
            "Server connections allowed per user, whatever the database. 0: no limit.";
        min_pool_size: Count, Some("0"), Reload, Acts,
            "Server connections kept open in a pool that has a client or a forced user.";
        peer_id: PeerId, Some("0"), Reload, Acts,
            "This process's number among its peers, which pass cancel requests on to each other. 0: no peers.";
        pidfile: Unset<FilePath>, Some(""), Restart, Acts,
            "File for the process id. Needed to run as a daemon.";
        pkt_buf: Count, Some("4096"), Restart, NoEffect("buffers are sized by what they carry"),
            "Size of PgBouncer's packet buffers in bytes.";
        pool_mode: OneOf<PoolMode>, Some("session"), Reload, Acts,
            "When a server connection goes back to its pool.";
        pool_idle_timeout: Seconds, Some("0"), Reload, Acts,
            "Forget a pool that has had neither clients nor servers for this long. 0: never.";
        query_timeout: Seconds, Some("0"), Reload, Acts,
            "Cancel queries that run longer than this and disconnect the client. 0: never.";
        query_wait_notify: WholeSeconds<0>, Some("5"), Reload, Acts,
            "Tell a client by a notice that it is queued after waiting this long. 0: never.";
        query_wait_timeout: Seconds, Some("120"), Reload, Acts,
            "Disconnect clients that wait longer than this for a server connection. 0: never.";
        reserve_pool_size: Count, Some("0"), Reload, Acts,
            "Server connections a pool may open beyond its size when clients wait for `reserve_pool_timeout`.";
        reserve_pool_timeout: Seconds, Some("5"), Reload, Acts,
            "How long a client waits before the reserve is used. 0: the reserve is never used.";
        resolv_conf: Unset<FilePath>, Some(""), Restart, Acts,
            "File to use in place of /etc/resolv.conf: nameserver, search, domain and the options ndots, timeout and attempts. Names are then looked up in /etc/hosts and at its servers, not by the system. Empty: by the system.";
        sbuf_loopcnt: Count, Some("5"), Reload, NoEffect("a busy connection yields by itself"),
            "How often PgBouncer reads from one connection before it turns to the next.";
        scram_iterations: Positive, Some("4096"), Reload, Acts,
            "Iterations for SCRAM secrets made from plain passwords.";
        server_check_delay: Seconds, Some("30"), Reload, Acts,
            "A server connection used within this time is handed out without `server_check_query`.";
        server_check_query: CheckQuery, Some("<empty>"), Reload, Acts,
            "Query that tests a server connection. `<empty>`: an empty query. Nothing: no test.";
        server_connect_timeout: Seconds, Some("15"), Reload, Acts,
            "Close server connections that have not logged in within this time. 0: never.";
        server_fast_close: Switch, Some("0"), Reload, Acts,
            "In session pooling, close a server that must go after its transaction, not after the session.";
        server_idle_timeout: Seconds, Some("600"), Reload, Acts,
            "Close server connections idle for longer than this. 0: never.";
        server_lifetime: Seconds, Some("3600"), Reload, Acts,
            "Close unused server connections older than this. 0: use each once.";
        server_login_retry: Seconds, Some("15"), Reload, Acts,
            "After a failed connection to a server, wait this long before the next.";
        server_reset_query: Text, Some("DISCARD ALL"), Reload, Acts,
            "Query that cleans a server connection between clients in session pooling. Empty: none.";
        server_reset_query_always: Switch, Some("0"), Reload, Acts,
            "Run `server_reset_query` in all pool modes.";
        server_round_robin: Switch, Some("0"), Reload, Acts,
            "Hand out the server connection idle for longest, in place of the one used last.";
        server_tls13_ciphers: Unset<Text>, None, Reload, Acts,
            "Cipher suites for TLS 1.3 towards servers. Not set: the library's.";
        server_tls_ca_file: Unset<FilePath>, Some(""), Reload, Acts,
            "Certificates of the authorities that sign server certificates.";
        server_tls_cert_file: Unset<FilePath>, Some(""), Reload, Acts,
            "Certificate shown to servers.";
        server_tls_ciphers: Text, Some("default"), Reload, Acts,
            "Ciphers for TLS 1.2 towards servers.";
        server_tls_key_file: Unset<FilePath>, Some(""), Reload, Acts,
            "Private key of the certificate shown to servers.";
        server_tls_protocols: Text, Some("secure"), Reload, Acts,
            "TLS versions offered to servers: all, secure, or a list of tlsv1.2 and tlsv1.3.";
        server_tls_sslmode: OneOf<SslMode>, Some("prefer"), Reload, Acts,
            "Whether connections to servers may or must use TLS.";
        so_reuseport: Switch, Some("0"), Restart, Acts,
            "Let several processes listen on the same port.";
        stats_period: WholeSeconds<1>, Some("60"), Reload, Acts,
            "Over how long averages are taken, and how often they are logged.";
        stats_users: Names, Some(""), Reload, Acts,
            "Users who may log in to the console and look, but change nothing.";
        suspend_timeout: Seconds, Some("10"), Reload, Acts,
            "How long SUSPEND waits for buffers to drain before it drops a connection.";
        syslog: Switch, Some("0"), Reload, Acts,
            "Log to syslog, besides the file. Its socket is /dev/log.";
        syslog_facility: OneOf<SyslogFacility>, Some("daemon"), Reload, Acts,
            "Under which heading syslog files our lines.";
        syslog_ident: Text, Some("pgbouncer"), Reload, Acts,
            "Under which name our lines go to syslog.";
        tcp_defer_accept: Switch, Some("1"), Reload, Acts,
            "Accept a TCP connection when its first data has come.";
        tcp_keepalive: Switch, Some("1"), Reload, Acts,
            "Probe idle TCP connections.";
        tcp_keepcnt: Count, Some("0"), Reload, Acts,
            "Unanswered probes after which a TCP connection is dead. 0: the system's, towards servers 9.";
        tcp_keepidle: WholeSeconds<0>, Some("0"), Reload, Acts,
            "Idle time before the first probe. 0: the system's, towards servers 30.";
        tcp_keepintvl: WholeSeconds<0>, Some("0"), Reload, Acts,
            "Time between probes. 0: the system's, towards servers 10.";
        tcp_socket_buffer: Count, Some("0"), Reload, Acts,
            "Size of the socket buffers in bytes. 0: the system's.";
        tcp_user_timeout: Millis, Some("0"), Reload, Acts,
            "Milliseconds that sent data may stay unacknowledged before a TCP connection is dead. 0: the system's, towards servers 120000.";
        track_extra_parameters: Names, Some("IntervalStyle"), Restart, Acts,
            "Session parameters that follow a client from server to server, beside the usual ones. Only those that the server reports.";
        transaction_timeout: Seconds, Some("0"), Reload, Acts,
            "Disconnect clients whose transaction takes longer than this. 0: never.";
        unix_socket_dir: Unset<Text>, Some("/tmp"), Restart, Acts,
            "Directory of our Unix socket, and of a server's that has no host. `@` in front: abstract. Empty: none.";
        unix_socket_group: Unset<Text>, Some(""), Restart, Acts,
            "Group that owns our Unix socket.";
        unix_socket_mode: FileMode, Some("0777"), Restart, Acts,
            "Permissions of our Unix socket.";
        user: Unset<Text>, None, Restart, Acts,
            "System user to become after the start as root.";
        verbose: Verbosity, None, Reload, Acts,
            "How much more to log, 0 to 3: DEBUG lines too from 1 on. Messages of the protocol are not logged, so 2 and 3 show no more.";
        workers: WorkerCount, Some("auto"), Restart, Acts,
            "Threads that relay. auto: one, and more up to the number of cores while they are busy.", ours;
        takeover_timeout: Seconds, Some("3600"), Reload, Acts,
            "After a restart with `-R`, how long the old process goes on serving clients that cannot go to the new one (replication, session pooling with TLS to the server, or a query that runs). 0: until they go.", ours;
        maintenance_state_dir: Unset<FilePath>, None, Reload, Acts,
            "Directory where the last results of the jobs of `[maintenance]` are kept. Not set: pgweir/schedule in $XDG_STATE_HOME or ~/.local/state.", ours;
        auth_query_cache_time: Seconds, Some("1"), Reload, Acts,
            "How long the answer of `auth_query` is used again for logins of the same user, unless one fails. 0: every login asks.", ours;
        io_uring: Switch, Some("1"), Restart, Acts,
            "Send through io_uring where the system allows it.", ours;
        log_format: OneOf<LogFormat>, Some("text"), Reload, Acts,
            "How log lines look: text as PgBouncer writes it, or one JSON object per line with time, pid, level, client or server, user, database, address and message.", ours;
        max_client_prepared_size: Bytes, Some("16777216"), Reload, Acts,
            "Bytes of prepared statements, names and texts, that one client may have.", ours;
        max_client_logins: Unset<Count>, None, Reload, Acts,
            "Connections at once whose users have not proved yet who they are. Not set: as many as `max_client_conn`. 0: no limit. Some more are kept for the console, for `admin_users` and for cancel requests, which may also always come over the Unix socket.", ours;
        max_client_logins_per_address: Count, Some("0"), Reload, Acts,
            "The same for each address of clients over TCP; of IPv6 addresses the first 64 bits count. 0: no limit, as is needed where all clients come from one address, behind a balancer (but see `proxy_protocol_port`) or NAT.", ours;
        proxy_protocol_port: PortOrNone, Some("0"), Restart, Acts,
            "A further port on every address of `listen_addr`, for load balancers: a connection begins with a PROXY header of version 1 or 2, and the client's address is the one in it, in rules, limits, log and console. 0: none.", ours;
        proxy_protocol_networks: Networks, Some(""), Reload, Acts,
            "Addresses and networks of the balancers that may connect to `proxy_protocol_port`. Empty: none may.", ours;
        shutdown_grace: Seconds, Some("0"), Reload, Acts,
            "When a shutdown that waits for clients (SIGTERM) has lasted this long, clients outside a transaction are disconnected with SQLSTATE 57P01, the others when they have come to the end of theirs. 0: they are waited for.", ours;
        shutdown_timeout: Seconds, Some("0"), Reload, Acts,
            "A shutdown that waits for clients or servers ends at the latest after this long, and whoever is left is disconnected with SQLSTATE 57P01. 0: it takes as long as it takes.", ours;
        sqlstates: OneOf<SqlStates>, Some("precise"), Reload, Acts,
            "Codes of the errors that the pooler itself sends. precise: those that say what happened, such as 53300 or 57014. pgbouncer: PgBouncer's, 08P01 for nearly all, for applications that decide by the code whether to try again.", ours;
        track_session_use: Switch, Some("1"), Reload, Acts,
            "In transaction and statement pooling, count what needs a session (temporary tables, session locks, LISTEN, ...; see `SHOW SESSION_USE`), and warn in the log once per client and kind.", ours;
        server_max_protocol_version: OneOf<ServerMaxProtocolVersion>, Some("3.0"), Reload, Acts,
            "Newest version of the protocol that servers are asked for. 3.2 has longer cancel keys, which PostgreSQL 18 gives out; older servers negotiate 3.0, and one that fails when asked for 3.2 is asked for 3.0 instead, for ten minutes.", ours;
        server_tls_sslnegotiation: OneOf<SslNegotiation>, Some("postgres"), Reload, Acts,
            "How TLS towards servers begins. postgres: the server is asked first. direct: with the first byte, which saves a round trip and needs PostgreSQL 17 and a `server_tls_sslmode` of require or stricter.", ours;
    ]
}

/// Another name under which PgBouncer takes a setting.
pub(crate) const SETTING_ALIASES: &[(&str, &str)] = &[("service_name", "job_name")];

/// One line of `SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShowRow {
    pub key: &'static str,
    /// None is null: nothing is set.
    pub value: Option<String>,
    /// None is null: nothing is set by default.
    pub default: Option<&'static str>,
    pub changeable: bool,
}

/// Why `SET` refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetError {
    /// There is no such setting; one like it is named, if there is one.
    Unknown { key: String, nearest: Option<&'static str> },
    /// It only changes with a restart.
    NotChangeable { key: &'static str },
    /// The value is none of those accepted.
    Invalid { key: &'static str, expected: String },
    /// The value cannot be obeyed by this version.
    Unsupported { key: &'static str, value: String },
    /// A file that it makes count cannot be used.
    File(Problem),
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetError::Unknown { key, nearest } => {
                let nearest = nearest.map(|known| format!("\"{known}\""));
                write!(f, "unknown setting \"{key}\"{}", suggestion(nearest))
            }
            SetError::NotChangeable { key } => {
                write!(f, "{key} cannot be changed while the process runs")
            }
            SetError::Invalid { key, expected } => {
                write!(f, "invalid value for {key}, expected {expected}")
            }
            SetError::Unsupported { key, value } => {
                write!(f, "{key}={value} is not supported by this version")
            }
            SetError::File(problem) => problem.fmt(f),
        }
    }
}

impl std::error::Error for SetError {}

impl Default for Settings {
    fn default() -> Settings {
        Settings::with_defaults()
    }
}

impl Settings {
    /// The lines of `SHOW CONFIG`, in PgBouncer's order.
    pub fn show(&self) -> Vec<ShowRow> {
        let line = |row: &'static Row<Settings>| ShowRow {
            key: row.key,
            value: row.value(self),
            default: row.default,
            changeable: row.change == Change::Reload,
        };
        SETTINGS.iter().map(line).collect()
    }

    /// Changes one setting. On an error nothing is changed. What follows from it is for `Config::set`.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SetError> {
        let Some(row) = SETTINGS.iter().find(|row| row.key == key) else {
            let nearest = nearest(key, SETTINGS.iter().map(|row| row.key));
            return Err(SetError::Unknown { key: key.to_owned(), nearest });
        };
        let key = row.key;
        if row.change == Change::Restart {
            return Err(SetError::NotChangeable { key });
        }
        let mut changed = self.clone();
        if !(row.parse)(&mut changed, value) {
            return Err(SetError::Invalid { key, expected: (row.accepts)() });
        }
        let value = row.value(&changed).unwrap_or_default();
        if row.refused().contains(&value.as_str()) {
            return Err(SetError::Unsupported { key, value });
        }
        *self = changed;
        Ok(())
    }

    /// Takes over from the running settings those that only change with a restart, and says what that has kept from changing.
    pub fn keep_unchangeable(&mut self, running: &Settings) -> Vec<String> {
        let fixed = SETTINGS.iter().filter(|row| row.change == Change::Restart);
        let differing = fixed.filter(|row| !(row.same)(self, running));
        let kept: Vec<&Row<Settings>> = differing.collect();
        let wanted = kept.iter().map(|row| difference(row, running, self)).collect();
        for row in &kept {
            (row.copy)(self, running);
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::units::Workers;

    fn shown(settings: &Settings, key: &str) -> ShowRow {
        settings.show().into_iter().find(|row| row.key == key).unwrap()
    }

    #[test]
    fn defaults_are_typed() {
        let settings = Settings::default();
        assert_eq!(settings.default_pool_size, 20);
        assert_eq!(settings.auth_type, AuthType::Md5);
        assert_eq!(settings.server_lifetime, Duration::from_secs(3600));
        assert_eq!(settings.auth_file, None);
        assert_eq!(settings.logfile, None);
        assert_eq!(settings.server_check_query.as_deref(), Some(""));
        assert_eq!(settings.track_extra_parameters.to_vec(), ["IntervalStyle"]);
        assert_eq!(settings.unix_socket_mode, 0o777);
        assert_eq!(settings.workers, Workers::Auto);
        assert!(settings.io_uring && settings.tcp_keepalive && !settings.syslog);
    }

    #[test]
    fn show_has_nulls_where_pgbouncer_has() {
        let settings = Settings::default();
        let row = |key: &str| {
            let row = shown(&settings, key);
            (row.value, row.default)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(row("auth_user"), (None, None));
        assert_eq!(row("logfile"), (text(""), Some("")));
        assert_eq!(row("verbose"), (text("0"), None));
        assert_eq!(row("unix_socket_mode"), (text("511"), Some("0777")));
        assert_eq!(row("server_check_query"), (text("<empty>"), Some("<empty>")));
        assert_eq!(row("server_lifetime"), (text("3600"), Some("3600")));
    }

    #[test]
    fn set_changes_a_value() {
        let mut settings = Settings::default();
        settings.set("pool_mode", "Transaction").unwrap();
        settings.set("query_timeout", "0.5").unwrap();
        settings.set("admin_users", "alice, bob").unwrap();
        settings.set("server_check_query", "").unwrap();
        assert_eq!(settings.pool_mode, PoolMode::Transaction);
        assert_eq!(shown(&settings, "query_timeout").value.as_deref(), Some("0.5"));
        assert_eq!(shown(&settings, "admin_users").value.as_deref(), Some("alice, bob"));
        assert_eq!(shown(&settings, "server_check_query").value.as_deref(), Some(""));
    }

    #[test]
    fn set_refuses_and_changes_nothing() {
        let mut settings = Settings::default();
        let mut refused = |key: &str, value: &str| settings.set(key, value).unwrap_err().to_string();
        assert_eq!(refused("pool_mod", "x"), "unknown setting \"pool_mod\", the nearest known one is \"pool_mode\"");
        assert_eq!(refused("frobnicate", "x"), "unknown setting \"frobnicate\"");
        assert_eq!(refused("listen_port", "1"), "listen_port cannot be changed while the process runs");
        assert_eq!(
            refused("pool_mode", "x"),
            "invalid value for pool_mode, expected session, transaction or statement"
        );
        #[cfg(not(feature = "pam"))]
        assert_eq!(refused("auth_type", "PAM"), "auth_type=pam is not supported by this version");
        assert_eq!(settings, Settings::default());
        // To what it is already, anything may be set.
        assert_eq!(settings.set("max_prepared_statements", "200"), Ok(()));
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut settings = Settings::default();
        let row = SETTINGS.iter().find(|row| row.key == "auth_ldap_options").unwrap();
        assert!((row.parse)(&mut settings, "ldapbindpasswd=hunter2"));
        assert!(!format!("{settings:?} {:?}", settings.show()).contains("hunter2"));
    }

    #[test]
    fn a_reload_keeps_what_only_a_restart_changes() {
        let running = Settings::default();
        let mut reloaded = Settings { listen_port: 1, disable_pqexec: true, max_client_conn: 7, ..running.clone() };
        assert_eq!(reloaded.keep_unchangeable(&running), ["disable_pqexec: 0 -> 1", "listen_port: 6432 -> 1"]);
        assert_eq!(reloaded, Settings { max_client_conn: 7, ..running });
    }
}
