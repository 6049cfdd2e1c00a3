//! One moment of a database, held for as long as it is dumped, and how many rows the tables had then.

use super::manifest::{DumpOptions, TableRows};
use super::patterns::Pattern;
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::progress::Counted;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::qualified;
use tokio_postgres::error::SqlState;

/// What the snapshot is made by; `--dry-run` shows it.
pub(super) const BEGIN: &str = "begin isolation level repeatable read read only";
pub(super) const EXPORT: &str = "select pg_export_snapshot()";

/// Tables locked by one statement.
const LOCKED_AT_ONCE: usize = 200;

/// A table may be dropped between being listed and being locked.
const ATTEMPTS: usize = 5;

row! {
    Table {
        schema: String,
        name: String,
    }
}

pub(super) struct Snapshot<'a> {
    server: &'a Server,
    /// For pg_dump's --snapshot.
    pub(super) name: String,
    tables: Vec<Table>,
}

impl<'a> Snapshot<'a> {
    /// Exports a snapshot on `server`, and locks the tables to be dumped against what would not respect it, such as TRUNCATE.
    pub(super) async fn take(server: &'a Server, options: &DumpOptions) -> Result<Snapshot<'a>, Failure> {
        for _ in 1..ATTEMPTS {
            match Snapshot::attempt(server, options).await {
                Err(failure) if failure.sqlstate == Some(SqlState::UNDEFINED_TABLE) => server.batch("rollback").await?,
                taken => return taken,
            }
        }
        Snapshot::attempt(server, options).await
    }

    async fn attempt(server: &'a Server, options: &DumpOptions) -> Result<Snapshot<'a>, Failure> {
        // As pg_dump: rows that are hidden are an error, not missing.
        server.batch(&format!("{BEGIN}; set local row_security = off")).await?;
        let name = server.value(EXPORT, &[]).await?;
        let tables = tables(server, options).await?;
        for tables in tables.chunks(LOCKED_AT_ONCE) {
            let names: Vec<String> =
                tables.iter().map(|table| format!("only {}", qualified(&table.schema, &table.name))).collect();
            server.batch(&format!("lock table {} in access share mode", names.join(", "))).await?;
        }
        Ok(Snapshot { server, name, tables })
    }

    /// How many rows each table had.
    pub(super) async fn count(&self, job: &Job) -> Result<Vec<TableRows>, Failure> {
        let progress = job.progress("counting rows", Counted::Things("tables"), Some(self.tables.len() as u64));
        let mut counted = Vec::with_capacity(self.tables.len());
        for Table { schema, name } in &self.tables {
            let sql = format!("select count(*) from only {}", qualified(schema, name));
            let rows = self.server.value(&sql, &[]).await;
            let rows = rows.map_err(|failure| failure.while_at(format!("counting {schema}.{name}")))?;
            counted.push(TableRows { schema: schema.clone(), name: name.clone(), rows });
            progress.at(counted.len() as u64);
        }
        Ok(counted)
    }

    pub(super) async fn end(self) -> Result<(), Failure> {
        self.server.batch("commit").await
    }
}

/// The tables whose rows pg_dump dumps: no partitioned ones, which have none of their own, no foreign ones, and none of
/// extensions.
async fn tables(server: &Server, options: &DumpOptions) -> Result<Vec<Table>, Failure> {
    if options.schema_only {
        return Ok(Vec::new());
    }
    let parsed = |texts: &[String]| texts.iter().map(|text| Pattern::parse(text)).collect::<Vec<_>>();
    let (wanted, excluded) = (parsed(&options.tables), parsed(&options.excluded));
    let is_bare = |pattern: &Pattern| pattern.schema.is_none();
    let visible = match wanted.iter().chain(&excluded).any(is_bare) {
        true => visible(server).await?,
        false => Vec::new(),
    };
    let any = |patterns: &[Pattern]| patterns.iter().map(Pattern::condition).collect::<Vec<_>>().join(" or ");
    let mut sql = TABLES.to_owned();
    if !wanted.is_empty() {
        sql += &format!(" and ({})", any(&wanted));
    }
    if !excluded.is_empty() {
        sql += &format!(" and not ({})", any(&excluded));
    }
    server.rows(&format!("{sql} order by 1, 2"), &[&visible]).await
}

/// What the user's own search_path finds. Without an operator, which might be somebody else's there.
async fn visible(server: &Server) -> Result<Vec<u32>, Failure> {
    server.batch("reset search_path").await?;
    let rows = server
        .query("select c.oid from pg_catalog.pg_class c where pg_catalog.pg_table_is_visible(c.oid)", &[])
        .await?;
    server.batch("set search_path = ''").await?;
    rows.iter().map(|row| row.try_get(0).map_err(Failure::from)).collect()
}

const TABLES: &str = "
    select n.nspname::text as schema, c.relname::text as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and not exists (select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
      and $1::oid[] is not null";
