//! The old side of a takeover: gives everything to the process that takes over, piece by piece. See
//! [`crate::takeover`] for what is said.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::client::carry_out_for_successor;
use crate::control::{Doomed, Shutdown};
use crate::crew::Crew;
use crate::log::log_at;
use crate::pools::entries::Database;
use crate::pools::handover::parcel;
use crate::pools::stats::Totals;
use crate::pools::{Pools, ServerPool};
use crate::relay;
use crate::server::Server;
use crate::takeover::channel::{Reader, Writer, channel, invalid};
use crate::takeover::record::{AnswerRecord, Ask, AskRecord, Bytes, Hello, StatementRecord};
use crate::takeover::{Carried, Given, Giver, Parcel, tag};

/// For so long the new process may prepare itself.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// As many clients and servers are on their way at once: each has a descriptor more, and the system counts those.
const UNDER_WAY_MAX: usize = 64;

/// How often servers that nobody needs are looked for.
const LOOK: Duration = Duration::from_millis(20);
/// The same once most must have gone.
const LATE_LOOK: Duration = Duration::from_millis(250);
const LATE_AFTER: u32 = 250;

/// What the process is told of the one that takes over.
pub(crate) enum Event {
    /// It is ready to accept; answered when this process has stopped to.
    Ready(oneshot::Sender<()>),
    /// It ends, and this process is to end like that, too.
    Shutdown(Shutdown),
    Over(Outcome),
}

pub(crate) enum Outcome {
    /// Everything was given.
    Finished,
    /// It has never been ready: nothing has changed.
    NotReady(io::Error),
    /// It is gone. What it had is lost, everything else is still here.
    Lost(io::Error),
    /// It has ended as it was told to.
    Bye,
}

/// A takeover under way.
pub(crate) struct Giving {
    /// Of the other process, where the system tells it.
    pub(crate) pid: Option<u32>,
    events: mpsc::Receiver<Event>,
    /// `None` once used.
    finish: Option<oneshot::Sender<()>>,
}

/// What is given at the start.
pub(crate) struct Inventory {
    pub(crate) pools: Arc<Pools>,
    pub(crate) crew: Arc<Crew>,
    /// Each with whether its connections begin with a PROXY header.
    pub(crate) listeners: Vec<(OwnedFd, bool)>,
    pub(crate) are_activated: bool,
}

impl Giving {
    /// Begins to give to whoever is at the other end of `socket`, a connection of our own Unix socket.
    pub(crate) fn begin(socket: OwnedFd, inventory: Inventory) -> io::Result<Giving> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(socket)?;
        let pid = socket.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        let (writer, reader) = channel(socket);
        let (events, received) = mpsc::channel(2);
        let (finish, finishing) = oneshot::channel();
        tokio::spawn(async move {
            let outcome = give(&inventory, writer, reader, &events, finishing).await;
            inventory.crew.give(None);
            inventory.pools.set_giver(None);
            // Nobody listens only when the process ends.
            let _ = events.send(Event::Over(outcome)).await;
        });
        Ok(Giving { pid, events: received, finish: Some(finish) })
    }

    pub(crate) async fn next(&mut self) -> Event {
        let gone = || Event::Over(Outcome::Lost(io::ErrorKind::BrokenPipe.into()));
        self.events.recv().await.unwrap_or_else(gone)
    }

    /// No client is left: what else there is goes now, and the takeover is over.
    pub(crate) fn finish(&mut self) {
        if let Some(finish) = self.finish.take() {
            let _ = finish.send(());
        }
    }
}

async fn give(
    inventory: &Inventory,
    writer: Writer,
    mut reader: Reader,
    events: &mpsc::Sender<Event>,
    finishing: oneshot::Receiver<()>,
) -> Outcome {
    let offered = tokio::time::timeout(READY_TIMEOUT, offer(inventory, &writer, &mut reader)).await;
    if let Err(e) = offered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        return Outcome::NotReady(e);
    }
    let (stopped, has_stopped) = oneshot::channel();
    if events.send(Event::Ready(stopped)).await.is_err() || has_stopped.await.is_err() {
        return Outcome::Lost(io::ErrorKind::BrokenPipe.into());
    }
    let Inventory { pools, crew, .. } = inventory;
    let (giver, parcels) = Giver::new();
    let (answers, answered) = mpsc::unbounded_channel();
    let asked = |AskRecord { number, ask }| {
        let (pools, crew, answers) = (Arc::clone(pools), Arc::clone(crew), answers.clone());
        tokio::spawn(async move {
            let is_done = carry_out(pools, crew, ask).await;
            // The other process may be gone.
            let _ = answers.send(AnswerRecord { number, is_done });
        });
    };
    let under_way = Arc::new(UnderWay::default());
    let deal = Deal {
        pools,
        writer,
        under_way: Arc::clone(&under_way),
        room: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
        known_pools: HashSet::new(),
        known_statements: HashSet::new(),
        coming: BTreeMap::new(),
        counted: BTreeMap::new(),
    };
    pools.set_giver(Some(giver.clone()));
    crew.give(Some(&giver));
    let outcome = conclude(deal.run(parcels, answered, finishing), listen(reader, &under_way, asked, events)).await;
    under_way.lose();
    outcome
}

async fn conclude(dealt: impl Future<Output = io::Result<()>>, listening: impl Future<Output = Outcome>) -> Outcome {
    let mut listening = pin!(listening);
    tokio::select! {
        outcome = &mut listening => outcome,
        dealt = dealt => match dealt {
            Ok(()) => Outcome::Finished,
            // What it has acknowledged is its own, however it has ended: so it is heard to its end.
            Err(_) => listening.await,
        },
    }
}

/// Tells the new process what it needs to get ready, and waits until it is.
async fn offer(inventory: &Inventory, writer: &Writer, reader: &mut Reader) -> io::Result<()> {
    let pools = &inventory.pools;
    let hello = Hello {
        pid: std::process::id(),
        last_statement: relay::last_number(),
        tracked: pools.tracked.names().to_vec(),
        are_activated: inventory.are_activated,
    };
    writer.send(tag::HELLO, &hello, &[]).await?;
    for (listener, is_proxied) in &inventory.listeners {
        writer.send(tag::LISTENER, is_proxied, std::slice::from_ref(listener)).await?;
    }
    writer.send(tag::HELLO_END, &(), &[]).await?;
    match reader.next().await?.tag {
        tag::READY => Ok(()),
        other => Err(invalid(other)),
    }
}

/// What the new process has not acknowledged.
enum Sent {
    Client(oneshot::Sender<Given>),
    Server(Box<Server>, Arc<ServerPool>),
}

/// What is on its way, oldest first, each with its place.
#[derive(Default)]
struct UnderWay(Mutex<VecDeque<(Sent, OwnedSemaphorePermit)>>);

impl UnderWay {
    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<(Sent, OwnedSemaphorePermit)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, sent: Sent, place: OwnedSemaphorePermit) {
        self.queue().push_back((sent, place));
    }

    /// The oldest belongs to the new process; false: there is none.
    fn acknowledge(&self) -> bool {
        let oldest = self.queue().pop_front();
        match oldest {
            Some((Sent::Client(answer), _)) => {
                let _ = answer.send(Given::Taken);
                true
            }
            Some((Sent::Server(..), _)) => true,
            None => false,
        }
    }

    /// There is no new process any more: clients learn it as their senders go.
    fn lose(&self) {
        for (sent, _) in std::mem::take(&mut *self.queue()) {
            if let Sent::Server(server, pool) = sent {
                pool.add_idle(server);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }
}

/// Everything that is sent after the commit.
struct Deal<'a> {
    pools: &'a Arc<Pools>,
    writer: Writer,
    under_way: Arc<UnderWay>,
    room: Arc<Semaphore>,
    /// What the new process was told of already, by number.
    known_pools: HashSet<u64>,
    known_statements: HashSet<u64>,
    /// Servers that it was told to expect, by the pool's number.
    coming: BTreeMap<u64, u32>,
    /// What it was told that was counted, by database.
    counted: BTreeMap<Arc<str>, Totals>,
}

impl Deal<'_> {
    async fn run(
        mut self,
        mut parcels: mpsc::Receiver<Parcel>,
        mut answered: mpsc::UnboundedReceiver<AnswerRecord>,
        mut finishing: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        self.writer.send(tag::STATE, &self.pools.state_record(), &[]).await?;
        self.send_pools().await?;
        self.send_coming().await?;
        self.send_stats().await?;
        self.writer.send(tag::COMMIT, &(), &[]).await?;
        let mut looks = 0;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(parcel) = parcels.recv() => self.send_parcel(parcel).await?,
                Some(answer) = answered.recv() => self.writer.send(tag::ANSWER, &answer, &[]).await?,
                _ = look.tick() => {
                    self.send_spare().await?;
                    self.send_coming().await?;
                    looks += 1;
                    if looks == LATE_AFTER {
                        look = tokio::time::interval(LATE_LOOK);
                    }
                }
                _ = &mut finishing => return self.finish().await,
            }
        }
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.send_spare().await?;
        while !self.under_way.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.send_stats().await?;
        // The other end of the connection may be gone from here on.
        self.writer.send(tag::FINISHED, &(), &[]).await
    }

    async fn place(&self) -> io::Result<OwnedSemaphorePermit> {
        Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)
    }

    async fn send_parcel(&mut self, parcel: Parcel) -> io::Result<()> {
        let Parcel { carried, statements, fds, answer } = parcel;
        let record = match carried {
            Carried::Client(record) => record,
            Carried::Arrival { is_proxied } => {
                let place = self.place().await?;
                self.under_way.push(Sent::Client(answer), place);
                return self.writer.send(tag::ARRIVAL, &is_proxied, &fds).await;
            }
            // These are not given by sessions.
            Carried::Server(_) => return Ok(()),
        };
        if !self.known_pools.contains(&record.pool) {
            self.send_pools().await?;
        }
        if !self.known_pools.contains(&record.pool) {
            // Its database was removed by a reload: it is told so when it next needs a server.
            let _ = answer.send(Given::Stays);
            return Ok(());
        }
        self.send_statements(&statements).await?;
        let place = self.place().await?;
        self.under_way.push(Sent::Client(answer), place);
        self.writer.send(tag::CLIENT, &*record, &fds).await
    }

    /// Tells of all pools that the new process does not know.
    async fn send_pools(&mut self) -> io::Result<()> {
        for pool in self.pools.pools() {
            if self.known_pools.insert(pool.number) {
                self.writer.send(tag::POOL, &pool.record(), &[]).await?;
            }
        }
        Ok(())
    }

    async fn send_statements(&mut self, statements: &[Arc<relay::Statement>]) -> io::Result<()> {
        for statement in statements {
            if self.known_statements.insert(statement.id) {
                let record = StatementRecord {
                    id: statement.id,
                    pool: statement.dialect.pool,
                    settings: statement.dialect.settings,
                    is_retired: statement.is_retired(),
                    body: Bytes(statement.body().to_vec()),
                };
                self.writer.send(tag::STATEMENT, &record, &[]).await?;
            }
        }
        Ok(())
    }

    /// Gives the idle servers that the clients which are left have no use for.
    async fn send_spare(&mut self) -> io::Result<()> {
        for pool in self.pools.pools() {
            for server in pool.take_spare() {
                self.send_server(server, &pool).await?;
            }
        }
        Ok(())
    }

    async fn send_server(&mut self, server: Box<Server>, pool: &Arc<ServerPool>) -> io::Result<()> {
        let Some((Carried::Server(record), statements, fds)) = parcel(&server, pool) else {
            server.close("cannot go to the process that takes over");
            return Ok(());
        };
        let place = self.place().await?;
        self.under_way.push(Sent::Server(server, Arc::clone(pool)), place);
        if !self.known_pools.contains(&pool.number) {
            self.send_pools().await?;
        }
        self.send_statements(&statements).await?;
        self.writer.send(tag::SERVER, &*record, &fds).await
    }

    /// Tells what was counted since it was told last.
    async fn send_stats(&mut self) -> io::Result<()> {
        let counted = self.pools.ledger.sums(|_| true).databases;
        let news = counted.iter().map(|(database, totals)| {
            let told = self.counted.get(database).copied().unwrap_or_default();
            (Arc::clone(database), totals.since(told).values())
        });
        let news: Vec<(Arc<str>, Vec<u64>)> = news.collect();
        self.counted = counted;
        self.writer.send(tag::STATS, &news, &[]).await
    }

    /// Tells how many servers of each pool will still come, with the clients that have them: the new process
    /// makes none in their place.
    async fn send_coming(&mut self) -> io::Result<()> {
        let coming = coming(self.pools);
        let gone = self.coming.keys().filter(|pool| !coming.contains_key(pool)).map(|pool| (*pool, 0));
        let changed = coming.iter().filter(|(pool, n)| self.coming.get(pool) != Some(n)).map(|(pool, n)| (*pool, *n));
        let news: Vec<(u64, u32)> = gone.chain(changed).filter(|(pool, _)| self.known_pools.contains(pool)).collect();
        self.coming = coming;
        if news.is_empty() { Ok(()) } else { self.writer.send(tag::COMING, &news, &[]).await }
    }
}

/// Servers that clients have who will go, by the number of the pool.
fn coming(pools: &Pools) -> BTreeMap<u64, u32> {
    let mut linked: BTreeMap<(Arc<str>, Arc<str>), u32> = BTreeMap::new();
    for client in pools.registry.clients() {
        if client.link() == 0 || client.replication.is_some() {
            continue;
        }
        if let Some(server) = pools.registry.server(client.link()).filter(|server| server.tls.is_none()) {
            *linked.entry((Arc::clone(&server.database), Arc::clone(&server.user))).or_default() += 1;
        }
    }
    let of = |pool: Arc<ServerPool>| {
        let key = (Arc::clone(&pool.database.name), Arc::clone(&pool.user.name));
        linked.get(&key).map(|n| (pool.number, *n))
    };
    pools.pools().into_iter().filter_map(of).collect()
}

/// Hears the new process out.
async fn listen(
    mut reader: Reader,
    under_way: &UnderWay,
    asked: impl Fn(AskRecord),
    events: &mpsc::Sender<Event>,
) -> Outcome {
    let mut has_said_bye = false;
    let heard: io::Result<Infallible> = async {
        loop {
            let message = reader.next().await?;
            match message.tag {
                tag::ACK if under_way.acknowledge() => {}
                tag::ASK => asked(message.record()?),
                tag::BYE => {
                    has_said_bye = true;
                    match message.record::<Option<Shutdown>>()? {
                        Some(how) => {
                            let _ = events.send(Event::Shutdown(how)).await;
                        }
                        None => log_at!(
                            Log,
                            "the clients that are left stay here: another process takes over from the next"
                        ),
                    }
                }
                other => return Err(invalid(other)),
            }
        }
    }
    .await;
    match heard {
        Ok(never) => match never {},
        Err(_) if has_said_bye => Outcome::Bye,
        Err(e) => Outcome::Lost(e),
    }
}

/// Does what the new process was told, for the clients that are left; false if that is about nothing here.
async fn carry_out(pools: Arc<Pools>, crew: Arc<Crew>, ask: Ask) -> bool {
    let name = match &ask {
        Ask::Cancel { key } => return carry_out_for_successor(pools, key.clone()).await,
        Ask::Pause { database } | Ask::Resume { database } | Ask::Kill { database } | Ask::Reconnect { database } => {
            database.clone()
        }
    };
    let found = pools.databases().into_iter().find(|database| Some(&database.name) == name.as_ref());
    if name.is_some() && found.is_none() {
        return false;
    }
    let database = found.as_deref();
    // First the one before this.
    pools.elder.ask(ask.clone()).await;
    match ask {
        Ask::Pause { .. } => {
            pools.pause(database);
            let is_paused = || database.map_or(pools.is_paused(), Database::is_paused);
            while is_paused() && pools.in_use(database) > 0 {
                tokio::time::sleep(LOOK).await;
            }
        }
        Ask::Resume { .. } => {
            let _ = pools.resume(database) || database.is_none() && pools.resume_killed();
        }
        Ask::Reconnect { .. } => pools.reconnect(database),
        Ask::Kill { .. } => {
            pools.kill(database);
            let mut killed = crew.kill(&name.map_or(Doomed::All, Doomed::OfDatabase));
            while killed.recv().await.is_some() {}
        }
        Ask::Cancel { .. } => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has become of two clients that were sent to a process which acknowledges one, and then does `more`.
    async fn after(more: impl AsyncFnOnce(&Writer)) -> (Outcome, [Option<Given>; 2]) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ((_writer, reader), (writer, _)) = (channel(ours), channel(theirs));
        let (under_way, room) = (UnderWay::default(), Arc::new(Semaphore::new(2)));
        let mut answers = Vec::new();
        for _ in 0..2 {
            let (answer, answered) = oneshot::channel();
            under_way.push(Sent::Client(answer), Arc::clone(&room).acquire_owned().await.unwrap());
            answers.push(answered);
        }
        writer.send(tag::ACK, &(), &[]).await.unwrap();
        more(&writer).await;
        drop(writer);
        let (events, _received) = mpsc::channel(2);
        let dealt = async { Err(io::ErrorKind::BrokenPipe.into()) };
        let outcome = conclude(dealt, listen(reader, &under_way, |_| {}, &events)).await;
        under_way.lose();
        (outcome, [answers.remove(0).try_recv().ok(), answers.remove(0).try_recv().ok()])
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_gone_however_the_other_process_ends() {
        // Which of the two ends of a takeover is seen first is a matter of luck.
        for _ in 0..20 {
            let (outcome, given) = after(async |_| {}).await;
            assert!(matches!(outcome, Outcome::Lost(_)));
            assert_eq!(given, [Some(Given::Taken), None]);
            let (outcome, given) = after(async |writer| {
                writer.send(tag::BYE, &None::<Shutdown>, &[]).await.unwrap();
            })
            .await;
            assert!(matches!(outcome, Outcome::Bye));
            assert_eq!(given, [Some(Given::Taken), None]);
        }
    }

    #[tokio::test]
    async fn what_makes_no_sense_ends_it() {
        let (outcome, _) = after(async |writer| writer.send(b'?', &(), &[]).await.unwrap()).await;
        assert!(matches!(outcome, Outcome::Lost(e) if e.kind() == io::ErrorKind::InvalidData));
    }
}
