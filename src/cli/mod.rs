//! The command line: PgBouncer's, and subcommands of our own.

mod args;
mod autovacuum;
mod backup;
mod check;
mod commands;
mod config;
mod help;
mod index;
mod locks;
mod migrate;
mod pool;
mod report;
mod restore;
mod schedule;
mod serve;
mod sessions;
mod vacuum;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use args::Command;

use crate::process::VERSION;
use crate::process::daemon::{self, Stage};

/// Runs what the arguments say. The exit codes are those of the help texts: for the pooler and its configuration 0 for success
/// and 1 for everything else, for maintenance those of [`Exit`](crate::maintenance::exit::Exit).
pub fn main() -> ExitCode {
    if Stage::current() == Stage::Session {
        return exit_code(daemon::leave_terminal().map_err(|error| serve::fatal(&error)));
    }
    let mut arguments = env::args_os();
    let program = arguments.next().unwrap_or_else(|| OsString::from("pgweir"));
    match args::parse(&program, arguments) {
        Ok(command) => run(command),
        Err(error) => {
            let program = program.display();
            eprintln!("{program}: {error}\nTry \"{program} --help\" for more information.");
            ExitCode::FAILURE
        }
    }
}

/// The command failed, and whoever ran it has been told why.
struct Failed;

fn exit_code(result: Result<(), Failed>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed) => ExitCode::FAILURE,
    }
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Serve(args) => exit_code(serve::run(args)),
        Command::Config(command) => exit_code(config::run(command)),
        Command::Maintenance(arguments) => ExitCode::from(commands::run(arguments).code()),
        Command::Version => exit_code(print(&format!("{VERSION}\n"))),
        Command::Help(topic) => exit_code(print(help::text(topic))),
    }
}

/// Prints a result. A reader that has seen enough and went is no failure.
fn print(text: &str) -> Result<(), Failed> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("could not write to stdout: {error}");
            Err(Failed)
        }
        _ => Ok(()),
    }
}
