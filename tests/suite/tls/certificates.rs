//! Files of certificates that change, and certificates that expire.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::support::process::{open_to_all, scratch_dir};

/// Files as Kubernetes mounts a secret: each a link through `..data`, which is itself a link that
/// is put elsewhere when they change, so that they change at once.
struct Mounted {
    dir: PathBuf,
    version: Cell<u32>,
}

impl Mounted {
    fn new(files: &[(&str, String)]) -> Mounted {
        let mounted = Mounted { dir: scratch_dir("secret"), version: Cell::new(0) };
        mounted.put(files);
        for (name, _) in files {
            symlink(format!("..data/{name}"), mounted.dir.join(name)).expect("make a link");
        }
        mounted
    }

    fn put(&self, files: &[(&str, String)]) {
        let version = format!("..{}", self.version.replace(self.version.get() + 1));
        fs::create_dir(self.dir.join(&version)).expect("create a directory");
        for (name, from) in files {
            let file = self.dir.join(&version).join(name);
            fs::copy(from, &file).expect("copy a file");
            open_to_all(&file, 0o644);
        }
        symlink(&version, self.dir.join("..new")).expect("make a link");
        fs::rename(self.dir.join("..new"), self.dir.join("..data")).expect("put the link in place");
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

fn pair(name: &str) -> [(&'static str, String); 2] {
    [("tls.key", key(name)), ("tls.crt", certificate(name))]
}

fn with_pair(setup: Setup, mounted: &Mounted) -> Setup {
    setup.set("client_tls_key_file", mounted.path("tls.key")).set("client_tls_cert_file", mounted.path("tls.crt"))
}

const KEPT: &str = "certificate files have changed but cannot be used: those in force stay";

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn a_new_pair_is_taken_without_a_reload() {
        let mounted = Mounted::new(&pair("site"));
        let bouncer = Bouncer::start(Postgres::shared(), |setup| with_pair(offered(setup, "allow"), &mounted));
        let tunnel = Tunnel::start(bouncer.port, Through::default());
        let mut before = Wire::tcp(tunnel.port);
        before.login("app", "app", "", &[]).expect("log in");
        mounted.put(&pair("elsewhere"));
        wait_until("it is taken", PATIENCE, || {
            String::from_utf8_lossy(&psql(&bouncer, &verified(), "select 1").stderr)
                .contains("does not match host name")
        });
        bouncer.wait_log("certificate files have changed: TLS of new connections with clients uses them");
        assert_eq!(before.one("select 'still'"), "still");
        assert_eq!(bouncer.show("CERTIFICATES")[0]["subject"], "/CN=elsewhere.example.org");
    }

    #[test]
    fn half_a_pair_is_not_taken() {
        let mounted = Mounted::new(&pair("site"));
        let bouncer = Bouncer::start(Postgres::shared(), |setup| with_pair(offered(setup, "allow"), &mounted));
        let [(_, old_key), _] = pair("site");
        mounted.put(&[("tls.key", old_key), ("tls.crt", certificate("elsewhere"))]);
        bouncer.wait_log("is not the key of the certificate in");
        assert_eq!(printed(&psql(&bouncer, &verified(), "select 1")), "1");
        // Cut off.
        let cut = scratch_dir("cut").join("crt");
        let text = fs::read_to_string(certificate("elsewhere")).expect("read it");
        fs::write(&cut, &text[..text.len() / 2]).expect("write half of it");
        mounted.put(&[("tls.key", key("elsewhere")), ("tls.crt", cut.display().to_string())]);
        wait_until("it is tried", PATIENCE, || bouncer.logged(KEPT) == 2);
        assert_eq!(printed(&psql(&bouncer, &verified(), "select 1")), "1");
        // Looked at again and again, complained of once.
        mounted.put(&pair("elsewhere"));
        wait_until("it is taken", PATIENCE, || {
            String::from_utf8_lossy(&psql(&bouncer, &verified(), "select 1").stderr)
                .contains("does not match host name")
        });
        assert_eq!(bouncer.logged(KEPT), 2);
    }

    #[test]
    fn new_authorities_are_taken_on_both_sides() {
        let pg = Postgres::with_tls("site");
        let mounted = Mounted::new(&[("ca.crt", certificate("ca"))]);
        let bouncer = Bouncer::start(&pg, |setup| {
            towards(offered(setup, "allow"), "verify-ca")
                .set("client_tls_ca_file", mounted.path("ca.crt"))
                .set("server_tls_ca_file", mounted.path("ca.crt"))
        });
        assert_eq!(printed(&psql_with(&bouncer, "app")), "1");
        mounted.put(&[("ca.crt", certificate("stranger"))]);
        for whom in ["clients", "servers"] {
            bouncer.wait_log(&format!("TLS of new connections with {whom} uses them"));
        }
        complained(&psql_with(&bouncer, "app"));
        bouncer.wait_log("TLS handshake error: certificate verify failed: UnknownIssuer");
        // A server that is there is kept.
        assert_eq!(printed(&psql_with(&bouncer, "app-stranger")), "1");
        bouncer.admin().run("RECONNECT");
        let _client = bouncer.newcomer();
        bouncer.wait_log("TLS failed: ");
    }

    #[test]
    fn console_and_log_tell_when_certificates_expire() {
        let pg = Postgres::shared();
        let bouncer = Bouncer::start(pg, |setup| {
            towards(offered(setup, "allow"), "verify-ca")
                .set("server_tls_key_file", key("app-expired"))
                .set("server_tls_cert_file", certificate("app-expired"))
        });
        let file = certificate("app-expired");
        bouncer.wait_log(&format!("WARNING server_tls_cert_file ({file}): the certificate of /CN=app has expired at"));
        assert_eq!(bouncer.logged("has expired at"), 1);
        let rows = bouncer.show("CERTIFICATES");
        let settings: Vec<&str> = rows.iter().map(|row| &*row["setting"]).collect();
        let all = ["client_tls_cert_file", "client_tls_ca_file", "server_tls_cert_file", "server_tls_ca_file"];
        assert_eq!(settings, all);
        let days = |row: usize| rows[row]["seconds_left"].parse::<i64>().expect("a number").div_euclid(86_400);
        assert_eq!([days(0), days(2)], [29, -2], "{rows:?}");
        assert_eq!((&*rows[0]["subject"], &*rows[0]["issuer"]), ("/CN=localhost", "/CN=ca"));
        assert_eq!((&*rows[2]["file"], &*rows[2]["position"]), (&*file, "1"));
        let told = Command::new("openssl")
            .args(["x509", "-noout", "-serial", "-enddate", "-dateopt", "iso_8601", "-in", &rows[0]["file"]])
            .output()
            .expect("run openssl");
        let told = String::from_utf8_lossy(&told.stdout);
        assert!(told.contains(&rows[0]["not_after"][..10]), "{told} {rows:?}");
        let serial = told.lines().next().and_then(|line| line.strip_prefix("serial=")).expect("a serial number");
        assert_eq!(rows[0]["serial"].trim_start_matches('0'), serial.trim_start_matches('0'));
        let checked = Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .args(["config", "check"])
            .arg(bouncer.dir.join("pooler.ini"))
            .output()
            .expect("run the check");
        assert!(String::from_utf8_lossy(&checked.stdout).contains("the certificate of /CN=app has expired at"));
    }
}
