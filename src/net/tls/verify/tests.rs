//! What OpenSSL refuses, and with it PgBouncer, must not pass here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Certificates, as `openssl` makes them, in a directory of their own.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Files {
    fn new(test: &str) -> Files {
        let dir = std::env::temp_dir().join(format!("pgweir-verify-{}-{test}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Files(dir)
    }

    fn openssl(&self, args: &str, more: &[&str]) {
        let made = Command::new("openssl").args(args.split(' ')).args(more).current_dir(&self.0).output();
        let made = made.expect("run openssl");
        assert!(made.status.success(), "openssl {args} {more:?}: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// One that signs itself.
    fn root(&self, name: &str, days: u32, extensions: &[&str]) {
        let extensions: Vec<&str> = extensions.iter().flat_map(|extension| ["-addext", extension]).collect();
        let made = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.crt \
             -subj /CN={name} -days {days}"
        );
        self.openssl(&made, &extensions);
    }

    /// One of `issuer`; without extensions it is of version 1.
    fn issued(&self, name: &str, issuer: &str, days: u32, extensions: &str) {
        let asked = format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        );
        self.openssl(&asked, &[]);
        std::fs::write(self.0.join("extensions"), extensions).unwrap();
        let signed = format!(
            "x509 -req -in {name}.csr -out {name}.crt -CA {issuer}.crt -CAkey {issuer}.key -CAcreateserial -days {days}"
        );
        let more: &[&str] = if extensions.is_empty() { &[] } else { &["-extfile", "extensions"] };
        self.openssl(&signed, more);
    }

    fn read(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(Path::new(&self.0).join(format!("{name}.crt"))).unwrap()
    }

    fn authorities(&self, names: &[&str]) -> Authorities {
        Authorities::new(names.iter().map(|name| self.read(name)).collect()).unwrap()
    }

    /// A client shows `chain`, its own certificate first, `later` than now.
    fn client(&self, authorities: &[&str], chain: &[&str], later: Duration) -> Result<(), Error> {
        let verifier = ClientVerifier {
            authorities: self.authorities(authorities),
            algorithms: default_provider().signature_verification_algorithms,
            is_mandatory: true,
        };
        let chain: Vec<_> = chain.iter().map(|name| self.read(name)).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + later);
        verifier.verify_client_cert(&chain[0], &chain[1..], now).map(drop)
    }

    /// The server that we know as `host` shows `chain`.
    fn server(&self, authorities: &[&str], chain: &[&str], host: &str) -> Result<(), Error> {
        let verifier = ServerVerifier {
            demand: Demand::Host(self.authorities(authorities)),
            algorithms: default_provider().signature_verification_algorithms,
        };
        let chain: Vec<_> = chain.iter().map(|name| self.read(name)).collect();
        let name = ServerName::try_from(host).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).map(drop)
    }
}

const NO_CA: &str = "basicConstraints=CA:FALSE";
const CA: &str = "basicConstraints=critical,CA:TRUE";

#[track_caller]
fn is_refused(checked: Result<(), Error>, why: &str) {
    let error = checked.expect_err("let in");
    assert!(format!("{error:?}").contains(why), "{error:?}");
}

#[test]
fn an_authority_that_has_expired_vouches_for_nobody() {
    let files = Files::new("expired");
    files.root("root", 10, &[]);
    files.issued("between", "root", 20, CA);
    files.issued("app", "root", 30, NO_CA);
    files.issued("old", "root", 30, "");
    files.issued("below", "between", 30, NO_CA);
    for chain in [&["app"][..], &["old"], &["below", "between"]] {
        files.client(&["root"], chain, Duration::ZERO).unwrap();
        is_refused(files.client(&["root"], chain, 15 * DAY), "Expired");
    }
    // Made anew with the key that it had.
    files.openssl("x509 -in root.crt -signkey root.key -days 40 -out renewed.crt", &[]);
    for chain in [&["app"][..], &["old"], &["below", "between"]] {
        files.client(&["root", "renewed"], chain, 15 * DAY).unwrap();
    }
    is_refused(files.client(&["root", "renewed"], &["below", "between"], 25 * DAY), "Expired");
}

#[test]
fn only_authorities_vouch_for_others() {
    let files = Files::new("authorities");
    files.root("root", 10, &[]);
    files.root("itself", 10, &["basicConstraints=critical,CA:FALSE"]);
    // A user's, as PostgreSQL's documentation makes them.
    files.issued("eve", "root", 10, "");
    files.issued("leaf", "root", 10, NO_CA);
    for issuer in ["eve", "leaf", "itself"] {
        for extensions in ["", NO_CA] {
            files.issued("forged", issuer, 10, extensions);
            is_refused(files.client(&["root"], &["forged", issuer], Duration::ZERO), "");
            // In the file it stands for itself alone.
            files.client(&["root", issuer], &[issuer], Duration::ZERO).unwrap();
            is_refused(files.client(&["root", issuer], &["forged", issuer], Duration::ZERO), "");
        }
    }
}

#[test]
fn a_root_says_how_long_its_chains_may_be() {
    let files = Files::new("length");
    files.root("root", 10, &["basicConstraints=critical,CA:TRUE,pathlen:0"]);
    files.issued("app", "root", 10, NO_CA);
    files.issued("between", "root", 10, CA);
    files.issued("below", "between", 10, NO_CA);
    files.client(&["root"], &["app"], Duration::ZERO).unwrap();
    is_refused(files.client(&["root"], &["below", "between"], Duration::ZERO), "PathLenConstraintViolated");
}

/// Constraints are on other names than the common one.
#[test]
fn a_common_name_is_no_way_around_constraints_on_names() {
    let files = Files::new("names");
    files.root("root", 10, &["nameConstraints=critical,permitted;DNS:a.example"]);
    files.root("free", 10, &[]);
    files.issued("between", "free", 10, &format!("{CA}\nnameConstraints=critical,permitted;DNS:a.example"));
    for (issuer, chain) in [("root", &[][..]), ("between", &["between"])] {
        let shows = |name: &str, extensions: &str| {
            files.issued(name, issuer, 10, extensions);
            files.server(&["root", "free"], &[&[name][..], chain].concat(), name)
        };
        is_refused(shows("db.b.example", NO_CA), "NotValidForName");
        is_refused(shows("db.b.example", ""), "");
        is_refused(shows("db.b.example", "subjectAltName=DNS:db.b.example"), "NameConstraintViolation");
        shows("db.a.example", "subjectAltName=DNS:db.a.example").unwrap();
    }
    files.issued("db.b.example", "free", 10, NO_CA);
    files.server(&["root", "free"], &["db.b.example"], "db.b.example").unwrap();
}

#[test]
fn a_certificate_for_servers_is_none_for_clients() {
    let files = Files::new("usage");
    let (of_server, of_client) = ("extendedKeyUsage=serverAuth", "extendedKeyUsage=clientAuth");
    files.root("root", 10, &[]);
    files.issued("server", "root", 10, of_server);
    files.issued("client", "root", 10, of_client);
    // These stand in the file themselves.
    files.root("own-server", 10, &["basicConstraints=critical,CA:FALSE", of_server]);
    files.root("own-client", 10, &["basicConstraints=critical,CA:FALSE", of_client]);
    for (server, client, file) in [("server", "client", "root"), ("own-server", "own-client", "")] {
        let (of_server, of_client) = if file.is_empty() { (server, client) } else { (file, file) };
        files.server(&[of_server], &[server], server).unwrap();
        files.client(&[of_client], &[client], Duration::ZERO).unwrap();
        is_refused(files.client(&[of_server], &[server], Duration::ZERO), "InvalidPurpose");
        is_refused(files.server(&[of_client], &[client], client), "InvalidPurpose");
    }
}
