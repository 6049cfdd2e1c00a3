//! `index list --unused`: indexes that nobody has read for long.

use super::Scope;
use crate::maintenance::exit::Failure;
use crate::maintenance::index::definition::with_bytes;
use crate::maintenance::index::foreign_keys::LEADS;
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::{Span, span_text};

row! {
    /// An index that is only written. A partitioned one is told as a whole.
    UnusedRow {
        name: String,
        table: String,
        bytes: i64,
        scans: i64,
        /// Since the last scan, from PostgreSQL 16 on; none: there was none, or it is not known.
        last_scan_s: Option<f64>,
        /// For how long scans have been counted.
        counted_s: f64,
        /// What else it may be for; may be empty.
        note: String,
        /// None: the table is locked against reading.
        definition: Option<String>,
        statement: String,
    }
}

/// What counts as unused.
pub(super) struct Unused {
    pub(super) min_age: Span,
    pub(super) max_scans: i64,
}

pub(super) async fn unused(
    job: &Job,
    server: &Server,
    scope: &Scope,
    wanted: &Unused,
) -> Result<Vec<UnusedRow>, Failure> {
    let counted = counted_s(server).await?;
    let min_age = wanted.min_age.secs();
    if counted < min_age {
        job.warn(format!(
            "scans have been counted for {} only: what was not read since may still be needed, so that nothing is called unused \
             before {}; --min-stats-age says otherwise",
            span_text(counted.round()),
            wanted.min_age
        ));
        return Ok(Vec::new());
    }
    let found: Vec<UnusedRow> = server
        .rows(
            &with_bytes(UNUSED).replace("{leads}", LEADS),
            &[&scope.tables, &min_age, &wanted.max_scans, &scope.min_bytes, &counted],
        )
        .await?;
    if !found.is_empty() {
        let standbys: i64 = server.value("select count(*) from pg_stat_replication", &[]).await?;
        let connected = if standbys > 0 { format!(" ({standbys} connected)") } else { String::new() };
        job.warn(format!("standbys{connected} count scans of their own: ask each of them, too, before an index goes"));
    }
    Ok(found)
}

/// For how long the statistics of this database have been gathered. A database whose statistics were never reset has them since
/// the server's were, as by a crash, or since it was made.
async fn counted_s(server: &Server) -> Result<f64, Failure> {
    let reset: f64 = server.value(RESET, &[]).await?;
    const READABLE: &str = "select has_function_privilege('pg_catalog.pg_stat_file(text, boolean)', 'execute')";
    if !server.value::<bool>(READABLE, &[]).await? {
        return Ok(reset);
    }
    let made: Option<f64> = server.value(MADE, &[]).await?;
    Ok(made.map_or(reset, |made| made.min(reset)))
}

const RESET: &str = "
    select coalesce(extract(epoch from clock_timestamp() - coalesce(
               d.stats_reset, (select least(a.stats_reset, b.stats_reset, w.stats_reset)
                               from pg_stat_archiver a, pg_stat_bgwriter b, pg_stat_wal w))), 0)::float8
    from pg_stat_database d where d.datname = current_database()";

/// None: its files are in a tablespace of its own.
const MADE: &str = "
    select extract(epoch from clock_timestamp()
                              - (pg_stat_file('base/' || oid || '/PG_VERSION', true)).modification)::float8
    from pg_database where datname = current_database()";

/// `last_idx_scan` is of PostgreSQL 16 and later. With track_commit_timestamp on, an index is not called unused before it is
/// old enough itself. A foreign key's own columns are searched when what it refers to is deleted.
const UNUSED: &str = "
    with recursive {locked},
    tree as (
        select c.oid as root, c.oid from pg_class c join pg_index i on i.indexrelid = c.oid
             join pg_class t on t.oid = i.indrelid join pg_namespace n on n.oid = t.relnamespace
        where not c.relispartition and t.relpersistence <> 't'
          and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'
          and ($1::oid[] is null or t.oid = any ($1))
        union all
        select tree.root, h.inhrelid from tree join pg_inherits h on h.inhparent = tree.oid),
    used as (
        select tree.root, sum({bytes})::int8 as bytes, sum(coalesce(s.idx_scan, 0))::int8 as scans,
               max((to_jsonb(s) ->> 'last_idx_scan')::timestamptz) as last_scan,
               max(case when current_setting('track_commit_timestamp') = 'on' then pg_xact_commit_timestamp(c.xmin) end) as made,
               bool_and(i.indisvalid) as is_valid,
               bool_or(i.indisunique or i.indisprimary or i.indisexclusion or i.indisreplident) as is_needed
        from tree join pg_class c on c.oid = tree.oid join pg_index i on i.indexrelid = c.oid
             left join pg_stat_all_indexes s on s.indexrelid = c.oid
        group by tree.root)
    select format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as table, used.bytes, used.scans,
           extract(epoch from clock_timestamp() - used.last_scan)::float8 as last_scan_s, $5::float8 as counted_s,
           concat_ws('; ',
               (select 'serves foreign key ' || string_agg(f.conname, ', ' order by f.conname) from pg_constraint f
                where f.contype = 'f' and f.conparentid = 0 and f.conrelid = i.indrelid and {leads}),
               case when i.indisclustered then 'marked by CLUSTER' end,
               case when i.indexprs is not null then 'ANALYZE gathers statistics on its expressions' end) as note,
           {definition} as definition,
           format(case c.relkind when 'I' then 'DROP INDEX %I.%I;' else 'DROP INDEX CONCURRENTLY %I.%I;' end,
                  n.nspname, c.relname) as statement
    from used join pg_class c on c.oid = used.root join pg_index i on i.indexrelid = c.oid join pg_class t on t.oid = i.indrelid
         join pg_namespace n on n.oid = c.relnamespace join pg_namespace tn on tn.oid = t.relnamespace
         join pg_am am on am.oid = c.relam
    where used.is_valid and not used.is_needed and used.bytes >= $4
      and (used.scans <= $3 or used.last_scan < clock_timestamp() - $2 * interval '1 second')
      and (used.made is null or used.made < clock_timestamp() - $2 * interval '1 second')
      and not exists (select from pg_constraint where conindid = c.oid)
      and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = t.oid and deptype = 'e')
    order by used.bytes desc, name";
