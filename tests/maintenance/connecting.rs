//! How commands find their server, and what they do when there is none.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::program::{Program, monitored, pgweir, scratch_file};
use crate::support::postgres::PASSWORD;
use crate::support::process::free_port;
use crate::support::tls::{certificate, own_key};
use crate::support::*;

fn sizes() -> Program {
    pgweir("report sizes")
}

fn with_dsn(dsn: impl Into<String>) -> Program {
    sizes().arg("--dsn").arg(dsn)
}

#[test]
fn strings_environment_and_files() {
    let pg = Postgres::shared();
    let (_, database) = monitored(pg);
    let port = pg.port;
    with_dsn(format!("postgresql://app@127.0.0.1:{port}/{database}?connect_timeout=5")).run().ok();
    // The first host of a list that answers.
    let dead = free_port();
    let ran = with_dsn(format!("postgres://app@127.0.0.1:{dead},127.0.0.1:{port}/{database}")).run().ok();
    assert!(
        ran.stderr.starts_with(&format!("{database} at 127.0.0.1:{port} as app, PostgreSQL 15.")),
        "{}",
        ran.stderr
    );
    let ran = sizes()
        .env("PGHOST", pg.dir.display().to_string())
        .env("PGPORT", port.to_string())
        .env("PGUSER", "app")
        .env("PGDATABASE", database.as_str())
        .run()
        .ok();
    assert!(ran.stderr.contains("lock_timeout 5s, statement_timeout 1m"), "{}", ran.stderr);
    let services = scratch_file("services");
    fs::write(&services, format!("[prod]\nhost=127.0.0.1\nport={port}\nuser=app\n")).expect("write the service file");
    let ran = with_dsn(format!("service=prod dbname={database}")).env("PGSERVICEFILE", services.display().to_string());
    ran.run().ok();
}

#[test]
fn passwords_come_from_anywhere_but_are_told_nowhere() {
    let pg = Postgres::shared();
    for user in ["clear", "hashed", "salted"] {
        let dsn = format!("host=127.0.0.1 port={} user={user} dbname=postgres", pg.port);
        with_dsn(&dsn).env("PGPASSWORD", PASSWORD).run().ok();
        let ran = with_dsn(&dsn).run().fails(3, "wants a password for");
        assert!(ran.stderr.contains("Hint: put it into a .pgpass file"), "{}", ran.stderr);
        let ran = with_dsn(&dsn).env("PGPASSWORD", "hunter2").run().fails(3, "SQLSTATE 28P01");
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
        let pgpass = scratch_file("pgpass");
        fs::write(&pgpass, format!("127.0.0.1:*:*:{user}:{PASSWORD}\n")).expect("write the password file");
        fs::set_permissions(&pgpass, fs::Permissions::from_mode(0o600)).expect("set permissions");
        with_dsn(&dsn).env("PGPASSFILE", pgpass.display().to_string()).run().ok();
        fs::set_permissions(&pgpass, fs::Permissions::from_mode(0o644)).expect("set permissions");
        let ran = with_dsn(&dsn).env("PGPASSFILE", pgpass.display().to_string()).run().ends_with(3);
        assert!(ran.stderr.contains("has group or world access"), "{}", ran.stderr);
    }
}

#[test]
fn an_entry_of_the_poolers_configuration() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        let entry = format!("host=127.0.0.1 port={} dbname=postgres user=salted password='{PASSWORD}'", pg.port);
        setup.database("locked", entry).secret("salted", PASSWORD)
    });
    let file = bouncer.dir.join("pooler.ini").display().to_string();
    let on = |database: &str| sizes().arg("--config").arg(&file).arg("--database").arg(database);
    let ran = on("locked").run().ok();
    assert!(ran.stderr.starts_with("postgres at 127.0.0.1"), "{}", ran.stderr);
    // The entry has no user: who else says.
    on("app").env("PGUSER", "app").run().ok();
    // The auth_file has the password.
    on("app").arg("--dsn").arg("user=salted").run().ok();
    on("nowhere").run().ok_or_unknown();
    pgweir("report sizes --config /nonexistent --database app").run().fails(4, "/nonexistent");
    pgweir("report sizes --database app").run().fails(4, "--config");
}

impl crate::program::Ran {
    /// There is no entry and no fallback.
    #[track_caller]
    fn ok_or_unknown(self) {
        self.fails(4, "there is no database \"nowhere\" in the configuration");
    }
}

#[test]
fn nobody_answers() {
    let ran = with_dsn(format!("host=127.0.0.1 port={} user=app", free_port())).run();
    ran.fails(3, "could not connect to 127.0.0.1:");
    // One that accepts and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
    let port = silent.local_addr().expect("an address").port();
    let begun = Instant::now();
    with_dsn(format!("host=127.0.0.1 port={port} user=app connect_timeout=1")).run().fails(3, "within 1s");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    with_dsn("host=/nonexistent user=app").run().fails(3, "No such file or directory");
}

#[test]
fn a_pooler_is_not_postgresql() {
    for mode in ["transaction", "session"] {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", mode));
        let ran = with_dsn(format!("host=127.0.0.1 port={} user=app dbname=app", bouncer.port)).run();
        ran.fails(5, "is a pooler, not PostgreSQL itself");
    }
}

#[test]
fn wrong_arguments() {
    for (arguments, message) in [
        ("report", "Usage: pgweir report"),
        ("report nonsense", "unrecognized subcommand 'nonsense'"),
        ("report sizes --limit x", "invalid value 'x'"),
        ("report sizes --dsn nonsense=1", "invalid connection option \"nonsense\""),
        ("report sizes --dsn sslcrl=x", "the connection option \"sslcrl\" is not supported"),
        ("report sizes --lock-timeout soon", "expected a length of time"),
        ("report transactions --interval 0", "must be longer than 0"),
        ("sessions list --limit 0", "invalid value '0'"),
        ("check nonsense --dsn user=app", "there is no check \"nonsense\""),
        ("check --dsn user=app --threshold cache=1,99", "the warning must be above the critical value"),
        ("pool advise --safety 0.5", "expected a number from 1 to 100"),
    ] {
        pgweir(arguments).run().fails(4, message);
    }
    for arguments in ["report --help", "report sizes -h", "locks --help", "sessions terminate --help", "check --help"] {
        let ran = pgweir(arguments).run().ok();
        assert!(ran.stderr.is_empty() && ran.stdout.contains("Usage: pgweir "), "{arguments}: {ran:?}");
    }
}

#[test]
fn tls_as_libpq_has_it() {
    let pg = Postgres::with_tls("site");
    pg.sql("create role bound login password 'pw'");
    let (ca, stranger) = (certificate("ca"), certificate("stranger"));
    let is_encrypted = |options: &str, host: &str| {
        let dsn = format!("host={host} port={} user=app dbname=postgres application_name=x {options}", pg.port);
        with_dsn(dsn).run()
    };
    for options in [
        "sslmode=require".to_owned(),
        "sslmode=prefer".to_owned(),
        "sslmode=allow".to_owned(),
        "sslmode=disable".to_owned(),
        format!("sslmode=verify-ca sslrootcert={ca}"),
        format!("sslmode=verify-full sslrootcert={ca}"),
        format!("sslmode=prefer sslrootcert={stranger}"),
    ] {
        is_encrypted(&options, "127.0.0.1").ok();
    }
    for (options, message) in [
        (format!("sslmode=verify-ca sslrootcert={stranger}"), "TLS with 127.0.0.1"),
        // As libpq: whoever has a file of roots wants it to count.
        (format!("sslmode=require sslrootcert={stranger}"), "TLS with 127.0.0.1"),
    ] {
        is_encrypted(&options, "127.0.0.1").fails(3, message);
    }
    is_encrypted("sslmode=verify-full", "127.0.0.1").fails(4, "need a file of root certificates");
    is_encrypted("sslmode=verify-full sslrootcert=/nonexistent/ca", "127.0.0.1").fails(4, "/nonexistent/ca");
    pg.set_tls("elsewhere");
    is_encrypted(&format!("sslmode=verify-ca sslrootcert={ca}"), "localhost").ok();
    is_encrypted(&format!("sslmode=verify-full sslrootcert={ca}"), "localhost").fails(3, "TLS with localhost");
}

#[test]
fn tls_that_the_server_demands() {
    let pg = Postgres::with_tls("site");
    let hba = pg.dir.join("pg_hba.conf");
    fs::write(&hba, "local all all trust\nhostssl all app 127.0.0.1/32 cert\nhostssl all bound 127.0.0.1/32 scram-sha-256\nhostnossl all plain 127.0.0.1/32 trust\nhost all postgres 127.0.0.1/32 trust\n").expect("write pg_hba.conf");
    pg.sql("create role bound login password 'pw'; create role plain login");
    pg.sql("select pg_reload_conf()");
    let dsn = |user: &str, more: &str| {
        with_dsn(format!("host=127.0.0.1 port={} user={user} dbname=postgres {more}", pg.port))
    };
    // The reload takes a moment.
    wait_until("the new rules count", PATIENCE, || dsn("app", "sslmode=disable").run().code == 3);
    let own = format!("sslcert={} sslkey={}", certificate("app"), own_key("app"));
    dsn("app", &own).run().ok();
    dsn("app", "").run().fails(3, "SQLSTATE 28000");
    dsn("bound", "channel_binding=require password=pw").run().ok();
    dsn("bound", "channel_binding=require password=pw sslmode=disable").run().ends_with(3);
    // TLS is tried first, and the rule is for those without.
    dsn("plain", "").run().ok();
    dsn("plain", "sslmode=require").run().fails(3, "SQLSTATE 28000");
}

#[test]
fn the_kind_of_server_that_is_wanted() {
    let pg = Postgres::shared();
    let dsn = |attribute: &str| {
        with_dsn(format!("postgres://app@127.0.0.1:{}/postgres?target_session_attrs={attribute}", pg.port))
    };
    for attribute in ["any", "read-write", "primary", "prefer-standby"] {
        dsn(attribute).run().ok();
    }
    dsn("standby").run().fails(3, "is not a standby");
    dsn("read-only").run().fails(3, "is not read-only");
}
