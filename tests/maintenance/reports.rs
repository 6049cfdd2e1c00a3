//! `report`: every query on every version as a member of pg_monitor, and figures as others count them.

use serde_json::Value;

use crate::program::{find, monitored, pgweir};
use crate::servers::{every_version, restart_with};
use crate::support::*;

const REPORTS: [&str; 6] = ["sizes", "connections", "cache", "tables", "replication", "transactions --interval 100ms"];

#[test]
fn every_version_answers_a_monitor() {
    for (version, pg) in every_version() {
        let (monitor, database) = monitored(pg);
        pg.direct(&database).run("create table t as select i from generate_series(1, 100) i");
        let mut commands: Vec<String> = REPORTS.iter().map(|report| format!("report {report}")).collect();
        commands.extend(["locks".to_owned(), "sessions list".to_owned()]);
        for command in commands {
            let ran = |output: &str| pgweir(&command).on(pg, monitor, &database).arg("--output").arg(output).run().ok();
            let (table, json, csv) = (ran("table"), ran("json"), ran("csv"));
            let about = format!("PostgreSQL {version}.");
            assert!(table.stderr.contains(&about), "{command}: {}", table.stderr);
            assert!(!table.stderr.contains("warning"), "{command}: {}", table.stderr);
            let rows: Vec<Value> = serde_json::from_str(&json.stdout).expect("a list");
            assert!(!csv.stdout.lines().next().expect("names").is_empty(), "{command}");
            assert!(rows.is_empty() || csv.stdout.lines().count() > 1, "{command}: {}", csv.stdout);
        }
    }
}

#[test]
fn who_is_no_monitor_is_told() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    for report in ["connections", "replication"] {
        let ran = pgweir(&format!("report {report} -q")).on(pg, "other", &database).run().ok();
        assert!(ran.stderr.starts_with("warning: other is not a member of pg_monitor"), "{}", ran.stderr);
    }
}

#[test]
fn sizes_are_those_that_the_server_counts() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let mut direct = pg.direct(&database);
    direct.run("create table big as select i, repeat('x', 100) as t from generate_series(1, 5000) i");
    direct.run("create index big_i on big (i); create table small (i int); analyze");
    let rows = pgweir("report sizes --limit 0").on(pg, monitor, &database).rows();
    let counted = |sql: &str, direct: &mut Wire| direct.one(sql).parse::<i64>().expect("a number");
    let table = find(&rows, "name", "public.big");
    assert_eq!(table["total_bytes"], counted("select pg_total_relation_size('big')", &mut direct));
    assert_eq!(table["index_bytes"], counted("select pg_relation_size('big_i')", &mut direct));
    assert_eq!(table["rows_estimate"], 5000);
    assert_eq!(find(&rows, "name", "public.big_i")["total_bytes"], table["index_bytes"]);
    let size = format!("select pg_database_size('{database}')");
    assert_eq!(find(&rows, "name", &database)["total_bytes"], counted(&size, &mut direct));
    let first: Vec<&Value> = rows.iter().filter(|row| row["kind"] == "table").map(|row| &row["name"]).collect();
    assert_eq!(first, ["public.big", "public.small"]);
    let one = pgweir("report sizes --limit 1").on(pg, monitor, &database).rows();
    assert_eq!(one.len(), 3, "{one:#?}");
    let text = pgweir("report sizes").on(pg, monitor, &database).run().ok().stdout;
    assert!(text.contains("public.big") && text.contains(" kB"), "{text}");
}

#[test]
fn sizes_do_not_wait_for_locks() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let mut direct = pg.direct(&database);
    direct.run("create table held as select i from generate_series(1, 5000) i; create index held_i on held (i)");
    direct.run("vacuum held");
    let pages = direct.one("select relpages * 8192 from pg_class where relname = 'held'");
    direct.run("begin; lock table held in access exclusive mode");
    for report in ["sizes", "tables"] {
        let rows = pgweir(&format!("report {report} --lock-timeout 0")).on(pg, monitor, &database).rows();
        assert_eq!(find(&rows, "name", "public.held")["total_bytes"].to_string(), pages);
    }
    direct.run("rollback; begin; drop index held_i");
    let rows = pgweir("report sizes --lock-timeout 0").on(pg, monitor, &database).rows();
    assert_eq!(find(&rows, "name", "public.held")["total_bytes"].to_string(), pages);
}

#[test]
fn connections_are_counted_by_what_they_have_in_common() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let mut clients: Vec<Wire> = (0..3).map(|_| Wire::tcp(pg.port)).collect();
    for client in &mut clients {
        client.login("third", &database, "", &[("application_name", "counted")]).expect("log in");
    }
    clients[0].run("begin");
    let rows = pgweir("report connections --limit 0").on(pg, monitor, &database).rows();
    let of = |by: &str, value: &str| {
        let row = rows.iter().find(|row| row["by"] == by && row["value"] == value);
        row.unwrap_or_else(|| panic!("{by} {value} in {rows:#?}")).clone()
    };
    let counted = of("application", "counted");
    assert_eq!(
        (&counted["connections"], &counted["idle"], &counted["idle_in_transaction"]),
        (&3.into(), &2.into(), &1.into())
    );
    assert_eq!(counted["of_max_pct"], 100.0 * 3.0 / 400.0);
    assert_eq!(of("user", "third")["connections"], 3);
    // The report's own is the fourth.
    assert_eq!(of("database", &database)["connections"], 4);
    assert_eq!(of("database", &database)["active"], 1);
    let all = of("all", "all")["connections"].as_i64().expect("a number");
    assert!(of("address", "127.0.0.1")["connections"].as_i64().expect("a number") <= all && all >= 4);
    assert!(counted["oldest_s"].as_f64().expect("a number") < 60.0);
}

#[test]
fn tables_and_cache_are_what_happened_to_them() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let mut direct = pg.direct(&database);
    direct.run("create table t (i int primary key); insert into t select generate_series(1, 1000)");
    direct.run("delete from t where i <= 250");
    direct.run("update t set i = i where i <= 300");
    direct.run("set enable_seqscan = off; select * from t where i = 500; select pg_stat_force_next_flush()");
    direct.run("analyze t");
    drop(direct);
    let table = || find(&pgweir("report tables").on(pg, monitor, &database).rows(), "name", "public.t").clone();
    wait_until("the statistics are there", PATIENCE, || table()["dead"] == 300);
    let row = table();
    assert_eq!(
        (&row["live"], &row["inserted"], &row["deleted"], &row["updated"]),
        (&750.into(), &1000.into(), &250.into(), &50.into())
    );
    let dead_pct = row["dead_pct"].as_f64().expect("a share");
    assert!((dead_pct - 100.0 * 300.0 / 1050.0).abs() < 0.001, "{dead_pct}");
    assert!(row["since_vacuum_s"].is_null() && row["since_analyze_s"].as_f64().expect("a time") < 60.0);
    let cache = pgweir("report cache --limit 0").on(pg, monitor, &database).rows();
    let index = find(&cache, "name", "public.t_pkey");
    let (hit, read) = (index["hit_blocks"].as_f64().expect("hits"), index["read_blocks"].as_f64().expect("reads"));
    let told = index["hit_pct"].as_f64().expect("a share");
    assert!(hit > 0.0 && (told - 100.0 * hit / (hit + read)).abs() < 0.001, "{index}");
    assert_eq!(find(&cache, "name", &database)["kind"], "database");
}

#[test]
fn statements_are_counted_where_the_extension_is() {
    let pg = Postgres::dedicated();
    let (monitor, database) = monitored(&pg);
    let ran = pgweir("report statements").on(&pg, monitor, &database).run().fails(2, "pg_stat_statements is not in");
    assert!(ran.stderr.contains("Hint: add it to shared_preload_libraries"), "{}", ran.stderr);
    restart_with(&pg, &[("shared_preload_libraries", "'pg_stat_statements'")]);
    let mut direct = pg.direct(&database);
    direct
        .run("create schema odd; grant usage on schema odd to public; create extension pg_stat_statements schema odd");
    for i in 0..7 {
        direct.run(&format!("select count(*), {i} from pg_class"));
    }
    for by in ["total", "mean", "max", "calls", "reads"] {
        let rows = pgweir(&format!("report statements --limit 0 --by {by}")).on(&pg, monitor, &database).rows();
        let row = find(&rows, "query", "select count(*), $1 from pg_class");
        assert_eq!((&row["calls"], &row["rows"], &row["user"]), (&7.into(), &7.into(), &"postgres".into()));
        assert_eq!(row["database"], database.as_str());
        let column = match by {
            "calls" => "calls",
            "reads" => "read_blocks",
            "total" => "total_ms",
            "mean" => "mean_ms",
            _ => "max_ms",
        };
        let values: Vec<f64> = rows.iter().map(|row| row[column].as_f64().expect("a number")).collect();
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]), "{by}: {values:?}");
    }
    pg.sql("select 'elsewhere'");
    let own = pgweir("report statements --limit 0").on(&pg, monitor, &database).rows().len();
    let all = pgweir("report statements --limit 0 --all-databases").on(&pg, monitor, &database).rows().len();
    assert!(all > own, "{all} {own}");
}

#[test]
fn replication_shows_senders_and_slots() {
    let pg = Postgres::dedicated();
    let (monitor, database) = monitored(&pg);
    pg.sql("select pg_create_physical_replication_slot('keeper', true)");
    pg.sql("create table w as select repeat('x', 1000) from generate_series(1, 5000)");
    let rows = pgweir("report replication").on(&pg, monitor, &database).rows();
    let slot = find(&rows, "name", "keeper");
    assert_eq!((&slot["kind"], &slot["state"]), (&"physical slot".into(), &"inactive, reserved".into()));
    let retained = slot["retained_bytes"].as_i64().expect("bytes");
    let counted = pg.sql("select pg_current_wal_lsn() - restart_lsn from pg_replication_slots");
    let counted: i64 = counted[0][0].as_deref().expect("bytes").parse().expect("a number");
    assert!((5_000_000..=counted).contains(&retained), "{retained} {counted}");
}

#[test]
fn transactions_are_measured() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let mut measuring =
        pgweir("report transactions --interval 3s --limit 0 --output json").on(pg, monitor, &database).spawn();
    let mut direct = pg.direct(&database);
    wait_until("it measures", PATIENCE, || {
        direct.one("select count(*) from pg_stat_activity where application_name = 'pgweir/report-transactions' and state = 'idle'") != "0"
    });
    // As many of each, for as long as it measures.
    while measuring.try_wait().expect("look at it").is_none() {
        direct.run("begin; select 1; commit");
        direct.fails("nonsense");
    }
    let out = measuring.wait_with_output().expect("wait for it");
    assert!(out.status.success());
    let rows: Vec<Value> = serde_json::from_slice(&out.stdout).expect("a list");
    let row = find(&rows, "database", &database);
    let (commits, part) = (row["commits_per_second"].as_f64(), row["rollback_pct"].as_f64());
    assert!(commits.is_some_and(|n| n > 1.0) && part.is_some_and(|n| (30.0..=70.0).contains(&n)), "{row}");
}
