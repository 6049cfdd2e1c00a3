//! `backup verify`: what each level finds, and what is remembered of it.

use serde_json::Value;

use crate::depot::{Backup, Depot, UNUSUAL};
use crate::support::*;

const LEVELS: [&str; 4] = ["checksum", "full", "restore", "amcheck"];

fn scratches(pg: &Postgres, backup: &Backup) -> usize {
    pg.sql(&format!("select 1 from pg_database where datname like 'pgweir\\_scratch\\_{}\\_%'", backup.id)).len()
}

#[test]
fn every_level_finds_good_what_is() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    pg.direct(&database).run(UNUSUAL);
    let mut depot = Depot::new();
    for format in ["custom", "directory", "plain"] {
        let backup = depot.backup(pg, &database, format);
        for level in LEVELS {
            let ran =
                depot.on(&format!("backup verify latest --level {level} --output json"), pg, "postgres").run().ok();
            let row: Value = serde_json::from_str(&ran.stdout).expect("JSON");
            assert_eq!(
                (&row["backup"], &row["level"], &row["result"]),
                (&backup.id.as_str().into(), &level.into(), &"good".into())
            );
            let rows = if level == "restore" || level == "amcheck" { 1215.into() } else { Value::Null };
            assert_eq!(row["rows"], rows, "{format} {level}");
            let listed = depot.listed(&backup);
            assert_eq!(listed["verified"], level);
            assert!(listed["verified_at"].as_str().is_some_and(|at| at.starts_with("20")), "{listed:#}");
        }
        assert_eq!(scratches(pg, &backup), 0);
    }
    let ran = depot.on("backup verify latest --level restore --jobs 2", pg, "postgres").run();
    ran.ok();
}

#[test]
fn what_is_broken_is_remembered() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    pg.direct(&database).run(UNUSUAL);
    let mut depot = Depot::new();
    let backup = depot.backup(pg, &database, "custom");
    let verify = |level: &str| depot.on(&format!("backup verify {} --level {level}", backup.id), pg, "postgres").run();
    verify("restore").ok();
    // In the head, the list of contents, the rows, and the very last byte.
    for share in [0.0, 0.1, 0.5, 0.9, 1.0] {
        backup.flip("data.dump", share);
        verify("checksum").fails(8, "data.dump is damaged: its SHA-256 is");
        assert_eq!(depot.listed(&backup)["verified"], "failed", "{share}");
        assert_eq!(backup.manifest()["verified"], Value::Null);
        backup.flip("data.dump", share);
        verify("checksum").ok();
        assert_eq!(depot.listed(&backup)["verified"], "checksum", "{share}");
    }
    // A checksum that was right from the beginning says nothing of what it is of.
    let whole = std::fs::read(backup.file("data.dump")).expect("read");
    backup.cut("data.dump", 0.7);
    verify("full").fails(8, "bytes instead of");
    backup.seal();
    verify("checksum").ok();
    assert_eq!(depot.listed(&backup)["verified"], "checksum");
    verify("full").fails(8, &backup.id);
    // What finds less does not make it good again.
    verify("checksum").ok();
    assert_eq!(depot.listed(&backup)["verified"], "failed");
    verify("restore").fails(8, &backup.id);
    std::fs::write(backup.file("data.dump"), &whole).expect("write");
    backup.seal();
    verify("full").ok();
    assert_eq!(depot.listed(&backup)["verified"], "full");
    verify("restore").ok();
    assert_eq!(depot.listed(&backup)["verified"], "restore");
    std::fs::remove_file(backup.file("data.dump")).expect("remove");
    verify("checksum").fails(8, "data.dump is missing");
    assert_eq!(scratches(pg, &backup), 0);
}

#[test]
fn a_bit_of_the_rows_is_noticed_by_reading_them() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    // So many that what is flipped is one of them, and no part of the list of contents.
    pg.direct(&database).run("create table t as select md5(n::text) from generate_series(1, 20000) n");
    let mut depot = Depot::new();
    let backup = depot.backup(pg, &database, "custom");
    for share in [0.3, 0.5, 0.7, 0.95] {
        backup.flip("data.dump", share);
        backup.seal();
        depot.program("backup verify latest --level full").run().fails(8, &backup.id);
        backup.flip("data.dump", share);
    }
    let plain = depot.backup(pg, &database, "plain");
    plain.cut("data.sql", 0.9);
    plain.seal();
    depot.program("backup verify latest --level full").run().fails(8, "the end of the dump is missing");
}

#[test]
fn rows_that_are_missing_are_noticed_by_counting_them() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    pg.direct(&database).run(UNUSUAL);
    let mut depot = Depot::new();
    let backup = depot.backup(pg, &database, "plain");
    let text = std::fs::read_to_string(backup.file("data.sql")).expect("read");
    std::fs::write(
        backup.file("data.sql"),
        text.replacen("\n1000\t", "\n2000\t", 1).replacen("\n999\t50\t2026-01-01", "", 1),
    )
    .expect("write");
    backup.seal();
    let ran = depot.on("backup verify latest --level restore --output json", pg, "postgres").run();
    let ran = ran.fails(8, "sales.orders the first");
    assert!(ran.stdout.contains("\"rows_restored\": 999"), "{}", ran.stdout);
    assert_eq!(scratches(pg, &backup), 0);
    assert_eq!(depot.listed(&backup)["verified"], "failed");
}

#[test]
fn what_it_needs() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let mut depot = Depot::new();
    let backup = depot.backup(pg, &database, "custom");
    for level in ["restore", "amcheck"] {
        let ran = depot.program(&format!("backup verify latest --level {level}")).run();
        ran.fails(4, "--dsn");
    }
    let dsn = crate::program::dsn(pg, "app", &database);
    let ran = depot.program("backup verify latest --level restore").arg("--dsn").arg(dsn).run();
    ran.fails(5, "app may not make databases");
    let ran =
        depot.program("backup verify latest --level restore").arg("--dsn").arg("host=127.0.0.1 port=1 user=x").run();
    ran.ends_with(3);
    // Without amcheck on the server nothing is known of the backup.
    let bare = Postgres::shared_18();
    let ran = depot.on("backup verify latest --level amcheck", bare, "postgres").run();
    ran.fails(2, "the extension amcheck");
    assert_eq!(depot.listed(&backup)["verified"], Value::Null);
    depot.program("backup verify latest --of other").run().fails(4, "no backup of other");
    depot.program("backup verify nothing").run().fails(4, "no backup nothing");
}
