//! Scratch directories, ports and child processes, none of which outlives the test run.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take to come true on a loaded machine before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The account under which servers run when the tests run as root, which PostgreSQL refuses.
const ACCOUNT: &str = "postgres";

/// Polls until `condition` holds; panics with `what` when it does not within `limit`.
pub(crate) fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// This run's directory. A watcher in a process group of its own sees the end of this process
/// however it ends (its standard input closes), stops what still runs and removes the directory.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = std::env::temp_dir().join(format!("pgweir-test.{}", std::process::id()));
    fs::create_dir_all(&root).expect("create the scratch directory");
    open_to_all(&root, 0o755);
    let script = "cat >/dev/null; cd \"$1\" || exit
        for f in */postmaster.pid; do [ -f \"$f\" ] && kill -QUIT $(head -1 \"$f\"); done
        for f in */postmaster.pid; do while [ -f \"$f\" ]; do sleep 0.1; done; done
        cd / && rm -rf \"$1\"";
    let watcher = Command::new("sh")
        .args(["-c", script, "watcher"])
        .arg(&root)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("start the watcher");
    // The pipe must stay open until the process ends.
    std::mem::forget(watcher);
    root
});

/// A fresh directory, whose owner is the account the servers run under.
pub(crate) fn scratch_dir(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let dir = ROOT.join(format!("{name}{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&dir).expect("create a directory");
    if is_root() {
        let chown = Command::new("chown").arg(ACCOUNT).arg(&dir).status();
        assert!(chown.expect("run chown").success(), "chown {ACCOUNT}");
    }
    dir
}

pub(crate) fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set permissions");
}

/// A port nobody listens on, outside of the range from which the kernel picks for clients: those
/// run into the thousands here.
pub(crate) fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new((std::process::id() % 15_000) as u16));
    loop {
        let port = 12_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Where `scripts/drivers.sh` has put it.
pub(crate) fn installed(path: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let path = target.join("drivers").join(path);
    assert!(path.exists(), "{} is missing: run scripts/drivers.sh", path.display());
    path
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("read /proc/self").uid() == 0
}

/// A command run without root's rights, which gets `death_signal` when the thread that starts it
/// ends.
pub(crate) fn unprivileged(program: impl AsRef<Path>, death_signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--pdeathsig={death_signal}"));
    if is_root() {
        command.args([format!("--reuid={ACCOUNT}"), format!("--regid={ACCOUNT}"), "--init-groups".to_owned()]);
    }
    command.arg("--").arg(program.as_ref()).current_dir("/");
    command
}

pub(crate) fn signal(pid: u32, name: &str) {
    // The shell's own: a minimal system has no program of that name.
    let script = format!("kill -s {name} {pid}");
    let status = Command::new("sh").args(["-c", &script]).status().expect("run sh");
    assert!(status.success(), "kill -s {name} {pid}");
}

/// How many descriptors a process has.
pub(crate) fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is gone").count()
}

/// Lets a process have no more than `more` descriptors beside those that it has.
pub(crate) fn limit_open_files(pid: u32, more: usize) {
    let limit = format!("--nofile={}", open_files(pid) + more);
    let status = unprivileged("prlimit", "KILL").args([&format!("--pid={pid}"), &limit]).status();
    assert!(status.expect("run prlimit").success(), "prlimit {limit}");
}

/// How much of something a test does: more where the variable says so.
pub(crate) fn number_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// One `Vm…` line of `/proc/PID/status`.
pub(crate) fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is gone");
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .expect("field of /proc/PID/status")
}
