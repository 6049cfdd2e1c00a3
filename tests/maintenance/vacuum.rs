//! `vacuum` and `analyze`: what they choose, what becomes of it, what they say of what is in the way.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::program::{Program, dsn, find, pgweir};
use crate::servers::{every_version, restart_with};
use crate::support::postgres::lasting;
use crate::support::process::signal;
use crate::support::*;

const ODD: &str = "\"Odd \"\"schema\".\"Tä.ble\"";

/// A quarter dead in one of odd names, a third in a partition, little in the rest, and 3 MB in all.
const TABLES: &str = "
    create schema \"Odd \"\"schema\"; create table \"Odd \"\"schema\".\"Tä.ble\" (i int primary key, t text);
    insert into \"Odd \"\"schema\".\"Tä.ble\" select i, repeat('x', 20) from generate_series(1, 40000) i;
    create table parts (i int) partition by range (i);
    create table parts_1 partition of parts for values from (0) to (30000);
    create table parts_2 partition of parts for values from (30000) to (60000) partition by range (i);
    create table parts_2_1 partition of parts_2 for values from (30000) to (60000);
    insert into parts select generate_series(0, 59999);
    create table small (i int); insert into small select generate_series(1, 1000);
    delete from \"Odd \"\"schema\".\"Tä.ble\" where i % 4 = 0;
    delete from parts where i < 30000 and i % 3 <> 0;
    delete from parts where i >= 59000;
    delete from small where i <= 600";

/// Where dead rows can be removed: elsewhere sessions that start, and wait for a database that is being renamed, keep them.
static OWN: LazyLock<Postgres> = LazyLock::new(|| lasting(Postgres::dedicated));

struct Scene {
    pg: &'static Postgres,
    database: String,
}

impl Scene {
    fn on(pg: &'static Postgres, tables: &str) -> Scene {
        let database = pg.create_database();
        let mut app = Wire::tcp(pg.port);
        app.login("app", &database, "", &[]).expect("log in");
        app.run(&format!("begin; {tables}; commit"));
        let scene = Scene { pg, database };
        drop(app);
        scene
    }

    fn new() -> Scene {
        let scene = Scene::on(&OWN, TABLES);
        scene.settle("parts_1", 20_000);
        scene
    }

    /// Waits until the statistics know of so many dead rows, and nobody's snapshot keeps them any more: that of a session
    /// that is starting does, whatever its database, and where a database is being renamed it is for as long as that takes.
    fn settle(&self, table: &str, dead: u32) {
        let sql = format!("select pg_stat_get_dead_tuples('{table}'::regclass)");
        let dead = dead.to_string();
        wait_until("the statistics know it", PATIENCE, || self.pg.direct(&self.database).one(&sql) == dead);
        let mut probe = self.pg.direct(&self.database);
        probe.run("create table probe as select 1");
        probe.run("delete from probe");
        wait_until("no snapshot is older", PATIENCE, || {
            probe.run("vacuum probe");
            probe.one("select pg_relation_size('probe')") == "0"
        });
        probe.run("drop table probe");
    }

    fn one(&self, sql: &str) -> String {
        self.pg.direct(&self.database).one(sql)
    }

    fn run(&self, line: &str) -> Program {
        pgweir(line).on(self.pg, "app", &self.database)
    }

    fn rows(&self, line: &str) -> Vec<Value> {
        self.run(line).rows()
    }

    /// Those that `--dry-run` would vacuum, in order.
    fn planned(&self, program: Program) -> Vec<String> {
        let stdout = program.arg("--dry-run").on(self.pg, "app", &self.database).run().ok().stdout;
        let names = stdout.lines().filter_map(|line| Some(line.strip_prefix("-- ")?.rsplit_once(": ")?.0.to_owned()));
        names.collect()
    }
}

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["table"].as_str().expect("a name")).collect()
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
    let scene = Scene::on(pg, TABLES);
    scene.settle("parts_1", 20_000);
    let rows = scene.rows("vacuum --yes --jobs 2 --freeze");
    // The most dead rows times bytes first, as far as two at a time keep an order.
    let mut found = names(&rows);
    found.sort_unstable();
    assert_eq!(found, [ODD, "public.parts_1"], "{version}");
    let odd = find(&rows, "table", ODD);
    assert_eq!((&odd["result"], &odd["held_by"]), (&json!("done"), &json!([])), "{version}: {odd}");
    assert_eq!((&odd["dead_rows_before"], &odd["dead_rows_after"]), (&json!(10_000), &json!(0)), "{version}: {odd}");
    let size: i64 = scene.one(&format!("select pg_total_relation_size('{ODD}')")).parse().expect("a number");
    assert_eq!(odd["size_after_bytes"], json!(size), "{version}");
    // Others use up transactions on the shared server of version 15.
    let age = |key: &str| odd[key].as_i64().expect("an age");
    assert!(version == 15 || age("xid_age_after") < age("xid_age_before"), "{version}: {odd}");
    let sql =
        format!("select age(relfrozenxid) >= {} from pg_class where oid = '{ODD}'::regclass", age("xid_age_after"));
    assert_eq!(scene.one(&sql), "t", "{version}");
    assert!(odd["took_s"].as_f64().expect("a time") > 0.0);

    let full = scene.rows("vacuum parts_1 --full --force --free-space 1GB --yes --analyze");
    let row = find(&full, "table", "public.parts_1");
    assert!(row["size_after_bytes"].as_i64() < row["size_before_bytes"].as_i64(), "{version}: {row}");
    let seen = "select (relallvisible = relpages and reltuples = 10000)::text from pg_class where relname = 'parts_1'";
    assert_eq!(scene.one(seen), "true", "{version}: VACUUM FULL alone leaves no visibility map");

    let analyzed = scene.rows("analyze --stale-pct 5 --jobs 3");
    let mut found = names(&analyzed);
    found.sort_unstable();
    assert_eq!(found, [ODD, "public.parts", "public.small"], "{version}");
    let statistics = "select count(*)::text from pg_stats where tablename in ('parts', 'small')";
    assert_eq!(scene.one(statistics), "2", "{version}");
    let again = scene.run("analyze --stale-pct 5").run().ok();
    assert_eq!(again.stdout, "Nothing to analyze: no table has changed as much.\n", "{version}");
    shown_while_it_runs(version, &scene);
}

/// A slow one, on a terminal, shows what the view of the version says; Ctrl-C ends it on the server.
fn shown_while_it_runs(version: u32, scene: &Scene) {
    let (connection, program) = (dsn(scene.pg, "app", &scene.database), env!("CARGO_BIN_EXE_pgweir"));
    let line = format!("exec {program} vacuum parts --cost-delay 100 --cost-limit 1 --yes --dsn '{connection}'");
    let mut script = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run script");
    let (mut stdin, mut stdout) = (script.stdin.take().expect("stdin"), script.stdout.take().expect("stdout"));
    let mut shown = String::new();
    while !shown.contains("scanning heap") {
        let mut bytes = [0; 256];
        let length = stdout.read(&mut bytes).expect("read the terminal");
        assert!(length > 0, "{version}: {shown}");
        shown += &String::from_utf8_lossy(&bytes[..length]);
    }
    assert!(shown.contains("vacuum_cost_delay 100ms, vacuum_cost_limit 1, 1 at a time"), "{version}: {shown}");
    std::io::Write::write_all(&mut stdin, b"\x03").expect("press Ctrl-C");
    assert_eq!(script.wait().expect("wait for it").code(), Some(2), "{version}");
    let left = format!(
        "select count(*)::text from pg_stat_activity where datname = '{}' and query like 'VACUUM%'",
        scene.database
    );
    wait_until("nothing runs any more", PATIENCE, || scene.one(&left) == "1" || scene.one(&left) == "0");
}

#[test]
fn figures_are_those_of_pgstattuple() {
    let scene = Scene::new();
    scene.pg.direct(&scene.database).run("create extension pgstattuple");
    let dead = format!("select dead_tuple_count from pgstattuple('{}')", ODD.replace('\'', "''"));
    let before = scene.one(&dead);
    let rows = scene.rows("vacuum --yes");
    let odd = find(&rows, "table", ODD);
    assert_eq!(odd["dead_rows_before"].to_string(), before);
    assert_eq!((odd["dead_rows_after"].to_string(), scene.one(&dead)), ("0".to_owned(), "0".to_owned()));
}

#[test]
fn thresholds_choose() {
    let scene = Scene::new();
    let planned = |line: &str| scene.planned(pgweir(&format!("vacuum {line}")));
    assert_eq!(planned(""), [ODD, "public.parts_1"]);
    assert_eq!(planned("--min-dead-pct 30"), ["public.parts_1", "public.small"]);
    assert_eq!(planned("--min-dead-pct 60%"), ["public.parts_1", "public.small"]);
    assert_eq!(planned("--min-dead-pct 61"), ["public.parts_1"]);
    assert_eq!(planned("--min-dead-pct 10 --min-dead-rows 5000"), [ODD, "public.parts_1"]);
    assert_eq!(planned("--min-dead-rows 800"), [ODD, "public.parts_1", "public.parts_2_1"]);
    assert_eq!(planned("--min-dead-pct 0").len(), 4);
    assert!(planned("--min-dead-pct 0 --catalogs").len() > 50);
    assert_eq!(planned("parts small"), ["public.parts_1", "public.parts_2_1", "public.small"]);
    assert_eq!(planned("parts small --min-dead-pct 5"), ["public.parts_1", "public.small"]);
    assert_eq!(planned("PARTS_2"), ["public.parts_2_1"]);
    assert_eq!(planned("p*_1"), ["public.parts_1", "public.parts_2_1"]);
    assert_eq!(planned("pg_catalog.pg_class"), ["pg_catalog.pg_class"]);
    assert_eq!(scene.planned(pgweir("vacuum").arg(ODD)), [ODD]);
    assert_eq!(scene.planned(pgweir("vacuum").arg("\"Odd \"\"schema\".*")), [ODD]);
    let nothing = scene.run("vacuum small --min-dead-rows 5000 --yes").run().ok();
    assert_eq!(nothing.stdout, "Nothing to vacuum: no table has 0 % of its rows dead and 5000 of them.\n");
}

#[test]
fn what_is_near_wraparound_goes_first() {
    let scene = Scene::new();
    let burn = "do $$ begin for i in 1..100500 loop perform pg_current_xact_id(); commit; end loop; end $$";
    scene.pg.direct(&scene.database).run("alter table small set (autovacuum_freeze_max_age = 100000)");
    scene.pg.direct(&scene.database).run(burn);
    assert_eq!(scene.planned(pgweir("vacuum")), ["public.small", ODD, "public.parts_1"]);
    let text = scene.run("vacuum --dry-run").run().ok().stdout;
    assert!(text.contains("transactions ago, due against wraparound\nVACUUM \"public\".\"small\";"), "{text}");
}

#[test]
fn a_dry_run_prints_the_sql_and_does_nothing() {
    let scene = Scene::new();
    let text = scene.run("vacuum parts --analyze --freeze --cost-delay 2.5 --cost-limit 500 --dry-run").run().ok();
    let wanted = "\
SET vacuum_cost_delay = 2.5;
SET vacuum_cost_limit = 500;
-- public.parts_1: 66.7 % dead (20000 of 30000 rows), ";
    assert!(text.stdout.starts_with(wanted), "{}", text.stdout);
    for line in ["\nVACUUM (FREEZE) \"public\".\"parts_1\";\n", "\nANALYZE \"public\".\"parts\";\n"] {
        assert!(text.stdout.contains(line), "{line} in {}", text.stdout);
    }
    let full = scene.run("vacuum small --analyze --full --force --dry-run").run().ok().stdout;
    assert!(
        full.ends_with("\nVACUUM (FULL) \"public\".\"small\";\nVACUUM (ANALYZE) \"public\".\"small\";\n"),
        "{full}"
    );
    scene.run("analyze --dry-run").run().ok();
    let done = "select sum(vacuum_count + analyze_count)::text from pg_stat_user_tables";
    assert_eq!(scene.one(done), "0");
}

#[test]
fn refusals() {
    let scene = Scene::new();
    scene.run("vacuum").run().fails(5, "not confirmed: VACUUM 2 tables of");
    scene.run("vacuum nothing --yes").run().fails(4, "there is no table nothing");
    scene.run("analyze nothing").run().fails(4, "there is no table nothing");
    scene
        .pg
        .direct(&scene.database)
        .run("create schema other; create table other.small (i int); create view v as select 1");
    scene.run("vacuum small --yes").run().fails(4, "there are several tables small: other.small, public.small");
    scene.run("vacuum v --yes").run().fails(4, "there is no table v");
    for wrong in ["--min-dead-pct 101", "--jobs 0", "--cost-delay 101", "--cost-limit 0", "--window 9-10", "--force"] {
        scene.run(&format!("vacuum --yes {wrong}")).run().ends_with(4);
    }
    scene.run("vacuum public.small --full --yes").run().fails(5, "--window HH:MM-HH:MM says when");
    scene.run("vacuum public.small --full --force").run().fails(5, "VACUUM FULL 1 table of");
    let busy = pgweir("vacuum public.small --cost-delay 1 --yes").on(scene.pg, "app", &scene.database);
    let mut holder = scene.pg.direct(&scene.database);
    holder.run("select pg_advisory_lock(1885828978, 0)");
    busy.run().fails(6, "another job is at work");
}

#[test]
fn windows_are_on_the_servers_clock_or_a_named_one() {
    let scene = Scene::new();
    let window = |from: &str, to: &str, zone: &str| {
        scene.one(&format!(
            "select to_char(now() at time zone {zone} + '{from}', 'HH24:MI') || '-' || to_char(now() at time zone {zone} + '{to}', 'HH24:MI')"
        ))
    };
    let server = "current_setting('TimeZone')";
    let open = window("-1h", "2h", server);
    let rows = scene.rows(&format!("vacuum small --window {open} --yes"));
    assert_eq!(rows[0]["result"], "done");
    let full = scene.rows(&format!("vacuum small --full --free-space 1GB --window {open} --yes"));
    assert_eq!(full[0]["result"], "done");
    let closed = window("2h", "3h", server);
    for line in ["--full --yes", "--yes"] {
        let ran = scene.run(&format!("vacuum small --window {closed} {line}")).run();
        ran.fails(5, &format!("the window {closed} is closed: it is ")).fails(5, "Europe/Berlin now");
    }
    let tokyo = window("-1h", "2h", "'Asia/Tokyo'");
    scene.run(&format!("vacuum small --window {tokyo} --time-zone Asia/Tokyo --yes")).run().ok();
    scene.run(&format!("vacuum small --window {tokyo} --yes")).run().fails(5, "is closed");
    scene.run("vacuum small --window 00:00-24:00 --time-zone Nowhere/At_all --yes").run().fails(2, "Nowhere/At_all");
    // Forced, it begins whatever the clock says.
    scene.run(&format!("vacuum small --full --force --free-space 1GB --window {closed} --yes")).run().ok();
}

#[test]
fn full_needs_room() {
    let scene = Scene::new();
    let line = "vacuum small --full --window 00:00-24:00 --yes";
    scene.run(&format!("{line} --free-space 8kB")).run().fails(5, "VACUUM FULL may need");
    // Who may not know where the data is cannot look how much is free.
    scene.run(line).run().fails(5, "nobody knows how much is free in pg_default");
    let forced = scene.run(&format!("{line} --force")).run().ok();
    assert!(forced.stderr.contains("nobody knows how much is free in pg_default"), "{}", forced.stderr);
    let known = pgweir(line).on(scene.pg, "postgres", &scene.database).run().ok();
    let told = known.stderr.lines().find(|line| line.contains(" free")).expect("it tells");
    assert!(told.starts_with("pg_default: up to ") && told.contains(" needed, and as much WAL; "), "{told}");
}

#[test]
fn a_locked_table_does_not_keep_the_others() {
    let scene = Scene::new();
    let mut holder = scene.pg.direct(&scene.database);
    holder.run("begin; lock table parts_1 in share update exclusive mode");
    let pid = holder.backend();
    let quick = "--lock-timeout 100ms --lock-retries 1 --yes --output json";
    let ran = scene.run(&format!("vacuum {quick}")).run().ends_with(7);
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).expect("a list");
    let locked = find(&rows, "table", "public.parts_1");
    assert_eq!(locked["result"], format!("failed: locked by process {pid} (user postgres)"));
    assert_eq!(locked["dead_rows_after"], Value::Null);
    assert_eq!(find(&rows, "table", ODD)["dead_rows_after"], 0);
    assert!(ran.stderr.contains("later again (1 of 1)"), "{}", ran.stderr);
    scene.run(&format!("vacuum parts_1 {quick}")).run().ends_with(2);
    scene.run("analyze parts_1 small --lock-timeout 100ms --lock-retries 0").run().ends_with(7);
    holder.run("rollback");
    // Even a reader keeps FULL, and not for ever.
    holder.run("begin; select from small");
    let full = scene.run(&format!("vacuum small --full --force --free-space 1GB {quick}")).run().ends_with(2);
    assert!(full.stdout.contains(&format!("locked by process {pid}")), "{}", full.stdout);
}

#[test]
fn a_lock_that_goes_in_time_is_no_failure() {
    let scene = Scene::new();
    let mut holder = scene.pg.direct(&scene.database);
    holder.run("begin; lock table small in access exclusive mode");
    let child = scene.run("vacuum small --lock-timeout 100ms --lock-retries 1000 --yes").spawn();
    let waits = format!("select 1 from pg_stat_activity where datname = '{}' and query like 'VACUUM%'", scene.database);
    wait_until("it tries", PATIENCE, || !scene.pg.sql(&waits).is_empty());
    holder.run("rollback");
    assert_eq!(child.wait_with_output().expect("wait for it").status.code(), Some(0));
}

#[test]
fn ctrl_c_cancels_all_and_tells_what_was_done() {
    let scene = Scene::new();
    let mut holder = scene.pg.direct(&scene.database);
    holder.run("begin; lock table small, parts_2_1 in access exclusive mode");
    let child = scene.run("vacuum parts small --lock-timeout 0 --jobs 3 --yes --output json").spawn();
    let waiting = format!(
        "select 1 from pg_stat_activity where datname = '{}' and query like 'VACUUM%' and wait_event_type = 'Lock'",
        scene.database
    );
    let counted = "select pg_stat_get_vacuum_count('parts_1'::regclass)";
    wait_until("two wait and one is done", PATIENCE, || scene.pg.sql(&waiting).len() == 2 && scene.one(counted) == "1");
    signal(child.id(), "INT");
    let out = child.wait_with_output().expect("wait for it");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(7), "{stderr}");
    assert!(stderr.contains("interrupted: 1 of 3 tables done"), "{stderr}");
    let rows: Vec<Value> = serde_json::from_slice(&out.stdout).expect("a list");
    assert_eq!(find(&rows, "table", "public.parts_1")["result"], "done");
    assert_eq!(find(&rows, "table", "public.small")["result"], "failed: interrupted");
    wait_until("nobody waits", PATIENCE, || scene.pg.sql(&waiting).is_empty());
}

#[test]
fn when_it_is_killed_the_server_does_not_go_on() {
    let scene = Scene::new();
    let child = scene.run("vacuum parts --cost-delay 100 --cost-limit 1 --yes").spawn();
    let at_work = format!(
        "select 1 from pg_stat_activity where datname = '{}' and application_name = 'pgweir/vacuum'",
        scene.database
    );
    let vacuums = format!("{at_work} and state = 'active' and query like 'VACUUM%'");
    wait_until("it works", PATIENCE, || !scene.pg.sql(&vacuums).is_empty());
    signal(child.id(), "KILL");
    child.wait_with_output().expect("wait for it");
    wait_until("its sessions have gone", PATIENCE, || scene.pg.sql(&at_work).is_empty());
    scene.run("vacuum parts --yes").run().ok();
}

#[test]
fn what_one_may_not_is_named() {
    for (version, pg) in every_version().into_iter().filter(|(version, _)| [15, 18].contains(version)) {
        let scene = Scene::on(pg, TABLES);
        scene.settle("parts_1", 20_000);
        let mut admin = pg.direct(&scene.database);
        admin.run("create table others (i int); alter table others owner to other; insert into others values (1); grant create on schema public to other");
        let run = |line: &str| pgweir(line).on(pg, "other", &scene.database).run();
        let ran = run("vacuum others small --yes --output json").ends_with(7);
        let rows: Vec<Value> = serde_json::from_str(&ran.stdout).expect("a list");
        assert_eq!(find(&rows, "table", "public.small")["result"], "not permitted", "{version}");
        assert_eq!(find(&rows, "table", "public.others")["result"], "done", "{version}");
        assert!(
            ran.stderr.contains("other may not vacuum or analyze public.small: it takes its owner"),
            "{}",
            ran.stderr
        );
        run("vacuum small --yes").ends_with(2);
        run("analyze small").ends_with(2);
        if version >= 17 {
            admin.run("grant maintain on small to other");
            run("vacuum small --yes").ok();
        }
    }
}

/// Rows of `r` are deleted after what keeps them has begun.
#[test]
fn what_keeps_dead_rows_is_named() {
    let pg = Postgres::dedicated();
    restart_with(&pg, &[("max_prepared_transactions", "5")]);
    let database = pg.create_database();
    let mut admin = pg.direct(&database);
    admin.run("create table r (i int); insert into r select generate_series(1, 1000)");
    admin.run("select pg_create_logical_replication_slot('the_slot', 'pgoutput')");
    let mut old = Wire::tcp(pg.port);
    old.login("app", &database, "", &[("application_name", "the old one")]).expect("log in");
    old.run("begin isolation level repeatable read; select 1");
    admin.run("begin; insert into r values (0); prepare transaction 'half done'");
    let next: u32 = admin.one("select pg_snapshot_xmin(pg_current_snapshot())::text").parse().expect("a number");
    let mut standby = Wire::tcp(pg.port);
    standby
        .login("replicator", "postgres", "", &[("replication", "true"), ("application_name", "the standby")])
        .expect("log in");
    let position = standby.query("IDENTIFY_SYSTEM").expect("identify").remove(0).remove(2).expect("a position");
    standby.send(&msg::query(&format!("START_REPLICATION PHYSICAL {position}")));
    standby.expect("W");
    // Hot standby feedback: the time, then xmin and catalog_xmin with their epochs.
    let mut feedback = vec![b'h'];
    feedback.extend(0u64.to_be_bytes());
    [next, 0, 0, 0].iter().for_each(|word| feedback.extend(word.to_be_bytes()));
    standby.send(&msg::message(b'd', &feedback));
    let told = "select 1 from pg_stat_replication where backend_xmin is not null";
    wait_until("the server knows the feedback", PATIENCE, || !pg.sql(told).is_empty());
    admin.run("delete from r");
    let known = "select pg_stat_get_dead_tuples('r'::regclass)";
    drop(admin);
    wait_until("the statistics know it", PATIENCE, || pg.direct(&database).one(known) == "1000");

    let ran = pgweir("vacuum r --yes --output json").on(&pg, "postgres", &database).run().ok();
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).expect("a list");
    assert_eq!(rows[0]["dead_rows_after"], 1000, "{rows:#?}");
    let held: Vec<&str> = rows[0]["held_by"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let process =
        format!("process {} (user app, the old one, 127.0.0.1, idle in transaction): open for ", old.backend());
    for keeper in [
        process.as_str(),
        "prepared transaction \"half done\" (user postgres): open for ",
        "standby the standby (hot_standby_feedback, 127.0.0.1): ",
    ] {
        assert_eq!(held.iter().filter(|text| text.starts_with(keeper)).count(), 1, "{keeper} in {held:?}");
        // Before and after.
        assert_eq!(ran.stderr.matches(keeper).count(), 2, "{keeper} in {}", ran.stderr);
    }
    // It keeps rows of the system's tables alone.
    assert!(!ran.stderr.contains("the_slot"), "{}", ran.stderr);
    let catalogs = pgweir("vacuum --catalogs --min-dead-rows 100000 --dry-run").on(&pg, "postgres", &database);
    catalogs.run().ok();
    let catalog = pgweir("vacuum pg_catalog.pg_class --catalogs --yes").on(&pg, "postgres", &database).run().ok();
    assert!(catalog.stderr.contains("replication slot the_slot (inactive): "), "{}", catalog.stderr);

    drop(standby);
    old.run("rollback");
    pg.direct(&database).run("rollback prepared 'half done'");
    wait_until("the feedback is forgotten", PATIENCE, || pg.sql(told).is_empty());
    let rows = pgweir("vacuum r --yes").on(&pg, "postgres", &database).rows();
    assert_eq!((&rows[0]["dead_rows_after"], &rows[0]["held_by"]), (&json!(0), &json!([])));
}

#[test]
fn temporary_tables_of_others_are_left_alone() {
    let scene = Scene::new();
    let mut other = scene.pg.direct(&scene.database);
    other.run("create temp table mine (i int); insert into mine select generate_series(1, 20000); delete from mine");
    assert!(scene.planned(pgweir("vacuum --min-dead-pct 0")).iter().all(|name| !name.contains("mine")));
    scene.run("vacuum mine --yes").run().fails(4, "there is no table mine");
}
