//! `migrate run`

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{Program, Ran, pgweir};
use crate::servers::every_version;
use crate::support::process::{scratch_dir, signal};
use crate::support::*;

/// A database that `app` owns, and a place for files.
struct Scene<'a> {
    pg: &'a Postgres,
    database: String,
    dir: PathBuf,
}

impl<'a> Scene<'a> {
    fn on(pg: &'a Postgres) -> Scene<'a> {
        let database = pg.create_database();
        pg.direct(&database).run("grant all on schema public to app");
        Scene { pg, database, dir: scratch_dir("migrate") }
    }

    fn new() -> Scene<'static> {
        Scene::on(Postgres::shared())
    }

    fn sql(&self, sql: &str) -> Vec<msg::Row> {
        self.pg.direct(&self.database).query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// As the owner of what there is.
    fn as_app(&self, sql: &str) {
        self.sql(&format!("set role app; {sql}"));
    }

    fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The command on a file of this text.
    fn migrate(&self, text: &str, flags: &str) -> Program {
        let file = self.dir.join("m.sql");
        fs::write(&file, text).unwrap();
        let program = pgweir("migrate run").arg(file.display().to_string()).on(self.pg, "app", &self.database);
        let program = program.arg("--journal").arg(self.journal().display().to_string());
        flags.split_whitespace().fold(program, Program::arg)
    }

    fn run(&self, text: &str, flags: &str) -> Ran {
        self.migrate(text, &format!("--no-backup {flags}")).run()
    }

    #[track_caller]
    fn result(&self, text: &str, flags: &str) -> Value {
        json(&self.run(text, &format!("{flags} --output json")).ok())
    }

    fn has(&self, relation: &str) -> bool {
        self.sql(&format!("select to_regclass('{relation}')"))[0][0].is_some()
    }
}

#[track_caller]
fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", ran.stdout, ran.stderr))
}

#[test]
fn what_a_file_touches_is_analyzed() {
    for (version, pg) in every_version() {
        let scene = Scene::on(pg);
        scene.as_app(
            "create schema \"My Schema\"; create table \"My Schema\".\"T \"\"1\" (a int); create table read_only (a int);
             create table p (a int) partition by range (a); create table p1 partition of p for values from (0) to (10);
             create table child (a int) partition by list (a); create table only_child partition of child for values in (1);
             create table gone (a int)",
        );
        let text = "
            create table new_one (a int);
            insert into new_one select count(*) from read_only;
            insert into p select generate_series(1, 9);
            insert into only_child values (1);
            alter table \"My Schema\".\"T \"\"1\" add column b text default 'x;y';
            create temporary table temp (a int);
            set role app; set search_path = nowhere;
            drop table public.gone;";
        let result = scene.result(text, "--yes");
        let analyzed: Vec<&str> =
            result["analyzed"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        let wanted =
            ["\"My Schema\".\"T \"\"1\"", "\"public\".\"new_one\"", "\"public\".\"only_child\"", "\"public\".\"p\""];
        assert_eq!(analyzed, wanted, "{version}");
        assert_eq!(
            scene.sql("select 1 from pg_stats where tablename = 'p1' and n_distinct <> 0").len(),
            1,
            "{version}"
        );
        assert_eq!((&result["outcome"], &result["statements_done"]), (&"done".into(), &9.into()));
        assert_eq!((&result["attempts"], &result["backup"], &result["error"]), (&1.into(), &Value::Null, &Value::Null));
    }
}

#[test]
fn all_or_none_can_be_analyzed() {
    let scene = Scene::new();
    scene.as_app("create table bystander as select 1 as a");
    let analyzed = |flags: &str| scene.result("create table if not exists t (a int)", flags)["analyzed"].clone();
    assert_eq!(analyzed("--analyze none"), Value::Array(vec![]));
    let stats = || scene.sql("select 1 from pg_stats where tablename = 'bystander'").len();
    assert_eq!(stats(), 0);
    assert_eq!(analyzed("--analyze all"), Value::Array(vec!["all".into()]));
    assert_eq!(stats(), 1);
}

#[test]
fn an_index_over_expressions_built_concurrently_is_analyzed() {
    let scene = Scene::new();
    scene.as_app("create table t as select 'A' as a; create table u as select 1 as a");
    let text = "create index concurrently t_a on t (lower(a)); create index concurrently u_a on u (a);";
    let result = scene.result(text, "--no-transaction");
    assert_eq!(result["analyzed"], Value::Array(vec!["\"public\".\"t\"".into()]));
}

#[test]
fn the_schema_is_saved_before() {
    for (version, pg) in [(15, Postgres::shared()), (18, Postgres::shared_18())] {
        let scene = Scene::on(pg);
        scene.as_app("create table before (a int)");
        let dir = scene.dir.join("saved here");
        let program = scene.migrate("create table after (a int)", "--output json --backup-dir");
        let program = program.arg(dir.display().to_string()).arg("--pg-bin").arg(pg.bindir.display().to_string());
        let result = json(&program.run().ok());
        let saved = fs::read_to_string(result["backup"].as_str().unwrap()).unwrap();
        assert!(saved.contains("CREATE TABLE public.before") && !saved.contains("after"), "{version}: {saved}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "{version}: nothing half-made is left");
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(result["backup"].as_str().unwrap()).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn without_a_backup_nothing_is_run() {
    // Without a home, and without a pg_dump that is new enough.
    let scene = Scene::on(Postgres::shared_18());
    let bin = Postgres::shared().bindir.display().to_string();
    let dir = scene.dir.display().to_string();
    let text = "create table t (a int)";
    let too_old = scene.migrate(text, "--backup-dir").arg(&dir).arg("--pg-bin").arg(bin).run();
    too_old.fails(5, "the server is 18, the newest pg_dump found is 15").fails(5, "or go without by --no-backup");
    let bin = Postgres::shared_18().bindir.display().to_string();
    let unwritable = scene.migrate(text, "--backup-dir /dev/null/x --pg-bin").arg(bin).run();
    unwritable.fails(2, "schema backup /dev/null/x/").fails(2, "--no-backup goes without");
    assert!(!scene.has("t"));
    // A role that may not lock everything cannot dump it either.
    scene.sql("create table secret (a int); revoke all on secret from public");
    let bin = Postgres::shared_18().bindir.display().to_string();
    let denied = scene.migrate(text, "--backup-dir").arg(&dir).arg("--pg-bin").arg(bin).run();
    denied.fails(2, "pg_dump:").fails(2, "permission denied for table secret");
    let left: Vec<_> = fs::read_dir(&scene.dir).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name == "m.sql" || name == "journal"), "{left:?}");
    assert!(!scene.has("t"));
}

#[test]
fn a_failure_has_its_place_and_undoes_everything() {
    let scene = Scene::new();
    let ran = scene.run("create table t (a int);\n-- ä\ninsert into t\n  values ('ä', b);\n", "").ends_with(2);
    let place = format!("{}/m.sql:4:16: column \"b\" does not exist", scene.dir.display());
    assert!(ran.stderr.contains(&place) && ran.stderr.contains("SQLSTATE 42703"), "{}", ran.stderr);
    assert!(ran.stderr.contains("Statement: insert into t values ('ä', b)"), "{}", ran.stderr);
    assert!(!scene.has("t"));
    let function = "create function f() returns void language plpgsql as $$ begin perform 1/0; end $$;\nselect f()";
    scene
        .run(function, "")
        .fails(2, "m.sql:2:1: division by zero")
        .fails(2, "Context: ")
        .fails(2, "PL/pgSQL function f()");
    let deferred = "create table t (a int unique deferrable initially deferred); insert into t values (1), (1)";
    let ran = scene.run(deferred, "").fails(2, "at the transaction's end: duplicate key value").fails(2, "Key (a)=(1)");
    assert!(ran.stdout.contains("outcome") && ran.stdout.contains("failed"), "{}", ran.stdout);
    assert!(!scene.has("t"));
}

#[test]
fn a_lock_timeout_names_who_is_in_the_way() {
    let scene = Scene::new();
    scene.as_app("create table t (a int)");
    let mut reader = Wire::tcp(scene.pg.port);
    reader.login("app", &scene.database, "", &[]).unwrap();
    let pid = reader.backend();
    reader.run("set application_name = 'a slow report'; begin; select * from t");
    let alter = "select 1;\nalter table t add column b int";
    let flags = "--lock-timeout 100ms --retries 2 --retry-wait 10ms";
    let ran = scene.run(alter, flags).fails(2, "m.sql:2:1: canceling statement due to lock timeout");
    let ran = ran.fails(2, &format!("Blocked by process {pid}: a slow report of app, idle in transaction for "));
    assert!(ran.stderr.contains("rolled back; attempt 3 of 3 in "), "{}", ran.stderr);
    let journal = fs::read_to_string(scene.journal()).unwrap();
    let line: Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    assert_eq!((&line["outcome"], &line["attempts"]), (&"failed".into(), &3.into()));
    // Of another user's session not everything is seen.
    let mut other = scene.pg.direct(&scene.database);
    other.run("set application_name = 'x'; begin; lock table t in access share mode");
    let message = format!("Blocked by process {}: x of postgres\n", other.backend());
    reader.run("rollback");
    scene.run(alter, "--lock-timeout 100ms --retries 0").fails(2, &message);
    other.run("rollback");
    reader.run("begin; select * from t");
    // As soon as it is gone, the next attempt succeeds.
    let child =
        scene.migrate(alter, "--no-backup --lock-timeout 50ms --retries 1000 --retry-wait 1ms --output json").spawn();
    let waits = format!("select 1 from pg_locks where relation = 't'::regclass and not granted and pid <> {pid}");
    wait_until("it waits", PATIENCE, || !scene.sql(&waits).is_empty());
    reader.run("commit");
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(scene.sql("select 1 from pg_attribute where attrelid = 't'::regclass and attname = 'b'").len(), 1);
}

#[test]
fn what_others_have_undone_is_tried_again() {
    let scene = Scene::new();
    scene.as_app("create sequence s");
    for code in ["40001", "40P01", "55P03"] {
        let text = format!(
            "do $$ begin if nextval('s') % 3 <> 0 then raise exception using errcode = '{code}'; end if; end $$"
        );
        assert_eq!(scene.result(&text, "--retry-wait 1ms")["attempts"], 3, "{code}");
    }
    // Any other error is final.
    let text = "do $$ begin if nextval('s') > 0 then raise exception using errcode = '22012'; end if; end $$";
    scene.run(text, "--retry-wait 1ms").fails(2, "SQLSTATE 22012");
    assert_eq!(scene.sql("select last_value from s")[0][0].as_deref(), Some("10"));
}

#[test]
fn what_no_transaction_may_hold() {
    let scene = Scene::new();
    scene.as_app("create table t (a int); insert into t values (1), (1)");
    let index = "create table first (a int);\ncreate index concurrently i on t (a);";
    let refused = "m.sql:2:1: CREATE INDEX CONCURRENTLY cannot run in a transaction: use --no-transaction";
    scene.run(index, "").fails(5, refused);
    assert!(!scene.has("first"));
    let result =
        scene.result(&format!("{index}\nbegin; insert into t values (2); commit; vacuum t"), "--no-transaction");
    assert_eq!(result["statements_done"], 4);
    assert!(scene.has("first") && scene.has("i"));
    // What the words do not tell, the server does.
    let hidden = "create procedure c() language plpgsql as $$ begin commit; end $$; call c()";
    scene.run(hidden, "").fails(2, "invalid transaction termination");
    scene.run(hidden, "--no-transaction").ok();
}

#[test]
fn a_part_that_is_done_is_told() {
    let scene = Scene::new();
    scene.as_app("create table t (a int); insert into t values (1), (1)");
    let text = "create table one (a int);\n\ncreate table two (a int);\ncreate unique index concurrently u on t (a);\nselect 1";
    let ran = scene.run(text, "--no-transaction --output json").fails(7, "m.sql:4:1: could not create unique index");
    let ran = ran.fails(7, "2 of 4 statements are done, those at line 1, 3; the rest is not");
    let ran = ran.fails(7, "Left behind, not valid: \"public\".\"u\"");
    assert_eq!(json(&ran)["outcome"], "partly");
    assert!(scene.has("two"));
    // Nothing done is a plain failure.
    scene.run("select 1/0; select 1", "--no-transaction").ends_with(2);
}

#[test]
fn files_that_are_not_sql_alone() {
    let scene = Scene::new();
    for (text, code, message) in [
        ("", 4, "there is no statement in"),
        ("-- nothing\n", 4, "there is no statement in"),
        ("select 1;\n\\d t\n", 5, "m.sql:2:1: \\d is a command of psql"),
        ("copy t from stdin;\n1\n\\.\n", 5, "m.sql:3:1: \\. is a command of psql"),
        ("copy t from stdin", 5, "m.sql:1:1: COPY FROM STDIN needs rows"),
        ("select 'a", 5, "m.sql:1:8: a ' without its end"),
        ("begin; select 1", 5, "m.sql:1:1: this transaction does not end with the file"),
    ] {
        scene.run(text, "").fails(code, message);
    }
    fs::write(scene.dir.join("latin"), b"select 1;\n select '\xe4'").unwrap();
    let on = |file: &Path| pgweir("migrate run").arg(file.display().to_string()).on(scene.pg, "app", &scene.database);
    on(&scene.dir.join("latin")).run().fails(4, "latin:2:10: not in UTF-8");
    on(&scene.dir.join("missing")).run().fails(4, "missing: No such file");
    let file = scene.dir.join("m.sql").display().to_string();
    fs::write(&file, "\u{feff}begin; create table bom (a int); commit;").unwrap();
    pgweir("migrate run --no-backup").arg(&file).on(scene.pg, "app", &scene.database).run().ok();
    assert!(scene.has("bom"));
    pgweir("migrate run --no-backup")
        .arg(&file)
        .arg("--dsn")
        .arg("host=127.0.0.1 port=1 dbname=x user=x")
        .run()
        .ends_with(3);
}

#[test]
fn a_dry_run_shows_and_a_trial_tries() {
    let scene = Scene::new();
    let text = "create table t (a int);\nselect 1;";
    let ran = scene.run(text, "--dry-run").ok();
    assert_eq!(
        ran.stdout,
        "BEGIN;\ncreate table t (a int);\nselect 1;\nCOMMIT;\n-- ANALYZE of each table that these have changed\n"
    );
    let ran = scene
        .migrate(text, "--dry-run --pg-bin")
        .arg(scene.pg.bindir.display().to_string())
        .arg("--backup-dir")
        .arg("/nowhere")
        .run()
        .ok();
    assert!(
        ran.stdout.starts_with(&format!("-- {}/pg_dump --schema-only > /nowhere/", scene.pg.bindir.display())),
        "{}",
        ran.stdout
    );
    let ran = scene.run(text, "--dry-run --try --output csv").ok();
    assert!(ran.stdout.contains(",rolled back,2,2,1,"), "{}", ran.stdout);
    scene
        .run("create table t (a int); select b from t", "--dry-run --try")
        .fails(2, "m.sql:1:32: column \"b\" does not exist");
    assert!(!scene.has("t") && !scene.journal().exists());
    scene.run(text, "--try").ends_with(4);
}

#[test]
fn what_destroys_data_wants_a_word() {
    let scene = Scene::new();
    scene.as_app("create table t (a int)");
    let ran = scene.run("select 1;\ndrop table t; truncate u", "");
    ran.fails(5, "not confirmed: run what destroys data").fails(5, "m.sql:2:1: drop table t and 1 more");
    assert!(scene.has("t"));
    scene.run("drop table t", "--yes").ok();
    assert!(!scene.has("t"));
}

#[test]
fn a_file_that_was_run_is_known_again() {
    let scene = Scene::new();
    let text = "create table if not exists t (a int)";
    let first = scene.run(text, "").ok();
    assert!(!first.stderr.contains("was run on this database before"), "{}", first.stderr);
    scene.run(text, "").fails(0, "m.sql was run on this database before, at 20");
    let journal = fs::read_to_string(scene.journal()).unwrap();
    let line: Value = serde_json::from_str(journal.lines().next().unwrap()).unwrap();
    // By another program.
    let hash = std::process::Command::new("sha256sum").arg(scene.dir.join("m.sql")).output().unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    assert_eq!(line["sha256"].as_str(), hash.split(' ').next());
    assert_eq!((&line["outcome"], journal.lines().count()), (&"done".into(), 2));
}

#[test]
fn an_interrupt_rolls_back() {
    let scene = Scene::new();
    for (flags, code) in [("", 2), ("--no-transaction", 7)] {
        let child =
            scene.migrate("create table t (a int); select pg_sleep(600)", &format!("--no-backup {flags}")).spawn();
        let sleeps = "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
        wait_until("it sleeps", PATIENCE, || !scene.sql(sleeps).is_empty());
        signal(child.id(), "INT");
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{}", String::from_utf8_lossy(&out.stderr));
        wait_until("it is cancelled", PATIENCE, || scene.sql(sleeps).is_empty());
        assert_eq!(scene.has("t"), code == 7);
    }
}

#[test]
fn one_job_at_a_time() {
    let scene = Scene::new();
    let mut first = scene.migrate("select pg_sleep(600)", "--no-backup").spawn();
    let sleeps = "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
    wait_until("it sleeps", PATIENCE, || !scene.sql(sleeps).is_empty());
    scene.run("select 1", "").fails(6, "another job is at work").fails(6, "pgweir/migrate-run");
    signal(first.id(), "KILL");
    first.wait().unwrap();
    scene.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgweir/migrate-run' and datname = current_database()");
    wait_until("its lock ends with its sessions", PATIENCE, || scene.run("select 1", "").code == 0);
}

#[test]
fn strings_are_read_as_the_server_reads_them() {
    let scene = Scene::new();
    scene.sql(&format!("alter database {} set standard_conforming_strings = off", scene.database));
    scene.as_app("create table t (a text)");
    let ran = scene.migrate("insert into t values ('a\\'; b'); select 1", "--no-backup --output json").run().ok();
    assert_eq!(json(&ran)["statements"], 2);
    assert_eq!(scene.sql("select a from t")[0][0].as_deref(), Some("a'; b"));
}
