//! A real PostgreSQL in a scratch directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, mpsc};
use std::thread;

use super::messages::Row;
use super::process::{PATIENCE, free_port, installed, scratch_dir, signal, unprivileged, wait_until};
use super::wire::Wire;

/// The password of every role that has one.
pub(crate) const PASSWORD: &str = "correct horse";

const HBA: &str = "
local all all trust
host all barred 127.0.0.1/32 reject
host all clear 127.0.0.1/32 password
host all hashed 127.0.0.1/32 md5
host all salted 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication replicator 127.0.0.1/32 trust
";

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 400
shared_buffers = 128MB
fsync = off
full_page_writes = off
synchronous_commit = off
autovacuum = off
jit = off
max_wal_size = 4GB
wal_level = logical
max_wal_senders = 40
max_replication_slots = 40
timezone = 'Europe/Berlin'
";

/// `app` owns the tests' databases; `other` and `third` are further users without a password;
/// `replicator` may start walsenders; the rest are named for how the server wants them to log in.
const ROLES: &str = "
create role app login; create role other login; create role third login; create role barred login;
set password_encryption = 'md5';
create role clear login password 'correct horse'; create role hashed login password 'correct horse';
set password_encryption = 'scram-sha-256';
create role salted login password 'correct horse';
create role replicator login replication;
";

static BINDIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let asked = Command::new("pg_config").arg("--bindir").output();
    let told = asked.ok().map(|out| PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()));
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    told.into_iter()
        .chain(installed.map(|entry| entry.path().join("bin")))
        .find(|dir| dir.join("initdb").exists())
        .expect("PostgreSQL's server programs: install postgresql")
});

/// The path of one of the programs of the machine's PostgreSQL.
pub(crate) fn program(name: &str) -> PathBuf {
    BINDIR.join(name)
}

/// A data directory with the roles in it, copied for every server.
static TEMPLATE: LazyLock<PathBuf> = LazyLock::new(|| initialised(&BINDIR));

/// A new data directory, made by the programs in `bindir`.
fn initialised(bindir: &Path) -> PathBuf {
    let dir = scratch_dir("template");
    let out = unprivileged(bindir.join("initdb"), "KILL")
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", "-D"])
        .arg(&dir)
        .output()
        .expect("run initdb");
    assert!(out.status.success(), "initdb: {}", String::from_utf8_lossy(&out.stderr));
    fs::write(dir.join("pg_hba.conf"), HBA).expect("write pg_hba.conf");
    let conf = dir.join("postgresql.conf");
    let text = fs::read_to_string(&conf).expect("read postgresql.conf") + SETTINGS;
    fs::write(conf, text).expect("write postgresql.conf");
    dir
}

/// Further versions of PostgreSQL.
static VERSIONS: LazyLock<PathBuf> = LazyLock::new(|| readable("postgres").join("versions"));

/// Version 18 as it is built with TLS.
static WITH_TLS: LazyLock<PathBuf> = LazyLock::new(|| readable("postgres_tls"));

/// A copy where the account that runs the programs may read them: what is installed may be in
/// somebody's home directory.
pub(crate) fn readable(name: &str) -> PathBuf {
    let (from, copy) = (installed(name), scratch_dir("programs"));
    let copied = Command::new("cp").args(["-R", "-T"]).args([&from, &copy]).status();
    assert!(copied.expect("run cp").success(), "copy {}", from.display());
    copy
}

/// A child that dies with its thread needs a thread that lives as long as the process.
pub(crate) fn lasting(start: fn() -> Postgres) -> Postgres {
    let (give, take) = mpsc::channel();
    thread::spawn(move || {
        give.send(start()).expect("hand over the server");
        loop {
            thread::park();
        }
    });
    take.recv().expect("PostgreSQL did not start")
}

pub(crate) struct Postgres {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    /// Where its programs are.
    pub(crate) bindir: PathBuf,
    /// `None` while stopped.
    child: Mutex<Option<Child>>,
}

impl Postgres {
    /// The server that all tests share which do not break it. The watcher of the scratch
    /// directory stops it at the end.
    pub(crate) fn shared() -> &'static Postgres {
        static SHARED: LazyLock<Postgres> = LazyLock::new(|| lasting(Postgres::dedicated));
        &SHARED
    }

    /// The same of version 16, which `scripts/drivers.sh` has installed.
    pub(crate) fn shared_16() -> &'static Postgres {
        static SHARED: LazyLock<Postgres> = LazyLock::new(|| lasting(|| Postgres::of_version("16")));
        // Here every test that is in want of it says so, not just the first.
        installed("postgres");
        &SHARED
    }

    /// The same of version 18.
    pub(crate) fn shared_18() -> &'static Postgres {
        static SHARED: LazyLock<Postgres> = LazyLock::new(|| lasting(|| Postgres::of_version("18")));
        installed("postgres");
        &SHARED
    }

    /// A server for one test, which may stop or kill it.
    pub(crate) fn dedicated() -> Postgres {
        let dir = scratch_dir("pg");
        let copied = unprivileged("cp", "KILL").args(["-a", "-T"]).args([&*TEMPLATE, &dir]).status();
        assert!(copied.expect("run cp").success(), "copy the template");
        let pg = Postgres::on(dir, BINDIR.clone());
        pg.sql(ROLES);
        pg
    }

    /// A server of version 18 for one test, which may turn TLS on.
    pub(crate) fn dedicated_18() -> Postgres {
        Postgres::of(WITH_TLS.join("bin"))
    }

    fn of_version(version: &str) -> Postgres {
        Postgres::of(VERSIONS.join(version).join("bin"))
    }

    /// A server that the programs in `bindir` make and run.
    pub(crate) fn of(bindir: PathBuf) -> Postgres {
        let pg = Postgres::on(initialised(&bindir), bindir);
        pg.sql(ROLES);
        pg
    }

    /// A server on the base backup in `dir`.
    pub(crate) fn restored(dir: PathBuf) -> Postgres {
        Postgres::on(dir, BINDIR.clone())
    }

    fn on(dir: PathBuf, bindir: PathBuf) -> Postgres {
        let pg = Postgres { dir, port: free_port(), bindir, child: Mutex::new(None) };
        pg.start();
        pg
    }

    pub(crate) fn start(&self) {
        let log = fs::File::options().append(true).create(true).open(self.dir.join("log"));
        let child = unprivileged(self.bindir.join("postgres"), "QUIT")
            .arg("-D")
            .arg(&self.dir)
            .args(["-p", &self.port.to_string(), "-k"])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("open the server's log"))
            .spawn()
            .expect("start postgres");
        *self.child.lock().expect("child") = Some(child);
        self.wait_ready();
    }

    /// Waits until logins succeed, as after a crash.
    pub(crate) fn wait_ready(&self) {
        wait_until("PostgreSQL accepts connections", PATIENCE, || {
            Wire::try_tcp(self.port).is_ok_and(|mut wire| wire.try_login("postgres", "postgres"))
        });
    }

    /// `mode` is the signal: INT for fast, QUIT for immediate, TERM for smart.
    pub(crate) fn stop(&self, mode: &str) {
        if let Some(mut child) = self.child.lock().expect("child").take() {
            signal(child.id(), mode);
            child.wait().expect("wait for postgres");
        }
    }

    /// A superuser's connection that does not pass the pooler.
    pub(crate) fn direct(&self, database: &str) -> Wire {
        let mut wire = Wire::tcp(self.port);
        wire.login("postgres", database, "", &[]).expect("log in directly");
        wire
    }

    #[track_caller]
    pub(crate) fn sql(&self, sql: &str) -> Vec<Row> {
        self.direct("postgres").query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// A new, empty database owned by `app`.
    pub(crate) fn create_database(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("create database {name} owner app"));
        name
    }

    /// How many backends serve `database`, but for those of the tests themselves.
    pub(crate) fn backends(&self, database: &str) -> usize {
        self.backend_users(database).len()
    }

    /// The user of each backend of `database`, sorted.
    pub(crate) fn backend_users(&self, database: &str) -> Vec<String> {
        let rows = self.sql(&format!(
            "select usename from pg_stat_activity where datname = '{database}' \
             and usename <> 'postgres' order by 1"
        ));
        rows.into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect()
    }

    pub(crate) fn terminate_backend(&self, pid: u32) {
        self.sql(&format!("select pg_terminate_backend({pid}, 10000)"));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop("QUIT");
    }
}
