//! `load`: clients that are in run transactions.

mod arrivals;
mod engine;

use std::io::{self, BufRead};
use std::thread;
use std::time::Duration;

use crate::connection::{Stream, Target};
use crate::histogram::Histogram;
use crate::transaction::{Mode, Transaction};
use arrivals::Arrivals;
use engine::Engine;

const LOGINS_AT_ONCE: usize = 16;

pub(crate) struct Load {
    pub(crate) sql: String,
    pub(crate) mode: Mode,
    /// Transactions under way at the most, all threads together.
    pub(crate) clients: usize,
    /// Clients that are in; at least `clients`.
    pub(crate) connected: usize,
    /// All that are in take turns, instead of the first `clients` alone.
    pub(crate) rotate: bool,
    pub(crate) seconds: f64,
    /// Before what is counted.
    pub(crate) warm_up: f64,
    /// Transactions per second that arrive whatever has become of those before; `None`: a client begins
    /// its next when the last is over.
    pub(crate) rate: Option<f64>,
    pub(crate) threads: usize,
    /// Each word on standard input begins a run, its end ends the clients.
    pub(crate) hold: bool,
}

/// What came of one run.
pub(crate) struct Outcome {
    /// From when a transaction was due to its end, of those that were due after the warm-up.
    pub(crate) took: Histogram,
    /// Those that ended after the warm-up and before the end of the run.
    pub(crate) counted: u64,
    /// All that were carried out.
    pub(crate) all: u64,
    /// Those that were due and never sent; they count in `took` with how long they had waited.
    pub(crate) unsent: u64,
}

impl Outcome {
    fn new() -> Outcome {
        Outcome { took: Histogram::new(), counted: 0, all: 0, unsent: 0 }
    }

    fn merge(&mut self, other: &Outcome) {
        self.took.merge(&other.took);
        self.counted += other.counted;
        self.all += other.all;
        self.unsent += other.unsent;
    }
}

/// What a word on standard input asks for.
#[derive(Clone, Copy)]
enum Command {
    /// The load.
    Run,
    /// One transaction for each that is connected.
    Once,
}

pub(crate) fn run(target: &Target, load: &Load) -> io::Result<()> {
    let transaction = Transaction::new(&load.sql, load.mode);
    let mut engines = connect(target, load, &transaction)?;
    if !load.hold {
        return carry_out(Command::Run, load, &mut engines);
    }
    println!(r#"{{"connected": {}}}"#, load.connected);
    for line in io::stdin().lock().lines() {
        match line?.as_str() {
            "run" => carry_out(Command::Run, load, &mut engines)?,
            "once" => carry_out(Command::Once, load, &mut engines)?,
            other => return Err(io::Error::other(format!("{other} is no command"))),
        }
    }
    Ok(())
}

/// So many of `all` for each thread.
fn share(all: usize, thread: usize, threads: usize) -> usize {
    all / threads + usize::from(thread < all % threads)
}

fn connect<'t>(target: &Target, load: &Load, transaction: &'t Transaction) -> io::Result<Vec<Engine<'t>>> {
    let threads = load.threads;
    let mut clients = log_in(target, load.connected)?.into_iter();
    let engine = |thread| {
        let mine: Vec<Stream> = clients.by_ref().take(share(load.connected, thread, threads)).collect();
        let turns = if load.rotate { mine.len() } else { share(load.clients, thread, threads) };
        Engine::new(mine, turns, transaction)
    };
    (0..threads).map(engine).collect()
}

/// Several at once, since each waits for the pooler a few times.
fn log_in(target: &Target, clients: usize) -> io::Result<Vec<Stream>> {
    thread::scope(|scope| {
        let some = move |first: usize| -> io::Result<Vec<Stream>> {
            (first..clients).step_by(LOGINS_AT_ONCE).map(|number| target.log_in(number)).collect()
        };
        let logins: Vec<_> = (0..LOGINS_AT_ONCE).map(|first| scope.spawn(move || some(first))).collect();
        let mut all = Vec::with_capacity(clients);
        for login in logins {
            all.append(&mut login.join().expect("a login does not panic")?);
        }
        Ok(all)
    })
}

fn carry_out(command: Command, load: &Load, engines: &mut [Engine<'_>]) -> io::Result<()> {
    let threads = engines.len();
    let secs = Duration::from_secs_f64;
    let outcome = thread::scope(|scope| {
        let runs: Vec<_> = (engines.iter_mut().enumerate())
            .map(|(thread, engine)| {
                let in_flight = share(load.clients, thread, threads);
                scope.spawn(move || match command {
                    Command::Once => engine.once(in_flight),
                    Command::Run => {
                        let arrivals = Arrivals::new(load.rate.map(|rate| rate / threads as f64));
                        engine.run(in_flight, arrivals, secs(load.warm_up), secs(load.seconds))
                    }
                })
            })
            .collect();
        let mut all = Outcome::new();
        for run in runs {
            all.merge(&run.join().expect("an engine does not panic")?);
        }
        io::Result::Ok(all)
    })?;
    let Outcome { took, counted, all, unsent } = &outcome;
    let tps = *counted as f64 / load.seconds;
    println!(r#"{{"tps": {tps:.1}, "transactions": {all}, "unsent": {unsent}, {}}}"#, took.json());
    Ok(())
}
