//! `backup` into a directory: every format, what must not count, what must not be left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use crate::program::{Program, Ran, dsn, monitored, pgweir, scratch_file};
use crate::servers::every_version;
use crate::support::process::{scratch_dir, signal};
use crate::support::*;

/// A database whose name and tables are unusual, as large as two digits of MB.
const ODD: &str = "Odd 'Db' =ä";

const SCHEMA: &str = r#"
create table t as select i, repeat(md5(i::text), 4) as text from generate_series(1, 30000) i;
create table log_1 as select 1 as i;
create table "Log_2" as select generate_series(1, 5) as i;
create schema "Sch ema";
create table "Sch ema"."Part""ed" (i int) partition by range (i);
create table "Sch ema"."leäf 1" partition of "Sch ema"."Part""ed" for values from (0) to (10);
create table "Sch ema".leaf_2 partition of "Sch ema"."Part""ed" default;
insert into "Sch ema"."Part""ed" select generate_series(5, 24);
create table empty ();
create view v as select * from t;
create temporary table gone as select 1;
"#;

/// What of it is to be counted.
fn counted() -> BTreeMap<String, i64> {
    [
        ("Sch ema.leaf_2", 15),
        ("Sch ema.leäf 1", 5),
        ("public.Log_2", 5),
        ("public.empty", 0),
        ("public.log_1", 1),
        ("public.t", 30000),
    ]
    .map(|(name, rows)| (name.to_owned(), rows))
    .into()
}

/// A database of this kind for one test.
struct Odd<'a> {
    pg: &'a Postgres,
    name: String,
}

impl<'a> Odd<'a> {
    fn create(pg: &'a Postgres) -> Odd<'a> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{ODD} {}", COUNT.fetch_add(1, Ordering::Relaxed));
        pg.sql(&format!("create database \"{name}\""));
        pg.direct(&name).run(SCHEMA);
        Odd { pg, name }
    }

    /// The connection string, with the name quoted.
    fn dsn(&self) -> String {
        dsn(self.pg, "postgres", &format!("'{}'", self.name.replace('\'', "\\'")))
    }

    fn backup(&self, line: &str, to: &Path) -> Program {
        let bin = self.pg.bindir.display().to_string();
        self.backup_by(&bin, line, to)
    }

    fn backup_by(&self, bin: &str, line: &str, to: &Path) -> Program {
        let program = pgweir(&format!("backup run {line}")).arg("--dsn").arg(self.dsn());
        program.arg("--to").arg(to.display().to_string()).arg("--pg-bin").arg(bin)
    }
}

/// The backup that was made, as `run` prints it, and its manifest.
#[track_caller]
fn made(program: Program, to: &Path) -> (Value, Value) {
    let ran = program.arg("--output").arg("json").run().ok();
    let row: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let manifest = fs::read(to.join(text(&row, "id")).join("manifest.json")).expect("a manifest");
    (row, serde_json::from_slice(&manifest).expect("JSON"))
}

#[track_caller]
fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("no {field} in {row}"))
}

fn rows(manifest: &Value) -> BTreeMap<String, i64> {
    let rows = manifest["rows"].as_array().expect("rows").iter();
    rows.map(|row| (format!("{}.{}", text(row, "schema"), text(row, "name")), row["rows"].as_i64().expect("a number")))
        .collect()
}

/// By a program of somebody else's.
fn sha256(dir: &Path, arguments: &[&str]) -> String {
    let out = Command::new("sha256sum").args(arguments).current_dir(dir).output().expect("run sha256sum");
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_format() {
    for pg in [Postgres::shared(), Postgres::shared_18()] {
        let odd = Odd::create(pg);
        let to = scratch_file("backups");
        for (format, line) in [("custom", "--compress 1"), ("directory", "--jobs 2 --compress 1"), ("plain", "")] {
            let (row, manifest) = made(odd.backup(&format!("--format {format} {line}"), &to), &to);
            let dir = to.join(text(&row, "id"));
            assert_eq!(text(&row, "format"), format);
            assert_eq!(
                (text(&row, "database"), &row["held"], &row["verified"]),
                (odd.name.as_str(), &Value::Bool(false), &Value::Null)
            );
            assert!(text(&row, "id").starts_with("Odd__Db_____"), "{row}");
            assert_eq!(rows(&manifest), counted(), "{format}");
            assert_eq!(mode(&dir), 0o700);
            let files = manifest["files"].as_array().expect("files");
            let mut bytes = 0;
            let mut list = String::new();
            for file in files {
                let (name, path) = (text(file, "name"), dir.join(text(file, "name")));
                assert_eq!(mode(&path), 0o600, "{name}");
                bytes += fs::metadata(&path).expect("a file").len();
                let line = sha256(&dir, &[name]);
                assert!(line.starts_with(text(file, "sha256")), "{line} {file}");
                list += &line;
            }
            assert_eq!(row["bytes"].as_u64(), Some(bytes));
            let data = match format {
                "directory" => {
                    assert!(files.len() > 5, "{files:?}");
                    fs::write(dir.join("list"), list).expect("write");
                    let whole = sha256(&dir, &["list"]);
                    assert!(whole.starts_with(text(&row, "sha256")), "{whole} {row}");
                    "data"
                }
                "plain" => "data.sql",
                _ => "data.dump",
            };
            assert!(format == "directory" || text(&row, "sha256") == text(&files[0], "sha256"));
            if format == "plain" {
                let sql = fs::read_to_string(dir.join(data)).expect("SQL");
                assert!(sql.contains("COPY \"Sch ema\".\"leäf 1\""), "{}", &sql[..1000]);
            } else {
                let mut program = Command::new(pg.bindir.join("pg_restore"));
                let out = program.args(["-f", "/dev/null"]).arg(dir.join(data)).output().expect("run pg_restore");
                assert!(out.status.success(), "{out:?}");
            }
        }
        assert!(!to.join("started.json").exists());
    }
}

#[test]
fn every_version_is_dumped_by_a_newer_pg_dump() {
    let newest = Postgres::shared_18();
    for (version, pg) in every_version() {
        let (_, database) = monitored(pg);
        pg.direct(&database).run("create table t as select generate_series(1, 7) as i");
        let to = scratch_file("backups");
        let program = pgweir("backup run --compress gzip:1 --globals").on(pg, "postgres", &database);
        let program = match version {
            // Of the version itself, where there is one, and its name in the plan.
            15 => pgweir("backup run --globals --no-role-passwords").on(pg, "postgres", &database),
            _ => program.arg("--pg-bin").arg(newest.bindir.display().to_string()),
        };
        let (row, manifest) = made(program.arg("--to").arg(to.display().to_string()), &to);
        assert_eq!(manifest["rows"][0]["rows"], 7, "{version}");
        assert!(text(&row, "server_version").starts_with(&version.to_string()));
        let globals = fs::read_to_string(to.join(text(&row, "id")).join("globals.sql")).expect("globals");
        assert!(globals.contains("CREATE ROLE app") && !globals.contains("CREATE TABLE"), "{globals}");
        assert_eq!(globals.contains("SCRAM-SHA-256$"), version != 15, "{globals}");
    }
}

#[test]
fn what_is_dumped_is_what_is_counted() {
    let odd = Odd::create(Postgres::shared());
    let to = scratch_file("backups");
    let of = |line: &str, patterns: &[(&str, &str)]| {
        let program = odd.backup(&format!("{line} --format plain"), &to);
        let program = patterns.iter().fold(program, |program, (flag, pattern)| program.arg(*flag).arg(*pattern));
        let (row, manifest) = made(program, &to);
        let sql = fs::read_to_string(to.join(text(&row, "id")).join("data.sql")).expect("SQL");
        (sql, manifest)
    };
    for patterns in [
        &[("--table", "log_*")][..],
        &[("--table", "\"Log_2\""), ("--table", "\"Sch ema\".*")],
        &[("--exclude-table", "t"), ("--exclude-table", "public.LOG_?")],
        &[("--exclude-table", "\"Sch ema\".\"leäf 1\""), ("--exclude-table", "*.t")],
    ] {
        let (sql, manifest) = of("", patterns);
        let copies = sql.lines().filter(|line| line.starts_with("COPY ")).count();
        assert_eq!(rows(&manifest).len(), copies, "{patterns:?}: {:?}", rows(&manifest));
    }
    let (sql, manifest) = of("--schema-only", &[]);
    assert!(sql.contains("CREATE TABLE") && !sql.contains("COPY "));
    assert_eq!(manifest["rows"], Value::Array(Vec::new()));
    let (sql, manifest) = of("--inserts --no-counts", &[("--table", "log_1")]);
    assert!(sql.contains("INSERT INTO public.log_1 VALUES (1);"), "{sql}");
    assert_eq!(manifest["rows"], Value::Null);
    assert_eq!(manifest["options"]["inserts"], true);
}

#[test]
fn counts_are_of_the_dumped_snapshot() {
    let pg = Postgres::shared();
    let (_, database) = monitored(pg);
    pg.direct(&database).run("create table t as select generate_series(1, 20000) as i");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = pg.direct(&database);
            while !is_done.load(Ordering::Relaxed) {
                writer.run("insert into t select 1; delete from t where i = 7");
            }
        });
        for format in ["plain", "directory"] {
            let to = scratch_file("backups");
            let program = pgweir(
                &format!("backup run --compress 0 --format {format}")
                    .replace("--compress 0 --format plain", "--format plain"),
            );
            let program = program.on(pg, "postgres", &database).arg("--to").arg(to.display().to_string());
            let (row, manifest) = made(program, &to);
            let data = to.join(text(&row, "id")).join(text(&manifest["files"][0], "name"));
            let dumped = fs::read_to_string(data).expect("rows");
            let copied = dumped.lines().skip_while(|line| format == "plain" && !line.starts_with("COPY "));
            let copied = copied.skip(usize::from(format == "plain")).take_while(|line| *line != "\\.").count();
            assert_eq!(manifest["rows"][0]["rows"].as_u64(), Some(copied as u64), "{format}");
        }
        is_done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_newest_come_first_and_prune_keeps_what_it_must() {
    let pg = Postgres::shared();
    let (_, database) = monitored(pg);
    let to = scratch_file("backups");
    let place = to.display().to_string();
    let on = |line: &str| pgweir(line).arg("--to").arg(&place);
    for _ in 0..4 {
        on("backup run -q").on(pg, "postgres", &database).run().ok();
    }
    let backups = on("backup list").rows();
    let ids: Vec<String> = backups.iter().map(|row| text(row, "id").to_owned()).collect();
    assert!(ids.len() == 4 && ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    assert!(
        backups.iter().all(|row| row["finished_at"].is_string() && row["bytes"].is_u64() && row["sha256"].is_string())
    );
    assert!(on("backup list --of nobody").rows().is_empty());
    let held = |line: &str| serde_json::from_str::<Value>(&on(line).run().ok().stdout).expect("JSON")["held"].clone();
    on(&format!("backup hold {} --dry-run", ids[3])).run().ok();
    assert_eq!(on("backup list").rows()[3]["held"], false);
    assert_eq!(held(&format!("backup hold {} --output json", ids[3])), true);
    assert_eq!(held(&format!("backup hold latest --of {database} --output json")), true);
    assert_eq!(held("backup unhold latest --output json"), false);
    on("backup hold nothing-there").run().fails(4, "there is no backup nothing-there");
    on("backup hold ../x").run().fails(4, "is no backup's id");

    // As `backup verify` notes it.
    let manifest = to.join(&ids[2]).join("manifest.json");
    let text_of = fs::read_to_string(&manifest).expect("a manifest");
    let verified = r#""verified": {"level": "full", "at": "2026-11-22T00:00:00Z"}"#;
    fs::write(&manifest, text_of.replace("\"verified\": null", verified)).expect("write");
    let actions = |rows: &[Value]| rows.iter().map(|row| text(row, "action").to_owned()).collect::<Vec<_>>();
    on("backup prune").run().fails(4, "--keep-days");
    let rule = "backup prune --keep-days 0 --keep-last 0";
    for dry in ["", " --yes --dry-run"] {
        assert_eq!(actions(&on(&format!("{rule}{dry}")).rows()), ["keep", "remove", "keep", "keep"]);
        assert_eq!(on("backup list").rows().len(), 4);
    }
    assert_eq!(actions(&on("backup prune --keep-days 30 --keep-last 1 --yes").rows()), ["keep"; 4]);
    assert_eq!(actions(&on(&format!("{rule} --yes")).rows()), ["keep", "removed", "keep", "keep"]);
    assert!(!to.join(&ids[1]).exists());
    assert_eq!(on("backup list").rows().len(), 3);

    // What cannot be read is told, and left alone.
    fs::write(&manifest, "{").expect("write");
    let ran = on("backup list").run().ok();
    assert!(ran.stderr.contains(&format!("{}: its manifest is broken", ids[2])), "{}", ran.stderr);
    on(&format!("{rule} --yes")).run().ok();
    assert!(to.join(&ids[2]).exists());
    pgweir("backup list --to /nonexistent/x").run().fails(2, "could not read /nonexistent/x");
}

/// A pg_dump that does something else at half of its work.
pub(crate) fn pg_dump_that(pg: &Postgres, then: &str) -> PathBuf {
    let dir = scratch_dir("bin");
    let (program, real) = (dir.join("pg_dump"), pg.bindir.join("pg_dump"));
    let real = real.display();
    let script =
        format!("#!/bin/sh\nexport PATH=/usr/bin:/bin\n[ \"$1\" = --version ] && exec {real} --version\n{then}\n")
            .replace("HALF", &format!("{real} \"$@\" | head -c 1000000"));
    fs::write(&program, script).expect("write a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set permissions");
    dir
}

/// Nothing is left but what was there.
#[track_caller]
fn nothing_left(to: &Path) {
    assert_eq!(entries(to), Vec::<String>::new());
}

#[test]
fn what_fails_leaves_nothing() {
    let odd = Odd::create(Postgres::shared());
    for (then, message) in [
        ("HALF; kill -9 $$", "pg_dump was killed by signal 9"),
        ("HALF; echo 'no more rows' >&2; exit 3", "pg_dump failed with exit code 3:\nno more rows"),
    ] {
        let to = scratch_file("backups");
        let bin = pg_dump_that(odd.pg, then).display().to_string();
        odd.backup_by(&bin, "--compress 0", &to).run().fails(2, message);
        nothing_left(&to);
    }
    // pg_dump's own words.
    let to = scratch_file("backups");
    odd.backup("--table nothing.like.this", &to).run().fails(2, "pg_dump failed with exit code 1");
    odd.backup("--table nothing", &to).run().fails(2, "no matching tables were found");
    odd.backup("--format directory --table nothing", &to).run().fails(2, "no matching tables were found");
    odd.backup("--compress nonsense", &to).run().fails(2, "pg_dump");
    nothing_left(&to);
}

#[test]
fn a_full_disk() {
    let odd = Odd::create(Postgres::shared());
    for format in ["custom", "plain", "directory"] {
        let to = scratch_file("backups");
        let level = if format == "plain" { "" } else { "--compress 0" };
        let plain = odd.backup(&format!("--format {format} {level}"), &to);
        let whole = plain.command();
        // Every file may have 512 kB: what is written beyond fails, as on a disk that is full.
        let limited = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\"";
        let mut command = Command::new("bash");
        command.args(["-c", limited]).arg(whole.get_program()).args(whole.get_args()).env_clear();
        let out = command.output().expect("run it");
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("File too large"), "{stderr}");
        nothing_left(&to);
    }
}

/// Starts one whose pg_dump hangs at half.
fn hanging(odd: &Odd<'_>, to: &Path) -> std::process::Child {
    let bin = pg_dump_that(odd.pg, "HALF; exec sleep 600").display().to_string();
    let child = odd.backup_by(&bin, "--compress 0", to).spawn();
    let written = || {
        let dir = entries(to).pop().map(|id| to.join(id).join("data.dump"));
        dir.and_then(|file| fs::metadata(file).ok()).is_some_and(|about| about.len() >= 1_000_000)
    };
    wait_until("half of it is written", PATIENCE, written);
    child
}

fn ended(child: std::process::Child) -> Ran {
    let out = child.wait_with_output().expect("wait for it");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: out.status.code().unwrap_or(-1), stdout: text(&out.stdout), stderr: text(&out.stderr) }
}

#[test]
fn interrupts_and_two_at_once() {
    let odd = Odd::create(Postgres::shared());
    let to = scratch_file("backups");
    for name in ["INT", "TERM"] {
        let child = hanging(&odd, &to);
        let second = odd.backup("", &scratch_file("other")).run().fails(6, "another job is at work on Odd 'Db' =ä");
        assert!(second.stderr.contains("pgweir/backup-run"), "{}", second.stderr);
        let sleeper = child_of(child.id());
        signal(child.id(), name);
        ended(child).fails(2, "interrupted");
        nothing_left(&to);
        wait_until("its pg_dump is gone", PATIENCE, || !Path::new(&format!("/proc/{sleeper}")).exists());
    }
    // Killed, it leaves what no list counts and prune removes.
    let mut child = hanging(&odd, &to);
    child.kill().expect("kill it");
    child.wait().expect("wait for it");
    let place = to.display().to_string();
    let listed = pgweir("backup list --output json --to").arg(&place).run().ok();
    assert_eq!(listed.stdout, "[]\n");
    assert!(listed.stderr.contains("is no backup: it has not ended"), "{}", listed.stderr);
    let prune = |line: &str| pgweir(&format!("backup prune --keep-last 1 {line} --to")).arg(&place).rows();
    assert_eq!(prune("--yes")[0]["action"], "keep");
    assert_eq!(prune("--leftovers-after 0")[0]["action"], "remove");
    assert_eq!(prune("--leftovers-after 0 --yes")[0]["action"], "removed");
    nothing_left(&to);
}

/// The last of the processes that it has started.
fn child_of(pid: u32) -> String {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    children.split_whitespace().next_back().expect("a child").to_owned()
}

#[test]
fn a_server_that_is_too_new() {
    let pg = Postgres::shared_18();
    let bin = Postgres::shared().bindir.display().to_string();
    let program = pgweir("backup run --to /nonexistent").on(pg, "postgres", "postgres").arg("--pg-bin").arg(&bin);
    let ran = program.run().fails(2, "the server is 18, the newest pg_dump found is 15.");
    assert!(ran.stderr.contains(&format!("in {bin}")) && ran.stderr.contains("postgresql-client-18"), "{}", ran.stderr);
    let empty = scratch_dir("bin").display().to_string();
    let program = pgweir("backup run --to /nonexistent --pg-bin").arg(empty).on(pg, "postgres", "postgres");
    program.run().fails(2, "no pg_dump was found in");
}

#[test]
fn passwords_and_rights() {
    let pg = Postgres::shared();
    let (_, database) = monitored(pg);
    pg.sql(&format!("alter database {database} owner to salted"));
    let mut direct = pg.direct(&database);
    direct.run("create table t as select 1 as i; alter table t owner to salted; create table hidden as select 1 as i");
    let to = scratch_file("backups");
    let seen = scratch_dir("seen");
    let bin = pg_dump_that(
        pg,
        &format!(
            "(stat -c %a $PGPASSFILE; echo \"$@\"; env; cat $PGPASSFILE) > {}/all; exec {} \"$@\"",
            seen.display(),
            pg.bindir.join("pg_dump").display()
        ),
    );
    let run = |line: &str| {
        pgweir(&format!("backup run {line}"))
            .on(pg, "salted", &database)
            .env("PGPASSWORD", postgres::PASSWORD)
            .arg("--to")
            .arg(to.display().to_string())
            .arg("--pg-bin")
            .arg(bin.display().to_string())
            .run()
    };
    run("").fails(2, "permission denied for table hidden");
    run("--table t --no-counts").ok();
    let seen = fs::read_to_string(seen.join("all")).expect("what pg_dump has seen");
    assert!(seen.starts_with("600\n"), "{seen}");
    let (others, file) = seen.split_at(seen.rfind("*:*:*:").expect("a password file"));
    assert_eq!(file, "*:*:*:salted:correct horse\n");
    assert!(!others.contains("correct horse"), "{others}");
    assert!(others.contains("PGAPPNAME=pgweir/backup-run"), "{others}");
    let named = others.lines().find_map(|line| line.strip_prefix("PGPASSFILE=")).expect("its name");
    assert!(!Path::new(named).exists());

    // Rows that a policy hides are an error, not missing.
    direct.run("drop table hidden; alter table t enable row level security; alter table t force row level security");
    run("").fails(2, "row-level security");
}

#[test]
fn dry_runs_and_wrong_arguments() {
    let odd = Odd::create(Postgres::shared());
    let to = scratch_file("backups");
    let plan = odd.backup("--dry-run --format directory --jobs 3", &to).run().ok().stdout;
    for part in ["pg_export_snapshot", "--format=directory", "--jobs=3", "--snapshot=", "manifest.json"] {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    assert!(!to.exists());
    for (line, message) in [
        ("--jobs 2", "--jobs is for --format directory"),
        ("--inserts", "--inserts is for --format plain"),
        ("--format plain --compress 9", "--compress is not for --format plain"),
        ("--storage-class STANDARD_IA", "are for s3://"),
        ("--sse kms", "are for s3://"),
        ("--kms-key x", "--sse"),
        ("--no-role-passwords", "--globals"),
        ("--jobs 0 --format directory", "0 is not in 1..=128"),
    ] {
        odd.backup(line, &to).run().fails(4, message);
    }
    pgweir("backup run --to ftp://x")
        .on(odd.pg, "postgres", "postgres")
        .run()
        .fails(4, "backups cannot be kept in ftp://");
    pgweir("backup run --to x")
        .arg("--dsn")
        .arg("host=127.0.0.1 port=1 dbname=d user=u")
        .run()
        .fails(3, "could not connect");
    assert!(!to.exists());
}

#[test]
fn a_table_that_is_locked() {
    let pg = Postgres::shared();
    let (_, database) = monitored(pg);
    let mut holder = pg.direct(&database);
    holder.run("create table t ()");
    holder.run("begin; lock table t");
    let to = scratch_file("backups");
    let program = pgweir("backup run --lock-timeout 200ms --to").arg(to.display().to_string());
    program.on(pg, "postgres", &database).run().fails(2, "lock timeout");
    nothing_left(&to);
}

#[test]
fn how_old_the_newest_is() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let to = scratch_file("backups");
    let place = to.display().to_string();
    fs::create_dir(&to).expect("create a directory");
    let check = |line: &str| {
        let ran = pgweir(&format!("check {line} --output json --backups")).arg(&place).on(pg, monitor, &database).run();
        let rows: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        (rows.iter().find(|row| row["check"] == "backups").cloned().expect("the check"), ran.code)
    };
    let (finding, code) = check("backups");
    assert_eq!((&finding["status"], code), (&Value::from("critical"), 2), "{finding}");
    pgweir("backup run -q --to").arg(&place).on(pg, "postgres", &database).run().ok();
    let (finding, code) = check("backups");
    assert_eq!(
        (&finding["status"], code, &finding["warning"]),
        (&Value::from("ok"), 0, &Value::from(93600.0)),
        "{finding}"
    );
    let manifest = to.join(&entries(&to)[0]).join("manifest.json");
    let text_of = fs::read_to_string(&manifest).expect("a manifest");
    let row: Value = serde_json::from_str(&text_of).expect("JSON");
    fs::write(&manifest, text_of.replace(text(&row, "finished_at"), "2020-01-01T00:00:00Z")).expect("write");
    assert_eq!(check("backups").0["status"], "critical");
    assert_eq!(check("backups --threshold backups=1d,99999d").0["status"], "warning");
    // Without a place it is not made.
    pgweir("check backups").on(pg, monitor, &database).run().fails(1, "").stdout.contains("--backups");
    let names = pgweir("check --skip growth --output csv").on(pg, monitor, &database).run();
    assert!(!names.stdout.contains("backups"), "{}", names.stdout);
}
