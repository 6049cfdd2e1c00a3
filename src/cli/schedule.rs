//! `pgweir schedule`

use clap::Subcommand;
use pgweir_config::Config;

use super::commands;
use crate::maintenance::exit::Exit;
use crate::maintenance::job;
use crate::maintenance::options::Changing;
use crate::maintenance::schedule::{self, ListOptions, RunOptions};

/// Jobs that the serving process runs by the calendar: the section [maintenance] of its configuration
#[derive(Subcommand)]
pub(super) enum Schedule {
    /// All jobs: when they are due next, how they ended last, what was missed
    #[command(after_help = "\
With --output json: name, state (running, never, ok, warning, failed, deadline,
interrupted, killed), next_at, due_at, started_at, finished_at, duration_s,
late_s, exit_code, message, missed, missed_at, missed_why, schedule, command.
What a process on another machine has run is known there.

Examples:
  pgweir schedule list --config /etc/pgbouncer/pgbouncer.ini
  pgweir schedule list --config pgweir.toml --output prometheus --file /var/lib/node_exporter/schedule.prom")]
    List(ListOptions),
    /// Run one job now, whatever its schedule says, and end with its exit code. Refused while it runs anywhere
    #[command(after_help = "\
Examples:
  pgweir schedule run nightly_backup --config /etc/pgbouncer/pgbouncer.ini")]
    Run(RunOptions),
}

impl Schedule {
    pub(super) fn run(self) -> Exit {
        match self {
            Schedule::List(o) => job::run("schedule list", o.show(), Changing::default(), async |job| {
                schedule::list(job, &o, commands::parse_words).await
            }),
            Schedule::Run(o) => job::run("schedule run", o.show(), Changing::default(), async |job| {
                schedule::run(job, &o, commands::parse_words).await
            }),
        }
    }
}

/// What is wrong with the jobs of a configuration, beyond what reading it has told.
pub(super) fn problems(config: &Config) -> Vec<String> {
    schedule::problems(config, commands::parse_words)
}
