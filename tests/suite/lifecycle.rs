//! SHUTDOWN and signals: who is waited for, what is told, how the process ends.

use crate::support::bouncer::assert_error;
use crate::support::*;

fn start() -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| setup)
}

#[test]
fn shutdown_ends_the_process_at_once() {
    let mut bouncer = start();
    let mut client = bouncer.client();
    client.run("begin");
    bouncer.admin().send(&msg::query("SHUTDOWN"));
    assert!(bouncer.wait_exit().success());
    client.drain();
}

#[test]
fn shutdown_wait_for_clients_lets_them_finish() {
    let mut bouncer = start();
    let mut client = bouncer.client();
    client.run("begin");
    let mut admin = bouncer.admin();
    admin.send(&msg::query("SHUTDOWN WAIT_FOR_CLIENTS"));
    wait_until("no new clients", PATIENCE, || {
        !Wire::try_tcp(bouncer.port).is_ok_and(|mut wire| wire.try_login("app", "app"))
    });
    client.run("commit");
    client.run("select 1");
    assert!(bouncer.is_running());
    client.send(&msg::terminate());
    drop(client);
    drop(admin);
    assert!(bouncer.wait_exit().success());
}

#[test]
fn shutdown_wait_for_servers_ends_when_transactions_have() {
    let mut bouncer = start();
    let mut client = bouncer.client();
    client.run("begin");
    bouncer.admin().send(&msg::query("SHUTDOWN WAIT_FOR_SERVERS"));
    client.run("select 1");
    assert!(bouncer.is_running());
    client.run("commit");
    assert!(bouncer.wait_exit().success());
}

#[test]
fn signals_shut_down_as_pgbouncer_s_do() {
    // TERM waits for clients, INT for servers, QUIT for nobody.
    let mut bouncer = start();
    let mut client = bouncer.client();
    client.run("begin");
    bouncer.signal("QUIT");
    assert!(bouncer.wait_exit().success());

    for signal in ["TERM", "INT"] {
        let mut bouncer = start();
        let mut client = bouncer.client();
        client.run("begin");
        bouncer.signal(signal);
        client.run("select pg_sleep(0.3)");
        client.run("commit");
        drop(client);
        assert!(bouncer.wait_exit().success(), "{signal}");
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut bouncer = start();
        let mut client = bouncer.client();
        client.run("begin");
        bouncer.signal(first);
        bouncer.wait_log(&format!("got SIG{first}, shutting down"));
        client.run("select 1");
        assert!(bouncer.is_running());
        bouncer.signal(second);
        assert!(bouncer.wait_exit().success());
        assert!(bouncer.log().contains(&format!("got SIG{second} while shutting down, fast exit")));
    }
}

#[test]
fn resume_is_refused_as_soon_as_a_shutdown_is_answered() {
    for command in ["SHUTDOWN WAIT_FOR_CLIENTS", "SHUTDOWN WAIT_FOR_SERVERS"] {
        let bouncer = start();
        let mut client = bouncer.client();
        client.run("begin");
        let (mut admin, mut other) = (bouncer.admin(), bouncer.admin());
        admin.run(command);
        assert_error(&other.fails("RESUME"), "pooler is shutting down", "08P01");
        client.run("commit");
    }
}

#[test]
fn the_log_says_what_a_shutdown_waited_for() {
    for (signal, words) in
        [("TERM", "client connections dropped, exiting"), ("INT", "server connections dropped, exiting")]
    {
        let mut bouncer = start();
        bouncer.signal(signal);
        assert!(bouncer.wait_exit().success());
        assert!(bouncer.log().contains(words), "{signal}");
    }
}

#[test]
fn signals_pause_and_resume() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.run("select 1");
    bouncer.signal("USR1");
    bouncer.wait_log("got SIGUSR1, pausing all activity");
    bouncer.signal("USR1");
    bouncer.wait_log("got SIGUSR1, but already paused/suspended");
    client.send(&msg::query("select 1"));
    bouncer.wait_pool("cl_waiting", 1);
    bouncer.signal("USR2");
    client.expect("TDCZ");
    bouncer.wait_log("got SIGUSR2, continuing from PAUSE");
    bouncer.signal("USR2");
    bouncer.wait_log("got SIGUSR2, but not paused/suspended");
}

mod beyond_pgbouncer {
    use super::*;

    #[track_caller]
    fn expect_shutting_down(client: &mut Wire) {
        let error = client.expect("E")[0].error();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("57P01", "server shutting down"));
        client.expect_closed();
    }

    fn is_shutting_down(admin: &mut Wire) -> String {
        let state = admin.query("SHOW STATE").expect("the state");
        let row = state.into_iter().find(|row| row[0].as_deref() == Some("shutting_down"));
        row.and_then(|row| row[1].clone()).expect("a row of it")
    }

    #[test]
    fn after_the_grace_time_clients_leave_as_soon_as_they_are_idle() {
        for mode in ["transaction", "session"] {
            let mut bouncer =
                Bouncer::start(Postgres::shared(), |setup| setup.set("shutdown_grace", "300ms").set("pool_mode", mode));
            let (mut idle, mut busy, mut admin) = (bouncer.client(), bouncer.client(), bouncer.admin());
            idle.run("select 1");
            busy.run("begin");
            assert_eq!(is_shutting_down(&mut admin), "no");
            bouncer.signal("TERM");
            wait_until("shutting down", PATIENCE, || is_shutting_down(&mut admin) == "yes");
            idle.run("select 1");
            expect_shutting_down(&mut idle);
            busy.run("select 1");
            busy.run("commit");
            expect_shutting_down(&mut busy);
            // The console is still open, and does not count.
            assert!(bouncer.wait_exit().success());
        }
    }

    #[test]
    fn a_shutdown_ends_when_its_time_is_over() {
        for signal in ["TERM", "INT"] {
            let mut bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("shutdown_timeout", "300ms"));
            let (mut busy, _admin) = (bouncer.client(), bouncer.admin());
            busy.run("begin");
            bouncer.signal(signal);
            expect_shutting_down(&mut busy);
            assert!(bouncer.wait_exit().success(), "{signal}");
        }
    }
}
