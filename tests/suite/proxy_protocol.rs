//! Clients that come through a load balancer, which says in a PROXY header who they are.

use std::process::Command;

use crate::hba::write;
use crate::support::balancer::{Balancer, header_v1, header_v2, header_v2_of};
use crate::support::bouncer::{Setup, assert_error};
use crate::support::process::free_port;
use crate::support::tls::{Through, Tunnel, certificate, key};
use crate::support::*;

mod beyond_pgbouncer {
    use super::*;

    const CLIENT: &str = "203.0.113.7:4711";
    const CLIENT_V6: &str = "[2001:db8::7]:4711";

    /// The pooler and its port for balancers, of which there are some on this machine.
    fn start(change: impl FnOnce(Setup) -> Setup) -> (Bouncer, u16) {
        let port = free_port();
        let bouncer = Bouncer::start(Postgres::shared(), |setup| {
            let setup =
                setup.set("proxy_protocol_port", port).set("proxy_protocol_networks", "10.0.0.0/8, 127.0.0.0/8");
            change(setup)
        });
        (bouncer, port)
    }

    fn connect(port: u16, header: &[u8]) -> Wire {
        let mut wire = Wire::tcp(port);
        wire.send(header);
        wire
    }

    fn logged_in(port: u16, header: &[u8]) -> Wire {
        let mut wire = connect(port, header);
        wire.login("app", "app", "", &[("application_name", "shop")]).expect("log in");
        wire
    }

    /// Address and port of every client of `app`.
    fn addresses(bouncer: &Bouncer) -> Vec<String> {
        let clients = bouncer.show("CLIENTS");
        let of_app = clients.iter().filter(|client| client["database"] == "app");
        of_app.map(|client| format!("{} {}", client["addr"], client["port"])).collect()
    }

    #[test]
    fn the_client_s_address_is_the_one_in_the_header() {
        let (bouncer, port) = start(|setup| setup.set("application_name_add_host", 1));
        for (header, client, shown) in [
            (header_v1(CLIENT), CLIENT, "203.0.113.7 4711"),
            (header_v2(CLIENT), CLIENT, "203.0.113.7 4711"),
            (header_v1(CLIENT_V6), CLIENT_V6, "2001:db8::7 4711"),
            (header_v2(CLIENT_V6), CLIENT_V6, "2001:db8::7 4711"),
            (header_v2("[::ffff:203.0.113.7]:4711"), CLIENT, "203.0.113.7 4711"),
        ] {
            let mut wire = logged_in(port, &header);
            assert_eq!(wire.one("select current_setting('application_name')"), format!("shop - {client}"));
            assert_eq!(addresses(&bouncer), [shown]);
            bouncer.wait_log(&format!("@{client} login attempt: db=app user=app"));
            drop(wire);
            wait_until("it is gone", PATIENCE, || addresses(&bouncer).is_empty());
        }
    }

    #[test]
    fn show_sockets_tells_whom_a_balancer_s_connection_is_from_before_it_is_logged_in() {
        let (bouncer, port) = start(|setup| setup);
        let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]);
        let mut wire = connect(port, &[&header_v1(CLIENT), &startup[..6]].concat());
        let address = || {
            let sockets = bouncer.show("SOCKETS");
            let newcomer = sockets.iter().find(|row| row["state"] == "cl_login" && row["user"] == "(nouser)")?;
            Some(format!("{}:{}", newcomer["addr"], newcomer["port"]))
        };
        wait_until("the client's address", PATIENCE, || address().as_deref() == Some(CLIENT));
        wire.send(&startup[6..]);
        wire.authenticate("app", "").expect("log in");
        assert_eq!(address(), None);
    }

    #[test]
    fn rules_are_held_against_the_client_s_address() {
        let file = write(
            "hba",
            "host pgbouncer admin all trust\nhost all all 203.0.113.7/32 trust\nhost all all 2001:db8::/32 trust\n",
        );
        let (bouncer, port) = start(|setup| setup.set("auth_type", "hba").set("auth_hba_file", file));
        let refused = "no authentication method is found";
        assert_error(&bouncer.refusal("app", "app", ""), refused, "28000");
        for header in [header_v1(CLIENT), header_v2(CLIENT), header_v2(CLIENT_V6)] {
            assert_eq!(logged_in(port, &header).one("select 'in'"), "in");
        }
        let others =
            [header_v1("203.0.113.8:4711"), header_v2_of(0x20, 0, &[]), header_v2_of(0x21, 0x31, &[b'/'; 216])];
        for header in others {
            let mut wire = connect(port, &header);
            assert_error(&wire.login("app", "app", "", &[]).unwrap_err(), refused, "28000");
        }
    }

    #[test]
    fn without_an_address_in_the_header_it_is_the_balancer_s() {
        let (bouncer, port) = start(|setup| setup);
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN 203.0.113.7 10.0.0.1 4711 6432\r\n".to_vec(),
            header_v2_of(0x20, 0, &[]),
            header_v2_of(0x20, 0x11, &[203; 12]),
            header_v2_of(0x21, 0x31, &[b'/'; 216]),
        ] {
            let _wire = logged_in(port, &header);
            let addresses = addresses(&bouncer);
            assert!(matches!(&*addresses, [address] if address.starts_with("127.0.0.1 ")), "{addresses:?}");
            drop(_wire);
            wait_until("it is gone", PATIENCE, || bouncer.pool("app", "app", "cl_active") == 0);
        }
    }

    #[test]
    fn headers_may_come_in_pieces_and_with_what_follows() {
        let (_bouncer, port) = start(|setup| setup);
        let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]);
        for header in [header_v1(CLIENT), header_v2(CLIENT)] {
            let mut at_once = connect(port, &[&header[..], &startup].concat());
            at_once.authenticate("app", "").expect("log in");
            for cut in [1, 6, 13, 16, 20, header.len() - 1] {
                let mut wire = connect(port, &header[..cut]);
                wire.wait_taken();
                wire.send(&[&header[cut..], &startup].concat());
                wire.authenticate("app", "").expect("log in");
                assert_eq!(wire.one("select 'in'"), "in");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_closed_without_a_word() {
        let (bouncer, port) = start(|setup| setup);
        let mut too_long = header_v2_of(0x21, 0x11, &[]);
        too_long[14..].copy_from_slice(&[0xff, 0xff]);
        for (sent, why) in [
            (msg::packet(msg::SSL_REQUEST, &[]), "the connection does not begin with a PROXY header"),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "the connection does not begin with a PROXY header"),
            (b"PROXY TCP4 203.0.113.7 nowhere 4711 6432\r\n".to_vec(), "invalid PROXY header of version 1"),
            (format!("PROXY UNKNOWN {}", "x".repeat(200)).into_bytes(), "invalid PROXY header of version 1"),
            (header_v2_of(0x21, 0x51, &[0; 12]), "PROXY header of an unknown address family or transport"),
            (header_v2_of(0x31, 0x11, &[0; 12]), "PROXY header of an unknown version or command"),
            (header_v2_of(0x21, 0x11, &[0; 4]), "PROXY header without room for its addresses"),
            (too_long, "PROXY header longer than 4,096 bytes"),
        ] {
            connect(port, &sent).expect_closed();
            bouncer.wait_log(why);
        }
        let mut truncated = connect(port, &header_v1(CLIENT)[..20]);
        truncated.try_shutdown_write().expect("shut down");
        truncated.expect_closed();
        bouncer.wait_log("the connection was closed within its PROXY header");
    }

    #[test]
    fn a_check_of_whether_somebody_listens_leaves_no_line() {
        let (bouncer, port) = start(|setup| setup.set("tcp_defer_accept", 0));
        let before = bouncer.log().lines().count();
        for header in [vec![], header_v1(CLIENT), header_v2_of(0x20, 0, &[])] {
            let mut check = connect(port, &header);
            check.wait_taken();
            check.try_shutdown_write().expect("shut down");
            check.expect_closed();
        }
        assert_eq!(bouncer.log().lines().count(), before, "{}", bouncer.log());
        // A header that is owed is not waited for any longer than a login.
        let (bouncer, port) = start(|setup| setup.set("tcp_defer_accept", 0).set("client_login_timeout", 1));
        let mut silent = Wire::tcp(port);
        let mut halfway = connect(port, b"PROXY TCP4");
        for wire in [&mut silent, &mut halfway] {
            wire.drain();
        }
        bouncer.wait_log("closing because: client_login_timeout");
    }

    #[test]
    fn only_balancers_may_connect_there() {
        let (mut bouncer, port) = start(|setup| setup.set("proxy_protocol_networks", "10.0.0.0/8,::1"));
        connect(port, &header_v1(CLIENT)).expect_closed();
        bouncer.wait_log("connection to proxy_protocol_port closed, which is not from one of proxy_protocol_networks");
        bouncer.reload(|setup| setup.set("proxy_protocol_networks", "127.0.0.1"));
        assert_eq!(logged_in(port, &header_v1(CLIENT)).one("select 'in'"), "in");
        bouncer.reload(|setup| setup.set("proxy_protocol_networks", ""));
        connect(port, &header_v1(CLIENT)).expect_closed();
        // Nor does the other port believe in headers.
        let error = connect(bouncer.port, &header_v1(CLIENT)).expect_fatal();
        assert!(error.message.starts_with("client password pkt") || error.message.starts_with("bad packet"), "{error}");
    }

    #[test]
    fn cancel_requests_come_through_balancers_too() {
        let (bouncer, port) = start(|setup| setup);
        let mut client = logged_in(port, &header_v1(CLIENT));
        client.send(&msg::query("select pg_sleep(60)"));
        bouncer.wait_asleep(Postgres::shared(), 1);
        connect(port, &[header_v2(CLIENT), client.cancel_packet()].concat()).expect_closed();
        assert_eq!(client.answer_of_query().unwrap_err().code, "57014");
    }

    #[test]
    fn limits_per_address_are_for_clients_and_not_for_balancers() {
        let (bouncer, port) = start(|setup| setup.set("max_client_logins_per_address", 1));
        let mut held = connect(port, &header_v1(CLIENT));
        held.wait_taken();
        held.send(&[0, 0, 0]);
        held.wait_taken();
        let error = connect(port, &header_v2("203.0.113.7:4712")).login("app", "app", "", &[]).unwrap_err();
        assert_error(&error, "no more connections allowed (max_client_logins_per_address)", "53300");
        bouncer.wait_log("connection from 203.0.113.7:4712 refused: no more connections allowed");
        logged_in(port, &header_v2("203.0.113.8:4711"));
    }

    fn with_tls(setup: Setup) -> Setup {
        setup
            .set("client_tls_sslmode", "require")
            .set("client_tls_key_file", key("site"))
            .set("client_tls_cert_file", certificate("site"))
    }

    #[test]
    fn tls_comes_behind_the_header() {
        let (bouncer, port) = start(with_tls);
        for header in [header_v1(CLIENT), header_v2(CLIENT)] {
            let balancer = Balancer::start(port, header);
            for is_direct in [false, true] {
                let through = Through { is_direct, alpn: Some("postgresql"), ..Through::default() };
                let mut wire = Wire::tcp(Tunnel::start(balancer.port, through).port);
                wire.login("app", "app", "", &[]).expect("log in");
                assert_eq!(wire.one("select 'in'"), "in");
            }
            let out = Command::new(postgres::program("psql"))
                .args(["-XAtq", "-c", "select 'in'"])
                .arg(format!(
                    "host=localhost port={} user=app dbname=app connect_timeout=20 sslmode=verify-full sslrootcert={}",
                    balancer.port,
                    certificate("ca")
                ))
                .output()
                .expect("run psql");
            assert_eq!(String::from_utf8_lossy(&out.stdout), "in\n", "{}", String::from_utf8_lossy(&out.stderr));
        }
        let logins = || bouncer.logged("@203.0.113.7:4711 login attempt: db=app user=app tls=TLSv1.");
        wait_until("all logins in the log", PATIENCE, || logins() == 6);
        assert_error(
            &connect(port, &header_v1(CLIENT)).login("app", "app", "", &[]).unwrap_err(),
            "SSL required",
            "28000",
        );
    }
    #[test]
    fn another_process_takes_over_the_port_and_knows_where_clients_come_from() {
        let (mut bouncer, port) = start(|setup| setup);
        let mut client = logged_in(port, &header_v1(CLIENT));
        // It has said where it comes from and nothing more.
        let mut begun = connect(port, &header_v2(CLIENT_V6));
        begun.wait_taken();
        let mut former = bouncer.reboot();
        begun.login("app", "app", "", &[]).expect("log in");
        former.wait_exit();
        let log = bouncer.log();
        for kind in ["", " (PROXY protocol)"] {
            let port = if kind.is_empty() { bouncer.port } else { port };
            let line = format!("listening on 127.0.0.1:{port}{kind}, as the process before");
            assert!(log.contains(&line), "{line}: {log}");
        }
        let mut fresh = logged_in(port, &header_v1("203.0.113.9:99"));
        for wire in [&mut client, &mut begun, &mut fresh] {
            assert_eq!(wire.one("select 'in'"), "in");
        }
        let mut addresses = addresses(&bouncer);
        addresses.sort();
        assert_eq!(addresses, ["2001:db8::7 4711", "203.0.113.7 4711", "203.0.113.9 99"]);
        connect(port, &msg::packet(msg::SSL_REQUEST, &[])).expect_closed();
    }
}
