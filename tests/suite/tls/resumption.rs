//! Sessions that are resumed, and those that must not be.

use super::*;
use crate::support::tls::good_for;

fn through(is_tls12: bool, name: &str) -> Through {
    Through { pair: Some(good_for(name, 3600)), is_tls12, ..Through::default() }
}

/// Logs in and says who is there; the ticket has come by then.
fn whoami(tunnel: &Tunnel, user: &str) -> Result<String, PgError> {
    let mut client = Wire::tcp(tunnel.port);
    client.login(user, "app", "", &[])?;
    Ok(client.one("select current_user"))
}

/// With client certificates.
fn start_with_certificates(workers: u32) -> Bouncer {
    Bouncer::start(Postgres::shared(), |setup| {
        offered(setup, "verify-full").set("auth_type", "cert").set("workers", workers).set("verbose", 1)
    })
}

mod beyond_pgbouncer {
    use super::*;

    #[test]
    fn a_resumed_session_is_the_same_client_s() {
        let bouncer = start_with_certificates(2);
        for is_tls12 in [false, true] {
            let tunnel = Tunnel::start(bouncer.port, through(is_tls12, "app"));
            let before = bouncer.logged("TLS session resumed");
            for _ in 0..5 {
                assert_eq!(whoami(&tunnel, "app").expect("log in"), "app");
            }
            assert_eq!(tunnel.resumed(), 4, "{is_tls12}");
            wait_until("the log says so", PATIENCE, || bouncer.logged("TLS session resumed") == before + 4);
            // Who it is comes from the first handshake.
            let error = whoami(&tunnel, "other").expect_err("it is not other's");
            assert_error(&error, "certificate authentication failed", "28000");
            assert_eq!(tunnel.resumed(), 5, "{is_tls12}");
        }
        let suite = "tls=TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384 ";
        wait_until("lines without a key exchange", PATIENCE, || bouncer.logged(suite) == 5);
    }

    #[test]
    fn openssl_resumes_as_well() {
        let bouncer = start("require");
        let out = Command::new("openssl")
            .args(["s_client", "-starttls", "postgres", "-tls1_2", "-reconnect", "-connect"])
            .arg(format!("127.0.0.1:{}", bouncer.port))
            .stdin(std::process::Stdio::null())
            .output()
            .expect("run openssl");
        let told = String::from_utf8_lossy(&out.stdout);
        assert_eq!((told.matches("New, TLSv1.2").count(), told.matches("Reused, TLSv1.2").count()), (1, 5), "{told}");
    }

    #[test]
    fn a_certificate_that_has_expired_is_not_resumed() {
        let bouncer = start_with_certificates(1);
        let pair = good_for("app", 3);
        let tunnels = [false, true].map(|is_tls12| {
            Tunnel::start(bouncer.port, Through { pair: Some(pair.clone()), is_tls12, ..Through::default() })
        });
        for tunnel in &tunnels {
            assert_eq!(whoami(tunnel, "app").expect("log in"), "app");
        }
        for (count, tunnel) in tunnels.iter().enumerate() {
            let is_refused = || {
                let mut client = Wire::tcp(tunnel.port);
                client.send(&msg::startup(196_608, &[("user", "app"), ("database", "app")]));
                client.read().is_err()
            };
            wait_until("it has expired", PATIENCE, is_refused);
            assert!(tunnel.resumed() > 0);
            wait_until("the log says so", PATIENCE, || {
                bouncer.logged("TLS handshake error: certificate verify failed: Expired") > count
            });
        }
    }

    #[test]
    fn a_reload_keeps_sessions_unless_it_changes_tls() {
        let mut bouncer = Bouncer::start(Postgres::shared(), |setup| ruled(setup, "allow", "hostssl app app all cert"));
        let tunnel = Tunnel::start(bouncer.port, through(false, "app"));
        for _ in 0..2 {
            whoami(&tunnel, "app").expect("log in");
            bouncer.reload(|setup| setup.set("default_pool_size", 21));
        }
        assert_eq!(tunnel.resumed(), 1);
        // Another authority has signed nothing of this client's.
        bouncer.reload(|setup| setup.set("client_tls_ca_file", certificate("stranger")));
        let mut client = Wire::tcp(tunnel.port);
        client.send(&msg::startup(196_608, &[("user", "app"), ("database", "app")]));
        assert!(client.read().is_err());
        bouncer.wait_log("TLS handshake error: certificate verify failed: UnknownIssuer");
        assert_eq!(tunnel.resumed(), 1);
    }

    /// PostgreSQL itself resumes nothing: another pooler stands in.
    #[test]
    fn sessions_with_servers_are_resumed() {
        let behind = start("require");
        let entry = format!("host=localhost port={} dbname=app", behind.port);
        let bouncer = Bouncer::start(Postgres::shared(), |setup| {
            towards(setup.database("app", entry), "verify-full").set("verbose", 1).set("pool_mode", "session")
        });
        let mut clients: Vec<Wire> = Vec::new();
        for _ in 0..3 {
            clients.push(bouncer.client());
            assert_eq!(clients.last_mut().expect("a client").one("select 1"), "1");
        }
        wait_until("two are resumed", PATIENCE, || bouncer.logged("TLS session resumed") == 2);
    }
}
