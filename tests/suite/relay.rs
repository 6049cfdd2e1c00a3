//! What a client says reaches a server, and what the server says reaches that client.

use crate::support::bouncer::assert_error;
use crate::support::*;

/// What the planner cannot work out beforehand, so that Bind still succeeds.
pub(crate) const FAILS_WHEN_EXECUTED: &str = "select 1 / (random() * 0)::int";

fn start() -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| setup)
}

#[test]
fn simple_query_returns_rows() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.send(&msg::query("select 7, null::text; select 'x' where false"));
    let got = client.expect("TDCTCZ");
    assert_eq!(got[1].row(), [Some("7".into()), None]);
    assert_eq!(got[4].strings(0), ["SELECT 0"]);
    assert_eq!(got[5].body, b"I");
}

#[test]
fn empty_query_gets_its_own_answer() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.send(&msg::query(""));
    client.expect("IZ");
    client.send(&msg::extended("", &[]));
    client.expect("12IZ");
}

#[test]
fn error_leaves_the_session_usable() {
    let bouncer = start();
    let mut client = bouncer.client();
    let error = client.fails("select 1/0");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "22012"));
    assert_eq!(client.one("select 'on'"), "on");
}

#[test]
fn failed_transaction_says_so_until_it_ends() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.send(&msg::query("begin"));
    assert_eq!(client.expect("CZ")[1].body, b"T");
    client.send(&msg::query("select 1/0"));
    assert_eq!(client.expect("EZ")[1].body, b"E");
    assert_eq!(client.fails("select 1").code, "25P02");
    client.send(&msg::query("rollback"));
    assert_eq!(client.expect("CZ")[1].body, b"I");
}

#[test]
fn extended_query_returns_what_was_asked_for() {
    let bouncer = start();
    let mut client = bouncer.client();
    let sql = "select $1::int + 1, $2";
    client.send(&[msg::parse("", sql), msg::describe(b'S', ""), msg::sync()].concat());
    let got = client.expect("1tTZ");
    assert_eq!((got[1].u32(2), got[1].u32(6)), (23, 25));
    let bound = [msg::parse("", sql), msg::bind("", &["41", "x"]), msg::describe(b'P', "")];
    client.send(&[bound.concat(), msg::execute(0), msg::sync()].concat());
    let got = client.expect("12TDCZ");
    assert_eq!(got[3].row(), [Some("42".into()), Some("x".into())]);
}

#[test]
fn portal_is_fetched_in_parts_within_a_transaction() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.run("begin");
    let head = [msg::parse("", "select generate_series(1, 5)"), msg::bind("", &[])].concat();
    client.send(&[head, msg::execute(2), msg::execute(2), msg::execute(2), msg::sync()].concat());
    client.expect("12DDsDDsDCZ");
    client.send(&[msg::close(b'P', ""), msg::sync()].concat());
    client.expect("3Z");
    client.run("commit");
}

#[test]
fn pipeline_of_several_syncs_is_answered_in_order() {
    let bouncer = start();
    let mut client = bouncer.client();
    let count = 300;
    let all: Vec<u8> = (0..count).flat_map(|i| msg::extended("select $1", &[&i.to_string()])).collect();
    client.send(&all);
    for i in 0..count {
        let got = client.expect("12DCZ");
        assert_eq!(got[2].row(), [Some(i.to_string())]);
    }
    assert_eq!(client.one("select 'after'"), "after");
}

#[test]
fn pipeline_mixes_simple_and_extended() {
    let bouncer = start();
    let mut client = bouncer.client();
    let parts = [
        msg::query("select 1"),
        msg::extended("select 2", &[]),
        msg::query("begin"),
        msg::extended("select 3", &[]),
        msg::query("commit"),
        msg::query("select 4"),
    ];
    client.send(&parts.concat());
    client.expect("TDCZ12DCZCZ12DCZCZTDCZ");
}

#[test]
fn pipelined_syncs_alone_are_each_answered() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.send(&msg::sync().repeat(5));
    client.expect("ZZZZZ");
    assert_eq!(client.one("select 1"), "1");
}

#[test]
fn flush_brings_results_before_the_sync() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.send(&[msg::unsynced("select $1", &["early"]), msg::flush()].concat());
    assert_eq!(client.expect("12DC")[2].row(), [Some("early".into())]);
    client.expect_silence(millis(100));
    // The server stays this client's until the Sync, whoever else asks.
    let mut neighbour = bouncer.client();
    assert_eq!(neighbour.one("select 'mine'"), "mine");
    client.send(&[msg::unsynced("select 2", &[]), msg::sync()].concat());
    client.expect("12DCZ");
}

#[test]
fn error_in_a_pipeline_skips_to_its_sync_only() {
    let bouncer = start();
    let mut client = bouncer.client();
    let parts = [
        msg::unsynced("select 1", &[]),
        msg::unsynced(FAILS_WHEN_EXECUTED, &[]),
        msg::unsynced("select 2", &[]),
        msg::sync(),
        msg::extended("select 3", &[]),
    ];
    client.send(&parts.concat());
    let got = client.expect("12DC12EZ12DCZ");
    assert_eq!(got[6].error().code, "22012");
    assert_eq!(got[10].row(), [Some("3".into())]);
}

#[test]
fn error_in_parse_then_many_skipped_messages() {
    let bouncer = start();
    let mut client = bouncer.client();
    let skipped = msg::unsynced("select 1", &[]).repeat(50);
    client.send(&[msg::parse("", "selec"), skipped, msg::sync(), msg::query("select 5")].concat());
    let got = client.expect("EZTDCZ");
    assert_eq!(got[0].error().code, "42601");
}

/// More requests than the pooler lets be under way at once.
const MANY: usize = 20_000;

#[test]
fn long_pipeline_that_fails_late_is_skipped_to_its_sync() {
    for mode in ["transaction", "session"] {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", mode));
        let mut client = bouncer.client();
        let fails = "select 1 / (random() * 0)::int from pg_sleep(0.3)";
        let rest = msg::unsynced("select 1", &[]).repeat(MANY / 3);
        client.send_and_take_in(&[msg::unsynced(fails, &[]), rest, msg::sync()].concat()).expect("send");
        client.expect("12EZ");
        assert_eq!(client.one("select 'on'"), "on");
    }
}

#[test]
fn long_message_at_the_end_of_a_long_pipeline_is_whole() {
    let bouncer = start();
    let mut client = bouncer.client();
    let long = "x".repeat(100_000);
    client.send(&msg::unsynced("select pg_sleep(0.3)", &[]));
    // Whichever of these makes it too many, it comes in pieces.
    let pair = [msg::describe(b'P', ""), msg::bind("s", &[&long])].concat();
    client.send(&[msg::parse("s", "select length($1)"), msg::bind("s", &["x"])].concat());
    client.send(&msg::describe(b'P', "").repeat(16_384 - 3 - 2 - 10));
    client.send_and_take_in(&[pair.repeat(10), msg::execute(0), msg::sync()].concat()).expect("send");
    let mut rows = Vec::new();
    loop {
        let message = client.recv();
        match message.tag {
            b'D' => rows.push(message.row()),
            b'Z' => break,
            tag => assert!(b"12TC".contains(&tag), "{}", tag as char),
        }
    }
    assert_eq!(rows[1..], [[Some("100000".into())]]);
}

#[test]
fn query_inside_an_unsynced_pipeline_ends_it() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.send(&[msg::unsynced("select 1", &[]), msg::query("select 2"), msg::sync()].concat());
    client.expect("12DCTDCZZ");
    assert_eq!(client.one("select 3"), "3");
}

#[test]
fn query_after_an_error_in_an_unsynced_pipeline_is_skipped() {
    let bouncer = start();
    let mut client = bouncer.client();
    let parts = [msg::unsynced(FAILS_WHEN_EXECUTED, &[]), msg::query("select 2"), msg::sync()];
    client.send(&parts.concat());
    client.expect("12EZ");
    assert_eq!(client.one("select 3"), "3");
}

#[test]
fn transaction_spanning_pipelines_keeps_its_server() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 3));
    let mut others: Vec<Wire> = (0..3).map(|_| bouncer.client()).collect();
    let mut client = bouncer.client();
    client.send(&msg::extended("begin", &[]));
    client.expect("12CZ");
    let mine = client.backend();
    for other in &mut others {
        assert_ne!(other.backend(), mine);
    }
    client.send(&msg::extended("select pg_backend_pid()", &[]));
    assert_eq!(client.expect("12DCZ")[2].row(), [Some(mine.to_string())]);
    client.send(&msg::extended("commit", &[]));
    client.expect("12CZ");
}

#[test]
fn function_call_is_answered() {
    let bouncer = start();
    let mut client = bouncer.client();
    let oid: u32 = client.one("select 'reverse(text)'::regprocedure::oid").parse().expect("an oid");
    client.send(&msg::function_call(oid, &["drawer"]));
    let got = client.expect("VZ");
    assert_eq!(&got[0].body[4..], b"reward");
    client.send(&msg::function_call(1, &[]));
    client.expect("EZ");
    assert_eq!(client.one("select 1"), "1");
}

#[test]
fn notices_arrive_before_what_follows_them() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.send(&msg::query("do $$ begin raise notice 'one'; raise warning 'two'; end $$"));
    let got = client.expect("NNCZ");
    assert_eq!(got[0].error().message, "one");
    assert_eq!(got[1].error().severity, "WARNING");
}

#[test]
fn notification_is_delivered_in_session_mode() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", "session"));
    let mut listener = bouncer.client();
    listener.run("listen news");
    // To an idle client, unasked.
    bouncer.client().run("notify news, 'extra'");
    let got = listener.expect("A");
    assert_eq!(got[0].strings(4), ["news", "extra"]);
    assert_eq!(listener.one("select 1"), "1");
}

#[test]
fn notification_is_delivered_after_a_reset() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", "session"));
    let mut listener = bouncer.client();
    listener.run("listen news");
    listener.run("reset timezone");
    bouncer.client().run("notify news");
    listener.expect("A");
}

#[test]
fn notification_comes_before_ready_for_query_of_the_query_that_causes_it() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    let mut client = bouncer.client();
    client.run("listen news");
    client.send(&msg::query("notify news, 'own'"));
    assert_eq!(client.expect("CAZ")[1].strings(4), ["news", "own"]);
}

#[test]
fn statement_mode_forbids_transaction_blocks() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("pool_mode", "statement"));
    let mut client = bouncer.client();
    assert_eq!(client.one("select 1"), "1");
    client.send(&msg::query("begin"));
    let error = loop {
        let message = client.recv();
        if message.tag == b'E' {
            break message.error();
        }
    };
    let text = "transaction blocks not allowed in statement pooling mode";
    assert_error(&error, text, "08P01");
    client.expect_closed();
    // And nobody inherits the open transaction.
    let mut next = bouncer.client();
    let open = "select count(*) from pg_stat_activity where state like 'idle in%' and datname = current_database()";
    wait_until("its backend has ended", PATIENCE, || next.one(open) == "0");
    // Several statements in one message are one implicit transaction, which ends by itself.
    next.send(&msg::query("select 1; select 2"));
    next.expect("TDCTDCZ");
}

#[test]
fn disable_pqexec_closes_on_a_simple_query_only() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("disable_pqexec", 1));
    let mut client = bouncer.client();
    client.send(&msg::extended("select 1", &[]));
    client.expect("12DCZ");
    client.send(&msg::query("select 1"));
    assert_error(&client.expect_fatal(), "PQexec disallowed", "08P01");
}

#[test]
fn terminate_in_the_middle_of_a_pipeline_leaves_a_clean_pool() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    let mut client = bouncer.client();
    client.send(&[msg::unsynced("create table never (i int)", &[]), msg::terminate()].concat());
    client.expect_closed();
    let mut next = bouncer.client();
    assert_eq!(next.one("select to_regclass('never') is null"), "t");
}

#[test]
fn client_over_the_unix_socket_is_served() {
    let bouncer = start();
    let mut client = Wire::unix(bouncer.socket_path());
    client.login("app", "app", "", &[]).expect("log in");
    assert_eq!(client.one("select 'local'"), "local");
}

#[test]
fn server_over_a_unix_socket_is_used() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup.database("local", format!("host={} port={} dbname=postgres", pg.dir.display(), pg.port))
    });
    let mut client = bouncer.client_of("app", "local");
    assert_eq!(client.one("select inet_server_addr() is null"), "t");
}
