//! Users that the `auth_file` does not have are looked up by `auth_query`, on a server of the
//! `auth_user`'s.
//!
//! However many log in as one user, one of them asks and all wait for the answer, which is used
//! again for a short time. It is not trusted any more when a login with it fails: the password
//! may have changed. The asking stops when nobody waits for it any more.

use std::collections::HashMap;
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pgweir_config::{CONSOLE_DATABASE, Config, Database as Entry, UserSecret};
use pgweir_proto::client_error::ClientError;
use tokio::sync::watch;

use super::testing::Held;
use super::{Got, Pools, ServerPool, Waited, Waiting};
use crate::auth::{AuthError, Reason};
use crate::log::log_at;
use crate::net::clock;
use crate::pool::ServerState;
use crate::server::Server;
use crate::server::auth_query::{self, Lookup};
use crate::server::parameters::Parameters;

/// Answers that are kept, expired ones included.
const KNOWN_MAX: usize = 10_000;

/// How long a query may take without `client_login_timeout`.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// `None`: there is no such user.
type Outcome = Result<Option<UserSecret>, AuthError>;

/// Everything that an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    /// Where it is asked, by the name that clients use.
    database: String,
    auth_user: String,
    auth_query: String,
    user: String,
}

impl Question {
    /// What is asked about a user who wants to `database`, whose entry is given if it has one;
    /// `None` if nothing is.
    pub(crate) fn new(
        config: &Config,
        database: &str,
        entry: Option<&Entry>,
        user: &str,
    ) -> Result<Option<Question>, AuthError> {
        let Some(auth_user) = config.auth_user(entry) else { return Ok(None) };
        let auth_database = config.auth_dbname(entry).unwrap_or(database);
        if auth_database == CONSOLE_DATABASE {
            return Err(AuthError::refused(ClientError::ConfigError, Reason::AuthDatabaseReserved));
        }
        Ok(Some(Question {
            database: auth_database.to_owned(),
            auth_user: auth_user.to_owned(),
            auth_query: config.auth_query(entry).to_owned(),
            user: user.to_owned(),
        }))
    }
}

/// An asking under way, for as long as somebody waits for it.
type Flight = watch::Receiver<Option<Outcome>>;

enum Answer {
    Asking(Weak<Flight>),
    /// `None`: there is no such user, which takes no longer to find out than that there is one.
    Known {
        secret: Option<UserSecret>,
        until_us: u64,
    },
}

/// How a question is answered.
enum Joined {
    Known(Option<UserSecret>),
    Flight(Arc<Flight>),
    /// Nobody has asked: the caller must.
    New(Arc<Flight>, watch::Sender<Option<Outcome>>),
}

/// What is known, and what is being asked.
#[derive(Default)]
pub(crate) struct Lookups {
    /// Locked for a look or a change.
    entries: Mutex<HashMap<Question, Answer>>,
    /// The iterations of the first secret of SCRAM that has come; 0: none has.
    seen_iterations: AtomicU32,
    /// Others have come.
    saw_others: AtomicBool,
}

impl Lookups {
    fn entries(&self) -> MutexGuard<'_, HashMap<Question, Answer>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, question: &Question, now_us: u64) -> Joined {
        let mut entries = self.entries();
        match entries.get(question) {
            Some(Answer::Known { secret, until_us }) if now_us < *until_us => return Joined::Known(secret.clone()),
            Some(Answer::Asking(flight)) => {
                if let Some(flight) = flight.upgrade() {
                    return Joined::Flight(flight);
                }
            }
            Some(Answer::Known { .. }) | None => {}
        }
        if entries.len() >= KNOWN_MAX {
            make_room(&mut entries, now_us);
        }
        let (sender, flight) = watch::channel(None);
        let flight = Arc::new(flight);
        entries.insert(question.clone(), Answer::Asking(Arc::downgrade(&flight)));
        Joined::New(flight, sender)
    }

    /// The asking that began with `flight` is over; `until_us` is how long its answer is good.
    fn settle(&self, question: &Question, flight: &Weak<Flight>, outcome: &Outcome, until_us: u64) {
        match outcome {
            Ok(Some(UserSecret::Scram(secret))) => {
                // A challenge that changes would tell much, so the first one counts.
                let _ =
                    self.seen_iterations.compare_exchange(0, secret.iterations, Ordering::Relaxed, Ordering::Relaxed);
            }
            Ok(Some(UserSecret::Plain(_) | UserSecret::Md5(_))) => self.saw_others.store(true, Ordering::Relaxed),
            Ok(Some(UserSecret::Empty) | None) | Err(_) => {}
        }
        let mut entries = self.entries();
        // A reload has made it a question of yesterday.
        if !matches!(entries.get(question), Some(Answer::Asking(asking)) if asking.ptr_eq(flight)) {
            return;
        }
        match outcome {
            Ok(secret) => {
                entries.insert(question.clone(), Answer::Known { secret: secret.clone(), until_us });
            }
            Err(_) => drop(entries.remove(question)),
        }
    }

    /// A login with the answer has failed.
    pub(crate) fn distrust(&self, question: &Question) {
        let mut entries = self.entries();
        if let Some(Answer::Known { .. }) = entries.get(question) {
            entries.remove(question);
        }
    }

    /// A reload: the same question may have another answer.
    pub(super) fn clear(&self) {
        self.entries().clear();
    }

    pub(crate) fn count(&self) -> usize {
        self.entries().len()
    }

    /// Bytes of an entry, without what it refers to.
    pub(crate) fn entry_size(&self) -> usize {
        size_of::<(Question, Answer)>()
    }

    /// The iterations of users' SCRAM secrets; `None`: those who were found have others. As long
    /// as nobody was found, `default`: PostgreSQL makes SCRAM secrets if it is not told otherwise.
    pub(crate) fn expected_scram(&self, default: NonZeroU32) -> Option<NonZeroU32> {
        let seen = NonZeroU32::new(self.seen_iterations.load(Ordering::Relaxed));
        seen.or((!self.saw_others()).then_some(default))
    }

    /// Whether secrets have come that are not SCRAM's.
    pub(crate) fn saw_others(&self) -> bool {
        self.saw_others.load(Ordering::Relaxed)
    }
}

fn make_room(entries: &mut HashMap<Question, Answer>, now_us: u64) {
    entries.retain(|_, entry| match entry {
        Answer::Asking(flight) => flight.strong_count() > 0,
        Answer::Known { until_us, .. } => now_us < *until_us,
    });
    let is_known = |entry: &Answer| matches!(entry, Answer::Known { .. });
    while entries.len() >= KNOWN_MAX {
        // Those who wait are as many as there are clients, which are bounded.
        let Some(victim) = entries.iter().find(|(_, entry)| is_known(entry)).map(|(question, _)| question.clone())
        else {
            return;
        };
        entries.remove(&victim);
    }
}

impl Pools {
    /// What a server, or an earlier answer of it, says of a user. Called on a worker's thread.
    pub(crate) async fn look_up(self: &Arc<Self>, worker: usize, question: &Question) -> Outcome {
        let flight = match self.lookups.join(question, clock::now_us()) {
            Joined::Known(secret) => return Ok(secret),
            Joined::Flight(flight) => flight,
            Joined::New(flight, sender) => {
                let asking = Arc::clone(self).answer(worker, question.clone(), sender, Arc::downgrade(&flight));
                tokio::task::spawn_local(asking);
                flight
            }
        };
        let mut answer = Flight::clone(&flight);
        match answer.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            // The asker's runtime has ended.
            Ok(None) | Err(_) => Err(AuthError::protocol(ClientError::ShuttingDown)),
        }
    }

    async fn answer(
        self: Arc<Self>,
        worker: usize,
        question: Question,
        sender: watch::Sender<Option<Outcome>>,
        flight: Weak<Flight>,
    ) {
        let outcome = tokio::select! {
            outcome = self.ask(worker, &question) => outcome,
            // Nobody waits any more. Whoever comes next asks anew.
            () = sender.closed() => return,
        };
        let lifetime_us = self.config().settings.auth_query_cache_time.as_micros() as u64;
        self.lookups.settle(&question, &flight, &outcome, clock::now_us() + lifetime_us);
        sender.send_replace(Some(outcome));
    }

    async fn ask(self: &Arc<Self>, worker: usize, question: &Question) -> Outcome {
        let Question { database: name, auth_user, auth_query: sql, user } = question;
        let config = self.config();
        let missing = || AuthError::refused(ClientError::ConfigError, Reason::NoAuthDatabase(name.clone()));
        let database = self.database(name).ok_or_else(missing)?;
        if database.is_disabled() {
            return Err(AuthError::protocol(ClientError::AuthDatabaseDisabled(name.clone())));
        }
        let member = self.join(&database, auth_user);
        let pool = &member.pool;
        let limit = config.query_wait_timeout(&database.entry(), Some(auth_user)).unwrap_or(Duration::MAX);
        let server = tokio::time::timeout(limit, idle_server(pool, worker)).await;
        let server = server.unwrap_or(Err(ClientError::QueryWaitTimeout)).map_err(AuthError::protocol)?;
        let mut held = Held::new(pool, ServerState::Active, server);
        let own = pool.welcome().map(|welcome| Parameters::of_reports(&welcome.parameters, &self.tracked));
        let own = own.unwrap_or_else(|| Parameters::none(&self.tracked));
        let limit = config.settings.client_login_timeout;
        let limit = if limit.is_zero() { QUERY_TIMEOUT } else { limit };
        let entry = database.entry();
        let connect_query = entry.connect_query.as_deref();
        let lookup = Lookup { auth_query: sql, user, parameters: &own, connect_query };
        let told = auth_query::look_up(held.server(), &self.tracked, &lookup, limit).await;
        let server = held.take();
        let error = match told {
            Ok(found) => {
                pool.release(server, worker, clock::now_us());
                return Ok(found);
            }
            Err(error) => error,
        };
        log_at!(Error, "{name}/{auth_user}: error in auth_query: {error}");
        let reason = error.to_string();
        match error.is_harmless() {
            true => pool.release(server, worker, clock::now_us()),
            false => pool.close(ServerState::Active, server, "auth_query failed"),
        }
        Err(AuthError::refused(ClientError::ConfigError, Reason::AuthQuery(reason)))
    }
}

/// A server, when it is our turn.
async fn idle_server(pool: &Arc<ServerPool>, worker: usize) -> Result<Box<Server>, ClientError> {
    loop {
        if pool.is_removed() {
            return Err(ClientError::DatabaseRemoved);
        }
        if let Some(error) = pool.cached_refusal() {
            return Err(error);
        }
        let mut waiting = match pool.checkout(worker, clock::now_us()) {
            Got::Server(server) => return Ok(server),
            Got::Wait(key) => Waiting { pool: Arc::clone(pool), key: Some(key) },
        };
        let waited = poll_fn(|cx| match &waiting.key {
            Some(key) => pool.poll_wait(key, worker, cx),
            None => std::task::Poll::Ready(Waited::Again),
        });
        let waited = waited.await;
        waiting.key = None;
        match waited {
            Waited::Server(server) => return Ok(server),
            Waited::Again => {}
            Waited::Refused(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(user: &str) -> Question {
        let text = |text: &str| text.to_owned();
        Question { database: text("d"), auth_user: text("asker"), auth_query: text("q"), user: text(user) }
    }

    fn secret(text: &str) -> Outcome {
        Ok(Some(UserSecret::parse(text)))
    }

    /// Asks, and has the answer be good until `until_us`.
    fn ask(lookups: &Lookups, user: &str, outcome: &Outcome, until_us: u64) {
        let Joined::New(flight, _sender) = lookups.join(&question(user), 0) else { panic!("not asked") };
        lookups.settle(&question(user), &Arc::downgrade(&flight), outcome, until_us);
    }

    fn is_known(lookups: &Lookups, user: &str, now_us: u64) -> bool {
        matches!(lookups.join(&question(user), now_us), Joined::Known(_))
    }

    #[test]
    fn one_asks_and_others_wait() {
        let lookups = Lookups::default();
        let Joined::New(flight, _sender) = lookups.join(&question("u"), 0) else { panic!("nobody has asked") };
        let Joined::Flight(same) = lookups.join(&question("u"), 0) else { panic!("somebody has asked") };
        assert!(Arc::ptr_eq(&flight, &same));
        assert!(matches!(lookups.join(&question("v"), 0), Joined::New(..)));
        // Those who waited have gone.
        drop((flight, same));
        assert!(matches!(lookups.join(&question("u"), 0), Joined::New(..)));
    }

    #[test]
    fn an_answer_is_known_until_it_expires_or_fails() {
        let lookups = Lookups::default();
        ask(&lookups, "u", &secret("x"), 100);
        assert!(is_known(&lookups, "u", 99) && !is_known(&lookups, "v", 99));
        assert!(!is_known(&lookups, "u", 100));
        ask(&lookups, "w", &secret("x"), 100);
        lookups.distrust(&question("w"));
        assert!(!is_known(&lookups, "w", 0));
        ask(&lookups, "nobody", &Ok(None), 100);
        assert!(is_known(&lookups, "nobody", 99) && !is_known(&lookups, "nobody", 100));
        ask(&lookups, "somebody", &Err(AuthError::protocol(ClientError::ServerCrashed)), 100);
        assert!(!is_known(&lookups, "somebody", 0));
    }

    #[test]
    fn a_reload_overtakes_whoever_is_asking() {
        let lookups = Lookups::default();
        let Joined::New(flight, _sender) = lookups.join(&question("u"), 0) else { panic!("not asked") };
        lookups.clear();
        lookups.settle(&question("u"), &Arc::downgrade(&flight), &secret("old"), 100);
        assert!(!is_known(&lookups, "u", 0));
        // A failed login does not stop those who ask.
        let Joined::New(_flight, _sender) = lookups.join(&question("v"), 0) else { panic!("not asked") };
        lookups.distrust(&question("v"));
        assert!(matches!(lookups.join(&question("v"), 0), Joined::Flight(_)));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let lookups = Lookups::default();
        let Joined::New(_flight, _sender) = lookups.join(&question("waits"), 0) else { panic!("not asked") };
        for n in 0..KNOWN_MAX + 10 {
            ask(&lookups, &n.to_string(), &secret("x"), 100);
        }
        assert_eq!(lookups.entries().len(), KNOWN_MAX);
        assert!(matches!(lookups.join(&question("waits"), 0), Joined::Flight(_)));
        assert!(matches!(lookups.join(&question("late"), 100), Joined::New(..)));
        assert!(lookups.entries().len() <= 2, "expired answers make room first");
    }

    #[test]
    fn unknown_users_are_asked_as_most_are() {
        let (md5, scram) = (
            "md545f2603610af569b6155c45067268c6b",
            "SCRAM-SHA-256$1:c2FsdA==$MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=:MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=",
        );
        let lookups = Lookups::default();
        let expected = || lookups.expected_scram(NonZeroU32::new(4096).unwrap()).map(NonZeroU32::get);
        assert_eq!(expected(), Some(4096));
        ask(&lookups, "empty", &Ok(Some(UserSecret::Empty)), 0);
        assert_eq!((expected(), lookups.saw_others()), (Some(4096), false));
        ask(&lookups, "a", &secret(md5), 0);
        assert_eq!((expected(), lookups.saw_others()), (None, true));
        ask(&lookups, "b", &secret(scram), 0);
        ask(&lookups, "c", &secret(md5), 0);
        ask(&lookups, "d", &secret(&scram.replace("$1:", "$2:")), 0);
        assert_eq!(expected(), Some(1));
    }

    #[test]
    fn the_console_is_no_place_to_ask() {
        let mut config = Config::default();
        assert!(Question::new(&config, "d", None, "u").unwrap().is_none());
        config.settings.auth_user = Some("asker".to_owned());
        assert_eq!(Question::new(&config, "d", None, "u").unwrap().unwrap().database, "d");
        let of_console = Question::new(&config, CONSOLE_DATABASE, None, "u");
        assert!(matches!(of_console, Err(AuthError::Refused { reason: Some(Reason::AuthDatabaseReserved), .. })));
        config.settings.auth_dbname = Some("elsewhere".to_owned());
        let asked = Question::new(&config, CONSOLE_DATABASE, None, "u").unwrap().unwrap();
        assert_eq!((&*asked.database, &*asked.auth_user), ("elsewhere", "asker"));
    }
}
