//! `pgweir config`: looks at a configuration without serving.

use std::env;
use std::path::{Path, PathBuf};

use pgweir_config::{Loaded, Problem, Problems, Source, reference_markdown, sample_ini};

use super::args::ConfigCommand;
use super::{Failed, print, schedule};
use crate::net::tls::TlsSetup;

pub(super) fn run(command: ConfigCommand) -> Result<(), Failed> {
    match command {
        ConfigCommand::Check(file) => check(file.as_deref()),
        ConfigCommand::Show(file) => show(file),
        ConfigCommand::Sample => print(&sample_ini()),
        ConfigCommand::Reference => print(&reference_markdown()),
    }
}

fn check(file: Option<&Path>) -> Result<(), Failed> {
    let (errors, warnings) = match Source::new(file, env::vars_os()).load() {
        Ok(loaded) => tried(file, loaded),
        Err(Problems { errors, warnings }) => (errors, warnings),
    };
    print(&report(&errors, &warnings))?;
    if errors.is_empty() { Ok(()) } else { Err(Failed) }
}

/// The problems of a configuration whose TLS settings are tried, with the files that they name, and whose jobs are read.
fn tried(file: Option<&Path>, Loaded { config, mut warnings, .. }: Loaded) -> (Vec<Problem>, Vec<Problem>) {
    let file = file.map_or_else(|| "environment".to_owned(), |file| file.display().to_string());
    let problem = |message| Problem { file: file.clone(), line: None, message };
    let made = TlsSetup::new(&config, None, |warning| warnings.push(problem(warning)));
    if let Ok(made) = &made {
        warnings.extend(made.expiry_warnings().into_iter().map(problem));
    }
    let errors = made.err().map(|e| e.to_string()).into_iter().chain(schedule::problems(&config));
    (errors.map(problem).collect(), warnings)
}

fn report(errors: &[Problem], warnings: &[Problem]) -> String {
    let mut text = String::new();
    for (problems, kind) in [(errors, "error"), (warnings, "warning")] {
        for problem in problems {
            text.push_str(&line(problem, kind));
        }
    }
    text.push_str(&match (errors.len(), warnings.len()) {
        (0, 0) => "no problems\n".to_owned(),
        (0, warnings) => format!("no errors, {}\n", count(warnings, "warning")),
        (errors, 0) => format!("{}\n", count(errors, "error")),
        (errors, warnings) => format!("{}, {}\n", count(errors, "error"), count(warnings, "warning")),
    });
    text
}

fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// In the form that compilers use and editors jump by.
fn line(problem: &Problem, kind: &str) -> String {
    let Problem { file, line, message } = problem;
    match line {
        Some(line) => format!("{file}:{line}: {kind}: {message}\n"),
        None => format!("{file}: {kind}: {message}\n"),
    }
}

fn show(file: Option<PathBuf>) -> Result<(), Failed> {
    let loaded = Source::new(file.as_deref(), env::vars_os()).load();
    match loaded {
        Ok(Loaded { config, warnings, .. }) => {
            eprint_all(&warnings, "warning");
            print(&config.effective())
        }
        Err(Problems { errors, warnings }) => {
            eprint_all(&warnings, "warning");
            eprint_all(&errors, "error");
            Err(Failed)
        }
    }
}

fn eprint_all(problems: &[Problem], kind: &str) {
    for problem in problems {
        eprint!("{}", line(problem, kind));
    }
}
