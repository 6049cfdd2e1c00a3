//! Clients with TLS go over as well, with the keys that they have.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

use super::super::*;
use crate::support::postgres::program;
use crate::support::tls::{Through, Tunnel, certificate, config, key, own_key};

fn with_tls(setup: Setup) -> Setup {
    setup
        .set("client_tls_sslmode", "allow")
        .set("client_tls_key_file", key("site"))
        .set("client_tls_cert_file", certificate("site"))
        .set("client_tls_ca_file", certificate("ca"))
}

fn start_with_tls(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
    start(|setup| change(with_tls(setup)))
}

fn tunnel(bouncer: &Bouncer, is_tls12: bool) -> Tunnel {
    Tunnel::start(bouncer.port, Through { is_tls12, ..Through::default() })
}

fn client(tunnel: &Tunnel, database: &str) -> Wire {
    let mut client = Wire::tcp(tunnel.port);
    client.login("app", database, "", &[]).expect("log in");
    client
}

/// What the console says of how clients are connected.
fn shown(bouncer: &Bouncer) -> Vec<String> {
    let mut shown: Vec<String> = bouncer.show("CLIENTS").iter().map(|client| client["tls"].clone()).collect();
    shown.retain(|tls| !tls.is_empty());
    shown.sort();
    shown
}

#[test]
fn they_carry_on_again_and_again() {
    let pg = Postgres::shared();
    let mut bouncer = start_with_tls(|setup| {
        let entry = format!("host=127.0.0.1 port={} dbname=postgres pool_mode=session", pg.port);
        setup.database("sess", entry).set("max_prepared_statements", 10)
    });
    let tunnels = [tunnel(&bouncer, false), tunnel(&bouncer, true)];
    let mut clients: Vec<Wire> = Vec::new();
    for tunnel in &tunnels {
        let (mut idle, mut open, mut session) = (client(tunnel, "app"), client(tunnel, "app"), client(tunnel, "sess"));
        prepare(&mut idle, "named", "select $1::int + 1");
        open.run("begin");
        open.run("create temp table kept (i int) on commit drop");
        session.run("create temp table mine as select 5 as x");
        clients.extend([idle, open, session]);
    }
    let before = shown(&bouncer);
    assert!(before.len() == 6 && before[0].starts_with("TLSv1.2/") && before[5].starts_with("TLSv1.3/"), "{before:?}");
    for turn in 0..3 {
        bouncer.reboot().wait_exit();
        assert_eq!(shown(&bouncer), before);
        for three in clients.chunks_mut(3) {
            assert_eq!(executed(&mut three[0], "named", &["41"]), "42");
            assert_eq!(three[1].one("select count(*) from kept"), turn.to_string());
            three[1].run("insert into kept values (1)");
            assert_eq!(three[2].one("select x from mine"), "5");
            // Many records each way.
            let rows = three[0].query("select repeat('x', 1000) from generate_series(1, 3000)").expect("rows");
            assert_eq!(rows.len(), 3000);
            let long = "y".repeat(200_000);
            assert_eq!(three[0].one(&format!("select length('{long}')")), "200000");
        }
    }
    for three in clients.chunks_mut(3) {
        three[1].run("commit");
        three[2].run("create temp table target (i int)");
        three[2].send(&msg::query("copy target from stdin"));
        three[2].expect("G");
        (0..3000).for_each(|i| three[2].send(&msg::copy_data(&format!("{i}\n"))));
        three[2].send(&msg::copy_done());
        three[2].answer_of_query().expect("copied");
        assert_eq!(three[2].one("select sum(i) from target"), "4498500");
    }
    // Cancel requests, by TLS as well, and goodbyes.
    for (tunnel, three) in tunnels.iter().zip(clients.chunks_mut(3)) {
        three[0].send(&msg::query("select pg_sleep(60)"));
        bouncer.wait_asleep(pg, 1);
        let mut asker = Wire::tcp(tunnel.port);
        asker.send(&three[0].cancel_packet());
        asker.expect_closed();
        assert_canceled(&mut three[0]);
        three[0].send(&msg::terminate());
        three[0].expect_closed();
    }
    drop(clients);
    wait_until("all have gone", PATIENCE, || shown(&bouncer).is_empty());
    assert!(!bouncer.log().contains("WARNING"), "{}", bouncer.log());
}

#[test]
fn those_that_wait_go_at_once_and_those_that_run_when_they_are_done() {
    let pg = Postgres::shared();
    let mut bouncer = start_with_tls(|setup| setup.set("default_pool_size", 1).set("query_wait_notify", 1));
    let tunnel = tunnel(&bouncer, false);
    let (mut runs, mut waits) = (client(&tunnel, "app"), client(&tunnel, "app"));
    let backend = runs.backend();
    runs.run("begin");
    runs.send(&msg::query("select pg_sleep(2.5)"));
    bouncer.wait_asleep(pg, 1);
    waits.send(&msg::query("select pg_backend_pid()"));
    bouncer.wait_pool("cl_waiting", 1);
    let mut former = bouncer.reboot();
    bouncer.wait_pool("cl_waiting", 1);
    assert_eq!(bouncer.backends(pg), 1);
    runs.answer_of_query().expect("the answer");
    former.wait_exit();
    runs.run("commit");
    assert_eq!(waits.answer_of_query().expect("the answer")[0][0], Some(backend.to_string()));
    // The new process has told it that it waits, once.
    assert_eq!(waits.notices.len(), 1);
    assert_eq!((runs.backend(), bouncer.backends(pg)), (backend, 1));
}

/// A client that writes its records itself.
struct Records {
    tls: ClientConnection,
    socket: TcpStream,
}

impl Records {
    fn connect(bouncer: &Bouncer, is_tls12: bool) -> Records {
        let mut socket = TcpStream::connect(("127.0.0.1", bouncer.port)).expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("set the timeout");
        socket.write_all(&msg::packet(msg::SSL_REQUEST, &[])).expect("send");
        socket.read_exact(&mut [0]).expect("an answer");
        let config = Arc::new(config(&Through { is_tls12, ..Through::default() }));
        let tls = ClientConnection::new(config, ServerName::try_from("localhost").expect("a name")).expect("TLS");
        let mut client = Records { tls, socket };
        let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]);
        client.tls.complete_io(&mut client.socket).expect("shake hands");
        client.send(&startup);
        client.ready();
        client
    }

    /// The records of `text`.
    fn sealed(&mut self, text: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(text).expect("write");
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).expect("encrypt");
        }
        records
    }

    fn send(&mut self, text: &[u8]) {
        let records = self.sealed(text);
        self.socket.write_all(&records).expect("send");
    }

    /// Everything up to the next ReadyForQuery.
    fn ready(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"Z\0\0\0\x05I") {
            let mut byte = [0];
            let n = rustls::Stream::new(&mut self.tls, &mut self.socket).read(&mut byte).expect("an answer");
            assert_eq!(n, 1, "{}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn expect_closed(mut self) {
        match self.socket.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn half_a_record_goes_along_and_garbage_ends_nobody_else() {
    for is_tls12 in [false, true] {
        let mut bouncer = start_with_tls(|setup| setup);
        let mut clients: Vec<Records> = (0..5).map(|_| Records::connect(&bouncer, is_tls12)).collect();
        // In the header, and behind it.
        let mut rest: Vec<Vec<u8>> = Vec::new();
        for (client, at) in clients.iter_mut().zip([2, 5, 17]) {
            let record = client.sealed(&msg::query("select 'wh' || 'ole'"));
            client.socket.write_all(&record[..at]).expect("send");
            rest.push(record[at..].to_vec());
        }
        bouncer.reboot().wait_exit();
        bouncer.reboot().wait_exit();
        for (client, rest) in clients.iter_mut().zip(rest) {
            client.socket.write_all(&rest).expect("send");
            assert!(client.ready().contains("whole"));
        }
        let mut last = clients.pop().expect("a client");
        let mut other = clients.pop().expect("a client");
        // A record that was sent already, what is no record, and one that was changed.
        let replayed = other.sealed(&msg::query("select 1"));
        other.socket.write_all(&[replayed.clone(), replayed].concat()).expect("send");
        other.expect_closed();
        let mut other = clients.pop().expect("a client");
        other.socket.write_all(&msg::query("select 1")).expect("send");
        other.expect_closed();
        let mut other = clients.pop().expect("a client");
        let mut changed = other.sealed(&msg::query("select 1"));
        *changed.last_mut().expect("a byte") ^= 1;
        other.socket.write_all(&changed).expect("send");
        other.expect_closed();
        bouncer.wait_log("cannot decrypt peer's message");
        bouncer.wait_log("InvalidContentType");
        for client in clients.iter_mut().chain([&mut last]) {
            client.send(&msg::query("select 'still ' || 'here'"));
            assert!(client.ready().contains("still here"));
        }
    }
}

/// OpenSSL, which changes its keys on demand.
#[test]
fn new_keys_come_before_and_after() {
    let mut bouncer = start_with_tls(|setup| setup);
    let mut child = Command::new("openssl")
        .args(["s_client", "-brief", "-starttls", "postgres", "-tls1_3", "-CAfile", &certificate("ca"), "-connect"])
        .arg(format!("127.0.0.1:{}", bouncer.port))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run openssl");
    let mut input = child.stdin.take().expect("stdin");
    let mut output = child.stdout.take().expect("stdout");
    let mut told = BufReader::new(child.stderr.take().expect("stderr")).lines();
    let mut until = |wanted: &str| while told.next().expect("openssl has ended").expect("a line") != wanted {};
    let mut answer = |wanted: &str| {
        let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
        while !text.ends_with(b"Z\0\0\0\x05I") {
            let n = output.read(&mut chunk).expect("an answer");
            assert!(n > 0, "{}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&chunk[..n]);
        }
        assert!(String::from_utf8_lossy(&text).contains(wanted), "{}", String::from_utf8_lossy(&text));
    };
    // It takes letters in front of what it reads for commands: K and k (new keys), Q (to end), but not P.
    let ask = |n: u32| msg::extended(&format!("select 'answer ' || {n}"), &[]);
    input.write_all(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")])).expect("write");
    answer("server_version");
    for n in 0..3 {
        for command in [b"k\n", b"K\n"] {
            input.write_all(command).expect("write");
            until("KEYUPDATE");
        }
        bouncer.reboot().wait_exit();
        input.write_all(&ask(n)).expect("write");
        answer(&format!("answer {n}"));
        input.write_all(b"K\n").expect("write");
        until("KEYUPDATE");
        input.write_all(&ask(n + 10)).expect("write");
        answer(&format!("answer {}", n + 10));
    }
    assert_eq!(shown(&bouncer).len(), 1);
    input.write_all(b"Q\n").expect("write");
    assert!(wait_ended(&mut child));
    wait_until("it has gone", PATIENCE, || shown(&bouncer).is_empty());
}

/// libpq's own TLS, which is OpenSSL's, with a client certificate.
#[test]
fn psql_notices_nothing() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let mut bouncer =
            start_with_tls(|setup| setup.set("client_tls_sslmode", "verify-full").set("auth_type", "cert"));
        let conninfo = format!(
            "host=localhost port={} user=app dbname=app sslmode=verify-full sslrootcert={} sslcert={} sslkey={} \
             ssl_min_protocol_version={version} ssl_max_protocol_version={version}",
            bouncer.port,
            certificate("ca"),
            certificate("app"),
            own_key("app"),
        );
        let mut child = Command::new(program("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", &conninfo])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run psql");
        let mut input = child.stdin.take().expect("stdin");
        let mut output = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut ask = |sql: &str| {
            writeln!(input, "{sql}").expect("write");
            output.next().expect("psql has ended").expect("a line")
        };
        assert_eq!(ask("select 'begin';"), "begin");
        for _ in 0..3 {
            bouncer.reboot().wait_exit();
            assert_eq!(ask("select 6 * 7;"), "42");
            assert_eq!(ask("begin; select 'in';"), "in");
            bouncer.reboot().wait_exit();
            assert_eq!(ask("select count(*) from generate_series(1, 100000); commit;"), "100000");
            assert_eq!(ask("copy (select repeat('z', 300000)) to stdout;").len(), 300_000);
        }
        drop(input);
        assert!(wait_ended(&mut child));
    }
}

#[test]
fn tokio_postgres_notices_nothing() {
    let mut bouncer = start_with_tls(|setup| setup.set("max_prepared_statements", 10));
    let tunnel = tunnel(&bouncer, false);
    Runtime::new().expect("a runtime").block_on(async {
        let config = format!("host=127.0.0.1 port={} user=app dbname=app", tunnel.port);
        let (mut client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("connect");
        tokio::spawn(connection);
        let statement = client.prepare("select $1::int8 + 1").await.expect("prepare");
        for n in 0..3_i64 {
            tokio::task::block_in_place(|| bouncer.reboot().wait_exit());
            assert_eq!(client.query_one(&statement, &[&n]).await.expect("select").get::<_, i64>(0), n + 1);
            let transaction = client.transaction().await.expect("begin");
            transaction.batch_execute("create temp table t (i int) on commit drop").await.expect("create");
            tokio::task::block_in_place(|| bouncer.reboot().wait_exit());
            transaction.batch_execute("insert into t values (1)").await.expect("insert");
            transaction.commit().await.expect("commit");
            let token = client.cancel_token();
            let (answer, ()) = tokio::join!(client.batch_execute("select pg_sleep(60)"), async {
                tokio::task::block_in_place(|| bouncer.wait_asleep(Postgres::shared(), 1));
                token.cancel_query(NoTls).await.expect("cancel");
            });
            assert_eq!(answer.expect_err("canceled").code().map(|code| code.code()), Some("57014"));
        }
    });
}

#[test]
fn tickets_of_the_old_process_are_worth_nothing_but_harm_nobody() {
    let mut bouncer = start_with_tls(|setup| setup);
    for is_tls12 in [false, true] {
        let tunnel = tunnel(&bouncer, is_tls12);
        for _ in 0..2 {
            assert_eq!(client(&tunnel, "app").one("select 1"), "1");
        }
        assert_eq!(tunnel.resumed(), 1);
        bouncer.reboot().wait_exit();
        assert_eq!(client(&tunnel, "app").one("select 2"), "2");
        assert_eq!(tunnel.resumed(), 1);
        assert_eq!(client(&tunnel, "app").one("select 3"), "3");
        assert_eq!(tunnel.resumed(), 2);
    }
}

#[test]
fn it_is_told_by_tls_that_its_database_is_gone() {
    for is_tls12 in [false, true] {
        let mut bouncer = start_with_tls(|setup| setup);
        let tunnel = tunnel(&bouncer, is_tls12);
        let mut gone = client(&tunnel, "app");
        bouncer.rewrite(|setup| setup.without_database("app").database("spare", "host=127.0.0.1"));
        bouncer.reboot().wait_exit();
        assert_eq!(gone.expect_fatal().message, "database removed");
    }
}

/// The new process has its keys, but never used them.
#[test]
fn the_old_process_takes_it_back_from_one_that_is_dead() {
    let mut bouncer = start_with_tls(|setup| setup);
    let tunnels = [tunnel(&bouncer, false), tunnel(&bouncer, true)];
    let mut clients: Vec<Wire> = tunnels.iter().map(|tunnel| client(tunnel, "app")).collect();
    let mut idle = client(&tunnels[0], "app");
    for client in &mut clients {
        client.send(&msg::query("select pg_sleep(1)"));
    }
    bouncer.wait_asleep(Postgres::shared(), 2);
    let mut former = bouncer.reboot();
    wait_until("one client has gone", PATIENCE, || bouncer.pool("app", "app", "cl_active") == 1);
    bouncer.signal("STOP");
    for client in &mut clients {
        client.answer_of_query().expect("the answer");
        // It is on its way, and nobody answers.
        client.send(&msg::query("select 'kept'"));
    }
    clients[0].expect_silence(Duration::from_millis(300));
    bouncer.signal("KILL");
    bouncer.wait_exit();
    idle.expect_closed();
    for client in &mut clients {
        client.set_timeout(PATIENCE);
        assert_eq!(client.answer_of_query().expect("the answer")[0][0].as_deref(), Some("kept"));
    }
    assert!(former.is_running());
    // And the next one gets it.
    let mut next = bouncer.spawn_successor(&bouncer.dir.join("pooler.ini"), "next");
    former.wait_exit();
    for client in &mut clients {
        assert_eq!(client.one("select 3"), "3");
    }
    next.kill().expect("kill");
    wait_ended(&mut next);
}

#[test]
fn clients_whose_server_has_tls_stay_for_a_time() {
    let pg = Postgres::with_tls("site");
    let mut bouncer = Bouncer::start(&pg, |setup| {
        with_tls(setup).set("server_tls_sslmode", "require").set("pool_mode", "session").set("takeover_timeout", 2)
    });
    let tunnel = tunnel(&bouncer, false);
    let mut linked = client(&tunnel, "app");
    assert_eq!(linked.one("select 0"), "0");
    let mut first = bouncer.reboot();
    assert_eq!(linked.one("select 1"), "1");
    // Others may take over meanwhile.
    bouncer.reboot().wait_exit();
    assert_eq!(linked.one("select 3"), "3");
    assert!(first.is_running());
    let error = linked.expect_fatal();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("57P01", "server shutting down"));
    first.wait_exit();
    assert!(first.log().contains("1 clients are left"), "{}", first.log());
}

#[test]
fn under_load_nobody_sees_an_error() {
    let mut bouncer = start_with_tls(|setup| setup.set("default_pool_size", 10));
    let tunnels = [tunnel(&bouncer, false), tunnel(&bouncer, true)];
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let spawn = |seed| {
            let port = tunnels[usize::from(seed % 4 < 2)].port;
            let (stop, count) = (&stop, &count);
            scope.spawn(move || super::work(port, seed, stop, count))
        };
        let workers: Vec<_> = (0..24).map(spawn).collect();
        for _ in 0..5 {
            let until = count.load(Ordering::Relaxed) + 24;
            let has_failed = || workers.iter().any(|worker| worker.is_finished());
            wait_until("work is done", PATIENCE, || count.load(Ordering::Relaxed) >= until || has_failed());
            bouncer.reboot().wait_exit();
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(workers.into_iter().filter_map(|worker| worker.join().err()).count(), 0);
    });
}
