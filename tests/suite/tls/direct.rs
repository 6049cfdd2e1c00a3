//! TLS towards servers with no request before, and names of servers.

use std::process::Stdio;

use super::*;
use crate::support::process::{self, free_port};

fn direct(setup: Setup, sslmode: &str) -> Setup {
    towards(setup, sslmode).set("server_tls_sslnegotiation", "direct")
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn postgres_17_and_later_take_it() {
        let pg = Postgres::with_tls_18("site");
        for sslmode in ["require", "verify-ca", "verify-full"] {
            let bouncer = Bouncer::start(&pg, |setup| direct(setup.database("app", entry(&pg, "localhost")), sslmode));
            let mut client = bouncer.client();
            assert_eq!(client.one("select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "t");
            assert_eq!(server_tls(&bouncer), "TLSv1.3/TLS_AES_256_GCM_SHA384");
            // So does a cancel request.
            client.send(&msg::query("select pg_sleep(60)"));
            let asleep = "select 1 from pg_stat_activity where usename = 'app' and wait_event = 'PgSleep'";
            wait_until("it sleeps", PATIENCE, || !pg.sql(asleep).is_empty());
            Wire::tcp(bouncer.port).send(&client.cancel_packet());
            assert_eq!(client.answer_of_query().unwrap_err().code, "57014");
        }
        pg.set_tls("elsewhere");
        let bouncer =
            Bouncer::start(&pg, |setup| direct(setup.database("app", entry(&pg, "localhost")), "verify-full"));
        let _client = bouncer.newcomer();
        bouncer.wait_log("TLS handshake error (direct): certificate verify failed: ");
    }

    #[test]
    fn older_servers_do_not() {
        let pg = Postgres::with_tls("site");
        let bouncer = Bouncer::start(&pg, |setup| direct(setup, "require"));
        let _client = bouncer.newcomer();
        bouncer.wait_log("TLS handshake error (direct): ");
        bouncer.wait_log("which server_tls_sslnegotiation = direct needs");
    }

    #[test]
    fn servers_that_do_not_speak_the_protocol_are_refused() {
        let port = free_port();
        let mut server = process::unprivileged("openssl", "KILL")
            .args(["s_server", "-quiet", "-accept", &port.to_string()])
            .args(["-cert", &certificate("site"), "-key", &key("site")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run openssl");
        wait_until("it listens", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let bouncer = Bouncer::start_before(port, |setup| direct(setup, "verify-full"));
        let _client = bouncer.newcomer();
        bouncer.wait_log("direct SSL connection was established without ALPN protocol negotiation extension");
        server.kill().expect("end openssl");
        server.wait().expect("wait for openssl");
    }

    #[test]
    fn weak_modes_leave_no_room_for_it() {
        let mut bouncer = start("disable");
        for sslmode in ["disable", "allow", "prefer"] {
            bouncer.rewrite(|setup| direct(setup, sslmode));
            bouncer.admin().fails("RELOAD");
            let why = format!("server_tls_sslmode must be require or stricter, not {sslmode}");
            bouncer.wait_log(&why);
        }
    }

    /// Hosts are named in the handshake, so that a proxy knows whom we mean; addresses are not.
    #[test]
    fn servers_are_called_by_their_names() {
        for (host, is_named) in [("localhost", true), ("127.0.0.1", false)] {
            let (give, take) = std::sync::mpsc::channel();
            let server = FakeServer::start(move |_, mut peer| {
                let _ = give.send(peer.read_some().unwrap_or_default());
            });
            let entry = format!("host={host} port={}", server.port);
            let bouncer = Bouncer::start_before(server.port, |setup| direct(setup.database("app", entry), "require"));
            let _client = bouncer.newcomer();
            let hello = take.recv_timeout(PATIENCE).expect("a hello");
            // Handshake; the extension with the name, and that of the protocol.
            assert_eq!(hello[0], 0x16);
            let has = |text: &[u8]| hello.windows(text.len()).any(|window| window == text);
            assert_eq!(has(host.as_bytes()), is_named);
            assert!(has(b"\x0apostgresql"));
        }
    }
}
