//! Servers reached by names that a DNS server of the test's own knows.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::thread;

use crate::support::process::scratch_dir;
use crate::support::*;

const A: u8 = 1;
const SOA: u8 = 6;

/// Knows every name and every zone.
struct Dns {
    port: u16,
    /// The last byte of 127.0.0.x, which every name has.
    address: AtomicU8,
    serial: AtomicU32,
    /// Questions for addresses so far.
    asked: AtomicU32,
    /// Questions for the serial so far.
    asked_serial: AtomicU32,
}

impl Dns {
    fn start() -> Arc<Dns> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let dns = Arc::new(Dns {
            port: socket.local_addr().expect("an address").port(),
            address: AtomicU8::new(1),
            serial: AtomicU32::new(1),
            asked: AtomicU32::new(0),
            asked_serial: AtomicU32::new(0),
        });
        let server = Arc::clone(&dns);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query) {
                let _ = socket.send_to(&server.answer(&query[..len]), from);
            }
        });
        dns
    }

    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let kind = query[query.len() - 3];
        let data = match kind {
            A => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                vec![127, 0, 0, self.address.load(Ordering::Relaxed)]
            }
            SOA => {
                self.asked_serial.fetch_add(1, Ordering::Relaxed);
                // Two names, the serial, four times.
                [&[0, 0][..], &self.serial.load(Ordering::Relaxed).to_be_bytes(), &[0; 16]].concat()
            }
            _ => Vec::new(),
        };
        let answers = u8::from(!data.is_empty());
        let mut out = [&query[..2], &[0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0], &query[12..]].concat();
        if answers > 0 {
            out.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, data.len() as u8]);
            out.extend(data);
        }
        out
    }

    /// A pooler that asks it, with a database of PostgreSQL by name.
    fn pooler(&self, settings: &[(&str, &str)]) -> Bouncer {
        let conf = scratch_dir("dns").join("resolv.conf");
        std::fs::write(&conf, format!("nameserver 127.0.0.1:{}\n", self.port)).expect("write resolv.conf");
        let pg = Postgres::shared();
        Bouncer::start(pg, |setup| {
            let setup = setup.database("named", format!("host=db.pooled.test port={} dbname=postgres", pg.port));
            let setup = setup.set("resolv_conf", conf.display());
            settings.iter().fold(setup, |setup, (name, value)| setup.set(name, value))
        })
    }
}

/// `addrs` of SHOW DNS_HOSTS.
fn shown(bouncer: &Bouncer) -> String {
    bouncer.show("DNS_HOSTS").into_iter().find(|host| host["hostname"] == "db.pooled.test").expect("the name")["addrs"]
        .clone()
}

/// PgBouncer asks at port 53 only.
mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn resolv_conf_says_who_is_asked() {
        let dns = Dns::start();
        let bouncer = dns.pooler(&[("dns_max_ttl", "3600")]);
        for _ in 0..3 {
            assert_eq!(bouncer.client_of("app", "named").one("select 1"), "1");
            bouncer.admin().run("RECONNECT");
        }
        assert_eq!(shown(&bouncer), "127.0.0.1:0");
        assert_eq!(dns.asked.load(Ordering::Relaxed), 1, "known for an hour");
    }

    #[test]
    fn names_are_asked_for_again_after_dns_max_ttl() {
        let dns = Dns::start();
        let bouncer = dns.pooler(&[("dns_max_ttl", "100ms")]);
        let mut client = bouncer.client_of("app", "named");
        client.run("select 1");
        dns.address.store(2, Ordering::Relaxed);
        wait_until("the new address", PATIENCE, || shown(&bouncer) == "127.0.0.2:0");
        bouncer.wait_log("1 server connections to other addresses are replaced");
    }

    #[test]
    fn a_new_serial_of_the_zone_has_its_names_looked_up_again() {
        let dns = Dns::start();
        let bouncer = dns.pooler(&[("dns_max_ttl", "3600"), ("dns_zone_check_period", "100ms"), ("verbose", "1")]);
        let mut client = bouncer.client_of("app", "named");
        client.run("select 1");
        dns.address.store(2, Ordering::Relaxed);
        // The first serial is no change, nor is the same again. Of two questions one is over.
        let asked = dns.asked_serial.load(Ordering::Relaxed);
        wait_until("it asks again", PATIENCE, || dns.asked_serial.load(Ordering::Relaxed) >= asked + 3);
        assert_eq!(shown(&bouncer), "127.0.0.1:0");
        dns.serial.store(2, Ordering::Relaxed);
        wait_until("the new address", PATIENCE, || shown(&bouncer) == "127.0.0.2:0");
        bouncer.wait_log("zone 'pooled.test' serial changed: old=1 new=2");
        let zones = bouncer.show("DNS_ZONES");
        assert_eq!(zones.len(), 1);
        assert_eq!(["zonename", "serial", "count"].map(|column| &*zones[0][column]), ["pooled.test", "2", "1"]);
    }
}
