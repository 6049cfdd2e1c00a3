//! PostgreSQL's own client programs: which of those on this machine fits a server, and how it is started.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::conninfo::Conninfo;
use super::conninfo::child::Passfile;
use super::exit::Failure;
use super::job::Job;
use super::server::Server;

/// Where packages put the programs of each version.
const VERSION_DIRS: [&str; 2] = ["/usr/lib/postgresql", "/usr"];

/// A program that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) version: ProgramVersion,
}

/// What `--version` says, by which versions can be told apart: 18 before its first release is (18, 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProgramVersion {
    pub(crate) major: i32,
    pub(crate) minor: i32,
}

impl fmt::Display for ProgramVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl ProgramVersion {
    /// `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `pg_dump (PostgreSQL) 19beta1`
    fn parse(text: &str) -> Option<ProgramVersion> {
        let number = text.split_once("(PostgreSQL) ")?.1;
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let major = digits(number);
        let minor = number.get(major.len()..)?.strip_prefix('.').map(digits).unwrap_or_default();
        Some(ProgramVersion { major: major.parse().ok()?, minor: minor.parse().unwrap_or(0) })
    }
}

/// The program `name` that suits `major` best: of that version, or of the next one that there is. `dir` is where to look, and
/// nowhere else; None: in PATH, and where packages put them.
pub(crate) async fn find(name: &str, major: i32, dir: Option<&Path>) -> Result<Program, Failure> {
    let places: Vec<PathBuf> = match dir {
        Some(dir) => vec![dir.to_owned()],
        None => path_dirs().chain(version_dirs()).collect(),
    };
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for place in &places {
        let path = place.join(name);
        // The same program by another way; Debian's wrapper would choose by a version of its own.
        let Ok(real) = fs::canonicalize(&path) else { continue };
        let is_wrapper = real.file_name().is_some_and(|name| name == "pg_wrapper");
        if !is_wrapper && seen.insert(real) {
            found.extend(version(&path).await.map(|version| Program { path, version }));
        }
    }
    choose(found, major).map_err(|newest| absent(name, major, dir, newest.as_ref()))
}

/// The best, or the newest of those that are all too old.
fn choose(mut found: Vec<Program>, major: i32) -> Result<Program, Option<Program>> {
    // Stable: of equal versions the first place counts.
    found.sort_by_key(|program| (program.version.major, std::cmp::Reverse(program.version.minor)));
    match found.iter().position(|program| program.version.major >= major) {
        Some(index) => Ok(found.swap_remove(index)),
        None => Err(found.pop()),
    }
}

fn absent(name: &str, major: i32, dir: Option<&Path>, newest: Option<&Program>) -> Failure {
    let what = match newest {
        Some(Program { path, version }) => {
            let dir = path.parent().unwrap_or(path).display();
            format!("the server is {major}, the newest {name} found is {version} in {dir}")
        }
        None => {
            let place = dir.map_or("PATH and /usr/lib/postgresql".to_owned(), |dir| dir.display().to_string());
            format!("the server is {major}, and no {name} was found in {place}")
        }
    };
    Failure::failed(what)
        .hint(format!("install postgresql-client-{major}, or name the directory of its programs by --pg-bin"))
}

fn path_dirs() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).filter(|dir| dir.is_absolute()).collect::<Vec<_>>().into_iter()
}

/// Debian's `/usr/lib/postgresql/15/bin`, Red Hat's `/usr/pgsql-15/bin`.
fn version_dirs() -> impl Iterator<Item = PathBuf> {
    let entries = VERSION_DIRS.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let is_of_version = |name: &str| name.strip_prefix("pgsql-").unwrap_or(name).chars().all(|c| c.is_ascii_digit());
    entries
        .filter(move |entry| entry.file_name().to_str().is_some_and(is_of_version))
        .map(|entry| entry.path().join("bin"))
}

async fn version(path: &Path) -> Option<ProgramVersion> {
    let mut command = Command::new(path);
    let out = command.arg("--version").stdin(Stdio::null()).kill_on_drop(true).output().await.ok()?;
    ProgramVersion::parse(&String::from_utf8_lossy(&out.stdout))
}

/// A program that connects as `server` is connected. It is in a process group of its own, so that Ctrl-C reaches us alone, and
/// ends with us.
pub(crate) fn command(program: &Path, job: &Job, server: &Server, passfile: Option<&Passfile>) -> Command {
    let mut command = Command::new(program);
    Conninfo::foreign_variables().for_each(|name| _ = command.env_remove(name));
    command.envs(server.conninfo.child_environment(&server.address, &job.application_name(), passfile));
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let parse = |text| ProgramVersion::parse(text).map(|version| version.to_string());
        assert_eq!(parse("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").as_deref(), Some("15.18"));
        assert_eq!(parse("pg_dump (PostgreSQL) 19beta1").as_deref(), Some("19.0"));
        assert_eq!(parse("pg_dump of another kind"), None);
    }

    #[test]
    fn the_nearest_version_that_is_not_older() {
        let program = |place: &str, major, minor| Program {
            path: Path::new(place).join("pg_dump"),
            version: ProgramVersion { major, minor },
        };
        let all = || {
            vec![
                program("/a", 18, 1),
                program("/b", 15, 3),
                program("/c", 16, 2),
                program("/d", 16, 4),
                program("/e", 16, 4),
            ]
        };
        assert_eq!(choose(all(), 16), Ok(program("/d", 16, 4)));
        assert_eq!(choose(all(), 17), Ok(program("/a", 18, 1)));
        assert_eq!(choose(all(), 19), Err(Some(program("/a", 18, 1))));
        let failure = absent("pg_dump", 19, None, Some(&program("/a", 18, 1)));
        assert_eq!(failure.message, "the server is 19, the newest pg_dump found is 18.1 in /a");
        assert!(failure.hint.unwrap().contains("postgresql-client-19"));
    }
}
