//! `auth_type=ldap`, and the same in rules, against a real directory.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use super::hba::write;
use crate::support::bouncer::{Setup, assert_error};
use crate::support::directory::{Directory, READER, READER_PASSWORD};
use crate::support::postgres::PASSWORD;
use crate::support::tls::certificate;
use crate::support::*;

const FAILED: &str = "LDAP authentication failed";
const PEOPLE: &str = "ldapbasedn=\"ou=people,dc=example,dc=net\"";

/// `options` count for everybody, but the console.
fn line(options: &str) -> String {
    write("hba", &format!("host pgbouncer all all trust\nhost all all all ldap {options}\n"))
}

/// All users come to the server as `app`. The directory's authority is known.
fn setup(options: &str) -> impl FnOnce(Setup) -> Setup {
    let file = line(options);
    move |setup| {
        setup
            .env("LDAPTLS_CACERT", certificate("ca"))
            .set("auth_type", "hba")
            .set("auth_hba_file", file)
            .app("user=app")
    }
}

fn start(options: &str) -> Bouncer {
    Bouncer::start(Postgres::shared(), setup(options))
}

#[track_caller]
fn gets_in(bouncer: &Bouncer, user: &str) {
    match bouncer.try_client(user, "app", PASSWORD) {
        Ok(mut client) => assert_eq!(client.one("select 1"), "1"),
        Err(e) => panic!("{user}: {e}"),
    }
}

#[track_caller]
fn is_turned_away(bouncer: &Bouncer, user: &str, password: &str) {
    assert_error(&bouncer.refusal(user, "app", password), FAILED, "28000");
}

#[test]
fn all_ways_to_ask() {
    let directory = Directory::start();
    let Directory { port, tls_port, .. } = &directory;
    let here = format!("ldapserver=127.0.0.1 ldapport={port}");
    let mut bouncer = start(&format!("{here} {PEOPLE}"));
    // In this order PgBouncer passes too, which remembers filters and schemes of earlier lines.
    for options in [
        format!("{here} ldapprefix=\"uid=\" ldapsuffix=\",ou=people,dc=example,dc=net\""),
        format!("{here} {PEOPLE}"),
        format!("{here} ,{PEOPLE} , ldapsearchattribute=cn # the way of the file"),
        format!("{here} {PEOPLE} ldaptls=1"),
        format!("{here} ldapprefix=\"uid=\" ldapsuffix=\",ou=people,dc=example,dc=net\" ldaptls=1"),
        format!("ldapserver=127.0.0.1 ldapscheme=ldaps ldapport={tls_port} {PEOPLE}"),
        format!("ldapurl=\"ldaps://127.0.0.1:{tls_port}/ou=people,dc=example,dc=net?uid?sub\""),
        format!("ldapurl=\"ldap://127.0.0.1:{port}/ou=people,dc=example,dc=net?uid?one\""),
        format!("ldapurl=\"ldap://127.0.0.1:{port}/dc=example,dc=net??sub?(%26(uid=$username)(!(ou:dn:=strangers)))\""),
        format!("{here} ldapscheme=ldap {PEOPLE} ldapsearchfilter=\"(|(uid=$username)(mail=$username))\""),
        format!("{here} ldapscheme=ldap {PEOPLE} ldapsearchfilter=\"uid=$username\""),
    ] {
        bouncer.reload(|setup| setup.set("auth_hba_file", line(&options)));
        for user in ["app", "salted"] {
            gets_in(&bouncer, user);
            is_turned_away(&bouncer, user, "wrong");
        }
        is_turned_away(&bouncer, "nobody", PASSWORD);
        assert!(!bouncer.log().contains(PASSWORD), "{options}");
    }
    bouncer.wait_log("LDAP");
}

#[test]
fn the_setting_does_the_same_and_the_console_asks_too() {
    let directory = Directory::start();
    let options = format!("ldapserver=127.0.0.1 ldapport={} {PEOPLE}", directory.port);
    let mut bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.set("auth_type", "trust").set("auth_ldap_options", options).app("user=app").set("stats_users", "other")
    });
    bouncer.admin().run("SET auth_type = 'ldap'");
    gets_in(&bouncer, "app");
    is_turned_away(&bouncer, "app", "wrong");
    bouncer.try_client("other", "pgbouncer", PASSWORD).expect("log in").run("SHOW POOLS");
    let error = bouncer.refusal("other", "pgbouncer", "wrong");
    assert_error(&error, FAILED, "28000");
    // A user of the database's own cannot be looked up as well.
    bouncer.rewrite(|setup| setup.set("auth_type", "ldap").app("auth_user=postgres"));
    bouncer.signal("HUP");
    wait_until("the reload", PATIENCE, || bouncer.try_client("app", "app", PASSWORD).is_err());
    assert_error(&bouncer.refusal("app", "app", PASSWORD), "bouncer config error", "F0000");
}

#[test]
fn the_password_that_has_passed_opens_the_server() {
    let directory = Directory::start();
    let options = format!("ldapserver=127.0.0.1 ldapport={} {PEOPLE}", directory.port);
    let file = line(&options);
    // What the file says of the user does not count; most users are not in it.
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.set("auth_type", "hba").set("auth_hba_file", file).secret("salted", "of old")
    });
    let mut client = bouncer.try_client("salted", "app", PASSWORD).expect("log in");
    assert_eq!(client.one("select current_user"), "salted");
}

#[test]
fn an_empty_password_is_no_password() {
    let directory = Directory::start();
    let bouncer = start(&format!("ldapserver=127.0.0.1 ldapport={} {PEOPLE}", directory.port));
    // slapd would take it for somebody who wants no name.
    assert_error(&bouncer.refusal("app", "app", ""), "empty password returned by client", "28P01");
}

#[test]
fn only_one_entry_is_the_users() {
    let directory = Directory::start();
    let here = format!("ldapserver=127.0.0.1 ldapport={} ldapbasedn=\"dc=example,dc=net\"", directory.port);
    let mut bouncer = start(&here);
    is_turned_away(&bouncer, "app", PASSWORD);
    gets_in(&bouncer, "other");
    for (filter, is_unique) in [("(uid=*)", false), ("(&(uid=app)(ou:dn:=strangers))", true)] {
        bouncer.reload(|setup| setup.set("auth_hba_file", line(&format!("{here} ldapsearchfilter=\"{filter}\""))));
        match is_unique {
            true => gets_in(&bouncer, "other"),
            false => is_turned_away(&bouncer, "other", PASSWORD),
        }
    }
}

#[test]
fn a_search_may_need_a_user_of_its_own() {
    let directory = Directory::with("site", &format!("by dn.exact=\"{READER}\" read by * none"));
    let here = format!("ldapserver=127.0.0.1 ldapport={} {PEOPLE}", directory.port);
    let password = READER_PASSWORD.replace('"', "\"\"");
    let mut bouncer = start(&format!("{here} ldapbinddn=\"{READER}\" ldapbindpasswd=\"{password}\""));
    gets_in(&bouncer, "app");
    is_turned_away(&bouncer, "app", "wrong");
    for options in [here.clone(), format!("{here} ldapbinddn=\"{READER}\" ldapbindpasswd=wrong")] {
        bouncer.reload(|setup| setup.set("auth_hba_file", line(&options)));
        is_turned_away(&bouncer, "app", PASSWORD);
    }
    assert!(!bouncer.log().contains(READER_PASSWORD));
}

#[test]
fn the_next_server_is_asked_when_one_is_not_there() {
    let directory = Directory::start();
    let bouncer = start(&format!("ldapserver=\"127.0.0.2 127.0.0.1\" ldapport={} {PEOPLE}", directory.port));
    gets_in(&bouncer, "app");
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn names_are_values_wherever_they_are_put() {
        let directory = Directory::start();
        let here = format!("ldapserver=127.0.0.1 ldapport={}", directory.port);
        let mut bouncer = start(&format!("{here} ldapprefix=\"uid=\" ldapsuffix=\",ou=people,dc=example,dc=net\""));
        for options in [
            format!("{here} ldapprefix=\"uid=\" ldapsuffix=\",ou=people,dc=example,dc=net\""),
            format!("{here} {PEOPLE}"),
            format!("{here} {PEOPLE} ldapsearchfilter=\"(&(objectClass=*)(uid=$username))\""),
        ] {
            bouncer.reload(|setup| setup.set("auth_hba_file", line(&options)));
            for user in ["a,b", "c)(uid=*"] {
                gets_in(&bouncer, user);
                is_turned_away(&bouncer, user, "wrong");
            }
            for user in
                ["*", "ap*", "x)(uid=app", "\\61pp", "a\\,b", "mallory,ou=strangers", "app,ou=people,dc=example"]
            {
                is_turned_away(&bouncer, user, PASSWORD);
            }
        }
    }

    #[test]
    fn a_directory_has_to_show_its_certificate() {
        let (good, elsewhere) = (Directory::start(), Directory::with("elsewhere", "by * read"));
        let options = |directory: &Directory, tls: &str| {
            let port = if tls.is_empty() { directory.tls_port } else { directory.port };
            let scheme = if tls.is_empty() { "ldapscheme=ldaps" } else { tls };
            format!("ldapserver=127.0.0.1 ldapport={port} {PEOPLE} {scheme}")
        };
        for tls in ["", "ldaptls=1"] {
            let mut bouncer = start(&options(&good, tls));
            gets_in(&bouncer, "app");
            bouncer.reload(|setup| setup.set("auth_hba_file", line(&options(&elsewhere, tls))));
            is_turned_away(&bouncer, "app", PASSWORD);
            bouncer.wait_log("certificate verify failed");
            let stranger = Bouncer::start(Postgres::shared(), |it| {
                setup(&options(&good, tls))(it).env("LDAPTLS_CACERT", certificate("stranger"))
            });
            is_turned_away(&stranger, "app", PASSWORD);
            let conf = write("ldap.conf", &format!("TLS_REQCERT never\nTLS_CACERT {}\n", certificate("stranger")));
            let careless = Bouncer::start(Postgres::shared(), |it| {
                setup(&options(&elsewhere, tls))(it).without_env("LDAPTLS_CACERT").env("LDAPCONF", conf)
            });
            gets_in(&careless, "app");
            careless.wait_log("TLS_REQCERT of ldap.conf lets any directory pass");
        }
    }

    #[test]
    fn what_is_wrong_with_options_fails_the_load() {
        let directory = Directory::start();
        let good = format!("ldapserver=127.0.0.1 ldapport={} {PEOPLE}", directory.port);
        let mut bouncer = start(&good);
        for (options, told) in [
            ("ldapprefix=x", "LDAP needs ldapserver"),
            ("ldapserver=h ldapbasedn=x ldapsearchfilter=(a=b", "invalid ldapsearchfilter: ) expected"),
            ("ldapserver=h ldapbasedn=x ldapbindpasswd=hun ter2", "name=value expected behind the password"),
        ] {
            let file = line(options);
            bouncer.rewrite(|setup| setup.set("auth_hba_file", &file));
            bouncer.admin().fails("RELOAD");
            bouncer.wait_log(&format!("{file}:2: {told}"));
            gets_in(&bouncer, "app");
        }
        assert!(!bouncer.log().contains("ter2"));
        bouncer.rewrite(|setup| setup.set("auth_type", "ldap"));
        bouncer.admin().fails("RELOAD");
        bouncer.wait_log("auth_type=ldap needs auth_ldap_options");
        bouncer.rewrite(|setup| setup.set("auth_ldap_options", "ldapserver=h ldaptls=yes"));
        bouncer.admin().fails("RELOAD");
        bouncer.wait_log("auth_ldap_options: invalid ldaptls \"yes\"");
        let ini = fs::read_to_string(bouncer.dir.join("pooler.ini")).expect("read the configuration");
        let number = 1 + ini.lines().position(|line| line.starts_with("auth_ldap_options")).expect("the setting");
        bouncer.wait_log(&format!("pooler.ini:{number}: auth_ldap_options"));
        bouncer.admin().run("SET auth_ldap_options = 'ldapserver=h'");
        bouncer.admin().fails("SET auth_type = 'ldap'");
        gets_in(&bouncer, "app");
    }

    /// A directory that answers everything with `answer`, and what it was told.
    fn answering(answer: &'static [u8]) -> (FakeServer, mpsc::Receiver<Vec<u8>>) {
        let (tell, told) = mpsc::channel();
        let server = FakeServer::start(move |_, mut peer| {
            while let Some(bytes) = peer.read_some() {
                let _ = tell.send(bytes);
                peer.send(answer);
            }
        });
        (server, told)
    }

    #[test]
    fn no_password_is_sent_without_the_tls_that_was_asked_for() {
        // The directory does not start TLS; or starts it, and there is something behind the answer.
        for answer in [
            &b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00"[..],
            b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\x00\x04\x00\x04\x00",
        ] {
            let (server, told) = answering(answer);
            let bouncer = start(&format!("ldapserver=127.0.0.1 ldapport={} ldapprefix=uid= ldaptls=1", server.port));
            is_turned_away(&bouncer, "app", PASSWORD);
            let all: Vec<u8> = told.try_iter().flatten().collect();
            assert!(!all.is_empty());
            assert!(!all.windows(PASSWORD.len()).any(|bytes| bytes == PASSWORD.as_bytes()));
        }
    }

    #[test]
    fn answers_that_make_no_sense_let_nobody_in() {
        for answer in [
            // Success, but of nothing that was asked.
            &b"\x30\x0c\x02\x01\x07\x61\x07\x0a\x01\x00\x04\x00\x04\x00"[..],
            b"\x30\x0c\x02\x01\x01\x65\x07\x0a\x01\x00\x04\x00\x04\x00",
            b"\x30\x0c\x02\x01\x00\x78\x07\x0a\x01\x34\x04\x00\x04\x00",
            b"\x30\x84\x7f\xff\xff\xff",
            b"\x30\x80\x30\x80\x30\x80",
            b"\x30\x00",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
        ] {
            let (server, _told) = answering(answer);
            let bouncer = start(&format!("ldapserver=127.0.0.1 ldapport={} ldapprefix=uid=", server.port));
            is_turned_away(&bouncer, "app", PASSWORD);
        }
    }

    /// A directory that says nothing, and how many wait for it.
    fn silent() -> (FakeServer, Arc<AtomicUsize>) {
        let waiting = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&waiting);
        let server = FakeServer::start(move |_, mut peer| {
            count.fetch_add(1, Ordering::SeqCst);
            while peer.read_some().is_some() {}
            count.fetch_sub(1, Ordering::SeqCst);
        });
        (server, waiting)
    }

    /// The ends of clients that have sent their passwords.
    fn stuck(bouncer: &Bouncer, count: usize) -> Vec<Wire> {
        let clients = (0..count).map(|_| {
            let mut client = Wire::tcp(bouncer.port);
            client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
            client.expect("R");
            client.send(&msg::password(PASSWORD));
            client
        });
        clients.collect()
    }

    #[test]
    fn a_dead_directory_holds_up_nobody_else() {
        let (dead, waiting) = silent();
        let directory = Directory::start();
        let options = |port| format!("ldapserver=127.0.0.1 ldapport={port} {PEOPLE}");
        let file = write(
            "hba",
            &format!(
                "host pgbouncer all all trust\nhost all other all trust\nhost all salted all ldap {}\nhost all all all ldap {}\n",
                options(directory.port).replace("127.0.0.1", "localhost"),
                options(dead.port)
            ),
        );
        let mut bouncer = Bouncer::start(Postgres::shared(), |it| {
            setup("ldapserver=h ldapbasedn=x")(it).set("auth_hba_file", file).set("max_client_conn", 500)
        });
        let mut trusted = bouncer.client_of("other", "app");
        let mut clients = stuck(&bouncer, 100);
        // As many as there are places.
        wait_until("they are asked about", PATIENCE, || waiting.load(Ordering::SeqCst) == 64);
        for _ in 0..20 {
            assert_eq!(trusted.one("select 1"), "1");
            bouncer.client_of("other", "app").run("select 1");
            gets_in(&bouncer, "salted");
        }
        // Who goes away gives its place up.
        clients.drain(..90);
        wait_until("their places are free", PATIENCE, || waiting.load(Ordering::SeqCst) == 10);
        assert_eq!(dead.accepted(), 100);
        bouncer.reload(|setup| setup.set("client_login_timeout", 1));
        let mut late = stuck(&bouncer, 1);
        let error = late[0].expect_fatal();
        assert_error(&error, "client_login_timeout", "08P01");
        bouncer.signal("QUIT");
        assert!(bouncer.wait_exit().success());
    }
}
