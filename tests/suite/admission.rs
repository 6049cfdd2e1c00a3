//! How many may be at the door at once, and who gets in all the same.

use std::net::Ipv4Addr;

use crate::support::bouncer::{Setup, assert_error};
use crate::support::*;

mod beyond_pgbouncer {
    use super::*;

    /// Places beyond the limits, for those who look after the pooler.
    const RESERVE: usize = 32;
    const REFUSAL: &str = "no more connections allowed (max_client_logins)";

    fn start(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
        let bouncer =
            Bouncer::start(Postgres::shared(), |setup| change(setup.set("tcp_defer_accept", 0).set("verbose", 1)));
        // The harness has left the door.
        bouncer.wait_log("client unexpected eof before its login");
        bouncer
    }

    /// Connections that stay at the door for as long as what is returned.
    fn linger(bouncer: &Bouncer, count: usize) -> Vec<Wire> {
        let wires = (0..count).map(|_| {
            let mut wire = Wire::tcp(bouncer.port);
            // The begin of a startup packet, to know when the pooler has the connection.
            wire.send(&[0, 0]);
            wire.wait_taken();
            wire
        });
        wires.collect()
    }

    #[test]
    fn beyond_the_limit_only_who_looks_after_the_pooler_gets_in() {
        let bouncer = start(|setup| setup.set("max_client_logins", 2).set("admin_users", "admin,third"));
        let mut inside = bouncer.client();
        let mut others = linger(&bouncer, 2);
        for _ in 0..5 {
            assert_error(&bouncer.refusal("app", "app", ""), REFUSAL, "53300");
        }
        bouncer.admin().run("SHOW VERSION");
        assert_eq!(bouncer.client_of("third", "app").one("select 'in'"), "in");
        // A cancel request is neither login nor turned away.
        inside.send(&msg::query("select pg_sleep(60)"));
        bouncer.wait_asleep(Postgres::shared(), 1);
        let mut cancel = Wire::tcp(bouncer.port);
        cancel.send(&inside.cancel_packet());
        cancel.expect_closed();
        assert_eq!(inside.answer_of_query().unwrap_err().code, "57014");
        // One line for all five.
        bouncer.wait_log(&format!("refused: {REFUSAL}"));
        assert_eq!(bouncer.log().matches(REFUSAL).count(), 1);
        others.pop();
        wait_until("a place is free", PATIENCE, || bouncer.try_client("app", "app", "").is_ok());
    }

    #[test]
    fn beyond_the_reserve_nobody_is_listened_to_but_over_the_unix_socket() {
        let mut bouncer = start(|setup| setup.set("max_client_logins", 2));
        let mut inside = bouncer.client();
        let others = linger(&bouncer, 2 + RESERVE);
        // Turned away without having said a word, and with half a word.
        assert_error(&Wire::tcp(bouncer.port).expect_fatal(), REFUSAL, "53300");
        assert_error(&bouncer.refusal("admin", "pgbouncer", ""), REFUSAL, "53300");
        assert_eq!(inside.one("select 'well'"), "well");
        let over_unix = |user, database| Wire::unix(bouncer.socket_path()).login(user, database, "", &[]);
        over_unix("admin", "pgbouncer").expect("the operator's way in");
        assert_error(&over_unix("app", "app").unwrap_err(), REFUSAL, "53300");
        // The limit in force is the one of the moment.
        let mut admin = Wire::unix(bouncer.socket_path());
        admin.login("admin", "pgbouncer", "", &[]).expect("log in");
        bouncer.rewrite(|setup| setup.set("max_client_logins", 0));
        admin.run("RELOAD");
        assert_eq!(bouncer.client().one("select 'in'"), "in");
        drop(others);
    }

    #[test]
    fn without_a_number_max_client_conn_is_the_limit() {
        let bouncer = start(|setup| setup.set("max_client_conn", 3));
        let _others = linger(&bouncer, 3 + RESERVE);
        assert_error(&Wire::tcp(bouncer.port).expect_fatal(), REFUSAL, "53300");
    }

    #[test]
    fn one_address_does_not_keep_out_another() {
        let bouncer = start(|setup| setup.set("max_client_logins_per_address", 2));
        let others = linger(&bouncer, 2);
        let text = "no more connections allowed (max_client_logins_per_address)";
        assert_error(&bouncer.refusal("app", "app", ""), text, "53300");
        let mut neighbour = Wire::tcp_from(Ipv4Addr::new(127, 0, 0, 2), bouncer.port);
        neighbour.login("app", "app", "", &[]).expect("log in");
        // Who is in does not count.
        drop(others);
        wait_until("a place is free", PATIENCE, || bouncer.try_client("app", "app", "").is_ok());
        let _inside: Vec<Wire> = (0..5).map(|_| bouncer.client()).collect();
    }

    #[test]
    fn who_does_not_get_on_makes_room_after_client_login_timeout() {
        let bouncer = start(|setup| setup.set("max_client_logins", 2).set("client_login_timeout", 1));
        let mut silent = Wire::tcp(bouncer.port);
        let mut slow = Wire::tcp(bouncer.port);
        let startup =
            msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app"), ("client_encoding", "UTF8")]);
        // A byte now and then is not enough.
        let mut sent = 0;
        wait_until("it is cut off", PATIENCE, || {
            let is_open = slow.try_send(&startup[sent..sent + 1]).is_ok();
            sent += 1;
            assert!(sent < startup.len(), "it went on for long enough to log in");
            std::thread::sleep(millis(100));
            !is_open || bouncer.log().matches("closing because: client_login_timeout").count() == 2
        });
        assert_error(&silent.expect_fatal(), "client_login_timeout", "08P01");
        assert_error(&slow.expect_fatal(), "client_login_timeout", "08P01");
        assert_eq!(bouncer.client().one("select 'in'"), "in");
    }
}
