//! Running in the background (`-d`).
//!
//! ```text
//! foreground: reads the configuration, starts itself anew with a pipe for stdout, waits for the pipe
//!    └─ session: leaves the terminal for a session of its own, starts itself anew, ends
//!          └─ run: no session leader, so no terminal can come to it; serves
//! ```
//!
//! Processes start anew instead of forking, since a fork is only safe where nothing runs beside it, which the compiler cannot
//! check. The last one writes to the pipe when clients can connect; if it ends before, so does the pipe, and the foreground
//! process fails. Until then stderr is the terminal's, so that whoever types the command reads what is wrong.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::{env, fmt};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

/// Tells a process that it is not the first. Not named like our settings, which are read from the environment.
const STAGE: &str = "_PGWEIR_DAEMON_STAGE";
const SESSION: &str = "session";
const RUN: &str = "run";

/// What comes through the pipe once clients can connect.
const READY: &[u8] = b"ready\n";

#[derive(Debug)]
pub(crate) enum DaemonError {
    Start(io::Error),
    Setsid(io::Error),
    /// It has said why.
    Ended,
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DaemonError::Start(error) => write!(f, "could not start the background process: {error}"),
            DaemonError::Setsid(error) => write!(f, "setsid failed: {error}"),
            DaemonError::Ended => f.write_str("the background process ended before clients could connect"),
        }
    }
}

impl std::error::Error for DaemonError {}

/// Which of the processes we are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Foreground,
    Session,
    Run,
}

impl Stage {
    pub(crate) fn current() -> Stage {
        match env::var_os(STAGE) {
            Some(stage) if stage == SESSION => Stage::Session,
            Some(stage) if stage == RUN => Stage::Run,
            _ => Stage::Foreground,
        }
    }
}

/// Starts the background process and waits until clients can connect.
pub(crate) fn start() -> Result<(), DaemonError> {
    let mut command = this_program(SESSION);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(DaemonError::Start)?;
    let mut told = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut told).map_err(DaemonError::Start)?;
    }
    child.wait().map_err(DaemonError::Start)?;
    if told == READY { Ok(()) } else { Err(DaemonError::Ended) }
}

/// What the process in between does.
pub(crate) fn leave_terminal() -> Result<(), DaemonError> {
    setsid().map_err(|error| DaemonError::Setsid(error.into()))?;
    this_program(RUN).spawn().map(drop).map_err(DaemonError::Start)
}

/// Leads to the program that runs, even if a package manager has replaced the file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The program that runs, under its own name, whatever name it runs by: as pgbouncer it would know no commands.
pub(crate) fn command() -> Command {
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0("pgweir").env_remove(STAGE);
    command
}

/// The same program with the same arguments.
fn this_program(stage: &str) -> Command {
    let mut arguments = env::args_os();
    let mut command = Command::new(THIS_PROGRAM);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(STAGE, stage);
    command
}

/// The last of the processes, which [`Stage::Run`] is told by.
pub(crate) struct Background(());

impl Background {
    pub(crate) fn new() -> Background {
        Background(())
    }

    /// Lets the foreground process end with success and lets go of its terminal.
    pub(crate) fn ready(self) {
        // It may have been interrupted; that is no reason not to serve.
        let mut pipe = io::stdout();
        let _ = pipe.write_all(READY).and_then(|()| pipe.flush());
        // Without /dev/null the descriptors stay as they are, which harms nobody but the waiting process.
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            let _ = dup2_stdin(&null);
            let _ = dup2_stdout(&null);
            let _ = dup2_stderr(&null);
        }
    }
}
