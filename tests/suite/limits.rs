//! How many clients and servers there may be, for all, for a database and for a user.

use crate::support::bouncer::assert_error;
use crate::support::*;

#[test]
fn max_client_conn_turns_the_next_client_away() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("max_client_conn", 3));
    let mut clients: Vec<Wire> = (0..3).map(|_| bouncer.client()).collect();
    let text = "no more connections allowed (max_client_conn)";
    assert_error(&bouncer.refusal("app", "app", ""), text, "53300");
    // Whoever is in stays in, the console is open, and a place given up is free again.
    clients.iter_mut().for_each(|client| client.run("select 1"));
    bouncer.admin().run("SHOW VERSION");
    drop(clients.pop());
    wait_until("a place is free", PATIENCE, || bouncer.try_client("app", "app", "").is_ok());
}

#[test]
fn max_db_client_connections_counts_a_database_s_clients() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup
            .set("max_db_client_connections", 2)
            .database("free", format!("host=127.0.0.1 port={} dbname=postgres max_db_client_connections=5", pg.port))
    });
    let mut clients = vec![bouncer.client(), bouncer.client_of("other", "app")];
    let text = "client connections exceeded (max_db_client_connections)";
    assert_error(&bouncer.refusal("third", "app", ""), text, "53300");
    clients.extend((0..5).map(|_| bouncer.client_of("app", "free")));
    assert_error(&bouncer.refusal("app", "free", ""), text, "53300");
    clients.clear();
    wait_until("a place is free", PATIENCE, || bouncer.try_client("app", "app", "").is_ok());
}

#[test]
fn max_user_client_connections_counts_a_user_s_clients() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup
            .set("max_user_client_connections", 2)
            .user("other", "max_user_client_connections=1")
            .database("second", format!("host=127.0.0.1 port={} dbname=postgres", pg.port))
    });
    let mut clients = vec![bouncer.client(), bouncer.client_of("app", "second")];
    let text = "client connections exceeded (max_user_client_connections)";
    assert_error(&bouncer.refusal("app", "app", ""), text, "53300");
    clients.push(bouncer.client_of("other", "app"));
    assert_error(&bouncer.refusal("other", "second", ""), text, "53300");
    clients.clear();
    wait_until("a place is free", PATIENCE, || bouncer.try_client("app", "app", "").is_ok());
}

#[test]
fn max_db_connections_evicts_the_longest_idle_server_of_another_pool() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("max_db_connections", 2));
    let mut clients: Vec<Wire> =
        ["app", "other", "third"].into_iter().map(|user| bouncer.client_of(user, "app")).collect();
    // Now one server each for the first two, the first one's idle for longer.
    clients[0].run("select 1");
    clients[1].run("select 1");
    let evictions = [(2, ["other", "third"]), (1, ["other", "third"]), (0, ["app", "other"]), (2, ["app", "third"])];
    for (client, expected) in evictions {
        clients[client].run("select 1");
        wait_until(&format!("servers of {expected:?}"), PATIENCE, || {
            pg.backend_users(&bouncer.server_database) == expected
        });
    }
}

#[test]
fn max_db_connections_makes_clients_wait_while_all_servers_work() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("max_db_connections", 2));
    let mut waiter = bouncer.client_of("third", "app");
    let mut holders = [bouncer.client(), bouncer.client_of("other", "app")];
    holders.iter_mut().for_each(|holder| holder.run("begin"));
    waiter.send(&msg::query("select 'at last'"));
    wait_until("it waits", PATIENCE, || bouncer.pool("app", "third", "cl_waiting") == 1);
    waiter.expect_silence(millis(500));
    assert_eq!(pg.backend_users(&bouncer.server_database), ["app", "other"]);
    holders[0].run("commit");
    assert_eq!(waiter.expect("TDCZ")[1].row(), [Some("at last".into())]);
    bouncer.wait_backends(pg, 2);
}

#[test]
fn pool_sizes_beyond_max_db_connections_do_not_starve_a_second_pool() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("max_db_connections", 2).set("default_pool_size", 5));
    // The first pool always has more to do than servers.
    let mut greedy: Vec<Wire> = (0..8).map(|_| bouncer.client()).collect();
    let mut modest = bouncer.client_of("other", "app");
    for client in &mut greedy {
        client.send(&msg::query("select pg_sleep(0.05)").repeat(10));
    }
    modest.send(&msg::query("select 'not starved'"));
    assert_eq!(modest.expect("TDCZ")[1].row(), [Some("not starved".into())]);
    let unfinished = bouncer.pool("app", "app", "cl_waiting");
    assert!(unfinished > 0, "the second pool was served only after the first had finished");
    // And connections are not torn down all the time to that end.
    let evicted = bouncer.log().matches("evicted").count();
    assert!(evicted < 20, "{evicted} evictions");
    for client in &mut greedy {
        client.expect(&"TDCZ".repeat(10));
        assert!(bouncer.show("SERVERS").len() <= 2);
    }
}

#[test]
fn max_db_connections_of_the_entry_beats_the_general_one() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("max_db_connections", 5).app("max_db_connections=1"));
    let mut holder = bouncer.client();
    let mut waiter = bouncer.client();
    holder.run("begin");
    waiter.send(&msg::query("select 1"));
    bouncer.wait_pool("cl_waiting", 1);
    assert_eq!(bouncer.backends(pg), 1);
    holder.run("commit");
    waiter.expect("TDCZ");
}

#[test]
fn max_user_connections_counts_over_all_databases() {
    let pg = Postgres::shared();
    let second = pg.create_database();
    let bouncer = Bouncer::start(pg, |setup| {
        setup
            .user("app", "max_user_connections=1")
            .database("second", format!("host=127.0.0.1 port={} dbname={second}", pg.port))
    });
    let mut here = bouncer.client();
    let mut there = bouncer.client_of("app", "second");
    here.run("select 1");
    assert_eq!(bouncer.backends(pg), 1);
    // The idle server of one database makes room for the other.
    there.run("select 1");
    bouncer.wait_backends(pg, 0);
    assert_eq!(pg.backends(&second), 1);
    // A busy one does not.
    there.run("begin");
    here.send(&msg::query("select 2"));
    bouncer.wait_pool("cl_waiting", 1);
    here.expect_silence(millis(300));
    there.run("commit");
    here.expect("TDCZ");
    // Other users are not concerned.
    bouncer.client_of("other", "app").run("select 3");
}

#[test]
fn limits_on_clients_hold_at_the_console_but_not_for_admins() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("max_user_client_connections", 1));
    let watcher = bouncer.client_of("watcher", "pgbouncer");
    let error = bouncer.refusal("watcher", "pgbouncer", "");
    assert_error(&error, "client connections exceeded (max_user_client_connections)", "53300");
    let _admins = [bouncer.admin(), bouncer.admin()];
    drop(watcher);
    wait_until("the place is free", PATIENCE, || bouncer.try_client("watcher", "pgbouncer", "").is_ok());
}
