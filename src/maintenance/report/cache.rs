//! `report cache`: how much of what was wanted was in shared_buffers.

use super::Options;
use crate::maintenance::exit::{Done, Exit};
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;

row! {
    /// Blocks since the statistics were reset. What the operating system had in its cache counts as read.
    CacheRow {
        kind: String,
        name: String,
        /// None: nothing was wanted.
        hit_pct: Option<f64>,
        hit_blocks: i64,
        read_blocks: i64,
    }
}

pub(crate) async fn cache(job: &Job, options: &Options) -> Done {
    let server = job.connect(&options.reading.target, options.reading.limits).await?;
    let rows: Vec<CacheRow> = server.rows(CACHE, &[&options.limit()]).await?;
    job.out.rows(&rows, "Nothing has been read yet.")?;
    Ok(Exit::Fine)
}

/// Those that read most come first, of each kind.
const CACHE: &str = "
    with counted as (
        select 1 as place, 'database' as kind, datname::text as name, blks_hit as hit, blks_read as read
        from pg_stat_database where datname is not null
        union all
        select 2, 'table', format('%I.%I', schemaname, relname),
               coalesce(heap_blks_hit, 0) + coalesce(toast_blks_hit, 0),
               coalesce(heap_blks_read, 0) + coalesce(toast_blks_read, 0)
        from pg_statio_user_tables
        union all
        select 3, 'index', format('%I.%I', schemaname, indexrelname), idx_blks_hit, idx_blks_read
        from pg_statio_user_indexes),
    numbered as (select *, row_number() over (partition by place order by read desc, hit desc, name) as n from counted)
    select kind, name, 100 * hit::float8 / nullif(hit + read, 0)::float8 as hit_pct,
           hit as hit_blocks, read as read_blocks
    from numbered where $1::int8 is null or n <= $1 order by place, n";
