//! The program as a user runs it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::process::scratch_dir;
use crate::support::*;

/// A command with its arguments and environment.
pub(crate) struct Program {
    arguments: Vec<String>,
    env: BTreeMap<String, String>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// `pgweir` with arguments split at spaces; [`Program::arg`] adds what has some in it.
pub(crate) fn pgweir(line: &str) -> Program {
    let arguments = line.split_whitespace().map(str::to_owned).collect();
    // Without a home nothing of the machine's owner counts.
    let env = BTreeMap::from([("HOME".to_owned(), "/dev/null".to_owned())]);
    Program { arguments, env }
}

impl Program {
    pub(crate) fn arg(mut self, argument: impl Into<String>) -> Program {
        self.arguments.push(argument.into());
        self
    }

    /// On a database of a server, as a user that may log in without a password.
    pub(crate) fn on(self, pg: &Postgres, user: &str, database: &str) -> Program {
        self.arg("--dsn").arg(dsn(pg, user, database))
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Program {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
        command.args(&self.arguments).env_clear().envs(&self.env).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(self) -> Ran {
        let Output { status, stdout, stderr } = self.command().output().expect("run pgweir");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: status.code().expect("an exit code"), stdout: text(stdout), stderr: text(stderr) }
    }

    pub(crate) fn spawn(self) -> Child {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start pgweir")
    }

    /// What it prints as JSON, which must be a list of objects.
    #[track_caller]
    pub(crate) fn rows(self) -> Vec<Value> {
        let ran = self.arg("--output").arg("json").run().ok();
        match serde_json::from_str(&ran.stdout) {
            Ok(Value::Array(rows)) => rows,
            other => panic!("no list: {other:?}\n{}", ran.stdout),
        }
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> Ran {
        self.ends_with(0)
    }

    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Ended so, and said this on stderr.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, message: &str) -> Ran {
        let ran = self.ends_with(code);
        assert!(ran.stderr.contains(message), "{message:?} in {}", ran.stderr);
        ran
    }
}

pub(crate) fn dsn(pg: &Postgres, user: &str, database: &str) -> String {
    format!("host=127.0.0.1 port={} user={user} dbname={database}", pg.port)
}

/// A member of pg_monitor, who is no superuser, and a new database of `app`.
pub(crate) fn monitored(pg: &Postgres) -> (&'static str, String) {
    pg.sql(
        "do $$ begin create role monitor login in role pg_monitor;
         exception when duplicate_object or unique_violation then null; end $$",
    );
    ("monitor", pg.create_database())
}

/// The row whose `column` has this value.
#[track_caller]
pub(crate) fn find<'a>(rows: &'a [Value], column: &str, value: &str) -> &'a Value {
    rows.iter().find(|row| row[column] == value).unwrap_or_else(|| panic!("no {column} {value} in {rows:#?}"))
}

pub(crate) fn scratch_file(name: &str) -> PathBuf {
    scratch_dir("maintenance").join(name)
}
