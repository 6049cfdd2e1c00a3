//! The first packet: versions, encryption requests, parameters, and cancel requests.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::bouncer::assert_error;
use crate::support::*;

fn start() -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| setup)
}

fn login_with(bouncer: &Bouncer, more: &[(&str, &str)]) -> Result<Wire, PgError> {
    let mut client = Wire::tcp(bouncer.port);
    client.login("app", "app", "", more).map(|()| client)
}

const OF_APP: [(&str, &str); 2] = [("user", "app"), ("database", "app")];

#[test]
fn ssl_and_gss_requests_are_declined_and_plain_text_follows() {
    let bouncer = start();
    for requests in [
        &[msg::SSL_REQUEST][..],
        &[msg::GSSENC_REQUEST],
        &[msg::GSSENC_REQUEST, msg::SSL_REQUEST],
        &[msg::SSL_REQUEST, msg::GSSENC_REQUEST],
    ] {
        let mut client = Wire::tcp(bouncer.port);
        for request in requests {
            client.send(&msg::packet(*request, &[]));
            assert_eq!(client.read_byte(), Ok(b'N'));
        }
        client.login("app", "app", "", &[]).expect("log in");
        assert_eq!(client.one("select 1"), "1");
    }
}

#[test]
fn bytes_smuggled_behind_an_encryption_request_are_refused() {
    let bouncer = start();
    for (request, text) in [
        (msg::SSL_REQUEST, "received unencrypted data after SSL request"),
        (msg::GSSENC_REQUEST, "received unencrypted data after GSSAPI encryption request"),
    ] {
        let mut client = Wire::tcp(bouncer.port);
        client.send(&[msg::packet(request, &[]), msg::startup(msg::PROTOCOL_3_0, &OF_APP)].concat());
        assert_error(&client.expect_fatal(), text, "08P01");
    }
}

#[test]
fn minor_version_of_protocol_3_is_negotiated_down() {
    let bouncer = start();
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::startup(msg::PROTOCOL_3_0 + 9, &OF_APP));
    let offered = client.expect("v");
    assert!(offered[0].u32(0) < msg::PROTOCOL_3_0 + 9, "{}", offered[0]);
    assert_eq!(offered[0].u32(4), 0);
    client.authenticate("app", "").expect("log in");
    assert_eq!(client.one("select 1"), "1");
}

#[test]
fn unknown_protocol_options_are_listed() {
    let bouncer = start();
    let mut client = Wire::tcp(bouncer.port);
    let more = [("_pq_.first", "1"), ("_pq_.second", "2")];
    client.send(&msg::startup(msg::PROTOCOL_3_0, &[&OF_APP[..], &more].concat()));
    let offered = client.expect("v");
    assert_eq!(offered[0].u32(4), 2);
    assert_eq!(offered[0].strings(8), ["_pq_.first", "_pq_.second"]);
    client.authenticate("app", "").expect("log in");
    assert_eq!(client.one("select 1"), "1");
}

#[test]
fn protocol_3_2_is_understood() {
    let bouncer = start();
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::startup(msg::PROTOCOL_3_0 + 2, &OF_APP));
    let first = client.recv();
    // Either it is spoken, or the client is told what is.
    if first.tag == b'v' {
        assert_eq!((first.u32(0), first.u32(4)), (msg::PROTOCOL_3_0, 0));
    } else {
        assert_eq!((first.tag, first.u32(0)), (b'R', 0));
    }
    client.authenticate("app", "").expect("log in");
    assert_eq!(client.one("select 1"), "1");
    // Its cancel key works, however long.
    client.send(&msg::query("select pg_sleep(60)"));
    bouncer.wait_asleep(Postgres::shared(), 1);
    Wire::tcp(bouncer.port).send(&client.cancel_packet());
    assert_eq!(client.answer_of_query().expect_err("canceled").code, "57014");
}

#[test]
fn future_major_version_is_refused() {
    let bouncer = start();
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::startup(4 << 16, &OF_APP));
    assert!(!client.drain().contains('R'), "got in");
}

#[test]
fn unknown_startup_parameter_is_refused_by_name() {
    let bouncer = start();
    let error = login_with(&bouncer, &[("extra_float_digits", "2")]).err().expect("refused");
    assert_error(&error, "unsupported startup parameter: extra_float_digits", "08P01");
}

#[test]
fn startup_parameter_in_the_ignore_list_is_ignored() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.set("ignore_startup_parameters", "extra_float_digits, search_path")
    });
    let more = [("extra_float_digits", "3"), ("search_path", "nowhere")];
    let mut client = login_with(&bouncer, &more).expect("log in");
    assert_eq!(client.one("show search_path"), "\"$user\", public");
}

#[test]
fn unknown_parameter_in_options_is_refused_by_name() {
    let bouncer = start();
    for options in ["-c geqo=off", "--geqo=off", "-c datestyle=ISO -cgeqo=off"] {
        let error = login_with(&bouncer, &[("options", options)]).err().expect("refused");
        assert_error(&error, "unsupported startup parameter in options: geqo", "08P01");
    }
}

#[test]
fn options_that_are_no_settings_are_refused() {
    let bouncer = start();
    let text = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
    for options in ["-d 5", "-c geqo", "geqo=off", "-f"] {
        let error = login_with(&bouncer, &[("options", options)]).err().expect("refused");
        assert_error(&error, text, "08P01");
    }
}

#[test]
fn options_in_the_ignore_list_are_ignored() {
    for ignored in ["options", "geqo"] {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("ignore_startup_parameters", ignored));
        let options = "-c geqo=off -c timezone=UTC";
        let mut client = login_with(&bouncer, &[("options", options)]).expect("log in");
        assert_eq!(client.one("show geqo"), "on");
        assert_eq!(client.one("show timezone"), "UTC");
    }
}

#[test]
fn invalid_value_of_a_tracked_parameter_harms_nobody_else() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    if let Ok(mut client) = login_with(&bouncer, &[("timezone", "No/Where")]) {
        // PostgreSQL is the judge, at the first query.
        let error = client.fails("select 1");
        assert!(error.message.contains("TimeZone") || error.severity == "FATAL", "{error}");
    }
    assert_eq!(bouncer.client().one("select 'fine'"), "fine");
}

#[test]
fn cancel_stops_the_running_query_of_its_client_only() {
    let bouncer = start();
    let mut victim = bouncer.client();
    let mut bystander = bouncer.client();
    victim.send(&msg::query("select pg_sleep(60)"));
    bystander.send(&msg::query("select pg_sleep(1)"));
    bouncer.wait_asleep(Postgres::shared(), 2);
    let mut canceller = Wire::tcp(bouncer.port);
    canceller.send(&victim.cancel_packet());
    canceller.expect_closed();
    let error = victim.expect("TEZ")[1].error();
    assert_eq!(error.code, "57014");
    bystander.expect("TDCZ");
    assert_eq!(victim.one("select 'alive'"), "alive");
}

#[test]
fn cancel_of_a_query_in_a_pipeline_spares_the_next() {
    let bouncer = start();
    let mut client = bouncer.client();
    let sleep = msg::extended("select pg_sleep(60)", &[]);
    client.send(&[sleep, msg::extended("select 2", &[])].concat());
    bouncer.wait_asleep(Postgres::shared(), 1);
    Wire::tcp(bouncer.port).send(&client.cancel_packet());
    assert_eq!(client.expect("12EZ12DCZ")[2].error().code, "57014");
}

#[test]
fn cancel_of_an_idle_client_never_hits_the_server_s_next_user() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    let mut idle = bouncer.client();
    idle.run("select 1");
    let mut busy = bouncer.client();
    for _ in 0..20 {
        busy.send(&msg::query("select pg_sleep(0.02)"));
        let mut canceller = Wire::tcp(bouncer.port);
        canceller.send(&idle.cancel_packet());
        canceller.expect_closed();
        busy.expect("TDCZ");
    }
}

#[test]
fn cancel_that_races_with_the_end_of_its_query_hits_nobody() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
    let mut victim = bouncer.client();
    let mut next = bouncer.client();
    for round in 0..100 {
        victim.send(&msg::query("select pg_sleep(0.002)"));
        next.send(&msg::query("select pg_sleep(0.004)"));
        let mut canceller = Wire::tcp(bouncer.port);
        canceller.send(&victim.cancel_packet());
        if let Err(e) = victim.answer_of_query() {
            assert_eq!(e.code, "57014", "{e}");
        }
        if let Err(e) = next.answer_of_query() {
            panic!("round {round}: the other client's query got {e}");
        }
    }
}

#[test]
fn cancel_with_a_wrong_key_does_nothing() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.send(&msg::query("select pg_sleep(0.5)"));
    let mut key = client.key.clone();
    *key.last_mut().expect("a key") ^= 1;
    for key in [&key[..], &[], &[0; 7], &[0; 300]] {
        let mut canceller = Wire::tcp(bouncer.port);
        canceller.send(&msg::packet(msg::CANCEL_REQUEST, key));
        canceller.drain();
    }
    client.expect("TDCZ");
}

/// A connection that is closed over unread bytes is reset, and what it was told may be lost.
#[test]
fn a_refusal_is_not_followed_by_a_reset() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let early = [msg::packet(msg::SSL_REQUEST, &[]), vec![b'x'; 3000]].concat();
    for _ in 0..20 {
        let mut socket = TcpStream::connect(("127.0.0.1", bouncer.port)).expect("connect");
        socket.write_all(&early).expect("send");
        let mut told = Vec::new();
        socket.read_to_end(&mut told).expect("an end, and not a reset");
        assert!(String::from_utf8_lossy(&told).contains("received unencrypted data after SSL request"));
    }
}

mod beyond_pgbouncer {
    use super::*;

    /// PgBouncer takes it for "no".
    #[test]
    fn unknown_replication_value_is_refused() {
        let bouncer = start();
        let error = login_with(&bouncer, &[("replication", "perhaps")]).err().expect("refused");
        assert_eq!(error.severity, "FATAL", "{error}");
        assert!(error.message.contains("replication"), "{error}");
        for no in ["no", "off", "false", "0"] {
            assert_eq!(login_with(&bouncer, &[("replication", no)]).expect("log in").one("select 1"), "1");
        }
    }

    /// PgBouncer drops it.
    #[test]
    fn notice_at_the_server_s_login_reaches_the_client_that_waits_for_it() {
        let server = FakeServer::start(|_, mut peer| {
            if peer.read_startup() {
                peer.send(&msg::message(b'N', b"SWARNING\0VWARNING\0C01000\0Mcollations differ\0\0"));
                peer.welcome();
                peer.hold();
            }
        });
        let bouncer = Bouncer::start_before(server.port, |setup| setup);
        let client = bouncer.client();
        let notices: Vec<&str> = client.notices.iter().map(|notice| notice.message.as_str()).collect();
        assert_eq!(notices, ["collations differ"]);
    }

    /// PgBouncer drops the request as one "for an idle client".
    #[test]
    fn cancel_of_a_waiting_client_ends_its_wait() {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1));
        let mut holder = bouncer.client();
        holder.run("create table never (i int)");
        holder.run("begin");
        let mut waiter = bouncer.client();
        waiter.send(&msg::query("insert into never values (1)"));
        bouncer.wait_pool("cl_waiting", 1);
        Wire::tcp(bouncer.port).send(&waiter.cancel_packet());
        assert_eq!(waiter.expect("E")[0].error().code, "57014");
        holder.run("commit");
        assert_eq!(bouncer.client().one("select count(*) from never"), "0");
    }
}
