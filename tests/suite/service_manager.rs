//! What a service manager does for the pooler and is told by it: `LISTEN_FDS` and `NOTIFY_SOCKET`.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Stdio};

use crate::support::process::{self, open_to_all, signal};
use crate::support::{Bouncer, PATIENCE, Postgres, Wire, wait_until};

/// A pooler that a service manager runs, next to `bouncer`, whose directory it shares.
struct Service {
    child: Child,
    notified: UnixDatagram,
    log: std::path::PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the service\n{}", self.log());
        }
    }
}

impl Service {
    /// With these sockets, of which the shell makes descriptors 3 and 4.
    fn start(bouncer: &Bouncer, options: &[&str], sockets: [OwnedFd; 2]) -> Service {
        let [ini, name, log] = ["service.ini", "notify", "service.log"].map(|name| bouncer.dir.join(name));
        let text = fs::read_to_string(bouncer.dir.join("pooler.ini")).expect("read the configuration");
        fs::write(&ini, text).expect("write the configuration");
        open_to_all(&ini, 0o644);
        let notified = UnixDatagram::bind(&name).expect("bind the socket for notifications");
        notified.set_read_timeout(Some(PATIENCE)).expect("set the timeout");
        open_to_all(&name, 0o777);
        let script = "export LISTEN_PID=$$ LISTEN_FDS=2; exec 3<&0 4<&1 </dev/null >/dev/null; exec \"$@\"";
        let [first, second] = sockets;
        let child = process::unprivileged("sh", "KILL")
            .args(["-c", script, "sh"])
            .arg(Bouncer::program())
            .args(options)
            .arg(&ini)
            .env("NOTIFY_SOCKET", &name)
            .stdin(Stdio::from(first))
            .stdout(Stdio::from(second))
            .stderr(File::create(&log).expect("create the log"))
            .spawn()
            .expect("start the pooler");
        Service { child, notified, log }
    }

    #[track_caller]
    fn wait_told(&self, wanted: &str) {
        let mut text = [0; 500];
        let n = self.notified.recv(&mut text).expect("a notification");
        let told = String::from_utf8_lossy(&text[..n]);
        assert!(told.starts_with(wanted), "{told}");
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("read the log")
    }
}

fn sockets(bouncer: &Bouncer) -> (u16, std::path::PathBuf, [OwnedFd; 2]) {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = tcp.local_addr().expect("an address").port();
    let path = bouncer.dir.join("passed");
    let unix = UnixListener::bind(&path).expect("listen");
    open_to_all(&path, 0o777);
    (port, path, [tcp.into(), unix.into()])
}

#[test]
fn sockets_are_taken_and_states_told() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let (port, path, sockets) = sockets(&bouncer);
    let mut service = Service::start(&bouncer, &[], sockets);
    service.wait_told(&format!("MAINPID={}\nREADY=1", service.child.id()));
    for mut wire in [Wire::tcp(port), Wire::unix(&path)] {
        wire.login("app", "app", "", &[]).expect("log in");
        assert_eq!(wire.one("select 1"), "1");
    }
    let log = service.log();
    for line in [
        "sockets passed from service manager, listen_addr ignored",
        "sockets passed from service manager, unix_socket_dir ignored",
        "socket passed from service manager: 127.0.0.1:",
    ] {
        assert!(log.contains(line), "{line}");
    }
    signal(service.child.id(), "HUP");
    service.wait_told("RELOADING=1\nMONOTONIC_USEC=");
    service.wait_told("READY=1");
    signal(service.child.id(), "TERM");
    service.wait_told("STOPPING=1");
    wait_until("the end", PATIENCE, || service.child.try_wait().expect("wait").is_some());
    // It is the service manager's.
    assert!(path.exists());
}

#[test]
fn they_go_to_the_next_process() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let (port, path, sockets) = sockets(&bouncer);
    // The next process looks for this one where its configuration says.
    fs::remove_file(bouncer.socket_path()).expect("remove the socket");
    fs::rename(&path, bouncer.socket_path()).expect("rename the socket");
    let mut service = Service::start(&bouncer, &[], sockets);
    service.wait_told("MAINPID=");
    let mut client = Wire::tcp(port);
    client.login("app", "app", "", &[]).expect("log in");
    let mut next = bouncer.spawn_successor(&bouncer.dir.join("service.ini"), "next");
    service.wait_told(&format!("MAINPID={}", next.id()));
    wait_until("the end", PATIENCE, || service.child.try_wait().expect("wait").is_some());
    assert_eq!(client.one("select 1"), "1");
    for mut wire in [Wire::tcp(port), Wire::unix(bouncer.socket_path())] {
        wire.login("app", "app", "", &[]).expect("log in");
    }
    next.kill().expect("kill");
    next.wait().expect("wait");
}

#[test]
fn no_takeover_with_sockets_of_its_own() {
    let bouncer = Bouncer::start(Postgres::shared(), |setup| setup);
    let (_, _, sockets) = sockets(&bouncer);
    let mut service = Service::start(&bouncer, &["-R"], sockets);
    wait_until("the end", PATIENCE, || service.child.try_wait().expect("wait").is_some());
    assert!(service.log().contains("FATAL cannot reboot under service manager"), "{}", service.log());
}
