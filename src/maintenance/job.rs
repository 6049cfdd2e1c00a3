//! One command under way: what it connects by, asks, changes, prints, and how it ends.

use std::cell::Cell;
use std::env;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use pgweir_config::{Config, Loaded, Problems, Source};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{LocalSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout_at};

use super::conninfo::{Conninfo, Entry};
use super::exit::{Done, Exit, Failure};
use super::interrupt::{Cleanup, Interrupt};
use super::options::{Changing, Limits, Show, Target};
use super::output::{self, Output};
use super::progress::{Counted, Progress};
use super::server::{Server, Session, login};
use super::stream::attempts;
use super::units::Span;

/// How long a command may take to end when it is interrupted, unless it says otherwise, and what it undoes then.
const INTERRUPTED_LIMIT: Duration = Duration::from_secs(30);
const CLEANUP_LIMIT: Duration = Duration::from_secs(60);
/// How often cancels are repeated: the command may have begun something else.
const CANCEL_EVERY: Duration = Duration::from_millis(500);

/// What a command is given.
pub(crate) struct Job {
    /// As users call it: `vacuum`, `index rebuild`. Sessions have it in their application_name.
    pub(crate) name: &'static str,
    pub(crate) out: Output,
    pub(crate) cleanup: Cleanup,
    pub(crate) interrupt: Interrupt,
    is_quiet: bool,
    changing: Changing,
    /// How long an interrupted command may take to end.
    end_limit: Cell<Duration>,
}

/// Runs a command to its end on a runtime of its own, and returns its exit code. `changing` is the default for read-only ones.
pub(crate) fn run(name: &'static str, show: Show, changing: Changing, command: impl AsyncFnOnce(&Job) -> Done) -> Exit {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return told(Failure::failed(format!("could not start: {e}"))),
    };
    let job = Job {
        name,
        out: Output::new(show.output),
        cleanup: Cleanup::default(),
        interrupt: Interrupt::default(),
        is_quiet: show.quiet,
        changing,
        end_limit: Cell::new(INTERRUPTED_LIMIT),
    };
    let exit = LocalSet::new().block_on(&runtime, job.run(command));
    // A prompt may still be waiting for its answer.
    runtime.shutdown_background();
    exit
}

/// A line to stderr, of which nobody may be left at the other end: a terminal that was closed, a program that went.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Says why on stderr.
fn told(failure: Failure) -> Exit {
    complain(&format!("pgweir: {failure}"));
    failure.exit
}

impl Job {
    async fn run(&self, command: impl AsyncFnOnce(&Job) -> Done) -> Exit {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let mut signals: Vec<Signal> = kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect();
        let mut command = std::pin::pin!(command(self));
        let done = tokio::select! {
            done = &mut command => done,
            () = any(&mut signals) => {
                self.say("pgweir: interrupted, ending what runs on the server; once more to leave at once");
                tokio::select! {
                    done = self.wind_up(command) => done,
                    () = any(&mut signals) => return self.abandon(),
                }
            }
        };
        let deadline = Instant::now() + CLEANUP_LIMIT;
        let undone = tokio::select! {
            undone = timeout_at(deadline, self.cleanup.run()) => undone,
            () = any(&mut signals) => return self.abandon(),
        };
        let failures = undone.unwrap_or_else(|_| {
            self.cleanup.names().iter().map(|what| Failure::failed(format!("could not {what} in time"))).collect()
        });
        let exit = match done {
            Ok(exit) => exit,
            Err(failure) if self.interrupt.is_requested() && failure.exit != Exit::Partly => {
                told(Failure::failed("interrupted"))
            }
            Err(failure) => told(failure),
        };
        failures.into_iter().map(told).fold(exit, |exit, other| if exit == Exit::Fine { other } else { exit })
    }

    /// Cancels again and again until the command has seen that it is to end.
    async fn wind_up(&self, command: impl Future<Output = Done>) -> Done {
        let deadline = Instant::now() + self.end_limit.get();
        let cancels = async {
            loop {
                self.interrupt.request().await;
                sleep(CANCEL_EVERY).await;
            }
        };
        tokio::select! {
            done = timeout_at(deadline, command) => {
                done.unwrap_or_else(|_| Err(Failure::failed("the server did not end it in time")))
            }
            () = cancels => Err(Failure::failed("interrupted")),
        }
    }

    fn abandon(&self) -> Exit {
        for what in self.cleanup.names() {
            complain(&format!("pgweir: left undone: {what}"));
        }
        told(Failure::failed("interrupted"))
    }

    /// For a command that has to wait for others to end, too.
    pub(super) fn may_take_to_end(&self, limit: Duration) {
        self.end_limit.set(limit);
    }

    /// Something that the user may want to know, on stderr.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        if !self.is_quiet {
            complain(text.as_ref());
        }
    }

    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        warn(text.as_ref());
    }

    pub(crate) fn progress(&self, label: impl Into<String>, counted: Counted, total: Option<u64>) -> Progress {
        Progress::new(label.into(), counted, total, self.is_quiet)
    }

    fn session(&self, limits: Limits, keeps_search_path: bool) -> Session {
        let Limits { lock_timeout, statement_timeout } = limits;
        let application_name = self.application_name();
        Session { application_name, lock_timeout, statement_timeout, keeps_search_path }
    }

    /// `pgweir/index-rebuild`, for sessions and for the programs that we start.
    pub(crate) fn application_name(&self) -> String {
        format!("pgweir/{}", self.name.replace(' ', "-"))
    }

    /// Connects, and says to what and under which limits.
    pub(crate) async fn connect(&self, target: &Target, limits: Limits) -> Result<Server, Failure> {
        let server = self.connect_to(&target.conninfo()?, limits).await?;
        self.say_connected(&server, limits);
        Ok(server)
    }

    /// To what it has connected, and under which limits.
    pub(super) fn say_connected(&self, server: &Server, limits: Limits) {
        let Limits { lock_timeout, statement_timeout } = limits;
        let limit = |span: Span| if span.0.is_zero() { "none".to_owned() } else { span.to_string() };
        let Server { conninfo, address, version, .. } = server;
        self.say(format!(
            "{} at {address} as {}, PostgreSQL {version}; lock_timeout {}, statement_timeout {}",
            conninfo.dbname,
            conninfo.user,
            limit(lock_timeout),
            limit(statement_timeout)
        ));
    }

    /// A further connection, without a word: for parallel work, or to another database of the server.
    pub(crate) async fn connect_to(&self, conninfo: &Conninfo, limits: Limits) -> Result<Server, Failure> {
        self.interrupt.check()?;
        Server::connect(conninfo, &self.session(limits, false), &self.interrupt, warn).await
    }

    /// The same with the user's own search_path, for SQL that the user has written.
    pub(crate) async fn connect_as_user(&self, conninfo: &Conninfo, limits: Limits) -> Result<Server, Failure> {
        self.interrupt.check()?;
        Server::connect(conninfo, &self.session(limits, true), &self.interrupt, warn).await
    }

    /// A console knows no settings of sessions, and what it says of itself is not checked.
    pub(super) async fn console_session(&self, conninfo: &Conninfo) -> Result<Server, Failure> {
        let limits = Limits { lock_timeout: Span(Duration::ZERO), statement_timeout: Span(Duration::ZERO) };
        let session = self.session(limits, true);
        let mut last = Failure::unreachable(format!("could not connect to {conninfo}"));
        for address in &conninfo.addresses {
            for attempt in attempts(conninfo, address) {
                match login(conninfo, address, *attempt, &session, &self.interrupt, warn).await {
                    Ok(server) => return Ok(server),
                    Err(failure) => last = failure,
                }
            }
        }
        Err(last)
    }

    /// The same job for what is undone at its end: an interrupt does not end its sessions.
    pub(crate) fn for_later(&self) -> Job {
        Job {
            name: self.name,
            out: self.out,
            cleanup: Cleanup::default(),
            interrupt: Interrupt::default(),
            is_quiet: self.is_quiet,
            changing: self.changing,
            end_limit: self.end_limit.clone(),
        }
    }

    /// The one way to change something on a server: prints the statement under `--dry-run`, runs it otherwise. Whether it ran.
    pub(crate) async fn change(&self, server: &Server, sql: &str) -> Result<bool, Failure> {
        if self.changing.dry_run {
            output::print(&format!("{};\n", sql.trim_end().trim_end_matches(';')))?;
            return Ok(false);
        }
        server.batch(sql).await.map(|()| true)
    }

    /// The same for a statement that has parts of the user's own SQL in it, or that must not share a transaction: the server
    /// refuses a second statement behind it.
    pub(crate) async fn change_one(&self, server: &Server, sql: &str) -> Result<bool, Failure> {
        if self.changing.dry_run {
            output::print(&format!("{sql};\n"))?;
            return Ok(false);
        }
        server.query(sql, &[]).await.map(|_| true)
    }

    /// The same for a SELECT that changes something by what it calls: the value of its row; None: there is none, or it is a dry
    /// run.
    pub(crate) async fn change_value<T>(&self, server: &Server, sql: &str) -> Result<Option<T>, Failure>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        if self.changing.dry_run {
            output::print(&format!("{sql};\n"))?;
            return Ok(None);
        }
        let rows = server.query(sql, &[]).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// A step of the plan that is no SQL: a line of `--dry-run`. Whether it is to be done.
    pub(crate) fn step(&self, what: &str) -> Result<bool, Failure> {
        if self.changing.dry_run {
            output::print(&format!("-- {what}\n"))?;
        }
        Ok(!self.changing.dry_run)
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.changing.dry_run
    }

    /// Asks before `what` ("terminate 3 sessions") is done; `word` has to be typed. Refused where nobody can be asked. A dry run
    /// asks nothing.
    pub(crate) async fn confirm(&self, what: &str, word: &'static str) -> Result<(), Failure> {
        if self.changing.yes { Ok(()) } else { self.ask(what, word, "--yes confirms it").await }
    }

    /// The same for what destroys: `--yes` is not enough, the word has to be typed or `given` by a flag, which `hint` names.
    pub(crate) async fn confirm_by_word(
        &self,
        what: &str,
        word: &'static str,
        given: Option<&str>,
        hint: &str,
    ) -> Result<(), Failure> {
        match given {
            Some(given) if given == word => Ok(()),
            Some(_) => Err(Failure::refused(format!("not confirmed: {what}")).hint(hint)),
            None => self.ask(what, word, hint).await,
        }
    }

    async fn ask(&self, what: &str, word: &'static str, hint: &str) -> Result<(), Failure> {
        if self.changing.dry_run {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failure::refused(format!("not confirmed: {what}"))
                .hint(format!("there is no terminal to ask on; {hint}, --dry-run shows what would be done")));
        }
        eprint!("About to {what}. Type {word} to go on: ");
        // A prompt that cannot be shown will not be answered either.
        let _ = io::stderr().flush();
        let typed = spawn_blocking(|| {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        match self.interrupt.or(typed).await? {
            Ok(Ok(line)) if line.trim() == word => Ok(()),
            _ => Err(Failure::refused("not confirmed, nothing was done")),
        }
    }
}

fn warn(text: &str) {
    complain(&format!("warning: {text}"));
}

/// Waits for the first of the signals.
async fn any(signals: &mut [Signal]) {
    std::future::poll_fn(|cx| {
        let mut came = signals.iter_mut().map(|signal| signal.poll_recv(cx).is_ready());
        if came.any(|came| came) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

impl Target {
    /// The pooler's configuration; None: none was named.
    pub(crate) fn pooler(&self) -> Result<Option<Config>, Failure> {
        let Some(file) = &self.config else { return Ok(None) };
        match Source::new(Some(file), env::vars_os()).load() {
            Ok(Loaded { config, .. }) => Ok(Some(config)),
            Err(Problems { errors, .. }) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(Failure::usage(errors.join("\n")).hint("pgweir config check tells more"))
            }
        }
    }

    pub(crate) fn conninfo(&self) -> Result<Conninfo, Failure> {
        let config = self.pooler()?;
        let entry = config.as_ref().zip(self.database.as_deref()).map(|(config, name)| Entry { config, name });
        let dsn = self.dsn.as_ref().map(|dsn| dsn.0.as_str());
        Conninfo::resolve(dsn, entry, &|name| env::var(name).ok(), &mut |warning| warn(&warning))
    }
}
