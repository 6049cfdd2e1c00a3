//! `auth_query`: what a server knows about a user's password.

use std::fmt;
use std::time::Duration;

use pgweir_config::UserSecret;
use pgweir_proto::backend;
use pgweir_proto::frame::{HEADER_LEN, Header};
use pgweir_proto::frontend;

use super::Server;
use super::parameters::{Parameters, Tracked};
use super::query::{self, QueryError};
use crate::relay::{Kind, Request, Step};

/// The longest answer that is read. An honest one has some 300 bytes.
const ANSWER_LEN_MAX: usize = 64 * 1024;

/// Why a server did not tell.
#[derive(Debug)]
pub(crate) enum LookupError {
    Query(QueryError),
    /// It must give the name and the secret.
    Columns(usize),
    NullName,
    /// Somebody else's secret: the query does not look for the user.
    OtherUser(String),
    /// A row without the layout of one.
    BadRow,
}

impl LookupError {
    /// The connection can still be used.
    pub(crate) fn is_harmless(&self) -> bool {
        !matches!(self, LookupError::Query(error) if !matches!(error, QueryError::Server(_)))
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookupError::Query(error) => error.fmt(f),
            LookupError::Columns(n) => write!(f, "expected 2 columns from auth_query, not {n}"),
            LookupError::NullName => f.write_str("auth_query response contained null user name"),
            LookupError::OtherUser(name) => write!(f, "auth_query gave another user, \"{name}\""),
            LookupError::BadRow => f.write_str("auth_query gave a row that cannot be read"),
        }
    }
}

impl From<QueryError> for LookupError {
    fn from(error: QueryError) -> LookupError {
        LookupError::Query(error)
    }
}

/// What is asked, and in which session: whatever clients have left behind in it must not answer.
pub(crate) struct Lookup<'a> {
    pub(crate) auth_query: &'a str,
    pub(crate) user: &'a str,
    /// The server's own, not what clients have set.
    pub(crate) parameters: &'a Parameters,
    /// What every session of the pool begins with.
    pub(crate) connect_query: Option<&'a str>,
}

/// Asks an idle server, attached to this thread's runtime; `None`: there is no such user.
pub(crate) async fn look_up(
    server: &mut Server,
    tracked: &Tracked,
    lookup: &Lookup<'_>,
    timeout: Duration,
) -> Result<Option<UserSecret>, LookupError> {
    let Lookup { auth_query, user, parameters, connect_query } = *lookup;
    let asking = async {
        if server.was_lent {
            clean(server, tracked, connect_query).await?;
        }
        if let Some(sql) = parameters.set_commands(&server.parameters, tracked) {
            query::run(server, tracked, &sql, Duration::ZERO).await?;
        }
        let mut message = Vec::new();
        frontend::query_with_parameter(&mut message, auth_query, user);
        let steps =
            [Kind::Parse, Kind::Bind, Kind::Describe, Kind::Execute].map(|kind| Request::Step(Step::client(kind)));
        let mut answer = Vec::new();
        let keep = |bytes: &[u8]| {
            answer.extend_from_slice(bytes);
            answer.len() <= ANSWER_LEN_MAX
        };
        query::converse(server, tracked, &message, &[&steps[..], &[Request::Sync]].concat(), |_, _| (), keep).await?;
        secret(&answer, user)
    };
    let limited = tokio::time::timeout(timeout, asking);
    limited.await.unwrap_or(Err(LookupError::Query(QueryError::Timeout)))
}

/// Makes a session that clients have had as good as new. A temporary table, for one, is found
/// before the catalog.
async fn clean(server: &mut Server, tracked: &Tracked, connect_query: Option<&str>) -> Result<(), QueryError> {
    query::run(server, tracked, "DISCARD ALL", Duration::ZERO).await?;
    if let Some(sql) = connect_query {
        match query::run(server, tracked, sql, Duration::ZERO).await {
            // A mistake in it did not matter at the login either.
            Ok(()) | Err(QueryError::Server(_)) => {}
            Err(error) => return Err(error),
        }
    }
    server.was_lent = false;
    Ok(())
}

/// What the messages of an answer say of `user`. Of several rows the last counts, as in PgBouncer.
fn secret(mut answer: &[u8], user: &str) -> Result<Option<UserSecret>, LookupError> {
    let mut found = None;
    while let Ok(Some(head)) = Header::read(answer) {
        let (message, rest) = answer.split_at_checked(head.len).ok_or(LookupError::BadRow)?;
        answer = rest;
        if head.tag == backend::DATA_ROW {
            found = Some(row(&message[HEADER_LEN..], user)?);
        }
    }
    Ok(found)
}

fn row(body: &[u8], user: &str) -> Result<UserSecret, LookupError> {
    let columns = backend::data_row(body).ok_or(LookupError::BadRow)?;
    let [name, secret] = columns[..] else { return Err(LookupError::Columns(columns.len())) };
    let name = name.ok_or(LookupError::NullName)?;
    if name != user.as_bytes() {
        return Err(LookupError::OtherUser(String::from_utf8_lossy(name).into_owned()));
    }
    // Without a secret, or with one that nobody can type, no password is right.
    let text = secret.and_then(|secret| std::str::from_utf8(secret).ok());
    Ok(UserSecret::parse(text.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgweir_proto::frame;

    /// A DataRow.
    fn data_row(columns: &[Option<&str>]) -> Vec<u8> {
        let mut body = (columns.len() as u16).to_be_bytes().to_vec();
        for column in columns {
            match column {
                Some(text) => body.extend([&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()),
                None => body.extend([0xff; 4]),
            }
        }
        let mut out = Vec::new();
        frame::message(&mut out, backend::DATA_ROW, &body);
        out
    }

    fn told(rows: &[&[Option<&str>]]) -> Result<Option<UserSecret>, String> {
        let mut answer = b"1\0\0\0\x042\0\0\0\x04".to_vec();
        rows.iter().for_each(|row| answer.extend(data_row(row)));
        answer.extend(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
        secret(&answer, "bob").map_err(|error| error.to_string())
    }

    #[test]
    fn a_row_is_a_name_and_a_secret() {
        assert_eq!(told(&[]), Ok(None));
        assert_eq!(told(&[&[Some("bob"), Some("x")]]), Ok(Some(UserSecret::parse("x"))));
        assert_eq!(told(&[&[Some("bob"), Some("x")], &[Some("bob"), Some("y")]]), Ok(Some(UserSecret::parse("y"))));
        for nothing in [None, Some("")] {
            assert_eq!(told(&[&[Some("bob"), nothing]]), Ok(Some(UserSecret::Empty)));
        }
    }

    #[test]
    fn what_is_no_such_row_lets_nobody_in() {
        let error = |row: &[Option<&str>]| told(&[row]).unwrap_err();
        assert_eq!(error(&[Some("bob")]), "expected 2 columns from auth_query, not 1");
        assert_eq!(error(&[Some("bob"), None, None]), "expected 2 columns from auth_query, not 3");
        assert_eq!(error(&[None, Some("x")]), "auth_query response contained null user name");
        // Its secret is known to somebody, but that is not bob.
        assert_eq!(error(&[Some("eve"), Some("x")]), "auth_query gave another user, \"eve\"");
        assert_eq!(
            secret(b"D\0\0\0\x06\0\x02", "bob").unwrap_err().to_string(),
            "auth_query gave a row that cannot be read"
        );
    }
}
