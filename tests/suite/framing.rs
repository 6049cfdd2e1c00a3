//! Messages cut at every byte, oversized, malformed, or no messages at all.

use crate::relay::FAILS_WHEN_EXECUTED;
use crate::support::bouncer::assert_error;
use crate::support::*;

fn start() -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| setup.set("default_pool_size", 1))
}

fn startup_of_app() -> Vec<u8> {
    let params = [("user", "app"), ("database", "app"), ("timezone", "UTC")];
    msg::startup(msg::PROTOCOL_3_0, &params)
}

fn assert_serves(bouncer: &Bouncer) {
    assert_eq!(bouncer.client().one("select 'fine'"), "fine");
}

#[test]
fn startup_packet_may_come_byte_by_byte() {
    let bouncer = start();
    let mut client = Wire::tcp(bouncer.port);
    for byte in startup_of_app() {
        client.send(&[byte]);
        client.wait_taken();
    }
    client.authenticate("app", "").expect("log in");
    assert_eq!(client.one("show timezone"), "UTC");
}

#[test]
fn startup_packet_may_be_cut_anywhere() {
    let bouncer = start();
    let whole = startup_of_app();
    for cut in 1..whole.len() {
        let mut client = Wire::tcp(bouncer.port);
        client.send(&whole[..cut]);
        client.wait_taken();
        client.send(&whole[cut..]);
        client.authenticate("app", "").unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
    }
}

/// A bit of everything, and what it is answered with.
fn pipeline() -> (Vec<u8>, &'static str) {
    let parts = [
        msg::query("select 1"),
        msg::unsynced("select $1", &["a value"]),
        msg::flush(),
        msg::extended(FAILS_WHEN_EXECUTED, &[]),
        msg::query("copy (select 1) to stdout"),
        msg::query("begin"),
        msg::extended("select 2", &[]),
        msg::query("commit"),
    ];
    (parts.concat(), "TDCZ12DC12EZHdcCZCZ12DCZCZ")
}

#[test]
fn pipeline_may_come_byte_by_byte() {
    let bouncer = start();
    let mut client = bouncer.client();
    let (bytes, answer) = pipeline();
    for byte in bytes {
        client.send(&[byte]);
        client.wait_taken();
    }
    client.expect(answer);
}

#[test]
fn pipeline_may_be_cut_anywhere() {
    let bouncer = start();
    let mut client = bouncer.client();
    let (bytes, answer) = pipeline();
    for cut in 1..bytes.len() {
        client.send(&bytes[..cut]);
        client.wait_taken();
        client.send(&bytes[cut..]);
        client.expect(answer);
    }
}

#[test]
fn startup_and_first_query_may_come_in_one_segment() {
    let bouncer = start();
    let mut client = Wire::tcp(bouncer.port);
    client.send(&[startup_of_app(), msg::query("select 'at once'")].concat());
    client.authenticate("app", "").expect("log in");
    assert_eq!(client.expect("TDCZ")[1].row(), [Some("at once".into())]);
}

#[test]
fn unknown_message_type_closes_with_an_error() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.send(&msg::message(b'!', b"what?"));
    assert_eq!(client.expect_fatal().code, "08P01");
    assert_serves(&bouncer);
}

#[test]
fn unknown_message_type_inside_a_transaction_rolls_it_back() {
    let bouncer = start();
    let mut client = bouncer.client();
    client.run("create table kept (i int)");
    client.run("begin");
    client.run("insert into kept values (1)");
    client.send(&msg::message(b'!', b"what?"));
    assert_eq!(client.expect_fatal().code, "08P01");
    assert_eq!(bouncer.client().one("select count(*) from kept"), "0");
}

#[test]
fn impossible_length_closes() {
    for length in [0_u32, 3, 0x8000_0000, 0xffff_ffff] {
        let bouncer = start();
        let mut client = bouncer.client();
        client.send(&[&b"Q"[..], &length.to_be_bytes(), b"select 1\0"].concat());
        assert_eq!(client.expect_fatal().code, "08P01", "length {length:#x}");
        assert_serves(&bouncer);
    }
}

#[test]
fn length_too_short_for_its_message_harms_nobody() {
    let bouncer = start();
    let mut client = bouncer.client();
    // A Parse and a Bind whose strings do not end: the server's to refuse, or the pooler's.
    for tag in [b'P', b'B', b'D', b'C', b'E'] {
        client.send(&[msg::message(tag, b""), msg::sync()].concat());
        match client.read() {
            Ok(message) if message.tag == b'E' && message.error().severity == "ERROR" => {
                client.expect("Z");
            }
            Ok(message) => {
                assert_eq!(message.error().code, "08P01");
                client.expect_closed();
                client = bouncer.client();
            }
            Err(gone) => panic!("no answer to an empty {}: {gone:?}", tag as char),
        }
        assert_serves(&bouncer);
    }
}

#[test]
fn max_packet_size_closes_on_a_larger_message_only() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("max_packet_size", 10_000));
    let mut client = bouncer.client();
    assert_eq!(client.one(&format!("select length('{}')", "x".repeat(9000))), "9000");
    // What the server sends is limited as well, message by message.
    client.run("select repeat('x', 5000) from generate_series(1, 10)");
    client.send(&msg::query(&format!("select length('{}')", "x".repeat(11_000))));
    assert_eq!(client.expect_fatal().code, "08P01");
    assert_serves(&bouncer);
}

#[test]
fn garbage_instead_of_a_startup_packet_is_turned_away() {
    let bouncer = start();
    let mut random = Random::seeded(7);
    for _ in 0..200 {
        let mut client = Wire::tcp(bouncer.port);
        let length = 8 + random.below(60) as usize;
        let garbage = random.bytes(length);
        // The pooler may close before it took everything.
        let _ = client.try_send(&garbage);
        let _ = client.try_shutdown_write();
        client.drain();
    }
    assert_serves(&bouncer);
}

#[test]
fn garbage_after_login_is_turned_away() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let mut random = Random::seeded(11);
    for _ in 0..200 {
        let mut client = bouncer.client();
        let length = 1 + random.below(60) as usize;
        let garbage = random.bytes(length);
        let _ = client.try_send(&garbage);
        let _ = client.try_shutdown_write();
        client.drain();
    }
    assert_serves(&bouncer);
}

#[test]
fn startup_packet_of_impossible_length_is_turned_away() {
    let bouncer = start();
    for length in [0_u32, 4, 7, 0x7fff_ffff, 0xffff_ffff] {
        let mut client = Wire::tcp(bouncer.port);
        client.send(&[&length.to_be_bytes()[..], &msg::PROTOCOL_3_0.to_be_bytes()].concat());
        match client.read() {
            Ok(message) => assert_eq!(message.error().severity, "FATAL", "length {length}"),
            Err(gone) => assert_eq!(gone, Gone::Closed, "length {length}"),
        }
    }
    assert_serves(&bouncer);
}

#[test]
fn malformed_startup_packets_are_explained() {
    let bouncer = start();
    let layout = "invalid startup packet layout: expected terminator as last byte";
    for (body, text) in [
        (&b"user\0app\0database\0app\0"[..], layout),
        (b"user\0app\0database\0app\0\0more", layout),
        (b"user\0app", layout),
        (b"database\0app\0\0", "no username supplied"),
        (b"user\0\0database\0app\0\0", "no username supplied"),
    ] {
        let mut client = Wire::tcp(bouncer.port);
        client.send(&msg::packet(msg::PROTOCOL_3_0, body));
        assert_error(&client.expect_fatal(), text, "08P01");
    }
    let mut client = Wire::tcp(bouncer.port);
    client.send(&msg::packet(2 << 16, &[0; 288]));
    assert_error(&client.expect_fatal(), "old V2 protocol not supported", "08P01");
}
