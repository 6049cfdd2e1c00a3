//! `restore`: what comes back is what was there, and nothing is lost or left when it does not.

use std::process::Child;

use serde_json::Value;

use crate::depot::{Depot, UNUSUAL, fresh, has_database};
use crate::program::{dsn, pgweir};
use crate::s3::Bucket;
use crate::support::process::{scratch_dir, signal};
use crate::support::*;

fn unusual(pg: &Postgres) -> String {
    let database = pg.create_database();
    pg.direct(&database).run(UNUSUAL);
    database
}

fn result(ran: &crate::program::Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.stdout))
}

#[test]
fn a_backup_comes_back_as_a_new_database() {
    let pg = Postgres::shared();
    let database = unusual(pg);
    let mut depot = Depot::new();
    for (format, jobs) in
        [("custom", ""), ("custom", "--jobs 2"), ("directory", "--jobs 2"), ("directory", ""), ("plain", "")]
    {
        let backup = depot.backup(pg, &database, format);
        let name = fresh("It's \"new\" = ü");
        let ran = depot
            .on(&format!("restore {} --yes --output json {jobs}", backup.id), pg, &database)
            .arg("--into")
            .arg(&name)
            .arg("--smoke")
            .arg("select sum(id) from sales.orders")
            .run()
            .ok();
        let row = result(&ran);
        let wanted = [
            ("backup", Value::from(backup.id.as_str())),
            ("database", name.as_str().into()),
            ("replaced", Value::Null),
        ];
        let counted =
            [("tables", 7.into()), ("rows", 1215.into()), ("counts_equal", true.into()), ("smoke", "500500".into())];
        for (field, value) in wanted.into_iter().chain(counted) {
            assert_eq!(row[field], value, "{format} {field}: {row:#}");
        }
        assert!(row["restored_s"].as_f64().is_some_and(|s| s > 0.0), "{row:#}");
        let mut new = pg.direct(&name);
        assert_eq!(new.one("select count(*) from pg_stat_user_tables where last_analyze is null"), "0");
        assert_ne!(new.one("select count(*) from pg_stats where schemaname = 'sales'"), "0");
        assert_eq!(new.one("select coalesce(shobj_description(oid, 'pg_database'), '') from pg_database where datname = current_database()"), "");
        // What is there is not restored over without being asked for.
        let ran = depot.on(&format!("restore {} --yes", backup.id), pg, &database).arg("--into").arg(&name).run();
        ran.fails(5, "already");
    }
}

#[test]
fn what_there_is_is_listed_when_none_is_named() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let mut depot = Depot::new();
    depot.program("restore").run().fails(0, "name one of these");
    let (older, newer) = (depot.backup(pg, &database, "custom"), depot.backup(pg, &database, "plain"));
    let rows = depot.program("restore").rows();
    assert_eq!(rows.iter().map(|row| &row["id"]).collect::<Vec<_>>(), [newer.id.as_str(), older.id.as_str()]);
    assert!(depot.program("restore --of other").rows().is_empty());
    depot.on("restore latest --of other --yes", pg, &database).run().fails(4, "no backup of other");
    let several = pg.create_database();
    depot.backup(pg, &several, "custom");
    depot.on("restore latest --yes", pg, "postgres").run().fails(4, "--of says the latest of which");
    depot.on("restore nonsense --yes", pg, &database).run().fails(4, "no backup nonsense");
    // That of the database that is connected to, by the name that is made of the backup's.
    let name = format!("{database}_restored_20260101T000200Z");
    depot.on("restore latest --yes", pg, &database).run().ok();
    assert!(has_database(pg, &name));
    assert_eq!(pg.direct(&name).one("select 1"), "1");
}

#[test]
fn nothing_is_done_without_being_confirmed() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let mut depot = Depot::new();
    depot.backup(pg, &database, "custom");
    let name = fresh("unconfirmed");
    let on = |line: &str| depot.on(line, pg, &database);
    on(&format!("restore latest --into {name}")).run().fails(5, "--yes confirms it");
    for flags in ["", "--yes", "--confirm restore"] {
        let ran = on(&format!("restore latest --in-place --no-pooler {flags}")).run();
        ran.fails(5, "--confirm RESTORE");
    }
    // A plan says what would be done, and does nothing.
    let ran = on(&format!("restore latest --into {name} --swap --no-pooler --globals --dry-run")).run().ok();
    for part in [
        &format!("CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'"),
        "pg_restore 15",
        "RENAME TO",
        "pg_terminate_backend",
        "psql makes the roles",
    ] {
        assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
    }
    let ran = on("restore latest --in-place --no-pooler --dry-run").run().ok();
    assert!(ran.stdout.contains("--clean --if-exists"), "{}", ran.stdout);
    assert!(!has_database(pg, &name));
    assert_eq!(pg.sql(&format!("select 1 from pg_database where datname like '{database}%'")).len(), 1);
}

#[test]
fn damage_is_found_and_nothing_is_left() {
    let pg = Postgres::shared();
    let database = unusual(pg);
    let mut depot = Depot::new();
    let good = depot.backup(pg, &database, "custom");
    let name = fresh("damaged");
    type Damage = fn(&crate::depot::Backup, &str);
    let damages: [(&str, &str, &str, Damage); 6] = [
        ("custom", "data.dump", "", |backup, file| backup.cut(file, 0.7)),
        ("custom", "data.dump", "", |backup, file| backup.flip(file, 0.5)),
        ("custom", "data.dump", "--jobs 2", |backup, file| backup.flip(file, 1.0)),
        ("plain", "data.sql", "", |backup, file| backup.cut(file, 0.9)),
        ("plain", "data.sql", "", |backup, file| backup.flip(file, 0.99)),
        ("directory", "data/toc.dat", "", |backup, file| backup.flip(file, 0.3)),
    ];
    for (format, file, jobs, damage) in damages {
        let backup = depot.backup(pg, &database, format);
        damage(&backup, file);
        let ran = depot.on(&format!("restore {} --into {name} --yes {jobs}", backup.id), pg, &database).run();
        ran.fails(8, &format!("{}: {file}", backup.id));
        assert!(!has_database(pg, &name), "{format} {file}");
        // Nor over what is there.
        if format != "plain" {
            let line = format!("restore {} --in-place --confirm RESTORE --no-pooler {jobs}", backup.id);
            depot.on(&line, pg, &database).run().fails(8, &format!("{}: {file}", backup.id));
        }
        depot.on(&format!("backup verify {}", backup.id), pg, &database).run().ends_with(8);
    }
    // The newest that is not known to be broken.
    let ran =
        depot.on(&format!("restore latest --into {name} --yes"), pg, &database).run().fails(0, "was found broken");
    assert!(ran.stdout.contains(&good.id), "{}", ran.stdout);
    assert_eq!(pg.direct(&database).one("select count(*) from sales.orders"), "1000");
}

#[test]
fn counts_that_differ_are_told() {
    let pg = Postgres::shared();
    let database = unusual(pg);
    let mut depot = Depot::new();
    let backup = depot.backup(pg, &database, "custom");
    let mut manifest = backup.manifest();
    let rows = manifest["rows"].as_array_mut().expect("rows");
    let orders = rows.iter_mut().find(|row| row["name"] == "orders").expect("orders");
    orders["rows"] = 1001.into();
    rows.push(serde_json::json!({ "schema": "sales", "name": "gone", "rows": 1 }));
    backup.write(&manifest);
    let name = fresh("differing");
    let ran =
        depot.on(&format!("restore latest --into {name} --swap --no-pooler --yes --output json"), pg, &database).run();
    let ran = ran.fails(8, &format!("DROP DATABASE \"{name}\""));
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).expect("a list");
    let find = |table: &str| rows.iter().find(|row| row["table"] == table).expect("the table").clone();
    assert_eq!((&find("orders")["rows_in_backup"], &find("orders")["rows_restored"]), (&1001.into(), &1000.into()));
    assert_eq!(find("gone")["rows_restored"], Value::Null);
    assert_eq!(rows.len(), 2);
    // It was not put in place, and is kept to be looked at.
    assert_eq!(pg.direct(&name).one("select count(*) from sales.orders"), "1000");
    depot.on(&format!("restore latest --into {name} --yes"), pg, &database).run().fails(5, "is not finished");
    // A smoke query that fails is no better.
    backup.seal();
    let mut manifest = backup.manifest();
    manifest["rows"] = Value::Null;
    backup.write(&manifest);
    let other = fresh("smoke");
    let ran =
        depot.on(&format!("restore latest --into {other} --yes"), pg, &database).arg("--smoke").arg("select 1/0").run();
    ran.fails(8, "the smoke query");
    let ran = depot.on("backup verify latest --level restore --output json", pg, &database).run().ok();
    assert_eq!(result(&ran)["tables"], Value::Null);
}

#[test]
fn rows_of_some_tables_and_definitions_of_all() {
    let pg = Postgres::shared();
    let database = unusual(pg);
    let mut depot = Depot::new();
    for format in ["custom", "directory"] {
        depot.backup(pg, &database, format);
        let name = fresh("some");
        let ran = depot
            .on(&format!("restore latest --into {name} --yes --output json --table sales.ord*"), pg, &database)
            .arg("--schema")
            .arg("Odd sch.ema")
            .run()
            .ok();
        assert_eq!((&result(&ran)["tables"], &result(&ran)["rows"]), (&2.into(), &1100.into()));
        let mut new = pg.direct(&name);
        let counts =
            "select concat_ws(' ', (select count(*) from sales.orders), (select count(*) from sales.customers),
                      (select count(*) from events), (select count(*) from pg_indexes where tablename = 'orders'))";
        assert_eq!(new.one(counts), "1000 0 0 2");
        assert_eq!(new.one("select count(*) from pg_constraint where contype = 'f'"), "0");
    }
    let name = fresh("none");
    let on = |line: &str| depot.on(&format!("restore latest --yes {line}"), pg, &database);
    on(&format!("--into {name} --table Orders")).run().fails(4, "no rows of such tables");
    on("--in-place --confirm RESTORE --no-pooler --table orders").run().fails(5, "single tables");
    assert!(!has_database(pg, &name));
    depot.backup(pg, &database, "plain");
    for line in ["--table orders", "--no-owner", "--in-place --no-pooler"] {
        depot.on(&format!("restore latest --yes {line}"), pg, &database).run().fails(5, "is a plain dump");
    }
}

#[test]
fn owners_and_roles() {
    let (pg, other) = (Postgres::shared(), Postgres::dedicated());
    let (role, database) = (fresh("Der Eigner"), pg.create_database());
    let space = pg.dir.join(fresh("space"));
    std::fs::create_dir(&space).expect("create a directory");
    std::process::Command::new("chown").arg("postgres").arg(&space).status().expect("run chown");
    pg.sql(&format!("create role \"{role}\" password 'secret'"));
    pg.sql(&format!("create tablespace {} location '{}'", fresh("space"), space.display()));
    let mut direct = pg.direct(&database);
    direct.run(&format!("create table t (); alter table t owner to \"{role}\"; grant select on t to \"{role}\""));
    let mut depot = Depot::new();
    depot.backup(pg, &database, "custom");
    let run = |flags: &str| {
        let name = fresh("owned");
        (depot.on(&format!("restore latest --into {name} --yes {flags}"), &other, "postgres").run(), name)
    };
    let (ran, name) = run("");
    ran.fails(2, "--globals makes the roles");
    assert!(!has_database(&other, &name));
    let (ran, name) = run("--keep");
    ran.fails(2, "is kept");
    assert!(has_database(&other, &name));
    let (ran, name) = run("--no-owner --no-privileges");
    ran.ok();
    assert_eq!(other.direct(&name).one("select tableowner from pg_tables where tablename = 't'"), "postgres");
    // Roles that exist stay as they are.
    other.sql("alter role app connection limit 7");
    let (ran, name) = run("--globals");
    ran.fails(0, "roles and tablespaces: ");
    assert_eq!(other.direct(&name).one("select tableowner from pg_tables where tablename = 't'"), role);
    assert_eq!(other.sql("select rolconnlimit from pg_roles where rolname = 'app'")[0][0].as_deref(), Some("7"));
    other.stop("QUIT");
}

#[test]
fn from_one_version_into_another() {
    let (old, new) = (Postgres::shared(), Postgres::shared_18());
    let database = unusual(old);
    let mut depot = Depot::new();
    depot.backup(old, &database, "custom");
    let name = fresh("from_15");
    let ran = depot.on(&format!("restore latest --into {name} --yes --output json"), new, "postgres").run().ok();
    assert_eq!(result(&ran)["rows"], 1215);
    depot.on("backup verify latest --level restore", new, "postgres").run().ok();
    // By programs that are older than the server, too.
    let bin = old.bindir.to_str().expect("a path").to_owned();
    let name = fresh("from_15");
    let ran = depot
        .program(&format!("restore latest --into {name} --yes"))
        .arg("--pg-bin")
        .arg(bin.clone())
        .arg("--dsn")
        .arg(dsn(new, "postgres", "postgres"));
    ran.run().ok();
    // Programs of 18 made it, and those of 15 cannot read it.
    let newer = unusual(new);
    depot.backup(new, &newer, "custom");
    let name = fresh("from_18");
    let ran =
        depot.on(&format!("restore latest --of {newer} --into {name} --yes --output json"), new, "postgres").run().ok();
    assert_eq!(result(&ran)["rows"], 1215);
    let ran = depot.program("backup verify latest --level full").arg("--pg-bin").arg(bin).run();
    ran.fails(2, "the newest pg_restore found is 15");
    let ran = depot
        .program(&format!("restore latest --of {newer} --into {name} --yes"))
        .arg("--pg-bin")
        .arg(new.bindir.to_str().expect("a path"));
    ran.arg("--dsn").arg(dsn(old, "postgres", "postgres")).run().fails(5, "transaction_timeout");
    assert_eq!(depot.listed(&depot.latest())["verified"], Value::Null);
}

#[test]
fn from_s3() {
    let pg = Postgres::shared();
    let (bucket, database) = (Bucket::create("restoring"), unusual(pg));
    let work_dir = scratch_dir("work");
    let on = |line: &str| {
        let program = pgweir(line).env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "a secret key");
        let program =
            program.arg("--s3-endpoint").arg(bucket.endpoint()).arg("--to").arg(format!("s3://{}/x", bucket.name));
        program.on(pg, "postgres", &database)
    };
    on("backup run --globals").run().ok();
    for flags in ["", "--jobs 2 --work-dir"] {
        let name = fresh("from_s3");
        let program = on(&format!("restore latest --yes --output json --into {name}"));
        let program = match flags {
            "" => program,
            _ => program.arg("--jobs").arg("2").arg("--work-dir").arg(work_dir.to_str().expect("a path")),
        };
        let row = result(&program.run().ok());
        assert_eq!((&row["database"], &row["rows"]), (&name.as_str().into(), &1215.into()));
        assert_eq!(std::fs::read_dir(&work_dir).expect("list").count(), 0);
    }
    on("backup verify latest --level restore").run().ok();
    let objects = bucket.objects();
    let dump = objects.iter().find(|name| name.ends_with("data.dump")).expect("the dump");
    assert_eq!(bucket.ask("DELETE", dump).0, 204);
    on("backup verify latest").run().fails(8, "data.dump is missing");
    on("restore latest --yes").run().fails(4, "that could be restored");
}

#[test]
fn a_new_database_is_made_as_the_old_one_was() {
    let pg = Postgres::dedicated();
    let depot = Depot::new();
    pg.sql("create database \"Lat ein\" template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'");
    pg.direct("Lat ein").run("create table t (a text); insert into t values (chr(228))");
    let dsn = format!("host=127.0.0.1 port={} user=postgres dbname='Lat ein'", pg.port);
    depot.program("backup run --format plain --globals").arg("--dsn").arg(&dsn).run().ok();
    pg.sql("drop database \"Lat ein\"");
    let space = pg.dir.join("space");
    std::fs::create_dir(&space).expect("create a directory");
    std::process::Command::new("chown").arg("postgres").arg(&space).status().expect("run chown");
    pg.sql(&format!("create tablespace space location '{}'", space.display()));
    let program = depot.program("restore latest --into new --tablespace space --yes").arg("--dsn").arg(&dsn);
    program.run().ok();
    let about = "select pg_encoding_to_char(encoding), datcollate, spcname
                 from pg_database d join pg_tablespace t on t.oid = dattablespace where datname = 'new'";
    let wanted = ["LATIN1", "C", "space"].map(|text| Some(text.to_owned()));
    assert_eq!(pg.sql(about), [wanted]);
    assert_eq!(pg.direct("new").one("select encode(convert_to(a, 'UTF8'), 'hex') from t"), "c3a4");
    pg.sql("create database icu template template0 locale_provider icu icu_locale 'de-AT'");
    let dsn = crate::program::dsn(&pg, "postgres", "icu");
    depot.program("backup run").arg("--dsn").arg(&dsn).run().ok();
    pg.sql("drop database icu");
    let program = depot.program("restore latest --of icu --into icu2 --yes --maintenance-db template1");
    program.arg("--dsn").arg(&dsn).run().ok();
    let about = "select datlocprovider, daticulocale from pg_database where datname = 'icu2'";
    assert_eq!(pg.sql(about), [["i", "de-AT"].map(|text| Some(text.to_owned()))]);
    pg.stop("QUIT");
}

/// A database whose restoring does not end: an index of it can only be made where it was made first.
pub(crate) fn endless(pg: &Postgres) -> String {
    let database = pg.create_database();
    pg.direct(&database).run(&format!(
        "create function slow(a int) returns int immutable language plpgsql as
             $$ begin if current_database() <> '{database}' then perform pg_catalog.pg_sleep(600); end if; return a; end $$;
         create table t (a int); create index on t (public.slow(a)); insert into t values (1)"
    ));
    database
}

/// Waits until somebody sleeps in a database whose name is like that, which is returned.
pub(crate) fn asleep(pg: &Postgres, pattern: &str) -> String {
    let sql = format!("select datname from pg_stat_activity where wait_event = 'PgSleep' and datname like '{pattern}'");
    wait_until("it sleeps", PATIENCE, || !pg.sql(&sql).is_empty());
    pg.sql(&sql)[0][0].clone().expect("a name")
}

fn ends_with(child: Child, code: i32) -> String {
    let out = child.wait_with_output().expect("wait for it");
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{stderr}");
    stderr
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let pg = Postgres::shared();
    let database = endless(pg);
    let mut depot = Depot::new();
    for format in ["custom", "directory", "plain"] {
        depot.backup(pg, &database, format);
        let name = fresh("interrupted");
        let child = depot.on(&format!("restore latest --into {name} --yes"), pg, &database).spawn();
        assert_eq!(asleep(pg, &name), name);
        signal(child.id(), "INT");
        ends_with(child, 2);
        assert!(!has_database(pg, &name), "{format}");
    }
    let child = depot.on("backup verify latest --level restore", pg, &database).spawn();
    let name = asleep(pg, &format!("pgweir\\_scratch\\_{}\\_%", depot.latest().id));
    signal(child.id(), "TERM");
    ends_with(child, 2);
    assert!(!has_database(pg, &name));
    assert_eq!(depot.listed(&depot.latest())["verified"], Value::Null);
}

#[test]
fn what_a_killed_verification_leaves_goes_with_the_next() {
    let pg = Postgres::dedicated();
    let (database, quick) = (endless(&pg), pg.create_database());
    let mut depot = Depot::new();
    let backup = depot.backup(&pg, &database, "custom");
    let good = depot.backup(&pg, &quick, "custom");
    let mut child = depot.on(&format!("backup verify {} --level restore", backup.id), &pg, &database).spawn();
    let name = asleep(&pg, "pgweir\\_scratch\\_%");
    let other = depot.on(&format!("backup verify {} --level restore", good.id), &pg, &quick);
    // Somebody's who is alive stays.
    other.run().ok();
    assert!(has_database(&pg, &name));
    pg.sql("create database pgweir_scratch_of_mine");
    signal(child.id(), "KILL");
    child.wait().expect("wait for it");
    let locks = "select 1 from pg_locks where locktype = 'advisory'";
    wait_until("its sessions have gone", PATIENCE, || pg.sql(locks).is_empty());
    assert!(has_database(&pg, &name));
    let other = depot.on(&format!("backup verify {} --level restore", good.id), &pg, &quick);
    other.run().fails(0, &format!("dropped {name}"));
    assert!(!has_database(&pg, &name) && has_database(&pg, "pgweir_scratch_of_mine"));
    assert_eq!(pg.sql("select 1 from pg_database where datname like 'pgweir\\_scratch\\_%'").len(), 1);
    pg.stop("QUIT");
}
