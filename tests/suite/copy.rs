//! COPY in both directions, and how it fails.

use crate::support::*;

fn start() -> (Bouncer, Wire) {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    let mut client = bouncer.client();
    client.run("create table target (i int, t text)");
    (bouncer, client)
}

/// The pool's only server still works, for this client and for another.
fn assert_unharmed(bouncer: &Bouncer, client: &mut Wire, rows: &str) {
    for client in [client, &mut bouncer.client()] {
        assert_eq!(client.one("select count(*) from target"), rows);
    }
}

#[test]
fn syncs_without_number_before_the_data_are_swallowed() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let mut client = bouncer.client();
    client.run("create table much_synced (a int)");
    client.send(&[msg::query("copy much_synced from stdin"), msg::sync().repeat(20_000)].concat());
    client.send(&[msg::copy_data("1\n"), msg::copy_done()].concat());
    client.expect("GCZ");
    assert_eq!(client.one("select count(*) from much_synced"), "1");
}

#[test]
fn copy_out_streams_every_row() {
    let (bouncer, mut client) = start();
    client.send(&msg::query("copy (select generate_series(1, 3)) to stdout"));
    let got = client.expect("HdddcCZ");
    assert_eq!(got[3].body, b"3\n");
    assert_unharmed(&bouncer, &mut client, "0");
}

#[test]
fn copy_in_stores_every_row() {
    let (bouncer, mut client) = start();
    client.send(&msg::query("copy target from stdin"));
    client.expect("G");
    for i in 0..1000 {
        client.send(&msg::copy_data(&format!("{i}\trow {i}\n")));
    }
    client.send(&msg::copy_done());
    assert_eq!(client.expect("CZ")[0].strings(0), ["COPY 1000"]);
    assert_unharmed(&bouncer, &mut client, "1000");
}

#[test]
fn copy_in_keeps_its_server_while_the_client_pauses() {
    let (bouncer, mut client) = start();
    client.send(&msg::query("copy target from stdin"));
    client.expect("G");
    client.send(&msg::copy_data("1\tone\n"));
    let mut neighbour = bouncer.client();
    neighbour.send(&msg::query("select 'served'"));
    bouncer.wait_pool("cl_waiting", 1);
    client.send(&[msg::copy_data("2\ttwo\n"), msg::copy_done()].concat());
    client.expect("CZ");
    neighbour.expect("TDCZ");
    assert_unharmed(&bouncer, &mut client, "2");
}

#[test]
fn copy_fail_leaves_nothing_behind() {
    let (bouncer, mut client) = start();
    client.send(&msg::query("copy target from stdin"));
    client.expect("G");
    client.send(&[msg::copy_data("1\tone\n"), msg::copy_fail("changed my mind")].concat());
    let got = client.expect("EZ");
    assert_eq!(got[0].error().code, "57014");
    assert!(got[0].error().message.contains("changed my mind"));
    assert_unharmed(&bouncer, &mut client, "0");
}

#[test]
fn bad_copy_data_is_refused_and_the_rest_swallowed() {
    let (bouncer, mut client) = start();
    client.send(&msg::query("copy target from stdin"));
    client.expect("G");
    client.send(&msg::copy_data("not a number\tx\n"));
    // PostgreSQL says so at once; the client, unaware, goes on to send.
    client.expect("EZ");
    client.send(&msg::copy_data("1\tlate\n").repeat(100));
    client.send(&msg::copy_done());
    assert_unharmed(&bouncer, &mut client, "0");
}

#[test]
fn extended_copy_in_with_its_sync_after_the_data() {
    let (bouncer, mut client) = start();
    client.send(&[msg::unsynced("copy target from stdin", &[]), msg::flush()].concat());
    client.expect("12G");
    client.send(&[msg::copy_data("1\tone\n"), msg::copy_done(), msg::sync()].concat());
    client.expect("CZ");
    assert_unharmed(&bouncer, &mut client, "1");
}

/// PostgreSQL ignores a Sync while it copies in: libpq sends one with the Execute, and another
/// after CopyDone, and there is one ReadyForQuery.
#[test]
fn extended_copy_in_ignores_the_sync_sent_with_execute() {
    let (bouncer, mut client) = start();
    client.send(&msg::extended("copy target from stdin", &[]));
    client.expect("12G");
    client.send(&[msg::copy_data("1\tone\n"), msg::copy_done(), msg::sync()].concat());
    client.expect("CZ");
    client.expect_silence(millis(100));
    assert_unharmed(&bouncer, &mut client, "1");
}

#[test]
fn extended_copy_in_that_fails_waits_for_the_sync() {
    let (bouncer, mut client) = start();
    client.send(&[msg::unsynced("copy target from stdin", &[]), msg::flush()].concat());
    client.expect("12G");
    client.send(&[msg::copy_data("bad\n"), msg::copy_fail("no"), msg::sync()].concat());
    client.expect("EZ");
    assert_unharmed(&bouncer, &mut client, "0");
}

#[test]
fn extended_copy_out_is_pipelined_with_what_follows() {
    let (bouncer, mut client) = start();
    let copy = msg::extended("copy (select 1) to stdout", &[]);
    client.send(&[copy, msg::extended("select 2", &[])].concat());
    client.expect("12HdcCZ12DCZ");
    assert_unharmed(&bouncer, &mut client, "0");
}

#[test]
fn client_gone_during_copy_in_stores_nothing() {
    let (bouncer, mut client) = start();
    client.send(&[msg::query("copy target from stdin"), msg::copy_data("1\tone\n")].concat());
    client.expect("G");
    drop(client);
    assert_eq!(bouncer.client().one("select count(*) from target"), "0");
}

#[test]
fn client_gone_during_copy_out_frees_the_pool() {
    let (bouncer, mut client) = start();
    let endless = "copy (select repeat('x', 1000) from generate_series(1, 10000000)) to stdout";
    client.send(&msg::query(endless));
    client.expect("Hd");
    drop(client);
    assert_eq!(bouncer.client().one("select 'free'"), "free");
}

#[test]
fn copy_messages_outside_of_a_copy_are_ignored() {
    let (bouncer, mut client) = start();
    client.send(&[msg::copy_data("1\tlate\n"), msg::copy_done(), msg::copy_fail("late")].concat());
    assert_unharmed(&bouncer, &mut client, "0");
}

/// PgBouncer loses count when CopyDone overtakes CopyInResponse, and never frees the server.
mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn bad_copy_data_in_one_burst_is_answered_once() {
        let (bouncer, mut client) = start();
        let rows = [msg::copy_data("x\ty\n"), msg::copy_data("1\tlate\n").repeat(100)].concat();
        client.send(&[msg::query("copy target from stdin"), rows, msg::copy_done()].concat());
        client.expect("GEZ");
        assert_unharmed(&bouncer, &mut client, "0");
    }

    #[test]
    fn copy_in_sent_without_waiting_works() {
        let (bouncer, mut client) = start();
        let rows = msg::copy_data("1\tone\n").repeat(10);
        let parts = [msg::query("copy target from stdin"), rows, msg::copy_done()];
        client.send(&[parts.concat(), msg::query("select 'next'")].concat());
        client.expect("GCZTDCZ");
        assert_unharmed(&bouncer, &mut client, "10");
    }

    #[test]
    fn extended_copy_in_wholly_pipelined() {
        let (bouncer, mut client) = start();
        let start = msg::unsynced("copy target from stdin", &[]);
        let data = [msg::copy_data("1\tone\n"), msg::copy_done(), msg::sync()].concat();
        client.send(&[start, data, msg::extended("select 1", &[])].concat());
        client.expect("12GCZ12DCZ");
        assert_unharmed(&bouncer, &mut client, "1");
    }
}
