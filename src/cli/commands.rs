//! The maintenance commands: their names, their flags and their help. A file per command beside this one.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::backup::Backup;
use super::autovacuum::Autovacuum;
use super::check::Check;
use super::index::Index;
use super::locks::Locks;
use super::migrate::Migrate;
use super::pool::Pool;
use super::report::Report;
use super::sessions::Sessions;
use super::vacuum::{Analyze, Vacuum};
use crate::maintenance::exit::Exit;

/// The tree of commands. What `--help` says comes from the comments here and at the options.
#[derive(Parser)]
#[command(name = "pgweir", disable_version_flag = true, subcommand_required = true, arg_required_else_help = true)]
enum Maintenance {
    #[command(subcommand)]
    Backup(Backup),
    Analyze(Analyze),
    #[command(subcommand)]
    Autovacuum(Autovacuum),
    Check(Check),
    #[command(subcommand)]
    Index(Index),
    Locks(Locks),
    #[command(subcommand)]
    Migrate(Migrate),
    #[command(subcommand)]
    Pool(Pool),
    #[command(subcommand)]
    Report(Report),
    #[command(subcommand)]
    Sessions(Sessions),
    Vacuum(Vacuum),
}

impl Maintenance {
    fn run(self) -> Exit {
        match self {
            Maintenance::Backup(backup) => backup.run(),
            Maintenance::Analyze(analyze) => analyze.run(),
            Maintenance::Autovacuum(autovacuum) => autovacuum.run(),
            Maintenance::Check(check) => check.run(),
            Maintenance::Index(index) => index.run(),
            Maintenance::Locks(locks) => locks.run(),
            Maintenance::Migrate(migrate) => migrate.run(),
            Maintenance::Pool(pool) => pool.run(),
            Maintenance::Report(report) => report.run(),
            Maintenance::Sessions(sessions) => sessions.run(),
            Maintenance::Vacuum(vacuum) => vacuum.run(),
        }
    }
}

/// Whether a first argument is one of these commands, and no configuration file.
pub(super) fn is_command(word: &str) -> bool {
    Maintenance::command().get_subcommands().any(|command| command.get_name() == word)
}

/// Runs `arguments`, of which the first is a command.
pub(super) fn run(arguments: Vec<OsString>) -> Exit {
    let program = [OsString::from("pgweir")];
    let parsed = with_exit_codes(Maintenance::command())
        .try_get_matches_from(program.into_iter().chain(arguments))
        .and_then(|matches| <Maintenance as clap::FromArgMatches>::from_arg_matches(&matches));
    match parsed {
        Ok(command) => command.run(),
        Err(error) => {
            // What cannot be printed cannot be complained of.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp => Exit::Fine,
                _ => Exit::Usage,
            }
        }
    }
}

/// Adds the exit codes to the end of every command's help.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    let is_leaf = !command.has_subcommands();
    let command = command.mut_subcommands(with_exit_codes).disable_help_subcommand(true);
    if !is_leaf {
        return command;
    }
    let mut text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    text.push_str("\n\nExit status:\n");
    for exit in Exit::ALL {
        text.push_str(&format!("  {}  {}\n", exit.code(), exit.meaning()));
    }
    command.after_help(text.trim_start().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::help;

    fn leaves(command: &clap::Command, found: &mut Vec<clap::Command>) {
        if command.has_subcommands() {
            command.get_subcommands().for_each(|command| leaves(command, found));
        } else {
            found.push(command.clone());
        }
    }

    #[test]
    fn help_alone_suffices() {
        let mut root = with_exit_codes(Maintenance::command());
        root.build();
        root.clone().debug_assert();
        let mut found = Vec::new();
        leaves(&root, &mut found);
        for mut command in found {
            let name = command.get_bin_name().unwrap_or_default().to_owned();
            let help = command.render_long_help().to_string();
            for part in ["Usage: pgweir ", "Example", "Exit status:\n  0  fine"] {
                assert!(help.contains(part), "{name}: {part:?} in {help}");
            }
            assert!(help.contains(&format!("  {name}")), "{name}: an example of its own in {help}");
            for argument in command.get_arguments() {
                let has_help = argument.get_help().is_some_and(|help| !help.to_string().is_empty());
                assert!(has_help, "{name}: {} has no help", argument.get_id());
            }
        }
    }

    #[test]
    fn the_programs_help_names_every_command() {
        let text = help::text(help::Topic::Program);
        for command in Maintenance::command().get_subcommands() {
            let line = format!("\n  {} ", command.get_name());
            assert!(text.contains(&line), "{} in {text}", command.get_name());
        }
    }
}
