//! What `--help` prints.

/// What help is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Program,
    Serve,
    Config,
    ConfigCheck,
    ConfigShow,
    ConfigSample,
    ConfigReference,
}

pub(super) fn text(topic: Topic) -> &'static str {
    match topic {
        Topic::Program => PROGRAM,
        Topic::Serve => SERVE,
        Topic::Config => CONFIG,
        Topic::ConfigCheck => CONFIG_CHECK,
        Topic::ConfigShow => CONFIG_SHOW,
        Topic::ConfigSample => CONFIG_SAMPLE,
        Topic::ConfigReference => CONFIG_REFERENCE,
    }
}

macro_rules! options {
    () => {
        "\
Options:
  -d, --daemon         run in background (as a daemon)
  -q, --quiet          run quietly: do not log to stderr
  -R, --reboot         do an online reboot: take over from the running process
  -u, --user=USERNAME  assume identity of USERNAME
  -v, --verbose        increase verbosity; may be given several times
  -V, --version        show version, then exit
  -h, --help           show this help, then exit
"
    };
}

macro_rules! config_file {
    () => {
        "\
CONFIG_FILE is a pgbouncer.ini, or a TOML file if its name ends in .toml.
Variables PGWEIR_<SETTING> in the environment go before what it says.
Without it, everything is read from the environment: those variables, and the
ones that PgBouncer's container images take, such as DATABASE_URL.
"
    };
}

const PROGRAM: &str = concat!(
    "\
pgweir is a connection pooler for PostgreSQL that takes PgBouncer's place.

Usage:
  pgweir [OPTION]... [CONFIG_FILE]
  pgweir COMMAND [ARGUMENT]...

Commands:
  serve                serve clients, as without a command
  config check         report everything that is wrong with a configuration
  config show          print the configuration that is in effect
  config sample        print a sample configuration file
  config reference     print a page about every setting

Maintenance, straight on PostgreSQL:
  analyze              the planner's statistics of tables
  autovacuum           show, suggest, set, undo its settings of tables
  backup               backups by pg_dump: run, list, verify, prune, hold
  check                whether something needs attention, with exit codes
  index                list, rebuild, create, drop indexes under traffic
  locks                who waits for whose lock
  migrate run          a file of SQL under a lock timeout, with retries
  pool advise          sizes for the pooler's pools, with the reasons
  report               sizes, connections, cache, tables, statements, standbys
  restore              a backup as a new database, which may replace the old one
  schedule             jobs by the calendar: list, run by hand
  sessions             list, cancel, terminate sessions
  vacuum               dead rows of tables, worst first, with what keeps them

\"pgweir COMMAND --help\" tells more. Under the name pgbouncer there are no
commands, only a configuration file.

",
    options!(),
    "\n",
    config_file!(),
    "
Examples:
  pgweir /etc/pgbouncer/pgbouncer.ini
  pgweir -d -u postgres /etc/pgbouncer/pgbouncer.ini
  DATABASE_URL=postgres://app:secret@db:5432/app pgweir

Exit status:
  0  shut down as asked; with -d: clients can connect
  1  could not start, or wrong arguments; the reason is on stderr or in the log
"
);

const SERVE: &str = concat!(
    "\
Serves clients until it is told to shut down.

Usage:
  pgweir serve [OPTION]... [CONFIG_FILE]

",
    options!(),
    "\n",
    config_file!(),
    "
Example:
  pgweir serve -v /etc/pgbouncer/pgbouncer.ini

Exit status:
  0  shut down as asked; with -d: clients can connect
  1  could not start, or wrong arguments; the reason is on stderr or in the log
"
);

const CONFIG: &str = "\
Checks and prints configurations.

Usage:
  pgweir config check [CONFIG_FILE]
  pgweir config show [CONFIG_FILE]
  pgweir config sample
  pgweir config reference

Example:
  pgweir config check /etc/pgbouncer/pgbouncer.ini

Exit status:
  0  done; the configuration can be used
  1  the configuration has errors, or wrong arguments
";

const CONFIG_CHECK: &str = concat!(
    "\
Reports all errors and warnings of a configuration with their file and line.

Usage:
  pgweir config check [CONFIG_FILE]

",
    config_file!(),
    "
Example:
  pgweir config check /etc/pgbouncer/pgbouncer.ini

Exit status:
  0  no errors; there may be warnings
  1  errors, or wrong arguments
"
);

const CONFIG_SHOW: &str = concat!(
    "\
Prints the configuration that is in effect as an ini file: defaults filled in,
environment applied, secrets masked. Warnings go to stderr.

Usage:
  pgweir config show [CONFIG_FILE]

",
    config_file!(),
    "
Example:
  PGWEIR_POOL_MODE=transaction pgweir config show pgbouncer.ini

Exit status:
  0  printed
  1  the configuration has errors, or wrong arguments
"
);

const CONFIG_SAMPLE: &str = "\
Prints a sample pgbouncer.ini: every setting in a comment, at its default.

Usage:
  pgweir config sample

Example:
  pgweir config sample > pgbouncer.ini

Exit status:
  0  printed
  1  wrong arguments
";

const CONFIG_REFERENCE: &str = "\
Prints a page about every setting, as Markdown.

Usage:
  pgweir config reference

Example:
  pgweir config reference > settings.md

Exit status:
  0  printed
  1  wrong arguments
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_has_an_example_and_the_exit_codes() {
        for topic in [
            Topic::Program,
            Topic::Serve,
            Topic::Config,
            Topic::ConfigCheck,
            Topic::ConfigShow,
            Topic::ConfigSample,
            Topic::ConfigReference,
        ] {
            let text = text(topic);
            for part in ["\nUsage:\n  pgweir", "\nExample", "\nExit status:\n  0  "] {
                assert!(text.contains(part), "{part:?} in {text}");
            }
            assert!(text.lines().all(|line| line.len() <= 80), "{text}");
            assert!(text.ends_with('\n'));
        }
    }
}
