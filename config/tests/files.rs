//! Whole files, as found in the wild, through the public interface.

use std::path::Path;
use std::time::Duration;

use pgweir_config::{
    Access, AuthType, Config, HostAddr, LoadBalanceHosts, Loaded, PoolMode, Problem, Problems, Secret, Source, SslMode,
    UserSecret, sample_ini,
};

fn load(file: &str) -> Result<Loaded, Problems> {
    Source::new(Some(Path::new(file)), []).load()
}

fn loaded(file: &str) -> Loaded {
    load(file).unwrap_or_else(|problems| panic!("{file} does not load:\n{problems}"))
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// The configuration without what differs between two files that say the same.
fn without_origin(mut config: Config) -> Config {
    config.settings.conffile = None;
    for database in config.databases.values_mut() {
        let mut own = database.as_ref().clone();
        own.password_file = None;
        *database = own.into();
    }
    config
}

/// A file of the tests' own, gone when dropped.
struct Temporary(std::path::PathBuf);

impl Temporary {
    fn new(name: &str, text: &str) -> Temporary {
        let path = std::env::temp_dir().join(format!("pgweir-config-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Temporary(path)
    }

    fn load(&self) -> Result<Loaded, Problems> {
        Source::new(Some(&self.0), []).load()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_distribution_s_file() {
    let Loaded { config, warnings, .. } = loaded("tests/data/debian.ini");
    assert_eq!(lines(&warnings), [""; 0]);
    let settings = &config.settings;
    assert_eq!(settings.conffile.as_deref(), Some(Path::new("tests/data/debian.ini")));
    assert_eq!(settings.listen_addr.to_vec(), ["127.0.0.1", "::1"]);
    assert_eq!(settings.unix_socket_mode, 0o770);
    assert_eq!(settings.pool_mode, PoolMode::Transaction);
    assert_eq!(settings.server_check_query.as_deref(), Some("select 1"));
    assert_eq!(settings.server_reset_query, "");
    assert!(settings.admin_users.has("ops"));

    let shop = config.database("shop").unwrap();
    assert_eq!(shop.hosts, [HostAddr::Tcp("10.0.0.5".into())]);
    assert_eq!((shop.port, shop.server_dbname()), (5433, "shop_live"));
    assert_eq!(config.reserve_pool_size(&shop, "app"), 5);
    let reader = config.database("shop-ro").unwrap();
    assert_eq!(reader.show_hosts().as_deref(), Some("10.0.0.6,10.0.0.7"));
    assert_eq!(reader.password, Some(Secret::new("it's secret")));
    assert_eq!(reader.load_balance_hosts, LoadBalanceHosts::Disable);
    let batch = config.database("batch").unwrap();
    assert_eq!(batch.connect_query.as_deref(), Some("set work_mem = '64MB'"));
    assert_eq!(config.query_wait_timeout(&batch, Some("app")), None);
    let any = config.database("whatever").unwrap();
    assert_eq!((any.server_dbname(), any.hosts.len(), any.port), ("whatever", 1, 5432));

    assert_eq!(config.pool_mode(&shop, "importer"), PoolMode::Session);
    assert_eq!(config.query_timeout("importer"), Some(Duration::from_millis(1500)));
    assert_eq!(config.userlist.len(), 4);
    let app = config.userlist.get("app");
    assert_eq!(app, Some(&UserSecret::Plain(Secret::new("plain \"quoted\" password"))));
    assert_eq!(config.userlist.get("nopassword"), Some(&UserSecret::Empty));
}

#[test]
fn toml_says_the_same_as_ini() {
    let ini = without_origin(loaded("tests/data/debian.ini").config);
    let toml = loaded("tests/data/debian.toml");
    assert_eq!(lines(&toml.warnings), [""; 0]);
    let mut toml = without_origin(toml.config);
    // Only the text of lists differs.
    for (own, other) in [
        (&mut toml.settings.listen_addr, &ini.settings.listen_addr),
        (&mut toml.settings.admin_users, &ini.settings.admin_users),
    ] {
        assert_eq!(own.to_vec(), other.to_vec());
        own.clone_from(other);
    }
    assert_eq!(toml, ini);
}

#[test]
fn what_has_no_effect_is_told() {
    let Loaded { config, warnings, .. } = loaded("tests/data/managed.ini");
    let file = "tests/data/managed.ini";
    assert_eq!(lines(&warnings), [format!("{file}:16: pkt_buf has no effect: buffers are sized by what they carry")]);
    assert_eq!(config.settings.auth_type, AuthType::ScramSha256);
    assert_eq!(config.settings.client_tls_sslmode, SslMode::Prefer);
    assert_eq!(config.settings.tcp_user_timeout, Duration::from_millis(12_500));
    assert_eq!(config.peers[&2].host(), Some(&HostAddr::Tcp("peer.internal".into())));
    assert_eq!((config.peers[&1].port, config.peers[&2].port), (6432, 7432));
}

#[test]
fn a_file_from_windows() {
    let Loaded { config, warnings, .. } = loaded("tests/data/windows.ini");
    let legacy = config.database("legacy").unwrap();
    assert_eq!((legacy.hosts.as_slice(), legacy.port), ([HostAddr::Tcp("10.1.1.1".into())].as_slice(), 5432));
    assert_eq!(config.settings.auth_type, AuthType::Any);
    let warning = "tests/data/windows.ini: auth_type=any needs user= in the database \"legacy\"";
    assert_eq!(lines(&warnings), [warning]);
}

#[test]
fn included_files() {
    let Loaded { config, warnings, .. } = loaded("tests/data/include.ini");
    assert_eq!(lines(&warnings), [""; 0]);
    assert!(config.databases.contains_key("orders"));
    assert_eq!((config.settings.listen_port, config.settings.pool_mode), (7000, PoolMode::Session));
    assert_eq!(config.settings.auth_type, AuthType::Trust);
}

/// A configuration with `auth_type=hba` and these files.
fn with_rules(name: &str, hba: &str, ident: &str) -> (Temporary, [Temporary; 2]) {
    let files = [Temporary::new(&format!("{name}.hba"), hba), Temporary::new(&format!("{name}.ident"), ident)];
    let [hba, ident] = files.each_ref().map(|file| file.0.display());
    let text = format!(
        "[pgbouncer]\nauth_type = hba\nauth_file = x\nunix_socket_dir = /\nauth_hba_file = {hba}\nauth_ident_file = {ident}\n"
    );
    (Temporary::new(&format!("{name}.ini"), &text), files)
}

#[test]
fn rules_count_as_a_whole_or_not_at_all() {
    let (ini, _files) = with_rules("rules", "local all all peer map=staff\n", "staff ann app\n");
    let Loaded { mut config, .. } = ini.load().unwrap();
    let hba = config.hba.clone().expect("rules");
    let access = Access { address: None, is_tls: false, is_physical_replication: false, database: "d", user: "app" };
    assert!(hba.find(&access).unwrap().map.as_ref().unwrap().allows("ann", "app"));

    let (bad, files) = with_rules("bad-rules", "local all\nhost all all all pam\n", "staff ann\n");
    let [hba_file, ident_file] = files.each_ref().map(|file| file.0.display().to_string());
    let expected = [
        format!("{hba_file}:1: a user expected"),
        format!("{hba_file}:2: the method pam only works as auth_type"),
        format!("{ident_file}:1: the name of a database user expected"),
    ];
    assert_eq!(lines(&bad.load().unwrap_err().errors), expected);
    let error = config.set("auth_hba_file", &hba_file).unwrap_err();
    assert_eq!(error.to_string(), expected[0]);
    assert_eq!(config.hba, Some(hba.clone()));

    config.set("auth_type", "trust").unwrap();
    assert_eq!(config.hba, None);
    config.set("auth_type", "hba").unwrap();
    assert_eq!(config.hba, Some(hba));
}

#[test]
fn rules_are_needed_with_hba_only() {
    let missing = Temporary::new("no-rules.ini", "[pgbouncer]\nauth_type = hba\nauth_file = x\n");
    let told = missing.load().unwrap_err().to_string();
    assert_eq!(told, format!("{}: auth_type=hba needs an auth_hba_file", missing.0.display()));
    let text = "[pgbouncer]\nauth_type = hba\nauth_hba_file = /nowhere/a\nauth_ident_file = /nowhere/b\n";
    let told = lines(&Temporary::new("lost-rules.ini", text).load().unwrap_err().errors);
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("/nowhere/a: could not open the auth_hba_file"), "{told:?}");
    assert!(told[1].starts_with("/nowhere/b: could not open the auth_ident_file"), "{told:?}");
    let text = "[pgbouncer]\nauth_type = trust\nauth_hba_file = /nowhere/a\n";
    assert_eq!(Temporary::new("unused-rules.ini", text).load().unwrap().config.hba, None);
}

#[test]
fn included_files_nest_ten_levels_deep() {
    // Ten levels are fine.
    let mut nested = Temporary::new("nested-0.ini", "[pgbouncer]\nauth_type = any\n");
    let mut levels = Vec::new();
    for level in 1..=10 {
        let including = format!("%include {}\n", nested.0.display());
        let outer = Temporary::new(&format!("nested-{level}.ini"), &including);
        levels.push(std::mem::replace(&mut nested, outer));
    }
    assert_eq!(nested.load().unwrap().config.settings.auth_type, AuthType::Any);
    let including = format!("%include {}\n", nested.0.display());
    let outer = Temporary::new("nested-11.ini", &including);
    assert!(outer.load().unwrap_err().to_string().ends_with("%include nests deeper than 10 levels"));
    let problems = load("tests/data/endless.ini").unwrap_err();
    assert_eq!(problems.to_string(), "tests/data/endless.ini:1: %include nests deeper than 10 levels");
}

#[test]
fn every_problem_of_a_broken_file() {
    let file = "tests/data/broken.ini";
    let problems = load(file).unwrap_err();
    let expected = [
        "2: the database name \"pgbouncer\" is reserved for the console".to_owned(),
        "3: invalid value \"0\" for port, expected a port from 1 to 65535".to_owned(),
        "3: invalid value \"many\" for pool_size, expected a whole number from 0 to 2147483647; -1 to inherit".to_owned(),
        "3: unknown key \"hst\", the nearest known one is \"host\"".to_owned(),
        "4: in the entry \"two\": expected key=value behind \"password\"; a value with spaces needs single quotes".to_owned(),
        "5: invalid value \"fast\" for pool_mode, expected session, transaction or statement".to_owned(),
        "8: unknown key \"pool_mod\", the nearest known one is \"pool_mode\"".to_owned(),
        "8: unknown key \"port\" (\"port\" belongs in [databases] and [peers])".to_owned(),
        "11: a peer's name must be a number from 1 to 65535".to_owned(),
        "12: the peer 3 needs one host".to_owned(),
        "15: invalid value \"pgbouncer\" for auth_dbname, expected a database of a server: pgweir cannot use the reserved \"pgbouncer\" database as an auth_dbname".to_owned(),
        "16: invalid value \"pom\" for auth_type, expected any, trust, plain, md5, scram-sha-256, cert, hba, ldap or pam".to_owned(),
        "17: unknown key \"auth_tpye\", the nearest known one is \"auth_type\"".to_owned(),
        "19: invalid value \"-5\" for default_pool_size, expected a whole number from 0 to 2147483647".to_owned(),
        "20: invalid value \"70000\" for listen_port, expected a port from 1 to 65535".to_owned(),
        "21: unknown key \"pool_size\", the nearest known one is \"pool_mode\" (\"pool_size\" belongs in [databases] and [users] and [peers])".to_owned(),
        "22: invalid value \"soon\" for query_timeout, expected a number of seconds, or a number with us, ms, s, min, h or d behind it".to_owned(),
        "25: unknown section [extra]".to_owned(),
    ];
    assert_eq!(lines(&problems.errors), expected.map(|line| format!("{file}:{line}")));
    assert!(!problems.to_string().contains("secret"));
}

#[test]
fn problems_of_toml_have_lines() {
    let problems = load("tests/data/broken.toml").unwrap_err();
    let places: Vec<Option<u32>> = problems.errors.iter().map(|problem| problem.line).collect();
    assert_eq!(places, [2, 3, 4, 7, 8].map(Some));
}

#[test]
fn files_that_are_not_there() {
    for file in ["tests/data/none.ini", "tests/data/none.toml"] {
        let problems = load(file).unwrap_err();
        assert!(problems.to_string().starts_with(&format!("{file}: could not load the file: ")), "{problems}");
    }
    let file = Temporary::new("nousers.ini", "[databases]\nd = host=h\n[pgbouncer]\nauth_file = tests/data/none.txt\n");
    let warnings = lines(&file.load().unwrap().warnings);
    assert!(warnings[0].starts_with("tests/data/none.txt: could not open the auth_file: "), "{warnings:?}");
    let file = Temporary::new("nopassword.ini", "[databases]\nd = user=u password_file=tests/data/none\n[pgbouncer]\n");
    let problems = file.load().unwrap_err().to_string();
    assert!(problems.contains("could not read the password_file \"tests/data/none\": "), "{problems}");
}

#[test]
fn a_file_without_the_main_section() {
    let file = Temporary::new("nomain.ini", "[databases]\nd = host=h\n");
    let problems = file.load().unwrap_err().to_string();
    assert!(problems.ends_with("nomain.ini: there is no [pgbouncer] section"), "{problems}");
}

#[test]
fn a_second_main_section_starts_over() {
    let text = "[pgbouncer]\nauth_type=trust\nauth_user=\nmax_client_conn=5\nlisten_port=0777\n[pgbouncer]\nmax_client_conn=6\n";
    let file = Temporary::new("second.ini", text);
    let Loaded { config, warnings, .. } = file.load().unwrap();
    assert_eq!((config.settings.auth_type, config.settings.max_client_conn), (AuthType::Md5, 6));
    let told = "6: a second [pgbouncer] puts these, set before it, back to their defaults: auth_type, listen_port, max_client_conn";
    assert!(lines(&warnings).iter().any(|line| line.ends_with(told)), "{warnings:?}");
}

/// The warnings about a text that loads.
fn warnings_of(name: &str, text: &str) -> Vec<String> {
    let loaded = Temporary::new(name, text).load().unwrap();
    loaded.warnings.into_iter().map(|warning| warning.message).collect()
}

#[test]
fn values_that_do_not_go_together() {
    let nowhere = "[pgbouncer]\nunix_socket_dir =\nauth_type = any\n[databases]\nd = user=u\n";
    assert_eq!(
        warnings_of("nowhere.ini", nowhere),
        [
            "neither listen_addr nor unix_socket_dir is set: nowhere to listen",
            "the database \"d\" has no host, and unix_socket_dir is not set",
        ]
    );
    let no_user = "[pgbouncer]\n[databases]\nd = password=x\n";
    assert_eq!(
        warnings_of("nouser.ini", no_user),
        ["auth_file is not set: no client will be able to log in", "password has no effect without user"]
    );
}

#[test]
fn passwords_are_not_quoted_in_errors() {
    let refused = |name: &str, entry: &str| {
        let text = format!("[pgbouncer]\n[databases]\nd = user=u {entry}\n");
        let problems = Temporary::new(name, &text).load().unwrap_err();
        problems.errors.into_iter().map(|problem| problem.message).collect::<Vec<_>>()
    };
    let message = "unknown key behind password; a value with spaces needs single quotes";
    assert_eq!(refused("spaces.ini", "password=my hunter=2 port=1"), [message]);
    let text = "[pgbouncer]\nauth_type=any\n[databases]\nd = user=u password=x reserve_pool=5\n";
    assert_eq!(warnings_of("alias.ini", text), [""; 0]);
    let message = "set either password or password_file, not both";
    assert_eq!(refused("both.ini", "password=hunter2 password_file=tests/data/password.txt"), [message]);
}

#[test]
fn what_is_defined_again_counts() {
    let text = "[pgbouncer]\nauth_type=any\n[databases]\nd = host=a user=u\nd = host=b user=u\n[users]\nu =\nu = pool_size=3\n";
    let Loaded { config, warnings, .. } = Temporary::new("again.ini", text).load().unwrap();
    assert_eq!(config.databases["d"].show_hosts().as_deref(), Some("b"));
    assert_eq!(config.users["u"].pool_size, Some(3));
    assert_eq!(warnings.iter().filter_map(|warning| warning.line).collect::<Vec<_>>(), [5, 8]);
}

#[test]
fn what_is_effective_reads_back_the_same() {
    let file = "tests/data/debian.ini";
    let config = loaded(file).config;
    let text = config.effective();
    assert!(!text.contains("secret"), "{text}");
    assert!(
        text.contains(
            "shop-ro = dbname=shop_live host=10.0.0.6,10.0.0.7 user=reader password=*** load_balance_hosts=disable\n"
        ),
        "{text}"
    );
    let again = Temporary::new("effective.ini", &text).load().unwrap().config;
    let mut expected = config.clone();
    let mut reader = expected.databases["shop-ro"].as_ref().clone();
    reader.password = Some(Secret::new("***"));
    expected.databases.insert("shop-ro".into(), reader.into());
    assert_eq!(again, expected);
}

#[test]
fn odd_names_and_values_survive_effective() {
    let text = "[databases]\n\"odd \"\"n'ame\" = dbname='a b' connect_query='''quoted'' = x' user=it's server_lifetime=1234567.5\n[pgbouncer]\nserver_lifetime=7654321\nlogin_notify_message = a ; b\n";
    let config = Temporary::new("odd.ini", text).load().unwrap().config;
    let database = &config.databases["odd \"n'ame"];
    assert_eq!(database.connect_query.as_deref(), Some("'quoted' = x"));
    let mut again = Temporary::new("odd-again.ini", &config.effective()).load().unwrap().config;
    again.settings.conffile.clone_from(&config.settings.conffile);
    assert_eq!(again, config);
}

#[test]
fn the_sample_loads_with_and_without_its_settings() {
    let sample = sample_ini();
    let plain = Temporary::new("sample.ini", &sample).load().unwrap();
    let uncommented: String = sample
        .lines()
        .map(|line| match line.strip_prefix(';') {
            Some(setting) if !setting.starts_with(';') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let Loaded { config, .. } = Temporary::new("sample-all.ini", &uncommented).load().unwrap();
    assert_eq!(config.databases.len(), 2);
    let mut settings = plain.config.settings;
    // Set to nothing in the sample.
    settings.conffile = None;
    assert_eq!(config.settings, settings);
}
