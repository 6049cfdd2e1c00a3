//! What a restored database is held against: the rows that the backup's tables had, and a query that must run.

use tokio_postgres::SimpleQueryMessage;

use super::selection::Selection;
use crate::maintenance::backup::manifest::{Manifest, TableRows};
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::progress::Counted;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::qualified;

row! {
    /// A table that has not come back as it was.
    Difference {
        schema: String,
        table: String,
        rows_in_backup: i64,
        /// None: there is no such table.
        rows_restored: Option<i64>,
    }
}

/// What was compared.
pub(crate) struct Compared {
    /// None: the backup says nothing of its rows.
    pub(crate) tables: Option<usize>,
    pub(crate) rows: i64,
    pub(crate) differences: Vec<Difference>,
}

row! {
    Name {
        schema: String,
        name: String,
    }
}

/// Counts the rows of the tables that are selected.
pub(crate) async fn compare(
    job: &Job,
    server: &Server,
    manifest: &Manifest,
    selection: &Selection,
) -> Result<Compared, Failure> {
    let mut compared = Compared { tables: None, rows: 0, differences: Vec::new() };
    let Some(tables) = manifest.rows.as_deref().filter(|_| !manifest.options.schema_only) else { return Ok(compared) };
    let tables: Vec<&TableRows> = tables.iter().filter(|table| selection.has(&table.schema, &table.name)).collect();
    let there: Vec<Name> = server.rows(TABLES, &[]).await?;
    let progress = job.progress("counting", Counted::Things("tables"), Some(tables.len() as u64));
    for (done, table) in tables.iter().enumerate() {
        progress.at(done as u64);
        let is_there = there.iter().any(|name| (&name.schema, &name.name) == (&table.schema, &table.name));
        let found: Option<i64> = if is_there {
            let sql = format!("select count(*) from only {}", qualified(&table.schema, &table.name));
            Some(server.value(&sql, &[]).await?)
        } else {
            None
        };
        compared.rows += found.unwrap_or(0);
        if found != Some(table.rows) {
            compared.differences.push(Difference {
                schema: table.schema.clone(),
                table: table.name.clone(),
                rows_in_backup: table.rows,
                rows_restored: found,
            });
        }
    }
    compared.tables = Some(tables.len());
    Ok(compared)
}

const TABLES: &str = "
    select n.nspname::text as schema, c.relname::text as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm', 'f', 'p')";

/// Runs the user's query, or looks into the largest table there is. Returns what is said of it.
pub(crate) async fn smoke(job: &Job, server: &Server, query: Option<&str>) -> Result<String, Failure> {
    let largest: Option<Name> = server.rows(LARGEST, &[]).await?.pop();
    let sql = match (query, largest) {
        (Some(query), _) => query.to_owned(),
        (None, Some(Name { schema, name })) => format!("select * from {} limit 1", qualified(&schema, &name)),
        (None, None) => "select 1".to_owned(),
    };
    let limits = crate::maintenance::options::Limits::NONE;
    let answered = job.connect_as_user(&server.here(), limits).await?.simple(&sql).await;
    let messages = answered.map_err(|failure| match failure.sqlstate {
        Some(_) => Failure { exit: crate::maintenance::exit::Exit::Unverified, ..failure }.while_at("the smoke query"),
        None => failure,
    })?;
    let rows = messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count();
    let first = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.len() == 1 => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(match first {
        Some(value) if rows == 1 => value,
        _ if rows == 1 => "1 row".to_owned(),
        _ => format!("{rows} rows"),
    })
}

const LARGEST: &str = "
    select n.nspname::text as schema, c.relname::text as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'
      and has_table_privilege(c.oid, 'select')
    order by pg_relation_size(c.oid) desc limit 1";
