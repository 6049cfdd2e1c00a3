//! `report replication`: standbys and subscribers, slots, and on a standby where it is itself.

use super::Options;
use crate::maintenance::exit::{Done, Exit};
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;

row! {
    /// A walsender, a slot or, on a standby, its receiver.
    ReplicationRow {
        kind: String,
        name: String,
        state: String,
        /// A walsender's: async, sync, quorum or potential.
        sync: Option<String>,
        address: Option<String>,
        /// WAL that is here and not yet replayed there; a receiver's: received and not yet replayed.
        lag_bytes: Option<i64>,
        /// How old the last replayed transaction is; none while nothing is written.
        lag_s: Option<f64>,
        /// WAL that a slot keeps from being removed.
        retained_bytes: Option<i64>,
        /// WAL that can still be written until the slot is lost; none: no limit.
        left_bytes: Option<i64>,
    }
}

pub(crate) async fn replication(job: &Job, options: &Options) -> Done {
    let server = job.connect(&options.reading.target, options.reading.limits).await?;
    server.warn_unless_monitor(job).await?;
    let rows: Vec<ReplicationRow> = server.rows(REPLICATION, &[&options.limit()]).await?;
    job.out.rows(&rows, "There are no standbys, subscribers and slots.")?;
    Ok(Exit::Fine)
}

const REPLICATION: &str = "
    with here as (
        select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as lsn)
    (select 'sender' as kind, coalesce(nullif(application_name, ''), usename::text, '') as name,
            coalesce(state, '') as state, sync_state as sync, host(client_addr) as address,
            pg_wal_lsn_diff(here.lsn, replay_lsn)::int8 as lag_bytes,
            extract(epoch from replay_lag)::float8 as lag_s, null::int8 as retained_bytes, null::int8 as left_bytes
     from pg_stat_replication, here order by lag_bytes desc nulls first, name limit $1)
    union all
    (select slot_type || ' slot', slot_name::text,
            concat_ws(', ', case when active then 'active' else 'inactive' end, wal_status), null, null,
            pg_wal_lsn_diff(here.lsn, confirmed_flush_lsn)::int8, null,
            pg_wal_lsn_diff(here.lsn, restart_lsn)::int8, safe_wal_size
     from pg_replication_slots, here order by 8 desc nulls last, 2 limit $1)
    union all
    select 'receiver', coalesce(r.slot_name, ''), coalesce(r.status, 'not running'), null, r.sender_host,
           pg_wal_lsn_diff(pg_last_wal_receive_lsn(), here.lsn)::int8,
           case when pg_last_wal_receive_lsn() is distinct from here.lsn
                then extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 end, null, null
    from here left join pg_stat_wal_receiver r on true where pg_is_in_recovery()";
