//! TLS towards the directories of `auth_type=ldap`.
//!
//! There are no settings for it in PgBouncer, which leaves it to OpenLDAP's library: what that library is told in ldap.conf and
//! in the environment counts here, too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::ring as provider;
use rustls::pki_types::ServerName;

use super::authorities;
use super::conn::{Tls, TlsError};
use super::setup::SetupError;
use super::verify::{Authorities, Demand, ServerVerifier};

/// Debian's and Red Hat's; then come the file named by the environment, and the environment.
const CONF_FILES: [&str; 2] = ["/etc/ldap/ldap.conf", "/etc/openldap/ldap.conf"];

#[derive(Debug)]
pub(crate) struct DirectoryTls {
    config: Arc<ClientConfig>,
}

impl DirectoryTls {
    /// Reads the files, too. What is worth a warning goes to `warn`.
    pub(super) fn new(warn: &mut impl FnMut(String)) -> Result<DirectoryTls, SetupError> {
        DirectoryTls::with(&Options::read(|name| std::env::var(name).ok()), warn).map_err(|why| SetupError::new(&why))
    }

    fn with(options: &Options, warn: &mut impl FnMut(String)) -> Result<DirectoryTls, String> {
        let demand = match options.is_verified()? {
            true => Demand::Host(options.authorities()?),
            false => {
                warn("TLS_REQCERT of ldap.conf lets any directory pass for the right one".to_owned());
                Demand::Any
            }
        };
        let provider = Arc::new(provider::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let verifier = Arc::new(ServerVerifier { demand, algorithms });
        let builder = builder.map_err(|e| e.to_string())?.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(DirectoryTls { config: Arc::new(config) })
    }

    /// A connection to `host`, a name or an address.
    pub(crate) fn begin(&self, host: &str) -> Result<Tls, TlsError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| TlsError::Protocol(rustls::Error::General(format!("{host}: {e}"))))?;
        Ok(Tls::client(UnbufferedClientConnection::new(Arc::clone(&self.config), name)?, None))
    }
}

/// The options of ldap.conf, `TLS_CACERT` and others, by their names in capitals.
struct Options(BTreeMap<String, String>);

impl Options {
    fn read(env: impl Fn(&str) -> Option<String>) -> Options {
        let mut options = BTreeMap::new();
        if env("LDAPNOINIT").is_none() {
            for file in CONF_FILES.map(PathBuf::from).into_iter().chain(env("LDAPCONF").map(PathBuf::from)) {
                // Nobody has to have one.
                let text = std::fs::read(file).unwrap_or_default();
                options.extend(lines(&String::from_utf8_lossy(&text)));
            }
            for name in ["TLS_CACERT", "TLS_CACERTDIR", "TLS_REQCERT"] {
                options.extend(env(&format!("LDAP{name}")).map(|value| (name.to_owned(), value)));
            }
        }
        Options(options)
    }

    fn path(&self, name: &str) -> Option<&Path> {
        self.0.get(name).map(Path::new)
    }

    /// Whether a certificate has to be the directory's.
    fn is_verified(&self) -> Result<bool, String> {
        match self.0.get("TLS_REQCERT").map(|value| value.to_ascii_lowercase()).as_deref() {
            None | Some("demand" | "hard" | "try") => Ok(true),
            Some("never" | "allow") => Ok(false),
            Some(other) => Err(format!("unknown TLS_REQCERT \"{other}\" in ldap.conf")),
        }
    }

    /// Those of the file and the directory that are named, else those that the system trusts.
    fn authorities(&self) -> Result<Authorities, String> {
        let mut files: Vec<PathBuf> = self.path("TLS_CACERT").map(Path::to_owned).into_iter().collect();
        if let Some(directory) = self.path("TLS_CACERTDIR") {
            let entries = std::fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
            files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()));
        }
        if files.is_empty() && self.path("TLS_CACERTDIR").is_none() {
            files.extend(authorities::system_file());
        }
        authorities::of_files(&files).map_err(|why| format!("{why} for LDAP; TLS_CACERT of ldap.conf names their file"))
    }
}

/// A name and a value on each line.
fn lines(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(|c: char| c.is_ascii_whitespace())?;
        (!name.starts_with('#')).then(|| (name.to_ascii_uppercase(), value.trim().to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        Options(lines(text).collect())
    }

    #[test]
    fn the_environment_comes_before_its_file() {
        let file = std::env::temp_dir().join(format!("pgweir-ldap-conf.{}", std::process::id()));
        std::fs::write(&file, "# TLS_REQCERT never\ntls_cacert  /a b \nTLS_REQCERT\tallow\n").unwrap();
        let conf = file.display().to_string();
        let env = |name: &str| match name {
            "LDAPCONF" => Some(conf.clone()),
            "LDAPTLS_REQCERT" => Some("Hard".to_owned()),
            _ => None,
        };
        let read = Options::read(env);
        let without = Options::read(|name| (name == "LDAPNOINIT").then(String::new).or(env(name)));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read.path("TLS_CACERT"), Some(Path::new("/a b")));
        assert_eq!(read.is_verified(), Ok(true));
        assert!(without.0.is_empty());
    }

    #[test]
    fn a_directory_is_verified_unless_the_file_says_otherwise() {
        assert_eq!(options("").is_verified(), Ok(true));
        for (value, is_verified) in [("demand", true), ("try", true), ("Never", false), ("allow", false)] {
            assert_eq!(options(&format!("TLS_REQCERT {value}")).is_verified(), Ok(is_verified));
        }
        assert!(options("TLS_REQCERT sometimes").is_verified().is_err());
        let mut warnings = Vec::new();
        DirectoryTls::with(&options("TLS_REQCERT never"), &mut |warning| warnings.push(warning)).unwrap();
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn authorities_that_cannot_be_read_are_told() {
        let told = |text: &str| DirectoryTls::with(&options(text), &mut |_| ()).unwrap_err();
        assert!(told("TLS_CACERT /nowhere/a").starts_with("/nowhere/a: "));
        assert!(told("TLS_CACERTDIR /nowhere").starts_with("/nowhere: "));
        assert!(told("TLS_CACERT /dev/null").starts_with("no certificates of authorities in [\"/dev/null\"] for LDAP"));
    }
}
