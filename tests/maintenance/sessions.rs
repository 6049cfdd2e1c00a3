//! `sessions`: those that meet the conditions and no others.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::program::{Program, dsn, monitored, pgweir};
use crate::support::*;

/// A database with three clients: `idle`, `busy` in `pg_sleep`, and `open` in a transaction.
struct Scene {
    pg: &'static Postgres,
    database: String,
    idle: Wire,
    busy: Wire,
    open: Wire,
}

impl Scene {
    fn new() -> Scene {
        let pg = Postgres::shared();
        let (_, database) = monitored(pg);
        pg.sql(
            "do $$ begin create role operator login in role pg_monitor, pg_signal_backend;
             exception when duplicate_object or unique_violation then null; end $$",
        );
        let client = |application: &str| {
            let mut wire = Wire::tcp(pg.port);
            wire.login("app", &database, "", &[("application_name", application)]).expect("log in");
            wire
        };
        let (idle, mut busy, mut open) = (client("web 1"), client("web_2"), client("job"));
        open.run("begin");
        busy.send(&msg::query("select pg_sleep(600) as the_slow_one"));
        let asleep = format!("select 1 from pg_stat_activity where datname = '{database}' and wait_event = 'PgSleep'");
        wait_until("it sleeps", PATIENCE, || !pg.sql(&asleep).is_empty());
        Scene { pg, database, idle, busy, open }
    }

    fn run(&self, line: &str) -> Program {
        pgweir(line).on(self.pg, "operator", &self.database)
    }

    /// The applications of the sessions that are listed.
    fn listed(&self, line: &str, extra: &[&str]) -> Vec<String> {
        let program = extra.iter().fold(pgweir(&format!("sessions list {line}")), |program, arg| program.arg(*arg));
        let program = program.on(self.pg, "operator", &self.database);
        let mut names: Vec<String> =
            program.rows().iter().map(|row| row["application"].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    }

    /// So many sessions are left, when those of the commands are gone.
    fn left(&self, sessions: usize) {
        wait_until("so many are left", PATIENCE, || self.live() == sessions);
    }

    fn live(&self) -> usize {
        self.pg.backends(&self.database)
    }
}

#[test]
fn conditions() {
    let mut scene = Scene::new();
    assert_eq!(scene.listed("", &[]), ["job", "web 1", "web_2"]);
    assert_eq!(scene.listed("--idle 0", &[]), ["job", "web 1"]);
    assert_eq!(scene.listed("--idle 1h", &[]), [""; 0]);
    assert_eq!(scene.listed("--active 0", &[]), ["web_2"]);
    assert_eq!(scene.listed("--age 1h", &[]), [""; 0]);
    assert_eq!(scene.listed("--state idle", &[]), ["web 1"]);
    assert_eq!(scene.listed("--state idle-in-transaction --state active", &[]), ["job", "web_2"]);
    assert_eq!(scene.listed("--user nobody", &[]), [""; 0]);
    assert_eq!(scene.listed("--user app --limit 2", &[]).len(), 2);
    assert_eq!(scene.listed("--application", &["web*"]), ["web 1", "web_2"]);
    // Not LIKE's, which would match any character.
    assert_eq!(scene.listed("--application", &["web_*"]), ["web_2"]);
    assert_eq!(scene.listed("--query", &["THE_SLOW.one"]), ["web_2"]);
    assert_eq!(scene.listed("--in-database postgres --application", &["web*"]), [""; 0]);
    assert!(!scene.listed("--in-database * --user app --application", &["web 1"]).is_empty());
    let pid = scene.open.backend().to_string();
    assert_eq!(scene.listed(&format!("--pid {pid}"), &[]), ["job"]);
    scene.idle.fails("select nonsense");
    scene.open.fails("select nonsense");
    assert_eq!(scene.listed("--state idle-in-transaction-aborted", &[]), ["job"]);
    scene.run("sessions list --query=(").run().fails(2, "SQLSTATE 2201B");
}

#[test]
fn nothing_is_done_unasked() {
    let scene = Scene::new();
    for verb in ["cancel", "terminate"] {
        scene.run(&format!("sessions {verb} --yes")).run().fails(5, "nothing says which sessions");
        let ran = scene.run(&format!("sessions {verb} --user app")).run().fails(5, "there is no terminal to ask on");
        assert!(ran.stderr.contains(&format!("not confirmed: {verb} 3 sessions of")), "{}", ran.stderr);
        let ran = scene.run(&format!("sessions {verb} --user app --dry-run")).run().ok();
        assert_eq!(ran.stdout.matches(&format!("select pg_{verb}_backend(")).count(), 3, "{}", ran.stdout);
        assert!(ran.stdout.lines().all(|line| line.ends_with(';')), "{}", ran.stdout);
    }
    scene.left(3);
    let asleep =
        format!("select 1 from pg_stat_activity where datname = '{}' and wait_event = 'PgSleep'", scene.database);
    assert_eq!(scene.pg.sql(&asleep).len(), 1);
}

#[test]
fn on_a_terminal_a_word_is_asked_for() {
    let scene = Scene::new();
    let asked = |answer: &str| {
        // Without exec a shell would stay in between, and some answer Ctrl-C themselves.
        let line = format!(
            "exec {} sessions terminate --state idle --dsn '{}'",
            env!("CARGO_BIN_EXE_pgweir"),
            dsn(scene.pg, "operator", &scene.database)
        );
        let mut script = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run script");
        let (mut stdin, mut stdout) = (script.stdin.take().expect("stdin"), script.stdout.take().expect("stdout"));
        let mut shown = Vec::new();
        let begun = Instant::now();
        while !String::from_utf8_lossy(&shown).contains("Type TERMINATE to go on: ") {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).expect("read the terminal"), 1, "{}", String::from_utf8_lossy(&shown));
            shown.extend(byte);
        }
        stdin.write_all(answer.as_bytes()).expect("answer");
        let code = script.wait().expect("wait for it").code();
        assert!(begun.elapsed() < PATIENCE, "{answer:?}: {:?}", begun.elapsed());
        code
    };
    assert_eq!(asked("no\n"), Some(5));
    // Ctrl-C
    assert_eq!(asked("\u{3}"), Some(2));
    scene.left(3);
    assert_eq!(asked("TERMINATE\n"), Some(0));
    scene.left(2);
}

#[test]
fn cancelling_ends_the_statement_alone() {
    let mut scene = Scene::new();
    let rows = scene.run("sessions cancel --active 0 --yes").rows();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!((&rows[0]["result"], &rows[0]["application"]), (&"cancelled".into(), &"web_2".into()));
    let error = scene.busy.answer_of_query().expect_err("it is cancelled");
    assert_eq!(error.code, "57014");
    scene.left(3);
}

#[test]
fn terminating_keeps_to_the_limit() {
    let scene = Scene::new();
    let ran = scene.run("sessions terminate --idle 0 --limit 1 --yes --output json").run().ok();
    assert!(ran.stderr.contains("idle servers of a pooler cannot be told"), "{}", ran.stderr);
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).expect("a list");
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0]["result"], "terminated");
    scene.left(2);
    let ran = scene.run("sessions terminate --pid 1 --yes").run().ok();
    assert_eq!(ran.stdout, "There is nothing to terminate.\n");
    scene.left(2);
}

#[test]
fn what_may_not_be_ended_is_told() {
    let scene = Scene::new();
    let mut superuser = scene.pg.direct(&scene.database);
    superuser.run("set application_name = 'boss'");
    // Nobody's but a superuser's.
    let ran = scene.run("sessions terminate --user postgres --yes --output json").run().ends_with(2);
    assert!(ran.stdout.contains("not terminated: "), "{}", ran.stdout);
    assert_eq!(superuser.one("select 1"), "1");
    let ran = scene.run("sessions terminate --state idle --yes --output json").run().ends_with(7);
    assert!(ran.stdout.contains("\"not terminated: ") && ran.stdout.contains("\"terminated\""), "{}", ran.stdout);
    // Without the right to signal anybody.
    let ran =
        pgweir("sessions terminate --state idle-in-transaction --yes").on(scene.pg, "monitor", &scene.database).run();
    ran.ends_with(2);
    scene.left(2);
}

#[test]
fn idle_servers_of_the_pooler_stay() {
    let pg = Postgres::shared();
    monitored(pg);
    let bouncer = Bouncer::start(pg, |setup| setup);
    let mut client = bouncer.client();
    client.run("select 1");
    let mut stray = Wire::tcp(pg.port);
    stray.login("app", &bouncer.server_database, "", &[]).expect("log in");
    assert_eq!(bouncer.backends(pg), 2);
    let file = bouncer.dir.join("pooler.ini").display().to_string();
    let on = |line: &str| {
        pgweir(line).arg("--config").arg(&file).arg("--database").arg("app").arg("--dsn").arg("user=postgres")
    };
    let ran = on("sessions terminate --idle 0 --yes").run().ok();
    assert!(ran.stderr.contains("1 of them are idle servers of the pooler and stay"), "{}", ran.stderr);
    wait_until("the stray one has gone", PATIENCE, || bouncer.backends(pg) == 1);
    // The same without the pooler's configuration.
    let console = format!("host=127.0.0.1 port={} user=admin", bouncer.port);
    let by_console = pgweir("sessions terminate --idle 0 --yes").arg("--console").arg(&console);
    let ran = by_console.on(pg, "postgres", &bouncer.server_database).run().ok();
    assert!(ran.stderr.contains("1 of them are idle servers of the pooler and stay"), "{}", ran.stderr);
    assert_eq!(client.one("select 2"), "2");
    // One that a client has left in its transaction is no idle server.
    client.run("begin");
    let ran = on("sessions terminate --state idle-in-transaction --yes").run().ok();
    assert!(ran.stdout.contains("terminated"), "{}", ran.stdout);
    // Who cannot be asked might own any of them.
    drop(bouncer);
    on("sessions terminate --idle 0 --yes").run().fails(3, "the pooler's console");
}

#[test]
fn walsenders_and_our_own_jobs_are_no_sessions() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let mut walsender = Wire::tcp(pg.port);
    walsender.login("replicator", &database, "", &[("replication", "true")]).expect("log in");
    let mut job = Wire::tcp(pg.port);
    job.login("app", &database, "", &[("application_name", "pgweir/vacuum")]).expect("log in");
    let rows = pgweir("sessions list --in-database *").on(pg, monitor, &database).rows();
    let users: Vec<&Value> = rows.iter().map(|row| &row["user"]).collect();
    assert!(!users.contains(&&"replicator".into()), "{rows:#?}");
    assert!(
        rows.iter().all(|row| !row["application"].as_str().is_some_and(|name| name.starts_with("pgweir/"))),
        "{rows:#?}"
    );
}
