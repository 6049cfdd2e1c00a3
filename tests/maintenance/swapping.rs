//! A restored database in the place of the old one, or over it, while clients go through the pooler.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::depot::{Depot, fresh, has_database, run_program};
use crate::program::{Program, Ran, pgweir};
use crate::restoring::{asleep, endless};
use crate::servers::every_version;
use crate::support::process::signal;
use crate::support::*;

/// A pooler, its database with pgbench's tables, and a backup of it.
struct Scene {
    pg: &'static Postgres,
    bouncer: Bouncer,
    depot: Depot,
}

impl Scene {
    fn new() -> Scene {
        let pg = Postgres::shared();
        let bouncer = Bouncer::start(pg, |setup| setup.set("default_pool_size", 4));
        run_program(pg, "pgbench", &bouncer.server_database, &["-i", "-q", "-U", "app"]);
        let mut depot = Depot::new();
        depot.backup(pg, &bouncer.server_database, "custom");
        Scene { pg, bouncer, depot }
    }

    fn database(&self) -> &str {
        &self.bouncer.server_database
    }

    fn run(&self, line: &str) -> Program {
        self.depot.on(line, self.pg, self.database()).arg("--config").arg(self.ini())
    }

    fn ini(&self) -> String {
        self.bouncer.dir.join("pooler.ini").display().to_string()
    }

    /// pgbench through the pooler, for as long as it is let.
    fn pgbench(&self) -> Child {
        let mut command = Command::new(self.pg.bindir.join("pgbench"));
        command.args(["-n", "-M", "prepared", "-c", "8", "-j", "8", "-T", "60", "-h", "127.0.0.1", "-U", "app", "-p"]);
        command.arg(self.bouncer.port.to_string()).arg("app");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start pgbench")
    }

    /// Held by nobody: clients get in and on.
    #[track_caller]
    fn assert_open(&self) {
        assert_eq!(self.bouncer.client().one("select 1"), "1");
        let shown = self.bouncer.show("DATABASES").into_iter().find(|shown| shown["name"] == "app").expect("app");
        assert_eq!((shown["paused"].as_str(), shown["disabled"].as_str()), ("0", "0"));
    }

    fn oid(&self, name: &str) -> String {
        self.pg.sql(&format!("select oid from pg_database where datname = '{name}'"))[0][0].clone().expect("an oid")
    }

    fn replaced(&self, ran: &Ran) -> String {
        let row: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(row["database"], self.database());
        row["replaced"].as_str().expect("a name").to_owned()
    }
}

#[test]
fn under_load_no_client_sees_an_error() {
    let scene = Scene::new();
    let (pg, database) = (scene.pg, scene.database());
    let before = scene.oid(database);
    let pgbench = scene.pgbench();
    let transactions =
        |name: &str| pg.direct(name).one("select count(*) from pgbench_history").parse::<u64>().expect("a count");
    wait_until("it is at work", PATIENCE, || transactions(database) > 20);
    let new = fresh("swapped");
    let ran = scene.run(&format!("restore latest --into {new} --swap --yes --output json")).run().ok();
    let replaced = scene.replaced(&ran);
    assert!(replaced.starts_with(&format!("{database}_replaced_")), "{replaced}");
    assert!(ran.stderr.contains(&format!("--swap-only --into {replaced}")), "{}", ran.stderr);
    assert_eq!(scene.oid(&replaced), before);
    assert!(!has_database(pg, &new));
    wait_until("clients go on in the new one", PATIENCE, || transactions(database) > 20);
    let stopped_at = transactions(&replaced);
    // And back.
    let back = pgweir(&format!("restore --swap-only --into {replaced} --yes --output json --config"));
    scene.replaced(&back.arg(scene.ini()).on(pg, "postgres", database).run().ok());
    assert_eq!(scene.oid(database), before);
    wait_until("clients go on in the old one", PATIENCE, || transactions(database) > stopped_at + 20);
    signal(pgbench.id(), "INT");
    let out = pgbench.wait_with_output().expect("wait for it");
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(!stderr.contains("error") && !stderr.contains("FATAL"), "{stdout}{stderr}");
    scene.assert_open();
    assert_eq!(scene.bouncer.logged("ERROR"), 0, "{}", scene.bouncer.log());
}

#[test]
fn what_belongs_to_the_database_goes_along() {
    let scene = Scene::new();
    let (pg, database) = (scene.pg, scene.database());
    let role = fresh("Owner of it");
    pg.sql(&format!("create role \"{role}\"; alter database {database} owner to \"{role}\""));
    for sql in [
        "revoke all on database DB from public",
        "grant connect on database DB to app with grant option",
        "grant temporary, connect on database DB to other",
        "alter database DB connection limit 33",
        "alter database DB set search_path = \"$user\", 'Odd, path', public",
        "alter database DB set work_mem = '7MB'",
        "alter database DB set \"my.setting\" = 'it''s \\ \"x\"'",
        "alter database DB set temp_tablespaces = ''",
        "alter role app in database DB set statement_timeout = '1min'",
        "comment on database DB is 'It''s ours'",
    ] {
        pg.sql(&sql.replace("DB", database));
    }
    let about = |name: &str| {
        pg.sql(&format!(
            "select pg_get_userbyid(datdba), datconnlimit, array(select x::text from unnest(datacl) x order by 1),
                    shobj_description(oid, 'pg_database'), pg_encoding_to_char(encoding), datcollate,
                    array(select setrole::text || setconfig::text from pg_db_role_setting where setdatabase = d.oid order by 1)
             from pg_database d where datname = '{name}'"
        ))
    };
    let was = about(database);
    let dump = scene.depot.on("restore latest --yes --swap --no-pooler --output json", pg, database).run().ok();
    let replaced = scene.replaced(&dump);
    assert_eq!(about(database), was);
    assert_eq!(about(&replaced), was);
    assert_eq!(pg.direct(database).one("show \"my.setting\""), "it's \\ \"x\"");
}

#[test]
fn on_every_version() {
    let source = Postgres::shared();
    let database = source.create_database();
    source.direct(&database).run("create table t (a int); insert into t values (4711)");
    let mut depot = Depot::new();
    depot.backup(source, &database, "custom");
    for (version, pg) in every_version() {
        let old = pg.create_database();
        pg.sql(&format!("alter database {old} set search_path = app, public; comment on database {old} is 'old'"));
        let on = |line: &str| depot.program(line).on(pg, "postgres", &old);
        on("backup verify latest --level restore").run().ok();
        on("restore latest --swap --no-pooler --yes").run().ok();
        assert_eq!(pg.direct(&old).one("select a from t"), "4711", "{version}");
        assert_eq!(pg.direct(&old).one("show search_path"), "app, public", "{version}");
    }
}

#[test]
fn without_a_way_to_the_pooler_nothing_is_begun() {
    let scene = Scene::new();
    let (pg, database) = (scene.pg, scene.database());
    let on = |line: &str, database: &str| scene.depot.on(line, pg, database);
    on("restore latest --swap --yes", database).run().fails(4, "the pooler's console is needed");
    // Its entry leads elsewhere.
    let other = pg.create_database();
    let ran = on("restore latest --swap --yes", &other).arg("--config").arg(scene.ini()).run();
    ran.fails(5, "no database of the pooler leads to");
    on("restore latest --swap --yes --no-pooler", "nowhere").run().fails(5, "there is no database nowhere");
    on("restore latest --swap --yes --no-pooler", "postgres").run().fails(4, "--maintenance-db");
    on("restore --swap-only --into nowhere --yes --no-pooler", database).run().fails(5, "there is no database nowhere");
    on("restore latest --swap --yes --no-pooler --maintenance-db nowhere", database).run().fails(3, "--maintenance-db");
    let names = pg.sql(&format!("select datname from pg_database where datname ~ '^{database}_'"));
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn a_swap_that_cannot_be_leaves_all_as_it_was() {
    let scene = Scene::new();
    let (pg, database) = (scene.pg, scene.database());
    let before = scene.oid(database);
    // A client that stays in its transaction.
    let mut client = scene.bouncer.client();
    client.run("begin; select 1");
    let new = fresh("waiting");
    let ran = scene.run(&format!("restore latest --into {new} --swap --yes --hold-timeout 300ms")).run();
    ran.fails(7, "PAUSE app did not end within 300ms");
    client.run("commit");
    scene.assert_open();
    assert_eq!(scene.oid(database), before);
    // What was restored is not lost.
    assert_eq!(pg.direct(&new).one("select count(*) from pgbench_accounts"), "100000");
    // A session that may not be ended.
    let swapper = fresh("swapper");
    pg.sql(&format!(
        "create role {swapper} login createdb; grant app to {swapper}; alter database {database} owner to app"
    ));
    pg.sql(&format!("alter database {new} owner to {swapper}"));
    let mut boss = pg.direct(database);
    boss.run("set application_name = 'boss'");
    let dsn = crate::program::dsn(pg, &swapper, database);
    let line = format!("restore --swap-only --into {new} --yes");
    let ran = scene.depot.program(&line).arg("--config").arg(scene.ini()).arg("--dsn").arg(&dsn).run();
    let ran = ran.fails(2, "sessions that may not be ended");
    assert!(ran.stderr.contains("boss") && ran.stderr.contains("to be ended, process"), "{}", ran.stderr);
    assert_eq!(boss.one("select 1"), "1");
    scene.assert_open();
    assert_eq!(scene.oid(database), before);
    // Ctrl-C while it waits for that.
    let child = scene.depot.program(&line).arg("--config").arg(scene.ini()).arg("--dsn").arg(&dsn).spawn();
    let renaming = format!(
        "select 1 from pg_stat_activity where query like 'ALTER DATABASE \"{database}\" RENAME%' and state = 'active'"
    );
    wait_until("it renames", PATIENCE, || !pg.sql(&renaming).is_empty());
    signal(child.id(), "INT");
    assert_eq!(child.wait_with_output().expect("wait for it").status.code(), Some(2));
    scene.assert_open();
    assert_eq!(scene.oid(database), before);
    // Another job there is not ended.
    let mut job = pg.direct(database);
    job.run("select pg_advisory_lock(1885828978, 0)");
    scene.run(&line).run().fails(6, "another job is at work");
    drop(job);
    drop(boss);
    scene.depot.program(&line).arg("--config").arg(scene.ini()).arg("--dsn").arg(&dsn).run().ok();
    assert_ne!(scene.oid(database), before);
    // What somebody else holds stays held.
    let mut admin = scene.bouncer.admin();
    admin.run("PAUSE app");
    let back = format!("{database}_replaced_");
    let old = pg.sql(&format!("select datname from pg_database where starts_with(datname, '{back}')"))[0][0].clone();
    let ran = scene.run(&format!("restore --swap-only --yes --into {}", old.expect("a name"))).run();
    ran.fails(0, "is paused on the pooler by somebody else");
    admin.run("RESUME app");
    scene.assert_open();
}

#[test]
fn over_an_existing_database() {
    let scene = Scene::new();
    let (pg, database) = (scene.pg, scene.database());
    let mut client = scene.bouncer.client();
    client.run("truncate pgbench_accounts");
    client.run("create table younger (a int)");
    let line = "restore latest --in-place --confirm RESTORE --output json";
    let row: Value = serde_json::from_str(&scene.run(line).run().ok().stdout).expect("JSON");
    assert_eq!(
        (&row["database"], &row["counts_equal"], &row["rows"]),
        (&database.into(), &true.into(), &100_011.into())
    );
    // The client was held, and goes on.
    assert_eq!(client.one("select count(*) from pgbench_accounts"), "100000");
    assert_eq!(client.one("select count(*) from younger"), "0");
    scene.assert_open();

    // Something that the backup does not know stands in the way halfway.
    client
        .run("create table referring (a int references pgbench_branches); delete from pgbench_accounts where aid > 10");
    scene.run(line).run().fails(2, &format!("{database} is as it was"));
    assert_eq!(client.one("select count(*) from pgbench_accounts"), "10");
    scene.assert_open();
    client.run("drop table referring");

    // A lock that is held for ever.
    let mut holder = pg.direct(database);
    holder.run("begin; lock table pgbench_accounts in access share mode");
    let ran = scene.run(&format!("{line} --lock-timeout 500ms")).run();
    ran.fails(2, "waited longer than 500ms for a lock on public.pgbench_accounts");
    assert_eq!(client.one("select count(*) from pgbench_accounts"), "10");
    scene.assert_open();
    holder.run("commit");
    let ran = scene.run(&format!("{line} --jobs 2")).run().fails(0, "no single transaction");
    drop(ran);
    assert_eq!(client.one("select count(*) from pgbench_accounts"), "100000");
    scene.assert_open();
}

#[test]
fn ctrl_c_over_an_existing_database_lets_clients_in_again() {
    let pg = Postgres::shared();
    let source = endless(pg);
    let bouncer = Bouncer::start(pg, |setup| setup);
    let mut depot = Depot::new();
    depot.backup(pg, &source, "custom");
    pg.direct(&bouncer.server_database)
        .run("create table t (a int); insert into t values (4711); alter table t owner to app");
    let program = depot.on("restore latest --in-place --confirm RESTORE", pg, &bouncer.server_database);
    let child = program.arg("--config").arg(bouncer.dir.join("pooler.ini").display().to_string()).spawn();
    asleep(pg, &bouncer.server_database);
    assert_eq!(bouncer.refusal("app", "app", "").message, "database \"app\" is disabled");
    signal(child.id(), "INT");
    let out = child.wait_with_output().expect("wait for it");
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(bouncer.client().one("select a from t"), "4711");
}
