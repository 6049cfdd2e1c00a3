//! Which client gets which server, and when.

use std::time::Instant;

use crate::support::*;

/// Clients of `app`, each in a transaction and so in possession of a server.
fn hold(bouncer: &Bouncer, count: usize) -> Vec<Wire> {
    let mut holders: Vec<Wire> = (0..count).map(|_| bouncer.client()).collect();
    holders.iter_mut().for_each(|holder| holder.run("begin"));
    holders
}

/// Makes the pool have exactly `count` servers, all idle.
fn warm(bouncer: &Bouncer, count: usize) {
    for mut holder in hold(bouncer, count) {
        holder.run("commit");
    }
    bouncer.wait_pool("sv_idle", count as u64);
}

#[test]
fn transaction_mode_frees_the_server_after_each_transaction() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("default_pool_size", 1));
    let mut clients: Vec<Wire> = (0..10).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.run("begin");
        client.run("select 1");
        client.run("commit");
    }
    assert_eq!(bouncer.backends(pg), 1);
}

#[test]
fn session_mode_keeps_the_server_until_the_client_leaves() {
    let bouncer =
        Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", "session").set("default_pool_size", 1));
    let mut first = bouncer.client();
    let pid = first.backend();
    first.run("create temp table mine (i int)");
    let mut second = bouncer.client();
    second.send(&msg::query("select pg_backend_pid()"));
    bouncer.wait_pool("cl_waiting", 1);
    first.run("select * from mine");
    first.send(&msg::terminate());
    assert_eq!(second.expect("TDCZ")[1].row(), [Some(pid.to_string())]);
}

#[test]
fn statement_mode_frees_the_server_after_each_statement() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("pool_mode", "statement").set("default_pool_size", 1));
    let mut clients: Vec<Wire> = (0..10).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.run("select 1");
    }
    assert_eq!(bouncer.backends(pg), 1);
}

#[test]
fn pool_mode_of_the_user_beats_that_of_the_database_beats_the_general_one() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.set("pool_mode", "transaction").app("pool_mode=statement").user("other", "pool_mode=session")
    });
    let mut app = bouncer.client();
    app.send(&msg::query("begin"));
    app.drain();
    let mut other = bouncer.client_of("other", "app");
    other.run("create temp table mine (i int)");
    other.run("begin");
    other.run("commit");
    other.run("select * from mine");
    for (user, mode) in [("app", "statement"), ("other", "session")] {
        let pools = bouncer.show("POOLS");
        let pool = pools.iter().find(|p| p["user"] == user && p["database"] == "app");
        assert_eq!(pool.expect("the pool")["pool_mode"], mode);
    }
}

#[test]
fn pool_never_outgrows_its_size() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("default_pool_size", 3));
    let mut clients: Vec<Wire> = (0..12).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.send(&msg::query("select pg_sleep(0.1)"));
    }
    bouncer.wait_backends(pg, 3);
    for client in &mut clients {
        client.expect("TDCZ");
        assert!(bouncer.backends(pg) <= 3);
    }
}

#[test]
fn pool_size_of_the_database_and_of_the_user_apply() {
    let pg = Postgres::shared();
    let bouncer =
        Bouncer::start(pg, |setup| setup.set("default_pool_size", 7).app("pool_size=2").user("other", "pool_size=1"));
    let mut app: Vec<Wire> = (0..4).map(|_| bouncer.client()).collect();
    let mut other: Vec<Wire> = (0..4).map(|_| bouncer.client_of("other", "app")).collect();
    for client in app.iter_mut().chain(&mut other) {
        client.send(&msg::query("begin"));
    }
    bouncer.wait_pool("cl_waiting", 2);
    wait_until("others wait", PATIENCE, || bouncer.pool("app", "other", "cl_waiting") == 3);
    assert_eq!(pg.backend_users(&bouncer.server_database), ["app", "app", "other"]);
}

#[test]
fn pools_of_different_users_do_not_share_servers() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup);
    for user in ["app", "other", "app", "other"] {
        assert_eq!(bouncer.client_of(user, "app").one("select current_user"), user);
    }
    assert_eq!(pg.backend_users(&bouncer.server_database), ["app", "other"]);
}

#[test]
fn waiters_are_served_first_come_first_served() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    let mut holder = bouncer.client();
    holder.run("create sequence turn");
    let mut waiters: Vec<Wire> = (0..12).map(|_| bouncer.client()).collect();
    holder.run("begin");
    for (i, waiter) in waiters.iter_mut().enumerate() {
        waiter.send(&msg::query("select nextval('turn')"));
        bouncer.wait_pool("cl_waiting", i as u64 + 1);
    }
    holder.run("commit");
    for (i, waiter) in waiters.iter_mut().enumerate() {
        assert_eq!(waiter.expect("TDCZ")[1].row(), [Some((i + 1).to_string())]);
    }
}

/// Which backends a lone client meets in `count` queries.
fn met(bouncer: &Bouncer, count: usize) -> Vec<u32> {
    let mut client = bouncer.client();
    (0..count).map(|_| client.backend()).collect()
}

#[test]
fn server_used_last_is_used_next() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 4));
    warm(&bouncer, 4);
    let pids = met(&bouncer, 8);
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

#[test]
fn round_robin_uses_all_servers_in_turn() {
    let bouncer =
        Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 4).set("server_round_robin", 1));
    warm(&bouncer, 4);
    let pids = met(&bouncer, 8);
    let mut distinct = pids[..4].to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 4, "{pids:?}");
    assert_eq!(pids[..4], pids[4..]);
}

#[test]
fn reserve_pool_helps_after_its_timeout_only() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup.set("default_pool_size", 1).set("reserve_pool_size", 1).set("reserve_pool_timeout", 1)
    });
    let _holders = hold(&bouncer, 1);
    let mut waiter = bouncer.client();
    let began = Instant::now();
    assert_eq!(waiter.one("select 'helped'"), "helped");
    assert!(began.elapsed() > millis(700), "after {:?} already", began.elapsed());
    assert_eq!(bouncer.backends(pg), 2);
    // One more than the reserve has to wait.
    waiter.run("begin");
    let mut third = bouncer.client();
    third.send(&msg::query("select 1"));
    third.expect_silence(secs(2));
    waiter.run("commit");
    third.expect("TDCZ");
    assert_eq!(bouncer.backends(pg), 2);
}

#[test]
fn min_pool_size_is_kept_ready() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("min_pool_size", 3));
    let mut client = bouncer.client();
    client.run("select 1");
    bouncer.wait_backends(pg, 3);
    pg.terminate_backend(client.backend());
    wait_until("the lost one is replaced", PATIENCE, || {
        bouncer.backends(pg) == 3 && bouncer.pool("app", "app", "sv_idle") == 3
    });
}

#[test]
fn min_pool_size_of_a_forced_user_needs_no_client() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.app("user=other min_pool_size=2"));
    wait_until("two servers", PATIENCE, || pg.backend_users(&bouncer.server_database) == ["other", "other"]);
}

#[test]
fn forced_user_serves_every_client() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.app("user=third pool_size=1"));
    for user in ["app", "other"] {
        assert_eq!(bouncer.client_of(user, "app").one("select current_user"), "third");
    }
}

#[test]
fn star_database_takes_every_name() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.database("*", format!("host=127.0.0.1 port={}", pg.port)));
    let mut client = bouncer.client_of("app", &bouncer.server_database);
    assert_eq!(client.one("select current_database()"), bouncer.server_database);
    // And an unknown one is the server's to refuse.
    let error = bouncer.refusal("app", "nowhere", "");
    assert!(error.message.contains(r#"database "nowhere" does not exist"#), "{error}");
}

#[test]
fn database_of_another_name_is_reached_by_dbname() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let mut client = bouncer.client();
    assert_eq!(client.one("select current_database()"), bouncer.server_database);
}

#[test]
fn idle_clients_hold_no_servers() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("max_client_conn", 400));
    let mut clients: Vec<Wire> = (0..300).map(|_| bouncer.client()).collect();
    clients.iter_mut().for_each(|client| client.run("select 1"));
    assert_eq!(bouncer.backends(pg), 1);
}

mod beyond_pgbouncer {
    use super::*;

    /// PgBouncer opens the next connection when the last is logged in.
    #[test]
    fn cold_pool_grows_in_parallel() {
        let bouncer =
            Bouncer::start(Postgres::shared(), |setup| setup.app("connect_query='select pg_sleep(1)' pool_size=6"));
        let mut clients: Vec<Wire> = (0..6).map(|_| bouncer.client()).collect();
        let began = Instant::now();
        for client in &mut clients {
            client.send(&msg::query("begin"));
        }
        for client in &mut clients {
            client.expect("CZ");
        }
        assert!(began.elapsed() < secs(3), "took {:?}", began.elapsed());
    }

    /// PgBouncer does not look at its client's socket while the client waits.
    #[test]
    fn client_that_leaves_while_waiting_leaves_the_queue() {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
        let mut holders = hold(&bouncer, 1);
        let mut waiter = bouncer.client();
        waiter.send(&msg::query("select 1"));
        bouncer.wait_pool("cl_waiting", 1);
        drop(waiter);
        bouncer.wait_pool("cl_waiting", 0);
        holders[0].run("commit");
        assert_eq!(bouncer.client().one("select 'next'"), "next");
    }

    /// PgBouncer links a server at a message's first bytes.
    #[test]
    fn head_of_a_query_holds_no_server() {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 2));
        let whole = msg::query("select 'slow'");
        let mut slow: Vec<Wire> = (0..4).map(|_| bouncer.client()).collect();
        for (i, client) in slow.iter_mut().enumerate() {
            client.send(&whole[..3 + i]);
            client.wait_taken();
        }
        assert_eq!(bouncer.client().one("select 'served'"), "served");
        for (i, client) in slow.iter_mut().enumerate() {
            client.send(&whole[3 + i..]);
            client.expect("TDCZ");
        }
    }
}
