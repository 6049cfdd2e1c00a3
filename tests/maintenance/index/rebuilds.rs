//! `index rebuild`

use serde_json::Value;

use super::{index, invalid, run, texts};
use crate::program::{find, scratch_file};
use crate::servers::every_version;
use crate::support::*;

fn result<'a>(rows: &'a [Value], name: &str) -> &'a str {
    find(rows, "name", name)["result"].as_str().expect("a text")
}

#[test]
fn what_hangs_on_an_index_stays() {
    for (version, pg) in every_version() {
        let database = pg.create_database();
        let mut wire = pg.direct(&database);
        wire.run(
            "create schema \"S 1\"; create table \"S 1\".\"T\" (i int not null, t text);
             insert into \"S 1\".\"T\" select g, 'x' || g from generate_series(1, 20000) g;
             create unique index \"Ein Index\" on \"S 1\".\"T\" (i); create index expr on \"S 1\".\"T\" (lower(t));
             alter table \"S 1\".\"T\" replica identity using index \"Ein Index\", cluster on \"Ein Index\";
             comment on index \"S 1\".\"Ein Index\" is 'the one'; alter index \"S 1\".expr alter column 1 set statistics 777;
             delete from \"S 1\".\"T\" where i % 5 <> 0",
        );
        wire.run("vacuum \"S 1\".\"T\"");
        let facts = "select concat_ws(' ', indisreplident, indisclustered, obj_description(indexrelid)) from pg_index
                     where indexrelid = '\"S 1\".\"Ein Index\"'::regclass
                     union all select attstattarget::text from pg_attribute where attrelid = '\"S 1\".expr'::regclass";
        let before = texts(&mut wire, facts);
        let rows = index(pg, &database, "rebuild --yes", &["S 1.Ein Index", "\"S 1\".expr"]).rows();
        for row in &rows {
            assert_eq!(row["result"], "rebuilt", "{version}");
            assert!(row["freed_pct"].as_f64() > Some(50.0), "{version}: {row}");
        }
        assert_eq!(rows.len(), 2);
        assert_eq!(texts(&mut wire, facts), before, "{version}");
        assert_eq!(before, ["t t the one", "777"]);
        let size = wire.one("select pg_relation_size('\"S 1\".\"Ein Index\"')");
        assert_eq!(find(&rows, "name", "\"S 1\".\"Ein Index\"")["after_bytes"].to_string(), size, "{version}");
    }
}

#[test]
fn partitions_and_what_cannot_be_rebuilt() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let mut wire = pg.direct(&database);
    wire.run(
        "create table p (i int, t text) partition by range (i);
         create table p1 partition of p for values from (0) to (10); create table p2 partition of p for values from (10) to (20);
         create index p_i on p (i); create index p_t on p (t);
         create table x (r int4range, exclude using gist (r with &&), i int primary key)",
    );
    let oids = "select oid::text from pg_class where relname in ('p1_i_idx', 'p2_i_idx', 'p_i') order by relname";
    let before = texts(&mut wire, oids);
    let dry = run(pg, &database, "rebuild p_i --dry-run", &[]).ok();
    let wanted = "REINDEX INDEX CONCURRENTLY public.p1_i_idx;\nREINDEX INDEX CONCURRENTLY public.p2_i_idx;\n";
    assert_eq!(dry.stdout, wanted);
    assert_eq!(texts(&mut wire, oids), before);
    assert_eq!(index(pg, &database, "rebuild p_i --yes", &[]).rows().len(), 2);
    let after = texts(&mut wire, oids);
    assert!(before[0] != after[0] && before[1] != after[1] && before[2] == after[2], "{before:?} {after:?}");
    assert_eq!(index(pg, &database, "rebuild --table p --yes", &[]).rows().len(), 6, "with two of TOAST");
    assert_eq!(index(pg, &database, "rebuild --table p --tablespace pg_default --yes", &[]).rows().len(), 4);
    let ran = run(pg, &database, "rebuild --table x --yes --output json", &[]).ends_with(7);
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).expect("a list");
    assert_eq!(result(&rows, "public.x_pkey"), "rebuilt");
    assert!(result(&rows, "public.x_r_excl").starts_with("skipped: an exclusion constraint"), "{rows:#?}");
    let ran = run(pg, &database, "rebuild pg_class_oid_index --yes", &[]).ends_with(7);
    assert!(ran.stdout.contains("skipped: indexes of the system"), "{}", ran.stdout);
    let all = run(pg, &database, "rebuild --all --dry-run -q", &[]).ok();
    assert!(all.stdout.contains("public.p2_t_idx") && !all.stdout.contains("pg_catalog."), "{}", all.stdout);
    let none = run(pg, &database, "rebuild --schema public --min-size 1GB --yes", &[]).ok();
    assert_eq!(none.stdout, "There is no index to rebuild.\n");
    run(pg, &database, "rebuild p_i", &[]).fails(5, "not confirmed: rebuild 2 indexes");
    run(pg, &database, "rebuild nothing --yes", &[]).fails(2, "there is no index nothing");
    run(pg, &database, "rebuild --yes", &[]).fails(4, "required");
}

#[test]
fn only_what_is_bloated() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let mut wire = pg.direct(&database);
    wire.run(
        "create extension pgstattuple; create table t (i int primary key, j int);
         insert into t select g, g from generate_series(1, 20000) g; delete from t where i % 5 <> 0",
    );
    wire.run("vacuum analyze t");
    wire.run("create index fresh on t (j)");
    for exact in ["", "--exact"] {
        let line = format!("rebuild --table t --min-bloat-pct 50 --dry-run {exact}");
        let ran = run(pg, &database, &line, &[]).ok();
        assert_eq!(ran.stdout, "REINDEX INDEX CONCURRENTLY public.t_pkey;\n", "{exact}");
    }
}

#[test]
fn a_run_that_failed_is_gone_on_with() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let mut wire = pg.direct(&database);
    wire.run(
        "create schema s; create table s.a (i int primary key); create table s.b (i int primary key);
         create table s.c (i int primary key)",
    );
    let mut holder = pg.direct(&database);
    holder.run("begin; lock table s.b in share update exclusive mode");
    let state = scratch_file("rebuild.json");
    let line = "rebuild --schema s --lock-timeout 300ms --retries 0 --yes --output json --state";
    let state = state.to_str().expect("a name");
    let ran = run(pg, &database, line, &[state]).ends_with(7);
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).expect("a list");
    assert_eq!(["a", "c"].map(|t| result(&rows, &format!("s.{t}_pkey")).to_owned()), ["rebuilt"; 2]);
    let failed = result(&rows, "s.b_pkey");
    let holds = format!("held by process {}", holder.backend());
    assert!(failed.starts_with("failed: ") && failed.contains(&holds), "{failed}");
    holder.run("rollback");
    let ran = run(pg, &database, line, &[state, "--resume", "--dry-run"]).ok();
    assert_eq!(ran.stdout, "REINDEX INDEX CONCURRENTLY s.b_pkey;\n");
    let ran = run(pg, &database, line, &[state, "--resume"]).ok();
    assert!(
        ran.stderr.contains("goes on with a run of ") && ran.stderr.contains("which has rebuilt 2"),
        "{}",
        ran.stderr
    );
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).expect("a list");
    assert_eq!((rows.len(), result(&rows, "s.b_pkey")), (1, "rebuilt"));
    // Now it is over.
    let ran = run(pg, &database, line, &[state, "--resume"]).ok();
    assert!(ran.stderr.contains("there is no unfinished run"), "{}", ran.stderr);
    assert_eq!(serde_json::from_str::<Vec<Value>>(&ran.stdout).expect("a list").len(), 3);
}

#[test]
fn vectors_with_other_parameters() {
    for pg in [Postgres::shared_16(), Postgres::shared_18()] {
        let database = pg.create_database();
        let mut wire = pg.direct(&database);
        wire.run(
            "create extension vector; create table items (id int primary key, v vector(3));
             insert into items select g, array[random(), random(), random()]::vector from generate_series(1, 1000) g;
             create index by_list on items using ivfflat (v vector_l2_ops) with (lists = 10);
             create index by_graph on items using hnsw (v vector_l2_ops)",
        );
        let options = "select coalesce(array_to_string(reloptions, ','), 'none') || ' ' || indisvalid from pg_class
                       join pg_index on indexrelid = oid where relname like 'by_%' order by relname";
        let line = "rebuild by_graph --set m=24 --set ef_construction=128 --maintenance-work-mem 32MB \
                    --max-parallel-maintenance-workers 0 --yes";
        let ran = run(pg, &database, line, &[]).ok();
        let settings = "maintenance_work_mem 32MB, max_parallel_maintenance_workers 0";
        assert!(ran.stderr.contains(settings), "{}", ran.stderr);
        run(pg, &database, "rebuild by_list --set lists=20 --yes", &[]).ok();
        assert_eq!(texts(&mut wire, options), ["m=24,ef_construction=128 true", "lists=20 true"]);
        wire.run("set enable_seqscan = off");
        let plan =
            texts(&mut wire, "explain (costs off) select id from items order by v <-> '[0,0,0]' limit 3").join("\n");
        assert!(plan.contains("Index Scan using by_"), "{plan}");
        run(pg, &database, "rebuild by_list --set lists=0 --yes", &[]).fails(2, "out of bounds");
        run(pg, &database, "rebuild by_list --set nonsense=1 --yes", &[]).fails(2, "unrecognized parameter");
        run(pg, &database, "rebuild by_list --set nonsense --yes", &[]).fails(4, "expected KEY=VALUE");
        // A build that fails leaves the index as it was.
        let mut old = pg.direct(&database);
        old.run("begin isolation level repeatable read; select 1");
        let pid = old.backend();
        let ran = run(pg, &database, "rebuild by_list --set lists=30 --max-wait 500ms --yes", &[]);
        ran.fails(2, &format!("waited 500ms for the end of process {pid}"));
        assert_eq!(texts(&mut wire, options), ["m=24,ef_construction=128 true", "lists=20 true"]);
        assert!(invalid(&mut wire).is_empty());
        old.run("rollback");
        let made = run(pg, &database, "create items --using hnsw --with m=8 --yes --columns", &["v vector_cosine_ops"]);
        assert!(made.ok().stdout.contains("WITH (m='8')"));
    }
}
