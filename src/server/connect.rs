//! Making server connections: host, address, socket, login, `connect_query`.

mod dial;
mod error;
mod fallbacks;
mod secure;
#[cfg(test)]
mod tests;
mod turns;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgweir_config::{HostAddr, LoadBalanceHosts, Settings};
use pgweir_proto::cancel::CancelKey;
use pgweir_proto::frontend::TERMINATE_MESSAGE;
use pgweir_proto::replication::Replication;
use pgweir_proto::startup::ProtocolVersion;

use super::hosts::Hosts;
use super::login::{Credentials, Greeting, KeyCache, Login, LoginError, Wire};
pub(crate) use super::login::{ServerSecret, Welcome};
use super::parameters::{Parameters, Tracked};
use super::query::{self, QueryError};
use super::{Server, Socket};
use crate::log::{self, Level, Subject, Topic};
use crate::net::clock;
use crate::net::stream::Stream;
use crate::net::tcp::TcpOptions;
use crate::net::tls::TlsSetup;
use crate::pool::Permit;
use crate::registry::{Address, Dial, Dialing, Ends, Registry, ServerInfo};
use crate::relay::{Outstanding, Prepared, Replies};
pub(crate) use dial::{dial, ends};
pub(crate) use error::{ConnectError, Step};
use fallbacks::{FALLBACK_TTL, Fallbacks};
pub(crate) use secure::{SecureError, secure};
use turns::Turns;

/// For so long, at most, a login of a newer protocol than 3.0 may take.
const NEWER_LOGIN_MAX: Duration = Duration::from_secs(5);

/// For as long as it is not over, servers of a pool are made as they are now.
#[derive(Debug)]
pub(crate) struct Epoch {
    /// Counted up when they become obsolete.
    pool: Arc<AtomicU32>,
    began: u32,
}

impl Epoch {
    pub(crate) fn begin(pool: &Arc<AtomicU32>) -> Epoch {
        Epoch { pool: Arc::clone(pool), began: pool.load(Ordering::SeqCst) }
    }

    /// Sequentially consistent: either whoever has ended it finds the connection in the registry after that, or the
    /// connection, once listed, finds it over.
    pub(crate) fn is_over(&self) -> bool {
        self.pool.load(Ordering::SeqCst) != self.began
    }
}

/// All that is needed to make one connection.
#[derive(Debug)]
pub(crate) struct Target {
    /// The pool's database, for the log.
    pub(crate) database: Arc<str>,
    /// The database's name on the server.
    pub(crate) dbname: String,
    pub(crate) user: Arc<str>,
    pub(crate) secret: ServerSecret,
    pub(crate) hosts: Vec<HostAddr>,
    pub(crate) port: u16,
    pub(crate) load_balance: LoadBalanceHosts,
    /// Parameters that the database's entry asks for.
    pub(crate) startup: Vec<(String, String)>,
    pub(crate) connect_query: Option<String>,
    pub(crate) tcp: TcpOptions,
    pub(crate) tls: Arc<TlsSetup>,
    /// For everything from the host's name to the end of `connect_query`; zero is no limit.
    pub(crate) timeout: Duration,
    /// The newest version to ask for.
    pub(crate) protocol: ProtocolVersion,
    /// What `startup` asks for, if a walsender.
    pub(crate) replication: Option<Replication>,
    /// When this was in force.
    pub(crate) epoch: Epoch,
}

/// A connection that nobody has used yet, its socket with no runtime.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) server: Server,
    pub(crate) welcome: Welcome,
}

/// Makes the server connections of the process. Runs on the runtime beside the data path.
pub(crate) struct Connector {
    registry: Arc<Registry>,
    tracked: Arc<Tracked>,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) keys: KeyCache,
    turns: Turns,
    fallbacks: Fallbacks,
}

impl Connector {
    pub(crate) fn new(registry: Arc<Registry>, tracked: Arc<Tracked>, settings: &Settings) -> Connector {
        Connector::with_hosts(registry, tracked, Hosts::new(settings), settings)
    }

    fn with_hosts(registry: Arc<Registry>, tracked: Arc<Tracked>, hosts: Arc<Hosts>, settings: &Settings) -> Connector {
        let connector = Connector {
            registry,
            tracked,
            hosts,
            keys: KeyCache::default(),
            turns: Turns::default(),
            fallbacks: Fallbacks::default(),
        };
        connector.configure(settings);
        connector
    }

    /// Takes the settings that are the same for all connections: at the start and at a reload.
    pub(crate) fn configure(&self, settings: &Settings) {
        self.hosts.configure(settings);
    }

    /// Connects to the first host that takes us in and logs in. The permits go with the
    /// connection, or are given back if there is none.
    pub(crate) async fn connect(&self, target: &Target, permits: [Permit; 2]) -> Result<Connected, ConnectError> {
        let mut attempt = Attempt::new(self, target);
        let limit = if target.timeout.is_zero() { Duration::MAX } else { target.timeout };
        let made = tokio::time::timeout(limit, attempt.make(permits)).await;
        let made = made.unwrap_or_else(|_| Err(ConnectError::Timeout(attempt.step.clone())));
        if let Err(error) = &made {
            attempt.log_closing(error);
        }
        made
    }
}

/// What log lines of a server connection begin with.
struct Prefix<'a> {
    id: u64,
    target: &'a Target,
    /// The server's address, or as much as is known of it.
    at: String,
}

impl Prefix<'_> {
    fn subject(&self) -> Subject<'_> {
        Subject::server(self.id, &self.target.database, &self.target.user, &self.at)
    }
}

/// A connection being made.
struct Attempt<'a> {
    connector: &'a Connector,
    target: &'a Target,
    prefix: Prefix<'a>,
    start_us: u64,
    /// `None`: as long as it takes.
    deadline: Option<Instant>,
    step: Step,
    listed: Dialing,
}

/// A login that worked.
struct Session {
    stream: Stream,
    ends: Ends,
    address: Address,
    host: Arc<str>,
    greeting: Greeting,
}

impl<'a> Attempt<'a> {
    fn new(connector: &'a Connector, target: &'a Target) -> Attempt<'a> {
        let (id, start_us) = (connector.registry.next_id(), clock::now_us());
        let (user, database) = (Arc::clone(&target.user), Arc::clone(&target.database));
        let dial = Dial::new(id, user, database, target.replication, start_us);
        let at = target.hosts.first().map_or_else(String::new, |host| format!("{host}:{}", target.port));
        let listed = connector.registry.add_dial(dial);
        if target.epoch.is_over() {
            listed.dial.set_close_needed();
        }
        Attempt {
            connector,
            target,
            prefix: Prefix { id, target, at: at.clone() },
            start_us,
            deadline: (!target.timeout.is_zero()).then(|| Instant::now() + target.timeout),
            step: Step::Connecting(at),
            listed,
        }
    }

    async fn make(&mut self, permits: [Permit; 2]) -> Result<Connected, ConnectError> {
        let (host, session) = self.log_in_anywhere().await?;
        let mut welcome = session.greeting.welcome.clone();
        let mut server = self.server(session, permits);
        if let Some(sql) = &self.target.connect_query {
            self.step = Step::Querying(server.info.address.to_string());
            let note = |name: &str, value: &str| welcome.set(name, value);
            let done = query::exchange(&mut server, &self.connector.tracked, sql, note).await;
            if let Err(error @ QueryError::Server(_)) = done {
                // As in PgBouncer, a mistake in it keeps nobody from the database.
                self.log(Level::Warning, format_args!("connect_query failed, going on without it: {error}"));
            } else if let Err(error) = done {
                server.stream().try_end(&TERMINATE_MESSAGE);
                return Err(ConnectError::Query(error));
            }
        }
        let failed = |error| ConnectError::Connect { address: server.info.address.clone(), error };
        server.socket = match std::mem::replace(&mut server.socket, Socket::Gone) {
            Socket::Attached(stream) => Socket::Detached(stream.detach().map_err(failed)?),
            other => other,
        };
        if let HostAddr::Tcp(name) = host {
            self.connector.hosts.note_server(name, &server.info);
        }
        self.connector.registry.add_server(&server.info);
        if self.target.epoch.is_over() {
            server.info.set_close_needed();
        }
        Ok(Connected { server, welcome })
    }

    /// Tries the hosts until one takes us in, and the addresses of each.
    async fn log_in_anywhere(&mut self) -> Result<(&'a HostAddr, Session), ConnectError> {
        let Target { hosts, port, load_balance, .. } = self.target;
        let mut turn = self.connector.turns.begin(hosts, *port, *load_balance).await;
        let mut last = ConnectError::NoHost;
        for (tried, host) in turn.order(hosts).enumerate() {
            if tried > 0 {
                self.log_given_up(&last, host);
            }
            match self.log_in_at_host(host, hosts.len() - tried - 1).await {
                Ok(session) => {
                    turn.worked(tried);
                    return Ok((host, session));
                }
                Err(error) if error.is_about_host() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// An attempt has failed and the next is on its way.
    fn log_given_up(&self, error: &ConnectError, next: &dyn std::fmt::Display) {
        self.log(Level::Warning, format_args!("{error}; trying {next}"));
        self.log_closing(error);
    }

    fn log(&self, level: Level, text: fmt::Arguments<'_>) {
        log::write_about(self.prefix.subject(), level, text);
    }

    fn log_closing(&self, error: &ConnectError) {
        if log::is_wanted(Topic::Disconnections) {
            let age_s = clock::now_us().saturating_sub(self.start_us) / 1_000_000;
            // PgBouncer's words: of a walsender's login it says no more.
            let reason = match error {
                ConnectError::Login(LoginError::Server(_)) if self.target.replication.is_some() => {
                    "login failed".into()
                }
                error => error.reason(),
            };
            self.log(Level::Log, format_args!("closing because: {reason} (age={age_s}s)"));
        }
    }

    /// `others` is how many hosts are left besides this one.
    async fn log_in_at_host(&mut self, host: &HostAddr, others: usize) -> Result<Session, ConnectError> {
        let port = self.target.port;
        self.prefix.at = format!("{host}:{port}");
        if let HostAddr::Tcp(name) = host {
            self.step = Step::Resolving(name.clone());
        }
        let found = self.connector.hosts.addresses(host, port).await;
        let addresses = found.map_err(|why| ConnectError::Resolve { host: host.to_string(), why })?;
        let mut last = ConnectError::NoHost;
        for (tried, address) in addresses.iter().enumerate() {
            if tried > 0 {
                self.log_given_up(&last, address);
            }
            match self.log_in_at(host, address, addresses.len() - tried + others).await {
                Err(error) if error.is_about_host() => last = error,
                done => return done,
            }
        }
        Err(last)
    }

    /// As `log_in_with`, in the protocol that the target wants or, where that seems to be the
    /// trouble, in the oldest.
    async fn log_in_at(&mut self, host: &HostAddr, address: &Address, left: usize) -> Result<Session, ConnectError> {
        let fallbacks = &self.connector.fallbacks;
        let protocol = fallbacks.protocol(address, self.target.protocol, Instant::now());
        let error = match self.log_in_with(protocol, host, address, left).await {
            Err(error) if protocol > ProtocolVersion::V3_0 && error.may_be_about_protocol() => error,
            done => return done,
        };
        self.log_given_up(&error, &"protocol 3.0");
        let session = self.log_in_with(ProtocolVersion::V3_0, host, address, left).await?;
        if fallbacks.note(address, Instant::now()) {
            let minutes = FALLBACK_TTL.as_secs() / 60;
            self.log(Level::Warning, format_args!("speaks protocol 3.0 only, asking for that for {minutes} minutes"));
        }
        Ok(session)
    }

    /// `left` is how many addresses are left to try, this one included: none may use up the time
    /// that the others need to connect.
    async fn log_in_with(
        &mut self,
        protocol: ProtocolVersion,
        host: &HostAddr,
        address: &Address,
        left: usize,
    ) -> Result<Session, ConnectError> {
        let (target, connector) = (self.target, self.connector);
        self.prefix.at = address.to_string();
        self.step = Step::Connecting(self.prefix.at.clone());
        self.log(Level::Debug, format_args!("launching new connection to server"));
        let share = |deadline: Instant| deadline.saturating_duration_since(Instant::now()) / left as u32;
        self.listed.dial.set_socket(None);
        let dialled =
            tokio::time::timeout(self.deadline.map_or(Duration::MAX, share), dial(address, Some(&target.tcp))).await;
        let failed = |error| ConnectError::Connect { address: address.clone(), error };
        let mut stream = dialled.map_err(|_| ConnectError::Timeout(self.step.clone()))?.map_err(failed)?;
        let ends = ends(&stream, target.port).map_err(failed)?;
        self.prefix.at = ends.to_string();
        self.listed.dial.set_socket(Some((ends.clone(), stream.fd())));
        if log::is_wanted(Topic::Connections) {
            match &ends {
                Ends::Tcp { local, .. } => {
                    self.log(Level::Log, format_args!("new connection to server (from {local})"))
                }
                Ends::Unix { .. } => self.log(Level::Log, format_args!("new connection to server")),
            }
        }
        self.step = Step::LoggingIn(address.to_string());
        let host: Arc<str> = host.to_string().into();
        let insecure = |error| ConnectError::Tls { address: address.clone(), error };
        secure(&mut stream, &host, &target.tls.dialer).await.map_err(insecure)?;
        self.log_tls(&stream);
        let end_point = stream.tls().and_then(|tls| tls.lock().end_point());
        let mut wire = Wire::new(stream);
        let Target { user, dbname, secret, startup, .. } = target;
        let credentials = Credentials { user, dbname, secret, startup };
        let login = Login {
            wire: &mut wire,
            credentials,
            protocol,
            keys: &connector.keys,
            end_point,
            subject: self.prefix.subject(),
            notices: Vec::new(),
        };
        let limit = self.login_limit(protocol);
        let done = tokio::time::timeout(limit, login.run()).await;
        let greeting = done.map_err(|_| ConnectError::Timeout(self.step.clone()))?.map_err(ConnectError::Login)?;
        self.log(Level::Debug, format_args!("server login ok, start accepting queries"));
        Ok(Session { stream: wire.into_stream(), ends, address: address.clone(), host, greeting })
    }

    fn log_tls(&self, stream: &Stream) {
        if log::is_wanted(Topic::Connections)
            && let Some(description) = stream.tls_description()
        {
            self.log(Level::Log, format_args!("SSL established: {description}"));
        }
        if stream.tls().is_some_and(|tls| tls.lock().is_resumed()) {
            self.log(Level::Debug, format_args!("TLS session resumed"));
        }
    }

    /// A login that can be tried once more, in the oldest protocol, leaves half of the time for that.
    fn login_limit(&self, protocol: ProtocolVersion) -> Duration {
        match (protocol, self.deadline) {
            (ProtocolVersion::V3_0, _) => Duration::MAX,
            (_, None) => NEWER_LOGIN_MAX,
            (_, Some(deadline)) => NEWER_LOGIN_MAX.min(deadline.saturating_duration_since(Instant::now()) / 2),
        }
    }

    fn server(&self, session: Session, permits: [Permit; 2]) -> Server {
        let Session { stream, ends, address, host, greeting } = session;
        let Connector { registry, tracked, .. } = self.connector;
        let mut parameters = Parameters::none(tracked);
        for (name, value) in &greeting.welcome.parameters {
            if let Some(position) = tracked.position(name) {
                parameters = parameters.with(position, value);
            }
        }
        let (user, database) = (Arc::clone(&self.target.user), Arc::clone(&self.target.database));
        let cancel_key = greeting.cancel_key.unwrap_or_else(no_key);
        let mut info = ServerInfo::new(self.prefix.id, ends, address, user, database, cancel_key, self.start_us);
        info.replication = self.target.replication;
        info.tls = stream.tls_description();
        info.fd = stream.fd();
        info.set_values(parameters.shared());
        info.host = Some(host);
        Server {
            socket: Socket::Attached(stream),
            outstanding: Outstanding::new(),
            replies: Replies::default(),
            prepared: Prepared::default(),
            partial: Vec::new(),
            notices: greeting.notices,
            is_midway: false,
            was_lent: false,
            is_fresh: true,
            parameters,
            info: Arc::new(info),
            _permits: permits,
            registry: Arc::clone(registry),
        }
    }
}

/// The key of a server that gives none: of no process, so that a cancel request does nothing.
fn no_key() -> CancelKey {
    CancelKey::parse(&[0; 8]).expect("a process id and 4 bytes make a key")
}
