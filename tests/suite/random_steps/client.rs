//! A client that takes its steps one after the other and compares every reply with the model's.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::generator::{self, Besides, Draw, Leave, Step};
use super::model::Model;
use super::options::{Class, Options};
use super::report::{Tally, Trace};
use super::request::Request;
use super::session::{SETTINGS, Session, Transaction};
use super::sql::Sql;
use crate::support::messages::{Message, PgError};
use crate::support::*;

/// What the clients of a run share.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) port: u16,
    pub(super) database: String,
    /// Through a pooler, its query_timeout.
    pub(super) query_timeout: Option<Duration>,
    pub(super) server_database: String,
    /// A superuser's own connection, to terminate backends.
    pub(super) admin: Mutex<Wire>,
    /// When backends were terminated whose client has not noticed, nor may ever.
    pub(super) kills: Mutex<Vec<Instant>>,
    /// Somebody has failed: nothing after it means anything.
    pub(super) stop: AtomicBool,
}

/// How late the end of its backend may reach a client.
const KILL_NOTICED: Duration = secs(10);

/// What poolers say of it, if it is not PostgreSQL that does.
const KILLED: [&str; 3] = ["server conn crashed?", "invalid server parameter", "server connection closed"];

impl World {
    fn kill(&self) {
        let victim = format!(
            "select pg_terminate_backend(pid) from (select pid from pg_stat_activity where usename = 'app' \
             and datname = '{}' and state is not null order by random() limit 1) victim",
            self.server_database
        );
        self.kills.lock().expect("kills").push(Instant::now());
        self.admin.lock().expect("admin").run(&victim);
    }

    /// Whether a lost connection is explained by a kill, which explains one only.
    fn blame_a_kill(&self) -> bool {
        let mut kills = self.kills.lock().expect("kills");
        kills.retain(|at| at.elapsed() < KILL_NOTICED);
        kills.pop().is_some()
    }
}

/// Why a step did not go to its end.
enum End {
    /// The connection was lost as it may be.
    Lost,
    Failed(String),
}

pub(super) struct Client<'a> {
    world: &'a World,
    id: u32,
    /// Number of the connection.
    life: u32,
    wire: Wire,
    model: Model,
    owner: String,
    step: u64,
    /// As the server has reported them; in the order of [`SETTINGS`].
    reported: [String; 2],
    /// A cancel request of this step may still hit.
    cancelling: bool,
    sent_at: Instant,
    trace: Trace,
    pub(super) tally: Tally,
}

fn log_in(world: &World, id: u32) -> Result<Wire, PgError> {
    loop {
        let mut wire = Wire::tcp(world.port);
        match wire.login("app", &world.database, "", &[("application_name", &format!("c{id}"))]) {
            Ok(()) => return Ok(wire),
            Err(_) if world.blame_a_kill() => {}
            Err(e) => return Err(e),
        }
    }
}

impl<'a> Client<'a> {
    pub(super) fn new(world: &'a World, id: u32) -> Client<'a> {
        let wire = log_in(world, id).unwrap_or_else(|e| panic!("client {id} does not get in: {e}"));
        let mut client = Client {
            world,
            id,
            life: 0,
            wire,
            model: Model::new(Session::new("", "")),
            owner: String::new(),
            step: 0,
            reported: Default::default(),
            cancelling: false,
            sent_at: Instant::now(),
            trace: Trace::default(),
            tally: Tally::default(),
        };
        client.begin_life();
        client
    }

    /// Takes what is remembered back to the state after a login.
    fn begin_life(&mut self) {
        self.life += 1;
        self.owner = format!("c{}-{}", self.id, self.life);
        self.reported = SETTINGS.map(|name| self.wire.params.get(name).cloned().unwrap_or_default());
        self.tally.transactions += self.model.session.transactions;
        self.tally.connections += 1;
        self.model = Model::new(Session::new(&format!("c{}", self.id), "Europe/Berlin"));
        self.cancelling = false;
    }

    fn reconnect(&mut self) -> Result<(), End> {
        self.wire = log_in(self.world, self.id).map_err(|e| End::Failed(format!("no login: {e}")))?;
        self.begin_life();
        Ok(())
    }

    /// Takes `steps` steps, unless another client fails meanwhile; the error is a report.
    pub(super) fn run(&mut self, steps: u64) -> Result<(), String> {
        while self.step < steps && !self.world.stop.load(Ordering::Relaxed) {
            self.step += 1;
            self.tally.steps += 1;
            match self.take_step() {
                Ok(()) | Err(End::Lost) => {}
                Err(End::Failed(what)) => return Err(self.report(&what)),
            }
        }
        match self.conclude() {
            Ok(()) | Err(End::Lost) => Ok(()),
            Err(End::Failed(what)) => Err(self.report(&what)),
        }
    }

    fn report(&mut self, what: &str) -> String {
        if self.world.stop.swap(true, Ordering::Relaxed) && what.starts_with("connection lost") {
            return format!("then client {}: {what}", self.id);
        }
        format!(
            "client {} (owner {}), step {}: {what}\nin transaction: {:?}, skipping: {}\n{}replay: {}",
            self.id,
            self.owner,
            self.step,
            self.model.session.transaction,
            self.model.is_skipping(),
            self.trace,
            self.world.options.replay()
        )
    }

    fn take_step(&mut self) -> Result<(), End> {
        let draw = Draw::new(&self.world.options, &self.model, self.id, &self.owner, self.step);
        let Step { kind, requests, cuts, besides } = generator::step(draw);
        self.tally.kind(kind);
        if let Besides::Leave(leave) = besides {
            return self.leave(leave, requests, &cuts);
        }
        let bytes = self.note(requests);
        self.send(&bytes, &cuts)?;
        match besides {
            Besides::Cancel(delay_us) => self.cancel(Duration::from_micros(delay_us))?,
            Besides::Kill => self.world.kill(),
            Besides::Nothing | Besides::Leave(_) => {}
        }
        self.settle()?;
        self.cancelling = false;
        let took = self.sent_at.elapsed();
        match self.world.query_timeout {
            Some(limit) if kind == "query_timeout" && took > limit + secs(1) => {
                Err(End::Failed(format!("query_timeout has not ended a query of {took:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Ends what is open, and looks whether this session's rows are what it has committed.
    fn conclude(&mut self) -> Result<(), End> {
        let mut end = vec![Request::Sync];
        if self.model.session.transaction != Transaction::None {
            end.push(Request::Query(vec![(Sql::Rollback, Vec::new())]));
        }
        self.say(end)?;
        let count = Sql::Count { owner: self.owner.clone() };
        self.say(vec![Request::Query(vec![(count, vec!["0".into(), "the end".into()])])])?;
        self.tally.transactions += self.model.session.transactions;
        Ok(())
    }

    fn say(&mut self, requests: Vec<Request>) -> Result<(), End> {
        let bytes = self.note(requests);
        self.send(&bytes, &[])?;
        self.settle()
    }

    /// Tells the model and the trace what will be sent.
    fn note(&mut self, requests: Vec<Request>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for request in requests {
            let message = request.bytes();
            self.trace.sent(self.step, &message);
            self.tally.sent += 1;
            bytes.extend(message);
            self.model.send(request);
        }
        bytes
    }

    fn send(&mut self, bytes: &[u8], cuts: &[u64]) -> Result<(), End> {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut % bytes.len().max(1) as u64) as usize).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut from = 0;
        self.sent_at = Instant::now();
        for end in ends {
            if from > 0 {
                // Long enough for the piece before to be read alone.
                thread::sleep(Duration::from_micros(200));
            }
            if let Err(e) = self.wire.send_and_take_in(&bytes[from..end]) {
                return match e.kind() {
                    std::io::ErrorKind::WouldBlock => Err(End::Failed("nobody reads what is sent".into())),
                    _ => self.lost(None),
                };
            }
            from = end;
        }
        Ok(())
    }

    fn cancel(&mut self, delay: Duration) -> Result<(), End> {
        self.cancelling = true;
        thread::sleep(delay);
        let mut canceller = Wire::tcp(self.world.port);
        canceller.send(&self.wire.cancel_packet());
        // Until this ends the request may hit whatever this client has sent, and nothing later.
        match canceller.read() {
            Err(Gone::Closed) => Ok(()),
            other => Err(End::Failed(format!("a cancel request is answered by {other:?}"))),
        }
    }

    fn leave(&mut self, leave: Leave, requests: Vec<Request>, cuts: &[u64]) -> Result<(), End> {
        let bytes = self.note(requests);
        let sent = match leave {
            Leave::CutShort => bytes.len() / 2,
            _ => bytes.len(),
        };
        self.send(&bytes[..sent], cuts)?;
        if cuts.is_empty() && sent == bytes.len() {
            self.take_reply()?;
        }
        match leave {
            Leave::Reset => {
                let fresh = log_in(self.world, self.id).map_err(|e| End::Failed(format!("no login: {e}")))?;
                std::mem::replace(&mut self.wire, fresh).reset();
                self.begin_life();
                return Ok(());
            }
            // The other side may have closed already.
            Leave::Terminate => drop(self.wire.try_send(&msg::terminate())),
            Leave::Close | Leave::CutShort => {}
        }
        self.reconnect()
    }

    /// Reads until nothing is owed.
    fn settle(&mut self) -> Result<(), End> {
        while self.take_reply()? {}
        Ok(())
    }

    /// Reads a message; false when the model expects none.
    fn take_reply(&mut self) -> Result<bool, End> {
        let Some(expected) = self.model.expected() else { return Ok(false) };
        let message = match self.wire.read() {
            Ok(message) => message,
            Err(Gone::Closed) => return self.lost(None).map(|()| false),
            Err(Gone::Timeout) => return Err(End::Failed(format!("HANG: {expected} does not come"))),
        };
        self.trace.received(self.step, &message);
        self.tally.received += 1;
        let is_foreseen = expected.matches(&message);
        let foreseen = if is_foreseen { String::new() } else { expected.to_string() };
        match message.tag {
            b'S' => self.note_parameter(&message),
            b'N' => self.check_notice(&message)?,
            _ if is_foreseen => {
                self.model.advance();
                match message.tag {
                    b'E' => self.tally.error(&message.error().code),
                    b'Z' => self.check_parameters()?,
                    _ => {}
                }
            }
            b'1' if !self.world.options.allow(Class::ParseInFailed) && self.model.parse_anyway() => {}
            b'E' => self.surprise(&message.error(), &foreseen)?,
            _ => return Err(End::Failed(format!("expected {foreseen}, got {message}"))),
        }
        Ok(true)
    }

    /// An error that the model does not foresee.
    fn surprise(&mut self, error: &PgError, expected: &str) -> Result<(), End> {
        if error.severity == "FATAL" {
            return self.lost(Some(error));
        }
        let is_failed = self.model.session.transaction == Transaction::Failed;
        // Describe of a statement without a result works in a failed transaction, if the server has it.
        let is_describe = expected.starts_with("Params");
        if is_failed && error.code == "25P02" && (is_describe || !self.world.options.allow(Class::ParseInFailed)) {
            // The refusal that the Parse was spared.
            self.model.interrupt();
            return Ok(());
        }
        if !(self.cancelling && error.code == "57014") {
            return Err(End::Failed(format!("expected {expected}, got {error}")));
        }
        self.tally.event("cancelled");
        self.model.interrupt();
        Ok(())
    }

    /// The connection is lost, or will be after `error`: that must have a cause.
    fn lost(&mut self, error: Option<&PgError>) -> Result<(), End> {
        let last_words = error.map_or("nothing said".to_owned(), ToString::to_string);
        let timed_out = self.world.query_timeout.is_some_and(|limit| self.sent_at.elapsed() >= limit - millis(300));
        let cancelled = self.cancelling && error.is_some_and(|error| error.code == "57014");
        let killed = error.is_none_or(|error| error.code == "57P01" || KILLED.contains(&error.message.as_str()));
        let cause = if timed_out {
            "lost to query_timeout"
        } else if cancelled {
            "lost to a cancel request"
        } else if killed && self.world.blame_a_kill() {
            "lost to a kill"
        } else {
            return Err(End::Failed(format!("connection lost: {last_words}")));
        };
        loop {
            match self.wire.read() {
                Ok(message) => self.trace.received(self.step, &message),
                Err(Gone::Closed) => break,
                Err(Gone::Timeout) => return Err(End::Failed(format!("still open after {last_words}"))),
            }
        }
        self.tally.event(cause);
        if let Some(error) = error {
            self.tally.error(&format!("FATAL {}", error.code));
        }
        self.reconnect()?;
        Err(End::Lost)
    }

    /// PostgreSQL warns of a COMMIT outside of a transaction and of a BEGIN within one.
    fn check_notice(&mut self, message: &Message) -> Result<(), End> {
        let notice = message.error();
        match notice.code.as_str() {
            "25001" | "25P01" => Ok(()),
            _ => Err(End::Failed(format!("notice {notice}"))),
        }
    }

    fn note_parameter(&mut self, message: &Message) {
        let pair = message.strings(0);
        if let Some(index) = SETTINGS.iter().position(|name| *name == pair[0]) {
            self.reported[index].clone_from(&pair[1]);
        }
    }

    /// What the server has reported is what this client has set.
    fn check_parameters(&self) -> Result<(), End> {
        let values = self.model.session.settings.values();
        if self.reported == *values {
            return Ok(());
        }
        Err(End::Failed(format!("parameters {SETTINGS:?}: expected {values:?}, reported {:?}", self.reported)))
    }
}
