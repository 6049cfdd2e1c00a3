//! Cancel requests that come to another process than their client: `[peers]`, `peer_id`.
//!
//! With `PGWEIR_TEST_PEER=/path/to/pgbouncer` some of the processes are PgBouncer.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::support::process::free_port;
use crate::support::{Bouncer, PATIENCE, Postgres, Random, Wire, msg, wait_until};

/// Where a process is told that another one is.
type Place = fn(&Bouncer) -> String;

fn tcp(bouncer: &Bouncer) -> String {
    format!("host=127.0.0.1 port={}", bouncer.port)
}

fn unix(bouncer: &Bouncer) -> String {
    format!("host={} port={}", bouncer.dir.display(), bouncer.port)
}

/// Three processes that are peers of each other, the second run by the peers' program.
fn group(place: Place) -> Vec<Bouncer> {
    let start = |id: u32| {
        Bouncer::start(Postgres::shared(), |setup| {
            let setup = setup.set("peer_id", id);
            if id == 2 { setup.by_peer_program() } else { setup }
        })
    };
    let mut group: Vec<Bouncer> = (1..=3).map(start).collect();
    introduce(&mut group, place);
    group
}

/// Tells each of `group` where all are: itself too, which changes nothing.
fn introduce(group: &mut [Bouncer], place: Place) {
    let places: Vec<String> = group.iter().map(place).collect();
    for bouncer in group {
        bouncer.reload(|setup| (1..).zip(&places).fold(setup, |setup, (id, place)| setup.peer(id, place.as_str())));
    }
}

/// A client at a long query.
fn sleeper(bouncer: &Bouncer) -> Wire {
    let mut client = bouncer.client();
    client.send(&msg::query("select pg_sleep(60)"));
    bouncer.wait_asleep(Postgres::shared(), 1);
    client
}

#[track_caller]
fn assert_canceled(client: &mut Wire) {
    let error = client.answer_of_query().expect_err("canceled");
    assert_eq!((error.code.as_str(), error.message.contains("user request")), ("57014", true), "{error}");
}

/// Sends a cancel request and waits until it is over.
fn ask(mut wire: Wire, request: &[u8]) {
    wire.send(request);
    wire.expect_closed();
}

fn ways(bouncer: &Bouncer) -> [Wire; 2] {
    [Wire::tcp(bouncer.port), Wire::unix(bouncer.socket_path())]
}

fn cancels_in_all_directions(place: Place) {
    let group = group(place);
    for (at, bouncer) in group.iter().enumerate() {
        for other in group.iter() {
            for way in ways(other) {
                let mut bystanders: Vec<Wire> =
                    group.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, b)| sleeper(b)).collect();
                let mut client = sleeper(bouncer);
                ask(way, &client.cancel_packet());
                assert_canceled(&mut client);
                assert_eq!(client.one("select 'on'"), "on");
                for bystander in &mut bystanders {
                    ask(Wire::tcp(bouncer.port), &bystander.cancel_packet());
                    assert_canceled(bystander);
                }
            }
        }
    }
}

#[test]
fn cancel_finds_its_client_through_peers_over_tcp() {
    cancels_in_all_directions(tcp);
}

#[test]
fn cancel_finds_its_client_through_peers_over_unix_sockets() {
    cancels_in_all_directions(unix);
}

#[test]
fn so_reuseport_and_peers_make_one_pooler_of_several_processes() {
    let port = free_port();
    let start = |id: u32| {
        Bouncer::start(Postgres::shared(), |setup| {
            let setup = setup.set("peer_id", id).set("listen_port", port).set("so_reuseport", 1);
            if id == 2 { setup.by_peer_program() } else { setup }
        })
    };
    let mut group: Vec<Bouncer> = (1..=3).map(start).collect();
    // The reload must go to each, and over TCP would go to any.
    let places: Vec<String> = group.iter().map(unix).collect();
    for bouncer in &mut group {
        bouncer.rewrite(|setup| (1..).zip(&places).fold(setup, |setup, (id, place)| setup.peer(id, place.as_str())));
        console(bouncer).run("RELOAD");
    }
    let login = || {
        let mut client = Wire::tcp(port);
        client.login("app", "app", "", &[]).expect("log in");
        client
    };
    let mut clients: Vec<Wire> = (0..24).map(|_| login()).collect();
    for client in &mut clients {
        client.send(&msg::query("select pg_sleep(60)"));
    }
    let pg = Postgres::shared();
    let asleep = |bouncer: &Bouncer| {
        let database = &bouncer.server_database;
        let sql = format!("select 1 from pg_stat_activity where datname = '{database}' and wait_event = 'PgSleep'");
        pg.sql(&sql).len()
    };
    wait_until("24 asleep", PATIENCE, || group.iter().map(asleep).sum::<usize>() == 24);
    assert!(group.iter().filter(|bouncer| asleep(bouncer) > 0).count() > 1, "one process got all");
    // Half of them, each three times: the kernel sends a request to any of the processes.
    let spared = clients.split_off(12);
    for client in &clients {
        (0..3).for_each(|_| ask(Wire::tcp(port), &client.cancel_packet()));
    }
    clients.iter_mut().for_each(assert_canceled);
    assert_eq!(group.iter().map(asleep).sum::<usize>(), 12);
    let mut spared = spared;
    spared.iter().for_each(|client| ask(Wire::tcp(port), &client.cancel_packet()));
    spared.iter_mut().for_each(assert_canceled);
}

/// As PgBouncer's documentation has it: each process is told to wait for its clients, and another takes its place
/// on the same port, with the same `peer_id`.
#[test]
fn a_rolling_restart_turns_nobody_away() {
    let port = free_port();
    let start = |id: u32| {
        Bouncer::start(Postgres::shared(), |setup| {
            setup.set("peer_id", id).set("listen_port", port).set("so_reuseport", 1)
        })
    };
    let mut group: Vec<Bouncer> = (1..=2).map(start).collect();
    let login = || {
        let mut client = Wire::tcp(port);
        client.login("app", "app", "", &[]).expect("log in");
        client
    };
    let mut clients: Vec<Wire> = (0..16).map(|_| login()).collect();
    for id in 1..=2 {
        // It stands in the cancel keys.
        let is_of = |client: &Wire| u32::from(client.key[1]) == id;
        let mut old = group.remove(0);
        console(&old).run("SHUTDOWN WAIT_FOR_CLIENTS");
        let (mut staying, others): (Vec<Wire>, Vec<Wire>) = clients.into_iter().partition(is_of);
        assert!(!staying.is_empty(), "the other process got all");
        clients = others;
        // It answers first, and lets go of its port then.
        wait_until("it accepts no more", PATIENCE, || {
            let is_elsewhere = |mut probe: Wire| {
                probe.try_login("app", "app") && probe.one("select current_database()") != old.server_database
            };
            (0..8).all(|_| Wire::try_tcp(port).is_ok_and(is_elsewhere))
        });
        clients.extend((0..8).map(|_| login()));
        assert!(!clients.iter().any(is_of), "it still accepts");
        group.push(start(id));
        clients.extend((0..16).map(|_| login()));
        for client in clients.iter_mut().chain(&mut staying) {
            assert_eq!(client.one("select 1"), "1");
        }
        assert!(old.is_running());
        drop(staying);
        assert!(old.wait_exit().success());
    }
}

/// Of one of several processes on the same port.
fn console(bouncer: &Bouncer) -> Wire {
    // Its port was answered on before it was there.
    wait_until("the socket is there", PATIENCE, || bouncer.socket_path().exists());
    let mut wire = Wire::unix(bouncer.socket_path());
    wire.login("admin", "pgbouncer", "", &[]).expect("log in to the console");
    wire
}

#[test]
fn cancel_still_arrives_while_its_process_waits_for_its_clients_to_go() {
    let mut group = group(unix);
    let mut client = sleeper(&group[0]);
    group[0].admin().run("SHUTDOWN WAIT_FOR_CLIENTS");
    wait_until("the port is closed", PATIENCE, || Wire::try_tcp(group[0].port).is_err());
    ask(Wire::tcp(group[1].port), &client.cancel_packet());
    assert_canceled(&mut client);
    drop(client);
    assert!(group[0].wait_exit().success());
}

/// The processes tell each other that the one they look for is the next of them.
#[test]
fn request_that_goes_round_stops_after_three_hops() {
    let mut group = group(tcp);
    let places: Vec<String> = group.iter().map(tcp).collect();
    for (at, bouncer) in group.iter_mut().enumerate() {
        bouncer.reload(|setup| setup.peer(9, places[(at + 1) % 3].as_str()));
    }
    let exhausted = "failed to forward cancel request because its TTL was exhausted";
    for first in 0..3 {
        // A key as the process 9 would give it out: the lowest two bits of the last byte count.
        ask(Wire::tcp(group[first].port), &msg::packet(msg::CANCEL_REQUEST, &[1, 9, 0, 1, 1, 1, 1, 0xff]));
        // Three hops lead back to where it came from.
        group[first].wait_log(exhausted);
        let logs: usize = group.iter().map(|bouncer| bouncer.log().matches(exhausted).count()).sum();
        assert_eq!(logs, first + 1);
    }
    ask(Wire::tcp(group[0].port), &msg::packet(msg::CANCEL_REQUEST, &[1, 9, 0, 1, 1, 1, 1, 0]));
    wait_until("stopped at once", PATIENCE, || group[0].log().matches(exhausted).count() == 2);
}

#[test]
fn wrong_keys_harm_nobody() {
    let group = group(tcp);
    let mut client = sleeper(&group[0]);
    let right = client.key.clone();
    for bit in 0..64 {
        let mut wrong = right.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        // How often it may be passed on is no part of the secret.
        if bit / 8 < 7 || bit % 8 > 1 {
            ask(Wire::tcp(group[bit % 3].port), &msg::packet(msg::CANCEL_REQUEST, &wrong));
        }
    }
    group[0].wait_log("closing because: failed cancel request");
    group[0].wait_log("closing because: could not find peer to forward request to");
    // At home it does not matter how often it was passed on.
    let mut used = right;
    used[7] &= !3;
    ask(Wire::tcp(group[0].port), &msg::packet(msg::CANCEL_REQUEST, &used));
    assert_canceled(&mut client);
}

#[test]
fn keys_say_whose_they_are_and_are_random_else() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("peer_id", 0x1234));
    let keys: Vec<Vec<u8>> = (0..40).map(|_| bouncer.client().key).collect();
    let (mut ones, mut zeros) = ([0; 8], [0; 8]);
    for key in &keys {
        assert_eq!((key.len(), key[1], key[2], key[0] >> 7, key[7] & 3), (8, 0x34, 0x12, 0, 3), "{key:?}");
        for at in 0..8 {
            ones[at] |= key[at];
            zeros[at] |= !key[at];
        }
    }
    // Each of the other 45 bits takes both values.
    let both: u32 = ones.iter().zip(zeros).map(|(one, zero)| (one & zero).count_ones()).sum();
    assert_eq!(both, 45);
}

#[test]
fn console_shows_peers() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        let setup = setup.set("peer_id", 1).set("default_pool_size", 7);
        setup.peer(1, "host=/tmp/one").peer(2, "host=two.example port=7000 pool_size=3")
    });
    let column = |name: &str| -> Vec<String> { bouncer.show("PEERS").iter().map(|row| row[name].clone()).collect() };
    assert_eq!(column("peer_id"), ["1", "2"]);
    assert_eq!(column("host"), ["/tmp/one", "two.example"]);
    assert_eq!(column("port"), ["6432", "7000"]);
    assert_eq!(column("pool_size"), ["7", "3"]);
    let mut admin = bouncer.admin();
    admin.send(&msg::query("SHOW PEER_POOLS"));
    let columns: Vec<String> = admin.expect("T")[0].columns().into_iter().map(|(name, _)| name).collect();
    let expected = ["peer_id", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel", "sv_login"];
    assert_eq!(columns, expected);
    let lists = bouncer.show("LISTS");
    assert!(lists.iter().any(|row| row["list"] == "peers" && row["items"] == "2"));
}

/// A peer that takes requests and keeps them.
struct SlowPeer {
    listener: TcpListener,
    entry: String,
}

impl SlowPeer {
    fn start(pool_size: u32) -> SlowPeer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        listener.set_nonblocking(true).expect("do not block");
        let port = listener.local_addr().expect("an address").port();
        SlowPeer { listener, entry: format!("host=127.0.0.1 port={port} pool_size={pool_size}") }
    }

    /// The next request, whole, and its connection.
    fn take(&self) -> (TcpStream, Vec<u8>) {
        let mut accepted = None;
        wait_until("a request comes", PATIENCE, || {
            accepted = self.listener.accept().ok();
            accepted.is_some()
        });
        let (mut stream, _) = accepted.expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set the read timeout");
        let mut request = vec![0; 16];
        stream.read_exact(&mut request).expect("read a request");
        (stream, request)
    }
}

fn peer_pool(bouncer: &Bouncer, column: &str) -> u64 {
    bouncer.show("PEER_POOLS").iter().find(|row| row["peer_id"] == "5").map_or(0, |row| row[column].parse().unwrap())
}

fn send_requests(bouncer: &Bouncer, count: u8) -> Vec<Wire> {
    let request = |n| msg::packet(msg::CANCEL_REQUEST, &[1, 5, 0, n, 1, 1, 1, 3]);
    let send = |n| {
        let mut wire = Wire::tcp(bouncer.port);
        wire.send(&request(n));
        wire
    };
    (0..count).map(send).collect()
}

#[test]
fn cancel_wait_timeout_ends_the_wait_for_a_peer() {
    let peer = SlowPeer::start(1);
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.set("peer_id", 1).set("cancel_wait_timeout", 1).peer(5, peer.entry.as_str())
    });
    let mut first = send_requests(&bouncer, 1).remove(0);
    let taken = peer.take();
    let mut second = send_requests(&bouncer, 1).remove(0);
    second.expect_closed();
    bouncer.wait_log("closing because: cancel_wait_timeout");
    // The first did not wait any more when its time was over.
    assert_eq!(peer_pool(&bouncer, "cl_active_cancel_req"), 1);
    drop(taken);
    first.expect_closed();
}

#[test]
fn requests_that_wait_for_a_peer_go_with_it() {
    let peer = SlowPeer::start(1);
    let mut bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.set("peer_id", 1).set("cancel_wait_timeout", 0).peer(5, peer.entry.as_str())
    });
    let _first = send_requests(&bouncer, 1);
    let _taken = peer.take();
    let mut second = send_requests(&bouncer, 1).remove(0);
    wait_until("it waits", PATIENCE, || peer_pool(&bouncer, "cl_waiting_cancel_req") == 1);
    bouncer.reload(|setup| setup.without_peer(5));
    second.expect_closed();
    assert_eq!(bouncer.show("PEERS").len(), 0);
    let mut third = send_requests(&bouncer, 1).remove(0);
    third.expect_closed();
    bouncer.wait_log("could not find peer to forward request to");
}

#[test]
fn peer_id_and_peers_are_reloaded() {
    let mut group: Vec<Bouncer> = (1..=2).map(|_| Bouncer::start(Postgres::shared(), |setup| setup)).collect();
    for (id, bouncer) in (1..).zip(&mut group) {
        bouncer.reload(|setup| setup.set("peer_id", id));
    }
    introduce(&mut group, tcp);
    let mut client = sleeper(&group[0]);
    ask(Wire::tcp(group[1].port), &client.cancel_packet());
    assert_canceled(&mut client);
    group[1].admin().run("SET peer_id = 0");
    // Now it is nobody's peer, and the key one that it does not know.
    let mut client = sleeper(&group[0]);
    ask(Wire::tcp(group[1].port), &client.cancel_packet());
    group[1].wait_log("closing because: failed cancel request");
    assert_eq!(group[1].show("CONFIG").iter().find(|row| row["key"] == "peer_id").unwrap()["value"], "0");
    ask(Wire::tcp(group[0].port), &client.cancel_packet());
    assert_canceled(&mut client);
}

mod beyond_pgbouncer {
    use super::*;

    const OF_APP: [(&str, &str); 2] = [("user", "app"), ("database", "app")];

    fn start(id: u32) -> Bouncer {
        Bouncer::start(Postgres::shared(), |setup| setup.set("peer_id", id))
    }

    /// PgBouncer does not speak protocol 3.2.
    #[test]
    fn long_keys_find_their_client_through_peers_and_count_whole() {
        let mut group: Vec<Bouncer> = (1..=2).map(start).collect();
        introduce(&mut group, unix);
        let mut client = Wire::tcp(group[0].port);
        client.send(&msg::startup(msg::PROTOCOL_3_0 + 2, &OF_APP));
        client.authenticate("app", "").expect("log in");
        assert_eq!((client.key.len(), client.key[1], client.key[2], client.key[7] & 3), (36, 1, 0, 3));
        client.send(&msg::query("select pg_sleep(60)"));
        group[0].wait_asleep(Postgres::shared(), 1);
        let mut random = Random::seeded(3);
        let mut wrong: Vec<Vec<u8>> = vec![client.key[..8].to_vec(), [&client.key[..], &[0]].concat()];
        for at in 8..36 {
            let mut key = client.key.clone();
            key[at] ^= 1 << random.below(8);
            wrong.push(key);
        }
        for key in &wrong {
            ask(Wire::tcp(group[1].port), &msg::packet(msg::CANCEL_REQUEST, key));
        }
        let failed = "closing because: failed cancel request";
        wait_until("all fail", PATIENCE, || group[0].log().matches(failed).count() == wrong.len());
        group[0].wait_asleep(Postgres::shared(), 1);
        ask(Wire::tcp(group[1].port), &client.cancel_packet());
        assert_canceled(&mut client);
    }

    /// Of several that come at once, PgBouncer sends one.
    #[test]
    fn pool_size_of_a_peer_limits_what_is_on_its_way_and_the_rest_waits() {
        let peer = SlowPeer::start(2);
        let bouncer = Bouncer::start(Postgres::shared(), |setup| {
            setup.set("peer_id", 1).set("cancel_wait_timeout", 0).peer(5, peer.entry.as_str())
        });
        let mut requests = send_requests(&bouncer, 5);
        let mut taken = vec![peer.take(), peer.take()];
        wait_until("2 on their way", PATIENCE, || peer_pool(&bouncer, "cl_active_cancel_req") == 2);
        wait_until("3 wait", PATIENCE, || peer_pool(&bouncer, "cl_waiting_cancel_req") == 3);
        assert_eq!(peer_pool(&bouncer, "sv_active_cancel"), 2);
        let states = |state: &str| bouncer.show("CLIENTS").iter().filter(|row| row["state"] == state).count();
        assert_eq!((states("active_cancel_req"), states("waiting_cancel_req")), (2, 3));
        for _ in 0..3 {
            // One is over, the next comes.
            taken.remove(0);
            taken.push(peer.take());
        }
        let mut last: Vec<u8> = taken.iter().map(|(_, request)| request[11]).collect();
        last.sort_unstable();
        assert_eq!(last.len(), 2);
        // The time to live went down by one.
        assert!(taken.iter().all(|(_, request)| request[..8] == [0, 0, 0, 16, 4, 210, 22, 46] && request[15] == 2));
        drop(taken);
        requests.iter_mut().for_each(Wire::expect_closed);
        wait_until("nothing is left", PATIENCE, || peer_pool(&bouncer, "cl_active_cancel_req") == 0);
        assert_eq!(peer_pool(&bouncer, "cl_waiting_cancel_req"), 0);
    }

    /// PgBouncer takes such a key for one of another process.
    #[test]
    fn keys_given_out_before_peer_id_changed_still_work() {
        let mut bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
        let mut clients = Vec::new();
        for id in [1, 2, 0] {
            clients.push(bouncer.client());
            bouncer.reload(|setup| setup.set("peer_id", id));
        }
        for client in &mut clients {
            client.send(&msg::query("select pg_sleep(60)"));
        }
        bouncer.wait_asleep(Postgres::shared(), 3);
        for mut client in clients {
            ask(Wire::tcp(bouncer.port), &client.cancel_packet());
            assert_canceled(&mut client);
        }
    }

    #[test]
    fn peer_that_is_not_there_is_told_in_the_log() {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| {
            let gone = Path::new("/nonexistent").display().to_string();
            setup.set("peer_id", 1).peer(5, format!("host={gone}"))
        });
        send_requests(&bouncer, 1)[0].expect_closed();
        bouncer.wait_log("failed to send cancel request: No such file or directory");
    }
}
