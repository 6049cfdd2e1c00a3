//! `auth_query`: users that the `auth_file` does not have, looked up on the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::bouncer::{Setup, assert_error};
use crate::support::fake_server::{Peer, error_response, ready};
use crate::support::postgres::PASSWORD;
use crate::support::*;

const WRONG: &str = "wrong horse";

/// The roles `hashed` and `salted` are the server's alone.
fn start(auth_type: &str, change: impl FnOnce(Setup) -> Setup) -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| {
        change(setup.set("auth_type", auth_type).set("auth_user", "postgres").secret("admin", PASSWORD))
    })
}

fn gets_in(bouncer: &Bouncer, user: &str, password: &str) {
    match bouncer.try_client(user, "app", password) {
        Ok(mut client) => assert_eq!(client.one("select current_user"), user),
        Err(e) => panic!("{user} is turned away: {e}"),
    }
}

/// Not the whole text: PgBouncer has another for a user that does not exist.
fn is_turned_away(bouncer: &Bouncer, user: &str, password: &str) {
    let error = bouncer.refusal(user, "app", password);
    assert!(error.message.contains("authentication failed") || error.message == "no such user", "{error}");
}

/// A table of secrets in the database behind `app`, which the query of `setup` reads.
fn with_table(bouncer: &Bouncer, rows: &str) {
    let mut server = Wire::tcp(Postgres::shared().port);
    server.login("app", &bouncer.server_database, "", &[]).expect("log in");
    server.run(&format!(
        "create table if not exists secrets (name text, secret text); delete from secrets; insert into secrets values {rows}"
    ));
}

const TABLE_QUERY: &str = "select name, secret from secrets where name = $1";

#[test]
fn a_user_of_the_server_logs_in_with_its_own_password() {
    let bouncer = start("md5", |setup| setup);
    for user in ["hashed", "salted"] {
        gets_in(&bouncer, user, PASSWORD);
        gets_in(&bouncer, user, PASSWORD);
        is_turned_away(&bouncer, user, WRONG);
    }
    is_turned_away(&bouncer, "stranger", PASSWORD);
    let bouncer = start("scram-sha-256", |setup| setup);
    gets_in(&bouncer, "salted", PASSWORD);
    is_turned_away(&bouncer, "salted", WRONG);
    is_turned_away(&bouncer, "hashed", PASSWORD);
}

#[test]
fn a_role_that_is_not_there_or_has_no_password_does_not_get_in() {
    let bouncer = start("md5", |setup| {
        // What the server does not find is not looked for in a table of ours.
        setup.app(&format!("auth_user=app auth_query='{TABLE_QUERY}'"))
    });
    with_table(&bouncer, "('third', null), ('empty', ''), ('good', 'correct horse')");
    for user in ["nobody", "empty"] {
        is_turned_away(&bouncer, user, "");
        is_turned_away(&bouncer, user, PASSWORD);
    }
    let error = bouncer.refusal("good", "app", PASSWORD);
    assert!(error.message.contains("role \"good\" does not exist"), "{error}");
}

#[test]
fn users_of_the_auth_file_are_not_looked_up() {
    let bouncer = start("plain", |setup| setup.secret("salted", "another one").app("user=app"));
    assert!(bouncer.try_client("salted", "app", "another one").is_ok());
    is_turned_away(&bouncer, "salted", PASSWORD);
    assert_eq!(bouncer.pool("app", "postgres", "sv_idle"), 0);
}

#[test]
fn trust_asks_whether_the_user_exists() {
    let bouncer = start("trust", |setup| setup.app("user=app"));
    assert!(bouncer.try_client("hashed", "app", "").is_ok());
    assert_error(&bouncer.refusal("stranger", "app", ""), "no such user", "28000");
}

#[test]
fn the_query_runs_in_auth_dbname_as_auth_user() {
    let pg = Postgres::shared();
    let elsewhere = format!("host=127.0.0.1 port={} dbname=postgres", pg.port);
    let query = "select usename, passwd from pg_shadow where usename = $1 and current_user = ''postgres'' and current_database() = ''postgres''";
    let bouncer = start("md5", |setup| {
        let setup = setup.database("elsewhere", &elsewhere).set("auth_dbname", "elsewhere");
        setup.app(&format!("auth_query='{query}'"))
    });
    gets_in(&bouncer, "salted", PASSWORD);
    assert_eq!(bouncer.pool("elsewhere", "postgres", "sv_idle"), 1);
    assert_eq!(bouncer.pool("app", "postgres", "sv_idle"), 0);
}

#[test]
fn a_database_s_own_settings_come_first() {
    let pg = Postgres::shared();
    let bouncer = start("plain", |setup| {
        let entry = format!("host=127.0.0.1 port={} dbname=postgres", pg.port);
        let setup = setup.set("auth_user", "nobody").set("auth_query", "select 1").set("auth_dbname", "nowhere");
        setup
            .database("elsewhere", entry)
            .app(&format!("user=app auth_user=app auth_dbname=app auth_query='{TABLE_QUERY}'"))
    });
    with_table(&bouncer, "('table''s \"own\"', 'secret')");
    assert!(bouncer.try_client("table's \"own\"", "app", "secret").is_ok());
    assert_error(&bouncer.refusal("hashed", "elsewhere", PASSWORD), "bouncer config error", "F0000");
    bouncer.wait_log("authentication database \"nowhere\" is not configured");
}

#[test]
fn a_query_that_fails_is_the_operator_s_fault() {
    for (query, told) in [
        ("select 1 where $1 = $1", "expected 2 columns from auth_query, not 1"),
        ("select null, null where $1 = $1", "auth_query response contained null user name"),
        ("select usename, passwd from not_pg_shadow where usename = $1", "relation \"not_pg_shadow\" does not exist"),
    ] {
        let bouncer = start("md5", |setup| setup.set("auth_query", query));
        let error = bouncer.refusal("hashed", "app", PASSWORD);
        assert!(error.message == "bouncer config error" || error.message.contains("auth_query"), "{error}");
        bouncer.wait_log(told);
        // The auth_file still counts.
        bouncer.admin().run("SHOW VERSION");
    }
}

#[test]
fn nothing_that_a_stranger_asks_for_reaches_the_query() {
    let query = "select usename, passwd from pg_shadow where usename = $1 and current_setting(''application_name'') <> ''evil'' and current_setting(''DateStyle'') = ''ISO, MDY''";
    let bouncer = start("md5", |setup| setup.app(&format!("auth_query='{query}'")));
    let mut client = Wire::tcp(bouncer.port);
    let asked = [("application_name", "evil"), ("datestyle", "SQL, DMY"), ("options", "-c application_name=evil")];
    client.login("hashed", "app", PASSWORD, &asked).expect("log in");
}

#[test]
fn a_disabled_auth_dbname_is_named() {
    let pg = Postgres::shared();
    let entry = format!("host=127.0.0.1 port={} dbname=postgres", pg.port);
    let bouncer = start("md5", |setup| setup.database("elsewhere", entry).set("auth_dbname", "elsewhere"));
    bouncer.admin().run("DISABLE elsewhere");
    let error = bouncer.refusal("hashed", "app", PASSWORD);
    assert_error(&error, "authentication database \"elsewhere\" is disabled", "57P03");
}

#[test]
fn the_console_asks_in_auth_dbname() {
    let bouncer = start("md5", |setup| setup.set("auth_dbname", "app").set("admin_users", "admin, hashed"));
    bouncer.try_client("hashed", "pgbouncer", PASSWORD).expect("log in").run("SHOW POOLS");
    let error = bouncer.refusal("salted", "pgbouncer", PASSWORD);
    assert_error(&error, "not allowed", "08P01");
    let bouncer = start("md5", |setup| setup.set("admin_users", "admin, hashed"));
    let error = bouncer.refusal("hashed", "pgbouncer", PASSWORD);
    assert_error(&error, "bouncer config error", "F0000");
    bouncer.wait_log("cannot use the reserved \"pgbouncer\" database as an auth_dbname");
}

#[test]
fn users_that_were_looked_up_have_their_limits() {
    let bouncer = start("md5", |setup| setup.user("hashed", "max_user_client_connections=1"));
    let first = bouncer.try_client("hashed", "app", PASSWORD);
    let listed = bouncer.show("USERS").into_iter().find(|user| user["name"] == "hashed").expect("in SHOW USERS");
    assert_eq!((&*listed["max_user_client_connections"], &*listed["current_client_connections"]), ("1", "1"));
    let text = "client connections exceeded (max_user_client_connections)";
    assert_error(&bouncer.refusal("hashed", "app", PASSWORD), text, "53300");
    assert!(bouncer.try_client("salted", "app", PASSWORD).is_ok());
    drop(first);
}

/// The name that was asked for, or `None` at the end.
fn read_lookup(peer: &mut Peer) -> Option<String> {
    let mut name = None;
    loop {
        let (tag, body) = peer.read_message()?;
        match tag {
            b'B' => {
                let len = u32::from_be_bytes(body[6..10].try_into().expect("a length")) as usize;
                name = Some(String::from_utf8_lossy(&body[10..10 + len]).into_owned());
            }
            b'S' => return name,
            _ => {}
        }
    }
}

/// The answer to a lookup: a row per pair.
fn told(rows: &[(&str, &str)]) -> Vec<u8> {
    let columns = b"\0\x02n\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0s\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
    let mut out = [msg::message(b'1', b""), msg::message(b'2', b""), msg::message(b'T', columns)].concat();
    for (name, secret) in rows {
        let column = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
        out.extend(msg::message(b'D', &[&[0, 2][..], &column(name), &column(secret)].concat()));
    }
    [out, msg::message(b'C', b"SELECT 1\0"), ready(b'I')].concat()
}

/// A pooler before a server that answers every lookup by `answer`, and how many there were.
fn before_fake(
    change: impl FnOnce(Setup) -> Setup,
    answer: impl Fn(&mut Peer, &str, usize) + Send + Sync + 'static,
) -> (Bouncer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = FakeServer::start(move |_, mut peer| {
        if !peer.accept_login() {
            return;
        }
        while let Some(name) = read_lookup(&mut peer) {
            answer(&mut peer, &name, count.fetch_add(1, Ordering::SeqCst));
        }
    });
    let bouncer = Bouncer::start_before(server.port, |setup| {
        change(setup.set("auth_type", "plain").set("auth_user", "asker").secret("admin", PASSWORD))
    });
    (bouncer, asked)
}

#[test]
fn a_server_that_answers_too_late_costs_the_login_only() {
    let (bouncer, _) = before_fake(
        |setup| setup.set("client_login_timeout", 1),
        |peer, name, n| match n {
            0 => peer.hold(),
            _ => peer.send(&told(&[(name, PASSWORD)])),
        },
    );
    assert_error(&bouncer.refusal("late", "app", PASSWORD), "client_login_timeout", "08P01");
    assert!(bouncer.try_client("late", "app", PASSWORD).is_ok());
}

#[test]
fn a_server_that_goes_away_costs_the_login_only() {
    let (bouncer, _) = before_fake(
        |setup| setup,
        |peer, name, n| match n {
            0 => {
                peer.send(&error_response(&["SFATAL", "VFATAL", "C57P01", "Mgoing down"]));
                peer.close();
            }
            _ => peer.send(&told(&[(name, PASSWORD)])),
        },
    );
    bouncer.refusal("u", "app", PASSWORD);
    assert!(bouncer.try_client("u", "app", PASSWORD).is_ok());
}

mod beyond_pgbouncer {
    use super::*;

    /// All that a client is sent until it is turned away, but for what is random by design.
    fn conversation(bouncer: &Bouncer, user: &str) -> Vec<String> {
        let mut client = Wire::tcp(bouncer.port);
        let error = client.login(user, "app", WRONG, &[]).expect_err("turned away");
        let mut client = Wire::tcp(bouncer.port);
        client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", user), ("database", "app")]));
        let asked = client.expect("R")[0].body.clone();
        vec![format!("{error}"), error.code, format!("{:?}", &asked[..4])]
    }

    /// PgBouncer has only the verifier to log in to the server with.
    #[test]
    fn a_password_in_clear_text_opens_the_server() {
        let bouncer = start("plain", |setup| setup);
        for user in ["clear", "hashed", "salted"] {
            gets_in(&bouncer, user, PASSWORD);
            is_turned_away(&bouncer, user, WRONG);
        }
    }

    #[test]
    fn nobody_is_told_who_exists() {
        for auth_type in ["md5", "scram-sha-256", "plain"] {
            let bouncer = start(auth_type, |setup| {
                setup.secret("local", "SCRAM-SHA-256$4096:c2FsdHNhbHQ=$MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=:MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=")
            });
            let known = conversation(&bouncer, "salted");
            assert_eq!(conversation(&bouncer, "stranger"), known, "{auth_type}");
            assert_eq!(conversation(&bouncer, "local"), known, "{auth_type}");
            bouncer.wait_log("closing because: no such user (age=");
        }
    }

    /// Nor by the time that it takes: while one login is under way, a lookup more or less.
    #[test]
    fn lookups_do_not_tell_who_exists() {
        let (bouncer, asked) = before_fake(
            |setup| setup.set("auth_query_cache_time", 60).set("auth_type", "scram-sha-256"),
            |peer, name, _| match name {
                "bob" => peer.send(&told(&[(name, PASSWORD)])),
                _ => peer.send(&told(&[])),
            },
        );
        let begin = |user: &str| {
            let mut client = Wire::tcp(bouncer.port);
            client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", user), ("database", "app")]));
            client.expect("R");
            client
        };
        for (user, so_far) in [("bob", 1), ("nobody", 2)] {
            let _two = [begin(user), begin(user)];
            assert_eq!(asked.load(Ordering::SeqCst), so_far, "{user}");
        }
        for (user, so_far) in [("bob", 2), ("nobody", 3)] {
            for n in 0..2 {
                bouncer.refusal(user, "app", WRONG);
                assert_eq!(asked.load(Ordering::SeqCst), so_far + n, "{user}");
            }
        }
    }

    #[test]
    fn all_who_log_in_as_one_user_wait_for_one_lookup() {
        let (bouncer, asked) = before_fake(
            |setup| setup.set("auth_query_cache_time", 60),
            |peer, name, _| {
                thread::sleep(millis(300));
                peer.send(&told(&[(name, PASSWORD)]));
            },
        );
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| assert!(bouncer.try_client("many", "app", PASSWORD).is_ok()));
            }
        });
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(bouncer.try_client("another", "app", PASSWORD).is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn an_answer_is_used_until_a_login_with_it_fails() {
        let (bouncer, asked) = before_fake(
            |setup| setup.set("auth_query_cache_time", 60),
            |peer, name, n| peer.send(&told(&[(name, if n == 0 { "old" } else { "new" })])),
        );
        for _ in 0..3 {
            assert!(bouncer.try_client("u", "app", "old").is_ok());
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // The password was changed.
        bouncer.refusal("u", "app", "new");
        assert!(bouncer.try_client("u", "app", "new").is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        let (bouncer, asked) = before_fake(
            |setup| setup.set("auth_query_cache_time", 0),
            |peer, name, _| peer.send(&told(&[(name, PASSWORD)])),
        );
        for _ in 0..3 {
            assert!(bouncer.try_client("u", "app", PASSWORD).is_ok());
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_reload_forgets_the_answers() {
        let (mut bouncer, asked) = before_fake(
            |setup| setup.set("auth_query_cache_time", 60).set("auth_type", "trust"),
            |peer, name, _| peer.send(&told(&[(name, PASSWORD)])),
        );
        bouncer.client_of("u", "app");
        bouncer.reload(|setup| setup);
        bouncer.client_of("u", "app");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    /// PgBouncer logs the client in as that other user.
    #[test]
    fn somebody_else_s_secret_lets_nobody_in() {
        let (bouncer, _) = before_fake(|setup| setup, |peer, _, _| peer.send(&told(&[("eve", PASSWORD)])));
        assert_error(&bouncer.refusal("bob", "app", PASSWORD), "bouncer config error", "F0000");
        bouncer.wait_log("auth_query gave another user, \"eve\"");
    }

    #[test]
    fn an_answer_without_end_costs_the_server() {
        let (bouncer, asked) = before_fake(
            |setup| setup,
            |peer, name, n| match n {
                0 => {
                    let row = told(&[(name, &"x".repeat(60_000))]);
                    (0..50).for_each(|_| peer.send(&row[..row.len() - 20]));
                }
                _ => peer.send(&told(&[(name, PASSWORD)])),
            },
        );
        assert_error(&bouncer.refusal("u", "app", PASSWORD), "bouncer config error", "F0000");
        assert!(bouncer.try_client("u", "app", PASSWORD).is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    /// Clients of the same pool may have set what they like.
    #[test]
    fn nothing_that_another_client_has_set_reaches_the_query() {
        let query = "select usename, passwd from pg_shadow where usename = $1 and current_setting(''application_name'') <> ''evil''";
        let bouncer =
            start("md5", |setup| setup.secret("postgres", PASSWORD).app(&format!("pool_size=1 auth_query='{query}'")));
        let mut client = bouncer.try_client("postgres", "app", PASSWORD).expect("log in");
        client.run("set application_name = 'evil'");
        gets_in(&bouncer, "hashed", PASSWORD);
        assert_eq!(client.one("show application_name"), "evil");
    }

    #[test]
    fn a_lookup_that_nobody_waits_for_is_given_up() {
        let (bouncer, _) = before_fake(|setup| setup, |peer, _, _| peer.hold());
        let mut client = Wire::tcp(bouncer.port);
        client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "u"), ("database", "app")]));
        wait_until("the server is asked", PATIENCE, || bouncer.pool("app", "asker", "sv_active") == 1);
        // It has something to say before it goes, as with TLS it always has.
        client.send(&msg::message(b'X', b""));
        drop(client);
        wait_until("the server is closed", PATIENCE, || bouncer.pool("app", "asker", "sv_active") == 0);
    }

    /// With `user=` clients of the database are on the server whom users are looked up by.
    #[test]
    fn nothing_that_a_client_leaves_behind_on_the_server_answers_the_query() {
        let connect_query = "connect_query='set extra_float_digits to 0'";
        let bouncer = start("md5", |setup| setup.app(&format!("user=postgres pool_size=1 {connect_query}")));
        let mut client = bouncer.try_client("hashed", "app", PASSWORD).expect("log in");
        client.run(
            "create temp table pg_authid (rolname name, rolpassword text, rolvaliduntil timestamptz, rolcanlogin bool)",
        );
        client.run("insert into pg_authid values ('salted', 'mine', null, true), ('stranger', 'mine', null, true)");
        for user in ["salted", "stranger"] {
            is_turned_away(&bouncer, user, "mine");
        }
        assert!(bouncer.try_client("salted", "app", PASSWORD).is_ok());
        assert_eq!(client.one("show extra_float_digits"), "0");
        assert_eq!(bouncer.pool("app", "postgres", "sv_idle"), 1);
    }
    #[test]
    fn nor_on_a_server_that_comes_from_another_process() {
        let mut bouncer = start("md5", |setup| setup.app("user=postgres pool_size=1"));
        let mut client = bouncer.try_client("hashed", "app", PASSWORD).expect("log in");
        client.run(
            "create temp table pg_authid (rolname name, rolpassword text, rolvaliduntil timestamptz, rolcanlogin bool)",
        );
        client.run("insert into pg_authid values ('salted', 'mine', null, true)");
        let backend = client.backend();
        bouncer.reboot().wait_exit();
        is_turned_away(&bouncer, "salted", "mine");
        assert!(bouncer.try_client("salted", "app", PASSWORD).is_ok());
        assert_eq!(client.backend(), backend);
    }
}
