//! The pooler under test: pgweir, or the program that `PGWEIR_TEST_BOUNCER` names, which may be
//! PgBouncer itself to see what the tests expect of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::thread;

use super::messages::{self as msg, PgError};
use super::postgres::Postgres;
use super::process::{self, PATIENCE, free_port, open_to_all, scratch_dir, wait_until};
use super::wire::Wire;

static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let named = std::env::var_os("PGWEIR_TEST_BOUNCER");
    copied(named.map_or_else(|| env!("CARGO_BIN_EXE_pgweir").into(), PathBuf::from))
});

/// What is a peer of the pooler under test: the same program, or the one that
/// `PGWEIR_TEST_PEER` names.
static PEER: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::var_os("PGWEIR_TEST_PEER").map_or_else(|| BINARY.clone(), |named| copied(named.into())));

/// Where the account that runs it may read it: a home directory often is closed.
fn copied(binary: PathBuf) -> PathBuf {
    let copy = scratch_dir("bin").join(binary.file_name().expect("a file name"));
    fs::copy(&binary, &copy).expect("copy the pooler");
    copy
}

/// Whether PgBouncer stands in, whose SQLSTATE is 08P01 for nearly everything.
pub(crate) static IS_PGBOUNCER: LazyLock<bool> = LazyLock::new(|| {
    let out = Command::new(&*BINARY).arg("-V").output().expect("run the pooler");
    out.stdout.starts_with(b"PgBouncer")
});

/// The pooler's own words and, from pgweir, the SQLSTATE that belongs to them.
#[track_caller]
pub(crate) fn assert_error(error: &PgError, message: &str, sqlstate: &str) {
    assert_eq!(error.message, message, "{error}");
    let code = if *IS_PGBOUNCER { "08P01" } else { sqlstate };
    assert_eq!(error.code, code, "{error}");
}

/// What goes into the configuration files.
#[derive(Clone)]
pub(crate) struct Setup {
    settings: BTreeMap<String, String>,
    databases: BTreeMap<String, String>,
    users: BTreeMap<String, String>,
    peers: BTreeMap<String, String>,
    jobs: BTreeMap<String, String>,
    /// None: the pooler under test.
    program: Option<&'static Path>,
    secrets: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
}

impl Setup {
    /// A variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Setup {
        self.env.insert(name.into(), value.into());
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Setup {
        self.env.remove(name);
        self
    }

    pub(crate) fn set(mut self, name: &str, value: impl ToString) -> Setup {
        self.settings.insert(name.into(), value.to_string());
        self
    }

    /// An entry of `[databases]`.
    pub(crate) fn database(mut self, name: &str, entry: impl Into<String>) -> Setup {
        self.databases.insert(name.into(), entry.into());
        self
    }

    pub(crate) fn without_database(mut self, name: &str) -> Setup {
        self.databases.remove(name);
        self
    }

    /// Adds to the entry of the database `app`.
    pub(crate) fn app(mut self, more: &str) -> Setup {
        let entry = self.databases.get_mut("app").expect("the entry of app");
        *entry = format!("{entry} {more}");
        self
    }

    pub(crate) fn user(mut self, name: &str, entry: &str) -> Setup {
        self.users.insert(name.into(), entry.into());
        self
    }

    /// An entry of `[peers]`.
    pub(crate) fn peer(mut self, id: u32, entry: impl Into<String>) -> Setup {
        self.peers.insert(id.to_string(), entry.into());
        self
    }

    /// An entry of `[maintenance]`.
    pub(crate) fn job(mut self, name: &str, entry: impl Into<String>) -> Setup {
        self.jobs.insert(name.into(), entry.into());
        self
    }

    pub(crate) fn without_peer(mut self, id: u32) -> Setup {
        self.peers.remove(&id.to_string());
        self
    }

    /// Run by the program that peers are run by.
    pub(crate) fn by_peer_program(mut self) -> Setup {
        self.program = Some(&PEER);
        self
    }

    /// A line of the auth_file.
    pub(crate) fn secret(mut self, user: &str, secret: &str) -> Setup {
        self.secrets.insert(user.into(), secret.into());
        self
    }

    fn write(&self, dir: &Path) {
        let section = |name: &str, entries: &BTreeMap<String, String>| {
            let lines: String = entries.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
            format!("[{name}]\n{lines}\n")
        };
        let ini = section("databases", &self.databases)
            + &section("users", &self.users)
            + &section("peers", &self.peers)
            + &if self.jobs.is_empty() { String::new() } else { section("maintenance", &self.jobs) }
            + &section("pgbouncer", &self.settings);
        let userlist: String = self.secrets.iter().map(|(user, secret)| format!("\"{user}\" \"{secret}\"\n")).collect();
        for (name, text) in [("pooler.ini", ini), ("userlist.txt", userlist)] {
            fs::write(dir.join(name), text).expect("write the configuration");
            open_to_all(&dir.join(name), 0o644);
        }
    }
}

pub(crate) struct Bouncer {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    /// The server's database behind `app`; empty when the test gave another entry.
    pub(crate) server_database: String,
    setup: Setup,
    child: Child,
    /// Where the process logs, beside its configuration.
    log: String,
}

/// A process that another has taken over from; killed when dropped.
pub(crate) struct Former {
    child: Child,
    /// Its log.
    path: PathBuf,
}

impl Former {
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for the former process").is_none()
    }

    #[track_caller]
    pub(crate) fn wait_exit(&mut self) {
        wait_until("the former process ends", PATIENCE, || !self.is_running());
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).expect("read the log")).into_owned()
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        // It may have ended on its own; both calls then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of the former process\n{}", self.log());
        }
    }
}

impl Setup {
    /// One pool, `app`, in transaction mode in front of a database of its own.
    fn new(dir: &Path, port: u16, app: String) -> Setup {
        let setup = Setup {
            settings: BTreeMap::new(),
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
            peers: BTreeMap::new(),
            jobs: BTreeMap::new(),
            program: None,
            secrets: BTreeMap::new(),
            env: BTreeMap::new(),
        };
        let setup = ["app", "other", "third", "replicator", "admin", "watcher"]
            .into_iter()
            .fold(setup, |setup, user| setup.secret(user, ""));
        setup
            .database("app", app)
            .set("listen_addr", "127.0.0.1")
            .set("listen_port", port)
            .set("unix_socket_dir", dir.display())
            .set("auth_type", "trust")
            .set("auth_file", dir.join("userlist.txt").display())
            .set("admin_users", "admin")
            .set("stats_users", "watcher")
            .set("pool_mode", "transaction")
            .set("verbose", 0)
    }
}

impl Bouncer {
    /// In transaction mode, `app` being a new database of `pg`; `change` alters the configuration.
    pub(crate) fn start(pg: &Postgres, change: impl FnOnce(Setup) -> Setup) -> Bouncer {
        let database = pg.create_database();
        let entry = format!("host=127.0.0.1 port={} dbname={database}", pg.port);
        Bouncer::launch(entry, database, change)
    }

    /// `app` being whatever listens on `port`.
    pub(crate) fn start_before(port: u16, change: impl FnOnce(Setup) -> Setup) -> Bouncer {
        Bouncer::launch(format!("host=127.0.0.1 port={port}"), String::new(), change)
    }

    fn launch(app: String, database: String, change: impl FnOnce(Setup) -> Setup) -> Bouncer {
        let (dir, port) = (scratch_dir("pooler"), free_port());
        let setup = change(Setup::new(&dir, port, app));
        // The change may have been to the port.
        let port = setup.settings["listen_port"].parse().expect("a port");
        setup.write(&dir);
        let program = setup.program.unwrap_or(&BINARY);
        let child = Bouncer::spawn_program(program, &[], &dir.join("pooler.ini"), "log", &setup.env);
        let mut bouncer = Bouncer { dir, port, server_database: database, setup, child, log: "log".into() };
        bouncer.wait_serving();
        bouncer
    }

    /// The program under test.
    pub(crate) fn program() -> &'static Path {
        &BINARY
    }

    /// Starts the pooler, to log into `log` beside its configuration.
    pub(crate) fn spawn(ini: &Path, log: &str) -> Child {
        Bouncer::spawn_program(&BINARY, &[], ini, log, &BTreeMap::new())
    }

    /// Starts a process that takes over from this one, to log into `log`.
    pub(crate) fn spawn_successor(&self, ini: &Path, log: &str) -> Child {
        Bouncer::spawn_program(&BINARY, &["-R"], ini, log, &self.setup.env)
    }

    /// Has another process take over, which this is from now on.
    #[track_caller]
    pub(crate) fn reboot(&mut self) -> Former {
        let log = format!("{}+", self.log);
        let child = self.spawn_successor(&self.dir.join("pooler.ini"), &log);
        let path = self.dir.join(std::mem::replace(&mut self.log, log));
        let former = Former { child: std::mem::replace(&mut self.child, child), path };
        wait_until("the next process is up", PATIENCE, || {
            assert!(self.is_running(), "the next process has ended:\n{}", self.log());
            self.log().contains("process up")
        });
        former
    }

    fn spawn_program(program: &Path, options: &[&str], ini: &Path, log: &str, env: &BTreeMap<String, String>) -> Child {
        let log = File::create(ini.with_file_name(log)).expect("create the log");
        process::unprivileged(program, "KILL")
            .args(options)
            .arg(ini)
            // What is set here for others must not configure the pooler.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(env)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("start the pooler")
    }

    /// Waits for an answer: the kernel accepts connections before the pooler is ready for them.
    fn wait_serving(&mut self) {
        wait_until("the pooler answers", PATIENCE, || {
            if let Some(status) = self.child.try_wait().expect("wait for the pooler") {
                panic!("the pooler ended with {status}");
            }
            Wire::try_tcp(self.port).is_ok_and(|mut wire| {
                wire.try_send(&msg::packet(msg::SSL_REQUEST, &[])).is_ok()
                    && matches!(wire.read_byte(), Ok(b'N' | b'S'))
            })
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its Unix socket is, unless configured otherwise.
    pub(crate) fn socket_path(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{}", self.port))
    }

    /// A client of `app`.
    pub(crate) fn client(&self) -> Wire {
        self.client_of("app", "app")
    }

    /// Somebody who has said where to and waits, for a server if need be.
    pub(crate) fn newcomer(&self) -> Wire {
        let mut client = Wire::tcp(self.port);
        client.send(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
        client
    }

    #[track_caller]
    pub(crate) fn client_of(&self, user: &str, database: &str) -> Wire {
        match self.try_client(user, database, "") {
            Ok(wire) => wire,
            Err(e) => panic!("{user} does not get into {database}: {e}"),
        }
    }

    pub(crate) fn try_client(&self, user: &str, database: &str, password: &str) -> Result<Wire, PgError> {
        let mut wire = Wire::tcp(self.port);
        wire.login(user, database, password, &[]).map(|()| wire)
    }

    /// The error with which `user` is turned away, after which the connection is closed.
    #[track_caller]
    pub(crate) fn refusal(&self, user: &str, database: &str, password: &str) -> PgError {
        let mut wire = Wire::tcp(self.port);
        match wire.login(user, database, password, &[]) {
            Ok(()) => panic!("{user} got into {database}"),
            Err(e) => {
                wire.expect_closed();
                assert_eq!(e.severity, "FATAL", "{e}");
                e
            }
        }
    }

    /// The console.
    pub(crate) fn admin(&self) -> Wire {
        let admin = self.try_client("admin", "pgbouncer", &self.setup.secrets["admin"]);
        admin.unwrap_or_else(|e| panic!("the console is closed: {e}"))
    }

    /// A SHOW command's rows by column name.
    pub(crate) fn show(&self, what: &str) -> Vec<HashMap<String, String>> {
        let mut admin = self.admin();
        admin.send(&msg::query(&format!("SHOW {what}")));
        let columns = admin.expect("T")[0].columns();
        let rows = admin.answer_of_query().unwrap_or_else(|e| panic!("SHOW {what}: {e}"));
        rows.into_iter()
            .map(|row| {
                let values = row.into_iter().map(Option::unwrap_or_default);
                columns.iter().map(|(name, _)| name.clone()).zip(values).collect()
            })
            .collect()
    }

    /// One number of `SHOW POOLS` for `user` in `database`; 0 when there is no such pool.
    pub(crate) fn pool(&self, database: &str, user: &str, column: &str) -> u64 {
        let pools = self.show("POOLS");
        let of = pools.iter().find(|pool| pool["database"] == database && pool["user"] == user);
        of.map_or(0, |pool| pool[column].parse().expect("a number"))
    }

    pub(crate) fn wait_pool(&self, column: &str, count: u64) {
        wait_until(&format!("{column} = {count}"), PATIENCE, || self.pool("app", "app", column) == count);
    }

    /// Backends of the database behind `app`.
    pub(crate) fn backends(&self, pg: &Postgres) -> usize {
        pg.backends(&self.server_database)
    }

    /// Waits until `count` backends are at a `pg_sleep`: a cancel request that comes before the
    /// query is nothing to PostgreSQL.
    #[track_caller]
    pub(crate) fn wait_asleep(&self, pg: &Postgres, count: usize) {
        let sql = format!(
            "select 1 from pg_stat_activity where datname = '{}' and wait_event = 'PgSleep'",
            self.server_database
        );
        wait_until(&format!("{count} asleep"), PATIENCE, || pg.sql(&sql).len() == count);
    }

    /// PostgreSQL's processes go a moment after the pooler has closed their connections.
    #[track_caller]
    pub(crate) fn wait_backends(&self, pg: &Postgres, count: usize) {
        wait_until(&format!("{count} backends"), PATIENCE, || self.backends(pg) == count);
    }

    /// Rewrites the configuration without a word to the pooler.
    pub(crate) fn rewrite(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
        self.setup.write(&self.dir);
    }

    /// Rewrites the configuration and has it read.
    #[track_caller]
    pub(crate) fn reload(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.rewrite(change);
        self.admin().run("RELOAD");
    }

    /// Replaces the configuration file by `text`, without a word to the pooler.
    pub(crate) fn overwrite_ini(&self, text: &str) {
        fs::write(self.dir.join("pooler.ini"), text).expect("write the configuration");
    }

    /// Another configuration file beside the pooler's: its text with one setting more. Returns its path.
    pub(crate) fn other_ini(&self, line: &str) -> String {
        let text = fs::read_to_string(self.dir.join("pooler.ini")).expect("read the configuration");
        let other = self.dir.join("other.ini");
        let changed = text.replacen("[pgbouncer]", &format!("[pgbouncer]\n{line}"), 1);
        assert_ne!(text, changed, "no [pgbouncer]");
        fs::write(&other, changed).expect("write the configuration");
        other.to_str().expect("a readable path").to_owned()
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join(&self.log)).expect("read the log")).into_owned()
    }

    pub(crate) fn wait_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), PATIENCE, || self.log().contains(text));
    }

    /// How many lines of the log have this in them.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    pub(crate) fn signal(&self, name: &str) {
        process::signal(self.pid(), name);
    }

    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the pooler ends", PATIENCE, || {
            status = self.child.try_wait().expect("wait for the pooler");
            status.is_some()
        });
        status.expect("a status")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for the pooler").is_none()
    }

    pub(crate) fn memory_kib(&self, field: &str) -> u64 {
        process::memory_kib(self.pid(), field)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        // It may have ended on its own; both calls then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            // The harness's own questions would leave no room for anything else.
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("pgbouncer/admin@")).collect();
            eprintln!("--- log of the pooler, last lines");
            lines[lines.len().saturating_sub(30)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}
