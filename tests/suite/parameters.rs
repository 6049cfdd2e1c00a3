//! Session parameters that follow their client from server to server.

use crate::support::*;

/// Two servers, and a way to make a client meet each of them.
struct Pair {
    bouncer: Bouncer,
}

impl Pair {
    fn start() -> Pair {
        let setup = |setup: bouncer::Setup| setup.set("default_pool_size", 2);
        Pair { bouncer: Bouncer::start(Postgres::shared(), setup) }
    }

    /// What `setting` is for `client` on one server and on the other.
    fn on_both(&self, client: &mut Wire, setting: &str) -> [String; 2] {
        let sql = format!("select current_setting('{setting}') || ' ' || pg_backend_pid()");
        let first = client.one(&sql);
        let (value, pid) = first.rsplit_once(' ').expect("value and pid");
        // Others hold all servers but the other one.
        let mut blocker = self.bouncer.client();
        blocker.run("begin");
        let mut second = self.bouncer.client();
        if blocker.backend().to_string() != pid {
            second.run("begin");
            blocker.run("commit");
        }
        let again = client.one(&sql);
        let (other_value, other_pid) = again.rsplit_once(' ').expect("value and pid");
        assert_ne!(pid, other_pid);
        [value.to_owned(), other_value.to_owned()]
    }
}

#[test]
fn every_reported_parameter_follows_its_client() {
    let pair = Pair::start();
    for (name, value) in [
        ("client_encoding", "LATIN1"),
        ("DateStyle", "German, DMY"),
        ("TimeZone", "Asia/Kathmandu"),
        ("standard_conforming_strings", "off"),
        ("application_name", "wanderer"),
        ("IntervalStyle", "iso_8601"),
    ] {
        let mut client = pair.bouncer.client();
        client.send(&msg::query(&format!("set {name} to '{value}'")));
        let got = client.expect("CSZ");
        assert_eq!(got[1].strings(0), [name, value]);
        assert_eq!(pair.on_both(&mut client, name), [value, value], "{name}");
        // The next client has its own, not this one's.
        let mut next = pair.bouncer.client();
        let own = next.params[name].clone();
        assert_ne!(own, value, "{name}");
        assert_eq!(pair.on_both(&mut next, name), [own.clone(), own], "{name}");
    }
}

#[test]
fn parameter_of_the_startup_packet_holds_on_every_server() {
    let pair = Pair::start();
    for (name, value) in [
        ("client_encoding", "LATIN1"),
        ("datestyle", "SQL, DMY"),
        ("timezone", "Asia/Tokyo"),
        ("application_name", "from the packet"),
        ("intervalstyle", "postgres_verbose"),
    ] {
        let mut client = Wire::tcp(pair.bouncer.port);
        client.login("app", "app", "", &[(name, value)]).expect("log in");
        assert_eq!(pair.on_both(&mut client, name), [value, value], "{name}");
    }
}

#[test]
fn parameter_in_options_holds_on_every_server() {
    let pair = Pair::start();
    let mut client = Wire::tcp(pair.bouncer.port);
    let options = "-c DateStyle=SQL,\\ DMY --timezone=Asia/Tokyo -capplication_name=opt";
    client.login("app", "app", "", &[("options", options)]).expect("log in");
    assert_eq!(pair.on_both(&mut client, "datestyle"), ["SQL, DMY"; 2]);
    assert_eq!(pair.on_both(&mut client, "timezone"), ["Asia/Tokyo"; 2]);
    assert_eq!(pair.on_both(&mut client, "application_name"), ["opt"; 2]);
}

#[test]
fn change_in_a_pipeline_is_noticed() {
    let pair = Pair::start();
    let mut client = pair.bouncer.client();
    client.send(&[msg::extended("set timezone to 'UTC'", &[]), msg::sync()].concat());
    client.expect("12CSZZ");
    assert_eq!(pair.on_both(&mut client, "timezone"), ["UTC"; 2]);
}

#[test]
fn rolled_back_change_does_not_follow() {
    let pair = Pair::start();
    let mut client = pair.bouncer.client();
    let before = client.params["TimeZone"].clone();
    client.run("begin; set timezone to 'UTC'; rollback");
    assert_eq!(pair.on_both(&mut client, "timezone"), [before.clone(), before]);
}

#[test]
fn local_change_ends_with_its_transaction() {
    let pair = Pair::start();
    let mut client = pair.bouncer.client();
    let before = client.params["TimeZone"].clone();
    client.run("begin");
    client.run("set local timezone to 'UTC'");
    assert_eq!(client.one("show timezone"), "UTC");
    client.run("commit");
    assert_eq!(client.params["TimeZone"], before);
    assert_eq!(pair.on_both(&mut client, "timezone"), [before.clone(), before]);
}

#[test]
fn value_with_quotes_and_backslashes_survives() {
    let pair = Pair::start();
    let mut client = pair.bouncer.client();
    client.run(r#"set application_name to 'it''s a \ "x"'"#);
    let value = r#"it's a \ "x""#;
    assert_eq!(client.params["application_name"], value);
    assert_eq!(pair.on_both(&mut client, "application_name"), [value, value]);
}

#[test]
fn extra_parameters_are_tracked_when_asked_for() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| {
        setup.set("default_pool_size", 2).set("track_extra_parameters", "IntervalStyle, default_transaction_read_only")
    });
    let pair = Pair { bouncer };
    let mut client = pair.bouncer.client();
    client.run("set default_transaction_read_only to on");
    assert_eq!(pair.on_both(&mut client, "default_transaction_read_only"), ["on"; 2]);
    let mut next = pair.bouncer.client();
    assert_eq!(pair.on_both(&mut next, "default_transaction_read_only"), ["off"; 2]);
}

#[test]
fn application_name_gets_the_clients_address_when_asked_for() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("application_name_add_host", 1));
    let mut client = Wire::tcp(bouncer.port);
    client.login("app", "app", "", &[("application_name", "shop")]).expect("log in");
    let name = client.one("show application_name");
    assert!(name.starts_with("shop - 127.0.0.1:"), "{name}");
    let mut client = Wire::unix(bouncer.socket_path());
    client.login("app", "app", "", &[]).expect("log in");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
    let expected = format!("app - unix({}@{}):{}", std::process::id(), host.trim(), bouncer.port);
    assert_eq!(client.one("show application_name"), expected);
}

/// Seen in PgBouncer, and not to be repeated.
mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn client_encoding_is_reported_as_the_server_spells_it() {
        let pair = Pair::start();
        for _ in 0..2 {
            let mut client = Wire::tcp(pair.bouncer.port);
            client.login("app", "app", "", &[("client_encoding", "utf-8")]).expect("log in");
            assert_eq!(client.params["client_encoding"], "UTF8");
        }
    }

    #[test]
    fn reset_goes_back_to_the_startup_packet_s_value() {
        let pair = Pair::start();
        let mut client = Wire::tcp(pair.bouncer.port);
        client.login("app", "app", "", &[("timezone", "Asia/Tokyo")]).expect("log in");
        client.run("set timezone to 'UTC'");
        assert_eq!(pair.on_both(&mut client, "timezone"), ["UTC"; 2]);
        client.run("reset timezone");
        assert_eq!(client.params["TimeZone"], "Asia/Tokyo");
        assert_eq!(pair.on_both(&mut client, "timezone"), ["Asia/Tokyo"; 2]);
    }
}
