//! Clients of the replication protocol: each has a server of its own, which counts in its pool
//! and is nobody else's before or after.

use std::collections::HashMap;

use crate::support::bouncer::{Setup, assert_error};
use crate::support::*;

fn start(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
    Bouncer::start(Postgres::shared(), change)
}

fn try_replica(bouncer: &Bouncer, user: &str, more: &[(&str, &str)]) -> Result<Wire, PgError> {
    let mut wire = Wire::tcp(bouncer.port);
    // PgBouncer logs in to the server when something is asked.
    wire.login(user, "app", "", more)?;
    wire.query("IDENTIFY_SYSTEM").map(|_| wire)
}

/// A client of `app` that asks for `replication`, and has its server.
#[track_caller]
fn replica(bouncer: &Bouncer, replication: &str) -> Wire {
    try_replica(bouncer, "replicator", &[("replication", replication)]).expect("log in")
}

/// Where the server's WAL ends.
fn position(wire: &mut Wire) -> String {
    wire.query("IDENTIFY_SYSTEM").expect("IDENTIFY_SYSTEM").remove(0).remove(2).expect("a position")
}

fn begin_stream(wire: &mut Wire, from: &str) {
    wire.send(&msg::query(&format!("START_REPLICATION PHYSICAL {from}")));
    wire.expect("W");
}

/// A client that streams WAL, under a name that the server shows.
fn streaming(bouncer: &Bouncer, name: &str) -> Wire {
    let params = [("replication", "true"), ("application_name", name)];
    let mut wire = try_replica(bouncer, "replicator", &params).expect("log in");
    let from = position(&mut wire);
    begin_stream(&mut wire, &from);
    wire
}

/// Ends the stream from this side; the session goes on.
#[track_caller]
fn end_stream(wire: &mut Wire) {
    wire.send(&msg::copy_done());
    let rest: String = std::iter::from_fn(|| Some(wire.recv().tag as char).filter(|tag| *tag != 'Z')).collect();
    let rest = rest.trim_start_matches('d');
    assert!(rest.starts_with('c') && rest.ends_with('C'), "{rest}");
}

/// The WAL in the next message that has any: where it begins, and how long it is.
fn next_wal(wire: &mut Wire) -> (u64, u64) {
    loop {
        let message = wire.recv();
        assert_eq!(message.tag, b'd', "{message}");
        if message.body[0] == b'w' {
            let at = u64::from_be_bytes(message.body[1..9].try_into().expect("eight bytes"));
            return (at, message.body.len() as u64 - 25);
        }
    }
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').expect("a position");
    let hex = |digits| u64::from_str_radix(digits, 16).expect("hexadecimal");
    hex(high) << 32 | hex(low)
}

/// What the server says of its walsender of this name.
fn walsenders(name: &str) -> Vec<msg::Row> {
    Postgres::shared()
        .sql(&format!("select pid, state, flush_lsn from pg_stat_replication where application_name = '{name}'"))
}

#[track_caller]
fn wait_gone(bouncer: &Bouncer, name: &str) {
    wait_until(&format!("the walsender of {name} ends"), PATIENCE, || walsenders(name).is_empty());
    let is_replication = |row: &HashMap<String, String>| row["replication"] != "none";
    wait_until("no such server is left", PATIENCE, || !bouncer.show("SERVERS").iter().any(is_replication));
}

fn replicator_pool(bouncer: &Bouncer, column: &str) -> u64 {
    bouncer.pool("app", "replicator", column)
}

#[track_caller]
fn wait_pool(bouncer: &Bouncer, column: &str, count: u64) {
    wait_until(&format!("{column} = {count}"), PATIENCE, || replicator_pool(bouncer, column) == count);
}

#[test]
fn each_client_has_a_server_of_its_own_that_ends_with_it() {
    let bouncer = start(|setup| setup);
    let pid = |wire: &mut Wire| wire.one("select pg_backend_pid()");
    let (mut one, mut two) = (replica(&bouncer, "database"), replica(&bouncer, "database"));
    let pids = [pid(&mut one), pid(&mut two)];
    assert_ne!(pids[0], pids[1]);
    assert_eq!([pid(&mut one), pid(&mut two)], pids);
    assert_eq!((replicator_pool(&bouncer, "sv_active"), replicator_pool(&bouncer, "sv_idle")), (2, 0));
    one.send(&msg::terminate());
    drop(two);
    wait_pool(&bouncer, "sv_active", 0);
    bouncer.wait_log("closing because: replication client was closed");
    assert_eq!(replicator_pool(&bouncer, "sv_idle"), 0);
    let mut ordinary = bouncer.client_of("replicator", "app");
    assert!(!pids.contains(&pid(&mut ordinary)));
}

#[test]
fn parameters_and_options_go_with_the_login() {
    let bouncer = start(|setup| setup);
    for replication in ["database", "yes"] {
        let options = "-c enable_seqscan=off -c extra_float_digits=3";
        let params = [
            ("replication", replication),
            ("application_name", "mine"),
            ("options", options),
            ("datestyle", "German"),
            ("client_encoding", "latin1"),
        ];
        let mut wire = try_replica(&bouncer, "replicator", &params).expect("log in");
        for (name, value) in [
            ("application_name", "mine"),
            ("enable_seqscan", "off"),
            ("extra_float_digits", "3"),
            ("datestyle", "German, DMY"),
            ("client_encoding", "LATIN1"),
        ] {
            assert_eq!(wire.one(&format!("SHOW {name}")), value);
        }
    }
    let ordinary = [("replication", "off"), ("options", "-c enable_seqscan=off")];
    let error = try_replica(&bouncer, "replicator", &ordinary).err().expect("refused");
    assert_error(&error, "unsupported startup parameter in options: enable_seqscan", "08P01");
}

#[test]
fn both_kinds_are_told_apart_in_log_and_console() {
    let bouncer = start(|setup| setup);
    let _replicas = [replica(&bouncer, "database"), replica(&bouncer, "1")];
    let _ordinary = bouncer.client();
    for (attempt, shown) in [("database", "logical"), ("yes", "physical")] {
        bouncer.wait_log(&format!("login attempt: db=app user=replicator tls=no replication={attempt}"));
        for what in ["CLIENTS", "SERVERS"] {
            let rows = bouncer.show(what);
            let of = rows.iter().filter(|row| row["replication"] == shown).collect::<Vec<_>>();
            assert_eq!((of.len(), &*of[0]["state"], of[0]["link"].is_empty()), (1, "active", false), "{what}");
        }
    }
    let clients = bouncer.show("CLIENTS");
    assert!(clients.iter().any(|row| row["user"] == "app" && row["replication"] == "none"));
}

#[test]
fn wal_comes_whole_and_in_order_at_full_speed() {
    let bouncer = start(|setup| setup);
    let mut wire = replica(&bouncer, "on");
    let from = position(&mut wire);
    let filler = "select pg_logical_emit_message(false, 'x', repeat('x', 1000000)) from generate_series(1, 64)";
    let pg = Postgres::shared();
    pg.sql(filler);
    let end = lsn(pg.sql("select pg_current_wal_lsn()")[0][0].as_deref().expect("a position"));
    begin_stream(&mut wire, &from);
    let mut at = lsn(&from) & !0x1fff;
    while at < end {
        let (start, length) = next_wal(&mut wire);
        assert!(start == at || at < lsn(&from), "{start:x} follows {at:x}");
        at = start + length;
    }
}

#[test]
fn what_the_client_reports_reaches_the_server() {
    let bouncer = start(|setup| setup);
    let name = "reporting";
    let mut wire = streaming(&bouncer, name);
    Postgres::shared().sql("select pg_logical_emit_message(false, 'x', 'x')");
    let (at, length) = next_wal(&mut wire);
    let seen = (at + length).to_be_bytes();
    // Standby status update: written, flushed, applied, time, no answer wanted.
    let update = [&b"r"[..], &seen, &seen, &seen, &[0; 9]].concat();
    wire.send(&msg::message(b'd', &update));
    let is_flushed = || walsenders(name).iter().any(|row| row[2].as_deref().map(lsn) == Some(at + length));
    wait_until("the server knows", PATIENCE, is_flushed);
    end_stream(&mut wire);
    assert_eq!(wire.one("SHOW application_name"), name);
}

#[test]
fn a_client_that_vanishes_takes_its_server_with_it() {
    let bouncer = start(|setup| setup);
    drop(streaming(&bouncer, "vanishing"));
    wait_gone(&bouncer, "vanishing");
}

#[test]
fn a_client_that_does_not_read_holds_up_its_server_only() {
    let bouncer = start(|setup| setup);
    let mut wire = Wire::tcp_narrow(bouncer.port);
    let params = [("replication", "true"), ("application_name", "reluctant")];
    wire.login("replicator", "app", "", &params).expect("log in");
    let from = position(&mut wire);
    let pg = Postgres::shared();
    pg.sql("select pg_logical_emit_message(false, 'x', repeat('x', 1000000)) from generate_series(1, 64)");
    let before = bouncer.memory_kib("VmRSS");
    begin_stream(&mut wire, &from);
    let sent = || pg.sql("select sent_lsn from pg_stat_replication where application_name = 'reluctant'");
    let mut last = Vec::new();
    // It sends as long as somebody takes it.
    wait_until("the walsender is stuck", PATIENCE, || {
        std::thread::sleep(millis(50));
        let now = sent();
        let is_stuck = now == last && lsn(now[0][0].as_deref().unwrap_or("0/0")) > lsn(&from);
        last = now;
        is_stuck
    });
    assert!(lsn(last[0][0].as_deref().expect("a position")) < lsn(&from) + 32_000_000);
    assert_eq!(bouncer.client().one("select 1"), "1");
    let grown = bouncer.memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more");
    drop(wire);
    wait_gone(&bouncer, "reluctant");
}

#[test]
fn streams_and_transactions_share_a_small_pool() {
    let bouncer = start(|setup| setup.set("default_pool_size", 4));
    let mut streams = ["first", "second"].map(|name| streaming(&bouncer, name));
    let pids: Vec<_> = ["first", "second"].iter().filter_map(|name| walsenders(name)[0][0].clone()).collect();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (bouncer, pids) = (&bouncer, &pids);
            scope.spawn(move || {
                let mut client = bouncer.client_of("replicator", "app");
                for i in 0..50 {
                    let expected = format!("{worker} {i}");
                    client.run("begin");
                    assert!(!pids.contains(&client.one("select pg_backend_pid()")));
                    assert_eq!(client.one(&format!("select '{expected}'")), expected);
                    client.run("commit");
                }
            });
        }
        // Others come and go meanwhile.
        for _ in 0..10 {
            drop(replica(&bouncer, "database"));
        }
    });
    streams.iter_mut().for_each(end_stream);
    drop(streams);
    wait_gone(&bouncer, "first");
    assert!(replicator_pool(&bouncer, "sv_idle") <= 4);
}

#[test]
fn an_idle_server_makes_room_in_a_full_pool() {
    let bouncer = start(|setup| setup.set("default_pool_size", 1));
    let idle = bouncer.client_of("replicator", "app").backend();
    let mut wire = replica(&bouncer, "database");
    assert_ne!(wire.backend(), idle);
    bouncer.wait_log("closing because: evicted");
    let mut next = bouncer.client_of("replicator", "app");
    next.send(&msg::query("select 'served'"));
    wait_pool(&bouncer, "cl_waiting", 1);
    drop(wire);
    next.expect("TDCZ");
}

#[test]
fn an_idle_server_of_another_pool_makes_room_under_a_shared_limit() {
    let bouncer = start(|setup| setup.set("max_db_connections", 1));
    bouncer.client().run("select 1");
    let mut wire = replica(&bouncer, "database");
    assert_eq!(bouncer.pool("app", "app", "sv_idle"), 0);
    assert_eq!(wire.one("select 1"), "1");
    drop(wire);
    bouncer.client().run("select 1");
}

#[test]
fn a_refused_walsender_is_no_matter_of_others() {
    let bouncer = start(|setup| setup);
    let refused = try_replica(&bouncer, "app", &[("replication", "database")]).err().expect("refused");
    assert_error(&refused, "login failed", "42501");
    bouncer.wait_log("must be superuser or replication role to start walsender");
    wait_until("both ends are told", PATIENCE, || bouncer.logged("closing because: login failed (age") == 2);
    assert_eq!(bouncer.client().one("select 1"), "1");
}

/// A walsender's server knows what its client asked for at its login.
#[test]
fn reset_goes_back_to_the_login() {
    let bouncer = start(|setup| setup);
    let params = [("replication", "database"), ("datestyle", "German")];
    let mut wire = try_replica(&bouncer, "replicator", &params).expect("log in");
    wire.run("set datestyle = 'ISO'");
    wire.run("reset all");
    assert_eq!(wire.params["DateStyle"], "German, DMY");
    assert_eq!(wire.one("show datestyle"), "German, DMY");
}

/// In PgBouncer the wait comes with the first request, here with the login.
fn ask(bouncer: &Bouncer) -> Wire {
    let mut wire = Wire::tcp(bouncer.port);
    let params = [("user", "replicator"), ("database", "app"), ("replication", "database")];
    wire.send(&msg::startup(msg::PROTOCOL_3_0, &params));
    wire
}

mod beyond_pgbouncer {
    use super::*;

    /// PgBouncer takes it for "no".
    #[test]
    fn a_wrong_value_is_refused_as_by_postgresql() {
        let bouncer = start(|setup| setup);
        for wrong in ["maybe", "", "Database", "2", "o"] {
            let params = [("replication", wrong)];
            let ours = try_replica(&bouncer, "replicator", &params).err().expect("refused");
            let mut direct = Wire::tcp(Postgres::shared().port);
            let theirs = direct.login("replicator", "postgres", "", &params).expect_err("refused");
            assert_eq!(ours, theirs);
        }
    }

    /// PgBouncer answers logins without a server, and lets a busy pool's clients go first.
    #[test]
    fn a_server_that_comes_free_makes_room_for_whoever_is_next() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let mut holder = bouncer.client_of("replicator", "app");
        holder.run("begin");
        let mut wire = ask(&bouncer);
        wait_pool(&bouncer, "cl_waiting", 1);
        let mut behind = bouncer.client_of("replicator", "app");
        behind.send(&msg::query("select 'behind'"));
        wait_pool(&bouncer, "cl_waiting", 2);
        holder.run("commit");
        wire.authenticate("replicator", "").expect("log in");
        assert_eq!(wire.one("select 1"), "1");
        assert_eq!((replicator_pool(&bouncer, "sv_active"), replicator_pool(&bouncer, "cl_waiting")), (1, 1));
        drop(wire);
        behind.expect("TDCZ");
    }

    #[test]
    fn waiting_for_a_server_has_its_timeout() {
        let bouncer = start(|setup| setup.set("default_pool_size", 1).set("query_wait_timeout", 1));
        let held = replica(&bouncer, "yes");
        let mut wire = ask(&bouncer);
        assert_error(&wire.expect_fatal(), "query_wait_timeout", "08P01");
        // One that goes away while it waits leaves nothing behind.
        drop(ask(&bouncer));
        wait_pool(&bouncer, "cl_waiting", 0);
        drop(held);
        assert_eq!(replica(&bouncer, "database").one("select 1"), "1");
    }

    #[test]
    fn a_host_that_is_down_is_waited_for() {
        let pg = Postgres::dedicated();
        let bouncer = Bouncer::start(&pg, |setup| setup);
        pg.stop("INT");
        let mut wire = ask(&bouncer);
        wait_pool(&bouncer, "cl_waiting", 1);
        bouncer.wait_log("no server connection");
        pg.start();
        wire.authenticate("replicator", "").expect("log in");
        assert_eq!(wire.one("select 1"), "1");
    }
}

#[test]
fn cancel_requests_reach_the_walsender() {
    let bouncer = start(|setup| setup);
    let mut wire = replica(&bouncer, "database");
    wire.send(&msg::query("select pg_sleep(30)"));
    bouncer.wait_asleep(Postgres::shared(), 1);
    Wire::tcp(bouncer.port).send(&wire.cancel_packet());
    assert_eq!(wire.answer_of_query().expect_err("cancelled").code, "57014");
    assert_eq!(wire.one("select 1"), "1");
}

#[test]
fn transactions_need_no_session_mode() {
    let bouncer = start(|setup| setup.set("pool_mode", "statement"));
    let mut wire = replica(&bouncer, "database");
    wire.run("begin");
    wire.run("commit");
    wire.run("create temporary table kept (i int)");
    assert_eq!(wire.one("select count(*) from kept"), "0");
}

#[test]
fn timeouts_of_idlers_do_not_end_a_stream() {
    let bouncer = start(|setup| {
        let names = ["client_idle_timeout", "idle_transaction_timeout", "server_idle_timeout", "server_lifetime"];
        names.into_iter().fold(setup, |setup, name| setup.set(name, 1))
    });
    let (mut stream, mut idle) = (streaming(&bouncer, "long"), replica(&bouncer, "database"));
    let pid = idle.backend();
    std::thread::sleep(millis(2200));
    assert_eq!(idle.backend(), pid);
    end_stream(&mut stream);
}

#[test]
fn query_timeout_ends_a_stream() {
    let bouncer = start(|setup| setup.set("query_timeout", 1));
    let mut stream = streaming(&bouncer, "too-long");
    let error = loop {
        match stream.recv() {
            message if message.tag == b'E' => break message.error(),
            message => assert_eq!(message.tag, b'd', "{message}"),
        }
    };
    assert_error(&error, "query timeout", "57014");
    wait_gone(&bouncer, "too-long");
}

#[test]
fn reconnect_ends_a_stream() {
    let bouncer = start(|setup| setup);
    let mut stream = streaming(&bouncer, "obsolete");
    bouncer.admin().run("RECONNECT");
    let error = std::iter::repeat_with(|| stream.recv()).find(|message| message.tag == b'E').expect("an error");
    assert_error(&error.error(), "database configuration changed", "08P01");
    wait_gone(&bouncer, "obsolete");
}

#[test]
fn pause_waits_for_the_end_of_a_stream() {
    let bouncer = start(|setup| setup);
    let stream = streaming(&bouncer, "paused");
    let mut admin = bouncer.admin();
    admin.send(&msg::query("PAUSE"));
    admin.expect_silence(millis(500));
    drop(stream);
    admin.expect("CZ");
    let mut waiting = ask(&bouncer);
    bouncer.admin().run("RESUME");
    waiting.authenticate("replicator", "").expect("log in");
}

#[test]
fn a_removed_database_ends_a_stream() {
    let mut bouncer = start(|setup| {
        let entry = format!("host=127.0.0.1 port={} dbname=postgres", Postgres::shared().port);
        setup.database("gone", entry)
    });
    let mut wire = Wire::tcp(bouncer.port);
    wire.login("replicator", "gone", "", &[("replication", "true"), ("application_name", "removed")]).expect("log in");
    let from = position(&mut wire);
    begin_stream(&mut wire, &from);
    bouncer.reload(|setup| setup.without_database("gone"));
    while wire.recv().tag == b'd' {}
    wait_gone(&bouncer, "removed");
}
