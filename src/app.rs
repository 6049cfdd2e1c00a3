//! Wiring: makes everything from the configuration, and carries out reloads, signals and the end.

mod certificates;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgweir_config::{Config, Problem, Settings, Source};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use crate::admin::{Console, StatsHistory};
use crate::auth::AuthContext;
use crate::client::admission::Admission;
use crate::client::throttle::Throttle;
use crate::client::{Clients, ConsoleClient};
use crate::control::{Command, Commands, Configured, ReloadFailed, Shutdown};
use crate::crew::{self, Crew};
use crate::log::{self, SyslogTarget, Target, Topic, log_at};
use crate::net::listener::{ListenError, Listeners};
use crate::net::tls::{SetupError, TlsSetup};
use crate::pools::Pools;
use crate::process::pidfile::PidfileError;
use crate::process::{Launch, Options, VERSION, limits, notify};
use crate::registry::Registry;
use crate::schedule::runner::Scheduler;
use crate::serve::Accepting;
use crate::server::connect::Connector;
use crate::server::parameters::Tracked;
use crate::succession::Succession;
use crate::take::{self, TakeError, Taking};
use crate::takeover::record::Ask;

/// Threads beside the data path: console, logins to servers, timers.
const CONTROL_THREADS: usize = 2;

/// What these threads give way to: the data path, above all where there are few cores.
const LOGIN_NICENESS: i32 = 10;

/// How often a waiting shutdown looks whether it may end.
const SHUTDOWN_LOOK: Duration = Duration::from_millis(100);

/// How long jobs that are interrupted by the end of the process are waited for, and how long until they know.
const JOBS_GRACE: Duration = Duration::from_secs(10);
const JOBS_TOLD: Duration = Duration::from_secs(1);

/// Why the process cannot start.
#[derive(Debug)]
pub(crate) enum StartError {
    Logfile(io::Error),
    Runtime(io::Error),
    Tls(SetupError),
    Listen(ListenError),
    Pidfile(PidfileError),
    Take(TakeError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Logfile(e) => write!(f, "cannot open logfile: {e}"),
            StartError::Runtime(e) => write!(f, "cannot start threads: {e}"),
            StartError::Tls(e) => e.fmt(f),
            StartError::Listen(e) => e.fmt(f),
            StartError::Pidfile(e) => e.fmt(f),
            StartError::Take(e) => e.fmt(f),
        }
    }
}

/// The process.
struct App {
    source: Source,
    /// What else is wrong with a configuration that was read.
    check: fn(&Config) -> Vec<String>,
    quiet: bool,
    /// `-v` on the command line, where the setting says nothing.
    verbose: u32,
    pools: Arc<Pools>,
    crew: Arc<Crew>,
    clients: Arc<Clients>,
    scheduler: Scheduler,
}

/// Serves until the process is told to end.
pub(crate) fn run(options: Options) -> Result<(), StartError> {
    let Options { source, loaded, check, quiet, verbose, mut launch } = options;
    let config = Arc::new(loaded.config);
    log::start(log_target(&config, quiet)).map_err(StartError::Logfile)?;
    set_log_level(&config.settings, verbose);
    if !launch.takes_over {
        launch.check_pidfile().map_err(StartError::Pidfile)?;
    }
    log_problems(&loaded.warnings);
    limits::check_limits(&config);
    let tls = tls_setup(&config, None).map_err(StartError::Tls)?;
    let control = Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    let logins = login_threads().map_err(StartError::Runtime)?;
    // Before anybody can see that we listen: a SIGHUP then must not end the process.
    let signals = control.block_on(async { Signals::new() }).map_err(StartError::Runtime)?;
    let mut taking = control.block_on(predecessor(&launch, &config.settings))?;
    let listeners = match &mut taking {
        Some(taking) => taking.listeners(&config.settings),
        None if !launch.activated.is_empty() => {
            Ok(Listeners::activated(&config.settings, std::mem::take(&mut launch.activated)))
        }
        None => Listeners::bind(&config.settings),
    };
    let listeners = listeners.map_err(StartError::Listen)?;
    let (console_clients, consoles) = unbounded_channel();
    let pools = make_pools(&config, tls, &control);
    let auth = AuthContext::new(logins.handle().clone());
    let clients = Arc::new(Clients {
        pools: Arc::clone(&pools),
        auth,
        admission: Admission::new(control.handle().clone()),
        untrusted: Throttle::new(control.handle().clone()),
        console: console_clients,
    });
    let crew = Crew::start(Arc::clone(&clients)).map_err(StartError::Runtime)?;
    let (commands, received) = unbounded_channel();
    let scheduler = control.block_on(async { Scheduler::start(Arc::clone(&config)) });
    let app = App { source, check, quiet, verbose, pools, crew, clients, scheduler };
    let served = control.block_on(app.serve((listeners, taking), signals, launch, consoles, (commands, received)));
    log::flush();
    // Sessions end with their sockets, as the process ends now.
    control.shutdown_background();
    logins.shutdown_background();
    served
}

/// The threads for what logins have to compute: handshakes, keys from passwords. A storm of logins
/// waits here and not where those are served who are in.
fn login_threads() -> io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads((cores / 2).max(1))
        .thread_name("logins")
        .on_thread_start(|| {
            if let Err(e) = rustix::process::nice(LOGIN_NICENESS) {
                log_at!(Debug, "the threads of logins keep their priority: {e}");
            }
        })
        .build()
}

/// The process that is to be taken over from, if that is wanted and there is one.
async fn predecessor(launch: &Launch, settings: &Settings) -> Result<Option<Taking>, StartError> {
    if !launch.takes_over {
        return Ok(None);
    }
    let taking = take::begin(settings).await.map_err(StartError::Take)?;
    if taking.is_none() {
        log_at!(Log, "old process not found, try to continue normally");
        launch.check_pidfile().map_err(StartError::Pidfile)?;
    }
    Ok(taking)
}

fn tls_setup(config: &Config, before: Option<&TlsSetup>) -> Result<Arc<TlsSetup>, SetupError> {
    TlsSetup::new(config, before, |warning| log_at!(Warning, "{warning}")).map(Arc::new)
}

fn make_pools(config: &Arc<Config>, tls: Arc<TlsSetup>, control: &Runtime) -> Arc<Pools> {
    let registry = Arc::new(Registry::default());
    let tracked = Arc::new(Tracked::new(config.settings.track_extra_parameters.iter().map(String::as_str)));
    let connector = Connector::new(Arc::clone(&registry), Arc::clone(&tracked), &config.settings);
    let (_, workers) = crew::size(&config.settings);
    Pools::new(Arc::clone(config), tls, registry, tracked, connector, control.handle().clone(), workers)
}

fn log_target(config: &Config, quiet: bool) -> Target {
    let logfile = config.settings.logfile.clone().filter(|path| !path.as_os_str().is_empty());
    let Settings { syslog, syslog_ident, syslog_facility, log_format, .. } = &config.settings;
    let syslog = syslog.then(|| SyslogTarget { ident: syslog_ident.clone(), facility: *syslog_facility });
    Target { stderr: !quiet, logfile, syslog, format: *log_format }
}

fn set_log_level(settings: &Settings, verbose: u32) {
    log::set_verbose(settings.verbose.max(verbose));
    log::set_wanted(Topic::Connections, settings.log_connections);
    log::set_wanted(Topic::Disconnections, settings.log_disconnections);
    log::set_wanted(Topic::PoolerErrors, settings.log_pooler_errors);
}

fn log_problems(problems: &[Problem]) {
    for problem in problems {
        log_at!(Warning, "{problem}");
    }
}

impl App {
    async fn serve(
        self,
        (listeners, taking): (Listeners, Option<Taking>),
        signals: Signals,
        launch: Launch,
        consoles: UnboundedReceiver<ConsoleClient>,
        (commands, received): (Commands, UnboundedReceiver<Command>),
    ) -> Result<(), StartError> {
        let mut accepting = Accepting::new(listeners, &self.clients, &self.crew);
        let taker = match taking {
            Some(taking) => Some(taking.commit(&self.clients, &self.crew).await.map_err(StartError::Take)?),
            None => None,
        };
        let stats = StatsHistory::new(Arc::clone(&self.pools));
        tokio::spawn(certificates::watch(Arc::clone(&self.pools), commands.clone()));
        let console = Arc::new(Console::new(
            Arc::clone(&self.pools),
            commands,
            Arc::clone(&stats),
            Arc::clone(&self.crew.roster),
        ));
        tokio::spawn(stats.run());
        tokio::spawn(serve_consoles(console, consoles));
        tokio::spawn(Arc::clone(&self.pools).maintain());
        tokio::spawn(Arc::clone(&self.crew).grow());
        accepting.start().map_err(StartError::Runtime)?;
        let pidfile = launch.ready(taker.is_some()).map_err(StartError::Pidfile)?;
        log_at!(Log, "process up: {VERSION}");
        let succession = Succession::new(&self.clients, &self.crew, pidfile, taker);
        let reason = self.live(accepting, succession, signals, received).await;
        log_at!(Log, "{reason}");
        self.end_jobs().await;
        Ok(())
    }

    /// Jobs that were interrupted have a while to clean up; then they go on with that by themselves.
    async fn end_jobs(&self) {
        match self.pools.shutdown() {
            Some(Shutdown::Immediate) => self.scheduler.ended(JOBS_TOLD).await,
            Some(_) => self.scheduler.ended(JOBS_GRACE).await,
            // Another process has taken over.
            None => {}
        }
    }

    /// Does what it is told until it is to end; returns why it is.
    async fn live(
        &self,
        mut accepting: Accepting,
        mut succession: Succession,
        mut signals: Signals,
        mut received: UnboundedReceiver<Command>,
    ) -> &'static str {
        let mut look = tokio::time::interval(SHUTDOWN_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        self.scheduler.set_passive(false);
        loop {
            let asked = tokio::select! {
                Some(command) = received.recv() => self.carry_out(command, &mut succession, &accepting),
                signal = signals.next() => self.on_signal(signal).map(|how| (how, None)),
                event = succession.next() => succession.act(event, &mut accepting).await.map(|how| (how, None)),
                _ = look.tick(), if self.is_looking() || succession.is_draining() => {
                    self.resume_if_alone();
                    None
                }
            };
            self.scheduler.set_passive(succession.is_draining());
            accepting.set_defer_accept(self.pools.config().settings.tcp_defer_accept);
            if let Some((how, answer)) = asked {
                notify::stopping();
                if self.pools.set_suspended(false) {
                    self.crew.go_on();
                }
                self.pools.begin_shutdown(how);
                self.scheduler.end();
                succession.say_bye(Some(how)).await;
                accepting.close_tcp().await;
                if let Some(answer) = answer {
                    // The console may be gone by now.
                    let _ = answer.send(());
                    if how != Shutdown::Immediate {
                        // It tells its client before the next look, which may be the last.
                        look.reset();
                        continue;
                    }
                }
            }
            if succession.look() {
                return "shutting down";
            }
            if let Some(reason) = self.pools.reason_to_exit() {
                return reason;
            }
        }
    }

    /// A shutdown is for the caller to begin, and then to be answered.
    fn carry_out(
        &self,
        command: Command,
        succession: &mut Succession,
        accepting: &Accepting,
    ) -> Option<(Shutdown, Option<oneshot::Sender<()>>)> {
        match command {
            Command::Reload(answer) => {
                // The console may be gone by now.
                let _ = answer.send(self.reload());
                None
            }
            Command::Configure(config, key, answer) => {
                let _ = answer.send(self.configure(&config, &key));
                None
            }
            Command::RenewTls => {
                certificates::renew(&self.pools);
                None
            }
            Command::Kill(doomed, answer) => {
                let killed = self.crew.kill(&doomed);
                tokio::spawn(async move { answer.send(all(killed).await.concat()) });
                None
            }
            // What a RESUME has overtaken must not follow it.
            Command::Rest(..) if !self.pools.is_suspended() => None,
            Command::Rest(is_late, answer) => {
                let awake = self.crew.rest(is_late);
                tokio::spawn(async move { answer.send(all(awake).await.into_iter().sum()) });
                None
            }
            Command::GoOn => {
                self.crew.go_on();
                None
            }
            Command::Shutdown(how, answer) => Some((how, Some(answer))),
            Command::TakeOver(socket, answer) => {
                let _ = answer.send(succession.begin(socket, accepting));
                None
            }
        }
    }

    /// A shutdown or a SUSPEND waits for something.
    fn is_looking(&self) -> bool {
        self.pools.shutdown().is_some() || self.pools.is_suspended()
    }

    /// Who has suspended all must be there to end it: nobody else is let in.
    fn resume_if_alone(&self) {
        if self.pools.console_clients.used() == 0 && self.pools.set_suspended(false) {
            log_at!(Log, "admin disappeared when suspended, doing RESUME");
            self.crew.go_on();
        }
    }

    fn on_signal(&self, signal: SignalKind) -> Option<Shutdown> {
        let is_ending = self.pools.shutdown().is_some();
        match signal {
            SIGNAL_RELOAD => {
                log_at!(Log, "got SIGHUP, re-reading config");
                // What is wrong was logged.
                let _ = self.reload();
            }
            SIGNAL_QUIT => {
                log_at!(Log, "got SIGQUIT, fast exit");
                return Some(Shutdown::Immediate);
            }
            SIGNAL_INT | SIGNAL_TERM if is_ending => {
                let name = if signal == SIGNAL_INT { "SIGINT" } else { "SIGTERM" };
                log_at!(Log, "got {name} while shutting down, fast exit");
                return Some(Shutdown::Immediate);
            }
            SIGNAL_INT => {
                log_at!(Log, "got SIGINT, shutting down, waiting for all servers connections to be released");
                return Some(Shutdown::WaitForServers);
            }
            SIGNAL_TERM => {
                log_at!(Log, "got SIGTERM, shutting down, waiting for all clients disconnect");
                return Some(Shutdown::WaitForClients);
            }
            SIGNAL_PAUSE if self.pools.is_paused() || self.pools.is_suspended() => {
                log_at!(Log, "got SIGUSR1, but already paused/suspended");
            }
            SIGNAL_PAUSE => {
                log_at!(Log, "got SIGUSR1, pausing all activity");
                self.pools.pause(None);
                self.tell_elder(Ask::Pause { database: None });
            }
            _ if is_ending => log_at!(Log, "got SIGUSR2 while shutting down, ignoring"),
            _ if self.pools.set_suspended(false) => {
                log_at!(Log, "got SIGUSR2, continuing from SUSPEND");
                self.crew.go_on();
            }
            _ if self.pools.is_paused() => {
                log_at!(Log, "got SIGUSR2, continuing from PAUSE");
                self.pools.resume(None);
                self.tell_elder(Ask::Resume { database: None });
            }
            _ => log_at!(Log, "got SIGUSR2, but not paused/suspended"),
        }
        None
    }

    /// The same for the clients of the process before.
    fn tell_elder(&self, ask: Ask) {
        let pools = Arc::clone(&self.pools);
        tokio::spawn(async move { pools.elder.ask(ask).await });
    }

    /// Reads the configuration again and puts it in force, or leaves everything as it is. Returns what
    /// has changed, and what would have but for a restart.
    fn reload(&self) -> Result<Vec<String>, ReloadFailed> {
        notify::reloading();
        let reloaded = self.try_reload();
        notify::reloaded();
        reloaded
    }

    fn try_reload(&self) -> Result<Vec<String>, ReloadFailed> {
        // `SET conffile` may have named another one.
        let source = match &self.pools.config().settings.conffile {
            Some(file) => self.source.with_path(Some(file)),
            None => self.source.clone(),
        };
        let failed = |problems: &[&dyn fmt::Display]| {
            problems.iter().for_each(|problem| log_at!(Error, "{problem}"));
            log_at!(Error, "RELOAD failed: the configuration in force stays as it is");
            ReloadFailed
        };
        let loaded = source.load().map_err(|problems| {
            let errors: Vec<&dyn fmt::Display> = problems.errors.iter().map(|error| error as _).collect();
            failed(&errors)
        })?;
        let (mut config, before) = (loaded.config, self.pools.config());
        let wrong = (self.check)(&config);
        if !wrong.is_empty() {
            let wrong: Vec<&dyn fmt::Display> = wrong.iter().map(|problem| problem as _).collect();
            return Err(failed(&wrong));
        }
        log_problems(&loaded.warnings);
        if !loaded.is_userlist_whole {
            return Err(failed(&[&"the auth_file cannot be read whole"]));
        }
        let kept = config.settings.keep_unchangeable(&before.settings);
        let tls = tls_setup(&config, Some(&self.pools.tls())).map_err(|e| failed(&[&e]))?;
        // Those who log in meanwhile have it made again.
        self.pools.connector.keys.clear();
        if config.userlist != before.userlist {
            self.clients.auth.forget();
        }
        let mut changes = self.put_in_force("RELOAD", &Arc::new(config), tls);
        for change in kept {
            let line = format!("{change} needs a restart, the old value stays in force");
            log_at!(Warning, "RELOAD: {line}");
            changes.push(line);
        }
        Ok(changes)
    }

    /// SET. Of settings that only make sense together, each is taken as it comes, and all of them
    /// as soon as they do.
    fn configure(&self, config: &Arc<Config>, key: &str) -> Configured {
        let is_tls = key.contains("_tls_") || key.contains("_tls13_");
        // They decide whether directories are asked over TLS.
        let is_method = matches!(key, "auth_type" | "auth_hba_file" | "auth_ldap_options");
        let made = (is_tls || is_method && config.needs_ldap_tls())
            .then(|| tls_setup(config, Some(&self.pools.tls())))
            .transpose();
        let (tls, configured) = match made {
            Ok(tls) => (tls, Configured::InForce),
            Err(e) => {
                log_at!(Error, "{e}");
                (None, Configured::TlsKept)
            }
        };
        self.put_in_force("SET", config, tls.unwrap_or_else(|| self.pools.tls()));
        configured
    }

    /// Changes everything that settings decide. Returns what that is, for `why`.
    fn put_in_force(&self, why: &str, config: &Arc<Config>, tls: Arc<TlsSetup>) -> Vec<String> {
        let mut changes = pgweir_config::changes(&self.pools.config(), config);
        self.pools.connector.configure(&config.settings);
        if self.pools.reload(Arc::clone(config), tls) {
            changes.push("TLS towards servers changed".to_owned());
        }
        self.crew.set_limits(crew::request_limits(&config.settings));
        self.scheduler.configure(Arc::clone(config));
        set_log_level(&config.settings, self.verbose);
        log::set_target(log_target(config, self.quiet));
        for change in &changes {
            log_at!(Log, "{why}: {change}");
        }
        changes
    }
}

/// All that comes until the end.
async fn all<T>(mut receive: UnboundedReceiver<T>) -> Vec<T> {
    let mut answers = Vec::new();
    while let Some(answer) = receive.recv().await {
        answers.push(answer);
    }
    answers
}

async fn serve_consoles(console: Arc<Console>, mut consoles: UnboundedReceiver<ConsoleClient>) {
    while let Some(client) = consoles.recv().await {
        tokio::spawn(Arc::clone(&console).serve(client));
    }
}

const SIGNAL_RELOAD: SignalKind = SignalKind::hangup();
const SIGNAL_INT: SignalKind = SignalKind::interrupt();
const SIGNAL_TERM: SignalKind = SignalKind::terminate();
const SIGNAL_QUIT: SignalKind = SignalKind::quit();
const SIGNAL_PAUSE: SignalKind = SignalKind::user_defined1();
const SIGNAL_RESUME: SignalKind = SignalKind::user_defined2();

/// The signals that we act on.
struct Signals {
    all: Vec<(SignalKind, Signal)>,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let kinds = [SIGNAL_RELOAD, SIGNAL_INT, SIGNAL_TERM, SIGNAL_QUIT, SIGNAL_PAUSE, SIGNAL_RESUME];
        let all = kinds.into_iter().map(|kind| Ok((kind, signal(kind)?))).collect::<io::Result<_>>()?;
        Ok(Signals { all })
    }

    async fn next(&mut self) -> SignalKind {
        std::future::poll_fn(|cx| {
            for (kind, signal) in &mut self.all {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*kind);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 19 of its `stat`, counted behind the name.
    fn niceness() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn what_logins_compute_gives_way() {
        let logins = login_threads().unwrap();
        let expected = (niceness() + LOGIN_NICENESS).min(19);
        let found = logins.block_on(async {
            let (task, blocking) = (tokio::spawn(async { niceness() }), tokio::task::spawn_blocking(niceness));
            (task.await.unwrap(), blocking.await.unwrap())
        });
        assert_eq!(found, (expected, expected));
    }
}
