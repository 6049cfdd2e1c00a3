//! One thread's clients and its loop.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::thread::set_current_timer_slack;

use super::Outcome;
use super::arrivals::Arrivals;
use crate::connection::Stream;
use crate::transaction::{Replies, Transaction};

/// What one wait can bring.
const EVENTS_MAX: usize = 1024;
const READ_MAX: usize = 64 * 1024;

/// What is under way at the end of a run may take this long.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Nothing that each client does once takes longer.
const ONCE_MAX: Duration = Duration::from_secs(600);

struct Client {
    stream: Stream,
    replies: Replies,
    /// When the transaction under way was due.
    due: Option<Instant>,
}

pub(super) struct Engine<'t> {
    transaction: &'t Transaction,
    epoll: OwnedFd,
    clients: Vec<Client>,
    /// Clients whose turn it is, longest without a transaction first.
    free: VecDeque<usize>,
    under_way: usize,
    scratch: Vec<u8>,
}

/// What is to be done, and what has come of it.
struct Run<'r> {
    request: &'r [u8],
    /// Transactions under way at the most.
    in_flight: usize,
    arrivals: Arrivals,
    /// Whether a client has another turn.
    again: bool,
    /// What is due from here on is counted.
    begin: Instant,
    /// Nothing begins any more.
    end: Instant,
    outcome: Outcome,
}

impl<'t> Engine<'t> {
    /// The first `turns` of the clients run transactions, the others are only there.
    pub(super) fn new(clients: Vec<Stream>, turns: usize, transaction: &'t Transaction) -> io::Result<Engine<'t>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let client = |stream| Client { stream, replies: Replies::default(), due: None };
        let clients: Vec<Client> = clients.into_iter().map(client).collect();
        for (number, client) in clients.iter().enumerate() {
            client.stream.socket().set_nonblocking(true)?;
            epoll::add(&epoll, client.stream.socket(), EventData::new_u64(number as u64), EventFlags::IN)?;
        }
        let (free, scratch) = ((0..turns).collect(), vec![0; READ_MAX]);
        let mut engine = Engine { transaction, epoll, free, clients, under_way: 0, scratch };
        if !transaction.first.is_empty() {
            engine.each(turns, &transaction.first, turns)?;
        }
        Ok(engine)
    }

    /// One transaction for every client.
    pub(super) fn once(&mut self, in_flight: usize) -> io::Result<Outcome> {
        self.each(self.clients.len(), &self.transaction.request, in_flight)
    }

    /// `request` once for each of the first `clients`.
    fn each(&mut self, clients: usize, request: &[u8], in_flight: usize) -> io::Result<Outcome> {
        let turns = std::mem::replace(&mut self.free, (0..clients).collect());
        let begin = Instant::now();
        let (arrivals, end, outcome) = (Arrivals::new(None), begin + ONCE_MAX, Outcome::new());
        let mut run = Run { request, in_flight, arrivals, again: false, begin, end, outcome };
        self.carry_out(&mut run)?;
        self.free = turns;
        Ok(run.outcome)
    }

    /// `warm_up`, and then `counted`, of load.
    pub(super) fn run(
        &mut self,
        in_flight: usize,
        arrivals: Arrivals,
        warm_up: Duration,
        counted: Duration,
    ) -> io::Result<Outcome> {
        // By default the kernel may be 50 us late.
        set_current_timer_slack(NonZeroU64::new(1))?;
        let (request, begin) = (&*self.transaction.request, Instant::now() + warm_up);
        let (end, outcome) = (begin + counted, Outcome::new());
        let mut run = Run { request, in_flight, arrivals, again: true, begin, end, outcome };
        self.carry_out(&mut run)?;
        let Run { arrivals, outcome, .. } = &mut run;
        for due in arrivals.left(end).filter(|due| *due >= begin) {
            outcome.took.add(end - due);
            outcome.unsent += 1;
        }
        Ok(run.outcome)
    }

    fn carry_out(&mut self, run: &mut Run<'_>) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            let now = Instant::now();
            self.begin_due(run, now)?;
            let may_begin = now < run.end && !self.free.is_empty() && self.under_way < run.in_flight;
            if self.under_way == 0 && !may_begin {
                return Ok(());
            }
            let until = if may_begin { run.arrivals.next_due(now).min(run.end) } else { run.end };
            let until = if now < run.end { until } else { run.end + DRAIN_MAX };
            if until < now {
                return Err(io::Error::other(format!("{} transactions do not end", self.under_way)));
            }
            wait(&self.epoll, &mut events, until - now)?;
            for event in events.drain(..) {
                let number = { event.data }.u64() as usize;
                if self.read(number)? {
                    self.ended(number, run)?;
                }
            }
        }
    }

    /// Begins what is due and has a client.
    #[inline]
    fn begin_due(&mut self, run: &mut Run<'_>, now: Instant) -> io::Result<()> {
        while now < run.end
            && self.under_way < run.in_flight
            && let Some(&number) = self.free.front()
            && let Some(due) = run.arrivals.take(now)
        {
            self.free.pop_front();
            let client = &mut self.clients[number];
            // A socket that takes nothing although all that was asked is answered would be no slowness, but a fault.
            client.stream.write_all(run.request)?;
            client.stream.flush()?;
            client.due = Some(due);
            self.under_way += 1;
        }
        Ok(())
    }

    /// True: the client's transaction is over.
    #[inline]
    fn read(&mut self, number: usize) -> io::Result<bool> {
        let Client { stream, replies, .. } = &mut self.clients[number];
        loop {
            let n = match stream.read(&mut self.scratch) {
                Ok(0) => return Err(io::Error::other("the pooler has closed a connection")),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            };
            if replies.take(&self.scratch[..n])? {
                return Ok(true);
            }
            // What is left in a socket wakes us again, what is left in a TLS session does not.
            if matches!(stream, Stream::Plain(_)) {
                return Ok(false);
            }
        }
    }

    #[inline]
    fn ended(&mut self, number: usize, run: &mut Run<'_>) -> io::Result<()> {
        let now = Instant::now();
        let due = self.clients[number].due.take().ok_or_else(|| io::Error::other("a reply to nothing"))?;
        self.under_way -= 1;
        run.outcome.all += 1;
        run.outcome.counted += u64::from(run.begin <= now && now < run.end);
        if due >= run.begin {
            run.outcome.took.add(now - due);
        }
        if run.again {
            self.free.push_back(number);
        }
        self.begin_due(run, now)
    }
}

fn wait(epoll: &OwnedFd, events: &mut Vec<Event>, timeout: Duration) -> io::Result<()> {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    match epoll::wait(epoll, spare_capacity(events), Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
