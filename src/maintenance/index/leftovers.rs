//! Indexes that are not valid: what builds that failed have left, or what is being built now.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::maintenance::conninfo::Conninfo;
use crate::maintenance::exit::Failure;
use crate::maintenance::index::definition::with_bytes;
use crate::maintenance::interrupt::Undo;
use crate::maintenance::job::Job;
use crate::maintenance::options::Limits;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::Span;

row! {
    /// An index that is not used by queries, or not even written.
    InvalidRow {
        name: String,
        table: String,
        bytes: i64,
        /// `ccnew` and `ccold`: REINDEX CONCURRENTLY has left it; `build`: CREATE or DROP INDEX CONCURRENTLY has; `partitioned`:
        /// some partitions have none.
        kind: String,
        /// Whether queries use it, whether it is written, and whether it is not being dropped.
        valid: bool,
        ready: bool,
        live: bool,
        /// The process that is at work on it, which makes it no leftover; none: nobody is.
        building_pid: Option<i32>,
        phase: Option<String>,
        /// None: the table is locked against reading.
        definition: Option<String>,
        /// None: somebody is at work on it, or only new parts would help.
        statement: Option<String>,
    }
    hidden {
        oid: u32,
    }
}

impl InvalidRow {
    /// Whether it is certain to be of no use to anybody.
    pub(super) fn is_leftover(&self) -> bool {
        self.kind.starts_with("cc") && self.building_pid.is_none()
    }
}

/// Those of some tables and what belongs to them, or of all.
pub(super) async fn invalid(server: &Server, tables: Option<&[u32]>) -> Result<Vec<InvalidRow>, Failure> {
    server.rows(&with_bytes(INVALID), &[&tables]).await
}

/// Drops what REINDEX CONCURRENTLY has left of some tables' indexes, all of it that can be dropped.
pub(super) async fn sweep(job: &Job, server: &Server, tables: &[u32]) -> Result<(), Failure> {
    let mut failed = None;
    for index in invalid(server, Some(tables)).await?.iter().filter(|index| index.is_leftover()) {
        match drop_concurrently(job, server, &index.name).await {
            Ok(()) => {}
            Err(failure) if failure.sqlstate.is_some() => failed = Some(failure.while_at(&index.name)),
            Err(failure) => return Err(failure),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Nobody reads it, but the server waits for transactions that have the table open.
pub(super) async fn drop_concurrently(job: &Job, server: &Server, name: &str) -> Result<(), Failure> {
    if job.change(server, &format!("DROP INDEX CONCURRENTLY IF EXISTS {name}")).await? {
        job.say(format!("dropped {name}, which a build had left"));
    }
    Ok(())
}

/// How long a build that was cancelled may take to end, and what a transaction may keep from being dropped.
const END_LIMIT: Duration = Duration::from_secs(20);
const DROP_LIMITS: Limits =
    Limits { lock_timeout: Span(Duration::from_secs(15)), statement_timeout: Span(Duration::from_secs(30)) };

/// What a build would leave behind if it ended early.
pub(super) enum Remains {
    /// What REINDEX CONCURRENTLY leaves on a table.
    OfTable(u32),
    /// An index of this name, quoted and with its schema, if it is not valid.
    Index(String),
    /// An index that is to be attached to a partitioned one.
    Part(String),
    /// A partitioned index, with all that is attached to it, if it is not valid.
    Partitioned(String),
}

/// Registers that what the session `pid` builds does not stay if it fails.
pub(super) fn remove_later(job: &Job, server: &Server, pid: i32, remains: Remains) -> Undo {
    let (job_then, here) = (job.for_later(), server.here());
    let what = match &remains {
        Remains::OfTable(_) => "drop what the build has left".to_owned(),
        Remains::Index(name) | Remains::Part(name) | Remains::Partitioned(name) => {
            format!("drop the unfinished index {name}")
        }
    };
    job.cleanup.later(what, async move { remove(&job_then, &here, pid, remains).await })
}

async fn remove(job: &Job, here: &Conninfo, pid: i32, remains: Remains) -> Result<(), Failure> {
    let server = job.connect_to(here, DROP_LIMITS).await?;
    let deadline = Instant::now() + END_LIMIT;
    const RUNS: &str = "select exists (select from pg_stat_activity where pid = $1 and state <> 'idle')";
    while server.value::<bool>(RUNS, &[&pid]).await? && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    let (name, condition) = match &remains {
        Remains::OfTable(table) => return sweep(job, &server, &[*table]).await,
        Remains::Index(name) | Remains::Partitioned(name) => (name, "not i.indisvalid"),
        Remains::Part(name) => (name, "not c.relispartition"),
    };
    let sql = format!(
        "select exists (select from pg_index i join pg_class c on c.oid = i.indexrelid
                        where c.oid = to_regclass($1) and {condition})"
    );
    if !server.value::<bool>(&sql, &[name]).await? {
        return Ok(());
    }
    match remains {
        Remains::Partitioned(_) => job.change(&server, &format!("DROP INDEX {name}")).await.map(|_| ()),
        _ => drop_concurrently(job, &server, name).await,
    }
}

/// A progress view hides from us what others build; then its lock on the table counts.
const INVALID: &str = "
    with {locked},
    builds as (
        select pid, relid, index_relid, command, phase from pg_stat_progress_create_index where datname = current_database()),
    changing as (
        select pid, relation from pg_locks
        where locktype = 'relation' and mode = 'ShareUpdateExclusiveLock' and granted
          and database = (select oid from pg_database where datname = current_database())),
    found as (
        select c.oid, i.indrelid, n.nspname, c.relname, c.relkind, i.indisvalid, i.indisready, i.indislive, {bytes} as bytes, {definition} as definition,
               case when c.relkind = 'I' then 'partitioned'
                    when c.relname ~ '_ccnew\\d*$' and partner.is_there then 'ccnew'
                    when c.relname ~ '_ccold\\d*$' and partner.is_there then 'ccold'
                    else 'build' end as kind,
               format('%I.%I', tn.nspname, t.relname) as table
        from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
             join pg_namespace n on n.oid = c.relnamespace join pg_namespace tn on tn.oid = t.relnamespace
             cross join lateral (
                 select exists (
                     select from pg_index p join pg_class pc on pc.oid = p.indexrelid
                     where p.indrelid = i.indrelid and p.indexrelid <> i.indexrelid
                       and starts_with(pc.relname::text, regexp_replace(c.relname::text, '_cc(new|old)\\d*$', ''))) as is_there) partner
        where not (i.indisvalid and i.indisready and i.indislive) and not pg_is_other_temp_schema(n.oid)
          and ($1::oid[] is null or i.indrelid = any ($1)
               or i.indrelid in (select reltoastrelid from pg_class where oid = any ($1)))),
    working as (
        select found.oid, min(w.pid) as pid
        from found cross join lateral (
            select pid from builds where index_relid = found.oid or relid = found.indrelid and index_relid = 0
            union all select pid from changing where relation = found.oid
            union all select changing.pid from changing join builds using (pid)
                      where builds.relid is null and changing.relation = found.indrelid) w
        group by found.oid)
    select format('%I.%I', nspname, relname) as name, found.table, bytes, kind, indisvalid as valid, indisready as ready,
           indislive as live, working.pid as building_pid,
           (select concat_ws(': ', command, phase) from builds where builds.pid = working.pid) as phase,
           found.definition,
           case when working.pid is not null or kind = 'partitioned' then null
                when kind = 'build' and indislive then format('REINDEX INDEX CONCURRENTLY %I.%I;', nspname, relname)
                else format('DROP INDEX CONCURRENTLY %I.%I;', nspname, relname) end as statement,
           found.oid
    from found left join working on working.oid = found.oid
    order by name";
