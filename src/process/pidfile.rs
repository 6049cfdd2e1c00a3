//! The pidfile: tells others who we are, and keeps a second process from starting on the same configuration.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{fmt, process};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::log::log_at;

#[derive(Debug)]
pub(crate) enum PidfileError {
    /// The process that it names is alive, or it names none.
    InUse(PathBuf),
    /// It could not be opened, read, written or removed; the verb says which.
    Failed { verb: &'static str, path: PathBuf, error: io::Error },
}

impl fmt::Display for PidfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PidfileError::InUse(path) => {
                write!(f, "pidfile '{}' exists, another instance running?", path.display())
            }
            PidfileError::Failed { verb, path, error } => {
                write!(f, "could not {verb} pidfile '{}': {error}", path.display())
            }
        }
    }
}

impl std::error::Error for PidfileError {}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PidfileError {
    move |error| PidfileError::Failed { verb, path: path.to_owned(), error }
}

/// A pidfile of ours, removed when dropped, unless another process has taken it over.
pub(crate) struct Pidfile(PathBuf);

impl Pidfile {
    /// Fails if another process holds the pidfile; removes one left behind by a process that is gone.
    pub(crate) fn check(path: &Path) -> Result<(), PidfileError> {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("open", path)(error)),
        };
        // No number at all: another process may just be about to write it.
        let pid = text.trim().parse().ok().filter(|pid: &i32| *pid > 0);
        if pid.is_none_or(is_another_process) {
            return Err(PidfileError::InUse(path.to_owned()));
        }
        log_at!(Log, "stale pidfile, removing");
        fs::remove_file(path).map_err(failed("remove stale", path))
    }

    /// Writes our process id to a file that nobody else has.
    pub(crate) fn create(path: PathBuf) -> Result<Pidfile, PidfileError> {
        Pidfile::check(&path)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = file.map_err(failed("open", &path))?;
        // From here on the file is ours, and removed if it cannot be written.
        let pidfile = Pidfile(path);
        let written = file.write_all(own_line().as_bytes());
        written.map_err(failed("write", &pidfile.0))?;
        Ok(pidfile)
    }

    /// Takes it over from the process that it names: whoever reads it finds one of the two.
    pub(crate) fn take(path: PathBuf) -> Result<Pidfile, PidfileError> {
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let written = fs::write(&new, own_line()).and_then(|()| fs::rename(&new, &path));
        written.map_err(failed("write", &path))?;
        Ok(Pidfile(path))
    }

    /// The process that had taken it over is gone.
    pub(crate) fn take_back(&self) -> Result<(), PidfileError> {
        // What it returns would remove the file.
        Pidfile::take(self.0.clone()).map(std::mem::forget)
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if fs::read(&self.0).is_ok_and(|text| text == own_line().as_bytes()) {
            // Nothing to be done if it is gone already.
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn own_line() -> String {
    format!("{}\n", process::id())
}

/// Whether `pid` is alive and not we. A container's main process has the same number at every start, so its own pidfile,
/// left behind on a volume, names itself.
fn is_another_process(pid: i32) -> bool {
    let is_ours = u32::try_from(pid) == Ok(process::id());
    !is_ours && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path of its own for each test.
    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pgweir-pidfile-{name}-{}", process::id()))
    }

    /// The number of a process that has ended.
    fn dead_pid() -> u32 {
        let mut child = process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn holds_our_pid_until_dropped() {
        let path = path("own");
        let pidfile = Pidfile::create(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn another_live_process_keeps_it() {
        let path = path("live");
        let parent = std::os::unix::process::parent_id();
        for text in [format!("{parent}\n"), String::new(), "nonsense".into(), "0".into(), "-5".into()] {
            fs::write(&path, &text).unwrap();
            let error = Pidfile::create(path.clone()).err().expect(&text);
            let wanted = format!("pidfile '{}' exists, another instance running?", path.display());
            assert_eq!(error.to_string(), wanted);
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "it is not ours to change");
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn one_left_behind_is_replaced() {
        let path = path("stale");
        for pid in [dead_pid(), process::id()] {
            fs::write(&path, format!("{pid}\n")).unwrap();
            let pidfile = Pidfile::create(path.clone()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
            drop(pidfile);
        }
    }

    #[test]
    fn one_that_was_taken_over_is_not_removed() {
        let path = path("taken");
        let pidfile = Pidfile::create(path.clone()).unwrap();
        let parent = format!("{}\n", std::os::unix::process::parent_id());
        fs::write(&path, &parent).unwrap();
        drop(pidfile);
        assert_eq!(fs::read_to_string(&path).unwrap(), parent);
        let pidfile = Pidfile::take(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_line());
        fs::write(&path, &parent).unwrap();
        pidfile.take_back().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_line());
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn a_check_leaves_nothing() {
        let path = path("check");
        Pidfile::check(&path).unwrap();
        assert!(!path.exists());
        let nowhere = PathBuf::from("/nonexistent/pgweir.pid");
        let error = Pidfile::create(nowhere).err().unwrap().to_string();
        assert!(error.starts_with("could not open pidfile '/nonexistent/pgweir.pid': "), "{error}");
    }
}
