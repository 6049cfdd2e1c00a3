//! Cancel requests: the query that they are meant for, and no later one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use crate::support::bouncer::Setup;
use crate::support::fake_server::{Peer, one_row, ready};
use crate::support::{Bouncer, FakeServer, PATIENCE, Postgres, Random, Wire, millis, msg, secs};

/// Sends a cancel request for `client` and waits until it is over.
fn cancel(bouncer: &Bouncer, client: &Wire) {
    let mut wire = Wire::tcp(bouncer.port);
    wire.send(&client.cancel_packet());
    wire.expect_closed();
}

#[track_caller]
fn assert_canceled(client: &mut Wire) {
    assert_eq!(client.answer_of_query().expect_err("canceled").code, "57014");
}

#[test]
fn cancel_comes_over_tcp_and_over_the_unix_socket() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup);
    for is_unix in [false, true] {
        let mut client = if is_unix { Wire::unix(bouncer.socket_path()) } else { Wire::tcp(bouncer.port) };
        client.login("app", "app", "", &[]).expect("log in");
        for ask_unix in [false, true] {
            client.send(&msg::query("select pg_sleep(60)"));
            bouncer.wait_asleep(pg, 1);
            let mut asker = if ask_unix { Wire::unix(bouncer.socket_path()) } else { Wire::tcp(bouncer.port) };
            asker.send(&client.cancel_packet());
            asker.expect_closed();
            assert_canceled(&mut client);
        }
        assert_eq!(client.one("select 1"), "1");
    }
}

/// What the asker does not wait for is carried out all the same.
#[test]
fn asker_may_leave_at_once() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup);
    let mut client = bouncer.client();
    client.send(&msg::query("select pg_sleep(60)"));
    bouncer.wait_asleep(pg, 1);
    Wire::tcp(bouncer.port).send(&client.cancel_packet());
    assert_canceled(&mut client);
}

/// One client of the stress test, and what its canceller has done so far.
#[derive(Default)]
struct Target {
    key: Mutex<Vec<u8>>,
    begun: AtomicU64,
    over: AtomicU64,
}

/// Runs queries until `stop`; returns how many finished and how many were cancelled.
fn ask_on(bouncer: &Bouncer, target: &Target, seed: u64, stop: &AtomicBool) -> (u64, u64) {
    let mut random = Random::seeded(seed);
    let mut client = bouncer.client();
    *target.key.lock().unwrap() = client.cancel_packet();
    let (mut finished, mut canceled) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let value = format!("{seed}-{}", finished + canceled);
        let sql = match random.below(3) {
            0 => format!("select '{value}'"),
            1 => format!("select '{value}' from pg_sleep(0.00{})", random.below(10)),
            _ => format!("select '{value}' from pg_sleep(0.0{})", 1 + random.below(3)),
        };
        let message = if random.below(2) == 0 { msg::query(&sql) } else { msg::extended(&sql, &[]) };
        let (over, begun) = (target.over.load(Ordering::SeqCst), target.begun.load(Ordering::SeqCst));
        client.send(&message);
        match client.answer_of_query() {
            Ok(rows) => {
                assert_eq!(rows, [[Some(value)]], "seed {seed}");
                finished += 1;
            }
            Err(e) => {
                assert_eq!(e.code, "57014", "seed {seed}: {e}");
                // One was on its way when the query began, or has begun since.
                let mine = begun > over || target.begun.load(Ordering::SeqCst) > begun;
                assert!(mine, "seed {seed}: a request for an earlier query, or for somebody else's");
                canceled += 1;
            }
        }
    }
    (finished, canceled)
}

/// Sends cancel requests for `targets` at random, each one over before the next.
fn cancel_on(bouncer: &Bouncer, targets: &[Arc<Target>], seed: u64, stop: &AtomicBool) {
    let mut random = Random::seeded(seed);
    while !stop.load(Ordering::Relaxed) {
        let target = &targets[random.below(targets.len() as u64) as usize];
        let request = target.key.lock().unwrap().clone();
        if !request.is_empty() {
            target.begun.fetch_add(1, Ordering::SeqCst);
            let unix = random.below(2) == 0;
            let mut wire = if unix { Wire::unix(bouncer.socket_path()) } else { Wire::tcp(bouncer.port) };
            wire.send(&request);
            wire.expect_closed();
            target.over.fetch_add(1, Ordering::SeqCst);
        }
        thread::sleep(millis(random.below(5)));
    }
}

fn stress(mode: &str, servers: u32, clients: u64, change: fn(Setup) -> Setup) {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| change(setup.set("default_pool_size", servers).set("pool_mode", mode)));
    let targets: Vec<Arc<Target>> = (0..clients).map(|_| Arc::default()).collect();
    // Half of them are never cancelled. Each canceller has targets of its own.
    let shares = [0, 1].map(|n| targets[..targets.len() / 2].iter().skip(n).step_by(2).cloned().collect::<Vec<_>>());
    let stop = AtomicBool::new(false);
    let counts: Vec<(u64, u64)> = thread::scope(|scope| {
        let (bouncer, stop) = (&bouncer, &stop);
        let asking: Vec<_> = (1..)
            .zip(&targets)
            .map(|(seed, target)| scope.spawn(move || ask_on(bouncer, target, seed, stop)))
            .collect();
        for (seed, share) in (1..).zip(&shares) {
            scope.spawn(move || cancel_on(bouncer, share, seed, stop));
        }
        let ends = Instant::now() + secs(2);
        // A failure ends the others too.
        while Instant::now() < ends && asking.iter().all(|asking| !asking.is_finished()) {
            thread::sleep(millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        asking.into_iter().map(|asking| asking.join().expect("a client failed")).collect()
    });
    let (aimed_at, spared) = counts.split_at(counts.len() / 2);
    assert!(aimed_at.iter().map(|(_, canceled)| canceled).sum::<u64>() > 20, "{counts:?}");
    assert!(spared.iter().all(|(finished, canceled)| *finished > 5 && *canceled == 0), "{counts:?}");
    for column in
        ["cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel", "sv_being_canceled", "cl_waiting"]
    {
        bouncer.wait_pool(column, 0);
    }
    assert!(bouncer.backends(pg) <= servers as usize);
}

#[test]
fn cancels_at_random_hit_what_they_are_meant_for_in_transaction_mode() {
    stress("transaction", 3, 24, |setup| setup);
}

#[test]
fn cancels_at_random_hit_what_they_are_meant_for_in_session_mode() {
    stress("session", 12, 12, |setup| setup);
}

/// A server whose queries last until they are cancelled, and that keeps each cancel request
/// until the test lets it go.
struct HoldingServer {
    server: FakeServer,
    /// The key that was brought, and what ends the query when something is sent, and the request
    /// too when it is dropped.
    requests: Receiver<(Vec<u8>, Sender<()>)>,
    queries: Receiver<()>,
}

/// What PostgreSQL's cancel keys have, process id included: before version 18, and since.
const SHORT: usize = 8;
const LONG: usize = 36;

/// The key of the server connection of this number.
fn server_key(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 40 + at) as u8 & 0x7f).collect()
}

impl HoldingServer {
    fn start(len: usize) -> HoldingServer {
        let (tell_request, requests) = mpsc::channel();
        let (tell_query, queries) = mpsc::channel();
        let (tell_request, tell_query) = (Mutex::new(tell_request), Mutex::new(tell_query));
        let running: Mutex<Vec<(Vec<u8>, Sender<()>)>> = Mutex::default();
        let serve = move |number: usize, mut peer: Peer| {
            let Some((code, body)) = peer.read_packet() else { return };
            if code == msg::CANCEL_REQUEST {
                let (may_end, end) = mpsc::channel();
                let _ = tell_request.lock().unwrap().send((body.clone(), may_end));
                // Also when the test is over.
                let comes_back = end.recv().is_ok();
                running.lock().unwrap().retain(|(key, _)| *key != body);
                if comes_back {
                    let _ = end.recv();
                }
                return;
            }
            peer.welcome_with(&server_key(number, len));
            while let Some(tag) = peer.read_tag() {
                if tag == b'Q' {
                    let (runs, canceled) = mpsc::channel();
                    running.lock().unwrap().push((server_key(number, len), runs));
                    let _ = tell_query.lock().unwrap().send(());
                    // Until `runs` is gone.
                    let _ = canceled.recv();
                    peer.send(&one_row("over"));
                }
            }
        };
        HoldingServer { server: FakeServer::start(serve), requests, queries }
    }

    fn request(&self) -> (Vec<u8>, Sender<()>) {
        self.requests.recv_timeout(PATIENCE).expect("a cancel request")
    }

    fn wait_query(&self) {
        self.queries.recv_timeout(PATIENCE).expect("a query");
    }
}

fn request(bouncer: &Bouncer, client: &Wire) -> Wire {
    let mut wire = Wire::tcp(bouncer.port);
    wire.send(&client.cancel_packet());
    wire
}

#[test]
fn server_is_not_used_while_a_cancel_request_is_on_its_way() {
    let holding = HoldingServer::start(SHORT);
    let bouncer = Bouncer::start_before(holding.server.port, |setup| setup.set("default_pool_size", 1));
    let mut client = bouncer.client();
    client.send(&msg::query("select 1"));
    holding.wait_query();
    let mut asker = request(&bouncer, &client);
    let (_, may_end) = holding.request();
    bouncer.wait_pool("cl_active_cancel_req", 1);
    assert_eq!(bouncer.pool("app", "app", "sv_active_cancel"), 1);
    let states = || bouncer.show("CLIENTS").into_iter().map(|row| row["state"].clone()).collect::<Vec<_>>();
    assert!(states().contains(&"active_cancel_req".to_owned()));
    drop(may_end);
    asker.expect_closed();
    assert_eq!(client.answer_of_query().expect("its answer").len(), 1);
    bouncer.wait_pool("cl_active_cancel_req", 0);
}

#[test]
fn failed_cancel_requests_leave_the_log_a_reason() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let client = bouncer.client();
    cancel(&bouncer, &client);
    bouncer.wait_log("closing because: cancel request for idle client");
    let mut wrong = Wire::tcp(bouncer.port);
    wrong.send(&msg::packet(msg::CANCEL_REQUEST, &[1; 8]));
    wrong.expect_closed();
    bouncer.wait_log("closing because: failed cancel request");
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn cancels_at_random_hit_what_they_are_meant_for_on_every_worker() {
        stress("transaction", 3, 24, |setup| setup.set("workers", 2));
    }

    /// PgBouncer knows no keys but of 8 bytes.
    #[test]
    fn long_key_of_a_server_is_brought_back_whole() {
        let holding = HoldingServer::start(LONG);
        let bouncer = Bouncer::start_before(holding.server.port, |setup| setup);
        let mut client = bouncer.client();
        client.send(&msg::query("select 1"));
        holding.wait_query();
        let _asker = request(&bouncer, &client);
        assert_eq!(holding.request().0, server_key(0, LONG));
        client.answer_of_query().expect("its answer");
    }

    /// PgBouncer sends each, as long as connections are allowed.
    #[test]
    fn storm_of_requests_is_one_at_a_time_and_holds_up_nobody_else() {
        let holding = HoldingServer::start(SHORT);
        let bouncer = Bouncer::start_before(holding.server.port, |setup| {
            setup.set("default_pool_size", 2).set("cancel_wait_timeout", 0).set("max_client_logins", 1000)
        });
        let mut clients = [bouncer.client(), bouncer.client()];
        for client in &mut clients {
            client.send(&msg::query("select 1"));
            holding.wait_query();
        }
        let mut askers = vec![request(&bouncer, &clients[0])];
        let (first_key, first) = holding.request();
        // While that one is on its way.
        askers.extend((0..200).map(|_| request(&bouncer, &clients[0])));
        bouncer.wait_pool("cl_waiting_cancel_req", 200);
        assert_eq!(bouncer.pool("app", "app", "cl_active_cancel_req"), 1);
        // Another client's comes through.
        let mut other = request(&bouncer, &clients[1]);
        let (key, may_end) = holding.request();
        assert_ne!(key, first_key);
        drop(may_end);
        other.expect_closed();
        clients[1].answer_of_query().expect("its answer");
        // The query is over with the first: nothing more is sent.
        first.send(()).unwrap();
        clients[0].answer_of_query().expect("its answer");
        drop(first);
        askers.iter_mut().for_each(Wire::expect_closed);
        assert_eq!(holding.requests.try_iter().count(), 0);
        bouncer.wait_pool("cl_waiting_cancel_req", 0);
    }

    /// PgBouncer sends it when the client has the same server still.
    #[test]
    fn request_that_waits_does_not_hit_the_client_s_next_query() {
        let holding = HoldingServer::start(SHORT);
        let bouncer = Bouncer::start_before(holding.server.port, |setup| {
            // The server that the login needed is not cleaned.
            setup.set("pool_mode", "session").set("server_reset_query", "").set("cancel_wait_timeout", 0)
        });
        let mut client = bouncer.client();
        client.send(&msg::query("select 1"));
        holding.wait_query();
        let mut first = request(&bouncer, &client);
        let (_, may_end) = holding.request();
        let mut second = request(&bouncer, &client);
        bouncer.wait_pool("cl_waiting_cancel_req", 1);
        // The query is over, the first request not yet.
        may_end.send(()).unwrap();
        client.answer_of_query().expect("its answer");
        client.send(&msg::query("select 2"));
        holding.wait_query();
        drop(may_end);
        first.expect_closed();
        second.expect_closed();
        bouncer.wait_log("not sending cancel request for client that is now idle");
        assert_eq!(holding.requests.try_iter().count(), 0);
    }

    /// PgBouncer lets it wait on if it had a connection for it.
    #[test]
    fn cancel_wait_timeout_ends_the_wait_for_a_turn() {
        let holding = HoldingServer::start(SHORT);
        let bouncer = Bouncer::start_before(holding.server.port, |setup| setup.set("cancel_wait_timeout", 1));
        let mut client = bouncer.client();
        client.send(&msg::query("select 1"));
        holding.wait_query();
        let mut first = request(&bouncer, &client);
        let (_, may_end) = holding.request();
        let mut second = request(&bouncer, &client);
        second.expect_closed();
        bouncer.wait_log("closing because: cancel_wait_timeout");
        assert_eq!(bouncer.pool("app", "app", "cl_active_cancel_req"), 1);
        drop(may_end);
        first.expect_closed();
        client.answer_of_query().expect("its answer");
    }

    /// PgBouncer drops a request that comes at this moment.
    #[test]
    fn query_whose_server_gets_parameters_first_is_canceled_before_it_begins() {
        let (tell, seen) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let (tell, may_go, holds) = (Mutex::new(tell), Mutex::new(may_go), Arc::new(AtomicBool::new(false)));
        let is_held = holds.clone();
        let server = FakeServer::start(move |_, mut peer| {
            if !peer.accept_login() {
                return;
            }
            while let Some((tag, body)) = peer.read_message() {
                if tag != b'Q' {
                    continue;
                }
                let text = String::from_utf8_lossy(&body).into_owned();
                let _ = tell.lock().unwrap().send(text.clone());
                if is_held.load(Ordering::SeqCst) {
                    let _ = may_go.lock().unwrap().recv_timeout(PATIENCE);
                }
                if text.starts_with("SET") {
                    let zone = if text.contains("Paris") { "Paris" } else { "UTC" };
                    peer.send(&msg::message(b'S', format!("TimeZone\0{zone}\0").as_bytes()));
                }
                peer.send(&[msg::message(b'C', b"DONE\0"), ready(b'I')].concat());
            }
        });
        let bouncer = Bouncer::start_before(server.port, |setup| setup.set("default_pool_size", 1));
        let mut client = Wire::tcp(bouncer.port);
        client.login("app", "app", "", &[("timezone", "Paris")]).expect("log in");
        bouncer.client().run("select 1");
        bouncer.wait_pool("sv_idle", 1);
        seen.try_iter().for_each(drop);
        holds.store(true, Ordering::SeqCst);
        client.send(&msg::query("insert into never values (1)"));
        let set = seen.recv_timeout(PATIENCE).expect("SET");
        assert!(set.starts_with("SET TimeZone"), "{set}");
        cancel(&bouncer, &client);
        holds.store(false, Ordering::SeqCst);
        go.send(()).unwrap();
        assert_eq!(client.expect("E")[0].error().code, "57014");
        client.expect("Z");
        bouncer.wait_pool("sv_idle", 1);
        let later: Vec<String> = seen.try_iter().filter(|text| text.contains("insert")).collect();
        assert!(later.is_empty(), "the query reached the server");
        client.run("select 2");
    }
}
