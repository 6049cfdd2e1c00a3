//! `index list` without a question: all indexes.

use super::Scope;
use crate::maintenance::exit::Failure;
use crate::maintenance::index::definition::with_bytes;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

row! {
    /// An index.
    IndexRow {
        name: String,
        table: String,
        method: String,
        bytes: i64,
        scans: i64,
        /// From PostgreSQL 16 on; none: there was none, or it is not known.
        last_scan_s: Option<f64>,
        /// `primary`, `unique`, `constraint`, `exclusion`, `replica-identity`, `clustered`, `partial`, `expression`,
        /// `partitioned`, `partition`, `invalid`.
        flags: Vec<String>,
        /// None: the table is locked against reading.
        definition: Option<String>,
    }
}

pub(super) async fn summary(server: &Server, scope: &Scope) -> Result<Vec<IndexRow>, Failure> {
    server.rows(&with_bytes(SUMMARY), &[&scope.tables, &scope.min_bytes]).await
}

const SUMMARY: &str = "
    with {locked}
    select format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as table, am.amname::text as method,
           size.bytes, coalesce(s.idx_scan, 0) as scans,
           extract(epoch from clock_timestamp() - (to_jsonb(s) ->> 'last_idx_scan')::timestamptz)::float8 as last_scan_s,
           array_remove(array[
               case when i.indisprimary then 'primary' end,
               case when i.indisunique then 'unique' end,
               case when exists (select from pg_constraint where conindid = c.oid and contype in ('p', 'u', 'x')) then 'constraint' end,
               case when i.indisexclusion then 'exclusion' end,
               case when i.indisreplident then 'replica-identity' end,
               case when i.indisclustered then 'clustered' end,
               case when i.indpred is not null then 'partial' end,
               case when i.indexprs is not null then 'expression' end,
               case when c.relkind = 'I' then 'partitioned' end,
               case when c.relispartition then 'partition' end,
               case when not (i.indisvalid and i.indisready) then 'invalid' end], null) as flags,
           {definition} as definition
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
         join pg_namespace n on n.oid = c.relnamespace join pg_namespace tn on tn.oid = t.relnamespace
         join pg_am am on am.oid = c.relam
         left join pg_stat_all_indexes s on s.indexrelid = c.oid
         cross join lateral (select {total_bytes} as bytes) size
    where size.bytes >= $2 and t.relpersistence <> 't'
      and ($1::oid[] is null and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'
           or t.oid = any ($1))
    order by size.bytes desc, name";
