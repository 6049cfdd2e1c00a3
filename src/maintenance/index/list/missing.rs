//! `index list --missing`: tables that are read whole again and again, and foreign keys whose columns no index finds.

use super::Scope;
use crate::maintenance::exit::Failure;
use crate::maintenance::index::definition::with_bytes;
use crate::maintenance::index::foreign_keys::LEADS;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

row! {
    /// Where an index would help. A partitioned table is told as a whole.
    MissingRow {
        table: String,
        /// `sequential-scans` or `foreign-key`.
        kind: String,
        bytes: i64,
        /// About as many as it has; none: nobody has counted.
        rows: Option<i64>,
        seq_scans: i64,
        index_scans: i64,
        /// Read by a sequential scan on average.
        rows_per_scan: Option<f64>,
        /// The foreign key.
        constraint: Option<String>,
        /// That an index would have to begin with; empty: the statements tell, see `pgweir report statements`.
        columns: Vec<String>,
        advice: String,
        /// None: the columns are not known.
        statement: Option<String>,
    }
}

pub(super) async fn missing(
    server: &Server,
    scope: &Scope,
    min_table_bytes: i64,
    min_seq_scans: i64,
) -> Result<Vec<MissingRow>, Failure> {
    let sql = with_bytes(MISSING).replace("{leads}", LEADS);
    server.rows(&sql, &[&scope.tables, &scope.min_bytes, &min_table_bytes, &min_seq_scans]).await
}

/// Of a partitioned table each part has a foreign key of its own, and a part's index counts like the whole's.
const MISSING: &str = "
    with recursive {locked},
    tree as (
        select c.oid as root, c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'm') and not c.relispartition and c.relpersistence <> 't'
          and n.nspname not in ('pg_catalog', 'information_schema')
          and ($1::oid[] is null or c.oid = any ($1))
        union all
        select tree.root, h.inhrelid from tree join pg_inherits h on h.inhparent = tree.oid
             join pg_class c on c.oid = h.inhrelid and c.relispartition),
    tables as (
        select tree.root, sum({bytes})::int8 as bytes,
               case when bool_or(c.reltuples >= 0) then sum(greatest(c.reltuples, 0))::int8 end as rows,
               sum(coalesce(s.seq_scan, 0))::int8 as seq_scans, sum(coalesce(s.idx_scan, 0))::int8 as index_scans,
               sum(coalesce(s.seq_tup_read, 0))::float8 as seq_rows
        from tree join pg_class c on c.oid = tree.oid and c.relkind <> 'p'
             left join pg_stat_all_tables s on s.relid = c.oid
        group by tree.root),
    bare as (
        select f.oid, tree.root from pg_constraint f join tree on tree.oid = f.conrelid
             join pg_class leaf on leaf.oid = f.conrelid and leaf.relkind = 'r'
        where f.contype = 'f' and not exists (
            select from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am am on am.oid = c.relam
            where i.indrelid = f.conrelid and i.indisvalid and {leads})),
    keys as (
        select distinct bare.root, top.oid, top.conname, top.conrelid, top.conkey, top.confrelid
        from bare join pg_constraint own on own.oid = bare.oid
             cross join lateral (
                 with recursive up as (
                     select own.oid, own.conparentid
                     union all select p.oid, p.conparentid from up join pg_constraint p on p.oid = up.conparentid)
                 select oid from up where conparentid = 0) up
             join pg_constraint top on top.oid = up.oid),
    found as (
        select 'foreign-key' as kind, k.root, k.conrelid as oid, k.conname::text as constraint,
               array(select a.attname::text from unnest(k.conkey) with ordinality o (attnum, place)
                          join pg_attribute a on a.attrelid = k.conrelid and a.attnum = o.attnum order by place) as columns,
               format('to delete from or change keys of %s reads all of it', k.confrelid::regclass) as advice
        from keys k
        union all
        select 'sequential-scans', root, root, null, '{}',
               'read whole more often than by an index: pgweir report statements shows by what'
        from tables where bytes >= $3 and seq_scans >= $4 and seq_scans > index_scans and seq_rows / seq_scans >= 1000)
    select format('%I.%I', n.nspname, c.relname) as table, found.kind, t.bytes, t.rows, t.seq_scans, t.index_scans,
           t.seq_rows / nullif(t.seq_scans, 0) as rows_per_scan, found.constraint, found.columns,
           concat(found.advice, case when c.relkind = 'p' and found.constraint is not null then
                                    '; pgweir index create does it concurrently, partition by partition' end) as advice,
           case when found.kind = 'foreign-key' then
               format(case c.relkind when 'p' then 'CREATE INDEX ON %I.%I (%s);' else 'CREATE INDEX CONCURRENTLY ON %I.%I (%s);' end,
                      n.nspname, c.relname,
                      (select string_agg(quote_ident(name), ', ' order by place)
                       from unnest(found.columns) with ordinality o (name, place))) end as statement
    from found join tables t on t.root = found.root join pg_class c on c.oid = found.oid
         join pg_namespace n on n.oid = c.relnamespace
    where t.bytes >= $2
    order by t.seq_rows desc, t.bytes desc, 1, found.constraint nulls first";
