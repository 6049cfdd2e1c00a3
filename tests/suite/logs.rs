//! What the log says, where it goes, and that nobody waits for it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::process::scratch_dir;
use crate::support::*;

/// The pooler under test, logging into a file of its own too.
fn start_with_logfile(name: &str) -> (Bouncer, std::path::PathBuf) {
    let path = scratch_dir("logs").join(name);
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("logfile", path.display()));
    (bouncer, path)
}

#[test]
fn a_reload_opens_the_file_anew() {
    let (bouncer, path) = start_with_logfile("own.log");
    let moved = path.with_extension("old");
    fs::rename(&path, &moved).expect("move the log away");
    bouncer.signal("HUP");
    bouncer.wait_log("got SIGHUP");
    wait_until("a login in the new log", PATIENCE, || {
        bouncer.client();
        fs::read_to_string(&path).is_ok_and(|log| log.contains("login attempt: db=app user=app tls=no replication=no"))
    });
    assert!(fs::read_to_string(&moved).expect("read the old log").contains("process up: "));
}

#[test]
fn nobody_writes_lines_of_his_own() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("verbose", 3));
    for name in ["evil\n2026-11-21 FATAL", "\r2026", "\u{1b}[2J2026"] {
        bouncer.try_client(name, "app", "").map(drop).expect_err("nobody of that name");
        bouncer.try_client("app", name, "").map(drop).expect_err("no such database");
    }
    bouncer.wait_log("2J2026");
    let log = bouncer.log();
    let is_forged = |line: &&str| line.starts_with("2026-11-21 FATAL") || line.starts_with("2026\u{0}");
    assert_eq!(log.lines().find(is_forged), None);
}

#[test]
fn no_password_is_in_the_log() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| {
        setup.set("auth_type", "plain").set("verbose", 3).secret("app", "correct-horse")
    });
    bouncer.try_client("app", "app", "correct-horse").map(drop).expect("log in");
    bouncer.try_client("app", "app", "battery-staple").map(drop).expect_err("a wrong password");
    bouncer.wait_log("authentication failed");
    let log = bouncer.log();
    assert!(!log.contains("correct-horse") && !log.contains("battery-staple"), "{log}");
}

#[test]
fn statistics_are_logged_every_stats_period() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("stats_period", 1));
    bouncer.client().run("select 1");
    bouncer.wait_log(" LOG stats: ");
    let log = bouncer.log();
    let line = log.lines().find_map(|line| line.split_once(" LOG stats: ")).expect("a line of statistics").1;
    let words: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
    assert_eq!(
        words,
        " xacts/s,  queries/s,  client parses/s,  server parses/s,  binds/s,  client logins/s, \
         in  B/s, out  B/s, xact  us, query  us, wait  us"
    );
    bouncer.admin().run("SET log_stats = 0");
    let count = |log: &str| log.matches("stats: ").count();
    let before = count(&bouncer.log());
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(count(&bouncer.log()) <= before + 1, "one may have been on its way");
}

/// What the log says behind time and process, without what is another each time.
fn said(bouncer: &Bouncer) -> Vec<String> {
    let plain = |line: &str| {
        let text = line.split_once("] ").map_or(line, |(_, text)| text);
        let is_number = |word: &str| word.bytes().all(|b| b.is_ascii_hexdigit());
        let words = text.split(' ').map(|word| {
            let word = word
                .split_once("-0x")
                .filter(|(_, id)| is_number(id.trim_end_matches(':')))
                .map_or(word, |(side, _)| side);
            word.rsplit_once("@127.0.0.1:").map_or(word, |(whose, _)| whose)
        });
        words.collect::<Vec<_>>().join(" ")
    };
    bouncer.log().lines().map(plain).collect()
}

/// The lines that what happens in `act` leaves, the last of them with this end.
#[track_caller]
fn lines_of(bouncer: &Bouncer, last: &str, act: impl FnOnce()) -> Vec<String> {
    let before = said(bouncer).len();
    act();
    wait_until(last, PATIENCE, || said(bouncer)[before..].iter().any(|line| line.ends_with(last)));
    said(bouncer).split_off(before)
}

#[test]
fn lines_are_pgbouncer_s_in_its_order() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    bouncer.client().send(&msg::terminate());
    bouncer.wait_log("client close request");

    let refused = || drop(bouncer.refusal("app", "none", ""));
    assert_eq!(
        lines_of(&bouncer, "pooler error: no such database: none", refused),
        [
            "LOG C (nodb)/app login attempt: db=none user=app tls=no replication=no",
            "LOG C (nodb)/app login failed: db=none user=app",
            "LOG C (nodb)/app closing because: no such database: none (age=0s)",
            "WARNING C (nodb)/app pooler error: no such database: none",
        ]
    );

    let attempt = "LOG C app/app login attempt: db=app user=app tls=no replication=no";
    let garbage = || {
        let mut client = bouncer.client();
        client.send(b"?\0\0\0\x04");
        client.expect("E");
    };
    assert_eq!(
        lines_of(&bouncer, "pooler error: unknown pkt", garbage),
        [
            attempt,
            "ERROR C app/app unknown pkt from client: 63/0x3f",
            "LOG C app/app closing because: unknown pkt (age=0s)",
            "WARNING C app/app pooler error: unknown pkt",
        ]
    );

    let gone = || bouncer.client().run("begin");
    assert_eq!(
        lines_of(&bouncer, "while server was not ready (age=0s)", gone),
        [
            attempt,
            "LOG C app/app closing because: client unexpected eof (age=0s)",
            "LOG S app/app closing because: client disconnect while server was not ready (age=0s)",
        ]
    );

    let mut admin = bouncer.admin();
    bouncer.wait_log("login attempt: db=pgbouncer");
    let text = "invalid command 'FROB', use SHOW HELP;";
    assert_eq!(
        lines_of(&bouncer, &format!("pooler error: {text}"), || drop(admin.fails("FROB"))),
        [format!("ERROR {text}"), format!("WARNING C pgbouncer/admin pooler error: {text}")]
    );
}

#[test]
fn a_check_of_whether_somebody_listens_leaves_no_line() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("tcp_defer_accept", 0));
    // So did the harness.
    for check in [&b""[..], &msg::packet(msg::SSL_REQUEST, &[])] {
        let mut wire = Wire::tcp(bouncer.port);
        wire.send(check);
        wire.try_shutdown_write().expect("shut down");
        wire.drain();
    }
    bouncer.refusal("app", "none", "");
    bouncer.wait_log("pooler error: no such database");
    assert_eq!(bouncer.logged("closing because"), 1, "{}", bouncer.log());
}

#[test]
fn what_is_not_wanted_is_not_logged() {
    let bouncer = start_quiet();
    bouncer.client().send(&msg::terminate());
    bouncer.refusal("app", "no_such_database", "");
    bouncer.admin().run("SHOW VERSION");
    bouncer.admin().run("SET log_pooler_errors = 1");
    bouncer.refusal("app", "no_such_database", "");
    bouncer.wait_log("pooler error: no such database");
    let log = bouncer.log();
    assert_eq!(log.matches("pooler error").count(), 1, "{log}");
    for unwanted in ["login attempt", "closing because", "new connection to server"] {
        assert!(!log.contains(unwanted), "{unwanted}: {log}");
    }
}

fn start_quiet() -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| {
        setup.set("log_connections", 0).set("log_disconnections", 0).set("log_pooler_errors", 0)
    })
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn json_has_a_key_for_everything() {
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("log_format", "json"));
        bouncer.try_client("a\"\\\n", "app", "").map(drop).expect_err("nobody of that name");
        bouncer.client().run("select 1");
        bouncer.wait_log("login attempt: db=app user=app");
        let log = bouncer.log();
        let line =
            |text: &str| log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text}: {log}"));
        let up = line("process up: ");
        assert!(
            up.starts_with("{\"time\":\"20") && up.contains(&format!("\"pid\":{},\"level\":\"LOG\"", bouncer.pid()))
        );
        let login = line("login attempt: db=app user=app ");
        for part in ["\"client\":\"0x", "\"user\":\"app\"", "\"database\":\"app\"", "\"address\":\"127.0.0.1:"] {
            assert!(login.contains(part), "{part}: {login}");
        }
        assert!(line("\"user\":\"a\\\"\\\\\\n\"").contains("login attempt"));
        assert!(line("new connection to server").contains("\"server\":\"0x"));
        assert!(log.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{log}");
        bouncer.admin().run("SET log_format = 'text'");
        bouncer.client();
        bouncer.wait_log(" LOG C-0x");
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let mut bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("logfile", "/dev/full"));
        for _ in 0..10 {
            bouncer.client().run("select 1");
        }
        let path = scratch_dir("logs").join("own.log");
        bouncer.reload(|setup| setup.set("logfile", path.display()));
        bouncer.client();
        wait_until("the lost lines are told of", PATIENCE, || {
            fs::read_to_string(&path).is_ok_and(|log| log.contains(" log lines lost: "))
        });
        assert!(!bouncer.log().contains(" log lines lost: "), "stderr has lost none");
    }

    /// A pipe to log into, and the test's end of it.
    fn pipe() -> (std::path::PathBuf, File) {
        let path = scratch_dir("logs").join("pipe");
        let made = Command::new("mkfifo").args(["-m", "666"]).arg(&path).status().expect("run mkfifo");
        assert!(made.success());
        let end = File::options().read(true).write(true).open(&path).expect("open the pipe");
        (path, end)
    }

    /// The log is slow here: its reader takes a page (4 KB) of a full pipe every few milliseconds.
    #[test]
    fn whoever_is_turned_away_finds_the_line_in_the_log() {
        let (path, end) = pipe();
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("logfile", path.display()));
        (&end).write_all(&[b'x'; 60 * 1024]).expect("fill the pipe");
        let is_over = AtomicBool::new(false);
        let unsaid: Vec<String> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(millis(8));
                    let _ = (&end).read(&mut [0; 4096]).expect("read the pipe");
                }
            });
            let databases = (0..100).map(|round| format!("none{round}"));
            let unsaid = databases.filter(|database| {
                bouncer.refusal("app", database, "");
                !bouncer.log().contains(&format!("pooler error: no such database: {database}\n"))
            });
            let unsaid = unsaid.collect();
            is_over.store(true, Ordering::Relaxed);
            (&end).write_all(b"x").expect("let the reader end");
            unsaid
        });
        // It waits for 31 ms, and this machine may be busy.
        assert!(unsaid.len() < 10, "{unsaid:?}");
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_up_nobody() {
        let (path, mut reader) = pipe();
        let bouncer = Bouncer::start(Postgres::shared(), |setup| setup.set("logfile", path.display()));
        // Some 70 KB into a pipe that holds 64.
        for _ in 0..300 {
            bouncer.client().send(&msg::terminate());
        }
        let mut client = bouncer.client();
        assert_eq!(client.one("select 1"), "1");
        // The lines reach stderr all the same.
        wait_until("all disconnects in the log", PATIENCE, || {
            bouncer.log().matches("app/app@127.0.0.1").count() >= 600
        });
        let mut taken = String::new();
        wait_until("the lost lines are told of", PATIENCE, || {
            let mut buffer = [0; 65536];
            let n = reader.read(&mut buffer).expect("read the pipe");
            taken += &String::from_utf8_lossy(&buffer[..n]);
            taken.contains(" log lines lost: ")
        });
    }
}
