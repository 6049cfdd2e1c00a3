//! Several workers are one pooler: one pool, one set of limits and counters. PgBouncer has one
//! thread and does not know the setting.

use std::thread;

use crate::isolation;
use crate::support::bouncer::{Setup, assert_error};
use crate::support::*;

mod beyond_pgbouncer {
    use super::*;

    fn start(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
        Bouncer::start(Postgres::shared(), |setup| change(setup.set("workers", 4)))
    }

    #[test]
    fn clients_of_different_workers_share_nothing_but_servers() {
        let pg = Postgres::shared();
        let bouncer = start(|setup| setup.set("default_pool_size", isolation::SERVERS).set("max_client_conn", 1000));
        isolation::run(&bouncer, pg);
    }

    #[test]
    fn server_goes_from_worker_to_worker() {
        let pg = Postgres::shared();
        let bouncer = start(|setup| setup.set("default_pool_size", 1));
        let mut clients: Vec<Wire> = (0..16).map(|_| bouncer.client()).collect();
        let first = clients[0].backend();
        for _ in 0..3 {
            for client in &mut clients {
                client.run("begin");
                assert_eq!(client.backend(), first);
                client.run("commit");
            }
        }
        assert_eq!(bouncer.backends(pg), 1);
    }

    #[test]
    fn waiters_of_all_workers_are_served() {
        let bouncer = start(|setup| setup.set("default_pool_size", 2));
        thread::scope(|scope| {
            for i in 0..48 {
                let bouncer = &bouncer;
                scope.spawn(move || {
                    let mut client = bouncer.client();
                    for j in 0..100 {
                        let value = format!("{i}:{j}");
                        assert_eq!(client.one(&format!("select '{value}'")), value);
                    }
                });
            }
        });
    }

    #[test]
    fn limits_count_over_all_workers() {
        let bouncer = start(|setup| setup.set("max_client_conn", 5).set("max_db_connections", 2));
        let mut clients: Vec<Wire> = (0..5).map(|_| bouncer.client()).collect();
        let text = "no more connections allowed (max_client_conn)";
        assert_error(&bouncer.refusal("app", "app", ""), text, "53300");
        for client in &mut clients {
            client.send(&msg::query("begin"));
        }
        bouncer.wait_pool("sv_active", 2);
        bouncer.wait_pool("cl_waiting", 3);
        assert_eq!(bouncer.show("SERVERS").len(), 2);
    }

    #[test]
    fn cancel_reaches_clients_of_every_worker() {
        let bouncer = start(|setup| setup);
        let mut clients: Vec<Wire> = (0..8).map(|_| bouncer.client()).collect();
        for client in &mut clients {
            client.send(&msg::query("select pg_sleep(60)"));
        }
        bouncer.wait_asleep(Postgres::shared(), 8);
        for client in &mut clients {
            Wire::tcp(bouncer.port).send(&client.cancel_packet());
            assert_eq!(client.answer_of_query().expect_err("canceled").code, "57014");
        }
    }

    #[test]
    fn pause_reload_and_shutdown_reach_every_worker() {
        let mut bouncer = start(|setup| setup);
        let mut clients: Vec<Wire> = (0..8).map(|_| bouncer.client()).collect();
        let mut admin = bouncer.admin();
        admin.run("PAUSE");
        for client in &mut clients {
            client.send(&msg::query("select 1"));
        }
        bouncer.wait_pool("cl_waiting", 8);
        admin.run("RESUME");
        for client in &mut clients {
            client.expect("TDCZ");
        }
        bouncer.reload(|setup| setup.set("idle_transaction_timeout", 1));
        for client in &mut clients {
            client.run("begin");
        }
        for client in &mut clients {
            assert_eq!(client.expect_fatal().message, "idle transaction timeout");
        }
        bouncer.signal("INT");
        assert!(bouncer.wait_exit().success());
    }
}
