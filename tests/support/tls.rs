//! Certificates, and clients that speak TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::messages as msg;
use super::postgres::Postgres;
use super::process::{PATIENCE, open_to_all, scratch_dir, unprivileged, wait_until};

/// Where the certificates are: `NAME.crt` and `NAME.key`.
///
/// `ca` has signed all but those of `stranger`, another authority. `site` is localhost's, of
/// version 3; `old` the same of version 1, with no name but the common one; `expired` was
/// localhost's; `elsewhere` is another host's; `app` and `other` are users'.
static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = scratch_dir("certificates");
    for ca in ["ca", "stranger"] {
        openssl(
            &dir,
            &["req", "-x509", "-days", "30", "-subj", &format!("/CN={ca}"), "-out", &format!("{ca}.crt")],
            ca,
        );
    }
    let san = dir.join("san");
    std::fs::write(&san, "subjectAltName = DNS:localhost, IP:127.0.0.1\n").expect("write the extensions");
    open_to_all(&san, 0o644);
    for (name, subject, ca, days) in [
        ("site", "localhost", "ca", "30"),
        ("old", "localhost", "ca", "30"),
        ("expired", "localhost", "ca", "-1"),
        ("elsewhere", "elsewhere.example.org", "ca", "30"),
        ("app", "app", "ca", "30"),
        ("other", "other", "ca", "30"),
        ("app-expired", "app", "ca", "-1"),
        ("app-stranger", "app", "stranger", "30"),
    ] {
        openssl(&dir, &["req", "-subj", &format!("/CN={subject}"), "-out", &format!("{name}.csr")], name);
        let (csr, crt) = (format!("{name}.csr"), format!("{name}.crt"));
        let (ca_crt, ca_key) = (format!("{ca}.crt"), format!("{ca}.key"));
        let mut args = vec!["x509", "-req", "-in", &csr, "-CA", &ca_crt, "-CAkey", &ca_key, "-CAcreateserial"];
        args.extend(["-days", days, "-out", &crt]);
        if name == "site" {
            args.extend(["-extfile", "san"]);
        }
        run(&dir, &args);
    }
    dir
});

/// `args` with a new key.
fn openssl(dir: &Path, args: &[&str], key: &str) {
    let key = format!("{key}.key");
    let mut all = args.to_vec();
    all.extend(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", &key]);
    run(dir, &all);
}

fn run(dir: &Path, args: &[&str]) {
    let out = unprivileged("openssl", "KILL").args(args).current_dir(dir).output().expect("run openssl");
    assert!(out.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

pub(crate) fn certificate(name: &str) -> String {
    DIR.join(format!("{name}.crt")).display().to_string()
}

/// Only the account that the servers run under may read it, as PostgreSQL and libpq demand.
pub(crate) fn key(name: &str) -> String {
    DIR.join(format!("{name}.key")).display().to_string()
}

/// A copy that libpq, which runs as ourselves, finds fit.
pub(crate) fn own_key(name: &str) -> String {
    let copy = scratch_dir("key").join("key");
    std::fs::copy(key(name), &copy).expect("copy the key");
    open_to_all(&copy, 0o600);
    copy.display().to_string()
}

impl Postgres {
    /// A server of its own with TLS and this certificate.
    pub(crate) fn with_tls(name: &str) -> Postgres {
        let pg = Postgres::dedicated();
        pg.set_tls(name);
        pg
    }

    pub(crate) fn set_tls(&self, name: &str) {
        self.sql(&format!("alter system set ssl_cert_file = '{}'", certificate(name)));
        self.sql(&format!("alter system set ssl_key_file = '{}'", key(name)));
        self.sql(&format!("alter system set ssl_ca_file = '{}'", certificate("ca")));
        self.sql("alter system set ssl = on");
        self.sql("select pg_reload_conf()");
        wait_until("TLS is on", PATIENCE, || {
            self.sql("show ssl")[0][0].as_deref() == Some("on")
                && self.sql("show ssl_cert_file")[0][0].as_deref() == Some(&certificate(name))
        });
    }
}

/// Speaks TLS for clients that do not: what connects to `port` comes out at the other end.
pub(crate) struct Tunnel {
    pub(crate) port: u16,
}

#[derive(Clone, Default)]
pub(crate) struct Through {
    /// TLS without an SSLRequest before.
    pub(crate) is_direct: bool,
    pub(crate) alpn: Option<&'static str>,
    /// So many bytes at a time; 0: all at once.
    pub(crate) piece: usize,
    /// A client certificate.
    pub(crate) name: Option<&'static str>,
}

fn config(through: &Through) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate("ca")).expect("the CA")).expect("a CA");
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match through.name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(certificate(name)).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_file(key(name)).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = through.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

impl Tunnel {
    pub(crate) fn start(to: u16, through: Through) -> Tunnel {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let config = Arc::new(config(&through));
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (config, through) = (Arc::clone(&config), through.clone());
                // Whatever goes wrong, the client sees its connection closed.
                thread::spawn(move || tunnel(near, to, config, &through));
            }
        });
        Tunnel { port }
    }
}

fn tunnel(mut near: TcpStream, to: u16, config: Arc<ClientConfig>, through: &Through) -> std::io::Result<()> {
    let mut far = TcpStream::connect(("127.0.0.1", to))?;
    far.set_nodelay(true)?;
    near.set_nodelay(true)?;
    if !through.is_direct {
        far.write_all(&msg::packet(msg::SSL_REQUEST, &[]))?;
        let mut answer = [0];
        far.read_exact(&mut answer)?;
        assert_eq!(answer, *b"S");
    }
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = Arc::new(Mutex::new(ClientConnection::new(config, name).expect("a connection")));
    let piece = through.piece;
    // Only the handshake is read and written in turn.
    while tls.lock().expect("tls").is_handshaking() {
        let out = take_out(&tls);
        send(&mut far, &out, piece)?;
        let mut plain = Vec::new();
        if tls.lock().expect("tls").is_handshaking() && !take_in(&tls, &mut far, &mut plain)? {
            return near.shutdown(Shutdown::Both);
        }
        near.write_all(&plain)?;
    }
    let out = take_out(&tls);
    send(&mut far, &out, piece)?;
    let (inward, mut far_in, mut near_in) = (Arc::clone(&tls), far.try_clone()?, near.try_clone()?);
    thread::spawn(move || {
        loop {
            let mut plain = Vec::new();
            let is_open = take_in(&inward, &mut far_in, &mut plain).unwrap_or(false);
            if near_in.write_all(&plain).is_err() || !is_open {
                return near_in.shutdown(Shutdown::Both);
            }
        }
    });
    let mut plain = [0; 16 * 1024];
    loop {
        let n = near.read(&mut plain)?;
        {
            let mut tls = tls.lock().expect("tls");
            match n {
                0 => tls.send_close_notify(),
                n => tls.writer().write_all(&plain[..n])?,
            }
        }
        let out = take_out(&tls);
        send(&mut far, &out, piece)?;
        if n == 0 {
            return far.shutdown(Shutdown::Write);
        }
    }
}

/// Reads once, and adds what comes of it to `plain`; false at the end.
fn take_in(tls: &Mutex<ClientConnection>, far: &mut TcpStream, plain: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut chunk = [0; 16 * 1024];
    let n = far.read(&mut chunk)?;
    let mut rest = &chunk[..n];
    let mut tls = tls.lock().expect("tls");
    while !rest.is_empty() {
        tls.read_tls(&mut rest)?;
        tls.process_new_packets().map_err(std::io::Error::other)?;
        // At once: it takes no more than a record of it. Of what there is not yet it says so.
        let _ = tls.reader().read_to_end(plain);
    }
    Ok(n > 0)
}

fn take_out(tls: &Mutex<ClientConnection>) -> Vec<u8> {
    let (mut tls, mut out) = (tls.lock().expect("tls"), Vec::new());
    while tls.wants_write() {
        tls.write_tls(&mut out).expect("write to memory");
    }
    out
}

fn send(far: &mut TcpStream, bytes: &[u8], piece: usize) -> std::io::Result<()> {
    let piece = if piece == 0 { bytes.len().max(1) } else { piece };
    bytes.chunks(piece).try_for_each(|chunk| far.write_all(chunk))
}
