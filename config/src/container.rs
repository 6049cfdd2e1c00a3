//! The environment in place of a file: the names that the common PgBouncer container images take, edoburu's and bitnami's, so
//! that a container needs no file. They are read only where no file was given, as the images do.

use crate::entries::DATABASE;
use crate::env::{Reader, Variables};
use crate::ini::split_pairs;
use crate::problem::{ENVIRONMENT, Place};
use crate::raw::{Entry, Item, Login, Raw};
use crate::secret::Secret;
use crate::settings::SETTINGS;
use crate::units::parse_switch;
use crate::url::{Url, split_list};
use crate::userlist::{UserSecret, Userlist};

/// The prefix of bitnami's names.
pub(crate) const BITNAMI_PREFIX: &str = "PGBOUNCER_";

/// Settings that edoburu's image takes under their own names in capitals. The rest are not read without a prefix, since names
/// such as USER and JOB_NAME mean other things elsewhere.
pub(crate) const CONTAINER_SETTINGS: &[&str] = &[
    "admin_users",
    "application_name_add_host",
    "auth_dbname",
    "auth_file",
    "auth_hba_file",
    "auth_query",
    "auth_type",
    "auth_user",
    "autodb_idle_timeout",
    "client_idle_timeout",
    "client_login_timeout",
    "client_tls_ca_file",
    "client_tls_cert_file",
    "client_tls_ciphers",
    "client_tls_dheparams",
    "client_tls_ecdhcurve",
    "client_tls_key_file",
    "client_tls_protocols",
    "client_tls_sslmode",
    "default_pool_size",
    "disable_pqexec",
    "dns_max_ttl",
    "dns_nxdomain_ttl",
    "idle_transaction_timeout",
    "ignore_startup_parameters",
    "listen_addr",
    "listen_backlog",
    "listen_port",
    "log_connections",
    "log_disconnections",
    "log_pooler_errors",
    "log_stats",
    "logfile",
    "max_client_conn",
    "max_db_connections",
    "max_packet_size",
    "max_prepared_statements",
    "max_user_connections",
    "min_pool_size",
    "pkt_buf",
    "pool_mode",
    "query_timeout",
    "query_wait_timeout",
    "reserve_pool_size",
    "reserve_pool_timeout",
    "sbuf_loopcnt",
    "server_check_delay",
    "server_check_query",
    "server_connect_timeout",
    "server_idle_timeout",
    "server_lifetime",
    "server_login_retry",
    "server_reset_query",
    "server_reset_query_always",
    "server_round_robin",
    "server_tls_ca_file",
    "server_tls_cert_file",
    "server_tls_ciphers",
    "server_tls_key_file",
    "server_tls_protocols",
    "server_tls_sslmode",
    "stats_period",
    "stats_users",
    "suspend_timeout",
    "tcp_defer_accept",
    "tcp_keepalive",
    "tcp_keepcnt",
    "tcp_keepidle",
    "tcp_keepintvl",
    "tcp_socket_buffer",
    "tcp_user_timeout",
    "unix_socket_dir",
    "verbose",
];

/// Settings of a database that edoburu's image takes.
pub(crate) const CONTAINER_DATABASE: &[(&str, &str)] =
    &[("CLIENT_ENCODING", "client_encoding"), ("POOL_SIZE", "pool_size"), ("TIMEZONE", "timezone")];

/// Settings that bitnami's image calls otherwise than `PGBOUNCER_<SETTING>`.
pub(crate) const BITNAMI_SETTINGS: &[(&str, &str)] = &[
    ("PGBOUNCER_DAEMON_USER", "user"),
    ("PGBOUNCER_LISTEN_ADDRESS", "listen_addr"),
    ("PGBOUNCER_LOG_FILE", "logfile"),
    ("PGBOUNCER_PID_FILE", "pidfile"),
    ("PGBOUNCER_PORT", "listen_port"),
    ("PGBOUNCER_SOCKET_DIR", "unix_socket_dir"),
    ("PGBOUNCER_SOCKET_GROUP", "unix_socket_group"),
    ("PGBOUNCER_SOCKET_MODE", "unix_socket_mode"),
];

/// What differs from a file's defaults where there is only the environment; both images have it so.
pub(crate) const CONTAINER_DEFAULTS: &[(&str, &str)] =
    &[("ignore_startup_parameters", "extra_float_digits"), ("listen_addr", "*")];

/// Adds what the variables of the container images say to `raw`; for a process that was given no file.
pub(crate) fn read(variables: &Variables, raw: &mut Raw) {
    let place = Place::file(ENVIRONMENT);
    raw.settings.push(Item::Start(place.clone()));
    for (key, value) in CONTAINER_DEFAULTS {
        raw.set(key, *value, place.clone());
    }
    let mut reader = Reader::new(variables, raw);
    for key in CONTAINER_SETTINGS {
        reader.setting(key, &key.to_ascii_uppercase());
    }
    reader.bitnami_settings();
    reader.databases();
    reader.passwords_of("ADMIN_USERS", "ADMIN_PASSWORDS");
    reader.passwords_of("STATS_USERS", "STATS_PASSWORDS");
    reader.warn_unread(BITNAMI_PREFIX);
    if reader.raw.databases.is_empty() && reader.raw.errors.is_empty() {
        let message = "there is no configuration file, and neither DATABASE_URL nor DB_HOST names a server";
        reader.raw.errors.push(place.problem(message));
    }
}

impl Reader<'_> {
    fn bitnami_settings(&mut self) {
        for row in SETTINGS.iter().filter(|row| !row.ours && row.key != "user") {
            self.setting(row.key, &format!("{BITNAMI_PREFIX}{}", row.key.to_ascii_uppercase()));
        }
        for (name, key) in BITNAMI_SETTINGS {
            self.setting(key, name);
        }
        if let Some(text) = self.get("PGBOUNCER_USERLIST") {
            let place = Self::place("PGBOUNCER_USERLIST");
            let (userlist, problems) = Userlist::parse(&text, &place);
            self.raw.errors.extend(problems);
            for (user, secret) in userlist.iter() {
                self.login(user, secret.clone(), &place);
            }
        }
    }

    /// A user whose secret is given; to clients as an entry of the `auth_file` would be.
    fn login(&mut self, user: &str, secret: UserSecret, place: &Place) {
        let known = self.raw.logins.iter().find(|login| login.user == user);
        if known.is_some_and(|login| login.secret != secret) {
            let message = format!("gives the user \"{user}\" another password than a variable before");
            self.raw.errors.push(place.problem(message));
        } else if known.is_none() {
            self.raw.logins.push(Login { user: user.to_owned(), secret });
        }
    }

    fn password(&mut self, user: &str, password: &str, place: &Place) {
        self.login(user, UserSecret::Plain(Secret::new(password)), place);
    }

    /// Users and passwords in two lists of the same length.
    fn passwords_of(&mut self, users_name: &str, passwords_name: &str) {
        let Some(passwords) = self.get(passwords_name) else {
            return;
        };
        let users = self.get(users_name).unwrap_or_default();
        let (users, passwords): (Vec<&str>, Vec<&str>) = (users.split(',').collect(), passwords.split(',').collect());
        if users.len() != passwords.len() {
            return self.error(passwords_name, format!("must have as many entries as {users_name}"));
        }
        let place = Self::place(passwords_name);
        for (user, password) in users.into_iter().zip(passwords) {
            self.password(user.trim(), password, &place);
        }
    }

    /// Databases from the first family of names that is there.
    fn databases(&mut self) {
        let single = self.get("DATABASE_URL").map(|url| ("DATABASE_URL", url));
        let list = self.get("DATABASE_URLS").map(|urls| split_list(&urls)).unwrap_or_default();
        let urls: Vec<(&str, String)> =
            single.into_iter().chain(list.into_iter().map(|url| ("DATABASE_URLS", url))).collect();
        if !urls.is_empty() {
            for (name, url) in urls {
                match Url::parse(url.trim()) {
                    Ok(url) => self.database_of_url(name, url),
                    Err(message) => self.error(name, message),
                }
            }
        } else if let Some(host) = self.get("DB_HOST") {
            self.database_of_edoburu(host);
        } else {
            self.database_of_bitnami();
            self.dsns();
        }
    }

    fn database_of_url(&mut self, name: &str, url: Url) {
        let place = Self::place(name);
        if let (Some(user), Some(password)) = (&url.user, &url.password) {
            self.password(user, password.expose(), &place);
        }
        let mut pairs = vec![("host", url.hosts)];
        pairs.extend(url.port.map(|port| ("port", port)));
        for (key, value) in url.parameters {
            match DATABASE.iter().find(|row| row.key == key) {
                Some(row) => pairs.push((row.key, value)),
                None if key == "sslmode" => self.raw.set("server_tls_sslmode", value, place.clone()),
                None if key == "sslnegotiation" => self.raw.set("server_tls_sslnegotiation", value, place.clone()),
                None => {
                    let message = format!("the parameter \"{key}\" of the URL is not known and ignored");
                    self.raw.warnings.push(place.problem(message));
                }
            }
        }
        self.database(&place, url.database, url.user, pairs);
    }

    fn database_of_edoburu(&mut self, host: String) {
        let place = Self::place("DB_HOST");
        let user = self.get("DB_USER");
        if let (Some(user), Some(password)) = (&user, self.get("DB_PASSWORD")) {
            self.password(user, &password, &place);
        }
        let mut pairs = vec![("host", host)];
        pairs.extend(self.get("DB_PORT").map(|port| ("port", port)));
        let name = self.get("DB_NAME");
        self.database(&place, name, user, pairs);
    }

    fn database_of_bitnami(&mut self) {
        let Some(host) = self.get("POSTGRESQL_HOST") else {
            return;
        };
        let place = Self::place("POSTGRESQL_HOST");
        let user = self.get("POSTGRESQL_USERNAME").unwrap_or("postgres".to_owned());
        let password = self.get("POSTGRESQL_PASSWORD");
        if let Some(password) = &password {
            self.password(&user, password, &place);
        }
        let name = self.get("PGBOUNCER_DATABASE").unwrap_or("postgres".to_owned());
        let mut pairs = vec![("host", host)];
        pairs.extend(self.get("POSTGRESQL_PORT").map(|port| ("port", port)));
        if name != "*" {
            pairs.extend(self.get("POSTGRESQL_DATABASE").map(|dbname| ("dbname", dbname)));
        }
        if self.is_yes("PGBOUNCER_SET_DATABASE_USER") {
            pairs.push(("user", user.clone()));
        }
        if self.is_yes("PGBOUNCER_SET_DATABASE_PASSWORD") {
            pairs.extend(password.map(|password| ("password", password)));
        }
        pairs.extend(self.get("PGBOUNCER_CONNECT_QUERY").map(|query| ("connect_query", query)));
        self.database(&place, Some(name), Some(user), pairs);
    }

    /// `PGBOUNCER_DSN_0`, `_1` and so on: each a line of `[databases]`.
    fn dsns(&mut self) {
        for number in 0.. {
            let name = format!("{BITNAMI_PREFIX}DSN_{number}");
            let Some(line) = self.get(&name) else {
                return;
            };
            let place = Self::place(&name);
            let pairs = match line.split_once('=') {
                Some((database, pairs)) => split_pairs(pairs).map(|pairs| (database.trim(), pairs)),
                None => Err("expected \"name=host=... port=...\"".to_owned()),
            };
            match pairs {
                Ok((database, pairs)) => self.raw.databases.push(Entry::new(database.to_owned(), place, pairs)),
                Err(message) => self.error(&name, message),
            }
        }
    }

    /// Adds a database; without a name it is the fallback for every name.
    fn database(
        &mut self,
        place: &Place,
        name: Option<String>,
        user: Option<String>,
        mut pairs: Vec<(&'static str, String)>,
    ) {
        for (variable, key) in CONTAINER_DATABASE {
            pairs.extend(self.get(variable).map(|value| (*key, value)));
        }
        let name = name.unwrap_or("*".to_owned());
        // Who logs in with any name has no login of their own on the server.
        let is_any = |item: &Item| matches!(item, Item::Set(pair) if pair.key == "auth_type" && pair.value == "any");
        if self.raw.settings.iter().any(is_any) && !pairs.iter().any(|(key, _)| *key == "user") {
            pairs.extend(user.map(|user| ("user", user)));
        }
        let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value));
        self.raw.databases.push(Entry::new(name, place.clone(), pairs));
    }

    fn is_yes(&mut self, name: &str) -> bool {
        self.get(name).is_some_and(|text| parse_switch(&text) == Some(true))
    }
}
