//! What PostgreSQL is asked. Each query returns subject, value, note and whether it is critical in itself; `{min_dead}` stands for `--min-dead`.

use super::catalogue::Subject;
use super::finding::Status;
use crate::maintenance::exit::Failure;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

row! {
    Measured {
        subject: String,
        value: Option<f64>,
        note: String,
        /// 0 the value decides, 1 a warning, 2 critical.
        at_least: i32,
    }
}

impl From<Measured> for Subject {
    fn from(measured: Measured) -> Subject {
        let Measured { subject, value, note, at_least } = measured;
        let at_least = match at_least {
            0 => Status::Ok,
            1 => Status::Warning,
            _ => Status::Critical,
        };
        Subject { subject, value, note, at_least }
    }
}

pub(super) async fn subjects(server: &Server, sql: &str, min_dead: i64) -> Result<Vec<Subject>, Failure> {
    let rows: Vec<Measured> = server.rows(&sql.replace("{min_dead}", &min_dead.to_string()), &[]).await?;
    Ok(rows.into_iter().map(Subject::from).collect())
}

/// A share of few blocks says nothing.
pub(super) const CACHE: &str = "
    select '' as subject, 100 * blks_hit::float8 / (blks_hit + blks_read) as value,
           blks_read || ' blocks read' as note, 0 as at_least
    from pg_stat_database where datname = current_database() and blks_hit + blks_read >= 10000";

pub(super) const DEAD_TUPLES: &str = "
    select format('%I.%I', schemaname, relname) as subject,
           100 * n_dead_tup::float8 / (n_live_tup + n_dead_tup) as value,
           n_dead_tup || ' dead rows, ' || coalesce('vacuumed ' || to_char(
               greatest(last_vacuum, last_autovacuum), 'YYYY-MM-DD HH24:MI'), 'never vacuumed') as note, 0 as at_least
    from pg_stat_user_tables where n_dead_tup > 0 and n_dead_tup >= {min_dead}";

pub(super) const CONNECTIONS: &str = "
    select '' as subject, 100 * count(*) / current_setting('max_connections')::float8 as value,
           count(*) || ' of ' || current_setting('max_connections') as note, 0 as at_least
    from pg_stat_activity where backend_type = 'client backend'";

/// On a primary what each standby lacks, on a standby what it has and has not replayed itself.
pub(super) const REPLICATION_LAG: &str = "
    select coalesce(nullif(application_name, ''), usename::text, '') as subject,
           pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
                           replay_lsn)::float8 as value,
           concat_ws(', ', state, sync_state, host(client_addr)) as note, 0 as at_least
    from pg_stat_replication where state <> 'backup' and replay_lsn is not null
    union all
    select 'this standby', pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::float8, '', 0
    where pg_is_in_recovery() and pg_last_wal_receive_lsn() is not null";

pub(super) const LONG_QUERIES: &str = "
    select 'process ' || pid as subject, extract(epoch from clock_timestamp() - query_start)::float8 as value,
           concat_ws(', ', usename, datname, nullif(application_name, ''), left(regexp_replace(query, '\\s+', ' ', 'g'), 60))
               as note, 0 as at_least
    from pg_stat_activity
    where backend_type = 'client backend' and state in ('active', 'fastpath function call')
      and pid <> pg_backend_pid() and application_name not like 'pgweir/%'";

pub(super) const IDLE_IN_TRANSACTION: &str = "
    select 'process ' || pid as subject, extract(epoch from clock_timestamp() - state_change)::float8 as value,
           concat_ws(', ', usename, datname, nullif(application_name, ''), left(regexp_replace(query, '\\s+', ' ', 'g'), 60))
               as note, 0 as at_least
    from pg_stat_activity
    where backend_type = 'client backend' and state like 'idle in transaction%' and application_name not like 'pgweir/%'";

/// The server stops 3 million transactions before the end of the 2^31 that can be told apart; multixacts likewise.
pub(super) const WRAPAROUND: &str = "
    select 'database ' || datname as subject, 100 * greatest(xids, multixacts) / 2144483647.0::float8 as value,
           xids || ' transactions, ' || multixacts || ' multixacts' as note, 0 as at_least
    from (select datname, age(datfrozenxid)::float8 as xids, mxid_age(datminmxid)::float8 as multixacts
          from pg_database) d";

/// A slot that is about to lose WAL, or has, is of no use however little it keeps.
pub(super) const SLOTS: &str = "
    select 'slot ' || slot_name as subject,
           coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                                         else pg_current_wal_lsn() end, restart_lsn), 0)::float8 as value,
           concat_ws(', ', case when active then 'active' else 'inactive' end, wal_status) as note,
           case wal_status when 'lost' then 2 when 'unreserved' then 1 else 0 end as at_least
    from pg_replication_slots where not temporary";

/// Those that are being built are not valid yet.
pub(super) const INVALID_INDEXES: &str = "
    select '' as subject, count(*)::float8 as value, coalesce(string_agg(name, ', ' order by name), '') as note, 0 as at_least
    from (select format('%I.%I', n.nspname, c.relname) as name
          from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
          where not i.indisvalid and c.relkind = 'i'
            and i.indexrelid not in (select p.index_relid from pg_stat_progress_create_index p)) as invalid";

row! {
    Sequence {
        name: String,
        may_read: bool,
        /// None: not used yet, or not ours to read.
        used_pct: Option<f64>,
        note: String,
    }
}

/// Their last values are for those who may read them; pg_monitor may not.
pub(super) async fn sequences(server: &Server) -> Result<Vec<Subject>, Failure> {
    let sequences: Vec<Sequence> = server.rows(SEQUENCES, &[]).await?;
    let hidden = sequences.iter().filter(|sequence| !sequence.may_read).count();
    let subject = |sequence: Sequence| Subject {
        subject: sequence.name,
        value: sequence.used_pct,
        note: sequence.note,
        at_least: Status::Ok,
    };
    let mut subjects: Vec<Subject> =
        sequences.into_iter().filter(|sequence| sequence.used_pct.is_some()).map(subject).collect();
    if hidden > 0 {
        let user = &server.conninfo.user;
        let note = format!("{user} may not read {hidden} of them: GRANT pg_read_all_data TO {user}");
        subjects.push(Subject { subject: String::new(), value: None, note, at_least: Status::Ok });
    }
    Ok(subjects)
}

/// A sequence that starts anew at its end has none. Of one that belongs to a column, the column's type may be the narrower.
const SEQUENCES: &str = "
    select format('%I.%I', s.schemaname, s.sequencename) as name,
           has_sequence_privilege(c.oid, 'select, usage') as may_read,
           case when s.increment_by > 0 then 100 * s.last_value::float8 / bounds.high
                else 100 * s.last_value::float8 / bounds.low end as used_pct,
           coalesce('at ' || s.last_value || ' of ' ||
                    case when s.increment_by > 0 then bounds.high else bounds.low end, '') as note
    from pg_sequences s
         join pg_namespace n on n.nspname = s.schemaname
         join pg_class c on c.relnamespace = n.oid and c.relname = s.sequencename and c.relkind = 'S'
         left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid
              and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and d.refobjsubid > 0
         left join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
         cross join lateral (select
             case a.atttypid when 'int2'::regtype then 32767 when 'int4'::regtype then 2147483647
                             else 9223372036854775807 end as most) as kind
         cross join lateral (select least(s.max_value, kind.most) as high,
                                    greatest(s.min_value, -kind.most - 1) as low) as bounds
    where not s.cycle";
