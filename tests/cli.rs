//! The command line, as a shell sees it: output, exit codes, and the process in the background.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::{panicking, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, getsid, getuid};

/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of its own for each test, gone with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("pgweir-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("make a directory");
        if let Some(user) = account() {
            chown(&dir, Some(user.uid.as_raw()), None).expect("give the directory away");
        }
        Dir(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("write a file");
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("remove the directory");
    }
}

/// Whom to run as where the tests run as root; None: we are nobody special.
fn account() -> Option<User> {
    getuid().is_root().then(|| User::from_name("nobody").ok().flatten().expect("a user nobody"))
}

/// Runs a program with arguments and these variables as its whole environment.
fn run_with(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.env_clear().envs(environment.iter().copied()).args(arguments);
    command.output().expect("run the program")
}

fn run(arguments: &[&str]) -> Output {
    run_with(Path::new(env!("CARGO_BIN_EXE_pgweir")), arguments, &[])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_fails(output: &Output, message: &str) {
    let stderr = text(&output.stderr);
    assert!(stderr.contains(message), "{message:?} in {stderr}");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn names_its_version_whatever_it_is_called() {
    let dir = Dir::new("version");
    let pgbouncer = dir.path("pgbouncer");
    symlink(env!("CARGO_BIN_EXE_pgweir"), &pgbouncer).expect("link the program");
    for output in [run(&["--version"]), run_with(&pgbouncer, &["-V"], &[])] {
        let version = env!("CARGO_PKG_VERSION");
        let wanted = format!("pgweir {version} (compatible with PgBouncer 1.25)\n");
        assert_eq!(text(&output.stdout), wanted);
        assert!(output.status.success());
    }
    // PgBouncer has no commands, so there these are two files.
    assert_fails(&run_with(&pgbouncer, &["config", "sample"], &[]), "unexpected argument 'sample'");
}

#[test]
fn check_reports_every_error_with_its_line() {
    let dir = Dir::new("check");
    let bad = "[databases]\napp = host=h prot=5432\n[pgbouncer]\npool_mod = session\nlisten_port = x\npkt_buf = 8192\n";
    let file = dir.write("bad.ini", bad);
    let file = file.to_str().expect("a readable name");
    let output = run(&["config", "check", file]);
    let report = text(&output.stdout);
    for (line, key) in [(2, "prot"), (4, "pool_mod"), (5, "listen_port")] {
        let begin = format!("{file}:{line}: error: ");
        assert!(report.lines().any(|l| l.starts_with(&begin) && l.contains(key)), "{report}");
    }
    assert!(report.lines().any(|l| l.contains(": warning: ")), "{report}");
    assert!(report.lines().last().is_some_and(|l| l.starts_with("3 errors, ")), "{report}");
    assert_eq!(output.status.code(), Some(1));
    assert_fails(&run(&[file]), "FATAL cannot load config file");
}

#[test]
fn warnings_alone_are_no_failure() {
    let dir = Dir::new("warnings");
    let file = dir.write("warned.ini", "[databases]\n* = host=h\n[pgbouncer]\npkt_buf = 8192\n");
    let file = file.to_str().expect("a readable name");
    let output = run(&["config", "check", file]);
    let report = text(&output.stdout);
    assert!(report.contains(&format!("{file}:4: warning: ")), "{report}");
    assert_eq!(output.status.code(), Some(0), "{report}");
}

#[test]
fn show_prints_what_is_effective_and_no_secret() {
    let dir = Dir::new("show");
    let ini = "[databases]\napp = host=h user=u password=geheim\n[pgbouncer]\npool_mode = session\n";
    let file = dir.write("a.ini", ini);
    let arguments = ["config", "show", file.to_str().expect("a readable name")];
    let program = Path::new(env!("CARGO_BIN_EXE_pgweir"));
    let output = run_with(program, &arguments, &[("PGWEIR_POOL_MODE", "transaction")]);
    let shown = text(&output.stdout);
    assert!(shown.contains("\npool_mode = transaction\n"), "{shown}");
    assert!(shown.contains("\nlisten_port = 6432\n"), "{shown}");
    assert!(!shown.contains("geheim") && !text(&output.stderr).contains("geheim"), "{shown}");
    assert!(output.status.success());
    // What is shown is a configuration again.
    let again = dir.write("again.ini", &shown.replace("password=***", ""));
    let output = run(&["config", "check", again.to_str().expect("a readable name")]);
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn the_environment_may_hold_the_configuration() {
    let program = Path::new(env!("CARGO_BIN_EXE_pgweir"));
    let url = [("DATABASE_URL", "postgres://app:geheim@db.example:5433/app")];
    let output = run_with(program, &["config", "show"], &url);
    let shown = text(&output.stdout);
    assert!(shown.contains("host=db.example port=5433"), "{shown}");
    assert!(!shown.contains("geheim"), "{shown}");
    assert_fails(&run(&[]), "FATAL no configuration file specified");
}

#[test]
fn refuses_to_start() {
    let dir = Dir::new("refuse");
    let file = dir.write("a.ini", "[databases]\n* = host=h\n[pgbouncer]\n");
    let file = file.to_str().expect("a readable name");
    assert_fails(&run(&["-d", file]), "FATAL daemon needs pidfile configured");
    assert_fails(&run(&["-u", "no-such-user", file]), "FATAL could not find user 'no-such-user'");
    assert_fails(&run(&["-x", file]), "invalid option '-x'\nTry ");
    if getuid().is_root() {
        assert_fails(&run(&[file]), "FATAL pgweir should not run as root");
    }
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Kills the process in the background if the test fails before it has ended.
struct Daemon(Pid);

impl Drop for Daemon {
    fn drop(&mut self) {
        if panicking() {
            // It may have ended all the same.
            let _ = kill(self.0, Signal::SIGKILL);
        }
    }
}

#[test]
fn runs_in_the_background_until_told_to_stop() {
    let dir = Dir::new("daemon");
    let at = dir.0.display();
    let ini = format!(
        "[databases]\n* = host=h\n[pgbouncer]\nunix_socket_dir = {at}\npidfile = {at}/pid\nlogfile = {at}/log\n"
    );
    let file = dir.write("a.ini", &ini);
    let mut arguments = vec!["-d", file.to_str().expect("a readable name")];
    let user = account().map(|user| user.name);
    arguments.extend(user.iter().flat_map(|user| ["-u", user]));

    let mut gone = Command::new("true").spawn().expect("run a process");
    gone.wait().expect("it ends");
    dir.write("pid", &format!("{}\n", gone.id()));

    let started = run(&arguments);
    assert!(started.status.success(), "{}", text(&started.stderr));
    assert_eq!(text(&started.stderr), "", "the log is for that");
    let (pidfile, socket) = (dir.path("pid"), dir.path(".s.PGSQL.6432"));
    let pid = fs::read_to_string(&pidfile).expect("the pidfile is there before the command ends");
    let daemon = Daemon(Pid::from_raw(pid.trim().parse().expect("a process id")));
    assert!(UnixStream::connect(&socket).is_ok(), "clients can connect");
    let session = getsid(Some(daemon.0)).expect("it runs");
    assert!(session != daemon.0 && Ok(session) != getsid(None), "it has a session, led by nobody");

    let again = run(&arguments);
    assert_fails(&again, "exists, another instance running?");
    assert!(UnixStream::connect(&socket).is_ok(), "the first has not been harmed");

    kill(daemon.0, Signal::SIGTERM).expect("it still runs");
    wait_until("it takes its files with it", || !pidfile.exists() && !socket.exists());
    let log = fs::read_to_string(dir.path("log")).expect("a log");
    assert!(log.contains("stale pidfile, removing") && log.contains("listening on unix:"), "{log}");
}
