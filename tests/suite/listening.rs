//! Where the pooler can be reached.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;

use crate::support::bouncer::Setup;
use crate::support::*;

fn start(change: impl FnOnce(Setup) -> Setup) -> Bouncer {
    Bouncer::start(Postgres::shared(), change)
}

#[track_caller]
fn assert_serves(mut client: Wire) {
    client.login("app", "app", "", &[]).expect("log in");
    assert_eq!(client.one("select 'served'"), "served");
}

#[track_caller]
fn assert_serves_at(address: SocketAddr) {
    assert_serves(Wire::try_tcp_at(address).expect("connect"));
}

#[test]
fn several_addresses_are_listened_on() {
    let bouncer = start(|setup| setup.set("listen_addr", "127.0.0.1, 127.0.0.2"));
    assert_serves_at((Ipv4Addr::LOCALHOST, bouncer.port).into());
    assert_serves_at((Ipv4Addr::new(127, 0, 0, 2), bouncer.port).into());
    assert!(Wire::try_tcp_at((Ipv4Addr::new(127, 0, 0, 3), bouncer.port).into()).is_err());
}

#[test]
fn star_is_every_address_and_localhost_is_resolved() {
    let bouncer = start(|setup| setup.set("listen_addr", "*"));
    assert_serves_at((Ipv4Addr::new(127, 0, 0, 3), bouncer.port).into());
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        assert_serves_at((Ipv6Addr::LOCALHOST, bouncer.port).into());
    }
    let bouncer = start(|setup| setup.set("listen_addr", "localhost"));
    assert_serves_at((Ipv4Addr::LOCALHOST, bouncer.port).into());
}

#[test]
fn servers_are_found_by_name() {
    let pg = Postgres::shared();
    let bouncer = start(|setup| setup.database("named", format!("host=localhost port={} dbname=postgres", pg.port)));
    let mut client = bouncer.client_of("app", "named");
    assert_eq!(client.one("select host(inet_server_addr())"), "127.0.0.1");
}

#[test]
fn unix_socket_has_the_mode_of_the_setting_and_goes_with_the_process() {
    for (setting, mode) in [("0700", 0o700), ("0777", 0o777)] {
        let mut bouncer = start(|setup| setup.set("unix_socket_mode", setting));
        let path = bouncer.socket_path();
        let found = fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(found & 0o777, mode);
        assert_serves(Wire::unix(&path));
        bouncer.signal("QUIT");
        bouncer.wait_exit();
        assert!(!path.exists(), "the socket is left behind");
    }
}

#[test]
fn unix_socket_may_be_abstract() {
    let name = format!("@pgweir-test-{}", std::process::id());
    let bouncer = start(|setup| setup.set("unix_socket_dir", &name));
    assert_serves(Wire::unix(format!("\0{}/.s.PGSQL.{}", &name[1..], bouncer.port)));
}

#[test]
fn unix_socket_may_be_left_out() {
    let bouncer = start(|setup| setup.set("unix_socket_dir", ""));
    assert!(!bouncer.socket_path().exists());
    assert_serves_at((Ipv4Addr::LOCALHOST, bouncer.port).into());
}

#[test]
fn two_processes_share_a_port_with_so_reuseport() {
    let first = start(|setup| setup.set("so_reuseport", 1));
    let second = start(|setup| setup.set("so_reuseport", 1).set("listen_port", first.port));
    // The kernel deals connections out at random, so both soon have some.
    wait_until("both serve clients", PATIENCE, || {
        assert_serves_at((Ipv4Addr::LOCALHOST, first.port).into());
        [&first, &second].iter().all(|bouncer| bouncer.log().contains("user=app"))
    });
}

#[test]
fn second_process_on_a_port_taken_does_not_start() {
    let first = start(|setup| setup);
    let mut second = Bouncer::spawn(&first.dir.join("pooler.ini"), "second.log");
    let mut status = None;
    wait_until("it gives up", PATIENCE, || {
        status = second.try_wait().expect("wait");
        status.is_some()
    });
    assert!(!status.expect("a status").success());
    assert_eq!(first.client().one("select 'still here'"), "still here");
}

#[test]
fn many_connections_at_once_are_all_accepted() {
    let bouncer = start(|setup| setup.set("listen_backlog", 512).set("max_client_conn", 500));
    let mut clients: Vec<Wire> = (0..400).map(|_| Wire::tcp(bouncer.port)).collect();
    for client in &mut clients {
        client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    }
    for client in &mut clients {
        client.authenticate("app", "").expect("log in");
    }
}
