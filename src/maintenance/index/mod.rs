//! `pgweir index`: lists indexes, rebuilds, creates and drops them while the tables are in use.

mod build;
mod create;
mod definition;
mod drop;
mod estimate;
mod foreign_keys;
mod leftovers;
mod list;
mod names;
mod rebuild;

pub(crate) use create::{CreateOptions, create};
pub(crate) use drop::{DropOptions, drop_indexes};
pub(crate) use list::{ListOptions, list};
pub(crate) use rebuild::{RebuildOptions, rebuild};

use super::exit::Failure;
use super::server::Server;

/// Tables with all their partitions, and those in some schemas.
async fn with_partitions(server: &Server, tables: &[u32], schemas: &[String]) -> Result<Vec<u32>, Failure> {
    if let Some(missing) = missing_schema(server, schemas).await? {
        return Err(Failure::failed(format!("there is no schema {missing} in {}", server.conninfo.dbname)));
    }
    const TREE: &str = "
        with recursive tree as (
            select oid from unnest($1::oid[]) oid
            union
            select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p', 'm') and n.nspname = any ($2)
            union
            select h.inhrelid from tree join pg_inherits h on h.inhparent = tree.oid
                   join pg_class c on c.oid = h.inhrelid and c.relispartition)
        select array(select oid from tree)";
    server.value(TREE, &[&tables, &schemas]).await
}

async fn missing_schema(server: &Server, schemas: &[String]) -> Result<Option<String>, Failure> {
    const MISSING: &str =
        "select name from unnest($1::text[]) name where name not in (select nspname from pg_namespace)";
    let rows = server.query(MISSING, &[&schemas]).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
}
