//! `check`: each with a reason to complain, and its output in every format.

use std::fs;

use serde_json::Value;

use crate::program::{Program, Ran, find, monitored, pgweir, scratch_file};
use crate::servers::every_version;
use crate::support::process::{scratch_dir, unprivileged};
use crate::support::*;

/// Every check without the pooler's.
const ALL: [&str; 11] = [
    "cache",
    "connections",
    "dead-tuples",
    "growth",
    "idle-in-transaction",
    "invalid-indexes",
    "long-queries",
    "replication-lag",
    "sequences",
    "slots",
    "wraparound",
];

struct Scene {
    pg: &'static Postgres,
    database: String,
}

impl Scene {
    fn new() -> Scene {
        let pg = Postgres::shared();
        let (_, database) = monitored(pg);
        Scene { pg, database }
    }

    fn check(&self, line: &str) -> Program {
        pgweir(&format!("check {line}")).on(self.pg, "monitor", &self.database)
    }

    /// The first finding, and the exit code.
    #[track_caller]
    fn finding(&self, line: &str) -> (Value, i32) {
        first(self.check(&format!("{line} --output json")).run())
    }

    /// A finding with its exit code must be this.
    #[track_caller]
    fn expect(&self, line: &str, status: &str, code: i32, message: &str) -> Value {
        let (finding, found) = self.finding(line);
        assert_eq!((finding["status"].as_str(), found), (Some(status), code), "{finding}");
        assert!(finding["message"].as_str().expect("a message").contains(message), "{message:?} in {finding}");
        finding
    }
}

#[track_caller]
fn first(ran: Ran) -> (Value, i32) {
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    (rows[0].clone(), ran.code)
}

#[test]
fn every_version_and_a_standby_answer_a_monitor() {
    let state = scratch_file("growth.json").display().to_string();
    let all = |pg: &Postgres, database: &str| {
        let rows = pgweir("check --skip sequences --threshold cache=0,0 --threshold long-queries=1h,2h")
            .arg("--threshold")
            .arg("idle-in-transaction=1h,2h")
            .arg("--threshold")
            .arg("slots=1TB,2TB")
            .arg("--state")
            .arg(&state)
            .on(pg, "monitor", database)
            .rows();
        let mut names: Vec<&str> = rows.iter().map(|row| row["check"].as_str().expect("a name")).collect();
        names.dedup();
        names.sort_unstable();
        let wanted: Vec<&str> = ALL.into_iter().filter(|name| *name != "sequences").collect();
        assert_eq!(names, wanted);
        assert!(rows.iter().all(|row| row["status"] == "ok"), "{rows:#?}");
    };
    for (_, pg) in every_version() {
        all(pg, &monitored(pg).1);
    }
}

#[test]
fn a_standby_that_lags() {
    let primary = Postgres::dedicated();
    let (_, database) = monitored(&primary);
    let dir = scratch_dir("standby");
    let copied = unprivileged(postgres::program("pg_basebackup"), "KILL")
        .args([
            "-h",
            "127.0.0.1",
            "-U",
            "replicator",
            "-X",
            "stream",
            "-c",
            "fast",
            "-R",
            "-p",
            &primary.port.to_string(),
            "-D",
        ])
        .arg(&dir)
        .output()
        .expect("run pg_basebackup");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("set permissions");
    let standby = Postgres::restored(dir);
    let lag = |pg: &Postgres| first(pgweir("check replication-lag --output json").on(pg, "monitor", &database).run());
    wait_until("it has caught up", PATIENCE, || {
        primary.sql("select 1 from pg_stat_replication where replay_lsn = pg_current_wal_lsn()").len() == 1
    });
    assert_eq!(lag(&primary).1, 0);
    standby.sql("select pg_wal_replay_pause()");
    primary.sql("create table w as select repeat('x', 1000) from generate_series(1, 3000)");
    for (pg, subject) in [(&primary, "walreceiver"), (&standby, "this standby")] {
        wait_until("it lags", PATIENCE, || lag(pg).0["status"] == "warning");
        let (finding, code) = lag(pg);
        assert_eq!((finding["subject"].as_str(), code), (Some(subject), 1));
        assert!(finding["value"].as_f64().is_some_and(|bytes| (1e6..2e7).contains(&bytes)), "{finding}");
    }
    for report in ["sizes", "connections", "cache", "tables", "transactions --interval 10ms"] {
        pgweir(&format!("report {report}")).on(&standby, "monitor", &database).run().ok();
    }
    let rows = pgweir("report replication").on(&standby, "monitor", &database).rows();
    let receiver = find(&rows, "kind", "receiver");
    assert_eq!(receiver["state"], "streaming");
    assert!(receiver["lag_bytes"].as_i64().is_some_and(|bytes| bytes > 1_000_000), "{receiver}");
    let rows = pgweir("report replication").on(&primary, "monitor", &database).rows();
    assert_eq!(find(&rows, "name", "walreceiver")["state"], "streaming");
    standby.sql("select pg_wal_replay_resume()");
    wait_until("it has caught up again", PATIENCE, || lag(&primary).1 == 0);
    drop(standby);
}

#[test]
fn cache_and_dead_tuples() {
    let scene = Scene::new();
    let mut direct = scene.pg.direct(&scene.database);
    scene.expect("cache", "ok", 0, "too little has been read");
    direct.run("create table t (i int primary key); insert into t select generate_series(1, 20000); delete from t where i <= 4000");
    direct.run("select pg_stat_force_next_flush()");
    let counted = "select 100.0 * blks_hit / (blks_hit + blks_read), blks_hit + blks_read > 10000, blks_read > 0
                   from pg_stat_database where datname = current_database()";
    wait_until("it has been counted", PATIENCE, || {
        direct.query(counted).expect("counters")[0][1].as_deref() == Some("t")
    });
    let finding = scene.expect("cache --threshold cache=100,1", "warning", 1, "blocks read");
    let share: f64 = direct
        .one(
            "select 100.0 * blks_hit / (blks_hit + blks_read) from pg_stat_database where datname = current_database()",
        )
        .parse()
        .expect("a share");
    assert!((finding["value"].as_f64().expect("a share") - share).abs() < 1.0, "{finding} {share}");
    wait_until("the dead are counted", PATIENCE, || direct.one("select n_dead_tup from pg_stat_user_tables") == "4000");
    scene.expect("dead-tuples", "ok", 0, "no table has many");
    let finding = scene.expect("dead-tuples --min-dead 1000", "warning", 1, "20 %, 4000 dead rows, never vacuumed");
    assert_eq!(finding["subject"], "public.t");
    scene.expect("dead-tuples --min-dead 1000 --threshold dead-tuples=5,20", "critical", 2, "4000 dead rows");
}

#[test]
fn sessions() {
    let scene = Scene::new();
    let count = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
    let finding = scene.expect("connections --threshold connections=0,100", "warning", 1, " of 400");
    let counted: f64 = scene.pg.direct("postgres").one(count).parse().expect("a count");
    // Other tests come and go.
    assert!((finding["value"].as_f64().expect("a share") - 100.0 * counted / 400.0).abs() < 25.0, "{finding}");
    let mut open = Wire::tcp(scene.pg.port);
    open.login("app", &scene.database, "", &[("application_name", "forgetful")]).expect("log in");
    open.run("begin");
    let pid = open.backend();
    let found = |line: &str| {
        let rows: Vec<Value> =
            serde_json::from_str(&scene.check(&format!("{line} --output json")).run().stdout).expect("a list");
        rows.iter().any(|row| row["subject"] == format!("process {pid}") && row["status"] == "critical")
    };
    assert!(!found("long-queries --threshold long-queries=0,0"));
    // Other tests have some as well, and ten are told.
    wait_until("it is told", PATIENCE, || found("idle-in-transaction --threshold idle-in-transaction=0,0"));
    open.send(&msg::query("select pg_sleep(600)"));
    wait_until("it is told", PATIENCE, || found("long-queries --threshold long-queries=0,0"));
}

#[test]
fn growth_is_kept_between_runs() {
    let scene = Scene::new();
    let state = scratch_file("growth.json");
    let line = format!("growth --state {}", state.display());
    scene.expect(&line, "ok", 0, "measured for the first time");
    let text = fs::read_to_string(&state).expect("read the state");
    let mut kept: Value = serde_json::from_str(&text).expect("JSON");
    let sample = kept.as_object_mut().and_then(|all| all.values_mut().next()).expect("a database");
    let (at, bytes) = (sample[0]["at"].as_f64().expect("a time"), sample[0]["bytes"].as_f64().expect("a size"));
    sample[0] = serde_json::json!({ "at": at - 2.0 * 86400.0, "bytes": bytes * 0.88 });
    fs::write(&state, kept.to_string()).expect("write the state");
    // 13.6 % in two days.
    scene.expect(&line, "warning", 1, "6.8 %");
    scene.expect("growth", "unknown", 1, "/dev/null/.local/state/pgweir");
    fs::write(&state, "nonsense").expect("write the state");
    scene.expect(&line, "unknown", 1, &state.display().to_string());
}

#[test]
fn wraparound_slots_and_invalid_indexes() {
    let pg = Postgres::dedicated();
    let (monitor, database) = monitored(&pg);
    let finding = |line: &str| first(pgweir(&format!("check {line} --output json")).on(&pg, monitor, &database).run());
    let (wraparound, code) = finding("wraparound --threshold wraparound=0,100");
    let age = "select max(age(datfrozenxid)) from pg_database";
    let age: f64 = pg.direct(&database).one(age).parse().expect("an age");
    let percent = 100.0 * age / 2_144_483_647.0;
    assert!((wraparound["value"].as_f64().expect("a share") - percent).abs() < 1e-4 && code == 1, "{wraparound}");
    pg.sql("select pg_create_physical_replication_slot('keeper', true)");
    pg.sql("create table w as select repeat('x', 1000) from generate_series(1, 3000)");
    let (slot, code) = finding("slots --threshold slots=1MB,1GB");
    assert_eq!((slot["status"].as_str(), slot["subject"].as_str(), code), (Some("warning"), Some("slot keeper"), 1));
    // Lost is worse than any amount.
    pg.sql("alter system set max_slot_wal_keep_size = '1MB'");
    pg.sql("select pg_reload_conf()");
    pg.sql(
        "insert into w select * from w; select pg_switch_wal(); insert into w select * from w; select pg_switch_wal()",
    );
    pg.sql("checkpoint");
    wait_until("the slot is lost", PATIENCE, || {
        pg.sql("select 1 from pg_replication_slots where wal_status = 'lost'").len() == 1
    });
    let (slot, code) = finding("slots");
    assert_eq!((slot["status"].as_str(), code), (Some("critical"), 2), "{slot}");
    assert_eq!(finding("invalid-indexes").1, 0);
    let mut direct = pg.direct(&database);
    direct.run("create table twice as select 1 as i from generate_series(1, 2)");
    direct.fails("create unique index concurrently twice_i on twice (i)");
    let (invalid, code) = finding("invalid-indexes");
    assert_eq!((&invalid["message"], code), (&"1, public.twice_i".into(), 1));
}

#[test]
fn sequences_near_their_end() {
    let scene = Scene::new();
    let mut direct = scene.pg.direct(&scene.database);
    direct.run("create table narrow (i smallint generated by default as identity, t text)");
    direct.run(
        "create table wide (i int); create sequence wide_i owned by wide.i; create sequence round maxvalue 10 cycle",
    );
    direct.run("create sequence down increment -1 minvalue -100");
    let owner = |line: &str| {
        first(pgweir(&format!("check sequences {line} --output json")).on(scene.pg, "postgres", &scene.database).run())
    };
    assert_eq!(owner("").1, 0);
    for (statement, subject, percent, code) in [
        ("select setval('round', 10)", "", 0.0, 0),
        ("select setval('wide_i', 1717986918)", "public.wide_i", 80.0, 1),
        ("select setval('down', -95)", "public.down", 95.0, 2),
        ("select setval('narrow_i_seq', 32766)", "public.narrow_i_seq", 100.0, 2),
    ] {
        direct.run(statement);
        let (finding, found) = owner("");
        assert_eq!((finding["subject"].as_str(), found), (Some(subject), code), "{finding}");
        assert!(finding["value"].as_f64().is_none_or(|value| (value - percent).abs() < 0.01), "{finding}");
    }
    scene.expect("sequences", "unknown", 1, "may not read 3 of them: GRANT pg_read_all_data TO monitor");
}

#[test]
fn the_poolers_waits() {
    let pg = Postgres::shared();
    let bouncer = Bouncer::start(pg, |setup| setup.set("default_pool_size", 1).set("stats_period", 1));
    let file = bouncer.dir.join("pooler.ini").display().to_string();
    let on = |line: &str| {
        pgweir(&format!("check {line} --output json"))
            .arg("--config")
            .arg(&file)
            .arg("--database")
            .arg("app")
            .arg("--dsn")
            .arg("user=app")
    };
    let (mut one, mut two) = (bouncer.client(), bouncer.client());
    one.run("begin");
    assert_eq!(on("pooler").run().code, 0);
    two.send(&msg::query("select 1"));
    bouncer.wait_pool("cl_waiting", 1);
    let (waiting, code) = first(on("pooler-waiting").run());
    assert_eq!((waiting["subject"].as_str(), &waiting["value"], code), (Some("app/app"), &1.0.into(), 1), "{waiting}");
    wait_until("it waits long", PATIENCE, || {
        first(on("pooler-maxwait --threshold pooler-maxwait=100ms,200ms").run()).1 == 2
    });
    one.run("commit");
    two.answer_of_query().expect("its answer");
    wait_until("the average is there", PATIENCE, || {
        let (average, code) = first(on("pooler-avg-wait --threshold pooler-avg-wait=1ms,1h").run());
        code == 1 && average["subject"] == "app"
    });
    let rows: Vec<Value> = serde_json::from_str(&on("").run().stdout).expect("a list");
    assert!(rows.iter().any(|row| row["check"] == "pooler-avg-query"), "{rows:#?}");
    drop(bouncer);
    let (gone, code) = first(on("pooler-waiting").run());
    assert_eq!((gone["status"].as_str(), code), (Some("unknown"), 1), "{gone}");
}

#[test]
fn plugins_speak_nagios() {
    let scene = Scene::new();
    let nagios = |line: &str| scene.check(&format!("{line} --output nagios")).run();
    let ran = nagios("connections wraparound --threshold connections=0,100").ends_with(1);
    let line = ran.stdout.lines().next().expect("a line");
    assert!(line.starts_with("PGWEIR WARNING - connections: ") && line.contains(" of 400 | 'connections'="), "{line}");
    assert!(line.contains("%;0;100 'wraparound database "), "{line}");
    assert!(ran.stdout.contains("\nOK wraparound database "), "{}", ran.stdout);
    assert!(nagios("slots").ends_with(0).stdout.starts_with("PGWEIR OK - "));
    scene.pg.direct(&scene.database).run("create sequence s");
    assert!(nagios("sequences").ends_with(3).stdout.starts_with("PGWEIR UNKNOWN - sequences: monitor may not read"));
    let ran = pgweir("check --output nagios --dsn").arg("host=/nonexistent user=x").run().ends_with(3);
    assert!(ran.stdout.starts_with("PGWEIR UNKNOWN - could not connect"), "{}", ran.stdout);
}

#[test]
fn prometheus_reads_a_file() {
    let scene = Scene::new();
    let file = scratch_file("pgweir.prom");
    let ran = scene.check(&format!("connections wraparound --output prometheus --file {}", file.display())).run().ok();
    assert_eq!(ran.stdout, "");
    let text = fs::read_to_string(&file).expect("read the metrics");
    let database = &scene.database;
    assert!(
        text.contains(&format!(
            "pgweir_check_status{{database=\"{database}\",check=\"connections\",subject=\"\"}} 0\n"
        )),
        "{text}"
    );
    for line in text.lines() {
        let is_sample = line.starts_with("pgweir_check_")
            && line.rsplit_once("} ").is_some_and(|(_, value)| value.parse::<f64>().is_ok());
        assert!(is_sample || line.starts_with("# HELP ") || line.starts_with("# TYPE "), "{line}");
    }
    assert_eq!(fs::read_dir(file.parent().expect("a directory")).expect("list it").count(), 1);
    scene.check("connections --output prometheus --file /dev/null/x").run().fails(2, "could not write /dev/null/x");
}

#[test]
fn what_is_chosen() {
    let scene = Scene::new();
    let names = |line: &str| -> Vec<String> {
        let ran = scene.check(&format!("{line} --output csv")).run();
        ran.stdout.lines().skip(1).map(|row| row.split(',').next().expect("a name").to_owned()).collect()
    };
    assert_eq!(names("slots wraparound"), ["wraparound", "slots"]);
    assert_eq!(names("slots wraparound --skip slots"), ["wraparound"]);
    let table = scene.check("wraparound").run().ok().stdout;
    assert!(table.starts_with("status  check"), "{table}");
}
