//! The new side of a takeover: takes everything from the process before. See [`crate::takeover`] for what is said.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use pgweir_config::{CONSOLE_DATABASE, Settings};
use pgweir_proto::auth::Authentication;
use pgweir_proto::backend;
use pgweir_proto::error_response::ErrorFields;
use pgweir_proto::frontend;
use pgweir_proto::startup::{ProtocolVersion, startup_message};
use socket2::{Domain, Socket, Type};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::accept;
use crate::client::Clients;
use crate::client::handover::{adopt, turn_away};
use crate::control::Shutdown;
use crate::crew::Crew;
use crate::log::log_at;
use crate::net::listener::{Inherited, ListenError, Listeners, UnixName};
use crate::pools::handover::{AdoptedPool, ElderPool};
use crate::pools::stats::Totals;
use crate::relay::{self, Dialect, Statement};
use crate::takeover::channel::{Message, Reader, Writer, channel, invalid};
use crate::takeover::record::{
    AnswerRecord, AskRecord, ClientRecord, Hello, PoolRecord, ServerRecord, StatementRecord,
};
use crate::takeover::{ElderAsk, FORMAT, tag};

/// For so long the old process may take for each of its answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Nobody waits longer for a goodbye to be said.
const BYE_TIMEOUT: Duration = Duration::from_secs(1);

/// So much is on its way to be asked of the old process at once, cancel requests mostly.
const ASKS_MAX: usize = 1024;

/// The console's own user, whom the owner of the process needs no password for.
const CONSOLE_USER: &str = "pgbouncer";

/// Why there is no takeover. The old process serves on.
#[derive(Debug)]
pub(crate) enum TakeError {
    NoUnixSocket,
    Connect(io::Error),
    /// It runs as somebody else.
    OtherUser(u32),
    /// What it has said to the command.
    Refused(String),
    Broken(io::Error),
    Listener(io::Error),
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TakeError::NoUnixSocket => f.write_str("cannot reboot if unix dir not configured"),
            TakeError::Connect(e) => write!(f, "cannot reboot: cannot connect to the running process: {e}"),
            TakeError::OtherUser(uid) => {
                write!(f, "cannot reboot: the running process belongs to the user with number {uid}, which is not ours")
            }
            TakeError::Refused(why) => write!(f, "cannot reboot: the running process refuses: {why}"),
            TakeError::Broken(e) => {
                write!(f, "takeover failed; the running process serves on, unless it has ended: {e}")
            }
            TakeError::Listener(e) => write!(f, "takeover failed, a socket is not what it should be: {e}"),
        }
    }
}

/// A takeover before its commit.
pub(crate) struct Taking {
    writer: Writer,
    reader: Reader,
    hello: Hello,
    listeners: Vec<Inherited>,
}

/// Speaks to the process that runs with these settings; `None`: there is none.
pub(crate) async fn begin(settings: &Settings) -> Result<Option<Taking>, TakeError> {
    let name = UnixName::of(settings).ok_or(TakeError::NoUnixSocket)?;
    let Some(socket) = connect(&name)? else { return Ok(None) };
    let (writer, reader) = channel(socket);
    let asked = tokio::time::timeout(ANSWER_TIMEOUT, ask(writer, reader)).await;
    asked.unwrap_or_else(|_| Err(TakeError::Broken(io::ErrorKind::TimedOut.into()))).map(Some)
}

fn connect(name: &UnixName) -> Result<Option<UnixStream>, TakeError> {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.connect(&name.address()?)?;
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket.into())
    };
    let socket = match connect() {
        Ok(socket) => socket,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(TakeError::Connect(e)),
    };
    let uid = socket.peer_cred().map_err(TakeError::Connect)?.uid();
    // Of a socket that a service manager has opened, root.
    if uid != geteuid().as_raw() && uid != 0 {
        return Err(TakeError::OtherUser(uid));
    }
    Ok(Some(socket))
}

async fn ask(writer: Writer, mut reader: Reader) -> Result<Taking, TakeError> {
    let mut startup = Vec::new();
    startup_message(&mut startup, ProtocolVersion::V3_0, &[("user", CONSOLE_USER), ("database", CONSOLE_DATABASE)]);
    writer.send_bytes(&startup, &[]).await.map_err(TakeError::Broken)?;
    loop {
        match next(&mut reader).await? {
            Message { tag: backend::READY_FOR_QUERY, .. } => break,
            Message { tag: backend::AUTHENTICATION, body }
                if !matches!(Authentication::parse(&body), Ok(Authentication::Ok)) =>
            {
                return Err(TakeError::Refused("it asks for a password".into()));
            }
            _ => {}
        }
    }
    let mut command = Vec::new();
    frontend::query(&mut command, &format!("TAKEOVER {FORMAT}"));
    writer.send_bytes(&command, &[]).await.map_err(TakeError::Broken)?;
    let first = next(&mut reader).await?;
    if first.tag != tag::HELLO {
        return Err(TakeError::Broken(invalid(first.tag)));
    }
    let hello = first.record().map_err(TakeError::Broken)?;
    let mut listeners = Vec::new();
    loop {
        let message = next(&mut reader).await?;
        match message.tag {
            tag::LISTENER => {
                let is_proxied = message.record().map_err(TakeError::Broken)?;
                let fd = reader.fd().map_err(TakeError::Broken)?;
                listeners.push(Inherited::new(fd, is_proxied).map_err(TakeError::Listener)?);
            }
            tag::HELLO_END => return Ok(Taking { writer, reader, hello, listeners }),
            other => return Err(TakeError::Broken(invalid(other))),
        }
    }
}

/// The next message, unless it is an error.
async fn next(reader: &mut Reader) -> Result<Message, TakeError> {
    let message = reader.next().await.map_err(TakeError::Broken)?;
    if message.tag == backend::ERROR_RESPONSE {
        return Err(TakeError::Refused(ErrorFields::parse(&message.body).message.into_owned()));
    }
    Ok(message)
}

impl Taking {
    /// Its sockets, as far as the settings name them, and those that it does not have.
    pub(crate) fn listeners(&mut self, settings: &Settings) -> Result<Listeners, ListenError> {
        let inherited = std::mem::take(&mut self.listeners);
        match self.hello.are_activated {
            true => Ok(Listeners::activated(settings, inherited)),
            false => Listeners::bind_others(settings, inherited),
        }
    }

    /// Has the old process stop accepting: from here on there is no way back. What it has comes from now on.
    pub(crate) async fn commit(self, clients: &Arc<Clients>, crew: &Arc<Crew>) -> Result<Taker, TakeError> {
        let Taking { writer, reader, hello, .. } = self;
        relay::begin_numbers_after(hello.last_statement);
        let pools = &clients.pools;
        let is_like = hello.tracked == pools.tracked.names();
        let mut legacy = Legacy {
            clients: Arc::clone(clients),
            crew: Arc::clone(crew),
            writer,
            reader,
            is_like,
            pools: HashMap::new(),
            statements: HashMap::new(),
            asks: HashMap::new(),
            taken: (0, 0),
        };
        let committed = async {
            legacy.writer.send(tag::READY, &(), &[]).await?;
            loop {
                let message = legacy.reader.next().await?;
                match message.tag {
                    tag::COMMIT => return Ok(()),
                    _ => legacy.take(message).await?,
                }
            }
        };
        let committed = tokio::time::timeout(ANSWER_TIMEOUT, committed).await;
        committed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(TakeError::Broken)?;
        log_at!(Log, "taking over from process {}", hello.pid);
        let (bye, is_bye) = oneshot::channel();
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        pools.elder.set(Some(asks));
        tokio::spawn(legacy.run(hello.pid, asked, is_bye));
        Ok(Taker { bye })
    }
}

/// A takeover after its commit.
pub(crate) struct Taker {
    bye: oneshot::Sender<Bye>,
}

/// How this process ends, if it does, and what is answered when that was said.
type Bye = (Option<Shutdown>, oneshot::Sender<()>);

impl Taker {
    /// This process ends, or another takes over from it (`None`): the one before must not think that it has to help.
    pub(crate) async fn say_bye(self, how: Option<Shutdown>) {
        let (said, is_said) = oneshot::channel();
        // That process may be gone already.
        if self.bye.send((how, said)).is_ok() {
            let _ = tokio::time::timeout(BYE_TIMEOUT, is_said).await;
        }
    }
}

/// What comes from the old process.
struct Legacy {
    clients: Arc<Clients>,
    crew: Arc<Crew>,
    writer: Writer,
    reader: Reader,
    /// It tracks the same parameters: settings under which texts were analysed mean the same here.
    is_like: bool,
    /// By the old process' numbers; `None`: there is no such database here.
    pools: HashMap<u64, Option<ElderPool>>,
    /// All that it has told of, for as long as it is there.
    statements: HashMap<u64, Arc<Statement>>,
    /// What it was asked and has not answered.
    asks: HashMap<u64, oneshot::Sender<bool>>,
    /// Clients and servers, for the log.
    taken: (u64, u64),
}

impl Legacy {
    async fn run(mut self, pid: u32, mut asked: mpsc::Receiver<ElderAsk>, is_bye: oneshot::Receiver<Bye>) {
        let mut is_bye = Some(is_bye);
        let mut last_ask = 0;
        let ended = loop {
            let said_bye = async {
                match &mut is_bye {
                    Some(is_bye) => is_bye.await.ok(),
                    None => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                message = self.reader.next() => match message {
                    Ok(Message { tag: tag::FINISHED, .. }) => break Ok(()),
                    Ok(message) => self.take(message).await,
                    Err(e) => Err(e),
                },
                Some(ElderAsk { ask, answer }) = asked.recv() => {
                    last_ask += 1;
                    self.asks.insert(last_ask, answer);
                    self.writer.send(tag::ASK, &AskRecord { number: last_ask, ask }, &[]).await
                }
                said = said_bye => {
                    is_bye = None;
                    let Some((how, said)) = said else { continue };
                    let sent = self.writer.send(tag::BYE, &how, &[]).await;
                    let _ = said.send(());
                    sent
                }
            };
            if let Err(e) = done {
                break Err(e);
            }
        };
        self.clients.pools.elder.set(None);
        for elder in self.pools.values().flatten() {
            elder.expect(0);
        }
        let (clients, servers) = self.taken;
        match ended {
            Ok(()) => log_at!(Log, "takeover from process {pid} is finished: {clients} clients, {servers} servers"),
            Err(e) => {
                // Whatever is wrong between the two, the old process must not accept beside this one.
                let _ = self.writer.send(tag::BYE, &None::<Shutdown>, &[]).await;
                log_at!(Error, "process {pid} is gone ({e}) after {clients} clients and {servers} servers");
            }
        }
    }

    async fn take(&mut self, message: Message) -> io::Result<()> {
        match message.tag {
            tag::STATE => self.clients.pools.adopt_state(&message.record()?),
            tag::POOL => {
                let record: PoolRecord = message.record()?;
                let number = record.number;
                self.pools.insert(number, self.clients.pools.adopt_pool(record));
            }
            tag::STATEMENT => self.take_statement(message.record()?),
            tag::COMING => {
                for (number, coming) in message.record::<Vec<(u64, u32)>>()? {
                    if let Some(Some(elder)) = self.pools.get(&number) {
                        elder.expect(coming);
                    }
                }
            }
            tag::STATS => {
                for (database, values) in message.record::<Vec<(Arc<str>, Vec<u64>)>>()? {
                    let totals = Totals::from_values(values).ok_or_else(|| invalid(message.tag))?;
                    self.clients.pools.ledger.add(&database, totals);
                }
            }
            tag::CLIENT => {
                let record: ClientRecord = message.record()?;
                let fds = (0..=u8::from(record.server.is_some())).map(|_| self.reader.fd());
                let fds = fds.collect::<io::Result<Vec<OwnedFd>>>()?;
                self.take_client(record, fds).await?;
                self.taken.0 += 1;
            }
            tag::SERVER => {
                let fd = self.reader.fd()?;
                self.take_server(message.record()?, fd).await?;
                self.taken.1 += 1;
            }
            tag::ARRIVAL => {
                let (is_proxied, fd) = (message.record()?, self.reader.fd()?);
                self.writer.send(tag::ACK, &(), &[]).await?;
                match accept::adopt(fd, is_proxied, &self.clients) {
                    Ok(Some(arrival)) => self.crew.place(arrival, None),
                    Ok(None) => {}
                    Err(e) => log_at!(Debug, "a connection of the process before was lost: {e}"),
                }
            }
            tag::ANSWER => {
                let AnswerRecord { number, is_done } = message.record()?;
                if let Some(answer) = self.asks.remove(&number) {
                    // Whoever has asked may not wait any more.
                    let _ = answer.send(is_done);
                }
            }
            other => return Err(invalid(other)),
        }
        Ok(())
    }

    fn take_statement(&mut self, record: StatementRecord) {
        let Some(Some(elder)) = self.pools.get(&record.pool) else { return };
        // Settings that mean something else here are those of nobody: the text is prepared anew before its next use.
        let settings = if self.is_like { record.settings } else { 0 };
        let dialect = Dialect { pool: elder.pool.number, settings };
        let statement = relay::adopt(record.id, &record.body.0, dialect, record.is_retired);
        self.statements.insert(record.id, statement);
    }

    fn pool(&self, number: u64) -> io::Result<Option<AdoptedPool>> {
        let elder = self.pools.get(&number).ok_or_else(|| invalid(tag::POOL))?;
        Ok(elder.as_ref().and_then(|elder| self.clients.pools.adopted(elder)))
    }

    async fn take_client(&self, record: ClientRecord, fds: Vec<OwnedFd>) -> io::Result<()> {
        let Some(adopted) = self.pool(record.pool)? else {
            self.writer.send(tag::ACK, &(), &[]).await?;
            if let Some(fd) = fds.into_iter().next() {
                turn_away(&self.clients.pools.config().settings, record, fd);
            }
            return Ok(());
        };
        let statement = |id| self.statements.get(&id).cloned();
        let adoptee = adopt(&self.clients, record, adopted, fds.into_iter(), &statement);
        let adoptee = adoptee.ok_or_else(|| invalid(tag::CLIENT))?;
        // First this: what it does from now on, only this process has seen.
        match self.writer.send(tag::ACK, &(), &[]).await {
            Ok(()) => self.crew.place_adoptee(adoptee),
            Err(e) => {
                adoptee.discard(&self.clients.pools);
                return Err(e);
            }
        }
        Ok(())
    }

    async fn take_server(&self, record: ServerRecord, fd: OwnedFd) -> io::Result<()> {
        self.writer.send(tag::ACK, &(), &[]).await?;
        let Some(AdoptedPool { member, is_same: true }) = self.pool(record.pool)? else { return Ok(()) };
        let pool = &member.pool;
        let Some(permits) = pool.permits_within_limits() else { return Ok(()) };
        let statement = |id| self.statements.get(&id).cloned();
        let server = pool.adopt_server(record, fd, permits, &statement).ok_or_else(|| invalid(tag::SERVER))?;
        pool.add_idle(server);
        Ok(())
    }
}
