//! What autovacuum sees of the tables, and when it will come.

use crate::maintenance::exit::Failure;
use crate::maintenance::rows::row;
use crate::maintenance::server::{Server, Version};

row! {
    /// A table, or its TOAST table, which is looked after apart from it.
    State {
        table: String,
        /// What is going on there now; none: nothing.
        running: Option<String>,
        dead: i64,
        /// More dead rows than this bring it.
        vacuum_at: f64,
        inserted: i64,
        /// None: inserts do not.
        insert_at: Option<f64>,
        changed: i64,
        /// None: there is nothing to analyze in TOAST.
        analyze_at: Option<f64>,
        xid_age: i64,
        /// Of the age at which it comes however it is set, by transactions or multixacts.
        freeze_pct: f64,
        since_autovacuum_s: Option<f64>,
        since_autoanalyze_s: Option<f64>,
        /// The table's own.
        settings: Vec<String>,
    }
    hidden {
        is_toast: bool,
        is_enabled: bool,
        rows: f64,
        updated: i64,
        deleted: i64,
        inserted_ever: i64,
        /// How long these have been counted; none: nobody knows.
        counted_s: Option<f64>,
        autovacuums: i64,
        scale_factor: f64,
        insert_scale_factor: f64,
        cost_delay: f64,
    }
}

impl State {
    /// What brings it, and would now.
    pub(super) fn due(&self) -> Vec<&'static str> {
        let over = |number: i64, at: Option<f64>| self.is_enabled && at.is_some_and(|at| number as f64 > at);
        [
            (self.freeze_pct > 100.0, "wraparound"),
            (over(self.dead, Some(self.vacuum_at)), "dead rows"),
            (over(self.inserted, self.insert_at), "inserts"),
            (over(self.changed, self.analyze_at), "analyze"),
        ]
        .into_iter()
        .filter_map(|(is_due, what)| is_due.then_some(what))
        .collect()
    }

    /// How near the nearest reason is; 100: due.
    pub(super) fn near_pct(&self) -> f64 {
        let share = |number: i64, at: Option<f64>| at.map_or(0.0, |at| 100.0 * number as f64 / at.max(1.0));
        let reasons = [
            share(self.dead, Some(self.vacuum_at)),
            share(self.inserted, self.insert_at),
            share(self.changed, self.analyze_at),
        ];
        let rows = if self.is_enabled { reasons.into_iter().fold(0.0, f64::max) } else { 0.0 };
        rows.max(self.freeze_pct)
    }
}

/// Of all tables but the system's and temporary ones, or of those with these oids and their TOAST tables.
pub(super) async fn states(server: &Server, oids: Option<&[u32]>) -> Result<Vec<State>, Failure> {
    server.rows(&states_sql(server.version), &[&oids]).await
}

/// Version 18 has an upper bound, and counts only what is not frozen for inserts.
fn states_sql(version: Version) -> String {
    let is_18 = version.major() >= 18;
    let max_threshold =
        if is_18 { "coalesce(o.max_threshold, s.autovacuum_vacuum_max_threshold)" } else { "(-1)::float8" };
    let unfrozen = if is_18 {
        "case when c.relpages > 0 then 1 - least(c.relallfrozen, c.relpages)::float8 / c.relpages else 1 end"
    } else {
        "1"
    };
    STATES.replace("{max_threshold}", max_threshold).replace("{unfrozen}", unfrozen)
}

/// A TOAST table without settings of its own has those of its table.
const STATES: &str = "
    with s as (
        select max(setting::float8) filter (where name = 'autovacuum_vacuum_threshold') as autovacuum_vacuum_threshold,
               max(setting::float8) filter (where name = 'autovacuum_vacuum_scale_factor') as autovacuum_vacuum_scale_factor,
               max(setting::float8) filter (where name = 'autovacuum_vacuum_max_threshold') as autovacuum_vacuum_max_threshold,
               max(setting::float8) filter (where name = 'autovacuum_vacuum_insert_threshold')
                   as autovacuum_vacuum_insert_threshold,
               max(setting::float8) filter (where name = 'autovacuum_vacuum_insert_scale_factor')
                   as autovacuum_vacuum_insert_scale_factor,
               max(setting::float8) filter (where name = 'autovacuum_analyze_threshold') as autovacuum_analyze_threshold,
               max(setting::float8) filter (where name = 'autovacuum_analyze_scale_factor') as autovacuum_analyze_scale_factor,
               coalesce(nullif(max(setting::float8) filter (where name = 'autovacuum_vacuum_cost_delay'), -1),
                        max(setting::float8) filter (where name = 'vacuum_cost_delay')) as cost_delay,
               max(setting::float8) filter (where name = 'autovacuum_freeze_max_age') as freeze_max_age,
               max(setting::float8) filter (where name = 'autovacuum_multixact_freeze_max_age') as multixact_freeze_max_age
        from pg_settings where name like '%vacuum%' and vartype in ('integer', 'real')),
    tables as (
        select oid as main, oid from pg_class where relkind in ('r', 'm')
        union all
        select oid, reltoastrelid from pg_class where relkind in ('r', 'm') and reltoastrelid <> 0)
    select format('%I.%I', n.nspname, m.relname) || case when c.relkind = 't' then ' (TOAST)' else '' end as table,
           now_at.what as running,
           pg_stat_get_dead_tuples(c.oid) as dead,
           case when {max_threshold} >= 0 then least(o.vacuum_at, {max_threshold}) else o.vacuum_at end as vacuum_at,
           pg_stat_get_ins_since_vacuum(c.oid) as inserted,
           case when o.insert_threshold >= 0 then o.insert_threshold + o.insert_scale_factor * o.rows * ({unfrozen}) end
               as insert_at,
           pg_stat_get_mod_since_analyze(c.oid) as changed,
           case when c.relkind <> 't' then o.analyze_threshold + o.analyze_scale_factor * o.rows end as analyze_at,
           age(c.relfrozenxid)::int8 as xid_age,
           100 * greatest(age(c.relfrozenxid) / least(s.freeze_max_age, o.freeze_max_age),
                          mxid_age(c.relminmxid) / least(s.multixact_freeze_max_age, o.multixact_freeze_max_age)) as freeze_pct,
           extract(epoch from clock_timestamp() - pg_stat_get_last_autovacuum_time(c.oid))::float8 as since_autovacuum_s,
           extract(epoch from clock_timestamp() - pg_stat_get_last_autoanalyze_time(c.oid))::float8 as since_autoanalyze_s,
           coalesce(c.reloptions, '{}') as settings,
           c.relkind = 't' as is_toast, o.enabled as is_enabled, o.rows,
           pg_stat_get_tuples_updated(c.oid) as updated, pg_stat_get_tuples_deleted(c.oid) as deleted,
           pg_stat_get_tuples_inserted(c.oid) as inserted_ever,
           extract(epoch from clock_timestamp() - d.stats_reset)::float8 as counted_s,
           pg_stat_get_autovacuum_count(c.oid) as autovacuums,
           o.scale_factor, o.insert_scale_factor, coalesce(o.cost_delay, s.cost_delay) as cost_delay
    from tables t join pg_class m on m.oid = t.main join pg_class c on c.oid = t.oid
         join pg_namespace n on n.oid = m.relnamespace
         join pg_stat_database d on d.datname = current_database()
         cross join s
         cross join lateral (
             select *, threshold + scale_factor * rows as vacuum_at
             from (select coalesce(bool_and(option_value::bool) filter (where option_name = 'autovacuum_enabled'), true) as enabled,
                          coalesce(max(option_value::float8) filter (where option_name = 'autovacuum_vacuum_threshold'),
                                   s.autovacuum_vacuum_threshold) as threshold,
                          coalesce(max(option_value::float8) filter (where option_name = 'autovacuum_vacuum_scale_factor'),
                                   s.autovacuum_vacuum_scale_factor) as scale_factor,
                          max(option_value::float8) filter (where option_name = 'autovacuum_vacuum_max_threshold') as max_threshold,
                          coalesce(max(option_value::float8) filter (where option_name = 'autovacuum_vacuum_insert_threshold'),
                                   s.autovacuum_vacuum_insert_threshold) as insert_threshold,
                          coalesce(max(option_value::float8) filter (where option_name = 'autovacuum_vacuum_insert_scale_factor'),
                                   s.autovacuum_vacuum_insert_scale_factor) as insert_scale_factor,
                          coalesce(max(option_value::float8) filter (where option_name = 'autovacuum_analyze_threshold'),
                                   s.autovacuum_analyze_threshold) as analyze_threshold,
                          coalesce(max(option_value::float8) filter (where option_name = 'autovacuum_analyze_scale_factor'),
                                   s.autovacuum_analyze_scale_factor) as analyze_scale_factor,
                          max(option_value::float8) filter (where option_name = 'autovacuum_vacuum_cost_delay') as cost_delay,
                          max(option_value::float8) filter (where option_name = 'autovacuum_freeze_max_age') as freeze_max_age,
                          max(option_value::float8) filter (where option_name = 'autovacuum_multixact_freeze_max_age')
                              as multixact_freeze_max_age,
                          greatest(c.reltuples, 0)::float8 as rows
                   from pg_options_to_table(case when c.relkind = 't' and c.reloptions is null then m.reloptions
                                                 else c.reloptions end)
                   -- What else a table has are no numbers.
                   where option_name like 'autovacuum\\_%') own) o
         left join lateral (
             select string_agg(p.what || ' by ' || coalesce(a.backend_type, '') || ' ' || p.pid, '; ') as what
             from (select pid, relid, datid, 'VACUUM: ' || coalesce(phase, '') as what from pg_stat_progress_vacuum
                   union all select pid, relid, datid, 'ANALYZE: ' || coalesce(phase, '') from pg_stat_progress_analyze) p
                  left join pg_stat_activity a on a.pid = p.pid
             where p.relid = c.oid and p.datid = d.datid) now_at on true
    where c.relpersistence <> 't' and ($1::oid[] is null or m.oid = any ($1))
      and ($1::oid[] is not null or n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast'))";
