//! Nothing is left of clients that have gone: neither memory nor descriptors.
//!
//! `make leaks` runs these for long: PGWEIR_CONNECTS connections, PGWEIR_MIXED_SECONDS of mixed load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::process::{number_from_env, open_files};
use crate::support::*;

/// How much more resident memory is no leak, in KiB: what the allocator keeps of the worst moments. A leak of 50 bytes for
/// each of 100,000 connections would be as much again.
const ALLOWANCE_KIB: u64 = 4 * 1024;

/// Clients at once.
const CLIENTS: u64 = 4;

fn start() -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| {
        setup
            .set("max_client_conn", 1000)
            .set("max_prepared_statements", 20)
            .set("log_connections", 0)
            .set("log_disconnections", 0)
            .set("log_pooler_errors", 0)
            .set("client_login_timeout", 5)
    })
}

/// Resident memory and open files once all clients have gone.
fn settled(bouncer: &Bouncer) -> (u64, usize) {
    let used = |list: &str| {
        let lists = bouncer.show("LISTS");
        let row = lists.into_iter().find(|row| row["list"] == list).expect("the row");
        row["items"].parse::<u64>().expect("a number")
    };
    wait_until("only the console is left", PATIENCE, || used("used_clients") == 1);
    // Closed, so that they do not count: how many there are differs from time to time.
    bouncer.admin().run("RECONNECT");
    wait_until("no server is left", PATIENCE, || used("used_servers") + used("free_servers") == 0);
    // The console's own.
    thread::sleep(millis(100));
    (bouncer.memory_kib("VmRSS"), open_files(bouncer.pid()))
}

/// Lets CLIENTS threads call `act` with a number of their own each time, until it says false.
fn at_once(next: &AtomicU64, act: impl Fn(u64) -> bool + Sync) {
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| while act(next.fetch_add(1, Ordering::Relaxed)) {});
        }
    });
}

#[track_caller]
fn assert_flat(bouncer: &Bouncer, before: (u64, usize), what: &str) {
    let after = settled(bouncer);
    eprintln!("{what}: {} KiB and {} files before, {} KiB and {} files after", before.0, before.1, after.0, after.1);
    assert_eq!(after.1, before.1, "open files");
    assert!(after.0 < before.0 + ALLOWANCE_KIB, "grew from {} KiB to {} KiB", before.0, after.0);
}

/// One of the ways in which connections come and go, with names that never come again.
fn come_and_go(bouncer: &Bouncer, n: u64) {
    let mut wire = Wire::tcp(bouncer.port);
    let name = format!("application {n}");
    match n % 8 {
        0 => drop(wire.login(&format!("stranger{n}"), "app", "", &[]).expect_err("a stranger")),
        1 => drop(wire.login("app", &format!("nowhere{n}"), "", &[]).expect_err("no such database")),
        // Gone before the login, in the middle of a message.
        2 => drop(wire.try_send(&[0, 0, 0, 99, 0, 3])),
        3 => {
            wire.login("app", "app", "", &[("application_name", &name)]).expect("log in");
            wire.run("select 1");
            wire.send(&msg::terminate());
        }
        // Gone without a word, with a query under way.
        4 => {
            wire.login("app", "app", "", &[("application_name", &name)]).expect("log in");
            wire.send(&msg::query("select pg_sleep(0.001)"));
        }
        5 => {
            wire.login("app", "app", "", &[]).expect("log in");
            let mut canceller = Wire::tcp(bouncer.port);
            canceller.send(&wire.cancel_packet());
            canceller.drain();
        }
        _ => {
            wire.login("app", "app", "", &[]).expect("log in");
            wire.send(&msg::terminate());
        }
    }
}

#[test]
fn connections_leave_nothing_behind() {
    let connects = number_from_env("PGWEIR_CONNECTS", 2_000);
    let (bouncer, next) = (start(), AtomicU64::new(0));
    let until = |last: u64| {
        at_once(&next, |n| {
            come_and_go(&bouncer, n);
            n < last
        });
    };
    until(connects / 4);
    let before = settled(&bouncer);
    until(connects);
    assert_flat(&bouncer, before, &format!("{connects} connections"));
}

/// A transaction, a pipeline, a COPY, an error, a statement that never comes again.
fn work(wire: &mut Wire, n: u64) {
    match n % 6 {
        0 => {
            wire.run("begin");
            wire.run(&format!("set local application_name = 'work {n}'"));
            wire.run("commit");
        }
        1 => {
            wire.send(&[msg::parse(&format!("s{n}"), &format!("select {n}")), msg::sync()].concat());
            wire.expect("1Z");
            let bound = [msg::bind(&format!("s{n}"), &[]), msg::execute(0), msg::sync()].concat();
            wire.send(&bound);
            wire.expect("2DCZ");
        }
        2 => drop(wire.fails(&format!("select nothing_{n}"))),
        3 => {
            wire.send(&msg::query("copy (select generate_series(1, 2000)) to stdout"));
            while wire.recv().tag != b'Z' {}
        }
        4 => {
            wire.send(&msg::extended(&format!("select repeat('x', {})", n % 100_000), &[]));
            while wire.recv().tag != b'Z' {}
        }
        _ => wire.run(&format!("set application_name = 'work {n}'")),
    }
}

#[test]
fn a_mixed_load_leaves_nothing_behind() {
    let load = Duration::from_secs(number_from_env("PGWEIR_MIXED_SECONDS", 3));
    let (bouncer, next) = (start(), AtomicU64::new(0));
    let run = |time: Duration| {
        let end = Instant::now() + time;
        at_once(&next, |n| {
            let mut wire = bouncer.client();
            (0..50).for_each(|i| work(&mut wire, n * 50 + i));
            Instant::now() < end
        });
    };
    run(load / 4);
    let before = settled(&bouncer);
    run(load);
    assert_flat(&bouncer, before, &format!("{} pieces of work", next.into_inner() * 50));
}
