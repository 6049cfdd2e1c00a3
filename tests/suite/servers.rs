//! What happens to a server connection over its life: greeted, checked, reset, retired.

use crate::support::*;

#[test]
fn server_older_than_its_lifetime_is_replaced() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("server_lifetime", 1).set("default_pool_size", 1));
    let mut client = bouncer.client();
    let first = client.backend();
    wait_until("another server", PATIENCE, || client.backend() != first);
    bouncer.wait_backends(pg, 1);
    bouncer.wait_log("server lifetime over");
}

#[test]
fn server_lifetime_never_cuts_a_transaction() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("server_lifetime", 1));
    let mut client = bouncer.client();
    client.run("begin");
    let first = client.backend();
    client.run("select pg_sleep(2.5)");
    assert_eq!(client.backend(), first);
    client.run("commit");
    assert_ne!(client.backend(), first);
}

#[test]
fn server_lifetime_of_the_database_applies() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.app("server_lifetime=1"));
    let mut client = bouncer.client();
    let first = client.backend();
    wait_until("another server", PATIENCE, || client.backend() != first);
}

#[test]
fn idle_server_is_closed_after_server_idle_timeout() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("server_idle_timeout", 1));
    let mut client = bouncer.client();
    client.run("select 1");
    assert_eq!(bouncer.backends(pg), 1);
    bouncer.wait_backends(pg, 0);
    bouncer.wait_log("server idle timeout");
    assert_eq!(client.one("select 'again'"), "again");
}

#[test]
fn server_in_a_transaction_is_not_idle() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("server_idle_timeout", 1));
    let mut client = bouncer.client();
    client.run("begin");
    client.expect_silence(millis(2500));
    client.run("commit");
}

#[test]
fn session_mode_resets_the_server_for_the_next_client() {
    let bouncer =
        Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", "session").set("default_pool_size", 1));
    let mut first = bouncer.client();
    let pid = first.backend();
    first.run("set work_mem to '1234kB'; create temp table mine (i int); listen news");
    first.run("select pg_advisory_lock(42)");
    first.send(&msg::extended("prepare named as select 1", &[]));
    first.expect("12CZ");
    first.send(&msg::terminate());
    let mut second = bouncer.client();
    assert_eq!(second.backend(), pid);
    assert_eq!(second.one("show work_mem"), "4MB");
    assert_eq!(second.one("select to_regclass('mine') is null"), "t");
    assert_eq!(second.one("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"), "0");
    assert_eq!(second.one("select count(*) from pg_prepared_statements"), "0");
    assert_eq!(second.one("select count(*) from pg_listening_channels()"), "0");
}

#[test]
fn server_reset_query_is_what_the_setting_says() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.set("pool_mode", "session").set("default_pool_size", 1).set("server_reset_query", "set work_mem to '7MB'")
    });
    bouncer.client().run("set work_mem to '1234kB'; create temp table kept (i int)");
    let mut second = bouncer.client();
    assert_eq!(second.one("show work_mem"), "7MB");
    assert_eq!(second.one("select count(*) from kept"), "0");
}

#[test]
fn transaction_mode_resets_only_when_told_to() {
    for (always, expected) in [(0, "1234kB"), (1, "4MB")] {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| {
            setup.set("default_pool_size", 1).set("server_reset_query_always", always)
        });
        bouncer.client().run("set work_mem to '1234kB'");
        assert_eq!(bouncer.client().one("show work_mem"), expected);
    }
}

#[test]
fn check_query_runs_before_a_server_idle_too_long_is_used() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup.set("server_check_query", "select count(nextval('checks'))").set("server_check_delay", 1)
    });
    pg.direct(&bouncer.server_database).run("create sequence checks; grant all on sequence checks to app");
    let mut client = bouncer.client();
    client.run("select 1");
    let mut direct = pg.direct(&bouncer.server_database);
    let mut checks = || direct.one("select is_called::text from checks");
    assert_eq!(checks(), "false");
    client.run("select 1");
    assert_eq!(checks(), "false");
    wait_until("a check", PATIENCE, || {
        client.set_timeout(secs(5));
        client.expect_silence(millis(1100));
        client.run("select 1");
        checks() == "true"
    });
}

#[test]
fn connect_query_runs_on_every_new_server() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.app("connect_query='set work_mem to ''5MB''' pool_size=3"));
    let mut clients: Vec<Wire> = (0..3).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.run("begin");
        assert_eq!(client.one("show work_mem"), "5MB");
    }
    assert_eq!(bouncer.backends(pg), 3);
}

#[test]
fn failing_connect_query_is_logged_and_clients_are_served() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.app("connect_query='select 1/0'"));
    assert_eq!(bouncer.client().one("select 'served'"), "served");
    bouncer.wait_log("division by zero");
}

#[test]
fn database_entry_sets_parameters_of_its_servers() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.app("client_encoding=LATIN1 datestyle=German timezone=Asia/Tokyo")
    });
    let mut client = bouncer.client();
    assert_eq!(client.one("show timezone"), "Asia/Tokyo");
    assert!(client.one("show datestyle").starts_with("German"));
    assert_eq!(client.one("show client_encoding"), "LATIN1");
}

#[test]
fn server_closed_while_idle_is_noticed_before_it_is_used() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("default_pool_size", 1));
    let mut client = bouncer.client();
    for _ in 0..5 {
        let pid = client.backend();
        pg.terminate_backend(pid);
        assert_ne!(client.backend(), pid);
    }
}

#[test]
fn hosts_of_a_list_are_used_in_turn() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        let hosts = format!("host=127.0.0.1,{} port={} dbname=postgres pool_size=4", pg.dir.display(), pg.port);
        setup.database("many", hosts)
    });
    let mut clients: Vec<Wire> = (0..4).map(|_| bouncer.client_of("app", "many")).collect();
    let over_tcp = clients
        .iter_mut()
        .map(|client| {
            client.run("begin");
            client.one("select inet_server_addr() is not null")
        })
        .filter(|tcp| tcp == "t")
        .count();
    assert_eq!(over_tcp, 2);
}

#[test]
fn load_balancing_disabled_prefers_the_first_host_that_works() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        let hosts = format!(
            "host=/nonexistent,127.0.0.1,{} port={} dbname=postgres load_balance_hosts=disable",
            pg.dir.display(),
            pg.port
        );
        setup.database("many", hosts).set("server_login_retry", 1)
    });
    wait_until("a login", PATIENCE, || bouncer.try_client("app", "many", "").is_ok());
    let mut clients: Vec<Wire> = (0..4).map(|_| bouncer.client_of("app", "many")).collect();
    for client in &mut clients {
        client.run("begin");
        assert_eq!(client.one("select inet_server_addr() is not null"), "t");
    }
}

/// PgBouncer does not look at how these queries end.
#[test]
fn server_fast_close_does_not_wait_for_the_end_of_a_session() {
    let start = |fast| {
        Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", "session").set("server_fast_close", fast))
    };
    let (slow, fast) = (start(0), start(1));
    let (mut idle, mut busy, mut patient) = (fast.client(), fast.client(), slow.client());
    idle.run("select 1");
    busy.run("begin");
    let backend = patient.backend();
    fast.admin().run("RECONNECT");
    slow.admin().run("RECONNECT");
    assert_eq!(idle.expect_fatal().message, "database configuration changed");
    // Not before the end of a transaction.
    busy.run("select 1");
    busy.run("commit");
    assert_eq!(busy.expect_fatal().message, "database configuration changed");
    assert_eq!(patient.backend(), backend);
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn server_that_fails_its_check_is_replaced_unseen() {
        let pg = Postgres::shared();
        let bouncer = Bouncer::start(pg, |setup| {
            // Fails on the server that the client has marked.
            setup
                .set("server_check_query", "select 1 / (current_setting('work_mem') <> '1234kB')::int")
                .set("server_check_delay", 0)
                .set("default_pool_size", 1)
        });
        let mut client = bouncer.client();
        let first = client.backend();
        client.run("set work_mem to '1234kB'");
        assert_ne!(client.backend(), first);
        assert_eq!(client.one("show work_mem"), "4MB");
    }

    #[test]
    fn server_whose_reset_query_fails_is_not_used_again() {
        let pg = Postgres::shared();
        let bouncer = Bouncer::start(pg, |setup| {
            setup.set("pool_mode", "session").set("default_pool_size", 1).set("server_reset_query", "select 1/0")
        });
        let mut first = bouncer.client();
        let pid = first.backend();
        first.run("set work_mem to '1234kB'");
        first.send(&msg::terminate());
        let mut second = bouncer.client();
        assert_ne!(second.backend(), pid);
        assert_eq!(second.one("show work_mem"), "4MB");
    }
}
