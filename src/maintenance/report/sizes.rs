//! `report sizes`: databases, tables, indexes.

use super::{Options, with_size};
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
    let rows: Vec<SizeRow> = server.rows(&with_size(SIZES), &[&options.limit()]).await?;
    job.out.rows(&rows, "There is nothing here whose size may be seen.")?;
    Ok(Exit::Fine)
}

/// Databases that we may connect to, or all for a member of pg_read_all_stats: others' sizes are refused. Of what is dropped
/// meanwhile there is no size.
const SIZES: &str = "
    (select 'database' as kind, d.datname::text as name, pg_database_size(d.oid) as total_bytes,
            null::int8 as table_bytes, null::int8 as index_bytes, null::int8 as rows_estimate
     from pg_database d
     where has_database_privilege(d.oid, 'connect') or pg_has_role('pg_read_all_stats', 'usage')
     order by 3 desc, 2 limit $1)
    union all
    (select 'table', format('%I.%I', n.nspname, c.relname), {size}, pg_table_size(free.oid), pg_indexes_size(free.oid),
            case when c.reltuples >= 0 then c.reltuples::int8 end
     from pg_class c join pg_namespace n on n.oid = c.relnamespace {free}
     where c.relkind in ('r', 'm') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' and {size} is not null
     order by 3 desc, 2 limit $1)
    union all
    (select 'index', format('%I.%I', n.nspname, c.relname), {size}, null, null, null
     from pg_class c join pg_namespace n on n.oid = c.relnamespace {free}
     where c.relkind = 'i' and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' and {size} is not null
     order by 3 desc, 2 limit $1)";
