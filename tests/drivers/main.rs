//! Drivers as applications use them, through transaction pooling with their default settings.
//!
//! Each program beside this file opens 20 clients at once and prints what they see: results and
//! errors, no times. Here it runs directly against PostgreSQL, then through the pooler with four
//! servers, and both transcripts must be equal. `scripts/drivers.sh` installs the drivers.

#[allow(dead_code, unused_imports, reason = "the rest is for the tests of tests/suite")]
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use support::*;

const CLIENTS: u64 = 20;
const SERVERS: u64 = 4;

/// After so long a program hangs.
const PROGRAM_SECONDS_MAX: &str = "150";

fn program(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(path);
    path.to_str().expect("a readable path").to_owned()
}

fn installed(path: &str) -> String {
    process::installed(path).to_str().expect("a readable path").to_owned()
}

/// What `command` prints, given `url` in the place of `{}`; or how it failed.
fn transcript(command: &[&str], url: &str) -> Result<String, String> {
    let programs = postgres::program("");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").expect("a PATH"));
    let out = Command::new("timeout")
        .args(["--kill-after=1", PROGRAM_SECONDS_MAX])
        .args(command.iter().map(|argument| argument.replace("{}", url)))
        .env("PATH", path)
        .output()
        .expect("run timeout");
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let last = &out.stderr[out.stderr.len().saturating_sub(4000)..];
    Err(format!("{command:?} at {url}: {}\n{}", out.status, String::from_utf8_lossy(last)))
}

/// The most backends and clients seen while `work` ran.
fn watched<T>(bouncer: &Bouncer, pg: &Postgres, work: impl FnOnce() -> T) -> (T, u64, u64) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut servers, mut clients) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                servers = servers.max(bouncer.backends(pg) as u64);
                clients =
                    clients.max(bouncer.pool("app", "app", "cl_active") + bouncer.pool("app", "app", "cl_waiting"));
                thread::sleep(millis(20));
            }
            (servers, clients)
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        let (servers, clients) = watcher.join().expect("the watcher");
        (done, servers, clients)
    })
}

/// The first difference in each client's part, under the heading of its scenario.
fn differences(direct: &str, pooled: &str) -> Vec<String> {
    let parts = |text: &str| text.split("== ").skip(1).map(str::to_owned).collect::<Vec<_>>();
    let (direct, pooled) = (parts(direct), parts(pooled));
    assert_eq!(direct.len(), pooled.len(), "clients");
    let first = |direct: &str, pooled: &str| {
        let (mut left, mut right, mut scenario) = (direct.lines(), pooled.lines(), "");
        let client = left.next().unwrap_or_default();
        right.next();
        loop {
            match (left.next(), right.next()) {
                (None, None) => return None,
                (direct, pooled) if direct != pooled => {
                    let (direct, pooled) = (direct.unwrap_or("(nothing)"), pooled.unwrap_or("(nothing)"));
                    return Some(format!("{client}, {scenario}\n  direct {direct:.500}\n  pooled {pooled:.500}\n"));
                }
                (line, _) => scenario = line.filter(|line| line.starts_with("# ")).unwrap_or(scenario),
            }
        }
    };
    direct.iter().zip(&pooled).filter_map(|(direct, pooled)| first(direct, pooled)).collect()
}

/// Runs a program directly and through the pooler.
#[track_caller]
fn compare(command: &[&str], change: impl FnOnce(bouncer::Setup) -> bouncer::Setup) {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let direct = transcript(command, &format!("postgresql://app@127.0.0.1:{}/{database}", pg.port))
        .unwrap_or_else(|e| panic!("{e}"));
    let wrong: Vec<_> = direct.lines().filter(|line| line.contains("UNEXPECTED")).collect();
    assert!(wrong.is_empty(), "{command:?} is wrong, or the driver is: {wrong:?}");
    assert!(direct.contains("== client 19\n# "), "{command:?} does not say what client 19 did");
    let bouncer = Bouncer::start(pg, |setup| change(setup.set("default_pool_size", SERVERS)));
    let url = format!("postgresql://app@127.0.0.1:{}/app", bouncer.port);
    let (pooled, servers, clients) = watched(&bouncer, pg, || transcript(command, &url));
    let differences = differences(&direct, &pooled.unwrap_or_else(|e| panic!("{e}")));
    assert!(differences.is_empty(), "{command:?}: {} parts differ\n{}", differences.len(), differences.concat());
    assert_eq!(servers, SERVERS, "servers in use");
    assert!(clients >= CLIENTS, "{clients} clients at once");
}

#[test]
fn psql() {
    compare(&["bash", &program("libpq/psql.sh"), "{}"], |setup| setup);
}

#[test]
fn pgbench() {
    compare(&["bash", &program("libpq/pgbench.sh"), "{}"], |setup| setup);
}

#[test]
fn psycopg() {
    compare(&[&installed("python/bin/python"), &program("python/psycopg_clients.py"), "{}"], |setup| setup);
}

#[test]
fn asyncpg() {
    compare(&[&installed("python/bin/python"), &program("python/asyncpg_clients.py"), "{}"], |setup| setup);
}

#[test]
fn sqlalchemy_on_psycopg() {
    let script = program("python/sqlalchemy_clients.py");
    compare(&[&installed("python/bin/python"), &script, "{}", "psycopg"], |setup| setup);
}

#[test]
fn sqlalchemy_on_asyncpg() {
    let script = program("python/sqlalchemy_clients.py");
    compare(&[&installed("python/bin/python"), &script, "{}", "asyncpg"], |setup| setup);
}

#[test]
fn node_postgres() {
    compare_node("node/pg.js");
}

#[test]
fn prisma() {
    compare_node("node/prisma.js");
}

fn compare_node(script: &str) {
    let modules = format!("NODE_PATH={}", installed("node/node_modules"));
    compare(&["env", &modules, "node", &program(script), "{}"], |setup| setup);
}

#[test]
fn pgjdbc() {
    let classes = format!("{}:/usr/share/java/postgresql.jar", installed("jdbc"));
    compare(&["java", "-cp", &classes, "Pgjdbc", "{}"], without_float_digits);
}

#[test]
fn tokio_postgres() {
    compare(&[&installed("rust/debug/tokio_postgres"), "{}"], |setup| setup);
}

#[test]
fn sqlx() {
    compare(&[&installed("rust/debug/sqlx"), "{}"], without_float_digits);
}

/// The console, through each driver with its own protocol: prepared statements, binary results.
#[test]
fn console() {
    let bouncer = Bouncer::start(Postgres::shared(), without_float_digits);
    let url = format!("postgresql://admin@127.0.0.1:{}/pgbouncer", bouncer.port);
    let modules = format!("NODE_PATH={}", installed("node/node_modules"));
    for (command, said) in [
        (&[&*installed("python/bin/python"), &program("python/console.py"), "{}"][..], "psycopg\nasyncpg\n"),
        (&["env", &modules, "node", &program("node/console.js"), "{}"], "node-postgres\n"),
        (&["java", "-cp", "/usr/share/java/postgresql.jar", &program("jdbc/Console.java"), "{}"], "pgjdbc\n"),
    ] {
        assert_eq!(transcript(command, &url).as_deref(), Ok(said));
    }
}

/// The driver sends `extra_float_digits` when it connects, which PgBouncer's users tell it to ignore.
fn without_float_digits(setup: bouncer::Setup) -> bouncer::Setup {
    setup.set("ignore_startup_parameters", "extra_float_digits")
}
