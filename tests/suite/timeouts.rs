//! Every timeout: when it strikes, whom, and what that client is told.

use std::time::{Duration, Instant};

use crate::support::bouncer::assert_error;
use crate::support::*;

fn start(name: &str, seconds: impl ToString) -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| setup.set(name, seconds))
}

/// The error that ends `client`, and how long it took.
#[track_caller]
fn fate(client: &mut Wire) -> (PgError, Duration) {
    let began = Instant::now();
    let error = loop {
        let message = client.recv();
        match message.tag {
            b'E' => break message.error(),
            b'N' | b'T' => {}
            _ => panic!("expected an error, got {message}"),
        }
    };
    client.expect_closed();
    assert_eq!(error.severity, "FATAL", "{error}");
    (error, began.elapsed())
}

/// `client` ends with this error, about a second from now.
#[track_caller]
fn assert_fate(client: &mut Wire, message: &str, sqlstate: &str) {
    let (error, took) = fate(client);
    assert_error(&error, message, sqlstate);
    assert!((millis(600)..secs(4)).contains(&took), "took {took:?}");
}

#[test]
fn query_timeout_ends_a_long_query() {
    let bouncer = start("query_timeout", 1);
    let mut client = bouncer.client();
    client.run("select pg_sleep(0.2)");
    client.send(&msg::query("select pg_sleep(60)"));
    assert_fate(&mut client, "query timeout", "57014");
    assert_eq!(bouncer.client().one("select 'next'"), "next");
}

#[test]
fn query_timeout_counts_each_query_of_a_transaction() {
    let bouncer = start("query_timeout", 1);
    let mut client = bouncer.client();
    client.run("begin");
    for _ in 0..5 {
        client.run("select pg_sleep(0.4)");
    }
    client.run("commit");
}

#[test]
fn query_wait_timeout_ends_the_wait_for_a_server() {
    let bouncer =
        Bouncer::start(Postgres::shared(), |setup| setup.set("query_wait_timeout", 1).set("default_pool_size", 1));
    let mut holder = bouncer.client();
    holder.run("begin");
    let mut waiter = bouncer.client();
    waiter.send(&msg::query("select 1"));
    assert_fate(&mut waiter, "query_wait_timeout", "08P01");
    holder.run("commit");
    assert_eq!(bouncer.client().one("select 'next'"), "next");
}

#[test]
fn query_wait_timeout_of_the_database_and_of_the_user_apply() {
    for of_user in [false, true] {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| {
            let setup = setup.set("query_wait_timeout", 100).set("default_pool_size", 1);
            if of_user { setup.user("app", "query_wait_timeout=1") } else { setup.app("query_wait_timeout=1") }
        });
        bouncer.client().run("select 1");
        let mut holder = bouncer.client();
        holder.run("begin");
        let mut waiter = bouncer.client();
        waiter.send(&msg::query("select 1"));
        assert_fate(&mut waiter, "query_wait_timeout", "08P01");
    }
}

#[test]
fn query_wait_notify_tells_the_client_that_it_waits() {
    let bouncer =
        Bouncer::start(Postgres::shared(), |setup| setup.set("query_wait_notify", 1).set("default_pool_size", 1));
    let mut holder = bouncer.client();
    holder.run("begin");
    let mut waiter = bouncer.client();
    waiter.send(&msg::query("select 1"));
    let notice = waiter.expect("N")[0].error();
    assert_eq!(notice.severity, "NOTICE");
    assert!(notice.message.contains("client being queued"), "{notice}");
    // Once, not again and again.
    waiter.expect_silence(millis(2500));
    holder.run("commit");
    waiter.expect("TDCZ");
}

#[test]
fn query_wait_notify_of_0_says_nothing() {
    let bouncer =
        Bouncer::start(Postgres::shared(), |setup| setup.set("query_wait_notify", 0).set("default_pool_size", 1));
    let mut holder = bouncer.client();
    holder.run("begin");
    let mut waiter = bouncer.client();
    waiter.send(&msg::query("select 1"));
    waiter.expect_silence(millis(1500));
    holder.run("commit");
    waiter.expect("TDCZ");
}

#[test]
fn idle_transaction_timeout_ends_it_and_rolls_back() {
    let bouncer = start("idle_transaction_timeout", 1);
    let mut client = bouncer.client();
    client.run("create table kept (i int)");
    client.run("begin");
    client.run("insert into kept values (1)");
    assert_fate(&mut client, "idle transaction timeout", "25P03");
    assert_eq!(bouncer.client().one("select count(*) from kept"), "0");
}

#[test]
fn idle_transaction_timeout_spares_the_busy_and_those_outside() {
    let bouncer = start("idle_transaction_timeout", 1);
    let mut outside = bouncer.client();
    outside.run("select 1");
    let mut busy = bouncer.client();
    busy.run("begin");
    busy.run("select pg_sleep(2.5)");
    busy.run("commit");
    outside.run("select 1");
}

#[test]
fn transaction_timeout_counts_the_whole_transaction() {
    let bouncer = start("transaction_timeout", 1);
    let mut client = bouncer.client();
    client.run("create table kept (i int)");
    client.run("begin");
    client.run("insert into kept values (1)");
    client.send(&msg::query("select pg_sleep(60)"));
    assert_fate(&mut client, "transaction timeout", "25P04");
    assert_eq!(bouncer.client().one("select count(*) from kept"), "0");
}

#[test]
fn transaction_timeout_strikes_between_queries_too() {
    let bouncer = start("transaction_timeout", 1);
    let mut client = bouncer.client();
    client.run("begin");
    assert_fate(&mut client, "transaction timeout", "25P04");
}

#[test]
fn client_idle_timeout_ends_an_idle_client() {
    let bouncer = start("client_idle_timeout", 1);
    let mut client = bouncer.client();
    let mut busy = bouncer.client();
    busy.send(&msg::query("select pg_sleep(2.5)"));
    client.run("select 1");
    assert_fate(&mut client, "client_idle_timeout", "57P05");
    busy.expect("TDCZ");
}

#[test]
fn timeouts_of_the_user_apply_to_that_user_only() {
    for (name, begin, message, sqlstate) in [
        ("query_timeout", "select pg_sleep(2.5)", "query timeout", "57014"),
        ("idle_transaction_timeout", "begin", "idle transaction timeout", "25P03"),
        ("transaction_timeout", "begin", "transaction timeout", "25P04"),
    ] {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.user("app", &format!("{name}=1")));
        let mut clients = [bouncer.client(), bouncer.client_of("other", "app")];
        for client in &mut clients {
            client.send(&msg::query(begin));
        }
        let [app, other] = &mut clients;
        if name != "query_timeout" {
            app.answer_of_query().expect("begin");
        }
        assert_fate(app, message, sqlstate);
        other.answer_of_query().unwrap_or_else(|e| panic!("{name}: {e}"));
        other.run("select 1");
    }
}

#[test]
fn fractions_of_a_second_are_understood() {
    let bouncer = start("idle_transaction_timeout", "0.5");
    let mut client = bouncer.client();
    client.run("begin");
    let (_, took) = fate(&mut client);
    assert!(took < secs(3), "took {took:?}");
}

#[test]
fn server_connect_timeout_gives_up_on_a_silent_server() {
    let server = FakeServer::start(|_, mut peer| peer.hold());
    let bouncer = Bouncer::start_before(server.port, |setup| {
        setup.set("server_connect_timeout", 1).set("server_login_retry", 1).set("query_wait_timeout", 3)
    });
    let mut client = Wire::tcp(bouncer.port);
    let error = client.login("app", "app", "", &[]).expect_err("no server answers");
    assert_eq!(error.severity, "FATAL", "{error}");
    bouncer.wait_log("connect timeout");
}

#[test]
fn client_login_timeout_covers_the_wait_for_the_first_server() {
    let server = FakeServer::start(|_, mut peer| peer.hold());
    let bouncer = Bouncer::start_before(server.port, |setup| setup.set("client_login_timeout", 1));
    let mut client = Wire::tcp(bouncer.port);
    let error = client.login("app", "app", "", &[]).expect_err("no server answers");
    assert_error(&error, "client_login_timeout (server down)", "08P01");
    client.expect_closed();
}

#[test]
fn pool_idle_timeout_forgets_an_unused_pool() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("pool_idle_timeout", 1).set("server_idle_timeout", 1));
    bouncer.client().run("select 1");
    wait_until("the pool is forgotten", PATIENCE, || {
        !bouncer.show("POOLS").iter().any(|pool| pool["database"] == "app")
    });
    assert_eq!(bouncer.client().one("select 'again'"), "again");
}

#[test]
fn autodb_idle_timeout_forgets_an_unused_database() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup
            .database("*", format!("host=127.0.0.1 port={}", pg.port))
            .set("autodb_idle_timeout", 1)
            .set("server_idle_timeout", 1)
    });
    let known = || bouncer.show("DATABASES").iter().any(|db| db["name"] == "postgres");
    bouncer.client_of("app", "postgres").run("select 1");
    assert!(known());
    wait_until("it is forgotten", PATIENCE, || !known());
    bouncer.client_of("app", "postgres").run("select 1");
}

mod beyond_pgbouncer {
    use super::*;

    /// PgBouncer, once any user has one, disconnects everybody else at once.
    #[test]
    fn client_idle_timeout_of_the_user_applies_to_that_user_only() {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.user("app", "client_idle_timeout=1"));
        let mut app = bouncer.client();
        let mut other = bouncer.client_of("other", "app");
        assert_fate(&mut app, "client_idle_timeout", "57P05");
        other.run("select 1");
    }

    #[test]
    fn sqlstates_are_pgbouncer_s_if_that_is_wanted() {
        let bouncer = start("idle_transaction_timeout", 1);
        let mut admin = bouncer.admin();
        for (which, idle, missing, access) in
            [("pgbouncer", "08P01", "08P01", "08P01"), ("precise", "25P03", "3D000", "42501")]
        {
            admin.run(&format!("SET sqlstates = '{which}'"));
            let mut client = bouncer.client();
            client.run("begin");
            assert_fate(&mut client, "idle transaction timeout", idle);
            assert_error(&bouncer.refusal("app", "nowhere", ""), "no such database: nowhere", missing);
            let mut watcher = bouncer.client_of("watcher", "pgbouncer");
            assert_error(&watcher.fails("RELOAD"), "admin access needed", access);
            // The server's own.
            assert_eq!(bouncer.client().fails("select 1/0").code, "22012");
        }
    }
}
