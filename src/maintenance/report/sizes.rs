//! `report sizes`: databases, tables, indexes.

use super::Options;
use crate::maintenance::exit::{Done, Exit};
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;

row! {
    /// One database, table or index.
    SizeRow {
        kind: String,
        name: String,
        /// A table's with its indexes and TOAST.
        total_bytes: i64,
        /// Of a table: itself and its TOAST.
        table_bytes: Option<i64>,
        index_bytes: Option<i64>,
        rows_estimate: Option<i64>,
    }
}

pub(crate) async fn sizes(job: &Job, options: &Options) -> Done {
    let server = job.connect(&options.reading.target, options.reading.limits).await?;
    let rows: Vec<SizeRow> = server.rows(SIZES, &[&options.limit()]).await?;
    job.out.rows(&rows, "There is nothing here whose size may be seen.")?;
    Ok(Exit::Fine)
}

/// Databases that we may connect to, or all for a member of pg_read_all_stats: others' sizes are refused. What is dropped
/// meanwhile has a size of NULL.
const SIZES: &str = "
    (select 'database' as kind, d.datname::text as name, pg_database_size(d.oid) as total_bytes,
            null::int8 as table_bytes, null::int8 as index_bytes, null::int8 as rows_estimate
     from pg_database d
     where has_database_privilege(d.oid, 'connect') or pg_has_role('pg_read_all_stats', 'usage')
     order by 3 desc, 2 limit $1)
    union all
    (select 'table', format('%I.%I', n.nspname, c.relname), pg_total_relation_size(c.oid), pg_table_size(c.oid),
            pg_indexes_size(c.oid), case when c.reltuples >= 0 then c.reltuples::int8 end
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'm') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
       and pg_total_relation_size(c.oid) is not null
     order by 3 desc, 2 limit $1)
    union all
    (select 'index', format('%I.%I', n.nspname, c.relname), pg_relation_size(c.oid), null, null, null
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'i' and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
       and pg_relation_size(c.oid) is not null
     order by 3 desc, 2 limit $1)";
