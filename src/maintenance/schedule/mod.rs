//! `pgweir schedule`: the jobs of `[maintenance]`.
//!
//! `run` runs one, at its time for the serving process or by hand; `claim` makes sure that nobody else does; `child` is the
//! command under way; `list` tells of all of them.

mod child;
mod claim;
mod list;
mod run;

use std::path::PathBuf;

use clap::Args;

use super::conninfo;
use super::exit::Failure;
use super::options::Target;
use pgweir_config::Config;

pub(crate) use list::{ListOptions, list};
pub(crate) use run::{RunOptions, run};

/// Whose jobs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Configured {
    /// Configuration of the pooler, ini or TOML, with the jobs in its section [maintenance]
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Configured {
    fn load(&self) -> Result<Config, Failure> {
        let target = Target { config: Some(self.config.clone()), ..Target::default() };
        target.pooler()?.ok_or_else(|| Failure::usage("the pooler's configuration is needed"))
    }
}

/// What a job's command is, by the definition of the commands.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The database that it is about; None: it takes none.
    pub(crate) target: Option<Target>,
    /// It knows `--config`, and was not given one.
    pub(crate) wants_config: bool,
}

/// Reads the words of a command.
pub(crate) type Parse = fn(&[String]) -> Result<Parsed, String>;

/// What is wrong with the jobs of a configuration that only the definition of the commands tells; empty: nothing.
pub(crate) fn problems(config: &Config, parse: Parse) -> Vec<String> {
    let of_job = |job: &pgweir_config::MaintenanceJob| {
        let words = job.command.as_deref().unwrap_or_default();
        let problem = match parse(words) {
            Err(message) => Some(message),
            Ok(parsed) => wrong(config, job, &parsed),
        };
        problem.map(|problem| format!("the job \"{}\" of [maintenance]: {problem}", job.name))
    };
    config.maintenance.values().filter_map(|job| of_job(job)).collect()
}

fn wrong(config: &Config, job: &pgweir_config::MaintenanceJob, parsed: &Parsed) -> Option<String> {
    let target = parsed.target.clone().unwrap_or_default();
    let strings = target.dsn.iter().chain(&target.console);
    if strings.into_iter().any(|dsn| conninfo::has_password(&dsn.0)) {
        return Some(
            "a password in a command is seen by others: keep it in [databases] or in a password file".to_owned(),
        );
    }
    let named = job.lock_database.as_deref().or(target.database.as_deref());
    if let Some(name) = named
        && config.database(name).is_none()
    {
        return Some(format!("there is no database \"{name}\" in [databases]"));
    }
    let is_agreed = job.every_process || named.is_some() || target.dsn.is_some();
    (!is_agreed).then(|| {
        "nothing says which database's server knows who runs it: set lock_database, or every_process = 1 if each process is to"
            .to_owned()
    })
}
