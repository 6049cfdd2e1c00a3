//! `[maintenance]`: jobs by the calendar, run by serving poolers on real databases.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{Program, Ran, find, pgweir};
use crate::support::bouncer::Setup;
use crate::support::process::{open_to_all, scratch_dir, signal};
use crate::support::*;

/// It never comes true while a test runs.
const NEVER: &str = "schedule='0 0 29 2 *'";
const EVERY_SECOND: &str = "schedule='* * * * * *'";

/// A directory for the poolers' records and the jobs' files.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        Place(scratch_dir("schedule"))
    }

    /// The command that runs this SQL, as the user of the tests' databases.
    fn sql(&self, name: &str, sql: &str) -> String {
        let file = self.0.join(format!("{name}.sql"));
        fs::write(&file, sql).unwrap();
        open_to_all(&file, 0o644);
        let (file, journal) = (file.display(), self.0.join("journal"));
        let journal = journal.display();
        format!("migrate run {file} --database app --no-backup --analyze none --lock-timeout 0 --journal {journal}")
    }

    fn job(&self, name: &str, sql: &str, rest: &str) -> String {
        format!("command='{}' {rest}", self.sql(name, sql))
    }

    fn setup(&self, setup: Setup) -> Setup {
        setup.app("user=app").set("maintenance_state_dir", self.0.join("records").display())
    }
}

fn ini(bouncer: &Bouncer) -> String {
    bouncer.dir.join("pooler.ini").display().to_string()
}

fn on(bouncer: &Bouncer, line: &str) -> Program {
    pgweir(line).arg("--config").arg(ini(bouncer))
}

/// A job's row of `schedule list`.
#[track_caller]
fn listed(bouncer: &Bouncer, name: &str) -> Value {
    find(&on(bouncer, "schedule list").rows(), "name", name).clone()
}

fn shown(bouncer: &Bouncer, name: &str) -> std::collections::HashMap<String, String> {
    bouncer.show("SCHEDULE").into_iter().find(|row| row["name"] == name).expect("the job")
}

#[track_caller]
fn wait_log(bouncer: &Bouncer, line: &str) {
    wait_until(&format!("{line:?} in the log"), PATIENCE, || bouncer.log().contains(line));
}

/// The times that jobs of this name were started for.
fn started(log: &str, name: &str) -> Vec<String> {
    let begin = format!("schedule {name}: started for ");
    let lines = log.lines().filter_map(|line| Some(line.split_once(&begin)?.1));
    lines.map(|rest| rest.split(',').next().unwrap_or_default().to_owned()).collect()
}

fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if parent == Some(pid) {
            found.push(child);
        }
    }
    found
}

#[test]
fn two_poolers_run_each_slot_once() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let job = place.job("tick", "insert into runs values (1)", "schedule='*/2 * * * * *'");
    let first = Bouncer::start(pg, |setup| place.setup(setup));
    pg.direct(&first.server_database).run("create table runs (a int); grant all on runs to app");
    let entry = format!("host=127.0.0.1 port={} dbname={} user=app", pg.port, first.server_database);
    // Elsewhere, so that they know of each other by the database only.
    let mut poolers = Vec::from([first]);
    poolers.push(Bouncer::start(pg, |setup| place.setup(setup).database("app", &entry)));
    poolers.iter_mut().for_each(|pooler| pooler.reload(|setup| setup.job("tick", &job)));
    let logs = |poolers: &[Bouncer]| poolers.iter().map(|pooler| pooler.log()).collect::<String>();
    wait_until("both have had a turn or seen the other have it", PATIENCE * 2, || {
        let log = logs(&poolers);
        started(&log, "tick").len() >= 3 && log.contains("schedule tick: another process runs it")
    });
    poolers.iter_mut().for_each(|pooler| pooler.reload(|setup| setup.job("tick", format!("{job} {NEVER}"))));
    let mut log = String::new();
    wait_until("what has begun has ended", PATIENCE, || {
        log = logs(&poolers);
        log.matches("schedule tick: finished exit=0 in ").count() == started(&log, "tick").len()
    });
    let started = started(&log, "tick");
    assert_eq!(started.iter().collect::<BTreeSet<_>>().len(), started.len(), "{started:?}");
    let rows = pg.direct(&poolers[0].server_database).query("select 1 from runs").unwrap();
    assert_eq!(rows.len(), started.len());
}

#[test]
fn poolers_of_one_configuration_share_the_records() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let job = |rest: &str| place.job("j", "insert into runs values (1)", rest);
    let mut pooler = Bouncer::start(pg, |setup| place.setup(setup).set("so_reuseport", 1));
    pg.direct(&pooler.server_database).run("create table runs (a int); grant all on runs to app");
    pooler.rewrite(|setup| setup.job("j", job("schedule='*/2 * * * * *' every_process=1")));
    let mut second = Bouncer::spawn(Path::new(&ini(&pooler)), "second");
    pooler.admin().run("RELOAD");
    let second_log = || fs::read_to_string(pooler.dir.join("second")).unwrap();
    wait_until("some are run", PATIENCE, || started(&(pooler.log() + &second_log()), "j").len() >= 3);
    let started = started(&(pooler.log() + &second_log()), "j");
    assert_eq!(started.iter().collect::<BTreeSet<_>>().len(), started.len(), "{started:?}");
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn results_are_in_list_console_and_log() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let pooler = Bouncer::start(pg, |setup| {
        let setup = place.setup(setup).job("good", format!("command='report sizes --database app' {EVERY_SECOND}"));
        setup
            .job("bad", place.job("bad", "select 1;\nselect 1/0", EVERY_SECOND))
            .job("idle", place.job("idle", "select 1", "schedule='0 3 * * *' timezone=Asia/Tokyo"))
    });
    wait_log(&pooler, "schedule good: finished exit=0 in ");
    wait_log(&pooler, "schedule bad: finished exit=2 in ");
    // What a job has said comes before its end.
    assert!(pooler.log().contains("schedule bad: | pgweir: "), "{}", pooler.log());
    let good = listed(&pooler, "good");
    for field in ["next_at", "due_at", "started_at"] {
        assert!(good[field].as_str().is_some_and(|time| time.ends_with('Z')), "{good}");
    }
    assert!(good["late_s"].is_number() && good["schedule"] == "* * * * * *");
    wait_until("the good one rests", PATIENCE, || shown(&pooler, "good")["state"] == "ok");
    let bad = |row: Value| {
        row["exit_code"] == 2
            && row["message"].as_str().is_some_and(|text| text.contains("bad.sql:2:1: division by zero"))
    };
    wait_until("the bad one rests", PATIENCE, || bad(listed(&pooler, "bad")));
    wait_until("the console knows", PATIENCE, || shown(&pooler, "bad")["message"].contains("division by zero"));
    let idle = listed(&pooler, "idle");
    assert_eq!(
        (&idle["state"], &idle["exit_code"], &idle["schedule"]),
        (&"never".into(), &Value::Null, &"0 3 * * * Asia/Tokyo".into())
    );
    // Three in the morning there is six in the evening.
    assert!(idle["next_at"].as_str().unwrap().ends_with("T18:00:00Z"), "{idle}");
    let table = on(&pooler, "schedule list").run().ok();
    assert!(table.stdout.lines().count() == 5 && table.stdout.starts_with("name"), "{}", table.stdout);
    assert!(on(&pooler, "schedule list --output csv").run().ok().stdout.starts_with("name,state,next_at,"));
    let file = place.0.join("metrics");
    on(&pooler, &format!("schedule list --output prometheus --file {}", file.display())).run().ok();
    let metrics = fs::read_to_string(&file).unwrap_or_default();
    assert!(metrics.contains("pgweir_schedule_last_failed{job=\"good\"} 0\n"), "{metrics}");
    assert!(metrics.contains("pgweir_schedule_last_exit_code{job=\"bad\"} 2\n"), "{metrics}");
    assert!(metrics.contains("# TYPE pgweir_schedule_missed_total counter\n"), "{metrics}");
    assert!(!metrics.contains("last_exit_code{job=\"idle\"}"), "{metrics}");
}

#[test]
fn a_run_that_takes_too_long_is_interrupted_and_then_killed() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let pooler = Bouncer::start(pg, |setup| {
        let job = |rest: &str| place.job("slow", "select pg_sleep(600)", rest);
        let setup = place.setup(setup).job("slow", job(&format!("{EVERY_SECOND} deadline=300ms")));
        setup.job("stuck", job(&format!("{NEVER} deadline=1s kill_after=100ms lock_database=app")))
    });
    wait_log(&pooler, ", its deadline was 300ms");
    wait_until("it is listed", PATIENCE, || {
        let last = fs::read_to_string(record(&place, "slow")).unwrap_or_default();
        last.contains("\"outcome\": \"deadline\"") && last.contains("\"exit_code\": 2")
    });
    // One that does not listen.
    let child = on(&pooler, "schedule run stuck").spawn();
    wait_until("its command has begun", PATIENCE, || !children(child.id()).is_empty());
    signal(children(child.id())[0], "STOP");
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("stuck: finished signal=9 in ") && stderr.contains("its deadline was 1s"), "{stderr}");
    let stuck = listed(&pooler, "stuck");
    assert_eq!((&stuck["state"], &stuck["exit_code"]), (&"deadline".into(), &Value::Null));
}

/// The file in which a job's results are.
fn record(place: &Place, name: &str) -> PathBuf {
    let records = place.0.join("records");
    let of_configuration = fs::read_dir(records).into_iter().flatten().flatten().next();
    of_configuration.map(|entry| entry.path().join(format!("{name}.json"))).unwrap_or_default()
}

#[test]
fn what_was_killed_or_missed_is_told_at_the_next_start() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let job = |schedule: &str| place.job("j", "select pg_sleep(600)", schedule);
    let hourly = place.job("hourly", "select 1", "schedule='0 * * * *' timezone=UTC");
    let mut pooler = Bouncer::start(pg, |setup| place.setup(setup).job("j", job(EVERY_SECOND)).job("hourly", &hourly));
    pooler.wait_asleep(pg, 1);
    assert_eq!(shown(&pooler, "j")["state"], "running");
    let supervisors = children(pooler.pid());
    assert!(!supervisors.is_empty());
    signal(pooler.pid(), "KILL");
    supervisors.iter().for_each(|pid| signal(*pid, "KILL"));
    pg.sql(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'",
        pooler.server_database
    ));
    // As if it had been seen last three hours ago.
    let file = record(&place, "hourly");
    let text = fs::read_to_string(&file).unwrap();
    let mut known: Value = serde_json::from_str(&text).unwrap();
    let now = pg.sql("select to_char(now() at time zone 'UTC' - interval '3 h', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')");
    known["seen"] = now[0][0].clone().unwrap().into();
    fs::write(&file, known.to_string()).unwrap();
    pooler.rewrite(|setup| setup.job("j", job(NEVER)));
    let mut again = Bouncer::spawn(Path::new(&ini(&pooler)), "again");
    let log = || fs::read_to_string(pooler.dir.join("again")).unwrap();
    wait_until("it looks back", PATIENCE, || log().contains("schedule hourly: missed, 3 times, due "));
    let killed = "WARNING schedule j: the last run did not end: the process that ran it was killed";
    wait_until("it looks back at both", PATIENCE, || log().contains(killed));
    assert!(log().contains(": pgweir was not running here"), "{}", log());
    let (killed, missed) = (listed(&pooler, "j"), listed(&pooler, "hourly"));
    assert_eq!((&killed["state"], &killed["exit_code"]), (&"killed".into(), &Value::Null));
    assert_eq!((&missed["missed"], &missed["missed_why"]), (&3.into(), &"pgweir was not running here".into()));
    again.kill().unwrap();
    again.wait().unwrap();
}

#[test]
fn a_run_is_not_overtaken_by_the_next() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let job = place.job("slow", "select pg_sleep(600)", EVERY_SECOND);
    let pooler = Bouncer::start(pg, |setup| place.setup(setup).job("slow", &job));
    pooler.wait_asleep(pg, 1);
    wait_log(&pooler, ": the run before has not ended");
    on(&pooler, "schedule run slow").run().fails(6, "slow is running");
    // Neither by another machine.
    let entry = format!("host=127.0.0.1 port={} dbname={} user=app", pg.port, pooler.server_database);
    let other_place = Place(place.0.join("other"));
    fs::create_dir(&other_place.0).unwrap();
    open_to_all(&other_place.0, 0o777);
    let other = Bouncer::start(pg, |setup| other_place.setup(setup).database("app", &entry).job("slow", &job));
    wait_log(&other, ": the run before has not ended");
    assert_eq!(started(&(pooler.log() + &other.log()), "slow").len(), 1);
    let (shown, listed) = (shown(&pooler, "slow"), listed(&pooler, "slow"));
    assert_eq!((shown["state"].as_str(), &listed["state"]), ("running", &"running".into()));
    assert!(listed["missed"].as_u64() >= Some(1) && listed["finished_at"].is_null(), "{listed}");
}

#[test]
fn a_shutdown_interrupts_what_runs() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let job = place.job("slow", "create table t (a int); select pg_sleep(600)", EVERY_SECOND);
    for how in ["INT", "TERM", "QUIT"] {
        let mut pooler = Bouncer::start(pg, |setup| place.setup(setup).job("slow", &job));
        pooler.wait_asleep(pg, 1);
        signal(pooler.pid(), how);
        wait_until("it ends", PATIENCE, || !pooler.is_running());
        wait_until("nothing of it is left", PATIENCE, || {
            let backends = format!(
                "select 1 from pg_stat_activity where datname = '{}' and application_name like 'pgweir/migrate%'",
                pooler.server_database
            );
            pg.sql(&backends).is_empty()
        });
        wait_until("it is noted", PATIENCE, || listed(&pooler, "slow")["state"] == "interrupted");
        if how != "QUIT" {
            assert!(pooler.log().contains("schedule slow: finished exit=2 in "), "{}", pooler.log());
        }
    }
}

#[test]
fn a_run_goes_on_when_another_process_takes_over() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let job = place.job("slow", "select pg_advisory_lock(42)", EVERY_SECOND);
    let mut pooler = Bouncer::start(pg, |setup| place.setup(setup));
    let mut holder = pg.direct(&pooler.server_database);
    holder.run("select pg_advisory_lock(42)");
    pooler.reload(|setup| setup.job("slow", &job));
    wait_until("it runs", PATIENCE, || shown(&pooler, "slow")["state"] == "running");
    let mut former = pooler.reboot();
    former.wait_exit();
    assert_eq!(shown(&pooler, "slow")["state"], "running");
    wait_log(&pooler, "schedule slow: missed, ");
    pooler.reload(|setup| setup.job("slow", format!("{job} {NEVER}")));
    holder.run("select pg_advisory_unlock_all()");
    wait_until("it ends well", PATIENCE, || listed(&pooler, "slow")["state"] == "ok");
    assert_eq!(started(&(former.log() + &pooler.log()), "slow").len(), 1);
}

#[test]
fn a_reload_changes_the_schedule_or_nothing() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let mut pooler = Bouncer::start(pg, |setup| place.setup(setup).job("j", place.job("j", "select 1", NEVER)));
    for (entry, message) in [
        ("command='check --database app' schedule='61 * * * *'", "invalid value \"61 * * * *\" for schedule"),
        ("command='check --database app' schedule='0 0 30 2 *'", "that comes true some day"),
        ("command='check --database app' schedule='@daily' timezone=Mars/Base", "the name of a time zone"),
        ("command='check --database app'", "the job \"j\" needs a schedule"),
        (
            "command='chek --database app' schedule=@daily",
            "the job \"j\" of [maintenance]: unrecognized subcommand 'chek'",
        ),
        ("command='check --nonsense --database app' schedule=@daily", "unexpected argument '--nonsense'"),
        ("command='check --database nowhere' schedule=@daily", "there is no database \"nowhere\" in [databases]"),
        ("command='check' schedule=@daily", "set lock_database, or every_process = 1"),
        ("command='schedule list' schedule=@daily", "a job cannot run jobs"),
        ("command='check --dsn postgres://u:secret@h/d' schedule=@daily", "a password in a command is seen by others"),
        (
            "command='check --dsn \"host=h password=secret\"' schedule=@daily",
            "a password in a command is seen by others",
        ),
        ("command='check --database app' schedule=@daily jitter=2d", "is longer than a day"),
    ] {
        pooler.rewrite(|setup| setup.job("j", entry).set("max_client_conn", 77));
        let refused = pooler.admin().query("RELOAD").expect_err(entry);
        assert_eq!(refused.message, "RELOAD failed, see logs for additional details", "{entry}");
        wait_log(&pooler, message);
        assert!(!pooler.log().contains("secret"), "{}", pooler.log());
        let checked = pgweir("config check").arg(ini(&pooler)).run().ends_with(1);
        assert!(checked.stdout.contains(message), "{}", checked.stdout);
        assert_eq!(shown(&pooler, "j")["schedule"], "0 0 29 2 *");
    }
    let mut broken = Bouncer::spawn(Path::new(&ini(&pooler)), "broken");
    assert_eq!(broken.wait().unwrap().code(), Some(1));
    pooler.reload(|setup| setup.job("j", place.job("j", "select 1", EVERY_SECOND)));
    wait_log(&pooler, "maintenance job changed: j (");
    wait_log(&pooler, "schedule j: finished exit=0 in ");
    pooler.reload(|setup| setup.job("j", place.job("j", "select 1", &format!("{EVERY_SECOND} every_process=1"))));
    wait_log(&pooler, "every_process: 0 -> 1");
}

#[test]
fn a_job_by_hand() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let pooler = Bouncer::start(pg, |setup| {
        let setup = place
            .setup(setup)
            .job("check", format!("command='check connections --output json --database app' {NEVER}"));
        let setup = setup
            .job("warned", format!("command='check connections --threshold connections=0,90 --database app' {NEVER}"));
        let setup = setup.job("slow", place.job("slow", "select pg_sleep(600)", NEVER));
        let port = nobodys_port();
        setup
            .database("dead", format!("host=127.0.0.1 port={port} user=app"))
            .job("apart", format!("command='check connections --database app' lock_database=dead {NEVER}"))
    });
    let run = |name: &str| -> Ran { on(&pooler, "schedule run").arg(name).run() };
    // The command's own output, and its exit code.
    let ran = run("check").ok();
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(rows[0]["check"], "connections");
    assert!(
        ran.stderr.contains("check: started\n") && ran.stderr.contains("check: finished exit=0 in "),
        "{}",
        ran.stderr
    );
    let quiet = on(&pooler, "schedule run check --quiet").run().ok();
    assert!(!quiet.stderr.contains("check: "), "{}", quiet.stderr);
    run("warned").fails(1, "warned: finished exit=1");
    let warned = listed(&pooler, "warned");
    assert_eq!(
        (&warned["state"], &warned["exit_code"], &warned["due_at"]),
        (&"warning".into(), &1.into(), &Value::Null)
    );
    run("nothing").fails(4, "there is no job \"nothing\"").fails(4, "there are apart, check, slow, warned");
    run("apart").fails(3, "who runs it could not be asked");
    pgweir("schedule list").run().ends_with(4);
    let none = place.0.join("none.ini");
    fs::write(&none, "[databases]\n[pgbouncer]\n").unwrap();
    let empty = pgweir("schedule list --config").arg(none.display().to_string()).run().ok();
    assert_eq!(empty.stdout, "There are no jobs in [maintenance].\n");
    // Ctrl-C is the job's.
    let child = on(&pooler, "schedule run slow").spawn();
    pooler.wait_asleep(pg, 1);
    signal(child.id(), "INT");
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("slow: finished exit=2 in ") && stderr.contains(", interrupted"), "{stderr}");
    pooler.wait_asleep(pg, 0);
    assert_eq!(listed(&pooler, "slow")["state"], "interrupted");
}

/// Where nobody listens.
fn nobodys_port() -> u16 {
    crate::support::process::free_port()
}

#[test]
fn who_runs_it_cannot_be_asked() {
    let (pg, place) = (Postgres::shared(), Place::new());
    let pooler = Bouncer::start(pg, |setup| {
        let setup = place.setup(setup).database("dead", format!("host=127.0.0.1 port={}", nobodys_port()));
        setup.job("j", format!("command='check connections --database app' lock_database=dead {EVERY_SECOND}"))
    });
    wait_log(&pooler, "schedule j: missed, due ");
    wait_log(&pooler, "who runs it could not be asked: could not connect");
    assert_eq!(started(&pooler.log(), "j").len(), 0);
    assert_ne!(shown(&pooler, "j")["missed"], "0");
}
