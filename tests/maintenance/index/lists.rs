//! `index list`

use serde_json::Value;

use super::{invalid, run};
use crate::program::{Program, find, monitored, pgweir};
use crate::servers::every_version;
use crate::support::*;

/// What each list is to find something in.
const SCENE: &str = "
    create schema \"My Schema\";
    create table parent (id int primary key);
    insert into parent select generate_series(1, 100);
    create table \"My Schema\".\"Tä b\" (id int primary key, \"A b\" int, c text, d int references parent, e int);
    insert into \"My Schema\".\"Tä b\" select g, g % 10, 'text ' || g, g % 100 + 1, g from generate_series(1, 20000) g;
    create index one on \"My Schema\".\"Tä b\" (\"A b\");
    create index \"The Other\" on \"My Schema\".\"Tä b\" (\"A b\");
    create index long on \"My Schema\".\"Tä b\" (\"A b\", c);
    create table child (a int references parent, b int references parent);
    create index child_a on child (a) where a is not null; create index child_b on child (b) where b > 0;
    create index low on \"My Schema\".\"Tä b\" (lower(c)) where d > 5;
    create index bloated on \"My Schema\".\"Tä b\" (e);
    create unique index extra on parent (id);
    create table parts (id int, k text, d int references parent) partition by range (id);
    create table parts1 partition of parts for values from (0) to (1000);
    create table parts2 partition of parts for values from (1000) to (9000);
    insert into parts select g, 'k' || g, 1 + g % 100 from generate_series(0, 8999) g;
    create index parts_k on parts (k);
    create index parts1_d on parts1 (d);
    grant usage on schema \"My Schema\" to monitor; grant select on all tables in schema \"My Schema\", public to monitor;
    analyze;
    delete from \"My Schema\".\"Tä b\" where id % 4 <> 0;";

struct Scene {
    pg: &'static Postgres,
    database: String,
}

impl Scene {
    fn new(pg: &'static Postgres) -> Scene {
        let (_, database) = monitored(pg);
        let mut wire = pg.direct(&database);
        wire.run(SCENE);
        wire.run("vacuum analyze \"My Schema\".\"Tä b\"");
        let failed = wire.fails("create unique index concurrently broken on \"My Schema\".\"Tä b\" (\"A b\")");
        assert_eq!(failed.code, "23505");
        Scene { pg, database }
    }

    fn program(&self, line: &str) -> Program {
        pgweir(&format!("index list {line}")).on(self.pg, "monitor", &self.database)
    }

    fn rows(&self, line: &str) -> Vec<Value> {
        self.program(line).rows()
    }
}

fn names<'a>(rows: &'a [Value], column: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[column].as_str().expect("a text")).collect()
}

const TABLE: &str = "\"My Schema\".\"Tä b\"";

#[test]
fn every_list_on_every_version() {
    for (version, pg) in every_version() {
        let scene = Scene::new(pg);
        let all = scene.rows("");
        let parts = find(&all, "name", "public.parts_k");
        assert_eq!(parts["flags"], Value::from(vec!["partitioned"]), "{version}");
        assert!(parts["bytes"].as_i64() > Some(100_000), "{version}: {parts}");
        assert_eq!(find(&all, "name", "\"My Schema\".low")["flags"], Value::from(vec!["partial", "expression"]));
        assert_eq!(find(&all, "name", "\"My Schema\".broken")["flags"], Value::from(vec!["unique", "invalid"]));

        let unused = scene.rows("--unused --min-stats-age 0");
        let mut found = names(&unused, "name");
        found.sort_unstable();
        let wanted = [
            "\"My Schema\".\"The Other\"",
            "\"My Schema\".bloated",
            "\"My Schema\".long",
            "\"My Schema\".low",
            "\"My Schema\".one",
            "public.child_a",
            "public.child_b",
            "public.parts1_d",
            "public.parts_k",
        ];
        assert_eq!(found, wanted, "{version}");
        assert_eq!(find(&unused, "name", "public.parts_k")["statement"], "DROP INDEX public.parts_k;");
        assert_eq!(find(&unused, "name", "public.child_a")["note"], "serves foreign key child_a_fkey", "{version}");
        let low = find(&unused, "name", "\"My Schema\".low");
        assert_eq!(low["statement"], "DROP INDEX CONCURRENTLY \"My Schema\".low;");
        assert_eq!(low["note"], "ANALYZE gathers statistics on its expressions");

        let duplicate = scene.rows("--duplicate");
        let pairs: Vec<[&str; 3]> = duplicate
            .iter()
            .map(|row| ["name", "kind", "keep"].map(|column| row[column].as_str().expect("a text")))
            .collect();
        assert_eq!(pairs.len(), 3, "{version}: {pairs:?}");
        for wanted in [
            ["\"My Schema\".\"The Other\"", "exact", "\"My Schema\".one"],
            ["\"My Schema\".one", "prefix", "\"My Schema\".long"],
            ["public.extra", "exact", "public.parent_pkey"],
        ] {
            assert!(pairs.contains(&wanted), "{version}: {pairs:?}");
        }

        let missing = scene.rows("--missing");
        assert_eq!(names(&missing, "kind"), ["foreign-key"; 3], "{version}: {missing:#?}");
        // Nulls refer to nothing: an index without them does.
        assert_eq!(find(&missing, "table", "public.child")["constraint"], "child_b_fkey", "{version}");
        let bare = find(&missing, "table", TABLE);
        assert_eq!(bare["columns"], Value::from(vec!["d"]));
        assert_eq!(bare["statement"], format!("CREATE INDEX CONCURRENTLY ON {TABLE} (d);"));
        // One part has an index, the other has none.
        assert_eq!(find(&missing, "table", "public.parts")["constraint"], "parts_d_fkey");

        let bloat = scene.rows("--bloat --min-size 64kB --min-bloat-pct 50");
        let row = find(&bloat, "name", "\"My Schema\".bloated");
        assert!((60.0..85.0).contains(&row["bloat_pct"].as_f64().expect("a share")), "{version}: {row}");
        assert_eq!(row["statement"], "REINDEX INDEX CONCURRENTLY \"My Schema\".bloated;");
        assert_eq!(scene.rows("--bloat").len(), 0, "the default size is 10 MB");

        let broken = scene.rows("--invalid");
        assert_eq!(names(&broken, "name"), ["\"My Schema\".broken"], "{version}");
        assert_eq!((&broken[0]["kind"], &broken[0]["building_pid"]), (&"build".into(), &Value::Null));
        assert_eq!(broken[0]["statement"], "REINDEX INDEX CONCURRENTLY \"My Schema\".broken;");
    }
}

#[test]
fn lists_are_narrowed_down() {
    let scene = Scene::new(Postgres::shared());
    let of_parts = scene.rows("--table parts");
    assert_eq!(of_parts.len(), 4, "{of_parts:#?}");
    assert_eq!(scene.rows("--schema public --unused --min-stats-age 0").len(), 4);
    assert_eq!(scene.rows("--table parent --min-size 1MB").len(), 0);
    let quoted = scene.program("--invalid").arg(format!("--table={TABLE}")).rows();
    assert_eq!(quoted.len(), 1);
    let verbatim = scene.program("--invalid").arg("--table=My Schema.Tä b").rows();
    assert_eq!(verbatim.len(), 1);
    scene.program("--table nothing").run().fails(2, "there is no table nothing");
    scene.program("--schema nothing").run().fails(2, "there is no schema nothing");
    scene.program("--unused --bloat").run().fails(4, "cannot be used with");
}

#[test]
fn nothing_is_unused_before_it_was_watched() {
    for (version, pg) in every_version() {
        let scene = Scene::new(pg);
        let ran = scene.program("--unused").run().ok();
        assert!(ran.stderr.contains("warning: scans have been counted for "), "{version}: {}", ran.stderr);
        assert!(ran.stdout.starts_with("No index can be called unused."), "{version}: {}", ran.stdout);
    }
}

#[test]
fn what_is_scanned_is_used() {
    let scene = Scene::new(Postgres::shared_18());
    let mut wire = scene.pg.direct(&scene.database);
    wire.run("set enable_seqscan = off; select * from parts where k = 'k5'; select pg_stat_force_next_flush()");
    let names_of = |line: &str| -> Vec<String> {
        scene.rows(line).iter().map(|row| row["name"].as_str().expect("a text").to_owned()).collect()
    };
    let unused = || names_of("--unused --min-stats-age 100d --table parts");
    assert!(unused().is_empty());
    let by_scans = names_of("--unused --min-stats-age 0 --max-scans 100 --table parts");
    assert!(by_scans.contains(&"public.parts_k".to_owned()), "{by_scans:?}");
    // Never scanned, or long ago: both are told from version 16 on.
    let all = scene.rows("--table parts1");
    let scanned = find(&all, "name", "public.parts1_k_idx");
    assert!(scanned["scans"] == 1 && scanned["last_scan_s"].as_f64() < Some(60.0), "{scanned}");
    let ran = scene.program("--unused --min-stats-age 0").run().ok();
    assert!(ran.stderr.contains("standbys count scans of their own"), "{}", ran.stderr);
}

#[test]
fn tables_that_are_read_whole() {
    let scene = Scene::new(Postgres::shared());
    let mut wire = scene.pg.direct(&scene.database);
    wire.run("select pg_stat_reset()");
    for _ in 0..3 {
        wire.run("set max_parallel_workers_per_gather = 0; select count(*) from \"My Schema\".\"Tä b\" where e = 5 + random()");
    }
    let wanted = "--missing --min-seq-scans 3 --min-size 64kB";
    let found = || scene.rows(wanted).into_iter().find(|row| row["kind"] == "sequential-scans");
    // Sessions from before the reset may still count theirs.
    let counted = "select seq_tup_read::float8 / seq_scan from pg_stat_user_tables
                   where relname = 'Tä b' and seq_scan >= 3 and seq_tup_read >= 15000";
    wait_until("the scans are counted as the server has them", PATIENCE, || {
        let per_scan = wire.query(counted).expect("statistics").first().and_then(|row| row[0].as_deref()?.parse().ok());
        per_scan.is_some() && found().and_then(|row| row["rows_per_scan"].as_f64()) == per_scan
    });
    let row = found().expect("the row");
    assert_eq!(row["table"], TABLE);
    assert!(row["seq_scans"].as_i64() >= Some(3));
    assert!(scene.rows("--missing").iter().all(|row| row["kind"] == "foreign-key"), "the table is not that large");
}

/// What makes indexes different, and what they are kept for.
#[test]
fn duplicates_are_the_same_in_everything() {
    let pg = Postgres::shared();
    let (_, database) = monitored(pg);
    pg.direct(&database).run(
        "create table t (a int constraint by_a unique, b text, c int); alter table t add constraint by_a_again unique (a);
         create index by_b on t (b); create index by_b_pattern on t (b text_pattern_ops);
         create index by_b_collation on t (b collate \"POSIX\"); create index by_b_desc on t (b desc);
         create index by_b_partial on t (b) where c > 0; create index by_b_hash on t using hash (b);
         create index by_b_lower on t (lower(b)); create unique index by_c on t (c); create index by_c_plain on t (c);
         create index by_c_a on t (c, a); create index by_c_with_a on t (c) include (a);
         create unique index own on t (c, b) where c > 7; create unique index own2 on t (c, b) where c > 7;
         alter table t alter a set not null, alter c set not null",
    );
    let rows = pgweir("index list --duplicate").on(pg, "monitor", &database).rows();
    let mut found: Vec<(&str, &str, &str)> = rows
        .iter()
        .map(|row| {
            let text = |column: &str| row[column].as_str().expect("a text").trim_start_matches("public.");
            (text("name"), text("kind"), text("keep"))
        })
        .collect();
    found.sort_unstable();
    let wanted = [
        ("by_a_again", "exact", "by_a"),
        ("by_c_plain", "prefix", "by_c"),
        ("by_c_with_a", "prefix", "by_c_a"),
        ("own2", "exact", "own"),
    ];
    assert_eq!(found, wanted);
    let statement = &find(&rows, "name", "public.by_a_again")["statement"];
    assert_eq!(statement, "ALTER TABLE public.t DROP CONSTRAINT \"by_a_again\";");
}

/// The estimate against what pgstattuple has counted.
#[test]
fn bloat_is_what_pgstattuple_measures() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let mut wire = pg.direct(&database);
    wire.run(
        "create schema ext; create extension pgstattuple schema ext; grant usage on schema ext to public;
         create table t (i int, b bigint, s text, n numeric, few int, o int);
         insert into t select g, g, 'text ' || md5(g::text), g, g % 7, nullif(g % 3, 0) from generate_series(1, 60000) g;
         create index t_i on t (i); create index t_b on t (b, i) with (fillfactor = 70); create index t_s on t (s);
         create index t_n on t (n); create index t_few on t (few); create index t_expr on t (lower(s));
         create index t_pair on t (i, s); create index t_nulls on t (o, i); create index t_part on t (i) where few = 3;",
    );
    let lists = |flags: &str| {
        // An expression's statistics are seen by its owner and pg_read_all_data only.
        pgweir(&format!("index list --bloat --min-size 0 --min-bloat-pct 0 {flags}"))
            .on(pg, "postgres", &database)
            .rows()
    };
    let mut compared = 0;
    for change in ["select 1", "delete from t where i % 4 <> 0", "delete from t where i > 20000"] {
        wire.run(change);
        wire.run("vacuum analyze t");
        let exact = lists("--exact");
        for row in lists("") {
            let measured = find(&exact, "name", row["name"].as_str().expect("a name"));
            let pct = |row: &Value| row["bloat_pct"].as_f64().expect("a share");
            assert!((pct(&row) - pct(measured)).abs() < 8.0, "{change}: {row}\n{measured}");
            assert_eq!((&row["by"], &measured["by"]), (&"estimate".into(), &"pgstatindex".into()));
            compared += 1;
        }
    }
    assert_eq!(compared, 27);
    let ran = pgweir("index list --bloat --exact").on(pg, monitor, "postgres").run();
    ran.fails(2, "--exact needs the extension pgstattuple");
}

#[test]
fn builds_under_way_are_no_leftovers() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let mut wire = pg.direct(&database);
    wire.run("create table t (i int primary key)");
    let mut old = pg.direct(&database);
    old.run("begin isolation level repeatable read; select 1");
    let mut builder = pg.direct(&database);
    let pid = builder.backend();
    builder.send(&msg::query("reindex table concurrently t"));
    wait_until("it has begun", PATIENCE, || !invalid(&mut wire).is_empty());
    let rows = pgweir("index list --invalid").on(pg, monitor, &database).rows();
    assert_eq!((&rows[0]["name"], &rows[0]["kind"]), (&"public.t_pkey_ccnew".into(), &"ccnew".into()));
    assert_eq!((&rows[0]["building_pid"], &rows[0]["statement"]), (&pid.into(), &Value::Null));
    let phase = rows[0]["phase"].as_str().expect("a phase").to_owned();
    assert!(phase.starts_with("REINDEX CONCURRENTLY"), "{phase}");
    pg.sql(&format!("select pg_cancel_backend({pid})"));
    builder.answer_of_query().expect_err("cancelled");
    let rows = pgweir("index list --invalid").on(pg, monitor, &database).rows();
    assert_eq!(rows[0]["statement"], "DROP INDEX CONCURRENTLY public.t_pkey_ccnew;");
    old.run("rollback");
    // It is dropped by whoever rebuilds something of the table.
    run(pg, &database, "rebuild t_pkey --yes", &[]).ok();
    assert!(invalid(&mut wire).is_empty());
}

#[test]
fn a_locked_table_holds_nothing_up() {
    for (version, pg) in every_version() {
        let scene = Scene::new(pg);
        let mut holder = pg.direct(&scene.database);
        holder.run("begin; lock table \"My Schema\".\"Tä b\" in access exclusive mode");
        for flag in ["", "--unused --min-stats-age 0", "--duplicate", "--missing", "--bloat --min-size 0", "--invalid"]
        {
            let ran = scene.program(&format!("{flag} --lock-timeout 1s")).run();
            assert_eq!(ran.code, 0, "{version} {flag}: {}", ran.stderr);
        }
        let all = scene.rows("");
        assert_eq!(find(&all, "name", "\"My Schema\".long")["definition"], Value::Null, "{version}");
        holder.run("rollback");
    }
}
