//! `pgweir locks`: who waits for whom, as a tree.

mod forest;
mod modes;

use std::collections::{BTreeMap, BTreeSet};

use forest::{Place, forest};

use super::exit::{Done, Exit, Failure};
use super::job::Job;
use super::options::Reading;
use super::rows::row;
use super::server::Server;

row! {
    /// A process that waits, and those that the server says it waits for; 0 stands for a prepared transaction.
    Waiter {
        pid: i32,
        blockers: Vec<i32>,
    }
}

row! {
    /// A lock that is waited for, and a prepared transaction that has one on the same thing.
    PreparedHolder {
        pid: i32,
        wanted: String,
        gid: String,
        held: String,
    }
}

row! {
    /// What is known of a process or a prepared transaction.
    Party {
        /// None: a prepared transaction.
        pid: Option<i32>,
        /// None: a process.
        gid: Option<String>,
        kind: String,
        user: Option<String>,
        database: Option<String>,
        application: Option<String>,
        state: Option<String>,
        transaction_s: Option<f64>,
        /// What it waits for.
        wants: Option<String>,
        waits_s: Option<f64>,
        query: Option<String>,
    }
}

row! {
    /// One line of the tree.
    LockRow {
        /// The process, or the prepared transaction's name, further to the right the more stand before it.
        tree: String,
        depth: i32,
        pid: Option<i32>,
        prepared: Option<String>,
        /// How many wait for it, those that wait for these included.
        blocks: i64,
        blocked_by: Vec<String>,
        /// It waits for itself in the end: the server will end one of them after deadlock_timeout.
        deadlock: bool,
        waits_s: Option<f64>,
        wants: Option<String>,
        transaction_s: Option<f64>,
        state: Option<String>,
        user: Option<String>,
        database: Option<String>,
        application: Option<String>,
        query: Option<String>,
    }
}

/// Who has a lock: in this order prepared transactions, whose names are unique, stand behind processes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Process(i32),
    Prepared(String),
}

impl Holder {
    fn name(&self) -> String {
        match self {
            Holder::Process(pid) => pid.to_string(),
            Holder::Prepared(gid) => format!("prepared {gid}"),
        }
    }
}

/// For each that waits, for whom.
type Waits = BTreeMap<Holder, BTreeSet<Holder>>;

pub(crate) async fn locks(job: &Job, options: &Reading) -> Done {
    let server = job.connect(&options.target, options.limits).await?;
    server.warn_unless_monitor(job).await?;
    let waits = waits(&server).await?;
    let parties: Vec<Party> = server.rows(PARTIES, &[&processes(&waits)]).await?;
    let rows: Vec<LockRow> = forest(&waits).iter().map(|place| line(place, &parties)).collect();
    job.out.rows(&rows, "Nobody waits for a lock.")?;
    Ok(Exit::Fine)
}

async fn waits(server: &Server) -> Result<Waits, Failure> {
    let waiters: Vec<Waiter> = server.rows(WAITERS, &[]).await?;
    let mut waits: Waits = BTreeMap::new();
    for Waiter { pid, blockers } in &waiters {
        let processes = blockers.iter().filter(|pid| **pid != 0).map(|pid| Holder::Process(*pid));
        waits.entry(Holder::Process(*pid)).or_default().extend(processes);
    }
    if waiters.iter().any(|waiter| waiter.blockers.contains(&0)) {
        let holders: Vec<PreparedHolder> = server.rows(PREPARED_HOLDERS, &[]).await?;
        for holder in holders.into_iter().filter(|holder| modes::conflict(&holder.wanted, &holder.held)) {
            waits.entry(Holder::Process(holder.pid)).or_default().insert(Holder::Prepared(holder.gid));
        }
    }
    // It has got its lock between the two looks at it.
    waits.retain(|_, blockers| !blockers.is_empty());
    Ok(waits)
}

fn processes(waits: &Waits) -> Vec<i32> {
    let all = waits.iter().flat_map(|(waiter, blockers)| std::iter::once(waiter).chain(blockers));
    let pid = |holder: &Holder| match holder {
        Holder::Process(pid) => Some(*pid),
        Holder::Prepared(_) => None,
    };
    all.filter_map(pid).collect()
}

fn line(place: &Place<'_>, parties: &[Party]) -> LockRow {
    let (pid, gid) = match place.holder {
        Holder::Process(pid) => (Some(*pid), None),
        Holder::Prepared(gid) => (None, Some(gid.clone())),
    };
    let party = parties.iter().find(|party| (party.pid, &party.gid) == (pid, &gid));
    let text = |field: fn(&Party) -> &Option<String>| party.and_then(|party| field(party).clone());
    LockRow {
        tree: format!("{}{}", ". ".repeat(place.depth), place.holder.name()),
        depth: i32::try_from(place.depth).unwrap_or(i32::MAX),
        pid,
        prepared: gid,
        blocks: i64::try_from(place.blocks).unwrap_or(i64::MAX),
        blocked_by: place.blocked_by.iter().map(|blocker| blocker.name()).collect(),
        deadlock: place.is_deadlock,
        waits_s: party.and_then(|party| party.waits_s),
        wants: text(|party| &party.wants),
        transaction_s: party.and_then(|party| party.transaction_s),
        // An autovacuum worker's or a walsender's kind says more than its state.
        state: party.and_then(|party| match party.kind.as_str() {
            "client backend" | "prepared transaction" => party.state.clone(),
            kind => Some(kind.to_owned()),
        }),
        user: text(|party| &party.user),
        database: text(|party| &party.database),
        application: text(|party| &party.application),
        query: text(|party| &party.query),
    }
}

/// `pg_blocking_pids` knows locks of the fast path and of groups of parallel workers, for which it names the leader.
const WAITERS: &str = "
    select pid, pg_blocking_pids(pid) as blockers
    from (select distinct pid from pg_locks where not granted and pid is not null) w
    union all
    select pid, pg_safe_snapshot_blocking_pids(pid)
    from pg_stat_activity where wait_event = 'SafeSnapshot'";

/// A prepared transaction is known among the locks by the one on its own number, which it has together with the others.
const PREPARED_HOLDERS: &str = "
    select w.pid, w.mode as wanted, p.gid, h.mode as held
    from pg_locks w
         join pg_locks h on h.pid is null and h.granted and h.locktype = w.locktype
              and (h.database, h.relation, h.page, h.tuple, h.transactionid, h.classid, h.objid, h.objsubid)
                  is not distinct from
                  (w.database, w.relation, w.page, w.tuple, w.transactionid, w.classid, w.objid, w.objsubid)
         join pg_locks own on own.pid is null and own.locktype = 'transactionid'
              and own.virtualtransaction = h.virtualtransaction
         join pg_prepared_xacts p on p.transaction = own.transactionid
    where not w.granted and w.pid is not null";

/// Names of relations are known of the own database only.
const PARTIES: &str = "
    with wanted as (
        select l.pid, l.waitstart, l.mode || ' on ' || case
                   when l.locktype = 'relation' and l.database = here.oid then l.relation::regclass::text
                   when l.locktype in ('page', 'tuple', 'extend') and l.database = here.oid
                       then 'a ' || l.locktype || ' of ' || l.relation::regclass::text
                   when l.locktype = 'transactionid' then 'transaction ' || l.transactionid::text
                   when l.locktype = 'virtualxid' then 'virtual transaction ' || l.virtualxid
                   when l.locktype = 'advisory'
                       then 'advisory ' || concat_ws(',', l.classid::text, l.objid::text)
                   when l.relation is not null then l.locktype || ' ' || l.relation::text
                   else l.locktype end as what
        from pg_locks l, (select oid from pg_database where datname = current_database()) here
        where not l.granted)
    select a.pid, null::text as gid, a.backend_type as kind, a.usename::text as user, a.datname::text as database,
           a.application_name as application, a.state,
           extract(epoch from clock_timestamp() - a.xact_start)::float8 as transaction_s,
           w.what as wants, extract(epoch from clock_timestamp() - w.waitstart)::float8 as waits_s, a.query
    from pg_stat_activity a left join wanted w on w.pid = a.pid
    where a.pid = any ($1)
    union all
    select null, gid, 'prepared transaction', owner::text, database::text, null, 'prepared',
           extract(epoch from clock_timestamp() - prepared)::float8, null, null, null
    from pg_prepared_xacts";
