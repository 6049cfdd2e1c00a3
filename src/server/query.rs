//! A query of our own on a server that no client has: `server_check_query`,
//! `server_reset_query`, `connect_query`.

use std::fmt;
use std::io;
use std::time::Duration;

use pgweir_proto::error_response::ErrorFields;
use pgweir_proto::frontend;
use pgweir_proto::sqlstate::SqlState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Server;
use super::parameters::Tracked;
use crate::relay::{Books, Event, Names, ReplyFault, Request};

/// Read at once. Such queries have short answers; a longer one takes more reads.
const READ_LEN: usize = 4096;

/// What a server said in an ErrorResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerError {
    /// FATAL, ERROR and so on. Empty if the server did not say.
    pub(crate) severity: String,
    /// `None` if the server did not say.
    pub(crate) sqlstate: Option<SqlState>,
    pub(crate) message: String,
}

impl ServerError {
    pub(crate) fn parse(body: &[u8]) -> ServerError {
        let ErrorFields { severity, sqlstate, message } = ErrorFields::parse(body);
        ServerError { severity: severity.into_owned(), sqlstate, message: message.into_owned() }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, sqlstate, message } = self;
        write!(f, "{severity} {message}")?;
        sqlstate.map_or(Ok(()), |code| write!(f, " (SQLSTATE {code})"))
    }
}

/// Why a query of ours failed. Only after `Server` can the connection still be used.
#[derive(Debug)]
pub(crate) enum QueryError {
    /// The server refused it and is idle again.
    Server(ServerError),
    /// The server gave up the connection, and said why.
    Ended(ServerError),
    Timeout,
    /// The connection is gone.
    Lost(io::Error),
    /// The server's answer makes no sense.
    Broken(ReplyFault),
    /// The query left a transaction open.
    TransactionOpen,
    /// The query was a COPY FROM STDIN, for which we have nothing.
    CopyIn,
    /// The answer is longer than any that makes sense.
    TooLong,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryError::Server(error) | QueryError::Ended(error) => error.fmt(f),
            QueryError::Timeout => f.write_str("no answer in time"),
            QueryError::Lost(error) => write!(f, "connection lost: {error}"),
            QueryError::Broken(fault) => write!(f, "protocol error: {fault:?}"),
            QueryError::TransactionOpen => f.write_str("it left a transaction open"),
            QueryError::CopyIn => f.write_str("it is a COPY FROM STDIN"),
            QueryError::TooLong => f.write_str("the answer is too long"),
        }
    }
}

/// Runs `sql` on an idle server whose socket is attached to this thread's runtime. Rows are
/// thrown away, parameters that the query changes are noted. A `timeout` of zero is none.
pub(crate) async fn run(
    server: &mut Server,
    tracked: &Tracked,
    sql: &str,
    timeout: Duration,
) -> Result<(), QueryError> {
    let limit = if timeout.is_zero() { Duration::MAX } else { timeout };
    let answer = tokio::time::timeout(limit, exchange(server, tracked, sql, |_, _| ()));
    answer.await.unwrap_or(Err(QueryError::Timeout))
}

/// `run` without a limit, which also hands each ParameterStatus to `on_parameter`.
pub(super) async fn exchange(
    server: &mut Server,
    tracked: &Tracked,
    sql: &str,
    on_parameter: impl FnMut(&str, &str),
) -> Result<(), QueryError> {
    let mut message = Vec::new();
    frontend::query(&mut message, sql);
    converse(server, tracked, &message, &[Request::Query], on_parameter, |_| true).await
}

/// The same with any `message` that makes these `requests`. `on_answer` gets all that the server
/// sends; it may say that it has had enough, after which the connection is of no more use.
pub(super) async fn converse(
    server: &mut Server,
    tracked: &Tracked,
    message: &[u8],
    requests: &[Request],
    mut on_parameter: impl FnMut(&str, &str),
    mut on_answer: impl FnMut(&[u8]) -> bool,
) -> Result<(), QueryError> {
    requests.iter().for_each(|request| server.outstanding.request(*request));
    let stream = server.stream();
    stream.write_all(message).await.map_err(QueryError::Lost)?;
    stream.flush().await.map_err(QueryError::Lost)?;
    let mut refusal = None;
    // Part of an unasked message may have come before.
    let mut buf = std::mem::take(&mut server.partial);
    while !(server.outstanding.is_answered() && server.replies.at_boundary() && buf.is_empty()) {
        match (read_more(server, &mut buf).await, refusal.take()) {
            (Err(QueryError::Lost(_)), Some(last_words)) => return Err(QueryError::Ended(last_words)),
            (read, earlier) => (read?, refusal = earlier).0,
        }
        let Server { outstanding, replies, prepared, parameters, .. } = server;
        let mut names = Names::default();
        let mut books = Books { names: &mut names, prepared };
        // Nothing is hidden from ourselves.
        let scanned = replies.scan(&buf, outstanding, &mut books, &mut Vec::new(), |event| match event {
            Event::ParameterStatus { name, value } => {
                if let Some(position) = tracked.position(name) {
                    *parameters = parameters.with(position, value);
                }
                on_parameter(name, value);
            }
            // The first is the cause of what follows.
            Event::ErrorResponse { body } => refusal = refusal.take().or_else(|| Some(ServerError::parse(body))),
            Event::Reset | Event::Ready { .. } => {}
        });
        let scanned = scanned.map_err(QueryError::Broken)?;
        if !on_answer(&buf[..scanned]) {
            return Err(QueryError::TooLong);
        }
        buf.drain(..scanned);
        if server.outstanding.is_copying_in() {
            return Err(QueryError::CopyIn);
        }
    }
    server.info.set_prepared(server.prepared.len());
    match refusal {
        _ if !server.outstanding.is_idle() => Err(QueryError::TransactionOpen),
        // It may have come right behind the answer.
        Some(refusal) if matches!(&*refusal.severity, "FATAL" | "PANIC") => Err(QueryError::Ended(refusal)),
        Some(refusal) => Err(QueryError::Server(refusal)),
        None => Ok(()),
    }
}

async fn read_more(server: &mut Server, buf: &mut Vec<u8>) -> Result<(), QueryError> {
    buf.reserve(READ_LEN);
    match server.stream().read_buf(buf).await {
        Ok(0) => Err(QueryError::Lost(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => Ok(()),
        Err(error) => Err(QueryError::Lost(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stream::Stream;
    use crate::pool::Quota;
    use crate::registry::{Address, Ends, Registry, ServerInfo};
    use crate::relay::{Outstanding, Prepared, Replies};
    use crate::server::Socket;
    use crate::server::login::fake::{Fake, key, refusal};
    use crate::server::parameters::Parameters;
    use pgweir_proto::backend::TransactionStatus;
    use pgweir_proto::console;
    use pgweir_proto::error_response::{ErrorResponse, Severity};
    use pgweir_proto::frame;
    use std::sync::Arc;
    use tokio::net::UnixStream;

    const MINUTE: Duration = Duration::from_secs(60);

    fn pair(tracked: &Tracked) -> (Server, Fake<UnixStream>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let quota = Arc::new(Quota::default());
        let (ends, address) = (Ends::Unix { port: 1, peer_pid: None }, Address::Unix("x".into()));
        let server = Server {
            socket: Socket::Attached(Stream::unix(ours)),
            outstanding: Outstanding::new(),
            replies: Replies::default(),
            prepared: Prepared::default(),
            partial: Vec::new(),
            notices: Vec::new(),
            is_midway: false,
            was_lent: false,
            is_fresh: true,
            parameters: Parameters::none(tracked),
            info: Arc::new(ServerInfo::new(1, ends, address, "u".into(), "d".into(), key(b"abcd"), 1)),
            _permits: [(); 2].map(|()| quota.try_take(0).unwrap()),
            registry: Arc::new(Registry::default()),
        };
        (server, Fake(theirs))
    }

    /// Runs a query that is answered by `write`, after which the server closes or not.
    async fn answered(write: impl FnOnce(&mut Vec<u8>), closes: bool) -> (Result<(), QueryError>, Server) {
        let tracked = Tracked::new([]);
        let (mut server, mut fake) = pair(&tracked);
        let serve = async {
            assert_eq!(fake.receive().await, (frontend::QUERY, b"select\0".to_vec()));
            fake.send(write).await;
            if closes {
                drop(fake);
                return None;
            }
            Some(fake)
        };
        let (done, _fake) = tokio::join!(run(&mut server, &tracked, "select\0cut", MINUTE), serve);
        (done, server)
    }

    fn done(out: &mut Vec<u8>) {
        console::command_complete(out, "SELECT");
        console::ready_for_query(out, TransactionStatus::Idle);
    }

    #[tokio::test]
    async fn rows_are_dropped_and_parameters_noted() {
        let (result, server) = answered(
            |out| {
                // More than a socket and several reads hold.
                (0..100).for_each(|_| frame::message(out, b'D', &[b'x'; 30_000]));
                console::parameter_status(out, "TimeZone", "UTC");
                console::parameter_status(out, "is_superuser", "on");
                done(out);
            },
            false,
        )
        .await;
        result.unwrap();
        assert!(server.outstanding.is_idle() && server.replies.at_boundary() && server.partial.is_empty());
        assert_eq!(server.parameters.get(2).unwrap().as_ref(), "UTC");
    }

    #[tokio::test]
    async fn a_refusal_leaves_the_server_usable() {
        let tracked = Tracked::new([]);
        let (mut server, mut fake) = pair(&tracked);
        let serve = async {
            fake.receive().await;
            let code = SqlState::QUERY_CANCELED;
            fake.send(|out| ErrorResponse::new(Severity::Error, code, "canceling statement").error(out)).await;
            fake.send(|out| console::ready_for_query(out, TransactionStatus::Idle)).await;
            fake.receive().await;
            fake.send(|out| {
                console::empty_query_response(out);
                console::ready_for_query(out, TransactionStatus::Idle);
            })
            .await;
        };
        let ask = async {
            let refused = run(&mut server, &tracked, "", MINUTE).await.unwrap_err();
            let QueryError::Server(error) = &refused else { panic!("{refused:?}") };
            assert_eq!(error.sqlstate, Some(SqlState::QUERY_CANCELED));
            assert_eq!(refused.to_string(), "ERROR canceling statement (SQLSTATE 57014)");
            run(&mut server, &tracked, "", MINUTE).await.unwrap();
        };
        tokio::join!(ask, serve);
    }

    #[tokio::test]
    async fn what_cannot_go_on_is_told_apart() {
        let (result, _) = answered(|out| refusal(out, b"57P01", "terminating"), true).await;
        assert!(matches!(result, Err(QueryError::Ended(ServerError { message, .. })) if message == "terminating"));
        let behind_its_answer = |out: &mut Vec<u8>| {
            done(out);
            refusal(out, b"57P01", "terminating");
        };
        let (result, _) = answered(behind_its_answer, false).await;
        assert!(matches!(result, Err(QueryError::Ended(_))));
        let (result, _) = answered(|_| (), true).await;
        assert!(matches!(result, Err(QueryError::Lost(_))));
        let (result, _) = answered(|out| console::ready_for_query(out, TransactionStatus::Failed), false).await;
        assert!(matches!(result, Err(QueryError::TransactionOpen)));
        let (result, _) = answered(|out| frame::message(out, b'G', b"\0\0\0"), false).await;
        assert!(matches!(result, Err(QueryError::CopyIn)));
        let (result, _) = answered(|out| frame::message(out, b'!', b""), false).await;
        assert!(matches!(result, Err(QueryError::Broken(ReplyFault::UnknownMessage(b'!')))));
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let tracked = Tracked::new([]);
        let (mut server, _fake) = pair(&tracked);
        let result = run(&mut server, &tracked, "", Duration::from_millis(10)).await;
        assert!(matches!(result, Err(QueryError::Timeout)));
    }

    /// A message that nobody asked for may have begun before, and another end after the answer.
    #[tokio::test]
    async fn unasked_messages_before_and_behind_are_whole() {
        let mut status = Vec::new();
        console::parameter_status(&mut status, "TimeZone", "UTC");
        let (before, rest) = status.split_at(7);
        let tracked = Tracked::new([]);
        let (mut server, mut fake) = pair(&tracked);
        server.partial = before.to_vec();
        let serve = async {
            fake.receive().await;
            fake.send(|out| {
                out.extend(rest);
                done(out);
                out.extend(before);
            })
            .await;
            fake.send(|out| out.extend(rest)).await;
        };
        let (result, ()) = tokio::join!(run(&mut server, &tracked, "", MINUTE), serve);
        result.unwrap();
        assert!(server.partial.is_empty());
        assert_eq!(server.parameters.get(2).unwrap().as_ref(), "UTC");
    }
}
