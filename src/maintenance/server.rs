//! A connection straight to PostgreSQL.

use std::fmt;
use std::future::poll_fn;

use pgweir_config::SslMode;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode as TlsUse, SslNegotiation as Begin};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, Row, SimpleQueryMessage};

use super::conninfo::{Address, Conninfo, TargetSession};
use super::exit::{Exit, Failure};
use super::interrupt::{Canceller, Interrupt, Registered};
use super::job::Job;
use super::rows::FromRow;
use super::stream::{ReadyMade, Stream, attempts};
use super::units::Span;

/// PostgreSQL's version as a number, 150004 for 15.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) i32);

impl Version {
    const OLDEST: Version = Version(140_000);
    /// The first that nothing here was tried with.
    const UNKNOWN: Version = Version(190_000);

    /// 15 for any 15.x.
    pub(crate) fn major(self) -> i32 {
        self.0 / 10_000
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.0 % 10_000)
    }
}

/// What a session is given at its login.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// `pgweir/vacuum`
    pub(crate) application_name: String,
    /// How long a statement may wait for a lock; 0: for ever.
    pub(crate) lock_timeout: Span,
    /// How long a statement may take; 0: for ever.
    pub(crate) statement_timeout: Span,
    /// Whether the user's `search_path` counts. Otherwise nothing but pg_catalog is found by a bare name, so that nobody's
    /// functions and operators run with our rights, and names are shown with their schema.
    pub(crate) keeps_search_path: bool,
}

impl Session {
    fn settings_sql(&self) -> String {
        let path = if self.keeps_search_path { "" } else { "SET search_path = ''; " };
        let (lock, statement) = (self.lock_timeout.millis(), self.statement_timeout.millis());
        format!(
            "{path}SET lock_timeout = {lock}; SET statement_timeout = {statement}; \
             SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; \
             SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'; \
             SET datestyle = ISO; SET intervalstyle = postgres"
        )
    }
}

/// Parameters of a query.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A session on the server. All its queries end early when the command is interrupted.
pub(crate) struct Server {
    client: Client,
    pub(crate) version: Version,
    /// As it was asked for.
    pub(crate) conninfo: Conninfo,
    /// Which of its servers answered, with the address that its name had; for further connections to the same.
    pub(crate) address: Address,
    /// The process that serves us.
    pub(crate) backend_pid: i32,
    interrupt: Interrupt,
    /// For as long as it lives an interrupt cancels what it runs.
    _registered: Registered,
}

impl Server {
    /// Connects to the first server that answers and is of the kind that is wanted, and makes sure that it is PostgreSQL
    /// itself, of a version that we know. Warnings go to `warn`.
    pub(super) async fn connect(
        conninfo: &Conninfo,
        session: &Session,
        interrupt: &Interrupt,
        warn: fn(&str),
    ) -> Result<Server, Failure> {
        let passes: &[TargetSession] = match conninfo.target_session {
            TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
            TargetSession::Any => &[TargetSession::Any],
            TargetSession::ReadWrite => &[TargetSession::ReadWrite],
            TargetSession::ReadOnly => &[TargetSession::ReadOnly],
            TargetSession::Primary => &[TargetSession::Primary],
            TargetSession::Standby => &[TargetSession::Standby],
        };
        let mut failures = Vec::new();
        for target in passes {
            for address in &conninfo.addresses {
                match Server::try_address(conninfo, address, session, *target, interrupt, warn).await {
                    Ok(server) => return server.checked(warn).await,
                    Err(failure) => failures.push(failure),
                }
            }
        }
        // A wrong password is more to the point than that another host is down.
        let best = failures.iter().position(|failure| failure.sqlstate.is_some()).unwrap_or(0);
        Err(failures.swap_remove(best))
    }

    async fn try_address(
        conninfo: &Conninfo,
        address: &Address,
        session: &Session,
        target: TargetSession,
        interrupt: &Interrupt,
        warn: fn(&str),
    ) -> Result<Server, Failure> {
        let attempts = attempts(conninfo, address);
        let limit = conninfo.connect_timeout;
        let mut server = None;
        for (attempt, is_last) in attempts.iter().zip((1..=attempts.len()).map(|n| n == attempts.len())) {
            let login = login(conninfo, address, *attempt, session, interrupt, warn);
            match timeout(limit, login).await {
                Ok(Ok(made)) => {
                    server = Some(made);
                    break;
                }
                // The server's rules may let the user in with TLS only, or without only.
                Ok(Err(e)) if !is_last && e.sqlstate == Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {}
                Ok(Err(failure)) => return Err(failure),
                Err(_) => {
                    let limit = Span(limit);
                    return Err(Failure::unreachable(format!("could not connect to {address} within {limit}")));
                }
            }
        }
        let server = server.ok_or_else(|| Failure::unreachable(format!("could not connect to {address}")))?;
        server.is_wanted(target).await?;
        server.client.batch_execute(&session.settings_sql()).await?;
        Ok(server)
    }

    async fn is_wanted(&self, target: TargetSession) -> Result<(), Failure> {
        if target == TargetSession::Any {
            return Ok(());
        }
        let row = self
            .client
            .query_one("select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'", &[])
            .await?;
        let (is_standby, is_read_only): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
        let (fits, what) = match target {
            TargetSession::ReadWrite => (!is_read_only, "read-only"),
            TargetSession::ReadOnly => (is_read_only, "not read-only"),
            TargetSession::Primary => (!is_standby, "a standby"),
            _ => (is_standby, "not a standby"),
        };
        if fits { Ok(()) } else { Err(Failure::unreachable(format!("the server at {} is {what}", self.address))) }
    }

    /// The pooler hands out servers by transaction: locks, settings and cancels would go astray.
    async fn checked(mut self, warn: fn(&str)) -> Result<Server, Failure> {
        let row =
            self.client.query_one("select pg_backend_pid(), current_setting('server_version_num')::int4", &[]).await?;
        let pid: i32 = row.try_get(0)?;
        let address = &self.address;
        if pid != self.backend_pid {
            return Err(Failure::refused(format!("what answers at {address} is a pooler, not PostgreSQL itself"))
                .hint("maintenance needs a connection of its own: name PostgreSQL's host and port"));
        }
        self.version = Version(row.try_get(1)?);
        let version = self.version;
        if version < Version::OLDEST {
            return Err(Failure::refused(format!(
                "PostgreSQL {version} at {address} is older than 14, the oldest supported"
            )));
        }
        if version >= Version::UNKNOWN {
            warn(&format!("PostgreSQL {version} is newer than 18, the newest that this program was tried with"));
        }
        Ok(self)
    }

    /// The way to the very same server and database, for further sessions.
    pub(crate) fn here(&self) -> Conninfo {
        self.conninfo.at(self.address.clone())
    }

    /// What a query has come to. How one ended that an interrupt has cancelled is no news.
    fn ended<T>(&self, result: Result<T, tokio_postgres::Error>) -> Result<T, Failure> {
        result.or_else(|e| {
            self.interrupt.check()?;
            Err(Failure::from(e))
        })
    }

    pub(crate) async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        self.interrupt.check()?;
        self.ended(self.client.query(sql, params).await)
    }

    /// The rows as values of a type made by [`super::rows::row`], whose fields are the columns' names.
    pub(crate) async fn rows<T: FromRow>(&self, sql: &str, params: Params<'_>) -> Result<Vec<T>, Failure> {
        self.query(sql, params).await?.iter().map(|row| T::from_row(row).map_err(Failure::from)).collect()
    }

    /// The only row there is.
    pub(crate) async fn one<T: FromRow>(&self, sql: &str, params: Params<'_>) -> Result<T, Failure> {
        self.interrupt.check()?;
        let row = self.ended(self.client.query_one(sql, params).await)?;
        Ok(T::from_row(&row)?)
    }

    /// One value of one row.
    pub(crate) async fn value<T>(&self, sql: &str, params: Params<'_>) -> Result<T, Failure>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        self.interrupt.check()?;
        let row = self.ended(self.client.query_one(sql, params).await)?;
        Ok(row.try_get(0)?)
    }

    /// Others' statements and states are hidden from whom pg_monitor does not include.
    pub(crate) async fn warn_unless_monitor(&self, job: &Job) -> Result<(), Failure> {
        if !self.value::<bool>("select pg_has_role('pg_read_all_stats', 'usage')", &[]).await? {
            let user = &self.conninfo.user;
            job.warn(format!("{user} is not a member of pg_monitor: what other users do is not seen"));
        }
        Ok(())
    }

    /// Runs statements that change nothing but this session, such as BEGIN and SET, by the simple protocol. What changes the
    /// database goes through `Job::change`.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Failure> {
        self.interrupt.check()?;
        self.ended(self.client.batch_execute(sql).await)
    }

    /// The same for SQL that a user has written, with the server's own error: it knows the place in the text.
    pub(crate) async fn batch_as_written(&self, sql: &str) -> Result<Result<(), tokio_postgres::Error>, Failure> {
        self.interrupt.check()?;
        let result = self.client.batch_execute(sql).await;
        if result.is_err() {
            self.interrupt.check()?;
        }
        Ok(result)
    }

    /// The simple protocol's rows as text, for commands that know nothing else: a console's, a walsender's.
    pub(crate) async fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        self.interrupt.check()?;
        self.ended(self.client.simple_query(sql).await)
    }
}

/// What tokio-postgres says when it has none to give.
const PASSWORD_MISSING: &str = "password missing";

/// A session before anybody knows what answers.
pub(super) async fn login(
    conninfo: &Conninfo,
    address: &Address,
    attempt: SslMode,
    session: &Session,
    interrupt: &Interrupt,
    warn: fn(&str),
) -> Result<Server, Failure> {
    let stream = Stream::dial(conninfo, address, attempt).await?;
    let (backend, peer) = (stream.backend(), stream.peer);
    let mut config = tokio_postgres::Config::new();
    config.user(&conninfo.user).dbname(&conninfo.dbname).application_name(&session.application_name);
    config.channel_binding(conninfo.channel_binding);
    // TLS is there already if it is wanted: tokio-postgres is to take the stream as it is.
    config.ssl_mode(TlsUse::Require).ssl_negotiation(Begin::Direct);
    conninfo.options.iter().for_each(|options| _ = config.options(options));
    conninfo.password().iter().for_each(|password| _ = config.password(password.expose()));
    let refused = |e: tokio_postgres::Error| {
        let failure = Failure { exit: Exit::Unreachable, ..Failure::from(e) };
        if conninfo.password().is_none() && failure.sqlstate.is_none() && failure.message.contains(PASSWORD_MISSING) {
            let hint = "put it into a .pgpass file, PGPASSWORD or the pooler's configuration";
            return Failure { message: format!("{address} wants a password for {}", conninfo.user), ..failure }
                .hint(hint);
        }
        failure.while_at(address)
    };
    let (client, connection) = config.connect_raw(stream, ReadyMade).await.map_err(refused)?;
    tokio::spawn(serve(connection, warn));
    let address = Address { hostaddr: peer, ..address.clone() };
    let canceller =
        Canceller { conninfo: conninfo.clone(), address: address.clone(), attempt, token: client.cancel_token() };
    Ok(Server {
        client,
        version: Version(0),
        conninfo: conninfo.clone(),
        address,
        backend_pid: backend.pid(),
        interrupt: interrupt.clone(),
        _registered: interrupt.register(canceller),
    })
}

/// Carries the connection's bytes until it ends; its end shows in the queries.
async fn serve(mut connection: Connection<Stream, Stream>, warn: fn(&str)) {
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notice(notice) = message
            && notice.parsed_severity() == Some(Severity::Warning)
        {
            warn(notice.message());
        }
    }
}
