//! How programs such as pg_dump are told where to connect: by the environment and a passfile, never by arguments.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal;
use nix::unistd::{Pid, getuid};
use pgweir_config::{HostAddr, Named};
use tokio_postgres::config::ChannelBinding;

use super::{Address, Conninfo, KEYWORDS, files};
use crate::net::tls::RootCertificates;

const PREFIX: &str = "pgweir-passfile.";

/// A password file for the programs that we start, removed when dropped. One that a killed process left behind is removed by
/// the next to be made.
#[derive(Debug)]
pub(crate) struct Passfile(PathBuf);

impl Passfile {
    /// None: there is no password to tell.
    pub(crate) fn create(conninfo: &Conninfo) -> io::Result<Option<Passfile>> {
        let Some(password) = conninfo.password() else { return Ok(None) };
        let dir = std::env::temp_dir();
        remove_orphans(&dir);
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{PREFIX}{}.{number}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let passfile = Passfile(path);
        // Whatever address and database: those are told by the environment.
        let [user, password] = [&conninfo.user, password.expose()].map(files::escaped);
        writeln!(file, "*:*:*:{user}:{password}")?;
        Ok(Some(passfile))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Passfile {
    fn drop(&mut self) {
        // It may have been removed by somebody who tidies up.
        let _ = fs::remove_file(&self.0);
    }
}

fn remove_orphans(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let pid = rest.split('.').next().and_then(|pid| pid.parse().ok());
        let is_alive = pid.is_none_or(|pid| signal::kill(Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH));
        let is_ours = entry.metadata().is_ok_and(|about| about.uid() == getuid().as_raw());
        if !is_alive && is_ours {
            // Somebody else may be as quick.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Conninfo {
    /// The variables for a program that is to connect to `address`, the one of ours that answered, in place of all of libpq's.
    pub(crate) fn child_environment(
        &self,
        address: &Address,
        application_name: &str,
        passfile: Option<&Passfile>,
    ) -> Vec<(&'static str, OsString)> {
        let host = match &address.host {
            // libpq knows the abstract namespace by the same sign.
            HostAddr::Unix(dir) => dir,
            HostAddr::Tcp(host) => host,
        };
        let path = |path: &Path| Some(path.as_os_str().to_owned());
        let text = |text: &str| Some(OsString::from(text));
        let roots = match &self.sslrootcert {
            RootCertificates::None => None,
            RootCertificates::System => text("system"),
            RootCertificates::File(file) => path(file),
        };
        let timeout = self.connect_timeout.as_secs();
        let variables = [
            ("PGHOST", text(host)),
            ("PGHOSTADDR", address.hostaddr.map(|address| address.to_string().into())),
            ("PGPORT", text(&address.port.to_string())),
            ("PGDATABASE", text(&self.dbname)),
            ("PGUSER", text(&self.user)),
            ("PGAPPNAME", text(application_name)),
            // Nobody else's: without one of ours it is none. libpq warns of one that is no plain file, and not of one that cannot be.
            ("PGPASSFILE", passfile.map_or_else(|| text("/dev/null/none"), |passfile| path(passfile.path()))),
            ("PGSSLMODE", text(self.sslmode.name())),
            ("PGSSLNEGOTIATION", text(self.sslnegotiation.name())),
            ("PGSSLROOTCERT", roots),
            ("PGSSLCERT", self.sslcert.as_ref().and_then(|(certificate, _)| path(certificate))),
            ("PGSSLKEY", self.sslcert.as_ref().and_then(|(_, key)| path(key))),
            ("PGCHANNELBINDING", text(channel_binding(self.channel_binding))),
            ("PGOPTIONS", self.options.as_deref().and_then(text)),
            ("PGCONNECT_TIMEOUT", (timeout < u64::from(u32::MAX)).then(|| timeout.max(2).to_string().into())),
        ];
        variables.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The variables that must not reach such a program, its own being set afterwards.
    pub(crate) fn foreign_variables() -> impl Iterator<Item = &'static str> {
        KEYWORDS.iter().map(|(_, variable, _)| *variable).filter(|variable| !variable.is_empty())
    }
}

fn channel_binding(binding: ChannelBinding) -> &'static str {
    match binding {
        ChannelBinding::Disable => "disable",
        ChannelBinding::Require => "require",
        _ => "prefer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passfile_is_the_owners_alone_and_goes() {
        let conninfo = Conninfo::resolve(
            Some(r"host=h port=5433 user=u:x password='a:b\\c' dbname=d"),
            None,
            &|_| None,
            &mut |warning| panic!("{warning}"),
        );
        let conninfo = conninfo.unwrap();
        let address = &conninfo.addresses[0];
        let orphan = std::env::temp_dir().join(format!("{PREFIX}999999999.0"));
        fs::write(&orphan, "").unwrap();
        let passfile = Passfile::create(&conninfo).unwrap().unwrap();
        let path = passfile.path().to_owned();
        assert!(!orphan.exists());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "*:*:*:u\\:x:a\\:b\\\\c\n");
        let variables = conninfo.child_environment(address, "pgweir/backup", Some(&passfile));
        let value = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        assert_eq!(value("PGPASSFILE"), Some(path.clone().into()));
        assert_eq!(value("PGHOST"), Some("h".into()));
        assert!(!format!("{variables:?}").contains("a:b"));
        drop(passfile);
        assert!(!path.exists());
    }
}
