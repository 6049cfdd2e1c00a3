//! `pgweir serve`, also without the word: from the arguments to a process that serves.

use std::os::fd::RawFd;
use std::{env, fmt, io};

use pgweir_config::{Loaded, Settings, Source};

use super::Failed;
use super::args::ServeArgs;
use super::schedule;
use crate::log::{self, log_at};
use crate::net::listener::Inherited;
use crate::process::activation;
use crate::process::daemon::{self, Background, DaemonError, Stage};
use crate::process::user::{UserError, switch_user};
use crate::process::{Launch, Options};

/// Why it cannot serve; in PgBouncer's words where PgBouncer has some.
enum ServeError {
    /// The log has the details.
    Config,
    NoConfig,
    NoPidfile,
    User(UserError),
    /// A descriptor of a service manager, and why it is of no use.
    Activation(RawFd, io::Error),
    RebootUnderServiceManager,
    Daemon(DaemonError),
    App(crate::app::StartError),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Config => f.write_str("cannot load config file"),
            ServeError::NoConfig => f.write_str(
                "no configuration file specified, and none that can be used in the environment; try \"pgweir --help\" for more information",
            ),
            ServeError::NoPidfile => f.write_str("daemon needs pidfile configured"),
            ServeError::User(error) => error.fmt(f),
            ServeError::Activation(fd, error) => {
                write!(f, "failed to set up socket passed from service manager (fd {fd}): {error}")
            }
            ServeError::RebootUnderServiceManager => f.write_str("cannot reboot under service manager"),
            ServeError::Daemon(error) => error.fmt(f),
            ServeError::App(error) => error.fmt(f),
        }
    }
}

pub(super) fn run(args: ServeArgs) -> Result<(), Failed> {
    let served = if args.daemon && Stage::current() == Stage::Foreground { start_daemon(&args) } else { serve(args) };
    served.map_err(|error| fatal(&error))
}

/// Logs what ends the process.
pub(super) fn fatal(error: &dyn fmt::Display) -> Failed {
    log_at!(Fatal, "{error}");
    log::flush();
    Failed
}

/// Finds out what is wrong while there is a terminal to say it on, and leaves the rest to the background process.
fn start_daemon(args: &ServeArgs) -> Result<(), ServeError> {
    let (_, loaded) = load(args)?;
    let settings = &loaded.config.settings;
    if pidfile(settings).is_none() {
        return Err(ServeError::NoPidfile);
    }
    if settings.logfile.is_none() && !settings.syslog {
        log_at!(Warning, "neither logfile nor syslog is configured: in the background nothing will be logged");
    }
    daemon::start().map_err(ServeError::Daemon)
}

fn serve(args: ServeArgs) -> Result<(), ServeError> {
    let activated = activated()?;
    if args.reboot && !activated.is_empty() {
        return Err(ServeError::RebootUnderServiceManager);
    }
    let (source, loaded) = load(&args)?;
    let settings = &loaded.config.settings;
    let user = args.user.as_ref().or(settings.user.as_ref());
    switch_user(user.map(String::as_str)).map_err(ServeError::User)?;
    let background = args.daemon.then(Background::new);
    let quiet = args.quiet || args.daemon;
    let launch = Launch { pidfile: pidfile(settings), background, takes_over: args.reboot, activated };
    let check = schedule::problems;
    let options = Options { source, loaded, check, quiet, verbose: args.verbose, launch };
    crate::app::run(options).map_err(|error| {
        if args.daemon {
            // The log may not reach stderr, which is still the terminal's until clients can connect.
            eprintln!("FATAL {error}");
        }
        ServeError::App(error)
    })
}

/// What a service manager has opened for us.
fn activated() -> Result<Vec<Inherited>, ServeError> {
    let failed = |(fd, error)| ServeError::Activation(fd, error);
    let sockets = activation::take().map_err(failed)?.into_iter();
    let numbered = sockets.zip(activation::FDS_START..);
    numbered.map(|(socket, fd)| Inherited::new(socket, false).map_err(|error| failed((fd, error)))).collect()
}

fn load(args: &ServeArgs) -> Result<(Source, Loaded), ServeError> {
    let source = Source::new(args.file.as_deref(), env::vars_os());
    match source.load() {
        Ok(loaded) => {
            let problems = schedule::problems(&loaded.config);
            problems.iter().for_each(|problem| log_at!(Error, "{problem}"));
            if problems.is_empty() { Ok((source, loaded)) } else { Err(ServeError::Config) }
        }
        Err(problems) => {
            for problem in &problems.errors {
                log_at!(Error, "{problem}");
            }
            Err(if args.file.is_some() { ServeError::Config } else { ServeError::NoConfig })
        }
    }
}

fn pidfile(settings: &Settings) -> Option<std::path::PathBuf> {
    settings.pidfile.clone().filter(|path| !path.as_os_str().is_empty())
}
