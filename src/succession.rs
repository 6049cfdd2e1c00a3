//! One process after another: what this one has to do with the one before it and the one after it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgweir_proto::client_error::ClientError;

use crate::client::Clients;
use crate::control::Shutdown;
use crate::crew::Crew;
use crate::give::{Event, Giving, Inventory, Outcome};
use crate::log::log_at;
use crate::process::notify;
use crate::process::pidfile::Pidfile;
use crate::serve::Accepting;
use crate::take::Taker;

/// Clients that were told to go have this long.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(crate) struct Succession {
    clients: Arc<Clients>,
    crew: Arc<Crew>,
    /// Ours, unless the next process has taken it over; `None`: there is none.
    pidfile: Option<Pidfile>,
    /// `None`: there was no process before this one.
    taker: Option<Taker>,
    state: State,
}

/// ```text
///   alone ──asked──▶ offering ──ready──▶ draining ──no client left──▶ over
///     ▲                 │                   │
///     └──comes to nothing, or it is gone────┘
/// ```
enum State {
    Alone,
    /// Another process gets ready to take over; nothing has changed.
    Offering(Giving),
    Draining {
        /// `None`: the other process has ended, and has not called for help.
        giving: Option<Giving>,
        /// When clients that cannot go are told to; `None`: never.
        deadline: Option<Instant>,
        /// They have been told.
        were_told: bool,
    },
    Over,
}

impl Succession {
    pub(crate) fn new(
        clients: &Arc<Clients>,
        crew: &Arc<Crew>,
        pidfile: Option<Pidfile>,
        taker: Option<Taker>,
    ) -> Succession {
        let (clients, crew) = (Arc::clone(clients), Arc::clone(crew));
        Succession { clients, crew, pidfile, taker, state: State::Alone }
    }

    /// Another process is at the other end of `socket` and wants to take over. An error is for it to read.
    pub(crate) fn begin(&mut self, socket: OwnedFd, accepting: &Accepting) -> Result<(), String> {
        if !matches!(self.state, State::Alone) {
            return Err("another process is taking over already".into());
        }
        if self.clients.pools.shutdown().is_some() {
            return Err("pooler is shutting down".into());
        }
        if self.clients.pools.is_suspended() {
            return Err("pooler is suspended".into());
        }
        let giving = accepting.duplicates().and_then(|listeners| {
            let (pools, crew) = (Arc::clone(&self.clients.pools), Arc::clone(&self.crew));
            Giving::begin(socket, Inventory { pools, crew, listeners, are_activated: accepting.are_activated() })
        });
        self.state = State::Offering(giving.map_err(|e| e.to_string())?);
        log_at!(Log, "another process asks to take over");
        Ok(())
    }

    /// Another process has taken over, and only what it could not take is left here.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    /// What the other process does. Never, if there is none.
    pub(crate) async fn next(&mut self) -> Event {
        match &mut self.state {
            State::Offering(giving) | State::Draining { giving: Some(giving), .. } => giving.next().await,
            State::Alone | State::Draining { .. } | State::Over => std::future::pending().await,
        }
    }

    /// Returns how this process is to end, if it is.
    pub(crate) async fn act(&mut self, event: Event, accepting: &mut Accepting) -> Option<Shutdown> {
        if let Event::Shutdown(how) = event {
            log_at!(Log, "the process that has taken over is told to end, and this one with it");
            return Some(how);
        }
        let state = std::mem::replace(&mut self.state, State::Alone);
        self.state = match (event, state) {
            (Event::Ready(stopped), State::Offering(giving)) => {
                self.say_bye(None).await;
                accepting.stop().await;
                // If it is gone, that will be told.
                let _ = stopped.send(());
                giving.pid.into_iter().for_each(notify::main_process);
                self.drain(giving)
            }
            (Event::Over(Outcome::NotReady(e)), _) => {
                log_at!(Warning, "the takeover has come to nothing ({e}): serving on");
                State::Alone
            }
            (Event::Over(Outcome::Finished), _) => State::Over,
            (Event::Over(Outcome::Bye), State::Draining { deadline, were_told, .. }) => {
                State::Draining { giving: None, deadline, were_told }
            }
            (Event::Over(Outcome::Lost(e)), _) => {
                log_at!(Error, "the process that was taking over is gone ({e}): serving on");
                self.resume(accepting);
                State::Alone
            }
            (Event::Ready(_) | Event::Shutdown(_) | Event::Over(Outcome::Bye), state) => state,
        };
        None
    }

    fn drain(&self, giving: Giving) -> State {
        let limit = self.clients.pools.config().settings.takeover_timeout;
        let deadline = (!limit.is_zero()).then(|| Instant::now() + limit);
        log_at!(Log, "another process has taken over; {} clients are to go there", self.left());
        State::Draining { giving: Some(giving), deadline, were_told: false }
    }

    fn resume(&self, accepting: &mut Accepting) {
        notify::main_process(std::process::id());
        if let Err(e) = accepting.start() {
            log_at!(Error, "cannot accept new clients any more: {e}");
        }
        if let Some(Err(e)) = self.pidfile.as_ref().map(Pidfile::take_back) {
            log_at!(Error, "{e}");
        }
    }

    /// Clients that are not gone. Those of the console are not waited for.
    fn left(&self) -> u32 {
        let pools = &self.clients.pools;
        let connected = pools.registry.connected.load(Ordering::Relaxed);
        connected.saturating_sub(pools.console_clients.used())
    }

    /// To be called from time to time; true: this process is not needed any more.
    pub(crate) fn look(&mut self) -> bool {
        let left = self.left();
        let State::Draining { giving, deadline, were_told } = &mut self.state else {
            return matches!(self.state, State::Over);
        };
        let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        match giving {
            Some(giving) if left == 0 => giving.finish(),
            None if left == 0 => return true,
            _ if is_late && *were_told => {
                log_at!(Warning, "{left} clients are left that have not gone: ending all the same");
                return true;
            }
            _ if is_late => {
                log_at!(
                    Warning,
                    "takeover_timeout is over: {left} clients are left that could not go, and are told to"
                );
                self.crew.end_all(&ClientError::ServerShuttingDown);
                *were_told = true;
                *deadline = Some(Instant::now() + LAST_WORDS);
            }
            _ => {}
        }
        false
    }

    /// This process ends, or gives all to another (`None`): the one before it must not take that for a crash.
    pub(crate) async fn say_bye(&mut self, how: Option<Shutdown>) {
        if let Some(taker) = self.taker.take() {
            taker.say_bye(how).await;
        }
    }
}
