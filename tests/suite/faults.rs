//! Servers that die, refuse or cannot be found; clients that talk nonsense; a disk that is full.
//! Whoever is concerned is told, the rest goes on, and all is well again without a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::bouncer::assert_error;
use crate::support::fake_server::{error_response, one_row, ready};
use crate::support::*;

/// A new client is served again.
fn wait_recovered(bouncer: &Bouncer) {
    wait_until("recovery", PATIENCE, || {
        bouncer.try_client("app", "app", "").is_ok_and(|mut client| client.query("select 1").is_ok())
    });
}

#[test]
fn backend_killed_during_a_query_is_told_to_its_client() {
    let pg = Postgres::dedicated();
    let bouncer = Bouncer::start(&pg, |setup| setup.set("server_login_retry", 1));
    let mut victim = bouncer.client();
    let mut idle = bouncer.client();
    idle.run("select 1");
    victim.run("begin");
    let pid = victim.backend();
    victim.send(&msg::query("select pg_sleep(60)"));
    bouncer.wait_asleep(&pg, 1);
    process::signal(pid, "KILL");
    assert_error(&victim.expect_fatal(), "server conn crashed?", "08006");
    // PostgreSQL restarts all its backends after this.
    pg.wait_ready();
    wait_recovered(&bouncer);
    assert_eq!(idle.one("select 'still here'"), "still here");
}

#[test]
fn backend_terminated_in_a_transaction_passes_its_own_words_on() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup);
    let mut client = bouncer.client();
    client.run("begin");
    client.send(&msg::query("select pg_backend_pid(), pg_sleep(0)"));
    let pid = client.expect("TDCZ")[1].row()[0].clone().expect("a pid");
    client.send(&msg::query("select pg_sleep(60)"));
    bouncer.wait_asleep(pg, 1);
    pg.terminate_backend(pid.parse().expect("a pid"));
    let error = client.answer_of_query().expect_err("terminated");
    assert_eq!((error.code.as_str(), error.severity.as_str()), ("57P01", "FATAL"), "{error}");
    client.drain();
    assert_eq!(bouncer.client().one("select 'next'"), "next");
}

#[test]
fn server_restart_is_survived_by_idle_clients() {
    let pg = Postgres::dedicated();
    let bouncer = Bouncer::start(&pg, |setup| setup.set("server_login_retry", 1));
    let mut clients: Vec<Wire> = (0..10).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.run("select 1");
    }
    pg.stop("INT");
    pg.start();
    for client in &mut clients {
        assert_eq!(client.one("select 'still here'"), "still here");
    }
}

#[test]
fn query_during_a_server_restart_waits_for_it() {
    let pg = Postgres::dedicated();
    let bouncer = Bouncer::start(&pg, |setup| setup.set("server_login_retry", 1));
    let mut client = bouncer.client();
    client.run("select 1");
    pg.stop("INT");
    bouncer.wait_pool("sv_idle", 0);
    client.send(&msg::query("select 'patient'"));
    bouncer.wait_pool("cl_waiting", 1);
    // More than one attempt fails meanwhile.
    client.expect_silence(secs(2));
    pg.start();
    client.expect("TDCZ");
}

#[test]
fn server_that_was_never_there_is_reported_and_found_when_it_comes() {
    let pg = Postgres::dedicated();
    let bouncer = Bouncer::start(&pg, |setup| {
        setup.set("server_login_retry", 1).set("query_wait_timeout", 1).set("client_login_timeout", 2)
    });
    pg.stop("INT");
    let error = bouncer.refusal("app", "app", "");
    assert_eq!(error.severity, "FATAL", "{error}");
    pg.start();
    wait_recovered(&bouncer);
}

#[test]
fn server_refusing_logins_has_its_own_words_passed_on() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.app("user=barred"));
    let error = bouncer.refusal("app", "app", "");
    let own = "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"barred\"";
    assert!(error.message.contains(own), "{error}");
    assert_eq!(error.code, "28000");
}

#[test]
fn those_who_wait_are_told_of_a_refusal_although_a_server_is_left_that_is_about_to_go() {
    let server = FakeServer::start(|number, mut peer| {
        if number > 0 {
            peer.read_startup();
            return peer.send(&error_response(&["SFATAL", "VFATAL", "C28P01", "Mthe password is another"]));
        }
        peer.accept_login();
        while peer.read_tag() == Some(b'Q') {
            peer.send(&[msg::message(b'C', b"BEGIN\0"), ready(b'T')].concat());
        }
    });
    let bouncer = Bouncer::start_before(server.port, |setup| setup.set("default_pool_size", 2));
    let (mut holder, mut waiter) = (bouncer.client(), bouncer.client());
    holder.run("begin");
    bouncer.admin().run("RECONNECT");
    let error = waiter.query("select 1").expect_err("nobody serves it");
    assert_eq!(error.message, "the password is another");
}

/// A server that, while `full`, closes its connections and refuses new ones.
fn limited(full: &Arc<AtomicBool>) -> FakeServer {
    let full = full.clone();
    FakeServer::start(move |_, mut peer| {
        if !peer.read_startup() {
            return;
        }
        if full.load(Ordering::Relaxed) {
            peer.send(&error_response(&["SFATAL", "VFATAL", "C53300", "Mno room today"]));
            return;
        }
        peer.welcome();
        while peer.read_tag() == Some(b'Q') {
            peer.send(&one_row("room"));
            if full.load(Ordering::Relaxed) {
                return;
            }
        }
    })
}

#[test]
fn server_that_says_fatal_behind_its_answer_serves_nobody_else() {
    let last_words = error_response(&["SFATAL", "VFATAL", "C57P01", "Mgoing"]);
    let server = FakeServer::start(move |number, mut peer| {
        if !peer.accept_login() {
            return;
        }
        while peer.read_tag() == Some(b'Q') {
            let answer = one_row(&number.to_string());
            // As after a kill: in one piece with an answer, and the end a moment later.
            peer.send(&if number == 0 { [answer, last_words.clone()].concat() } else { answer });
        }
    });
    let bouncer = Bouncer::start_before(server.port, |setup| setup);
    let mut told = bouncer.client();
    assert_eq!(told.one("select 1"), "0");
    assert_eq!(bouncer.client().one("select 1"), "1");
}

const CACHED: &str = "server login has been failing, cached error: no room today (server_login_retry)";

#[test]
fn queries_while_logins_fail_get_the_cached_error_and_later_ones_a_server() {
    let full = Arc::new(AtomicBool::new(false));
    let server = limited(&full);
    let bouncer = Bouncer::start_before(server.port, |setup| setup.set("server_login_retry", 2));
    let mut clients: Vec<Wire> = (0..3).map(|_| bouncer.client()).collect();
    full.store(true, Ordering::Relaxed);
    assert_eq!(clients[0].one("select 1"), "room");
    bouncer.wait_pool("sv_idle", 0);
    let first = clients[1].fails("select 1");
    assert_eq!((first.code.as_str(), first.message.as_str()), ("53300", "no room today"));
    // A fifth of a second later the server is tried again, and its own words are told.
    let second = clients[2].fails("select 1");
    assert_eq!(second.code, "53300");
    assert!([CACHED, "no room today"].contains(&second.message.as_str()), "{second}");
    full.store(false, Ordering::Relaxed);
    wait_recovered(&bouncer);
}

#[test]
fn error_without_a_sqlstate_harms_nobody() {
    let server = FakeServer::start(|_, mut peer| {
        if peer.read_startup() {
            peer.send(&error_response(&["SFATAL", "Mnameless"]));
        }
    });
    let mut bouncer =
        Bouncer::start_before(server.port, |setup| setup.set("server_login_retry", 1).set("query_wait_timeout", 2));
    let error = bouncer.refusal("app", "app", "");
    assert!(error.message.contains("nameless"), "{error}");
    assert!(bouncer.is_running());
}

#[test]
fn server_that_answers_nonsense_at_login_harms_nobody() {
    let nonsense: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"R\0\0\0\x04",
        b"R\xff\xff\xff\xff",
        b"R\0\0\0\x08\0\0\0\x63",
        b"S\0\0\0\x06ab",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    let server = FakeServer::start(move |number, mut peer| {
        if peer.read_startup() {
            peer.send(nonsense[number % nonsense.len()]);
            peer.hold();
        }
    });
    let mut bouncer = Bouncer::start_before(server.port, |setup| {
        setup.set("server_login_retry", 1).set("server_connect_timeout", 1).set("query_wait_timeout", 1)
    });
    wait_until("all kinds of nonsense", secs(40), || {
        let mut client = Wire::tcp(bouncer.port);
        assert!(client.login("app", "app", "", &[]).is_err());
        server.accepted() > nonsense.len()
    });
    assert!(bouncer.is_running());
    assert_eq!(bouncer.show("VERSION").len(), 1);
}

/// A server whose first connection answers a query with `answer`, and later ones as they should.
fn broken_once(answer: Vec<u8>) -> FakeServer {
    FakeServer::start(move |number, mut peer| {
        if !peer.accept_login() {
            return;
        }
        while let Some(tag) = peer.read_tag() {
            match (tag, number) {
                (b'Q', 0) => {
                    peer.send(&answer);
                    return;
                }
                (b'Q', _) => peer.send(&one_row("fine")),
                _ => {}
            }
        }
    })
}

#[test]
fn server_that_crashes_before_its_answer_is_named() {
    let server = broken_once(Vec::new());
    let bouncer = Bouncer::start_before(server.port, |setup| setup);
    let mut victim = bouncer.client();
    victim.send(&msg::query("select 1"));
    assert_error(&victim.expect_fatal(), "server conn crashed?", "08006");
}

#[test]
fn server_that_sends_more_than_it_was_asked_for_is_closed() {
    // A second ReadyForQuery is an answer to nobody's question.
    let server = broken_once([one_row("asked"), one_row("not asked")].concat());
    let bouncer = Bouncer::start_before(server.port, |setup| setup.set("default_pool_size", 1));
    let mut first = bouncer.client();
    first.send(&msg::query("select 1"));
    let _ = first.read();
    let mut second = bouncer.client();
    // Whatever becomes of the first, the second gets its own answer.
    second.send(&msg::query("select 1"));
    match second.answer_of_query() {
        Ok(rows) => assert_eq!(rows, [[Some("fine".into())]]),
        Err(e) => assert_eq!(e.severity, "FATAL", "{e}"),
    }
}

#[test]
fn server_that_claims_an_impossible_length_is_closed() {
    let server = broken_once(b"T\0\0\0\x01".to_vec());
    let mut bouncer = Bouncer::start_before(server.port, |setup| setup);
    let mut victim = bouncer.client();
    victim.send(&msg::query("select 1"));
    assert!(!victim.drain().contains('Z'));
    assert!(bouncer.is_running());
    assert_eq!(bouncer.client().one("select 1"), "fine");
}

#[test]
fn server_that_breaks_a_transaction_is_not_used_again() {
    let server = FakeServer::start(|number, mut peer| {
        if !peer.accept_login() {
            return;
        }
        while let Some(tag) = peer.read_tag() {
            match (tag, number) {
                (b'Q', 0) => peer.send(&[msg::message(b'C', b"BEGIN\0"), ready(b'T')].concat()),
                (b'Q', _) => peer.send(&one_row("fine")),
                _ => {}
            }
        }
    });
    let bouncer = Bouncer::start_before(server.port, |setup| setup.set("default_pool_size", 1));
    let mut client = bouncer.client();
    client.run("begin");
    drop(client);
    assert_eq!(bouncer.client().one("select 1"), "fine");
}

#[test]
fn host_name_that_does_not_resolve_is_reported_and_others_work() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.database("lost", "host=no.such.host.invalid").set("query_wait_timeout", 3).set("client_login_timeout", 5)
    });
    let mut lost = Wire::tcp(bouncer.port);
    lost.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "lost")]));
    assert_eq!(bouncer.client().one("select 'fine'"), "fine");
    let error = lost.authenticate("app", "").expect_err("a host that does not exist");
    assert_eq!(error.severity, "FATAL", "{error}");
    lost.expect_closed();
    bouncer.wait_log("no.such.host.invalid");
}

#[test]
fn log_on_a_full_disk_stops_nothing() {
    let mut bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("logfile", "/dev/full"));
    for _ in 0..50 {
        assert_eq!(bouncer.client().one("select 1"), "1");
    }
    bouncer.reload(|setup| setup.set("default_pool_size", 3));
    assert_eq!(bouncer.client().one("select 1"), "1");
    assert!(bouncer.is_running());
}

#[test]
fn garbage_from_some_does_not_disturb_others() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("max_client_conn", 500));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|i| {
                let (bouncer, done) = (&bouncer, &done);
                scope.spawn(move || {
                    let mut client = bouncer.client();
                    let mut count = 0;
                    // A busy machine may carry out few while the rogues are at it.
                    while !done.load(Ordering::Relaxed) || count < 10 {
                        let value = format!("{i}:{count}");
                        assert_eq!(client.one(&format!("select '{value}'")), value);
                        count += 1;
                    }
                })
            })
            .collect();
        let mut random = Random::seeded(3);
        for round in 0..300 {
            let mut rogue = if round % 2 == 0 { Wire::tcp(bouncer.port) } else { bouncer.client() };
            let length = 1 + random.below(2000) as usize;
            // It may be thrown out while it talks.
            let _ = rogue.try_send(&random.bytes(length));
        }
        done.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().expect("a worker");
        }
    });
}

mod beyond_pgbouncer {
    use super::*;

    /// PgBouncer lets such a client wait, perhaps in vain.
    #[test]
    fn login_while_server_logins_fail_gets_the_cached_error() {
        let full = Arc::new(AtomicBool::new(true));
        let server = limited(&full);
        let bouncer = Bouncer::start_before(server.port, |setup| setup);
        let first = bouncer.refusal("app", "app", "");
        assert_eq!((first.code.as_str(), first.message.as_str()), ("53300", "no room today"));
        let tried = server.accepted();
        assert_error(&bouncer.refusal("app", "app", ""), CACHED, "53300");
        assert_eq!(server.accepted(), tried, "tried again within server_login_retry");
    }

    /// PgBouncer puts its ErrorResponse into the middle of the message that was cut off.
    #[test]
    fn server_that_breaks_off_an_answer_never_leaks_the_rest_into_another() {
        let whole = one_row("half of this");
        for cut in [0, 1, 3, 5, 20, whole.len() - 10, whole.len() - 3] {
            let server = broken_once(whole[..cut].to_vec());
            let bouncer = Bouncer::start_before(server.port, |setup| setup);
            let mut victim = bouncer.client();
            victim.send(&msg::query("select 1"));
            // Perhaps an error, in any case the end.
            assert!(!victim.drain().contains('Z'), "cut at {cut}");
            assert_eq!(bouncer.client().one("select 1"), "fine", "cut at {cut}");
        }
    }
}
