//! RELOAD again and again under load, and what it says.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::*;

/// How many a second.
const RELOADS: u32 = 20;

/// For a minute, as the requirement has it: `PGWEIR_RELOAD_SECONDS=60`.
fn seconds() -> u32 {
    std::env::var("PGWEIR_RELOAD_SECONDS").map_or(3, |text| text.parse().expect("seconds"))
}

/// Logs in and runs transactions, until told to stop.
fn work(port: u16, stop: &AtomicBool, done: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let mut client = Wire::tcp(port);
        client.login("app", "app", "steady", &[]).unwrap_or_else(|e| panic!("log in: {e}"));
        for _ in 0..50 {
            client.run("begin");
            assert_eq!(client.one("select 'x'"), "x");
            client.run("commit");
            done.fetch_add(1, Ordering::Relaxed);
        }
        client.send(&msg::terminate());
    }
}

/// The configuration of the nth reload.
fn nth(setup: bouncer::Setup, n: u32, app: &str, extra: &str) -> bouncer::Setup {
    let setup = setup
        .database("app", format!("{app} pool_size={}", 1 + n % 4))
        .set("default_pool_size", 2 + n % 3)
        .set("query_wait_timeout", 100 + n)
        .secret("other", &format!("password-{n}"));
    if n.is_multiple_of(2) { setup.database("extra", extra) } else { setup.without_database("extra") }
}

fn open_files(bouncer: &Bouncer) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", bouncer.pid())).expect("its descriptors").count()
}

/// The value of one setting, over a connection that is there.
fn setting(admin: &mut Wire, key: &str) -> Option<String> {
    let rows = admin.query("SHOW CONFIG").expect("the settings");
    rows.into_iter().find(|row| row[0].as_deref() == Some(key)).and_then(|row| row[1].clone())
}

/// Also PgBouncer's, but for the file that is broken: it keeps what it has read before the error.
mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn a_reload_says_what_it_changes() {
        let pg = Postgres::shared();
        let mut bouncer = Bouncer::start(pg, |setup| setup.database("gone", "host=127.0.0.1"));
        bouncer.rewrite(|setup| {
            let setup = setup.without_database("gone").set("default_pool_size", 3).set("listen_backlog", 7);
            setup.app("pool_size=4 password=hunter2").secret("newcomer", "hunter2")
        });
        let mut admin = bouncer.admin();
        admin.run("RELOAD");
        let said: Vec<&str> = admin.notices.iter().map(|notice| notice.message.as_str()).collect();
        let expected = [
            "default_pool_size: 20 -> 3",
            "database removed: gone",
            "database changed: app (password changed, pool_size: (empty) -> 4)",
            "auth_file user added: newcomer",
            "listen_backlog: 128 -> 7 needs a restart, the old value stays in force",
        ];
        assert_eq!(said, expected);
        for line in expected {
            bouncer.wait_log(&format!("RELOAD: {line}"));
        }
        assert!(!bouncer.log().contains("hunter2"));
        let mut again = bouncer.admin();
        again.run("SET default_pool_size = 5");
        bouncer.wait_log("SET: default_pool_size: 3 -> 5");
        assert_eq!(setting(&mut again, "default_pool_size").as_deref(), Some("5"));
        // RELOAD takes it back, and says so.
        bouncer.signal("HUP");
        bouncer.wait_log("RELOAD: default_pool_size: 5 -> 3");
    }

    /// PgBouncer forgets who stands behind the broken line, or all users.
    #[test]
    fn a_reload_with_a_broken_auth_file_changes_nothing() {
        let mut bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
        let mut admin = bouncer.admin();
        let userlist = bouncer.dir.join("userlist.txt");
        bouncer.rewrite(|setup| setup.set("query_wait_timeout", 77));
        let whole = std::fs::read_to_string(&userlist).expect("the users");
        for broken in [Some("\"app\" \"\"\n\"other\"\n"), Some("app"), None] {
            match broken {
                Some(text) => std::fs::write(&userlist, text).expect("write the users"),
                None => std::fs::remove_file(&userlist).expect("remove the users"),
            }
            assert_eq!(admin.fails("RELOAD").code, "F0000", "{broken:?}");
            assert_eq!(setting(&mut admin, "query_wait_timeout").as_deref(), Some("120"));
            bouncer.client_of("other", "app");
        }
        bouncer.wait_log("the auth_file cannot be read whole");
        std::fs::write(&userlist, whole).expect("write the users");
        process::open_to_all(&userlist, 0o644);
        admin.run("RELOAD");
        assert_eq!(setting(&mut admin, "query_wait_timeout").as_deref(), Some("77"));
    }

    #[test]
    fn many_reloads_disturb_nobody_and_leak_nothing() {
        let pg = Postgres::shared();
        let (app, extra) = {
            let entry = |database: &str| format!("host=127.0.0.1 port={} dbname={database}", pg.port);
            (entry(&pg.create_database()), entry("postgres"))
        };
        let mut bouncer = Bouncer::start(pg, |setup| {
            let setup = setup.set("auth_type", "md5").set("verbose", 0).set("log_connections", 0);
            nth(setup, 0, &app, &extra).set("log_disconnections", 0).secret("app", "steady").secret("admin", "admin")
        });
        let mut admin = bouncer.admin();
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let total = seconds() * RELOADS;
        let (mut before, began) = (None, Instant::now());
        let (mut changes, mut broken) = (0, 0);
        let port = bouncer.port;
        thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| work(port, &stop, &done))).collect();
            for n in 1..=total {
                thread::sleep(
                    (began + millis(1000 / u64::from(RELOADS)) * n).saturating_duration_since(Instant::now()),
                );
                if n == total / 3 {
                    before = Some((bouncer.memory_kib("VmRSS"), open_files(&bouncer)));
                }
                if n.is_multiple_of(5) {
                    bouncer.overwrite_ini("[pgbouncer]\nquery_wait_timeout = 7\npool_mode = none\n[databases]\n");
                    assert_eq!(admin.fails("RELOAD").code, "F0000");
                    assert_eq!(setting(&mut admin, "query_wait_timeout"), Some((100 + n - 1).to_string()));
                    broken += 1;
                    continue;
                }
                bouncer.rewrite(|setup| nth(setup, n, &app, &extra));
                admin.run("RELOAD");
                changes += 1;
                if n % 10 == 1 {
                    assert_eq!(setting(&mut admin, "query_wait_timeout"), Some((100 + n).to_string()));
                    let refused = bouncer.try_client("other", "app", &format!("password-{}", n - 1));
                    assert_eq!(refused.err().expect("a refusal").code, "28P01");
                    bouncer.try_client("other", "app", &format!("password-{n}")).expect("the new password");
                }
            }
            stop.store(true, Ordering::Relaxed);
            for worker in workers {
                worker.join().expect("no error under load");
            }
        });
        assert!(broken > 0 && changes > 3 * broken);
        assert!(done.load(Ordering::Relaxed) > 100, "{done:?} transactions");
        let (memory, files_open) = before.expect("figures of the first third");
        let grown = bouncer.memory_kib("VmRSS").saturating_sub(memory);
        assert!(grown < 8 * 1024, "{grown} KiB more than after a third of the reloads");
        assert!(open_files(&bouncer) <= files_open + 16, "descriptors: {files_open}, then {}", open_files(&bouncer));
    }
}
