//! Certificates, and clients that speak TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};

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

    /// The same of version 18, which takes TLS without being asked before.
    pub(crate) fn with_tls_18(name: &str) -> Postgres {
        let pg = Postgres::dedicated_18();
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

/// A user's certificate of version 3 by `ca` that is good for this many seconds from now, and its key.
pub(crate) fn good_for(user: &str, secs: i64) -> (String, String) {
    let dir = scratch_dir("user");
    let conf = "[ca]\ndefault_ca = this\n[this]\nnew_certs_dir = .\ndatabase = index\nrand_serial = yes\n\
                default_md = sha256\npolicy = any\nx509_extensions = user\n\
                [any]\ncommonName = supplied\n[user]\nbasicConstraints = CA:FALSE\n";
    for (name, text) in [("conf", conf), ("index", "")] {
        std::fs::write(dir.join(name), text).expect("write what openssl asks for");
        open_to_all(&dir.join(name), 0o666);
    }
    openssl(&dir, &["req", "-subj", &format!("/CN={user}"), "-out", "csr"], "user");
    let now = jiff::Timestamp::now();
    let time = |secs: i64| (now + jiff::SignedDuration::from_secs(secs)).strftime("%Y%m%d%H%M%SZ").to_string();
    let (from, to, ca, ca_key) = (time(-3600), time(secs), certificate("ca"), key("ca"));
    let mut args = vec!["ca", "-batch", "-config", "conf", "-in", "csr", "-out", "user.crt", "-notext"];
    args.extend(["-cert", &ca, "-keyfile", &ca_key, "-startdate", &from, "-enddate", &to]);
    run(&dir, &args);
    let path = |name: &str| dir.join(name).display().to_string();
    (path("user.crt"), path("user.key"))
}

/// Speaks TLS for clients that do not: what connects to `port` comes out at the other end. Its
/// sessions are resumed where the other end is willing.
pub(crate) struct Tunnel {
    pub(crate) port: u16,
    resumed: Arc<AtomicUsize>,
}

#[derive(Clone, Default)]
pub(crate) struct Through {
    /// TLS without an SSLRequest before.
    pub(crate) is_direct: bool,
    pub(crate) alpn: Option<&'static str>,
    /// So many bytes at a time; 0: all at once.
    pub(crate) piece: usize,
    /// A client certificate and its key, in files.
    pub(crate) pair: Option<(String, String)>,
    /// No newer version.
    pub(crate) is_tls12: bool,
}

/// A client that trusts `ca`.
pub(crate) fn config(through: &Through) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate("ca")).expect("the CA")).expect("a CA");
    let versions = if through.is_tls12 { &[&rustls::version::TLS12][..] } else { rustls::ALL_VERSIONS };
    let builder = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
    let mut config = match &through.pair {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_file(key).expect("a key");
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
        let resumed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&resumed);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (config, through, count) = (Arc::clone(&config), through.clone(), Arc::clone(&count));
                // Whatever goes wrong, the client sees its connection closed.
                thread::spawn(move || tunnel(near, to, config, &through, &count));
            }
        });
        Tunnel { port, resumed }
    }

    /// How many handshakes were short ones.
    pub(crate) fn resumed(&self) -> usize {
        self.resumed.load(Ordering::SeqCst)
    }
}

fn tunnel(
    near: TcpStream,
    to: u16,
    config: Arc<ClientConfig>,
    through: &Through,
    resumed: &AtomicUsize,
) -> std::io::Result<()> {
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
    let tls = ClientConnection::new(config, name).expect("a connection");
    pump(near, far, tls.into(), through.piece, resumed, |_| ())
}

/// Somebody between a client and a server, both of which speak TLS, with a certificate of his own.
pub(crate) struct Middle {
    pub(crate) port: u16,
}

impl Middle {
    /// Where `strips`, no mechanism with channel binding is offered to the client.
    pub(crate) fn start(to: u16, name: &'static str, strips: bool) -> Middle {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let onward = Tunnel::start(to, Through::default());
        let chain = vec![CertificateDer::from_pem_file(certificate(name)).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(key(name)).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("a pair");
        let config = Arc::new(config);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (config, to) = (Arc::clone(&config), onward.port);
                thread::spawn(move || between(client, to, config, strips));
            }
        });
        Middle { port }
    }
}

fn between(mut client: TcpStream, to: u16, config: Arc<ServerConfig>, strips: bool) -> std::io::Result<()> {
    let mut request = [0; 8];
    client.read_exact(&mut request)?;
    client.write_all(b"S")?;
    let tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let change = |text: &mut [u8]| {
        const PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";
        if let Some(at) = text.windows(PLUS.len()).position(|window| strips && window == PLUS) {
            text[at..at + PLUS.len()].fill(b'X');
        }
    };
    pump(TcpStream::connect(("127.0.0.1", to))?, client, tls.into(), 0, &AtomicUsize::new(0), change)
}

/// Carries what comes on `near` to `far` by TLS, after a `change` of the same length, and back. A
/// short handshake is counted.
fn pump(
    mut near: TcpStream,
    mut far: TcpStream,
    tls: Connection,
    piece: usize,
    resumed: &AtomicUsize,
    change: impl Fn(&mut [u8]),
) -> std::io::Result<()> {
    let tls = Arc::new(Mutex::new(tls));
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
    if tls.lock().expect("tls").handshake_kind() == Some(HandshakeKind::Resumed) {
        resumed.fetch_add(1, Ordering::SeqCst);
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
        change(&mut plain[..n]);
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
fn take_in(tls: &Mutex<Connection>, far: &mut TcpStream, plain: &mut Vec<u8>) -> std::io::Result<bool> {
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

fn take_out(tls: &Mutex<Connection>) -> Vec<u8> {
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
