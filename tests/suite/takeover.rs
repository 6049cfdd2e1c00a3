//! `-R`: another process takes over, and clients notice nothing.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::bouncer::{Former, Setup};
use crate::support::process::limit_open_files;
use crate::support::{Bouncer, PATIENCE, Postgres, Random, Wire, msg, wait_until};

fn start(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
    Bouncer::start(Postgres::shared(), change)
}

/// Prepares `sql` under `name`.
fn prepare(client: &mut Wire, name: &str, sql: &str) {
    client.send(&[msg::parse(name, sql), msg::sync()].concat());
    client.expect("1Z");
}

/// The only value that a prepared statement gives.
#[track_caller]
fn executed(client: &mut Wire, name: &str, params: &[&str]) -> String {
    client.send(&[msg::bind(name, params), msg::execute(0), msg::sync()].concat());
    let rows = client.answer_of_query().expect("execute");
    rows[0][0].clone().expect("a value")
}

fn cancel(bouncer: &Bouncer, client: &Wire) {
    let mut asker = Wire::tcp(bouncer.port);
    asker.send(&client.cancel_packet());
    asker.expect_closed();
}

#[track_caller]
fn assert_canceled(client: &mut Wire) {
    assert_eq!(client.answer_of_query().expect_err("canceled").code, "57014");
}

fn wait_ended(child: &mut Child) -> bool {
    let mut status = None;
    wait_until("the process ends", PATIENCE, || {
        status = child.try_wait().expect("wait for the process");
        status.is_some()
    });
    status.is_some_and(|status| status.success())
}

/// One number of SHOW STATS for `app`.
fn stat(bouncer: &Bouncer, column: &str) -> u64 {
    let rows = bouncer.show("STATS");
    let row = rows.iter().find(|row| row["database"] == "app").expect("a row for app");
    row[column].parse().expect("a number")
}

#[test]
fn idle_clients_carry_on() {
    let mut bouncer = start(|setup| setup.set("default_pool_size", 1).set("max_prepared_statements", 10));
    let (mut tcp, mut unix) = (Wire::tcp(bouncer.port), Wire::unix(bouncer.socket_path()));
    tcp.login("app", "app", "", &[("application_name", "first"), ("TimeZone", "Asia/Tokyo")]).expect("log in");
    unix.login("app", "app", "", &[]).expect("log in");
    unix.run("set datestyle = 'German, DMY'");
    prepare(&mut tcp, "named", "select $1::int + 1");
    prepare(&mut tcp, "", "select $1 || ' unnamed'");
    prepare(&mut unix, "named", "select date '2001-02-03' || $1");
    assert_eq!(executed(&mut unix, "named", &["!"]), "03.02.2001!");
    let backend = tcp.backend();
    prepare(&mut tcp, "", "select $1 || ' unnamed'");
    let connected = bouncer.show("CLIENTS").into_iter().filter(|c| c["database"] == "app");
    let connected: Vec<String> = connected.map(|client| client["connect_time"].clone()).collect();
    for _ in 0..3 {
        let parses = stat(&bouncer, "total_server_parse_count");
        bouncer.reboot().wait_exit();
        let clients = bouncer.show("CLIENTS").into_iter().filter(|c| c["database"] == "app");
        let mut now: Vec<String> = clients.map(|client| client["connect_time"].clone()).collect();
        now.sort();
        assert_eq!(now, connected);
        assert_eq!(executed(&mut tcp, "named", &["41"]), "42");
        assert_eq!(executed(&mut unix, "named", &["?"]), "03.02.2001?");
        // What the server has prepared stays.
        assert_eq!(stat(&bouncer, "total_server_parse_count"), parses);
        assert_eq!(executed(&mut tcp, "", &["still"]), "still unnamed");
        assert_eq!(tcp.one("show timezone") + &tcp.one("show application_name"), "Asia/Tokyofirst");
        assert_eq!(unix.one("select date '2001-02-03'"), "03.02.2001");
        assert_eq!(tcp.backend(), backend);
        prepare(&mut tcp, "", "select $1 || ' unnamed'");
    }
    // New names go on from where they were.
    prepare(&mut unix, "new", "select 'new' || $1");
    assert_eq!(executed(&mut unix, "new", &["er"]), "newer");
    assert_eq!(bouncer.client().one("select 7"), "7");
}

#[test]
fn transactions_and_sessions_go_along() {
    let mut bouncer = start(|setup| {
        let entry = |b: &str| format!("host=127.0.0.1 port={} dbname=postgres {b}", Postgres::shared().port);
        setup.database("sess", entry("pool_mode=session")).set("server_reset_query", "")
    });
    let (mut open, mut failed) = (bouncer.client(), bouncer.client());
    open.run("begin");
    let xid = open.one("select txid_current()");
    failed.run("begin");
    failed.fails("select 1/0");
    let mut session = bouncer.client_of("app", "sess");
    session.run("create temp table kept as select 5 as x");
    let mut pinned = bouncer.client();
    pinned.run("prepare by_sql as select 'sql'");
    let backends = (session.backend(), pinned.backend());
    for _ in 0..2 {
        bouncer.reboot().wait_exit();
        assert_eq!(open.one("select txid_current()"), xid);
        assert_eq!(failed.fails("select 1").code, "25P02");
        assert_eq!(session.one("select x from kept"), "5");
        assert_eq!(pinned.one("execute by_sql"), "sql");
        assert_eq!((session.backend(), pinned.backend()), backends);
    }
    open.run("commit");
    failed.run("rollback");
    assert_eq!(failed.one("select 1"), "1");
    bouncer.wait_pool("sv_active", 1);
    pinned.run("deallocate by_sql");
    bouncer.wait_pool("sv_active", 0);
    assert_eq!(open.one("select 2"), "2");
}

#[test]
fn queries_finish_in_the_old_process_and_clients_carry_on_in_the_new() {
    let pg = Postgres::shared();
    let mut bouncer = start(|setup| setup.set("default_pool_size", 1));
    let (mut runs, mut waits) = (bouncer.client(), bouncer.client());
    let backend = runs.backend();
    runs.run("begin");
    runs.send(&msg::query("select pg_sleep(0.5)"));
    bouncer.wait_asleep(pg, 1);
    waits.send(&msg::query("select pg_backend_pid()"));
    bouncer.wait_pool("cl_waiting", 1);
    let mut former = bouncer.reboot();
    assert!(former.is_running());
    bouncer.wait_pool("cl_waiting", 1);
    // Its server is expected here, so that the pool makes no other.
    assert_eq!(bouncer.backends(pg), 1);
    assert_eq!(runs.answer_of_query().expect("the answer").len(), 1);
    former.wait_exit();
    runs.run("commit");
    assert_eq!(waits.answer_of_query().expect("the answer")[0][0], Some(backend.to_string()));
    assert_eq!((runs.backend(), bouncer.backends(pg)), (backend, 1));
}

#[test]
fn half_a_message_goes_along() {
    let mut bouncer = start(|setup| setup);
    let mut clients: Vec<Wire> = (0..2).map(|_| bouncer.client()).collect();
    clients[1].run("begin");
    let query = msg::query("select 'whole'");
    for client in &mut clients {
        client.send(&query[..9]);
        client.wait_taken();
    }
    bouncer.reboot().wait_exit();
    for mut client in clients {
        client.send(&query[9..]);
        assert_eq!(client.answer_of_query().expect("the answer")[0][0].as_deref(), Some("whole"));
    }
}

#[test]
fn cancel_requests_find_their_client_in_either_process() {
    let pg = Postgres::shared();
    let mut bouncer = start(|setup| setup.set("default_pool_size", 1));
    let (mut runs, mut waits) = (bouncer.client(), bouncer.client());
    runs.send(&msg::query("select pg_sleep(60)"));
    bouncer.wait_asleep(pg, 1);
    waits.send(&msg::query("select 1"));
    bouncer.wait_pool("cl_waiting", 1);
    let mut former = bouncer.reboot();
    // The one that waits has gone, the one that runs has not.
    bouncer.wait_pool("cl_waiting", 1);
    cancel(&bouncer, &waits);
    assert_canceled(&mut waits);
    cancel(&bouncer, &runs);
    assert_canceled(&mut runs);
    former.wait_exit();
    for client in [&mut runs, &mut waits] {
        client.send(&msg::query("select pg_sleep(60)"));
        bouncer.wait_asleep(pg, 1);
        cancel(&bouncer, client);
        assert_canceled(client);
        assert_eq!(client.one("select 3"), "3");
    }
    // Of somebody unknown to both.
    let mut former = bouncer.reboot();
    let mut asker = Wire::tcp(bouncer.port);
    asker.send(&msg::packet(msg::CANCEL_REQUEST, &[1; 8]));
    asker.expect_closed();
    former.wait_exit();
}

#[test]
fn the_pidfile_names_who_serves() {
    let mut bouncer = start(|setup| setup);
    let pidfile = bouncer.dir.join("pid");
    bouncer.rewrite(|setup| setup.set("pidfile", pidfile.display()));
    let mut plain = bouncer.reboot();
    plain.wait_exit();
    let pid = || fs::read_to_string(&pidfile).expect("a pidfile").trim().parse::<u32>().expect("a number");
    assert_eq!(pid(), bouncer.pid());
    bouncer.reboot().wait_exit();
    assert_eq!(pid(), bouncer.pid());
    assert!(bouncer.socket_path().exists());
    bouncer.signal("TERM");
    bouncer.wait_exit();
    assert!(!pidfile.exists() && !bouncer.socket_path().exists());
}

mod beyond_pgbouncer {
    mod tls;

    use super::*;

    /// Starts a successor that cannot serve, and returns what it has logged.
    #[track_caller]
    fn failed_reboot(bouncer: &Bouncer, ini: &Path) -> String {
        let mut child = bouncer.spawn_successor(ini, "failed");
        assert!(!wait_ended(&mut child));
        fs::read_to_string(bouncer.dir.join("failed")).expect("read the log")
    }

    #[test]
    fn a_process_that_cannot_serve_leaves_the_old_one_as_it_was() {
        let bouncer = start(|setup| setup);
        let mut client = bouncer.client();
        client.run("begin");
        for (line, wanted) in [
            ("no_such_setting = 1", "no_such_setting"),
            ("unix_socket_dir =", "cannot reboot if unix dir not configured"),
            ("client_tls_sslmode = require", "TLS"),
            // This it finds out when it has asked already.
            ("listen_addr = no-such-host.invalid", "getaddrinfo"),
            // Of `*` it could have the IPv6 part.
            ("listen_addr = *", "cannot listen on 0.0.0.0:"),
        ] {
            let text = fs::read_to_string(bouncer.dir.join("pooler.ini")).expect("read the configuration");
            let name = line.split(' ').next().expect("a name");
            let kept: Vec<&str> = text.lines().filter(|kept| !kept.starts_with(name)).collect();
            let ini = bouncer.dir.join("broken.ini");
            fs::write(&ini, format!("{}\n{line}\n", kept.join("\n"))).expect("write the configuration");
            let log = failed_reboot(&bouncer, &ini);
            assert!(log.contains("FATAL") && log.contains(wanted), "{log}");
        }
        bouncer.wait_log("the takeover has come to nothing");
        client.run("commit");
        assert_eq!(bouncer.client().one("select 1"), "1");
        assert!(bouncer.socket_path().exists());
    }

    #[test]
    fn without_an_old_process_it_starts_as_usual() {
        let mut bouncer = start(|setup| setup);
        bouncer.signal("TERM");
        bouncer.wait_exit();
        bouncer.reboot();
        assert!(bouncer.log().contains("old process not found, try to continue normally"));
        assert_eq!(bouncer.client().one("select 1"), "1");
    }

    #[test]
    fn the_old_process_serves_on_when_the_new_one_is_killed() {
        let pg = Postgres::shared();
        let mut bouncer = start(|setup| setup);
        let pidfile = bouncer.dir.join("pid");
        bouncer.rewrite(|setup| setup.set("pidfile", pidfile.display()));
        bouncer.reboot().wait_exit();
        let (mut runs, mut idle) = (bouncer.client(), bouncer.client());
        runs.send(&msg::query("select pg_sleep(0.5)"));
        bouncer.wait_asleep(pg, 1);
        let former_pid = bouncer.pid();
        let mut former = bouncer.reboot();
        wait_until("one client has gone", PATIENCE, || bouncer.pool("app", "app", "cl_active") == 1);
        bouncer.signal("KILL");
        bouncer.wait_exit();
        idle.expect_closed();
        wait_until("the old process notices", PATIENCE, || former.log().contains("serving on"));
        assert!(runs.answer_of_query().is_ok());
        // Somebody accepts again.
        assert_eq!(bouncer.client().one("select 1"), "1");
        assert_eq!(runs.one("select 2"), "2");
        assert_eq!(fs::read_to_string(&pidfile).expect("a pidfile").trim(), former_pid.to_string());
        assert!(bouncer.socket_path().exists() && former.is_running());
        // The next one gets it all.
        let mut next = bouncer.spawn_successor(&bouncer.dir.join("pooler.ini"), "next");
        former.wait_exit();
        assert_eq!(runs.one("select 3"), "3");
        next.kill().expect("kill");
        wait_ended(&mut next);
    }

    #[test]
    fn a_successor_that_ends_regularly_needs_no_help() {
        let pg = Postgres::shared();
        let mut bouncer = start(|setup| setup);
        let mut runs = bouncer.client();
        runs.send(&msg::query("select pg_sleep(1)"));
        bouncer.wait_asleep(pg, 1);
        let mut former = bouncer.reboot();
        bouncer.signal("TERM");
        bouncer.wait_exit();
        assert!(runs.answer_of_query().is_ok());
        assert_eq!(runs.one("select 1"), "1");
        assert!(Wire::try_tcp(bouncer.port).is_err());
        drop(runs);
        former.wait_exit();
    }

    #[test]
    fn a_shutdown_is_for_the_old_process_too() {
        let pg = Postgres::shared();
        let mut bouncer = start(|setup| setup);
        let mut runs = bouncer.client();
        runs.send(&msg::query("select pg_sleep(600)"));
        bouncer.wait_asleep(pg, 1);
        let mut former = bouncer.reboot();
        bouncer.signal("QUIT");
        bouncer.wait_exit();
        former.wait_exit();
        runs.expect_closed();
    }

    /// A client in a query that the old process waits for.
    fn left_behind(bouncer: &mut Bouncer) -> (Wire, Former) {
        let mut runs = bouncer.client();
        runs.run("begin");
        runs.send(&msg::query("select pg_sleep(600)"));
        bouncer.wait_asleep(Postgres::shared(), 1);
        (runs, bouncer.reboot())
    }

    #[test]
    fn commands_are_for_clients_of_the_old_process_too() {
        let mut bouncer = start(|setup| setup.database("spare", "host=127.0.0.1"));
        let (mut runs, mut former) = left_behind(&mut bouncer);
        let mut admin = bouncer.admin();
        for database in ["", " spare"] {
            admin.run(&format!("RECONNECT{database}"));
        }
        admin.send(&msg::query("PAUSE app"));
        admin.expect_silence(Duration::from_millis(200));
        cancel(&bouncer, &runs);
        assert_canceled(&mut runs);
        // In its transaction it is in use here by now.
        former.wait_exit();
        admin.expect_silence(Duration::from_millis(200));
        let backend = runs.fails("select pg_backend_pid()").code;
        assert_eq!(backend, "25P02");
        runs.run("rollback");
        admin.answer_of_query().expect("paused");
        admin.run("RESUME app");
        runs.run("select 1");
        let (mut runs, mut former) = left_behind(&mut bouncer);
        bouncer.admin().run("KILL app");
        assert_eq!(runs.expect_fatal().message, "database removed");
        former.wait_exit();
    }

    #[test]
    fn obsolete_servers_of_the_old_process_are_not_kept() {
        let mut bouncer = start(|setup| setup);
        let (mut runs, mut former) = left_behind(&mut bouncer);
        bouncer.admin().run("RECONNECT");
        cancel(&bouncer, &runs);
        assert_canceled(&mut runs);
        former.wait_exit();
        let backend = bouncer.show("SERVERS")[0]["remote_pid"].clone();
        assert_eq!(bouncer.show("SERVERS")[0]["close_needed"], "1");
        runs.run("rollback");
        assert_ne!(runs.backend().to_string(), backend);
        bouncer.admin().run("WAIT_CLOSE");
    }

    #[test]
    fn connections_that_have_said_nothing_go_along() {
        let mut bouncer = start(|setup| setup.set("tcp_defer_accept", 0));
        let (mut tcp, mut unix) = (Wire::tcp(bouncer.port), Wire::unix(bouncer.socket_path()));
        wait_until("both are accepted", PATIENCE, || {
            bouncer.show("LISTS").iter().any(|row| row["list"] == "login_clients" && row["items"] == "2")
        });
        bouncer.reboot().wait_exit();
        for client in [&mut tcp, &mut unix] {
            client.login("app", "app", "", &[]).expect("log in");
            client.run("select 1");
        }
    }

    #[test]
    fn what_was_paused_or_disabled_stays_so() {
        let mut bouncer = start(|setup| setup.database("off", "host=127.0.0.1"));
        let mut client = bouncer.client();
        client.run("select 1");
        let mut admin = bouncer.admin();
        admin.run("PAUSE app");
        admin.run("DISABLE off");
        client.send(&msg::query("select 5"));
        bouncer.wait_pool("cl_waiting", 1);
        bouncer.reboot().wait_exit();
        assert_eq!(bouncer.refusal("app", "off", "").message, "database \"off\" is disabled");
        bouncer.wait_pool("cl_waiting", 1);
        bouncer.admin().run("RESUME app");
        assert_eq!(client.answer_of_query().expect("the answer")[0][0].as_deref(), Some("5"));
    }

    #[test]
    fn what_was_killed_without_a_name_is_resumed_without_one() {
        let mut bouncer = start(|setup| setup);
        let _killed = bouncer.client();
        bouncer.admin().run("KILL");
        bouncer.reboot().wait_exit();
        let mut client = bouncer.client();
        client.send(&msg::query("select 5"));
        bouncer.wait_pool("cl_waiting", 1);
        bouncer.admin().run("RESUME");
        assert_eq!(client.answer_of_query().expect("the answer")[0][0].as_deref(), Some("5"));
    }

    #[test]
    fn secrets_of_client_logins_go_along() {
        let pg = Postgres::dedicated();
        pg.sql("set password_encryption = 'scram-sha-256'; create role keyed login password 'sesame'");
        let verifier = pg.sql("select rolpassword from pg_authid where rolname = 'keyed'")[0][0].clone().expect("one");
        fs::write(
            pg.dir.join("pg_hba.conf"),
            "local all all trust\nhost all keyed 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n",
        )
        .expect("write pg_hba.conf");
        pg.sql("select pg_reload_conf()");
        let mut bouncer = Bouncer::start(&pg, |setup| {
            setup.set("auth_type", "scram-sha-256").secret("keyed", &verifier).secret("admin", "x")
        });
        let mut client = bouncer.try_client("keyed", "app", "sesame").expect("log in");
        assert_eq!(client.one("select 1"), "1");
        bouncer.reboot().wait_exit();
        let backend = client.backend();
        bouncer.admin().run("RECONNECT");
        wait_until("another server", PATIENCE, || client.backend() != backend);
        assert!(!bouncer.log().contains("sesame"));
    }

    #[test]
    fn servers_of_another_place_are_not_taken() {
        let pg = Postgres::shared();
        let mut bouncer = start(|setup| setup);
        let (mut idle, mut open) = (bouncer.client(), bouncer.client());
        let before = idle.one("select current_database()");
        open.run("begin");
        let elsewhere = pg.create_database();
        let entry = format!("host=127.0.0.1 port={} dbname={elsewhere}", pg.port);
        bouncer.rewrite(|setup| setup.database("app", entry).without_database("other"));
        bouncer.reboot().wait_exit();
        assert_eq!(idle.one("select current_database()"), elsewhere);
        assert_eq!(open.one("select current_database()"), before);
        open.run("commit");
        assert_eq!(open.one("select current_database()"), elsewhere);
        // And clients of one that is gone are told.
        bouncer.rewrite(|setup| setup.without_database("app").database("spare", "host=127.0.0.1"));
        bouncer.reboot().wait_exit();
        assert_eq!(idle.expect_fatal().message, "database removed");
    }

    #[test]
    fn what_a_reload_has_changed_is_so_for_those_who_come_after_it() {
        let pg = Postgres::shared();
        let elsewhere = pg.create_database();
        let entry = |database: &str| format!("host=127.0.0.1 port={} dbname={database}", pg.port);
        let mut bouncer = start(|setup| setup.database("moves", entry("postgres")).database("goes", entry("postgres")));
        let mut clients = ["moves", "goes"].map(|database| bouncer.client_of("app", database));
        for client in &mut clients {
            client.run("begin");
            client.send(&msg::query("select pg_sleep(1)"));
        }
        let mut idle = bouncer.client();
        let mut former = bouncer.reboot();
        bouncer.reload(|setup| setup.database("moves", entry(&elsewhere)).without_database("goes"));
        let [moves, goes] = &mut clients;
        moves.expect("TDCZ");
        goes.expect("TDCZ");
        former.wait_exit();
        assert_eq!(goes.expect_fatal().message, "database removed");
        assert_eq!(moves.one("select current_database()"), "postgres");
        moves.run("commit");
        assert_eq!(moves.one("select current_database()"), elsewhere);
        idle.run("select 1");
    }

    #[test]
    fn few_descriptors_are_enough() {
        let mut bouncer = start(|setup| setup);
        let mut clients: Vec<Wire> = (0..100).map(|_| bouncer.client()).collect();
        limit_open_files(bouncer.pid(), 40);
        bouncer.reboot().wait_exit();
        clients.iter_mut().for_each(|client| client.run("select 1"));
    }

    #[test]
    fn a_new_process_may_be_killed_at_any_moment() {
        let mut random = Random::seeded(7);
        let mut bouncer = start(|setup| setup.set("default_pool_size", 6));
        // As long as this one cannot go over, the old process is not done before the new one dies.
        let mut busy = bouncer.client();
        busy.send(&msg::query("select pg_sleep(600)"));
        bouncer.wait_asleep(Postgres::shared(), 1);
        let mut clients: Vec<Wire> = Vec::new();
        for _ in 0..4 {
            clients.extend((clients.len()..40).map(|_| bouncer.client()));
            clients.iter_mut().step_by(8).for_each(|client| client.run("begin"));
            let mut next = bouncer.spawn_successor(&bouncer.dir.join("pooler.ini"), "next");
            let log = bouncer.dir.join("next");
            let has_begun = || fs::read_to_string(&log).is_ok_and(|log| log.contains("descriptor limit"));
            wait_until("it begins", PATIENCE, has_begun);
            thread::sleep(Duration::from_micros(random.below(15_000)));
            next.kill().expect("kill");
            wait_ended(&mut next);
            // Those that had gone over are lost; all others go on where they were.
            let mut kept = Vec::new();
            for (n, mut client) in clients.into_iter().enumerate() {
                client.send(&msg::query(&format!("select {n}")));
                match client.answer_of_query() {
                    Ok(rows) => assert_eq!(rows[0][0], Some(n.to_string())),
                    Err(e) => {
                        assert_eq!(e.severity, "GONE", "{e}");
                        continue;
                    }
                }
                if n % 8 == 0 {
                    client.run("commit");
                }
                kept.push(client);
            }
            clients = kept;
            assert!(bouncer.is_running());
        }
        drop(busy);
        bouncer.reboot().wait_exit();
        for client in &mut clients {
            client.run("select 1");
        }
    }

    #[test]
    fn statistics_go_on_and_console_clients_come_again() {
        let mut bouncer = start(|setup| setup);
        let mut client = bouncer.client();
        (0..5).for_each(|_| client.run("select 1"));
        let mut admin = bouncer.admin();
        let mut former = bouncer.reboot();
        let error = admin.expect_fatal();
        let wanted = ("57P01", "another process has taken over, connect again");
        assert_eq!((error.code.as_str(), error.message.as_str()), wanted);
        client.run("select 2");
        former.wait_exit();
        assert_eq!(stat(&bouncer, "total_query_count"), 6);
    }

    #[test]
    fn others_cannot_take_over() {
        let bouncer = start(|setup| setup);
        let mut admin = bouncer.admin();
        let error = admin.fails("TAKEOVER 1");
        assert_eq!(error.message, "only the owner of this process may take over, by its Unix socket");
        let mut watcher = bouncer.client_of("watcher", "pgbouncer");
        assert_eq!(watcher.fails("TAKEOVER 1").message, "admin access needed");
        assert_eq!(admin.one("SHOW VERSION"), bouncer.admin().one("SHOW VERSION"));
    }

    /// What a client of the load test does until `stop`; returns how often.
    fn work(port: u16, seed: u64, stop: &AtomicBool, count: &AtomicU64) {
        let mut random = Random::seeded(seed);
        let mut client = Wire::tcp(port);
        client.login("app", "app", "", &[]).expect("log in");
        prepare(&mut client, "mine", &format!("select $1 || ' of {seed}'"));
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            let value = format!("{n}");
            let expected = format!("{n} of {seed}");
            if seed.is_multiple_of(2) {
                client.run("begin");
                let xid = client.one("select txid_current()");
                client.run(&format!("select pg_sleep(0.00{})", random.below(10)));
                assert_eq!(executed(&mut client, "mine", &[&value]), expected);
                assert_eq!(client.one("select txid_current()"), xid);
                client.run("commit");
            } else {
                assert_eq!(executed(&mut client, "mine", &[&value]), expected);
                assert_eq!(client.one(&format!("select {n}")), value);
                thread::sleep(Duration::from_millis(random.below(5)));
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
        client.send(&msg::terminate());
    }

    /// `PGWEIR_TAKEOVERS=10` and `PGWEIR_TAKEOVER_CLIENTS=200` make it the whole thing.
    #[test]
    fn clients_under_load_see_no_error() {
        let number = |name: &str, or: u64| std::env::var(name).map_or(or, |n| n.parse().expect("a number"));
        let (clients, takeovers) = (number("PGWEIR_TAKEOVER_CLIENTS", 60), number("PGWEIR_TAKEOVERS", 3));
        let pg = Postgres::shared();
        let mut bouncer = start(|setup| setup.set("default_pool_size", 20).set("max_client_conn", 1000));
        let (stop, count, port) = (AtomicBool::new(false), AtomicU64::new(0), bouncer.port);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..clients)
                .map(|seed| {
                    scope.spawn({
                        let (stop, count) = (&stop, &count);
                        move || work(port, seed, stop, count)
                    })
                })
                .collect();
            let turns = |n: u64| {
                let until = count.load(Ordering::Relaxed) + n * clients;
                let limit = Instant::now() + PATIENCE;
                while count.load(Ordering::Relaxed) < until && Instant::now() < limit {
                    thread::sleep(Duration::from_millis(5));
                }
                count.load(Ordering::Relaxed) >= until
            };
            let mut is_alive = turns(1);
            for _ in 0..takeovers {
                if is_alive {
                    bouncer.reboot().wait_exit();
                    is_alive = turns(1);
                }
            }
            let most = bouncer.backends(pg);
            stop.store(true, Ordering::Relaxed);
            let failed = workers.into_iter().filter_map(|worker| worker.join().err()).count();
            assert!(is_alive && failed == 0, "{failed} clients failed");
            assert!(most <= 20, "{most} backends");
        });
    }
}
