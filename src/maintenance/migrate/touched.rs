//! Which tables a migration has touched. A transaction keeps its locks to its end, and whoever changes a table's rows or
//! definition has a lock on it that nobody has who only reads: so they are all there to be seen before COMMIT.

use std::collections::BTreeSet;

use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::qualified;

/// Tables by their OIDs: their names may change.
#[derive(Default)]
pub(super) struct Touched(BTreeSet<u32>);

row! {
    Table {
        schema: String,
        name: String,
    }
}

row! {
    Found {
        oid: u32,
    }
}

impl Touched {
    /// Adds what the transaction under way has changed.
    pub(super) async fn note(&mut self, server: &Server) -> Result<(), Failure> {
        let found: Vec<Found> = server.rows(LOCKED, &[]).await?;
        self.0.extend(found.iter().map(|found| found.oid));
        Ok(())
    }

    /// An index over expressions has statistics of its own, which its table's ANALYZE makes.
    pub(super) async fn note_new_indexes(&mut self, server: &Server, before: &Indexes) -> Result<(), Failure> {
        let found: Vec<Found> = server.rows(NEW_INDEXES, &[&before.0]).await?;
        self.0.extend(found.iter().map(|found| found.oid));
        Ok(())
    }

    /// Those that there still are, without partitions whose parent is among them: its ANALYZE includes them.
    pub(super) async fn tables(&self, server: &Server) -> Result<Vec<String>, Failure> {
        let oids: Vec<u32> = self.0.iter().copied().collect();
        let tables: Vec<Table> = server.rows(TABLES, &[&oids]).await?;
        Ok(tables.iter().map(|table| qualified(&table.schema, &table.name)).collect())
    }
}

/// Renews statistics; returns what was done, and whether all of it could be.
pub(super) async fn analyze(job: &Job, server: &Server, tables: &[String]) -> Result<(Vec<String>, bool), Failure> {
    let mut done = Vec::new();
    for table in tables {
        match job.change(server, &format!("ANALYZE {table}")).await {
            Ok(_) => done.push(table.clone()),
            Err(failure) if failure.sqlstate.is_some() => job.warn(format!("ANALYZE {table}: {}", failure.message)),
            Err(failure) => return Err(failure),
        }
    }
    let is_all = done.len() == tables.len();
    Ok((done, is_all))
}

/// The indexes at a moment.
pub(super) struct Indexes(Vec<u32>);

impl Indexes {
    pub(super) async fn of(server: &Server) -> Result<Indexes, Failure> {
        let found: Vec<Found> = server.rows("select indexrelid as oid from pg_catalog.pg_index", &[]).await?;
        Ok(Indexes(found.iter().map(|found| found.oid).collect()))
    }

    /// What a build since then has left unfinished.
    pub(super) async fn left_invalid(&self, server: &Server) -> Result<Vec<String>, Failure> {
        let left: Vec<Table> = server.rows(LEFT_INVALID, &[&self.0]).await?;
        Ok(left.iter().map(|index| qualified(&index.schema, &index.name)).collect())
    }
}

const LOCKED: &str = "
    select distinct c.oid from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = l.relation
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where l.pid = pg_catalog.pg_backend_pid() and l.locktype = 'relation' and l.granted
      and l.mode not in ('AccessShareLock', 'RowShareLock')
      and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
      and c.relkind in ('r', 'm', 'p') and c.relpersistence <> 't'
      and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')";

const NEW_INDEXES: &str = "
    select distinct i.indrelid as oid from pg_catalog.pg_index i
    where i.indexprs is not null and not (i.indexrelid = any($1))";

const TABLES: &str = "
    select n.nspname::text as schema, c.relname::text as name
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = any($1) and not exists (
        select from pg_catalog.pg_partition_ancestors(c.oid) a where a.relid <> c.oid and a.relid = any($1))
    order by 1, 2";

const LEFT_INVALID: &str = "
    select n.nspname::text as schema, c.relname::text as name
    from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where not i.indisvalid and not (i.indexrelid = any($1)) order by 1, 2";
