//! What an index will be like: it is made on an empty table like the real one, in a transaction that is rolled back.
//!
//! So the server itself says what is wrong with it, before anything is built, and what it is can be compared with what is there.

use tokio_postgres::error::SqlState;

use super::CreateOptions;
use crate::maintenance::exit::{Exit, Failure};
use crate::maintenance::index::definition::{Definition, definitions};
use crate::maintenance::index::names::Relation;
use crate::maintenance::job::Job;
use crate::maintenance::server::Server;
use crate::maintenance::sql::{ident, qualified};

/// The name that PostgreSQL gives it, and what it is. None: the user may not make temporary tables.
pub(super) async fn sketch(
    job: &Job,
    session: &Server,
    options: &CreateOptions,
    table: &Relation,
) -> Result<Option<(String, Definition)>, Failure> {
    session.batch("BEGIN").await?;
    let made = make(session, options, table).await;
    // A failed transaction ends the same way.
    session.batch("ROLLBACK").await?;
    match made {
        Err((failure, true)) if failure.sqlstate == Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
            job.warn("not looked for an index like it: there is no right to make a temporary table in this database");
            Ok(None)
        }
        // What the user has written is wrong: syntax, a name, a type.
        Err((failure, false)) if failure.sqlstate.as_ref().is_some_and(|code| code.code().starts_with("42")) => {
            Err(Failure { exit: Exit::Usage, ..failure })
        }
        Err((failure, _)) => Err(failure),
        Ok(made) => Ok(Some(made)),
    }
}

/// A failure with whether it was the table's.
async fn make(
    session: &Server,
    options: &CreateOptions,
    table: &Relation,
) -> Result<(String, Definition), (Failure, bool)> {
    let empty = qualified("pg_temp", &table.name);
    let like = format!("CREATE TEMPORARY TABLE {} (LIKE {})", ident(&table.name), table.qualified());
    session.batch(&like).await.map_err(|failure| (failure, true))?;
    let index = |failure| (failure, false);
    // Alone: it has the user's SQL in it.
    let sql = options.without_tablespace().sql("", "", &empty);
    session.query(&sql, &[]).await.map_err(index)?;
    const OID: &str =
        "select i.indrelid as oid, c.relname::text as name from pg_index i join pg_class c on c.oid = i.indexrelid
                       where i.indrelid = to_regclass($1)";
    let rows = session.query(OID, &[&empty]).await.map_err(index)?;
    let row = rows.first().ok_or_else(|| index(Failure::failed("no index was made")))?;
    let read = |e: tokio_postgres::Error| index(Failure::from(e));
    let (oid, name): (u32, String) = (row.try_get(0).map_err(read)?, row.try_get(1).map_err(read)?);
    let mut found = definitions(session, Some(&[oid])).await.map_err(index)?;
    let definition = found.pop().ok_or_else(|| index(Failure::failed("no index was made")))?;
    Ok((name, definition))
}

impl CreateOptions {
    /// Temporary tables have their own.
    fn without_tablespace(&self) -> CreateOptions {
        CreateOptions { tablespace: None, ..self.clone() }
    }
}
