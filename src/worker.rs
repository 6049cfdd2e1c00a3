//! A worker: one thread that serves its clients from login to end.
//!
//! Its runtime is single-threaded, so what is here needs no lock. Whoever is outside sends
//! commands; the figures that others look at are in the registry.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::gettid;
use pgweir_proto::client_error::ClientError;
use slab::Slab;

use crate::control::Doomed;
use crate::net::clock;
use crate::net::outbox::{Lane, Outbox, Towards};
use crate::registry::{ClientInfo, ClientState};
use crate::relay::RequestLimits;
use crate::takeover::Giver;

/// What one read can take. It is the worker's, not a connection's: an idle client has none.
pub(crate) const SCRATCH_LEN: usize = 64 * 1024;

/// As many steps of logins are taken in a turn: a step takes up to a hundred microseconds, a
/// session's a few, and whoever is in must not notice how many others want to be.
const LOGIN_STEPS_PER_TURN: u32 = 4;

/// As many polls are a turn at the most. With 64 sends the outbox is full anyway.
const POLLS_PER_TURN: u32 = 128;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// How much a worker has to do, for whoever places new clients and for the console.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Clients that were given to it and are not gone.
    clients: AtomicU32,
    /// Of its sessions, those that have a server, and those that wait for one, when they were
    /// last looked at.
    linked: AtomicU32,
    waiting: AtomicU32,
    /// What the system calls its thread.
    thread_id: AtomicI32,
    /// It sends through io_uring.
    is_uring: AtomicBool,
    /// Turns of its loop.
    turns: AtomicU64,
    /// Processor time in the second that was last looked at, in thousandths of it.
    busy_permille: AtomicU32,
    /// Processor time that its thread has taken. Not the time that it was not parked: where
    /// others want the cores too, that says nothing of its own work.
    busy_us: AtomicU64,
}

impl Load {
    pub(crate) fn clients(&self) -> u32 {
        self.clients.load(Ordering::Relaxed)
    }

    pub(crate) fn busy_us(&self) -> u64 {
        self.busy_us.load(Ordering::Relaxed)
    }

    pub(crate) fn linked(&self) -> u32 {
        self.linked.load(Ordering::Relaxed)
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn thread_id(&self) -> u32 {
        self.thread_id.load(Ordering::Relaxed).cast_unsigned()
    }

    pub(crate) fn is_uring(&self) -> bool {
        self.is_uring.load(Ordering::Relaxed)
    }

    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    pub(crate) fn busy_permille(&self) -> u32 {
        self.busy_permille.load(Ordering::Relaxed)
    }

    pub(crate) fn set_busy_permille(&self, permille: u32) {
        self.busy_permille.store(permille, Ordering::Relaxed);
    }

    /// What never changes; to be called on the worker's own thread.
    pub(crate) fn note_thread(&self, is_uring: bool) {
        self.thread_id.store(gettid().as_raw(), Ordering::Relaxed);
        self.is_uring.store(is_uring, Ordering::Relaxed);
    }

    /// Notes the processor time of the calling thread, the worker's own.
    fn note_busy(&self) {
        if let Ok(time) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
            self.busy_us.store(Duration::from(time).as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// Counts a client in; it is counted out when what is returned is dropped.
    pub(crate) fn client(self: &Arc<Self>) -> Placed {
        self.clients.fetch_add(1, Ordering::Relaxed);
        Placed(Arc::clone(self))
    }
}

/// The loads of all workers, in the order of their ids.
#[derive(Debug, Default)]
pub(crate) struct Roster(Mutex<Vec<Arc<Load>>>);

impl Roster {
    pub(crate) fn add(&self, load: &Arc<Load>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(load));
    }

    pub(crate) fn loads(&self) -> Vec<Arc<Load>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A client's weight on its worker.
pub(crate) struct Placed(Arc<Load>);

impl Drop for Placed {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the sessions of one thread share.
pub(crate) struct Worker {
    pub(crate) id: usize,
    pub(crate) outbox: Outbox,
    /// Where everything is read into. Borrowed for one read and its processing, never across
    /// an await.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// The time when this loop turn began.
    now_us: Cell<u64>,
    /// Sessions polled since the runtime has parked, or since the last turn was made to end.
    polls: Cell<u32>,
    /// Turns so far.
    turns: Cell<u64>,
    pub(crate) load: Arc<Load>,
    /// Logins that wait for a later turn.
    logins: RefCell<VecDeque<(Waker, Rc<Cell<Pace>>)>>,
    /// Steps that logins may still take in this turn.
    login_steps: Cell<u32>,
    /// SUSPEND is in force.
    pub(crate) must_rest: Cell<bool>,
    /// Settings that every message is held against.
    pub(crate) limits: Cell<RequestLimits>,
    /// Where sessions go as soon as they rest; `None`: nowhere.
    giver: RefCell<Option<Giver>>,
    is_giving: Cell<bool>,
    /// The sessions, for commands from outside.
    sessions: RefCell<Slab<Rc<SessionCell>>>,
    /// Those that have a server or wait for one, or have since the janitor looked last.
    busy: RefCell<Vec<Rc<SessionCell>>>,
}

/// How a login gets on with its next step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// When it is ready, if this turn has one left.
    Free,
    /// Not before it has been woken in its turn.
    Waiting,
    /// Its turn has come.
    Next,
}

/// Why a session must end although neither side wants it to.
#[derive(Debug)]
pub(crate) struct Kill {
    pub(crate) error: ClientError,
    /// Whether the client is told, or just finds the connection closed.
    pub(crate) tell: bool,
}

/// The side of a session that others may touch.
pub(crate) struct SessionCell {
    pub(crate) info: Arc<ClientInfo>,
    pub(crate) to_client: Rc<Lane>,
    pub(crate) to_server: Rc<Lane>,
    /// The client is in a transaction and has been answered: its own idling counts.
    pub(crate) is_idle_in_transaction: Cell<bool>,
    /// The client was told that it is in; before that, nothing but an error may be sent.
    pub(crate) is_welcomed: Cell<bool>,
    /// The notice that it waits for a server was sent (`query_wait_notify`).
    pub(crate) was_notified: Cell<bool>,
    /// SUSPEND: it has come to rest, and is woken when it may go on.
    pub(crate) is_resting: Cell<bool>,
    /// Boxed, as hardly anybody has one.
    kill: Cell<Option<Box<Kill>>>,
    /// It is on the worker's list of the busy.
    is_listed_busy: Cell<bool>,
}

impl SessionCell {
    /// `to_client` is open.
    pub(crate) fn new(info: Arc<ClientInfo>, to_client: Rc<Lane>) -> SessionCell {
        SessionCell {
            info,
            to_client,
            to_server: Rc::new(Lane::new(Towards::Server)),
            is_idle_in_transaction: Cell::new(false),
            is_welcomed: Cell::new(false),
            was_notified: Cell::new(false),
            is_resting: Cell::new(false),
            kill: Cell::new(None),
            is_listed_busy: Cell::new(false),
        }
    }

    /// To be called by the session's task before anything else; a task's waker never changes.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        self.to_client.set_waker(waker);
        self.to_server.set_waker(waker);
        self.info.set_waker(waker);
    }

    /// Ends the session the next time that it runs, which is at once. The first reason stays.
    pub(crate) fn kill(&self, error: ClientError, tell: bool) {
        let first = self.kill.take();
        self.kill.set(first.or_else(|| Some(Box::new(Kill { error, tell }))));
        self.wake();
    }

    /// It has a server, or waits for one.
    fn is_busy(&self) -> bool {
        self.info.link() != 0 || self.info.state() == ClientState::Waiting
    }

    fn wake(&self) {
        self.to_client.wake();
    }

    pub(crate) fn is_killed(&self) -> bool {
        let kill = self.kill.take();
        let is_killed = kill.is_some();
        self.kill.set(kill);
        is_killed
    }

    #[inline]
    pub(crate) fn take_kill(&self) -> Option<Box<Kill>> {
        self.kill.take()
    }
}

impl Worker {
    pub(crate) fn new(id: usize, outbox: Outbox, load: Arc<Load>, limits: RequestLimits) -> Worker {
        Worker {
            id,
            outbox,
            scratch: RefCell::new(vec![0; SCRATCH_LEN].into_boxed_slice()),
            now_us: Cell::new(clock::now_us()),
            polls: Cell::new(0),
            turns: Cell::new(0),
            logins: RefCell::default(),
            login_steps: Cell::new(LOGIN_STEPS_PER_TURN),
            load,
            must_rest: Cell::new(false),
            limits: Cell::new(limits),
            giver: RefCell::new(None),
            is_giving: Cell::new(false),
            sessions: RefCell::new(Slab::new()),
            busy: RefCell::default(),
        }
    }

    /// Makes this the worker of the calling thread.
    pub(crate) fn install(self: &Rc<Self>) {
        CURRENT.set(Some(Rc::clone(self)));
    }

    /// The loop turn is over: send what it produced. Called by the runtime before it parks.
    pub(crate) fn on_park() {
        CURRENT.with_borrow(|worker| {
            if let Some(worker) = worker {
                worker.outbox.flush();
                worker.go_on_with_logins();
            }
        });
    }

    /// A new turn begins. Called by the runtime after it parked.
    pub(crate) fn on_unpark() {
        CURRENT.with_borrow(|worker| {
            if let Some(worker) = worker {
                worker.begin_turn();
            }
        });
    }

    fn begin_turn(&self) {
        self.polls.set(0);
        self.turns.set(self.turns.get() + 1);
        self.now_us.set(clock::now_us());
    }

    /// Ends a loop turn: sends what it has produced, and looks at the clock.
    pub(crate) fn turn(&self) {
        self.outbox.flush();
        self.begin_turn();
        self.go_on_with_logins();
    }

    /// The next turn's share of logins.
    fn go_on_with_logins(&self) {
        let mut logins = self.logins.borrow_mut();
        let now = logins.len().min(LOGIN_STEPS_PER_TURN as usize);
        for (waker, pace) in logins.drain(..now) {
            pace.set(Pace::Next);
            waker.wake();
        }
        self.login_steps.set(LOGIN_STEPS_PER_TURN - now as u32);
    }

    /// A login that takes no more than its share of this thread: the rest waits for later turns, in
    /// the order in which it became ready.
    pub(crate) async fn paced<T>(&self, mut login: Pin<&mut impl Future<Output = T>>) -> T {
        let pace = Rc::new(Cell::new(Pace::Free));
        poll_fn(|cx| match pace.get() {
            Pace::Waiting => Poll::Pending,
            Pace::Free if self.login_steps.get() == 0 => {
                pace.set(Pace::Waiting);
                self.logins.borrow_mut().push_back((cx.waker().clone(), Rc::clone(&pace)));
                Poll::Pending
            }
            now => {
                if now == Pace::Free {
                    self.login_steps.set(self.login_steps.get() - 1);
                }
                pace.set(Pace::Free);
                login.as_mut().poll(cx)
            }
        })
        .await
    }

    /// A session is polled. A runtime that is never out of work never parks, but what is to be
    /// sent must not wait for that.
    #[inline]
    pub(crate) fn note_poll(&self) {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() >= POLLS_PER_TURN {
            self.turn();
        }
    }

    /// The time when this loop turn began, in microseconds of the process clock.
    #[inline]
    pub(crate) fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    /// For the console, and for whoever decides on the number of workers: how many sessions have a
    /// server, and how many wait for one.
    pub(crate) fn note_load(&self, linked: u32, waiting: u32) {
        self.load.linked.store(linked, Ordering::Relaxed);
        self.load.waiting.store(waiting, Ordering::Relaxed);
        self.load.turns.store(self.turns.get(), Ordering::Relaxed);
        self.load.note_busy();
    }

    /// Has every session go to another process, or none.
    pub(crate) fn set_giver(&self, giver: Option<Giver>) {
        self.is_giving.set(giver.is_some());
        *self.giver.borrow_mut() = giver;
        self.wake_sessions();
    }

    pub(crate) fn giver(&self) -> Option<Giver> {
        self.giver.borrow().clone()
    }

    #[inline]
    pub(crate) fn is_giving(&self) -> bool {
        self.is_giving.get()
    }

    /// Has every session look around.
    pub(crate) fn wake_sessions(&self) {
        self.each_session(SessionCell::wake);
    }

    /// Lists a session; the key takes it off again.
    pub(crate) fn enlist(&self, cell: &Rc<SessionCell>) -> usize {
        self.sessions.borrow_mut().insert(Rc::clone(cell))
    }

    pub(crate) fn delist(&self, key: usize) {
        // Until the janitor looks there.
        self.sessions.borrow_mut().remove(key).is_listed_busy.set(false);
    }

    /// The session has a server from now on, or waits for one, or is to be looked at soon.
    #[inline]
    pub(crate) fn note_busy(&self, cell: &Rc<SessionCell>) {
        if !cell.is_listed_busy.replace(true) {
            self.busy.borrow_mut().push(Rc::clone(cell));
        }
    }

    /// Ends the sessions of these clients; returns the ids of those that are here.
    pub(crate) fn kill(&self, doomed: &Doomed) -> Vec<u64> {
        let mut ids = Vec::new();
        self.each_session(|cell| {
            let (is_meant, error) = match doomed {
                Doomed::All => (true, ClientError::DatabaseKilled),
                Doomed::OfDatabase(name) => (cell.info.database == *name, ClientError::DatabaseKilled),
                Doomed::Client(id) => (cell.info.id == *id, ClientError::AdminDisconnect),
            };
            if is_meant {
                cell.kill(error, true);
                ids.push(cell.info.id);
            }
        });
        ids
    }

    /// SUSPEND: sessions come to rest as soon as they have nothing under way. Returns how many have
    /// not; those are ended if `is_late`.
    pub(crate) fn rest(&self, is_late: bool) -> usize {
        self.must_rest.set(true);
        let mut awake = 0;
        self.each_session(|cell| {
            if !cell.is_resting.get() {
                awake += 1;
                match is_late {
                    true => cell.kill(ClientError::SuspendTimeout, true),
                    false => cell.wake(),
                }
            }
        });
        awake
    }

    /// RESUME after SUSPEND.
    pub(crate) fn go_on(&self) {
        self.must_rest.set(false);
        self.each_session(|cell| {
            if cell.is_resting.replace(false) {
                cell.wake();
            }
        });
    }

    /// Looks at the sessions that have a server or wait for one, and a last time at those that had or
    /// did. However many idle, they cost nothing here. The closure must not make one busy.
    pub(crate) fn each_busy(&self, mut look: impl FnMut(&SessionCell)) {
        self.busy.borrow_mut().retain(|cell| {
            if !cell.is_listed_busy.get() {
                return false;
            }
            look(cell);
            cell.is_listed_busy.set(cell.is_busy());
            cell.is_listed_busy.get()
        });
    }

    /// Looks at every session. The closure must not enlist or delist.
    pub(crate) fn each_session(&self, mut look: impl FnMut(&SessionCell)) {
        self.sessions.borrow().iter().for_each(|(_, cell)| look(cell));
    }
}
