//! Login: who the client is, where it wants to go, whether it may, and what it is told.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pgweir_config::{CONSOLE_DATABASE, Config};
use pgweir_proto::cancel::CancelKey;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::proxy::ProxySource;
use pgweir_proto::replication::Replication;
use pgweir_proto::startup::ProtocolVersion;
use tokio::io::AsyncWriteExt;

use super::admission::LoginPlace;
use super::cancel::CancelRequest;
use super::end::End;
use super::handshake::{self, Encryption, HandshakeError, Hello, Startup};
use super::login_stream::{LoginStream, Parts};
use super::proxy::{self, HeaderError};
use super::secrets::{Proven, Secrets};
use super::session::{Seat, Session};
use super::welcome::welcome;
use super::{ClientSlot, Clients, ConsoleAccess, ConsoleClient, Newcomer, replication, sqlstates};
use crate::auth::{self, Asked, AuthError, Method, Origin, Outside, Reason};
use crate::log::{self, Level, Subject, Topic};
use crate::net::clock;
use crate::pool::Permit;
use crate::pools::entries::{Database, User};
use crate::pools::{Membership, Pools, Walsender};
use crate::registry::{ClientInfo, Ends};
use crate::server::connect::ServerSecret;
use crate::server::parameters::{APPLICATION_NAME, Parameters};
use crate::worker::Worker;

/// How often a client is looked at while others are asked about its user.
const CLIENT_LOOK: Duration = Duration::from_millis(500);

/// Why a login does not become a session.
pub(super) enum Refused {
    Client {
        error: ClientError,
        /// For the log only.
        reason: Option<Reason>,
    },
    /// The client went away, or its connection broke.
    Gone(String),
    /// It ended amidst what comes before a login, or, from a balancer, without a word of a client: as checks of whether
    /// somebody listens do. PgBouncer does not log it either.
    Silent,
    /// It is none, but a cancel request.
    Cancel(CancelKey),
}

impl From<ClientError> for Refused {
    fn from(error: ClientError) -> Refused {
        Refused::Client { error, reason: None }
    }
}

impl From<HandshakeError> for Refused {
    fn from(error: HandshakeError) -> Refused {
        match error {
            HandshakeError::Client(error) => error.into(),
            HandshakeError::Eof => Refused::Silent,
            HandshakeError::Gone(reason) => Refused::Gone(reason.to_owned()),
        }
    }
}

impl From<AuthError> for Refused {
    fn from(error: AuthError) -> Refused {
        match error {
            AuthError::Refused { error, reason } => Refused::Client { error, reason },
            AuthError::Eof => Refused::Silent,
            AuthError::Gone(reason) => Refused::Gone(reason.to_string()),
        }
    }
}

/// The names in this client's log lines, as far as they are known.
struct Who {
    id: u64,
    ends: Ends,
    database: String,
    user: String,
    connect_us: u64,
}

impl Who {
    fn log(&self, text: std::fmt::Arguments<'_>) {
        self.log_at(Level::Log, text);
    }

    fn log_at(&self, level: Level, text: std::fmt::Arguments<'_>) {
        let Who { id, database, user, ends, .. } = self;
        log::write_about(Subject::client(*id, database, user, ends), level, text);
    }
}

/// Takes a new client through its login. `None`: there is no session, and all is said.
pub(super) async fn log_in(clients: &Arc<Clients>, worker: &Rc<Worker>, newcomer: Newcomer) -> Option<Session> {
    let Newcomer { stream, ends, is_proxied, slot, place: mut login_place, connect_us } = newcomer;
    let (id, mut stream) = (slot.id(), LoginStream::new(stream, worker));
    let mut who = Who { id, ends, database: "(nodb)".into(), user: "(nouser)".into(), connect_us };
    match &who.ends {
        Ends::Tcp { peer, local } => who.log_at(Level::Debug, format_args!("P: got connection: {peer} -> {local}")),
        Ends::Unix { .. } => who.log_at(Level::Debug, format_args!("P: got connection: unix->unix")),
    }
    let config = clients.pools.config();
    let limit = some(config.settings.client_login_timeout);
    let left = || {
        let elapsed = Duration::from_micros(clock::now_us() - connect_us);
        limit.map(|limit| limit.saturating_sub(elapsed))
    };
    let identified = {
        let step = pin!(async {
            if is_proxied {
                come_from(&config, &mut stream, &mut who, &mut login_place).await?;
                slot.set_ends(&who.ends);
            }
            identify(clients, worker.id, &config, &mut stream, &mut who, &mut login_place, &slot).await
        });
        within(left(), ClientError::LoginTimeout, step).await
    };
    drop(login_place);
    let admitted = match identified {
        Ok(admitted) => admitted,
        Err(Refused::Cancel(key)) => {
            let mut slot = slot;
            slot.logged_in();
            let (pools, ends, tls) = (Arc::clone(&clients.pools), who.ends, stream.stream().tls_description());
            let (socket, _) = stream.detach().ok()?;
            let request = CancelRequest { pools, key, id, ends, tls, connect_us, _held: Some((socket, slot)) };
            clients.pools.control.spawn(request.carry_out());
            return None;
        }
        Err(refused) => {
            refuse(clients, &stream, &who, refused).await;
            return None;
        }
    };
    match admitted.place {
        Place::Console(access, permits) => {
            // What was sent there is out.
            let (socket, ahead) = stream.detach().ok()?;
            let Who { ends, user, .. } = who;
            let application_name = admitted.asked.get(APPLICATION_NAME).cloned();
            let user = user.into();
            let client =
                ConsoleClient { id, socket, ahead, ends, user, access, application_name, slot, permits, connect_us };
            // The console is gone only when the process goes.
            let _ = clients.console.send(client);
            None
        }
        Place::Pool(place) => {
            let walsender = place.walsender.clone();
            let mut session = enter(clients, worker, stream.into_parts(), &who, place, admitted.asked, slot);
            let welcomed = match walsender {
                // It may have to queue, as others do once they are in: query_wait_timeout is for that.
                Some(walsender) => replication::welcome(&mut session, &config, walsender, admitted.unsent).await,
                None => {
                    let step = pin!(welcome(&mut session, &config, admitted.unsent));
                    within(left(), ClientError::LoginTimeoutServerDown, step).await
                }
            };
            if let Err(refused) = welcomed {
                let end = match refused {
                    Refused::Client { error, .. } => End::Error(error),
                    Refused::Gone(_) | Refused::Silent | Refused::Cancel(_) => End::ClientEof,
                };
                session.finish(end).await;
                return None;
            }
            session.cell.is_welcomed.set(true);
            session.slot.logged_in();
            who.log_at(Level::Debug, format_args!("logged in"));
            Some(session)
        }
    }
}

/// An identified client.
struct Admitted {
    /// The parameters that it asked for.
    asked: Parameters,
    place: Place,
    /// What it gets in front of its welcome.
    unsent: Vec<u8>,
}

enum Place {
    Console(ConsoleAccess, [Permit; 2]),
    Pool(PoolPlace),
}

struct PoolPlace {
    member: Membership,
    permits: [Permit; 2],
    user: Arc<User>,
    database: Arc<Database>,
    protocol: ProtocolVersion,
    /// `Some`: the client gets a server of its own.
    walsender: Option<Walsender>,
}

async fn within<T>(
    limit: Option<Duration>,
    late: ClientError,
    step: Pin<&mut impl Future<Output = Result<T, Refused>>>,
) -> Result<T, Refused> {
    match limit {
        None => step.await,
        Some(limit) => tokio::time::timeout(limit, step).await.unwrap_or(Err(late.into())),
    }
}

fn some(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

/// Reads what the balancer has to say. That is nothing to its client, which is told nothing of an error.
async fn come_from(
    config: &Config,
    stream: &mut LoginStream,
    who: &mut Who,
    login_place: &mut LoginPlace,
) -> Result<(), Refused> {
    let refused = |why: &dyn std::fmt::Display| {
        who.log_at(Level::Warning, format_args!("{why}"));
        Refused::Gone("bad PROXY header".to_owned())
    };
    match proxy::read_header(stream).await {
        Ok(ProxySource::Client(peer)) => {
            who.log_at(Level::Debug, format_args!("a balancer's connection for the client at {peer}"));
            if let Ends::Tcp { peer: known, .. } = &mut who.ends {
                *known = peer;
            }
        }
        Ok(ProxySource::Balancer) => {}
        Err(HeaderError::Silent) => return Err(Refused::Silent),
        Err(HeaderError::Truncated) => return Err(refused(&"the connection was closed within its PROXY header")),
        Err(HeaderError::Bad(e)) => return Err(refused(&e)),
    }
    // Some balancers' checks do send a header.
    if stream.is_at_end().await {
        return Err(Refused::Silent);
    }
    match &who.ends {
        Ends::Tcp { peer, .. } => Ok(login_place.set_address(&config.settings, peer.ip())?),
        Ends::Unix { .. } => Ok(()),
    }
}

/// From the first byte to a place in a pool, or at the console.
async fn identify(
    clients: &Arc<Clients>,
    worker: usize,
    config: &Arc<Config>,
    stream: &mut LoginStream,
    who: &mut Who,
    login_place: &mut LoginPlace,
    slot: &ClientSlot,
) -> Result<Admitted, Refused> {
    let pools = &clients.pools;
    let startup = startup(clients, config, stream, who).await?;
    // It may have taken its time, and been forbidden to come in meanwhile.
    let config = &pools.config();
    if pools.tls().acceptor.as_ref().is_some_and(|acceptor| acceptor.is_required)
        && !stream.stream().is_unix()
        && stream.stream().tls().is_none()
    {
        return Err(ClientError::SslRequired.into());
    }
    let is_admin = config.settings.admin_users.has(&startup.user);
    if !is_admin && startup.database != CONSOLE_DATABASE {
        login_place.needs_ordinary(&config.settings)?;
    }
    who.user.clone_from(&startup.user);
    let entry = config.database(&startup.database);
    // As in PgBouncer, lines do not name what there is not.
    if entry.is_some() || startup.database == CONSOLE_DATABASE {
        who.database.clone_from(&startup.database);
    }
    slot.set_names(&startup.user, &startup.database);
    if log::is_wanted(Topic::Connections) {
        let replication = startup.walsender.as_ref().map_or("no", |walsender| walsender.kind.value());
        who.log(format_args!(
            "login attempt: db={} user={} tls={} replication={replication}",
            startup.database,
            startup.user,
            stream.stream().tls_description().as_deref().unwrap_or("no")
        ));
    }
    let asked = with_host(config, &startup, &who.ends);
    if startup.database == CONSOLE_DATABASE {
        let access = console_access(clients, worker, config, stream, &who.ends, &startup).await?;
        let permits = console_permits(pools, config, &startup.user, access)?;
        return Ok(Admitted { asked, place: Place::Console(access, permits), unsent: Vec::new() });
    }
    if pools.shutdown().is_some() {
        return Err(ClientError::ShuttingDown.into());
    }
    let connected = pools.registry.connected.load(std::sync::atomic::Ordering::Relaxed);
    if connected > config.settings.max_client_conn && !is_admin {
        return Err(ClientError::NoMoreConnections.into());
    }
    let forced = entry.and_then(|entry| entry.user.clone());
    let proven = authenticate(clients, worker, config, stream, &who.ends, &startup, forced.is_some()).await?;
    let database =
        // Nothing is kept of a name that a stranger asks for.
        pools.database(&startup.database).ok_or_else(|| ClientError::NoSuchDatabase(startup.database.clone()))?;
    if database.is_disabled() {
        return Err(ClientError::DatabaseDisabled(startup.database.clone()).into());
    }
    let Proven { secret, unsent } = proven;
    place(clients, config, database, &startup, forced, secret).map(|place| Admitted {
        asked,
        place: Place::Pool(place),
        unsent,
    })
}

/// The startup packet, inside TLS if the client wants that or must.
async fn startup(clients: &Clients, config: &Config, stream: &mut LoginStream, who: &Who) -> Result<Startup, Refused> {
    let pools = &clients.pools;
    let tls = pools.tls();
    // As in PgBouncer, none over Unix sockets.
    let acceptor = tls.acceptor.as_ref().filter(|_| !stream.stream().is_unix());
    let mut encryption =
        acceptor.map_or(Encryption::Unavailable, |acceptor| Encryption::Offered { is_required: acceptor.is_required });
    loop {
        let hello = handshake::read_hello(stream, config, &pools.tracked, encryption).await?;
        let (early, acceptor) = match (hello, acceptor) {
            (Hello::Startup(startup), _) => return Ok(startup),
            (Hello::Cancel(key), _) => return Err(Refused::Cancel(key)),
            (Hello::Tls { early }, Some(acceptor)) => (early, acceptor),
            (Hello::Tls { .. }, None) => return Err(Refused::Gone("failed to accept SSL".to_owned())),
        };
        let failed = |e: &dyn std::fmt::Display| {
            who.log_at(Level::Warning, format_args!("TLS handshake error: {e}"));
            Refused::Gone("TLS handshake failed".to_owned())
        };
        let is_direct = !early.is_empty();
        // Boxed, as it is large and not everybody's.
        Box::pin(stream.start_tls(acceptor, early, clients.auth.beside())).await.map_err(|e| failed(&e))?;
        let stream = stream.stream();
        if stream.tls().is_some_and(|tls| tls.lock().is_resumed()) {
            who.log_at(Level::Debug, format_args!("TLS session resumed"));
        }
        if is_direct && !stream.tls().is_some_and(|tls| tls.lock().has_alpn()) {
            // PostgreSQL's words.
            return Err(failed(&"received direct SSL connection request without ALPN protocol negotiation extension"));
        }
        encryption = Encryption::Tls;
    }
}

/// Checks the limits on clients and joins the pool.
fn place(
    clients: &Clients,
    config: &Config,
    database: Arc<Database>,
    startup: &Startup,
    forced: Option<String>,
    secret: Option<ServerSecret>,
) -> Result<PoolPlace, Refused> {
    let pools = &clients.pools;
    let user = pools.user(&startup.user);
    let first = database.clients.try_take(config.max_db_client_connections(&database.entry()));
    let second = user.clients.try_take(config.max_user_client_connections(&user.name));
    let permits = [first.ok_or(ClientError::TooManyDatabaseClients)?, second.ok_or(ClientError::TooManyUserClients)?];
    let server_user = forced.as_deref().unwrap_or(&startup.user);
    let member = pools.join(&database, server_user);
    if let Some(secret) = secret.filter(|_| server_user == startup.user) {
        member.pool.learn_secret(secret);
    }
    let (protocol, walsender) = (startup.protocol, startup.walsender.clone());
    Ok(PoolPlace { member, permits, user, database, protocol, walsender })
}

/// What the client asks for, with its address in `application_name` if that is wanted.
fn with_host(config: &Config, startup: &Startup, ends: &Ends) -> Parameters {
    let asked = startup.parameters.clone();
    if !config.settings.application_name_add_host {
        return asked;
    }
    let name = asked.get(APPLICATION_NAME).map_or("app", |name| name);
    let named = match ends {
        Ends::Unix { port, peer_pid: Some(pid) } => {
            let host = nix::unistd::gethostname().unwrap_or_default();
            format!("{name} - unix({pid}@{}):{port}", host.display())
        }
        ends => format!("{name} - {ends}"),
    };
    asked.with(APPLICATION_NAME, &named)
}

/// Resolves when the client has gone, whatever it has said before, and takes nothing of that.
async fn end_of(stream: &LoginStream) {
    while !stream.stream().is_peer_gone() {
        tokio::time::sleep(CLIENT_LOOK).await;
    }
}

/// Who the client is has been proven by what is returned.
async fn authenticate(
    clients: &Clients,
    worker: usize,
    config: &Arc<Config>,
    stream: &mut LoginStream,
    ends: &Ends,
    startup: &Startup,
    is_forced: bool,
) -> Result<Proven, Refused> {
    let origin = Origin::new(stream.stream(), ends);
    let Startup { database, user, .. } = startup;
    let is_physical = startup.walsender.as_ref().is_some_and(|walsender| walsender.kind == Replication::Physical);
    let method = Method::choose(config, &origin, is_physical, database, user)?;
    // Who anybody may be, only the pool's own user can log in to the server.
    if matches!(method, Method::Any) && !is_forced && database != CONSOLE_DATABASE {
        return Err(ClientError::NoSuchUser.into());
    }
    if let Method::Outside(outside) = &method {
        return ask_outside(clients, config, stream, &origin, startup, outside).await;
    }
    let mut secrets = Secrets::new(config, &clients.pools, worker, database);
    if !matches!(method, Method::Any) {
        tokio::select! {
            found = secrets.look_up(user) => found?,
            () = end_of(stream) => return Err(Refused::Gone("client unexpected eof".into())),
        }
    }
    let outcome = auth::authenticate(stream, &method, &origin, user, &secrets, &clients.auth).await;
    Ok(secrets.conclude(outcome)?)
}

/// Has a directory or PAM say whether the client's password is right. The user need not be known here.
async fn ask_outside(
    clients: &Clients,
    config: &Config,
    stream: &mut LoginStream,
    origin: &Origin,
    startup: &Startup,
    outside: &Outside,
) -> Result<Proven, Refused> {
    // It would not be asked.
    if config.database(&startup.database).is_some_and(|entry| entry.auth_user.is_some()) {
        return Err(ClientError::ConfigError.into());
    }
    let password = auth::ask_password(stream).await?;
    let pools = &clients.pools;
    let asked = Asked { user: &startup.user, password, origin, tls: pools.tls(), control: &pools.control };
    let granted = tokio::select! {
        granted = auth::ask(outside, asked, &clients.auth.places) => granted?,
        () = end_of(stream) => return Err(Refused::Gone("client unexpected eof".into())),
    };
    Ok(Proven { secret: granted.plain.map(ServerSecret::Plain), unsent: Vec::new() })
}

async fn console_access(
    clients: &Clients,
    worker: usize,
    config: &Arc<Config>,
    stream: &mut LoginStream,
    ends: &Ends,
    startup: &Startup,
) -> Result<ConsoleAccess, Refused> {
    let settings = &config.settings;
    if auth::is_console_owner(stream.stream(), &startup.user) {
        return Ok(ConsoleAccess::Admin);
    }
    let proven = authenticate(clients, worker, config, stream, ends, startup, false).await?;
    // The console itself knows nothing of methods.
    let gone = |e: std::io::Error| Refused::Gone(e.to_string());
    stream.write_all(&proven.unsent).await.map_err(gone)?;
    stream.settle().await.map_err(gone)?;
    if settings.admin_users.has(&startup.user) {
        Ok(ConsoleAccess::Admin)
    } else if settings.stats_users.has(&startup.user) {
        Ok(ConsoleAccess::Stats)
    } else {
        Err(ClientError::ConsoleNotAllowed.into())
    }
}

/// Limits are for others than those who would have to look into them.
fn console_permits(
    pools: &Pools,
    config: &Config,
    user: &str,
    access: ConsoleAccess,
) -> Result<[Permit; 2], ClientError> {
    let limit = |max| if access == ConsoleAccess::Admin { 0 } else { max };
    let first = pools.console_clients.try_take(limit(config.settings.max_db_client_connections));
    let second = pools.user(user).clients.try_take(limit(config.max_user_client_connections(user)));
    Ok([first.ok_or(ClientError::TooManyDatabaseClients)?, second.ok_or(ClientError::TooManyUserClients)?])
}

/// Makes the session.
fn enter(
    clients: &Arc<Clients>,
    worker: &Rc<Worker>,
    parts: Parts,
    who: &Who,
    place: PoolPlace,
    asked: Parameters,
    slot: ClientSlot,
) -> Session {
    let registry = &clients.pools.registry;
    let PoolPlace { member, permits, user, database, protocol, walsender } = place;
    let peer_id = clients.pools.config().settings.peer_id;
    let names = (Arc::clone(&user.name), Arc::clone(&database.name));
    let info = registry.add_client(
        || auth::new_cancel_key(protocol, peer_id),
        |key| {
            let mut info = ClientInfo::new(who.id, key, who.ends.clone(), names.0, names.1, who.connect_us);
            info.replication = walsender.map(|walsender| walsender.kind);
            info.tls = parts.stream.tls_description();
            info.fd = parts.stream.fd();
            info
        },
    );
    Session::new(worker, &clients.pools, Seat { member, permits, slot }, parts, info, asked)
}

/// Tells a client that it is not let in, the log first.
async fn refuse(clients: &Clients, stream: &LoginStream, who: &Who, refused: Refused) {
    let (reason, told) = match refused {
        Refused::Cancel(_) => return,
        Refused::Silent => {
            end(stream, &[]);
            return who.log_at(Level::Debug, format_args!("client unexpected eof before its login"));
        }
        Refused::Client { error: error @ (ClientError::TooManyLogins | ClientError::TooManyAddressLogins), .. } => {
            clients.admission.report(&error, &who.ends);
            return tell(clients, stream, &error);
        }
        Refused::Client { error, reason: Some(Reason::Outside(why)) } => {
            who.log_at(Level::Warning, format_args!("{why}"));
            (error.message().into_owned(), Some(error))
        }
        Refused::Gone(reason) => (reason, None),
        // PgBouncer's words; the client does not get to see them.
        Refused::Client { error, reason: Some(reason @ Reason::NotFound) } => (reason.to_string(), Some(error)),
        Refused::Client { error, reason: Some(Reason::UnknownUser) } => {
            who.log(format_args!("no such user: {}", who.user));
            (error.message().into_owned(), Some(error))
        }
        Refused::Client { error, reason: Some(reason) } => {
            who.log(format_args!("{reason}"));
            (error.message().into_owned(), Some(error))
        }
        Refused::Client { error, reason: None } => (error.message().into_owned(), Some(error)),
    };
    if let Some(ClientError::NoSuchDatabase(database)) = &told
        && log::is_wanted(Topic::Connections)
    {
        who.log(format_args!("login failed: db={database} user={}", who.user));
    }
    if log::is_wanted(Topic::Disconnections) {
        let age_s = clock::now_us().saturating_sub(who.connect_us) / 1_000_000;
        who.log(format_args!("closing because: {reason} (age={age_s}s)"));
    }
    let Some(error) = told else { return end(stream, &[]) };
    if let Some(hint) = handshake::operator_hint(&error) {
        who.log_at(Level::Warning, format_args!("{}: {hint}", error.message()));
    }
    if log::is_wanted(Topic::PoolerErrors) {
        who.log_at(Level::Warning, format_args!("pooler error: {}", error.message()));
    }
    log::written().await;
    tell(clients, stream, &error);
}

fn tell(clients: &Clients, stream: &LoginStream, error: &ClientError) {
    let mut message = Vec::new();
    error.encode(sqlstates(&clients.pools.config().settings), &mut message);
    end(stream, &message);
}

/// Without words, too: TLS has its own, for one whose records were wrong.
fn end(stream: &LoginStream, last_words: &[u8]) {
    stream.stream().discard_unread();
    stream.end(last_words);
}
