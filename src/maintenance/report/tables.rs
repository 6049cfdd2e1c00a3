//! `report tables`: what is done to them, and when they were looked after.

use super::{Options, with_size};
use crate::maintenance::exit::{Done, Exit};
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;

row! {
    /// Counts are since the statistics were reset, of rows where nothing else is said.
    TableRow {
        name: String,
        total_bytes: i64,
        live: i64,
        dead: i64,
        /// Of live and dead ones together.
        dead_pct: Option<f64>,
        seq_scans: i64,
        index_scans: i64,
        inserted: i64,
        updated: i64,
        deleted: i64,
        /// Of the updates, those that changed no index.
        hot_pct: Option<f64>,
        changed_since_analyze: i64,
        /// By hand or by autovacuum; none: never.
        since_vacuum_s: Option<f64>,
        since_analyze_s: Option<f64>,
        /// Transactions since it was frozen; at about 2 billion the server stops taking new ones.
        xid_age: i64,
    }
}

pub(crate) async fn tables(job: &Job, options: &Options) -> Done {
    let server = job.connect(&options.reading.target, options.reading.limits).await?;
    let rows: Vec<TableRow> = server.rows(&with_size(TABLES), &[&options.limit()]).await?;
    job.out.rows(&rows, "There are no tables.")?;
    Ok(Exit::Fine)
}

const TABLES: &str = "
    select format('%I.%I', s.schemaname, s.relname) as name, size.bytes as total_bytes,
           n_live_tup as live, n_dead_tup as dead,
           100 * n_dead_tup::float8 / nullif(n_live_tup + n_dead_tup, 0)::float8 as dead_pct,
           seq_scan as seq_scans, coalesce(idx_scan, 0) as index_scans,
           n_tup_ins as inserted, n_tup_upd as updated, n_tup_del as deleted,
           100 * n_tup_hot_upd::float8 / nullif(n_tup_upd, 0)::float8 as hot_pct,
           n_mod_since_analyze as changed_since_analyze,
           extract(epoch from now() - greatest(last_vacuum, last_autovacuum))::float8 as since_vacuum_s,
           extract(epoch from now() - greatest(last_analyze, last_autoanalyze))::float8 as since_analyze_s,
           age(c.relfrozenxid)::int8 as xid_age
    from pg_stat_user_tables s join pg_class c on c.oid = s.relid
         {free} cross join lateral (select {size} as bytes) as size
    where size.bytes is not null and c.relfrozenxid <> 0::text::xid
    order by total_bytes desc, name limit $1";
