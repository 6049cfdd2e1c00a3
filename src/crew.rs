//! The workers as a crew: started, given clients, and more of them while they are busy.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgweir_config::{Settings, Workers};
use pgweir_proto::client_error::ClientError;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::accept::{Door, accept};
use crate::client::handover::{Adoptee, serve_adoptee};
use crate::client::{self, Arrival, Clients, timeouts};
use crate::control::Doomed;
use crate::log::log_at;
use crate::net::outbox::Outbox;
use crate::net::ring::Ring;
use crate::net::stream::{Detached, Stream};
use crate::relay::{RequestLimits, TrackingSettings};
use crate::takeover::Giver;
use crate::worker::{Load, Placed, Roster, Worker};

/// A worker that takes this share of a core (in percent) while others could run gets company. A second worker costs wake-ups, so not before the first is nearly full.
const BUSY_PERCENT: u64 = 85;

/// How often that is looked at, and how often in a row it must hold.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOKS: u32 = 3;

/// So many new clients of another worker's are taken on before those who are in have their turn again.
const ARRIVALS_PER_TURN: usize = 16;

/// What a worker is sent.
enum ToWorker {
    Client(Arrival<Detached>, Placed),
    /// It accepts from these and no others. Answered when it does.
    Accept(Arc<Crew>, Vec<Door>, oneshot::Sender<()>),
    /// A client of the process before this one.
    Adoptee(Box<Adoptee>, Placed),
    /// A reload has changed them.
    Limits(RequestLimits),
    /// Answered with the ids of those that it found.
    Kill(Doomed, UnboundedSender<Vec<u64>>),
    /// See `Command::Rest`.
    Rest(bool, UnboundedSender<usize>),
    GoOn,
    /// Its sessions go to another process, or stay.
    Give(Option<Giver>),
    /// Its sessions end, and are told why.
    EndAll(ClientError),
}

#[derive(Clone)]
struct Member {
    send: UnboundedSender<ToWorker>,
    load: Arc<Load>,
}

/// All workers.
pub(crate) struct Crew {
    members: Mutex<Vec<Member>>,
    /// The loads of the members, for the console.
    pub(crate) roster: Arc<Roster>,
    clients: Arc<Clients>,
    io_uring: bool,
    max: usize,
    /// Sessions are going to another process.
    is_giving: AtomicBool,
}

pub(crate) fn request_limits(settings: &Settings) -> RequestLimits {
    let tracking = TrackingSettings {
        per_server: settings.max_prepared_statements as usize,
        client_len_max: settings.max_client_prepared_size as usize,
    };
    RequestLimits {
        max_packet_size: settings.max_packet_size as usize,
        disable_pqexec: settings.disable_pqexec,
        tracking,
        track_session_use: settings.track_session_use,
    }
}

/// How many workers there are at first, and at the most.
pub(crate) fn size(settings: &Settings) -> (usize, usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match settings.workers {
        Workers::Auto => (1, cores),
        Workers::Count(n) => (n as usize, n as usize),
    }
}

impl Crew {
    pub(crate) fn start(clients: Arc<Clients>) -> std::io::Result<Arc<Crew>> {
        let config = clients.pools.config();
        let (first, max) = size(&config.settings);
        let crew = Crew {
            members: Mutex::default(),
            roster: Arc::default(),
            clients,
            io_uring: config.settings.io_uring,
            max,
            is_giving: AtomicBool::new(false),
        };
        for _ in 0..first {
            crew.add()?;
        }
        Ok(Arc::new(crew))
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one more worker.
    fn add(&self) -> std::io::Result<()> {
        let mut members = self.members();
        let id = members.len();
        let (send, receive) = unbounded_channel();
        let load = Arc::new(Load::default());
        let (clients, io_uring, its_load) = (Arc::clone(&self.clients), self.io_uring, Arc::clone(&load));
        let runtime = move || -> std::io::Result<()> {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .on_thread_park(Worker::on_park)
                .on_thread_unpark(Worker::on_unpark)
                .build_local(LocalOptions::default())?;
            runtime.block_on(work(id, clients, io_uring, its_load, receive));
            Ok(())
        };
        std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            if let Err(e) = runtime() {
                log_at!(Fatal, "worker {id} cannot start: {e}");
            }
        })?;
        self.roster.add(&load);
        members.push(Member { send, load });
        Ok(())
    }

    /// Has the first worker accept from these doors and no others; answered when it does.
    pub(crate) fn accept(self: &Arc<Self>, doors: Vec<Door>) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        if let Some(member) = self.members().first() {
            let _ = member.send.send(ToWorker::Accept(Arc::clone(self), doors, answer));
        }
        answered
    }

    /// Gives a new client to the worker with the fewest, which may be the one `here`. `None`: here is none.
    pub(crate) fn place(&self, arrival: Arrival<Stream>, here: Option<&Rc<Worker>>) {
        let members = self.members();
        let Some(member) = members.iter().min_by_key(|member| member.load.clients()) else { return };
        let placed = member.load.client();
        if let Some(here) = here.filter(|here| Arc::ptr_eq(&member.load, &here.load)) {
            drop(members);
            return take_on(&self.clients, here, arrival, placed);
        }
        match arrival.detach() {
            // A worker ends with the process only.
            Ok(arrival) => drop(member.send.send(ToWorker::Client(arrival, placed))),
            Err(e) => log_at!(Warning, "a new client cannot go to its worker: {e}"),
        }
    }

    /// The same for a client of the process before this one.
    pub(crate) fn place_adoptee(&self, adoptee: Adoptee) {
        let members = self.members();
        let Some(member) = members.iter().min_by_key(|member| member.load.clients()) else { return };
        let placed = member.load.client();
        let _ = member.send.send(ToWorker::Adoptee(Box::new(adoptee), placed));
    }

    pub(crate) fn set_limits(&self, limits: RequestLimits) {
        self.tell_all(|| ToWorker::Limits(limits));
    }

    /// Has all sessions go to another process as soon as they rest, or stay again. A worker that is added later
    /// would not know, but while clients leave there is no need of more.
    pub(crate) fn give(&self, giver: Option<&Giver>) {
        self.is_giving.store(giver.is_some(), Ordering::Relaxed);
        self.tell_all(|| ToWorker::Give(giver.cloned()));
    }

    pub(crate) fn end_all(&self, error: &ClientError) {
        self.tell_all(|| ToWorker::EndAll(error.clone()));
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for member in &*self.members() {
            let _ = member.send.send(message());
        }
    }

    /// Ends sessions; each worker tells the ids of their clients.
    pub(crate) fn kill(&self, doomed: &Doomed) -> UnboundedReceiver<Vec<u64>> {
        self.ask(|answer| ToWorker::Kill(doomed.clone(), answer))
    }

    /// Lets all sessions come to rest, and ends those that have not if `is_late`; each worker tells
    /// how many those are.
    pub(crate) fn rest(&self, is_late: bool) -> UnboundedReceiver<usize> {
        self.ask(|answer| ToWorker::Rest(is_late, answer))
    }

    /// Sessions that rest go on.
    pub(crate) fn go_on(&self) {
        self.tell_all(|| ToWorker::GoOn);
    }

    /// The answers of all workers, and then the end.
    fn ask<T>(&self, message: impl Fn(UnboundedSender<T>) -> ToWorker) -> UnboundedReceiver<T> {
        let (send, receive) = unbounded_channel();
        for member in &*self.members() {
            let _ = member.send.send(message(send.clone()));
        }
        receive
    }

    /// With `workers = auto`, adds workers while those there are busy. Never ends.
    pub(crate) async fn grow(self: Arc<Self>) {
        let (mut before, mut busy_looks) = (Vec::new(), 0);
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let loads = self.roster.loads();
            let now: Vec<u64> = loads.iter().map(|load| load.busy_us()).collect();
            for (load, (now, before)) in loads.iter().zip(now.iter().zip(&before)) {
                load.set_busy_permille(((now - before) / LOOK_EVERY.as_millis() as u64) as u32);
            }
            let full_us = LOOK_EVERY.as_micros() as u64 * BUSY_PERCENT / 100;
            let is_busy =
                now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now - before >= full_us);
            before = now;
            busy_looks = if is_busy { busy_looks + 1 } else { 0 };
            if busy_looks >= LOOKS && before.len() < self.max && !self.is_giving.load(Ordering::Relaxed) {
                busy_looks = 0;
                match self.add() {
                    Ok(()) => log_at!(Log, "workers are busy: started one more, now {}", before.len() + 1),
                    Err(e) => log_at!(Warning, "workers are busy, but no further one can be started: {e}"),
                }
            }
        }
    }
}

/// A worker's life.
async fn work(
    id: usize,
    clients: Arc<Clients>,
    io_uring: bool,
    load: Arc<Load>,
    mut receive: UnboundedReceiver<ToWorker>,
) {
    let (ring, error) = Ring::new(io_uring);
    match error {
        Some(e) => log_at!(Log, "worker {id}: no io_uring ({e}), using plain sends"),
        None if ring.is_uring() => log_at!(Debug, "worker {id}: sends through io_uring"),
        None => log_at!(Debug, "worker {id}: plain sends, as io_uring = 0 says"),
    }
    load.note_thread(ring.is_uring());
    let limits = request_limits(&clients.pools.config().settings);
    let worker = Rc::new(Worker::new(id, Outbox::new(ring), load, limits));
    worker.install();
    tokio::task::spawn_local(timeouts::watch(Rc::clone(&worker), Arc::clone(&clients.pools)));
    let (mut arrived, mut accepting) = (0, JoinSet::new());
    while let Some(message) = receive.recv().await {
        match message {
            ToWorker::Limits(limits) => worker.limits.set(limits),
            ToWorker::Kill(doomed, answer) => {
                let _ = answer.send(worker.kill(&doomed));
            }
            ToWorker::Rest(is_late, answer) => {
                let _ = answer.send(worker.rest(is_late));
            }
            ToWorker::GoOn => worker.go_on(),
            ToWorker::Give(giver) => worker.set_giver(giver),
            ToWorker::EndAll(error) => worker.each_session(|cell| cell.kill(error.clone(), true)),
            ToWorker::Adoptee(adoptee, placed) => {
                let (clients, worker) = (Arc::clone(&clients), Rc::clone(&worker));
                serve_adoptee(&clients, &worker, *adoptee, placed);
            }
            ToWorker::Client(arrival, placed) => {
                match arrival.attach() {
                    Ok(arrival) => take_on(&clients, &worker, arrival, placed),
                    Err(e) => log_at!(Warning, "a new client cannot be served: {e}"),
                }
                arrived += 1;
                if arrived % ARRIVALS_PER_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            ToWorker::Accept(crew, doors, answer) => {
                accepting.shutdown().await;
                for door in doors {
                    let (crew, worker) = (Arc::clone(&crew), Rc::clone(&worker));
                    accepting.spawn_local(async move {
                        accept(door, &crew.clients, |arrival| crew.place(arrival, Some(&worker))).await;
                    });
                }
                // The process may be at its end.
                let _ = answer.send(());
            }
        }
    }
}

fn take_on(clients: &Arc<Clients>, worker: &Rc<Worker>, arrival: Arrival<Stream>, placed: Placed) {
    tokio::task::spawn_local(client::serve(Arc::clone(clients), Rc::clone(worker), arrival, placed));
}
