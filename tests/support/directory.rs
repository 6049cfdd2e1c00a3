//! A real directory, OpenLDAP's slapd, in a scratch directory.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};

use super::postgres::PASSWORD;
use super::process::{PATIENCE, free_port, open_to_all, scratch_dir, unprivileged, wait_until};
use super::tls;

/// Who searches where not everybody may, and the password of it.
pub(crate) const READER: &str = "cn=reader,dc=example,dc=net";
pub(crate) const READER_PASSWORD: &str = "read \"only\"";

/// Users whose password is [`PASSWORD`], below `ou=people`. The last two have names with a meaning of their own elsewhere.
const PEOPLE: [&str; 6] = ["app", "other", "salted", "barred", "a,b", "c)(uid=*"];

pub(crate) struct Directory {
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    child: Child,
}

fn entry(dn: &str, lines: &str) -> String {
    format!("dn: {dn}\n{lines}\n\n")
}

fn people() -> String {
    let person = |uid: &str, dn: &str| {
        let lines = format!(
            "objectClass: inetOrgPerson\nuid: {uid}\ncn: {uid}\nsn: x\nmail: {}@example.net\nuserPassword: {PASSWORD}",
            uid.len()
        );
        entry(dn, &lines)
    };
    let escaped = |uid: &str| uid.replace(',', "\\,").replace('=', "\\=");
    let mut text = entry("dc=example,dc=net", "objectClass: dcObject\nobjectClass: organization\ndc: example\no: x");
    for unit in ["people", "strangers"] {
        text += &entry(&format!("ou={unit},dc=example,dc=net"), "objectClass: organizationalUnit");
    }
    for uid in PEOPLE {
        text += &person(uid, &format!("uid={},ou=people,dc=example,dc=net", escaped(uid)));
    }
    text += &person("mallory", "uid=mallory,ou=strangers,ou=people,dc=example,dc=net")
        .replace("dn: ", "dn: ou=strangers,ou=people,dc=example,dc=net\nobjectClass: organizationalUnit\n\ndn: ");
    // The same name twice.
    text += &person("app", "uid=app,ou=strangers,dc=example,dc=net");
    let reader =
        format!("objectClass: applicationProcess\nobjectClass: simpleSecurityObject\nuserPassword: {READER_PASSWORD}");
    text + &entry(READER, &reader)
}

/// `rights`: who may read what below `ou=people`.
fn configuration(dir: &Path, certificate: &str, rights: &str) -> String {
    let schema = ["/etc/ldap/schema", "/etc/openldap/schema"].map(Path::new).into_iter().find(|dir| dir.exists());
    let schema = schema.expect("the schemas of slapd: install slapd").display();
    let (dir, ca) = (dir.display(), tls::certificate("ca"));
    let (crt, key) = (tls::certificate(certificate), tls::key(certificate));
    format!(
        "include {schema}/core.schema
include {schema}/cosine.schema
include {schema}/inetorgperson.schema
pidfile {dir}/pid
TLSCACertificateFile {ca}
TLSCertificateFile {crt}
TLSCertificateKeyFile {key}
access to attrs=userPassword by anonymous auth
access to * {rights}
database ldif
directory {dir}
suffix dc=example,dc=net
"
    )
}

impl Directory {
    /// One that everybody may search, whose certificate is localhost's.
    pub(crate) fn start() -> Directory {
        Directory::with("site", "by * read")
    }

    pub(crate) fn with(certificate: &str, rights: &str) -> Directory {
        let dir = scratch_dir("directory");
        let conf = dir.join("slapd.conf");
        fs::write(&conf, configuration(&dir, certificate, rights)).expect("write the configuration");
        open_to_all(&conf, 0o644);
        let program = |name: &str| unprivileged(Path::new("/usr/sbin").join(name), "KILL");
        let mut add = program("slapadd").arg("-f").arg(&conf).stdin(Stdio::piped()).spawn().expect("run slapadd");
        add.stdin.take().expect("a pipe").write_all(people().as_bytes()).expect("write the entries");
        assert!(add.wait().expect("wait for slapadd").success(), "slapadd: is slapd installed?");
        let (port, tls_port) = (free_port(), free_port());
        let child = program("slapd")
            .args(["-d", "0", "-h", &format!("ldap://127.0.0.1:{port} ldaps://127.0.0.1:{tls_port}"), "-f"])
            .arg(&conf)
            .stderr(Stdio::null())
            .spawn()
            .expect("start slapd");
        let is_listening = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("slapd listens", PATIENCE, || is_listening(port) && is_listening(tls_port));
        Directory { port, tls_port, child }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
