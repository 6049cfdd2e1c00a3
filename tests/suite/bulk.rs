//! Much data through little memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::*;

/// What the pooler may need on top of what it used before, in KiB, whatever flows through it.
const ALLOWANCE_KIB: u64 = 12 * 1024;

struct Memory<'a> {
    bouncer: &'a Bouncer,
    before_kib: u64,
}

impl Memory<'_> {
    fn of(bouncer: &Bouncer) -> Memory<'_> {
        bouncer.client().run("select 1");
        Memory { bouncer, before_kib: bouncer.memory_kib("VmHWM") }
    }

    #[track_caller]
    fn assert_flat(&self) {
        let grown = self.bouncer.memory_kib("VmHWM") - self.before_kib;
        assert!(grown < ALLOWANCE_KIB, "grew by {grown} KiB from {} KiB", self.before_kib);
    }
}

fn start() -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| setup)
}

#[test]
fn slow_reader_stops_its_server_and_not_the_pooler() {
    let pg = Postgres::shared();
    let bouncer = start();
    let memory = Memory::of(&bouncer);
    let mut client = Wire::tcp_narrow(bouncer.port);
    client.login("app", "app", "", &[]).expect("log in");
    client.send(&msg::query("select repeat('x', 10000) from generate_series(1, 10000)"));
    let blocked = format!(
        "select 1 from pg_stat_activity where datname = '{}' and wait_event = 'ClientWrite'",
        bouncer.server_database
    );
    wait_until("the server is held back", PATIENCE, || !pg.sql(&blocked).is_empty());
    memory.assert_flat();
    // Others are not held back.
    assert_eq!(bouncer.client().one("select 'quick'"), "quick");
    let mut bytes = 0;
    client.expect("T");
    loop {
        let message = client.recv();
        match message.tag {
            b'D' => bytes += message.body.len() - 6,
            b'C' => break,
            _ => panic!("{message}"),
        }
    }
    client.expect("Z");
    assert_eq!(bytes, 100_000_000);
    memory.assert_flat();
}

#[test]
fn slow_server_stops_its_client_and_not_the_pooler() {
    let release = Arc::new(AtomicBool::new(false));
    let released = release.clone();
    let server = FakeServer::start(move |_, mut peer| {
        if peer.accept_login() {
            wait_until("the test is over", secs(60), || released.load(Ordering::Relaxed));
        }
    });
    let bouncer = Bouncer::start_before(server.port, |setup| setup);
    let mut client = bouncer.client();
    let before_kib = bouncer.memory_kib("VmHWM");
    client.set_write_timeout(millis(500));
    let sent = client.try_send(&msg::query(&"x".repeat(50_000_000)));
    assert!(sent.is_err(), "the pooler took 50 MB that the server does not read");
    let memory = Memory { bouncer: &bouncer, before_kib };
    memory.assert_flat();
    release.store(true, Ordering::Relaxed);
}

#[test]
fn huge_parameter_passes_through() {
    let bouncer = start();
    let memory = Memory::of(&bouncer);
    let mut client = bouncer.client();
    client.send(&msg::extended("select length($1)", &[&"p".repeat(50_000_000)]));
    assert_eq!(client.expect("12DCZ")[2].row(), [Some("50000000".into())]);
    memory.assert_flat();
}

#[test]
fn huge_query_passes_through() {
    let bouncer = start();
    let memory = Memory::of(&bouncer);
    let mut client = bouncer.client();
    let sql = format!("select 1 /* {} */", "q".repeat(30_000_000));
    assert_eq!(client.one(&sql), "1");
    memory.assert_flat();
}

#[test]
fn huge_value_passes_through() {
    let bouncer = start();
    let memory = Memory::of(&bouncer);
    let mut client = bouncer.client();
    assert_eq!(client.one("select repeat('v', 50000000)").len(), 50_000_000);
    memory.assert_flat();
}

#[test]
fn copy_of_many_rows_passes_in_both_directions() {
    let bouncer = start();
    let memory = Memory::of(&bouncer);
    let mut client = bouncer.client();
    client.run("create table bulk (t text)");
    client.send(&msg::query("copy bulk from stdin"));
    client.expect("G");
    let chunk = msg::copy_data(&format!("{}\n", "r".repeat(999))).repeat(1000);
    for _ in 0..50 {
        client.send(&chunk);
    }
    client.send(&msg::copy_done());
    assert_eq!(client.expect("CZ")[0].strings(0), ["COPY 50000"]);
    client.send(&msg::query("copy bulk to stdout"));
    client.expect("H");
    let bytes: usize = std::iter::from_fn(|| {
        let message = client.recv();
        (message.tag == b'd').then_some(message.body.len())
    })
    .sum();
    client.expect("CZ");
    assert_eq!(bytes, 50_000_000);
    memory.assert_flat();
}
