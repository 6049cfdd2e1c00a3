//! Interrupts, kills, locks that are held, and rights that are missing.

use std::process::Child;

use super::{index, invalid, run, texts};
use crate::program::{Ran, pgweir};
use crate::support::process::signal;
use crate::support::*;

/// A table, and a transaction that is older than every build and so keeps it from ending.
struct Scene {
    pg: &'static Postgres,
    database: String,
    wire: Wire,
    old: Wire,
}

impl Scene {
    fn new() -> Scene {
        let pg = Postgres::shared();
        let database = pg.create_database();
        let mut wire = pg.direct(&database);
        wire.run("create table t (i int, j int); create index t_i on t (i); insert into t values (1, 1)");
        let mut old = pg.direct(&database);
        old.run("begin isolation level repeatable read; select 1");
        Scene { pg, database, wire, old }
    }

    /// Starts a build and waits until it waits for the old transaction.
    fn building(&mut self, line: &str) -> Child {
        let child = index(self.pg, &self.database, line, &[]).spawn();
        let waits =
            format!("select 1 from pg_stat_activity where datname = '{}' and wait_event = 'virtualxid'", self.database);
        let wire = &mut self.wire;
        wait_until("it waits", PATIENCE, || !texts(wire, &waits).is_empty());
        child
    }

    fn sessions(&mut self) -> Vec<String> {
        let sql = format!(
            "select query from pg_stat_activity where datname = '{}' and application_name like 'pgweir/%'",
            self.database
        );
        texts(&mut self.wire, &sql)
    }
}

fn ended(child: Child) -> Ran {
    let out = child.wait_with_output().expect("wait for it");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: out.status.code().expect("an exit code"), stdout: text(out.stdout), stderr: text(out.stderr) }
}

#[test]
fn an_interrupt_leaves_nothing() {
    for (line, name) in
        [("rebuild t_i --set fillfactor=50 --yes", "t_i_ccnew"), ("create t --columns j --yes", "t_j_idx")]
    {
        let mut scene = Scene::new();
        let child = scene.building(line);
        assert_eq!(invalid(&mut scene.wire), [name]);
        signal(child.id(), "INT");
        let ran = ended(child).fails(2, "pgweir: interrupted");
        assert!(!ran.stderr.contains("could not"), "{}", ran.stderr);
        assert!(invalid(&mut scene.wire).is_empty());
        assert_eq!(texts(&mut scene.wire, "select relname from pg_class where relname like 't\\_%'"), ["t_i"]);
        assert!(
            texts(&mut scene.wire, "select 1 from pg_class where relname = 't_i' and reloptions is not null")
                .is_empty()
        );
        wait_until("its sessions are gone", PATIENCE, || scene.sessions().is_empty());
    }
}

#[test]
fn what_a_kill_leaves_the_next_run_removes() {
    for line in ["rebuild t_i --yes", "create t --columns j --yes"] {
        let mut scene = Scene::new();
        let child = scene.building(line);
        signal(child.id(), "KILL");
        child.wait_with_output().expect("wait for it");
        // The server notices although it is busy.
        wait_until("its sessions are gone", PATIENCE, || scene.sessions().is_empty());
        assert_eq!(invalid(&mut scene.wire).len(), 1);
        scene.old.run("rollback");
        let ran = run(scene.pg, &scene.database, line, &[]).ok();
        assert!(ran.stderr.contains("which a build had left"), "{}", ran.stderr);
        assert!(invalid(&mut scene.wire).is_empty());
    }
}

#[test]
fn a_build_that_waits_too_long_is_given_up() {
    let mut scene = Scene::new();
    let pid = scene.old.backend();
    for line in ["rebuild t_i", "create t --columns j"] {
        let ran = run(scene.pg, &scene.database, &format!("{line} --max-wait 500ms --yes"), &[]);
        let ran =
            ran.fails(2, &format!("waited 500ms for the end of process {pid} (postgres, idle in transaction, since "));
        assert!(ran.stderr.contains("--max-wait makes it wait longer"), "{}", ran.stderr);
        assert!(invalid(&mut scene.wire).is_empty());
    }
}

#[test]
fn a_lock_that_is_held_for_ever_is_given_up() {
    let mut scene = Scene::new();
    scene.old.run("rollback; begin; lock table t in access exclusive mode");
    let pid = scene.old.backend();
    for line in ["rebuild t_i", "create t --name t_j --columns j", "drop t_i"] {
        let flags = "--lock-timeout 300ms --retries 1 --yes";
        let ran = run(scene.pg, &scene.database, &format!("{line} {flags}"), &[]);
        assert_eq!(ran.code, 2, "{line}: {}", ran.stderr);
        let is_told = ran.stderr.contains(&format!("held by process {pid}")) || ran.stderr.contains("lock timeout");
        assert!(is_told, "{line}: {}", ran.stderr);
    }
    scene.old.run("rollback");
    assert!(invalid(&mut scene.wire).is_empty());
    let names = "select relname from pg_class where relname like 't\\_%'";
    assert_eq!(texts(&mut scene.wire, names), ["t_i"]);
    // The lock comes free while it is waited for.
    scene.old.run("begin; lock table t in share update exclusive mode");
    let child = index(scene.pg, &scene.database, "rebuild t_i --lock-timeout 300ms --retries 50 --yes", &[]).spawn();
    let waits = format!(
        "select 1 from pg_locks where relation = {} and not granted",
        scene.wire.one("select 't'::regclass::oid")
    );
    wait_until("it waits", PATIENCE, || !texts(&mut scene.wire, &waits).is_empty());
    scene.old.run("rollback");
    ended(child).ok();
}

#[test]
fn a_drop_is_finished_or_told_of() {
    let mut scene = Scene::new();
    scene.old.run("rollback; begin; select * from t");
    let ran = run(scene.pg, &scene.database, "drop t_i --max-wait 300ms --yes", &[]);
    let ran = ran.fails(2, "waited 300ms for the end of process");
    assert!(ran.stderr.contains("could not finish the drop of public.t_i"), "{}", ran.stderr);
    assert_eq!(invalid(&mut scene.wire), ["t_i"]);
    scene.old.run("rollback");
    run(scene.pg, &scene.database, "drop t_i --yes", &[]).ok();
    assert!(invalid(&mut scene.wire).is_empty());
}

#[test]
fn one_job_at_a_time() {
    let mut scene = Scene::new();
    let child = scene.building("rebuild t_i --yes");
    for line in ["rebuild t_i --yes", "create t --columns j --yes", "drop t_i --yes"] {
        run(scene.pg, &scene.database, line, &[]).fails(6, "another job is at work on");
    }
    run(scene.pg, &scene.database, "rebuild t_i --dry-run", &[]).ok();
    scene.old.run("rollback");
    ended(child).ok();
}

#[test]
fn rights_are_missing() {
    let mut scene = Scene::new();
    scene.old.run("rollback");
    for line in ["rebuild t_i", "create t --columns j", "drop t_i"] {
        let ran = pgweir(&format!("index {line} --yes")).on(scene.pg, "other", &scene.database).run();
        assert_eq!(ran.code, 2, "{line}: {}", ran.stderr);
        let is_told = ran.stderr.contains("must be owner of") || ran.stderr.contains("permission denied");
        assert!(is_told, "{line}: {}", ran.stderr);
    }
    assert!(invalid(&mut scene.wire).is_empty());
    for flag in ["--unused", "--duplicate", "--missing", "--bloat", "--invalid", ""] {
        pgweir(&format!("index list {flag}")).on(scene.pg, "other", &scene.database).run().ok();
    }
}
