//! `autovacuum`: what it shows against what PostgreSQL's formulas say, and settings that come and go.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::program::{Program, find, monitored, pgweir};
use crate::servers::every_version;
use crate::support::*;

struct Scene {
    pg: &'static Postgres,
    database: String,
}

impl Scene {
    fn on(pg: &'static Postgres) -> Scene {
        let (_, database) = monitored(pg);
        let scene = Scene { pg, database };
        scene.app(
            "create schema \"Odd s\"; create table \"Odd s\".\"T 1\" (i int, t text);
             create table t (i int, x text) with (autovacuum_vacuum_threshold = 70, fillfactor = 90);
             insert into t select generate_series(1, 1000);
             create table plain (i int)",
        );
        scene
    }

    fn new() -> Scene {
        Scene::on(Postgres::shared())
    }

    /// As the owner, in a session of its own: the statistics know of it when that has ended.
    fn app(&self, sql: &str) {
        let mut app = Wire::tcp(self.pg.port);
        app.login("app", &self.database, "", &[]).expect("log in");
        app.run(sql);
    }

    fn one(&self, sql: &str) -> String {
        self.pg.direct(&self.database).one(sql)
    }

    fn run(&self, line: &str) -> Program {
        pgweir(&format!("autovacuum {line}")).on(self.pg, "app", &self.database)
    }

    fn rows(&self, line: &str) -> Vec<Value> {
        pgweir(&format!("autovacuum {line}")).on(self.pg, "monitor", &self.database).rows()
    }

    /// The table's and its TOAST table's settings.
    fn own(&self, table: &str) -> String {
        self.one(&format!(
            "select concat_ws(' ', c.reloptions::text, t.reloptions::text)
             from pg_class c left join pg_class t on t.oid = c.reltoastrelid where c.oid = '{table}'::regclass"
        ))
    }
}

#[test]
fn on_every_version() {
    std::thread::scope(|scope| {
        for (version, pg) in every_version() {
            scope.spawn(move || one_version(version, pg));
        }
    });
}

fn one_version(version: u32, pg: &'static Postgres) {
    let scene = Scene::on(pg);
    let inserted = "select pg_stat_get_ins_since_vacuum('t'::regclass)";
    wait_until("the statistics know it", PATIENCE, || scene.one(inserted) == "1000");
    scene.app("analyze t");
    scene.app("update t set i = i where i <= 400; alter table t set (autovacuum_analyze_scale_factor = 0.3)");
    let dead = "select pg_stat_get_dead_tuples('t'::regclass)";
    wait_until("the statistics know it", PATIENCE, || scene.one(dead) == "400");
    let rows = scene.rows("show");
    let row = find(&rows, "table", "public.t");
    // 70 + 0.2 * 1000, 1000 + 0.2 * 1000, 50 + 0.3 * 1000
    assert_eq!(
        (&row["vacuum_at"], &row["insert_at"], &row["analyze_at"]),
        (&json!(270), &json!(1200), &json!(350)),
        "{version}"
    );
    assert_eq!(
        (&row["dead"], &row["inserted"], &row["changed"]),
        (&json!(400), &json!(1000), &json!(400)),
        "{version}"
    );
    assert_eq!(row["state"], "due: dead rows, analyze", "{version}");
    assert!((row["near_pct"].as_f64().expect("a share") - 100.0 * 400.0 / 270.0).abs() < 1e-9, "{row}");
    let age = scene.one("select age(relfrozenxid) from pg_class where relname = 't'");
    assert!(row["xid_age"].as_i64() <= age.parse().ok(), "{row} {age}");
    assert_eq!(rows.first().map(|row| &row["table"]), Some(&json!("public.t")), "the nearest first");
    assert!(find(&rows, "table", "\"Odd s\".\"T 1\" (TOAST)")["analyze_at"].is_null(), "{version}");
    let due = scene.rows("show --due");
    assert!(due.iter().all(|row| row["state"].as_str().is_some_and(|state| state.starts_with("due"))), "{due:#?}");
    assert_eq!(scene.rows("show --limit 1").len(), 1);

    let settings = scene.rows("show t --settings");
    let threshold = find(&settings, "setting", "autovacuum_vacuum_threshold");
    assert_eq!(
        (&threshold["value"], &threshold["source"], &threshold["server_value"]),
        (&json!("70"), &json!("table"), &json!("50"))
    );
    assert_eq!(
        find(&settings, "setting", "autovacuum_enabled")["value"],
        "off",
        "{version}: as the tests' servers have it"
    );
    assert_eq!(settings.iter().any(|row| row["setting"] == "autovacuum_vacuum_max_threshold"), version >= 18);

    // In parallel with the others: a suggestion needs nothing of its own.
    scene.rows("suggest");
    let before = scene.own("t");
    scene.run("set t vacuum_threshold=1000 vacuum_scale_factor=0.01 toast.vacuum_cost_limit=400 analyze_scale_factor=default").run().ok();
    let set = scene.own("t");
    for part in [
        "autovacuum_vacuum_threshold=1000",
        "autovacuum_vacuum_scale_factor=0.01",
        "{autovacuum_vacuum_cost_limit=400}",
        "fillfactor=90",
    ] {
        assert!(set.contains(part), "{version}: {part} in {set}");
    }
    assert!(!set.contains("analyze"), "{set}");
    let toast = scene.rows("show t --settings");
    let limits: Vec<&Value> =
        toast.iter().filter(|row| row["setting"] == "autovacuum_vacuum_cost_limit").map(|row| &row["value"]).collect();
    assert_eq!(limits, ["-1", "400"], "{version}");
    // What was there before the first one counts.
    scene.run("set t vacuum_threshold=5").run().ok();
    let undone = scene.run("undo t").rows();
    assert_eq!(undone.len(), 4, "{version}: {undone:#?}");
    let sorted = |text: &str| {
        let mut parts: Vec<String> = text.trim_matches(['{', '}']).split(',').map(str::to_owned).collect();
        parts.sort();
        parts
    };
    assert_eq!(sorted(&scene.own("t")), sorted(&before), "{version}");
    assert_eq!(scene.one("select count(*)::text from pgweir.autovacuum_before"), "0");

    let max = scene.run("set t vacuum_max_threshold=100").run();
    if version < 18 {
        max.fails(4, "has no autovacuum_vacuum_max_threshold yet");
    } else {
        max.ok();
        assert_eq!(find(&scene.rows("show t"), "table", "public.t")["vacuum_at"], 100);
    }
    running(version, &scene);
}

/// A VACUUM that takes long is seen where it is.
fn running(version: u32, scene: &Scene) {
    let mut slow = scene.pg.direct(&scene.database);
    slow.run("insert into plain select generate_series(1, 5000)");
    slow.run("set vacuum_cost_delay = 100; set vacuum_cost_limit = 1");
    let pid = slow.backend();
    slow.send(&msg::query("vacuum plain"));
    wait_until("it is shown", PATIENCE, || {
        let rows = scene.rows("show plain");
        find(&rows, "table", "public.plain")["state"]
            .as_str()
            .is_some_and(|state| state.starts_with("VACUUM: ") && state.ends_with(&format!("by client backend {pid}")))
    });
    scene.pg.sql(&format!("select pg_cancel_backend({pid})"));
    assert!(slow.answer_of_query().is_err(), "{version}");
}

#[test]
fn a_person_sees_one_table_line_by_line() {
    let scene = Scene::new();
    let ran = pgweir("autovacuum show t").on(scene.pg, "monitor", &scene.database).run().ok();
    let plain = pgweir("autovacuum show plain").on(scene.pg, "monitor", &scene.database).run().ok();
    assert!(plain.stdout.starts_with("table ") && plain.stdout.contains("\nvacuum at "), "{}", plain.stdout);
    // It has a TOAST table.
    assert!(ran.stdout.contains("public.t (TOAST)"), "{}", ran.stdout);
    assert!(ran.stderr.contains("of 3 workers busy, every 1min; 200 of cost, then 2 ms of rest: at most 390.6 MB/s read or 39.1 MB/s written"), "{}", ran.stderr);
    assert!(ran.stderr.contains("warning: autovacuum is off on this server"), "{}", ran.stderr);
}

#[test]
fn suggestions_go_by_what_is_done_to_a_table() {
    let scene = Scene::new();
    scene.app(
        "create table churn (i int); insert into churn select generate_series(1, 20000);
         create table grows (i int); insert into grows select generate_series(1, 20000);
         insert into \"Odd s\".\"T 1\" select generate_series(1, 300)",
    );
    scene.app("update churn set i = i; alter table churn set (autovacuum_vacuum_cost_delay = 10)");
    for _ in 0..6 {
        scene.app("update \"Odd s\".\"T 1\" set i = i");
    }
    scene.app("analyze");
    let known = "select pg_stat_get_tuples_updated('\"Odd s\".\"T 1\"'::regclass) || ' ' || pg_stat_get_tuples_updated('churn'::regclass)";
    wait_until("the statistics know it", PATIENCE, || scene.one(known) == "1800 20000");
    let rows = scene.run("suggest").rows();
    let kinds: Vec<(&str, &str)> =
        rows.iter().filter_map(|row| Some((row["table"].as_str()?, row["kind"].as_str()?))).collect();
    assert_eq!(kinds.len(), 3, "{rows:#?}");
    let suggested = |table: &str| find(&rows, "table", table);
    assert_eq!(suggested("public.churn")["kind"], "high churn");
    assert_eq!(
        suggested("public.churn")["settings"],
        json!(["vacuum_threshold=1000", "vacuum_scale_factor=0.01", "vacuum_cost_delay=2"])
    );
    let reason = suggested("public.churn")["reason"].as_str().expect("a text");
    assert!(reason.starts_with("20000 updates and deletes"), "{reason}");
    assert!(
        reason
            .contains("it comes at 4050 dead rows, and would at 1200; it rests 10 ms at a time, and smaller is faster"),
        "{reason}"
    );
    assert_eq!(suggested("public.grows")["settings"], json!(["vacuum_insert_scale_factor=0.05"]));
    let odd = suggested("\"Odd s\".\"T 1\"");
    assert_eq!(
        (&odd["kind"], &odd["settings"]),
        (&json!("cache"), &json!(["vacuum_threshold=25", "vacuum_scale_factor=0.05"]))
    );

    // The commands work as they are printed, and nothing is left to suggest then.
    for row in &rows {
        let command = row["command"].as_str().expect("a command");
        let line = command.replacen("pgweir", env!("CARGO_BIN_EXE_pgweir"), 1);
        let done = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().expect("run sh");
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let none = scene.run("suggest").run().ok();
    assert_eq!(none.stdout, "The settings fit what is done to the tables, or nothing has been done yet.\n");
    scene.app("alter table grows set (autovacuum_enabled = off)");
    let text = scene.run("suggest grows").run().ok().stdout;
    assert!(
        text.starts_with("public.grows: disabled\n")
            && text.contains("\n  pgweir autovacuum set public.grows enabled=default --dsn '"),
        "{text}"
    );
    // No password is repeated.
    let with_password = format!("postgres://app:secret@127.0.0.1:{}/{}", scene.pg.port, scene.database);
    let text = pgweir("autovacuum suggest").arg("--dsn").arg(with_password).run().ok().stdout;
    assert!(text.contains("--dsn 'host='") && !text.contains("secret"), "{text}");
}

#[test]
fn partitions_and_patterns() {
    let scene = Scene::new();
    scene.app(
        "create table parts (i int) partition by range (i);
         create table parts_1 partition of parts for values from (0) to (1);
         create table parts_2 partition of parts for values from (1) to (2)",
    );
    let rows = scene.run("set parts vacuum_threshold=9").rows();
    assert_eq!(rows.iter().map(|row| &row["table"]).collect::<Vec<_>>(), ["public.parts_1", "public.parts_2"]);
    assert_eq!(scene.own("parts_2"), "{autovacuum_vacuum_threshold=9}");
    scene.run("set").arg("\"Odd s\".*").arg("toast.enabled=off").run().ok();
    assert_eq!(scene.own("\"Odd s\".\"T 1\""), "{autovacuum_enabled=off}");
    scene.run("undo *.*").run().ok();
    assert_eq!((scene.own("parts_2"), scene.own("\"Odd s\".\"T 1\"")), (String::new(), String::new()));
    // It has no column that could be stored elsewhere.
    let mixed = scene.run("set p*_1 toast.enabled=off").run().fails(2, "it has no TOAST table");
    assert!(mixed.stdout.contains("failed: it has no TOAST table"), "{}", mixed.stdout);
    scene.run("set p*_1 toast.enabled=off").arg("vacuum_threshold=3").run().ends_with(2);
    assert_eq!(scene.own("parts_1"), "");
}

#[test]
fn what_is_wrong_is_refused_before_anything_is_done() {
    let scene = Scene::new();
    for (wrong, message) in [
        ("vacuum_threshold", "is no setting"),
        ("vacuum_threshold=-1", "expected a whole number from 0 to 2147483647"),
        ("vacuum_scale_factor=200", "expected a number from 0 to 100"),
        ("enabled=perhaps", "expected on or off"),
        ("fillfactor=50", "tables have no setting fillfactor for autovacuum"),
        ("enabled=on enabled=off", "autovacuum_enabled is given twice"),
    ] {
        scene.run(&format!("set plain {wrong}")).run().fails(4, message);
    }
    scene.run("set plain").run().ends_with(4);
    scene.run("set nothing enabled=on").run().fails(4, "there is no table nothing");
    scene.run("show --due --settings").run().ends_with(4);
    let dry = scene.run("set plain vacuum_threshold=7 --dry-run").run().ok();
    for line in [
        "BEGIN;\nALTER TABLE \"public\".\"plain\" SET (autovacuum_vacuum_threshold = 7);\nCREATE SCHEMA pgweir;\n",
        "VALUES ('public', 'plain', 'autovacuum_vacuum_threshold', NULL) ON CONFLICT DO NOTHING;\nCOMMIT;\n",
    ] {
        assert!(dry.stdout.contains(line), "{line} in {}", dry.stdout);
    }
    assert_eq!(scene.own("plain"), "");
    assert_eq!(scene.one("select count(*)::text from pg_namespace where nspname = 'pgweir'"), "0");
}

#[test]
fn locks_and_rights() {
    let scene = Scene::new();
    let mut holder = scene.pg.direct(&scene.database);
    holder.run("begin; lock table plain in share update exclusive mode");
    let ran = scene.run("set * vacuum_threshold=7 --lock-timeout 100ms").run().ends_with(7);
    assert!(ran.stderr.contains("public.plain: canceling statement due to lock timeout"), "{}", ran.stderr);
    assert!(ran.stderr.contains("Hint: a VACUUM or a change of the table is under way"), "{}", ran.stderr);
    assert_eq!(
        (scene.own("plain"), scene.own("\"Odd s\".\"T 1\"")),
        (String::new(), "{autovacuum_vacuum_threshold=7}".to_owned())
    );
    // Nothing is remembered of what was not done.
    assert_eq!(scene.one("select count(*)::text from pgweir.autovacuum_before where table_name = 'plain'"), "0");
    holder.run("rollback");
    holder.run("select pg_advisory_lock(1885828978, 0)");
    scene.run("set plain vacuum_threshold=7").run().fails(6, "another job is at work");
    holder.run("select pg_advisory_unlock_all()");

    let scene = Scene::new();
    scene.pg.direct(&scene.database).run("create table others (i int); alter table others owner to other");
    let run = |line: &str| pgweir(&format!("autovacuum {line}")).on(scene.pg, "other", &scene.database).run();
    run("set t vacuum_threshold=7").fails(2, "must be owner of table t");
    run("set others vacuum_threshold=7").fails(2, "--no-undo does without");
    assert_eq!(scene.own("others"), "");
    run("set others vacuum_threshold=7 --no-undo").ok();
    assert_eq!(scene.own("others"), "{autovacuum_vacuum_threshold=7}");
}

#[test]
fn with_nothing_remembered_it_is_asked_before_all_goes() {
    let scene = Scene::new();
    assert_eq!(scene.run("undo plain").run().ok().stdout, "There is nothing to undo.\n");
    scene
        .run("undo t")
        .run()
        .fails(5, "not confirmed: reset autovacuum_vacuum_threshold of public.t, of which nothing older is remembered");
    let dry = scene.run("undo t --dry-run").run().ok();
    assert!(dry.stdout.contains("RESET (autovacuum_vacuum_threshold);"), "{}", dry.stdout);
    let rows = scene.run("undo t --yes").rows();
    assert_eq!((&rows[0]["before"], &rows[0]["after"]), (&json!("70"), &Value::Null));
    assert_eq!(scene.own("t"), "{fillfactor=90}");
}
