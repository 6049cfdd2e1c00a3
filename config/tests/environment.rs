//! Settings from the environment, alone and over a file.

use std::ffi::OsString;
use std::path::Path;

use pgweir_config::{Config, Loaded, PoolMode, Problems, Secret, Source, SslMode, UserSecret};

fn source(file: Option<&str>, variables: &[(&str, &str)]) -> Source {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Source::new(file.map(Path::new), variables)
}

fn load(file: Option<&str>, variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
    source(file, variables).load()
}

/// What the environment alone makes, which must be without problems.
fn container(variables: &[(&str, &str)]) -> Config {
    match load(None, variables) {
        Ok(loaded) => {
            let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
            assert_eq!(warnings, [""; 0]);
            loaded.config
        }
        Err(problems) => panic!("does not load:\n{problems}"),
    }
}

fn problems(file: Option<&str>, variables: &[(&str, &str)]) -> Vec<String> {
    load(file, variables).unwrap_err().errors.iter().map(ToString::to_string).collect()
}

fn plain(password: &str) -> UserSecret {
    UserSecret::Plain(Secret::new(password))
}

const FILE: Option<&str> = Some("tests/data/debian.ini");

#[test]
fn our_variables_go_over_a_file() {
    let variables =
        [("PGWEIR_POOL_MODE", "statement"), ("PGWEIR_AUTH_FILE", "tests/data/userlist.txt"), ("POOL_MODE", "session")];
    for file in [FILE, Some("tests/data/debian.toml")] {
        let config = load(file, &variables).unwrap().config;
        assert_eq!(config.settings.pool_mode, PoolMode::Statement);
        assert_eq!(config.settings.max_client_conn, 2000);
        assert_eq!(config.userlist.len(), 4);
    }
}

#[test]
fn names_of_images_are_not_read_beside_a_file() {
    let variables = [("DATABASE_URL", "postgres://u:p@h/other"), ("LISTEN_PORT", "1"), ("PGBOUNCER_PORT", "2")];
    let config = load(FILE, &variables).unwrap().config;
    assert_eq!(config.settings.listen_port, 6432);
    assert!(!config.databases.contains_key("other"));
}

#[test]
fn our_variables_that_are_wrong() {
    let found =
        problems(FILE, &[("PGWEIR_POOL_MOD", "session"), ("PGWEIR_LISTEN_PORT", "x"), ("PGWEIR_POOL_MODE", "x")]);
    assert_eq!(
        found,
        [
            "environment variable PGWEIR_LISTEN_PORT: invalid value \"x\" for listen_port, expected a port from 1 to 65535",
            "environment variable PGWEIR_POOL_MOD: no such setting, the nearest known one is PGWEIR_POOL_MODE",
            "environment variable PGWEIR_POOL_MODE: invalid value \"x\" for pool_mode, expected session, transaction or statement",
        ]
    );
}

#[test]
fn variables_that_kubernetes_makes_for_a_service_are_not_ours() {
    let links = [
        ("PGWEIR_PORT", "tcp://10.0.0.1:6432"),
        ("PGWEIR_PORT_6432_TCP", "tcp://10.0.0.1:6432"),
        ("PGWEIR_PORT_6432_TCP_PORT", "6432"),
        ("PGWEIR_RW_SERVICE_HOST", "10.0.0.1"),
        ("PGWEIR_SERVICE_PORT_SQL", "6432"),
        ("PGBOUNCER_PORT", "tcp://10.0.0.1:6432"),
        ("DB_PORT", "tcp://10.0.0.2:5432"),
        ("DB_HOST", "db"),
    ];
    let config = container(&[&links[..], &[("DB_USER", "u"), ("DB_PASSWORD", "p")]].concat());
    assert_eq!(config.settings.listen_port, 6432);
    assert_eq!(config.autodb.unwrap().port, 5432);
}

#[test]
fn values_from_files() {
    let config = load(FILE, &[("PGWEIR_SERVER_RESET_QUERY_FILE", "tests/data/password.txt")]).unwrap().config;
    assert_eq!(config.settings.server_reset_query, "it's secret");
    let variables = [("DB_HOST", "h"), ("DB_USER", "u"), ("DB_PASSWORD_FILE", "tests/data/password.txt")];
    assert_eq!(container(&variables).userlist.get("u"), Some(&plain("it's secret")));
}

#[test]
fn values_from_files_that_are_wrong() {
    let found = problems(FILE, &[("PGWEIR_USER_FILE", "tests/data/none")]);
    assert!(
        found[0].starts_with("environment variable PGWEIR_USER_FILE: could not read the file \"tests/data/none\": ")
    );
    let twice = [("PGWEIR_USER", "a"), ("PGWEIR_USER_FILE", "tests/data/password.txt")];
    assert!(problems(FILE, &twice)[0].contains("PGWEIR_USER: set as well as PGWEIR_USER_FILE"));
    let twice = [
        ("DB_HOST", "h"),
        ("DB_USER", "u"),
        ("DB_PASSWORD", "hunter2"),
        ("DB_PASSWORD_FILE", "tests/data/password.txt"),
    ];
    let found = problems(None, &twice);
    assert!(found[0].contains("DB_PASSWORD: set as well as DB_PASSWORD_FILE") && !found[0].contains("hunter2"));
}

#[test]
fn nothing_at_all() {
    let none = "environment: there is no configuration file, and neither DATABASE_URL nor DB_HOST names a server";
    assert_eq!(problems(None, &[("USER", "root"), ("PORT", "80"), ("WORKERS", "x")]), [none]);
}

#[test]
fn a_database_url() {
    let config = container(&[
        ("DATABASE_URL", "postgres://app:s%40cret@db:6543/orders?sslmode=disable&pool_size=7"),
        ("USER", "root"),
        ("JOB_NAME", "build"),
    ]);
    let orders = &config.databases["orders"];
    assert_eq!((orders.show_hosts().as_deref(), orders.port, orders.pool_size), (Some("db"), 6543, Some(7)));
    assert_eq!((&orders.user, &orders.password, &config.autodb), (&None, &None, &None));
    assert_eq!(config.userlist.get("app"), Some(&plain("s@cret")));
    let settings = &config.settings;
    assert_eq!((settings.listen_addr.text(), settings.listen_port), ("*", 6432));
    assert!(settings.ignore_startup_parameters.has("extra_float_digits"));
    assert_eq!((&settings.user, settings.job_name.as_str()), (&None, "pgbouncer"));
    assert!(settings.admin_users.is_empty());
}

#[test]
fn a_url_s_parameters() {
    let url = "postgres://u:p@h/d?connect_timeout=5&sslmode=require";
    let loaded = load(None, &[("DATABASE_URL", url)]).unwrap();
    assert_eq!(loaded.config.settings.server_tls_sslmode, SslMode::Require);
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["environment variable DATABASE_URL: the parameter \"connect_timeout\" of the URL is not known and ignored"]
    );
}

#[test]
fn several_urls() {
    let config = container(&[("DATABASE_URLS", "postgres://a:x@h1/one,postgres://b:y@h2,h3/two")]);
    assert_eq!(config.databases["one"].show_hosts().as_deref(), Some("h1"));
    assert_eq!(config.databases["two"].show_hosts().as_deref(), Some("h2,h3"));
    assert_eq!(config.userlist.len(), 2);
    let found = problems(None, &[("DATABASE_URLS", "postgres://a:x@h/one,postgres://a:y@h/two")]);
    assert_eq!(
        found,
        ["environment variable DATABASE_URLS: gives the user \"a\" another password than a variable before"]
    );
}

#[test]
fn the_variables_of_edoburu_s_image() {
    let config = container(&[
        ("DB_HOST", "db"),
        ("DB_PORT", "5433"),
        ("DB_USER", "app"),
        ("DB_PASSWORD", "md5 is no hash"),
        ("DB_NAME", "orders"),
        ("CLIENT_ENCODING", "UTF8"),
        ("AUTH_TYPE", "scram-sha-256"),
        ("POOL_MODE", "transaction"),
        ("MAX_CLIENT_CONN", "1000"),
        ("DEFAULT_POOL_SIZE", "30"),
        ("LISTEN_PORT", "5432"),
        ("IGNORE_STARTUP_PARAMETERS", "options"),
        ("ADMIN_USERS", "ops,root"),
        ("ADMIN_PASSWORDS", "one,two"),
        ("SERVER_RESET_QUERY", ""),
    ]);
    let orders = &config.databases["orders"];
    assert_eq!((orders.port, orders.client_encoding.as_deref()), (5433, Some("UTF8")));
    let settings = &config.settings;
    assert_eq!((settings.max_client_conn, settings.default_pool_size, settings.listen_port), (1000, 30, 5432));
    assert_eq!(settings.ignore_startup_parameters.text(), "options");
    // Empty counts as not set, as in the image.
    assert_eq!(settings.server_reset_query, "DISCARD ALL");
    assert_eq!(config.userlist.get("app"), Some(&plain("md5 is no hash")));
    assert_eq!(config.userlist.get("root"), Some(&plain("two")));
    let found = problems(None, &[("DB_HOST", "h"), ("ADMIN_USERS", "a,b"), ("ADMIN_PASSWORDS", "x")]);
    assert_eq!(found, ["environment variable ADMIN_PASSWORDS: must have as many entries as ADMIN_USERS"]);
}

#[test]
fn our_variables_go_over_those_of_images() {
    let config = container(&[
        ("DB_HOST", "h"),
        ("DB_USER", "u"),
        ("DB_PASSWORD", "p"),
        ("POOL_MODE", "session"),
        ("PGWEIR_POOL_MODE", "transaction"),
    ]);
    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
}

#[test]
fn without_a_name_the_database_is_the_fallback() {
    let config = container(&[("DB_HOST", "h"), ("DB_USER", "u"), ("AUTH_TYPE", "any")]);
    assert!(config.databases.is_empty());
    let database = config.database("anything").unwrap();
    // Whoever the client says it is, the server needs to know somebody.
    assert_eq!((database.server_dbname(), database.user.as_deref()), ("anything", Some("u")));
}

#[test]
fn the_variables_of_bitnami_s_image() {
    let config = container(&[
        ("POSTGRESQL_HOST", "pg"),
        ("POSTGRESQL_PORT", "5433"),
        ("POSTGRESQL_USERNAME", "app"),
        ("POSTGRESQL_PASSWORD", "secret"),
        ("POSTGRESQL_DATABASE", "orders_live"),
        ("PGBOUNCER_DATABASE", "orders"),
        ("PGBOUNCER_SET_DATABASE_USER", "yes"),
        ("PGBOUNCER_SET_DATABASE_PASSWORD", "yes"),
        ("PGBOUNCER_CONNECT_QUERY", "select 1"),
        ("PGBOUNCER_USERLIST", "\"extra\" \"x\"\n\"app\" \"secret\""),
        ("PGBOUNCER_PORT", "7000"),
        ("PGBOUNCER_LISTEN_ADDRESS", "127.0.0.1"),
        ("PGBOUNCER_SOCKET_DIR", "/run/sock"),
        ("PGBOUNCER_POOL_MODE", "transaction"),
        ("PGBOUNCER_DSN_0", "second=host=h2 port=5434 dbname=x"),
        ("PGBOUNCER_DSN_1", "*=host=h3"),
    ]);
    let orders = &config.databases["orders"];
    assert_eq!((orders.server_dbname(), orders.port), ("orders_live", 5433));
    assert_eq!((orders.user.as_deref(), &orders.password), (Some("app"), &Some(Secret::new("secret"))));
    assert_eq!(orders.connect_query.as_deref(), Some("select 1"));
    assert_eq!(config.databases["second"].port, 5434);
    assert!(config.autodb.is_some());
    assert_eq!((config.userlist.len(), config.userlist.get("extra")), (2, Some(&plain("x"))));
    let settings = &config.settings;
    assert_eq!((settings.listen_port, settings.listen_addr.text()), (7000, "127.0.0.1"));
    assert_eq!(settings.unix_socket_dir.as_deref(), Some("/run/sock"));
    assert_eq!((settings.pool_mode, &settings.user), (PoolMode::Transaction, &None));
}

#[test]
fn users_of_the_auth_file_come_before_those_of_the_environment() {
    let variables = [("DATABASE_URL", "postgres://app:other@h/d"), ("AUTH_FILE", "tests/data/userlist.txt")];
    let config = container(&variables);
    assert_eq!(config.userlist.get("app"), Some(&plain("plain \"quoted\" password")));
    let variables = [("DATABASE_URL", "postgres://new:other@h/d"), ("AUTH_FILE", "tests/data/userlist.txt")];
    assert_eq!(container(&variables).userlist.get("new"), Some(&plain("other")));
}

#[test]
fn a_source_reads_again() {
    let source = source(FILE, &[("PGWEIR_POOL_MODE", "statement")]);
    assert_eq!(source.load().unwrap().config, source.load().unwrap().config);
    let other = source.with_path(Some(Path::new("tests/data/include.ini")));
    let config = other.load().unwrap().config;
    assert_eq!((config.settings.listen_port, config.settings.pool_mode), (7000, PoolMode::Statement));
}

#[test]
fn variables_that_nobody_asked_for() {
    let variables = [
        ("DATABASE_URL", "postgres://u:p@h/d"),
        ("PGBOUNCER_USER", "no setting of images"),
        ("PGBOUNCER_POOL_MOD", "session"),
        ("PGBOUNCER_DSN_0", "there is a URL"),
        ("PGBOUNCER_PORT_6432_TCP_ADDR", "10.0.0.1"),
    ];
    let loaded = load(None, &variables).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let told = |name: &str| format!("environment variable {name}: means nothing here, ignored");
    assert_eq!(warnings, ["PGBOUNCER_DSN_0", "PGBOUNCER_POOL_MOD", "PGBOUNCER_USER"].map(told));
    assert_eq!(loaded.config.settings.user, None);
}
