//! The maintenance commands: their names, their flags and their help. A file per command beside this one.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, Parser};

use super::autovacuum::Autovacuum;
use super::backup::Backup;
use super::check::Check;
use super::index::Index;
use super::locks::Locks;
use super::migrate::Migrate;
use super::pool::Pool;
use super::report::Report;
use super::restore::Restore;
use super::schedule::Schedule;
use super::sessions::Sessions;
use super::vacuum::{Analyze, Vacuum};
use crate::maintenance::exit::Exit;
use crate::maintenance::options::{Dsn, Target};
use crate::maintenance::schedule::Parsed;

/// The tree of commands. What `--help` says comes from the comments here and at the options.
#[derive(Parser)]
#[command(name = "pgweir", disable_version_flag = true, subcommand_required = true, arg_required_else_help = true)]
enum Maintenance {
    Analyze(Analyze),
    #[command(subcommand)]
    Autovacuum(Autovacuum),
    #[command(subcommand)]
    Backup(Backup),
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
    Restore(Box<Restore>),
    #[command(subcommand)]
    Schedule(Schedule),
    #[command(subcommand)]
    Sessions(Sessions),
    Vacuum(Vacuum),
}

impl Maintenance {
    fn run(self) -> Exit {
        match self {
            Maintenance::Analyze(analyze) => analyze.run(),
            Maintenance::Autovacuum(autovacuum) => autovacuum.run(),
            Maintenance::Backup(backup) => backup.run(),
            Maintenance::Check(check) => check.run(),
            Maintenance::Index(index) => index.run(),
            Maintenance::Locks(locks) => locks.run(),
            Maintenance::Migrate(migrate) => migrate.run(),
            Maintenance::Pool(pool) => pool.run(),
            Maintenance::Report(report) => report.run(),
            Maintenance::Restore(restore) => restore.run(),
            Maintenance::Schedule(schedule) => schedule.run(),
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

/// What the words of a job in the configuration are: they must be a command as here, with the pooler's configuration given
/// where it takes one.
pub(super) fn parse_words(words: &[String]) -> Result<Parsed, String> {
    let root = Maintenance::command();
    let mut leaf = &root;
    let names = words.iter().map_while(|word| {
        leaf = leaf.find_subcommand(word)?;
        Some(word.as_str())
    });
    let names: Vec<&str> = names.collect();
    if names.first() == Some(&"schedule") {
        return Err("a job cannot run jobs".to_owned());
    }
    let knows = |id: &str| leaf.get_arguments().any(|argument| argument.get_id() == id);
    let is_given = words.iter().any(|word| word == "--config" || word.starts_with("--config="));
    let wants_config = knows("config") && !is_given;
    let added: &[&str] = if wants_config { &["--config", "FILE"] } else { &[] };
    let program = ["pgweir"].into_iter().chain(words.iter().map(String::as_str)).chain(added.iter().copied());
    let matches = Maintenance::command().try_get_matches_from(program).map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) {
            return "the command does nothing but print help".to_owned();
        }
        let message = error.to_string();
        let lines: Vec<&str> = message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        lines.join(" ").trim_start_matches("error: ").to_owned()
    })?;
    let mut innermost = &matches;
    while let Some((_, inner)) = innermost.subcommand() {
        innermost = inner;
    }
    let target = knows("dsn").then(|| Target {
        dsn: given::<Dsn>(innermost, "dsn"),
        config: given::<PathBuf>(innermost, "config").filter(|_| !wants_config),
        database: given::<String>(innermost, "database"),
        console: given::<Dsn>(innermost, "console"),
    });
    Ok(Parsed { target, wants_config })
}

fn given<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> Option<T> {
    matches.try_get_one::<T>(id).ok().flatten().cloned()
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

    fn parsed(line: &str) -> Result<Parsed, String> {
        parse_words(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_of_a_job_are_a_command() {
        let check = parsed("check cache --database app").unwrap();
        assert!(check.wants_config);
        let target = check.target.unwrap();
        assert_eq!((target.database.as_deref(), target.config), (Some("app"), None));
        let own = parsed("report sizes --config other.ini --database=app").unwrap();
        assert!(!own.wants_config && own.target.unwrap().config.is_some());
        let dsn = parsed("locks --dsn host=h").unwrap().target.unwrap().dsn;
        assert_eq!(dsn.map(|dsn| dsn.0).as_deref(), Some("host=h"));
        for (line, message) in [
            ("", "does nothing but print help"),
            ("check --help", "does nothing but print help"),
            ("serve x.ini", "unrecognized subcommand 'serve'"),
            ("report", "does nothing but print help"),
            ("check --threshold", "a value is required for '--threshold <NAME=WARNING,CRITICAL>'"),
            ("schedule run x", "a job cannot run jobs"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn the_calendar_that_is_shipped_can_be_run() {
        let calendar = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/maintenance.ini");
        let text = format!("%include {calendar}\n[databases]\napp = host=db user=admin\n[pgbouncer]\n");
        let file = std::env::temp_dir().join(format!("pgweir-calendar-{}.ini", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let loaded = pgweir_config::Source::new(Some(&file), []).load();
        std::fs::remove_file(&file).unwrap();
        let config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
        assert!(!config.maintenance.is_empty());
        assert_eq!(crate::cli::schedule::problems(&config), Vec::<String>::new());
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
