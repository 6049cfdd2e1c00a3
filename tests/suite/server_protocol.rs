//! Versions of the protocol: what servers are asked for and what clients get, before PostgreSQL
//! 16, which speaks 3.0, and 18, which speaks 3.2.

use std::io::{Read, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::fake_server::{Peer, error_response, one_row, ready};
use crate::support::postgres::program;
use crate::support::process::signal;
use crate::support::*;

const PROTOCOL_3_2: u32 = msg::PROTOCOL_3_0 + 2;

/// The client's login, asking for `protocol`; what comes before the first AuthenticationRequest.
fn log_in(port: u16, protocol: u32, params: &[(&str, &str)]) -> (Wire, Vec<msg::Message>) {
    let mut wire = Wire::tcp(port);
    wire.send(&msg::startup(protocol, params));
    let mut before = Vec::new();
    loop {
        let message = wire.recv();
        if message.tag == b'R' {
            wire.authenticate("app", "").expect("log in");
            return (wire, before);
        }
        before.push(message);
    }
}

mod beyond_pgbouncer {
    use super::*;

    /// What passes between the pooler and a server: the first packet of every connection, whole.
    struct Tap {
        port: u16,
        packets: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Tap {
        fn before(server: u16) -> Tap {
            let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
            let port = listener.local_addr().expect("an address").port();
            let packets = Arc::new(Mutex::default());
            let noted = Arc::clone(&packets);
            thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let server = TcpStream::connect(("127.0.0.1", server)).expect("connect");
                    let noted = Arc::clone(&noted);
                    thread::spawn(move || pass(client, server, &noted));
                }
            });
            Tap { port, packets }
        }

        /// The lengths of the cancel requests, and the versions that logins have asked for.
        fn seen(&self) -> (Vec<usize>, Vec<u32>) {
            let packets = self.packets.lock().expect("packets");
            let code = |packet: &Vec<u8>| u32::from_be_bytes(packet[4..8].try_into().expect("four bytes"));
            let (cancels, logins): (Vec<_>, Vec<_>) = packets.iter().partition(|p| code(p) == msg::CANCEL_REQUEST);
            (cancels.iter().map(|packet| packet.len()).collect(), logins.into_iter().map(code).collect())
        }
    }

    fn pass(mut client: TcpStream, mut server: TcpStream, noted: &Mutex<Vec<Vec<u8>>>) {
        let mut packet = vec![0; 4];
        if client.read_exact(&mut packet).is_err() {
            return;
        }
        let length = u32::from_be_bytes(packet[..4].try_into().expect("four bytes"));
        packet.resize(length as usize, 0);
        client.read_exact(&mut packet[4..]).expect("a packet");
        noted.lock().expect("packets").push(packet.clone());
        server.write_all(&packet).expect("pass it on");
        let (mut to_client, mut from_server) = (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
        thread::spawn(move || {
            let _ = copy(&mut from_server, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let _ = copy(&mut client, &mut server);
        let _ = server.shutdown(Shutdown::Both);
    }

    /// A pooler that asks `pg` for protocol 3.2, and what it sends there.
    fn start(pg: &Postgres) -> (Bouncer, Tap) {
        let (tap, database) = (Tap::before(pg.port), pg.create_database());
        let entry = format!("host=127.0.0.1 port={} dbname={database}", tap.port);
        let mut bouncer = Bouncer::start_before(tap.port, |setup| {
            // One server, that the count of logins is certain; and what is sent is to be read.
            let setup = setup.database("app", entry).set("server_max_protocol_version", "3.2");
            setup.set("default_pool_size", 1).set("server_tls_sslmode", "disable")
        });
        bouncer.server_database = database;
        (bouncer, tap)
    }

    /// psql's Ctrl-C.
    fn interrupt_a_query_of_psql(psql: &Path, bouncer: &Bouncer, pg: &Postgres) {
        let child = Command::new(psql)
            .args(["-X", "-h", "127.0.0.1", "-U", "app", "-d", "app", "-p", &bouncer.port.to_string()])
            .args(["-c", "select pg_sleep(60)"])
            // Of libpq 18; to an older one it is nothing.
            .env("PGMAXPROTOCOLVERSION", "latest")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start psql");
        bouncer.wait_asleep(pg, 1);
        signal(child.id(), "INT");
        let out = child.wait_with_output().expect("wait for psql");
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(text.contains("canceling statement due to user request"), "{text}");
    }

    /// `key_len` is that of the server's keys, process id included.
    fn everything_works(pg: &Postgres, version: &str, key_len: usize) {
        let told = pg.sql("show server_version").remove(0).remove(0).expect("a version");
        assert!(told.starts_with(version), "{told}");
        let (bouncer, tap) = start(pg);
        let mut cancels = Vec::new();
        // The machine's own, and one that asks for 3.2.
        for psql in [program("psql"), Postgres::shared_18().bindir.join("psql")] {
            interrupt_a_query_of_psql(&psql, &bouncer, pg);
            cancels.push(8 + key_len);
        }
        for replication in [None, Some("database")] {
            let user = if replication.is_some() { "replicator" } else { "app" };
            let params = [("user", user), ("database", "app"), ("replication", replication.unwrap_or("off"))];
            let (mut client, _) = log_in(bouncer.port, PROTOCOL_3_2, &params);
            if replication.is_some() {
                assert_eq!(client.query("IDENTIFY_SYSTEM").expect("IDENTIFY_SYSTEM").len(), 1);
            }
            client.send(&msg::query("select pg_sleep(60)"));
            bouncer.wait_asleep(pg, 1);
            let mut asker = Wire::tcp(bouncer.port);
            asker.send(&client.cancel_packet());
            asker.expect_closed();
            cancels.push(8 + key_len);
            assert_eq!(client.answer_of_query().expect_err("canceled").code, "57014");
            assert_eq!(client.one("select 'alive'"), "alive");
        }
        // A server for the ordinary clients, one for the walsender.
        assert_eq!(tap.seen(), (cancels, vec![PROTOCOL_3_2; 2]));
    }

    #[test]
    fn queries_cancels_and_replication_with_the_long_keys_of_postgresql_18() {
        everything_works(Postgres::shared_18(), "18.", 36);
    }

    #[test]
    fn queries_cancels_and_replication_after_postgresql_16_has_negotiated() {
        everything_works(Postgres::shared_16(), "16.", 8);
    }

    #[test]
    fn clients_get_the_negotiation_of_postgresql_18() {
        let pg = Postgres::shared_18();
        let bouncer = Bouncer::start(pg, |setup| setup);
        let extensions: [&[(&str, &str)]; 4] =
            [&[], &[("_pq_.x", "on")], &[("_pq_.x", "on"), ("_pq_.y", ""), ("_pq_.x", "2")], &[("_pq_.", "on")]];
        for minor in [0, 1, 2, 3, 9999, 0xffff] {
            for more in extensions {
                let ask = |port, database: &str| {
                    let params = [&[("user", "app"), ("database", database)], more].concat();
                    let (mut wire, before) = log_in(port, msg::PROTOCOL_3_0 + minor, &params);
                    assert_eq!(wire.one("select 1"), "1");
                    let told: Vec<_> = before.into_iter().map(|message| (message.tag, message.body)).collect();
                    (told, wire.key.len())
                };
                let theirs = ask(pg.port, &bouncer.server_database);
                assert_eq!(ask(bouncer.port, "app"), theirs, "3.{minor} {more:?}");
            }
        }
    }

    /// The console's sessions, too, are of the version asked for.
    #[test]
    fn libpq_18_reads_the_console_in_protocol_3_2() {
        let pg = Postgres::shared_18();
        let bouncer = Bouncer::start(pg, |setup| setup);
        for version in ["3.0", "3.2", "latest"] {
            let out = Command::new(pg.bindir.join("psql"))
                .args(["-X", "-At", "-h", "127.0.0.1", "-U", "admin", "-d", "pgbouncer", "-c", "show databases", "-p"])
                .arg(bouncer.port.to_string())
                .env("PGMAXPROTOCOLVERSION", version)
                .output()
                .expect("run psql");
            let text = String::from_utf8_lossy(&out.stdout);
            assert!(text.contains("app|127.0.0.1|"), "{text}{}", String::from_utf8_lossy(&out.stderr));
        }
    }

    type Codes = Arc<Mutex<Vec<u32>>>;

    /// A server that notes what it is asked for, and does `answer` for 3.2.
    fn fake(answer: impl Fn(&mut Peer) + Send + Sync + 'static) -> (FakeServer, Codes) {
        let codes = Codes::default();
        let noted = Arc::clone(&codes);
        let server = FakeServer::start(move |_, mut peer| {
            let Some((code, _)) = peer.read_packet() else { return };
            noted.lock().expect("codes").push(code);
            match code {
                PROTOCOL_3_2 => answer(&mut peer),
                _ => peer.welcome(),
            }
            while let Some(tag) = peer.read_tag() {
                if tag == b'Q' {
                    peer.send(&one_row("1"));
                }
            }
        });
        (server, codes)
    }

    fn asking_for_3_2(server: &FakeServer) -> Bouncer {
        Bouncer::start_before(server.port, |setup| setup.set("server_max_protocol_version", "3.2"))
    }

    #[test]
    fn servers_are_asked_for_3_0_unless_told_otherwise() {
        let (server, codes) = fake(|peer| peer.welcome_with(&[1; 36]));
        let mut bouncer = Bouncer::start_before(server.port, |setup| setup);
        let mut expected = Vec::new();
        for (setting, code) in [("3.0", msg::PROTOCOL_3_0), ("3.2", PROTOCOL_3_2), ("3.0", msg::PROTOCOL_3_0)] {
            if !expected.is_empty() {
                bouncer.reload(|setup| setup.set("server_max_protocol_version", setting));
                bouncer.admin().run("RECONNECT");
                bouncer.wait_pool("sv_idle", 0);
            }
            bouncer.client().run("select 1");
            expected.push(code);
            assert_eq!(*codes.lock().expect("codes"), expected);
        }
    }

    /// The client is let in at once, the next login asks for 3.0 first.
    #[test]
    fn server_that_refuses_3_2_is_asked_for_3_0_and_remembered() {
        let (server, codes) = fake(|peer| {
            let text = "Munsupported frontend protocol 3.2: server supports 1.0 to 3.0";
            peer.send(&error_response(&["SFATAL", "C0A000", text]));
            peer.close();
        });
        let bouncer = asking_for_3_2(&server);
        bouncer.client().run("select 1");
        bouncer.wait_log("speaks protocol 3.0 only, asking for that for 10 minutes");
        bouncer.admin().run("RECONNECT");
        bouncer.wait_pool("sv_idle", 0);
        bouncer.client().run("select 1");
        assert_eq!(*codes.lock().expect("codes"), [PROTOCOL_3_2, msg::PROTOCOL_3_0, msg::PROTOCOL_3_0]);
    }

    /// Nobody notices that something on the way swallows what it does not know.
    #[test]
    fn server_that_never_answers_3_2_is_asked_for_3_0() {
        let (server, codes) = fake(Peer::hold);
        let bouncer = Bouncer::start_before(server.port, |setup| {
            setup.set("server_max_protocol_version", "3.2").set("server_connect_timeout", 1)
        });
        bouncer.client().run("select 1");
        assert_eq!(*codes.lock().expect("codes"), [PROTOCOL_3_2, msg::PROTOCOL_3_0]);
    }

    #[test]
    fn keys_of_any_length_come_back_whole_in_a_cancel_request() {
        for len in [8, 9, 36, 260] {
            let key: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let (came, expected) = (Arc::new(Mutex::new(None)), key.clone());
            let noted = Arc::clone(&came);
            let server = FakeServer::start(move |_, mut peer| match peer.read_packet() {
                Some((msg::CANCEL_REQUEST, key)) => *noted.lock().expect("a key") = Some(key),
                Some((PROTOCOL_3_2, _)) => {
                    peer.welcome_with(&key);
                    while let Some((tag, body)) = peer.read_message() {
                        match (tag, &body[..]) {
                            (b'Q', b"hang\0") => {
                                wait_until("the request comes", PATIENCE, || noted.lock().expect("a key").is_some());
                                let error = error_response(&["SERROR", "C57014", "Mcanceled"]);
                                peer.send(&[error, ready(b'I')].concat());
                            }
                            (b'Q', _) => peer.send(&one_row("1")),
                            _ => {}
                        }
                    }
                }
                other => panic!("{other:?}"),
            });
            let bouncer = asking_for_3_2(&server);
            let mut client = bouncer.client();
            client.send(&msg::query("hang"));
            bouncer.wait_pool("sv_active", 1);
            Wire::tcp(bouncer.port).send(&client.cancel_packet());
            assert_eq!(client.answer_of_query().expect_err("canceled").code, "57014");
            assert_eq!(came.lock().expect("a key").take(), Some(expected));
        }
    }
}
