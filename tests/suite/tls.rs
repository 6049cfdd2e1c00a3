//! TLS: of clients, towards servers, and what is tried against it.

mod certificates;
mod direct;
mod refusals;
mod resumption;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};

use crate::hba::write;
use crate::support::bouncer::{Setup, assert_error};
use crate::support::tls::{Through, Tunnel, certificate, key, own_key};
use crate::support::*;

fn offered(setup: Setup, sslmode: &str) -> Setup {
    setup
        .set("client_tls_sslmode", sslmode)
        .set("client_tls_key_file", key("site"))
        .set("client_tls_cert_file", certificate("site"))
        .set("client_tls_ca_file", certificate("ca"))
}

fn start(sslmode: &str) -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| offered(setup, sslmode))
}

/// Before a server with TLS.
fn start_towards(pg: &Postgres, host: &str, sslmode: &str) -> Bouncer {
    Bouncer::start(pg, |setup| towards(setup.database("app", entry(pg, host)), sslmode))
}

fn entry(pg: &Postgres, host: &str) -> String {
    format!("host={host} port={} dbname=postgres", pg.port)
}

fn towards(setup: Setup, sslmode: &str) -> Setup {
    setup.set("server_tls_sslmode", sslmode).set("server_tls_ca_file", certificate("ca"))
}

/// libpq's own TLS, which is OpenSSL's.
fn psql(bouncer: &Bouncer, conninfo: &str, sql: &str) -> Output {
    Command::new(postgres::program("psql"))
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
        .arg(format!("host=localhost port={} user=app dbname=app connect_timeout=20 {conninfo}", bouncer.port))
        .output()
        .expect("run psql")
}

#[track_caller]
fn printed(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

#[track_caller]
fn complained(out: &Output) -> String {
    assert!(!out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn verified() -> String {
    format!("sslmode=verify-full sslrootcert={}", certificate("ca"))
}

#[test]
fn clients_get_tls_where_it_is_offered() {
    for sslmode in ["allow", "prefer", "require"] {
        let bouncer = start(sslmode);
        assert_eq!(printed(&psql(&bouncer, &verified(), "select 1")), "1");
        let plain = psql(&bouncer, "sslmode=disable", "select 1");
        match sslmode {
            "require" => assert!(complained(&plain).contains("FATAL:  SSL required")),
            _ => assert_eq!(printed(&plain), "1"),
        }
        let stranger = format!("sslmode=verify-full sslrootcert={}", certificate("stranger"));
        assert!(complained(&psql(&bouncer, &stranger, "select 1")).contains("certificate verify failed"));
        bouncer.wait_log("TLS handshake error");
        // There is none over a Unix socket, and none is asked for.
        let mut local = Wire::unix(bouncer.socket_path());
        local.login("app", "app", "", &[]).expect("log in without TLS");
    }
    let bouncer = start("disable");
    assert!(complained(&psql(&bouncer, "sslmode=require", "select 1")).contains("does not support SSL"));
}

#[test]
fn without_tls_where_it_must_be() {
    let bouncer = start("require");
    assert_error(&bouncer.refusal("app", "app", ""), "SSL required", "28000");
    let mut wire = Wire::tcp(bouncer.port);
    // It would carry no secret of ours, and libpq sends it so.
    wire.send(&msg::packet(msg::CANCEL_REQUEST, &[0, 0, 0, 1, 0, 0, 0, 2]));
    wire.expect_closed();
    bouncer.wait_log("failed cancel request");
}

#[test]
fn without_tls_when_it_has_to_be() {
    let mut bouncer = start("disable");
    let mut early = Wire::tcp(bouncer.port);
    // The pooler has seen it.
    early.send(&msg::packet(msg::SSL_REQUEST, &[]));
    assert_eq!(early.read_byte(), Ok(b'N'));
    bouncer.reload(|setup| offered(setup, "require"));
    let error = early.login("app", "app", "", &[]).expect_err("too late");
    assert_error(&error, "SSL required", "28000");
}

#[test]
fn log_and_console_name_version_and_cipher() {
    let bouncer = start("allow");
    let tunnel = Tunnel::start(bouncer.port, Through::default());
    let mut client = Wire::tcp(tunnel.port);
    client.login("app", "app", "", &[]).expect("log in");
    let tls = "TLSv1.3/TLS_AES_256_GCM_SHA384";
    bouncer.wait_log(&format!("login attempt: db=app user=app tls={tls} replication=no"));
    let shown = |bouncer: &Bouncer| {
        let clients = bouncer.show("CLIENTS");
        clients.iter().find(|row| row["user"] == "app").map(|row| row["tls"].clone())
    };
    assert_eq!(shown(&bouncer).as_deref(), Some(tls));
    drop(client);
    printed(&psql(&bouncer, "sslmode=require ssl_max_protocol_version=TLSv1.2", "select 1"));
    bouncer.wait_log("tls=TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH=");
}

#[test]
fn cancel_requests_come_through_tls_as_well() {
    let server = FakeServer::start(|_, mut peer| match peer.read_packet() {
        None => {}
        Some((msg::CANCEL_REQUEST, _)) => peer.hold(),
        Some(_) => {
            peer.welcome();
            peer.hold();
        }
    });
    let bouncer = Bouncer::start_before(server.port, |setup| offered(setup, "allow"));
    let mut client = bouncer.client();
    client.send(&msg::query("select 1"));
    bouncer.wait_pool("sv_active", 1);
    let tunnel = Tunnel::start(bouncer.port, Through::default());
    Wire::tcp(tunnel.port).send(&client.cancel_packet());
    wait_until("it is listed", PATIENCE, || {
        let clients = bouncer.show("CLIENTS");
        let cancel = clients.iter().find(|row| row["state"] == "active_cancel_req");
        cancel.is_some_and(|row| row["tls"] == "TLSv1.3/TLS_AES_256_GCM_SHA384")
    });
}

#[test]
fn versions_and_ciphers_are_those_of_the_settings() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        offered(setup, "allow")
            .set("client_tls_protocols", "tlsv1.3")
            .set("client_tls13_ciphers", "TLS_AES_128_GCM_SHA256")
    });
    printed(&psql(&bouncer, "sslmode=require", "select 1"));
    bouncer.wait_log("tls=TLSv1.3/TLS_AES_128_GCM_SHA256");
    complained(&psql(&bouncer, "sslmode=require ssl_max_protocol_version=TLSv1.2", "select 1"));
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        offered(setup, "allow").set("client_tls_protocols", "tlsv1.2").set("client_tls_ciphers", "HIGH:!AES:!aNULL")
    });
    printed(&psql(&bouncer, "sslmode=require", "select 1"));
    bouncer.wait_log("tls=TLSv1.2/ECDHE-ECDSA-CHACHA20-POLY1305/");
    complained(&psql(&bouncer, "sslmode=require ssl_min_protocol_version=TLSv1.3", "select 1"));
}

/// With this client certificate.
fn psql_with(bouncer: &Bouncer, name: &str) -> Output {
    let (certificate, key) = (certificate(name), own_key(name));
    psql(bouncer, &format!("{} sslcert={certificate} sslkey={key}", verified()), "select 1")
}

#[test]
fn client_certificates() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| offered(setup, "verify-full").set("auth_type", "cert"));
    let with = |name: &str| psql_with(&bouncer, name);
    assert_eq!(printed(&with("app")), "1");
    assert!(complained(&with("other")).contains("certificate authentication failed"));
    bouncer.wait_log("TLS certificate name mismatch");
    complained(&with("app-expired"));
    complained(&with("app-stranger"));
    complained(&psql(&bouncer, &format!("{} sslcert=/nowhere", verified()), "select 1"));
}

/// The console's own user stays able to get in.
fn ruled(setup: Setup, sslmode: &str, rules: &str) -> Setup {
    let file = write("hba", &format!("host pgbouncer admin all trust\n{rules}"));
    offered(setup, sslmode).set("auth_type", "hba").set("auth_hba_file", file)
}

#[test]
fn rules_ask_for_certificates() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        let ident = write("ident", "m other app\nm app third\n");
        ruled(setup, "verify-ca", "hostssl app app all cert map=m").set("auth_ident_file", ident)
    });
    assert_eq!(printed(&psql_with(&bouncer, "other")), "1");
    assert!(complained(&psql_with(&bouncer, "app")).contains("certificate authentication failed"));
    bouncer.wait_log("ident map: m does not have a match");
}

#[test]
fn rules_ask_for_tls() {
    let rules = "hostnossl all all all reject\nhostssl all all all trust";
    let bouncer = Bouncer::start(Postgres::shared(), |setup| ruled(setup, "allow", rules));
    assert_eq!(printed(&psql(&bouncer, "sslmode=require", "select 1")), "1");
    let error = bouncer.refusal("app", "app", "");
    assert_error(&error, "login rejected", "28000");
}

#[test]
fn what_is_no_handshake_is_refused() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| offered(setup, "allow").set("client_login_timeout", 2));
    let ask = || {
        let mut wire = Wire::tcp(bouncer.port);
        wire.send(&msg::packet(msg::SSL_REQUEST, &[]));
        assert_eq!(wire.read_byte(), Ok(b'S'));
        wire
    };
    let rest = |port: u16, bytes: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.write_all(bytes).expect("send");
        let mut answer = Vec::new();
        // It may be reset, as more was sent than is read.
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    let request = msg::packet(msg::SSL_REQUEST, &[]);
    // Garbage instead of it, and a startup packet in clear.
    let begun = b"\x16\x03\x01\x00\x05\x01\x00\x02\x00\x03\xff\xff\xff\xff\xff\xff\xff\xff";
    let clear = msg::startup(196_608, &[("user", "app")]);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], begun, &clear] {
        let mut wire = ask();
        wire.send(garbage);
        // An alert, if anything.
        while wire.read_byte().is_ok_and(|byte| byte != b'R') {}
    }
    // Bytes behind the request.
    let behind = [&request[..], &msg::startup(196_608, &[("user", "app"), ("database", "app")])].concat();
    let answer = rest(bouncer.port, &behind);
    assert!(String::from_utf8_lossy(&answer).contains("received unencrypted data after SSL request"));
    // Once more inside.
    let tunnel = Tunnel::start(bouncer.port, Through::default());
    let answer = rest(tunnel.port, &request);
    assert!(!matches!(answer.first(), Some(b'S' | b'N')), "{answer:?}");
    // One that is cut off, and one that never comes.
    let mut cut = ask();
    cut.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    drop(cut);
    let mut silent = ask();
    silent.send(b"\x16\x03\x01");
    silent.expect_closed();
    bouncer.wait_log("client_login_timeout");
    assert_eq!(bouncer.client().one("select 'well'"), "well");
    assert!(!bouncer.log().contains("panicked"));
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn direct_tls_needs_alpn() {
        let bouncer = start("require");
        let direct = |alpn| {
            let tunnel = Tunnel::start(bouncer.port, Through { is_direct: true, alpn, ..Through::default() });
            let mut wire = Wire::tcp(tunnel.port);
            wire.try_login("app", "app").then(|| wire.one("select 'direct'"))
        };
        assert_eq!(direct(Some("postgresql")).as_deref(), Some("direct"));
        assert_eq!(direct(None), None);
        bouncer.wait_log("direct SSL connection request without ALPN");
        assert_eq!(direct(Some("http/1.1")), None);
    }

    #[test]
    fn a_bad_pair_refuses_the_reload() {
        let mut bouncer = start("allow");
        let bad = [
            ("client_tls_key_file", key("app"), "is not the key of the certificate"),
            ("client_tls_cert_file", "/nowhere.crt".to_owned(), "No such file"),
            ("client_tls_key_file", certificate("site"), "no usable private key"),
            ("client_tls_ca_file", key("site"), "no usable certificate"),
            ("client_tls_protocols", "tlsv1.0,tlsv1.1".to_owned(), "TLS 1.2 and 1.3 are all"),
            ("client_tls_ciphers", "DHE-RSA-AES256-SHA".to_owned(), "no ciphers for"),
            ("client_tls_ecdhcurve", "secp521r1".to_owned(), "not available"),
        ];
        for (setting, value, why) in bad {
            bouncer.rewrite(|setup| offered(setup, "allow").set(setting, value).set("default_pool_size", 77));
            let error = bouncer.admin().fails("RELOAD");
            assert!(error.message.contains("RELOAD failed"), "{error}");
            bouncer.wait_log(why);
            bouncer.rewrite(|setup| {
                offered(setup, "allow")
                    .set("client_tls_protocols", "secure")
                    .set("client_tls_ciphers", "default")
                    .set("client_tls_ecdhcurve", "auto")
            });
        }
        let config = bouncer.show("CONFIG");
        assert!(config.iter().any(|row| row["key"] == "default_pool_size" && row["value"] == "20"));
        assert_eq!(printed(&psql(&bouncer, &verified(), "select 1")), "1");
    }

    /// With `prefer`, which is the default, nothing is verified; the key of a cancel request goes
    /// no other way than the query.
    #[test]
    fn cancel_requests_are_encrypted_though_nothing_else_must_be() {
        let pg = Postgres::with_tls("site");
        let bouncer = start_towards(&pg, "localhost", "prefer");
        let mut client = bouncer.client();
        client.send(&msg::query("select pg_sleep(60)"));
        let asleep = "select 1 from pg_stat_activity where usename = 'app' and wait_event = 'PgSleep'";
        wait_until("it sleeps", PATIENCE, || !pg.sql(asleep).is_empty());
        let switch = |to: &str| {
            pg.sql(&format!("alter system set ssl = {to}"));
            pg.sql("select pg_reload_conf()");
            wait_until("it is switched", PATIENCE, || pg.sql("show ssl")[0][0].as_deref() == Some(to));
        };
        switch("off");
        let cancel = |client: &Wire| Wire::tcp(bouncer.port).send(&client.cancel_packet());
        cancel(&client);
        bouncer.wait_log("failed to send cancel request: server refused SSL");
        switch("on");
        cancel(&client);
        assert_eq!(client.answer_of_query().unwrap_err().code, "57014");
    }

    #[test]
    fn cancel_requests_are_encrypted_like_their_connection() {
        let pg = Postgres::with_tls("site");
        // Without TLS nobody gets in any more, nor does a cancel request.
        let bouncer = start_towards(&pg, "localhost", "verify-full");
        let mut client = bouncer.client();
        client.send(&msg::query("select pg_sleep(60)"));
        let asleep = "select 1 from pg_stat_activity where usename = 'app' and wait_event = 'PgSleep'";
        wait_until("it sleeps", PATIENCE, || !pg.sql(asleep).is_empty());
        pg.set_tls("elsewhere");
        let cancel = |client: &Wire| Wire::tcp(bouncer.port).send(&client.cancel_packet());
        cancel(&client);
        // It is no longer who it was.
        bouncer.wait_log("failed to send cancel request: TLS handshake error: certificate verify failed");
        pg.set_tls("site");
        cancel(&client);
        assert_eq!(client.answer_of_query().unwrap_err().code, "57014");
    }
}

#[test]
fn a_new_certificate_is_for_new_connections() {
    let mut bouncer = start("allow");
    let tunnel = Tunnel::start(bouncer.port, Through::default());
    let mut before = Wire::tcp(tunnel.port);
    before.login("app", "app", "", &[]).expect("log in");
    bouncer.reload(|setup| {
        setup.set("client_tls_key_file", key("elsewhere")).set("client_tls_cert_file", certificate("elsewhere"))
    });
    assert!(complained(&psql(&bouncer, &verified(), "select 1")).contains("does not match host name"));
    assert_eq!(before.one("select 'still'"), "still");
    bouncer.reload(|setup| setup.set("client_tls_sslmode", "disable"));
    assert!(complained(&psql(&bouncer, &verified(), "select 1")).contains("does not support SSL"));
    assert_eq!(before.one("select 'still'"), "still");
}

const ROWS: usize = 10_000;

#[test]
fn much_data_through_tls_on_both_sides() {
    let pg = Postgres::with_tls("site");
    let bouncer = Bouncer::start(&pg, |setup| offered(towards(setup, "require"), "allow"));
    let tunnel = Tunnel::start(bouncer.port, Through::default());
    let mut client = Wire::tcp_narrow(tunnel.port);
    client.login("app", "app", "", &[]).expect("log in");
    client.send(&msg::query(&format!("select repeat('x', 10000) from generate_series(1, {ROWS})")));
    let held = format!(
        "select 1 from pg_stat_activity where datname = '{}' and wait_event = 'ClientWrite'",
        bouncer.server_database
    );
    wait_until("the server is held back", PATIENCE, || !pg.sql(&held).is_empty());
    assert_eq!(bouncer.client().one("select 'quick'"), "quick");
    client.expect("T");
    for _ in 0..ROWS {
        assert_eq!(client.recv().body.len(), 10_006);
    }
    client.expect("CZ");
    // And the other way.
    client.run("create table copied (t text)");
    client.send(&msg::query("copy copied from stdin"));
    client.expect("G");
    let lines = msg::copy_data(&format!("{}\n", "y".repeat(999)));
    let many = lines.repeat(1000);
    for _ in 0..20 {
        client.send(&many);
    }
    client.send(&msg::copy_done());
    client.expect("CZ");
    assert_eq!(client.one("select count(*) || '/' || sum(length(t)) from copied"), "20000/19980000");
    client.send(&msg::query("copy copied to stdout"));
    client.expect("H");
    for _ in 0..20_000 {
        assert_eq!(client.recv().body.len(), 1000);
    }
    client.expect("cCZ");
}

#[test]
fn ciphertext_in_pieces() {
    let bouncer = start("require");
    for piece in [1, 7] {
        let tunnel = Tunnel::start(bouncer.port, Through { piece, ..Through::default() });
        let mut client = Wire::tcp(tunnel.port);
        client.login("app", "app", "", &[]).expect("log in");
        let text = "z".repeat(3000);
        assert_eq!(client.one(&format!("select '{text}'")), text);
        client.send(&[msg::query("select 1"), msg::query("select 2"), msg::extended("select $1", &["3"])].concat());
        client.expect("TDCZTDCZ12DCZ");
    }
}

#[test]
fn short_records_behind_full_ones() {
    let bouncer = start("require");
    let tunnel = Tunnel::start(bouncer.port, Through::default());
    let mut client = Wire::tcp(tunnel.port);
    client.login("app", "app", "", &[]).expect("log in");
    // Answers of a full record and a short one each, which pile up unread.
    for _ in 0..200 {
        client.send(&msg::query("select repeat('z', 16500)"));
    }
    for _ in 0..200 {
        client.expect("TDCZ");
    }
}

fn server_tls(bouncer: &Bouncer) -> String {
    let servers = bouncer.show("SERVERS");
    servers.iter().find(|row| row["database"] == "app").expect("a server")["tls"].clone()
}

#[test]
fn servers_in_every_mode() {
    let plain = Postgres::dedicated();
    let pg = Postgres::with_tls("site");
    let is_tls = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    for sslmode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
        let bouncer = start_towards(&pg, "localhost", sslmode);
        let expected = if sslmode == "disable" { "f" } else { "t" };
        assert_eq!(bouncer.client().one(is_tls), expected, "{sslmode}");
        let tls = server_tls(&bouncer);
        assert_eq!(tls, if sslmode == "disable" { "" } else { "TLSv1.3/TLS_AES_256_GCM_SHA384" }, "{sslmode}");
        let bouncer = start_towards(&plain, "localhost", sslmode);
        if ["disable", "allow", "prefer"].contains(&sslmode) {
            assert_eq!(bouncer.client().one(is_tls), "f");
        } else {
            let mut client = Wire::tcp(bouncer.port);
            client.send(&msg::startup(196_608, &[("user", "app"), ("database", "app")]));
            bouncer.wait_log("server refused SSL");
        }
    }
}

#[test]
fn servers_are_who_they_should_be() {
    let pg = Postgres::with_tls("site");
    let logs_in = |bouncer: &Bouncer| bouncer.client().one("select 'in'") == "in";
    let is_refused = |bouncer: &Bouncer, why: &str| {
        let mut client = Wire::tcp(bouncer.port);
        client.send(&msg::startup(196_608, &[("user", "app"), ("database", "app")]));
        bouncer.wait_log("certificate verify failed");
        if !*bouncer::IS_PGBOUNCER {
            bouncer.wait_log(why);
        }
    };
    assert!(logs_in(&start_towards(&pg, "127.0.0.1", "verify-full")));
    let stranger = |setup: Setup| towards(setup, "verify-ca").set("server_tls_ca_file", certificate("stranger"));
    is_refused(&Bouncer::start(&pg, stranger), "UnknownIssuer");
    for (name, why) in [("old", ""), ("elsewhere", "NotValidForName"), ("expired", "Expired")] {
        pg.set_tls(name);
        assert!(logs_in(&start_towards(&pg, "localhost", "require")));
        let bouncer = start_towards(&pg, "localhost", "verify-full");
        match why {
            "" => assert!(logs_in(&bouncer)),
            why if *bouncer::IS_PGBOUNCER && name == "elsewhere" => {
                assert!(!why.is_empty());
                let mut client = Wire::tcp(bouncer.port);
                client.send(&msg::startup(196_608, &[("user", "app"), ("database", "app")]));
                bouncer.wait_log("not present in server certificate");
            }
            why => is_refused(&bouncer, why),
        }
    }
    // As its own authority.
    pg.set_tls("stranger");
    let itself = |setup: Setup| towards(setup, "verify-ca").set("server_tls_ca_file", certificate("stranger"));
    assert!(logs_in(&Bouncer::start(&pg, itself)));
}

#[test]
fn our_own_certificate() {
    let pg = Postgres::with_tls("site");
    let hba = std::fs::read_to_string(pg.dir.join("pg_hba.conf")).expect("read pg_hba.conf");
    std::fs::write(pg.dir.join("pg_hba.conf"), format!("hostssl all app 127.0.0.1/32 cert\n{hba}")).expect("write it");
    pg.sql("select pg_reload_conf()");
    let bouncer = Bouncer::start(&pg, |setup| {
        towards(setup, "verify-ca")
            .set("server_tls_key_file", key("app"))
            .set("server_tls_cert_file", certificate("app"))
    });
    assert_eq!(bouncer.client().one("select 'known'"), "known");
}

/// Tickets come behind the handshake; an idle server that has sent them has sent nothing.
#[test]
fn servers_are_kept_and_wander() {
    let pg = Postgres::with_tls("site");
    let bouncer = Bouncer::start(&pg, |setup| {
        let setup = towards(setup, "require").set("default_pool_size", 1).set("server_check_delay", 0);
        if *bouncer::IS_PGBOUNCER { setup } else { setup.set("workers", 2) }
    });
    let mut clients: Vec<Wire> = (0..4).map(|_| bouncer.client()).collect();
    let backend = clients[0].backend();
    for _ in 0..20 {
        for client in &mut clients {
            assert_eq!(client.backend(), backend);
        }
    }
    assert!(!bouncer.log().contains("dirty"));
    // What it says unasked makes it unfit all the same.
    clients[0].run("listen x");
    pg.direct(&bouncer.server_database).run("notify x");
    if !*bouncer::IS_PGBOUNCER {
        bouncer.wait_log("idle server got dirty");
        assert_ne!(clients[1].backend(), backend);
    }
}

#[test]
fn bytes_behind_a_server_s_yes_are_refused() {
    let server = FakeServer::start(|_, mut peer| {
        if peer.read_ssl_request() {
            peer.send(b"SR\0\0\0\x08\0\0\0\0");
            peer.read_tag();
        }
    });
    let bouncer = Bouncer::start_before(server.port, |setup| setup.set("server_tls_sslmode", "prefer"));
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::startup(196_608, &[("user", "app"), ("database", "app")]));
    bouncer.wait_log("received unencrypted data after SSL response");
}
