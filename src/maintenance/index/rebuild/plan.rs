//! Which indexes are rebuilt, and which cannot be.

use super::RebuildOptions;
use crate::maintenance::exit::Failure;
use crate::maintenance::index::definition::with_bytes;
use crate::maintenance::index::estimate::{btrees, measure, pgstattuple};
use crate::maintenance::index::leftovers::{InvalidRow, invalid};
use crate::maintenance::index::names::{Kind, find};
use crate::maintenance::index::with_partitions;
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

row! {
    /// An index with storage.
    Target {
        oid: u32,
        /// Quoted, with its schema.
        name: String,
        table: String,
        table_oid: u32,
        bytes: i64,
        tablespace: String,
        /// `key=value`, as `pg_class.reloptions` has them.
        options: Vec<String>,
        /// Why it cannot be rebuilt concurrently; none: it can.
        obstacle: Option<String>,
    }
}

/// What is to be done.
pub(super) struct Plan {
    /// The smallest first: what they free may be what the larger ones need.
    pub(super) targets: Vec<Target>,
    /// What earlier runs have left of these tables' indexes.
    pub(super) leftovers: Vec<InvalidRow>,
    pub(super) tables: Vec<u32>,
}

pub(super) async fn plan(job: &Job, server: &Server, options: &RebuildOptions) -> Result<Plan, Failure> {
    let limits = options.limits();
    let indexes = find(job, server, limits, Kind::Index, &options.names).await?;
    let tables = find(job, server, limits, Kind::Table, &options.table).await?;
    let oids =
        |found: &[crate::maintenance::index::names::Relation]| found.iter().map(|one| one.oid).collect::<Vec<_>>();
    let of_tables = with_partitions(server, &oids(&tables), &options.schema).await?;
    // It is the server's own to say where and how it is stored.
    let with_toast = options.set.is_empty() && options.tablespace.is_none();
    let mut targets: Vec<Target> =
        server.rows(&with_bytes(TARGETS), &[&oids(&indexes), &of_tables, &options.all, &with_toast]).await?;
    let mut tables: Vec<u32> = targets.iter().map(|target| target.table_oid).collect();
    tables.extend(of_tables);
    tables.sort_unstable();
    tables.dedup();
    let mut leftovers = invalid(server, Some(&tables)).await?;
    leftovers.retain(InvalidRow::is_leftover);
    targets.retain(|target| leftovers.iter().all(|left| left.oid != target.oid));
    let least = options.min_size.map_or(0, |size| i64::try_from(size.0).unwrap_or(i64::MAX));
    targets.retain(|target| target.bytes >= least);
    if let Some(least) = options.min_bloat_pct {
        keep_bloated(job, server, &mut targets, &tables, options.exact, least.0).await?;
    }
    Ok(Plan { targets, leftovers, tables })
}

/// What cannot be estimated is left out, and counted aloud.
async fn keep_bloated(
    job: &Job,
    server: &Server,
    targets: &mut Vec<Target>,
    tables: &[u32],
    is_exact: bool,
    least_pct: f64,
) -> Result<(), Failure> {
    let schema = if is_exact { pgstattuple(server).await? } else { None };
    if is_exact && schema.is_none() {
        return Err(Failure::failed("--exact needs the extension pgstattuple in this database"));
    }
    let known = btrees(server, Some(tables), 0).await?;
    let (mut bloated, mut unknown) = (Vec::new(), 0);
    for target in targets.iter() {
        let index = known.iter().find(|index| index.oid == target.oid);
        let bloat = match (index, &schema) {
            (Some(index), Some(schema)) => Some(measure(server, schema, index).await?),
            (Some(index), None) => index.estimate(),
            (None, _) => None,
        };
        match bloat {
            Some(bloat) if bloat.pct >= least_pct => bloated.push(target.oid),
            Some(_) => {}
            None => unknown += 1,
        }
    }
    if unknown > 0 {
        let all = targets.len();
        job.warn(format!("left out: {unknown} of {all}, which are no btree or have no statistics that can be seen"));
    }
    targets.retain(|target| bloated.contains(&target.oid));
    Ok(())
}

/// $1: indexes, partitioned ones by their parts; $2: tables, with what stores their long values; $3: everything; $4: with TOAST.
const TARGETS: &str = "
    with recursive {locked},
    named as (
        select oid from unnest($1::oid[]) oid
        union select h.inhrelid from named join pg_inherits h on h.inhparent = named.oid)
    select c.oid, format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as table,
           i.indrelid as table_oid, {bytes} as bytes,
           coalesce((select spcname::text from pg_tablespace where oid = c.reltablespace),
                    (select spcname::text from pg_tablespace s join pg_database d on d.dattablespace = s.oid
                     where d.datname = current_database())) as tablespace,
           coalesce(c.reloptions, '{}') as options,
           case when t.oid < 16384 and tn.nspname <> 'information_schema' then 'indexes of the system cannot be rebuilt concurrently'
                when i.indisexclusion then 'an exclusion constraint cannot be rebuilt concurrently; REINDEX INDEX locks the table'
                when t.relpersistence = 't' then 'of a temporary table' end as obstacle
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
         join pg_namespace n on n.oid = c.relnamespace join pg_namespace tn on tn.oid = t.relnamespace
    where c.relkind = 'i'
      and (c.oid in (select oid from named) or i.indrelid = any ($2)
           or $4 and i.indrelid in (select reltoastrelid from pg_class where oid = any ($2))
           or $3 and i.indrelid >= 16384 and t.relpersistence <> 't' and ($4 or tn.nspname <> 'pg_toast'))
    order by bytes, name";
