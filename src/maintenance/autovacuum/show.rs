//! `autovacuum show`: which settings count for a table, when autovacuum will come, and what it does now.

use super::keys::KEYS;
use super::state::{State, states};
use super::{ShowOptions, chosen};
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::output::Format;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::Size;

row! {
    /// One line of the list.
    ShowRow {
        table: String,
        /// running, due and why, disabled; empty: not yet.
        state: String,
        /// Of the way to the nearest of what follows; from 100 on it is due.
        near_pct: f64,
        dead: i64,
        vacuum_at: i64,
        inserted: i64,
        /// None: inserts do not bring it.
        insert_at: Option<i64>,
        changed: i64,
        analyze_at: Option<i64>,
        xid_age: i64,
        freeze_pct: f64,
        /// None: never.
        since_autovacuum_s: Option<f64>,
        since_autoanalyze_s: Option<f64>,
        /// The table's own.
        settings: Vec<String>,
    }
}

row! {
    /// One setting of one table, with --settings.
    SettingRow {
        table: String,
        setting: String,
        value: String,
        /// table, server, default.
        source: String,
        server_value: String,
    }
}

pub(crate) async fn show(job: &Job, options: &ShowOptions) -> Done {
    let server = job.connect(&options.reading.target, options.reading.limits).await?;
    server.warn_unless_monitor(job).await?;
    let oids = chosen(&server, &options.tables).await?;
    if options.settings {
        let rows = settings(&server, oids.as_deref()).await?;
        job.out.rows(&rows, "There are no tables.")?;
        return Ok(Exit::Fine);
    }
    let shared: Shared = server.one(SERVER, &[]).await?;
    shared.tell(job);
    let mut rows: Vec<ShowRow> = states(&server, oids.as_deref()).await?.iter().map(show_row).collect();
    rows.sort_by(|a, b| b.near_pct.total_cmp(&a.near_pct).then_with(|| a.table.cmp(&b.table)));
    if options.due {
        rows.retain(|row| row.near_pct > 100.0);
    }
    let limit = if options.limit == 0 || !options.tables.is_empty() { usize::MAX } else { options.limit as usize };
    rows.truncate(limit);
    match rows.as_slice() {
        [row] if job.out.format == Format::Table => job.out.one(row)?,
        rows => job.out.rows(rows, "There are no such tables.")?,
    }
    Ok(Exit::Fine)
}

fn show_row(state: &State) -> ShowRow {
    let due = state.due();
    let text = match &state.running {
        Some(running) => running.clone(),
        None if !due.is_empty() => format!("due: {}", due.join(", ")),
        None if !state.is_enabled => "disabled".to_owned(),
        None => String::new(),
    };
    let State { table, dead, inserted, changed, xid_age, freeze_pct, settings, .. } = state.clone();
    ShowRow {
        table,
        state: text,
        near_pct: state.near_pct(),
        dead,
        vacuum_at: state.vacuum_at as i64,
        inserted,
        insert_at: state.insert_at.map(|at| at as i64),
        changed,
        analyze_at: state.analyze_at.map(|at| at as i64),
        xid_age,
        freeze_pct,
        since_autovacuum_s: state.since_autovacuum_s,
        since_autoanalyze_s: state.since_autoanalyze_s,
        settings,
    }
}

row! {
    /// What all tables share.
    Shared {
        is_on: bool,
        busy: i64,
        workers: i64,
        naptime: String,
        delay_ms: f64,
        limit: f64,
        page_miss: f64,
        page_dirty: f64,
        block_bytes: f64,
    }
}

impl Shared {
    fn tell(&self, job: &Job) {
        let Shared { is_on, busy, workers, naptime, delay_ms, limit, page_miss, page_dirty, block_bytes } = self;
        if !is_on {
            job.warn("autovacuum is off on this server (autovacuum, track_counts): it comes against wraparound only");
        }
        let rate = |cost: f64| {
            let pages = if cost > 0.0 { limit / delay_ms * 1000.0 / cost } else { f64::INFINITY };
            Size((pages * block_bytes) as u64)
        };
        let budget = if *delay_ms > 0.0 {
            let (reads, writes) = (rate(*page_miss), rate(*page_dirty));
            format!(
                "{limit} of cost, then {delay_ms} ms of rest: at most {reads}/s read or {writes}/s written, all workers together"
            )
        } else {
            "no cost delay: as fast as it can".to_owned()
        };
        job.say(format!("{busy} of {workers} workers busy, every {naptime}; {budget}"));
    }
}

const SERVER: &str = "
    select current_setting('autovacuum')::bool and current_setting('track_counts')::bool as is_on,
           (select count(*) from pg_stat_activity where backend_type = 'autovacuum worker') as busy,
           current_setting('autovacuum_max_workers')::int8 as workers, current_setting('autovacuum_naptime') as naptime,
           coalesce(nullif(max(setting::float8) filter (where name = 'autovacuum_vacuum_cost_delay'), -1),
                    max(setting::float8) filter (where name = 'vacuum_cost_delay')) as delay_ms,
           coalesce(nullif(max(setting::float8) filter (where name = 'autovacuum_vacuum_cost_limit'), -1),
                    max(setting::float8) filter (where name = 'vacuum_cost_limit')) as limit,
           max(setting::float8) filter (where name = 'vacuum_cost_page_miss') as page_miss,
           max(setting::float8) filter (where name = 'vacuum_cost_page_dirty') as page_dirty,
           current_setting('block_size')::float8 as block_bytes
    from pg_settings where name like '%vacuum\\_cost\\_%'";

/// Every setting of every table with where it comes from.
async fn settings(server: &Server, oids: Option<&[u32]>) -> Result<Vec<SettingRow>, Failure> {
    let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    let server_names: Vec<&str> = KEYS.iter().map(|key| key.server_setting).collect();
    server.rows(SETTINGS, &[&oids, &names, &server_names]).await
}

/// What the version does not know is in neither list. -1 as a cost means that of VACUUM.
const SETTINGS: &str = "
    with tables as (
        select oid as main, oid from pg_class where relkind in ('r', 'm')
        union all
        select oid, reltoastrelid from pg_class where relkind in ('r', 'm') and reltoastrelid <> 0),
    keys as (
        select k.name, k.position, coalesce(g.setting, case when k.server_name = '' then 'auto' when k.name = 'vacuum_truncate' then 'on' end) as setting,
               case when g.source is null or g.source = 'default' then 'default' else 'server' end as source
        from unnest($2::text[], $3::text[]) with ordinality k (name, server_name, position)
             left join pg_settings g on g.name = k.server_name)
    select format('%I.%I', n.nspname, m.relname) || case when c.relkind = 't' then ' (TOAST)' else '' end as table,
           k.name as setting, coalesce(o.option_value, f.option_value, k.setting) as value,
           case when o.option_value is not null then 'table' when f.option_value is not null then 'main table' else k.source end
               as source,
           k.setting as server_value
    from tables t join pg_class m on m.oid = t.main join pg_class c on c.oid = t.oid
         join pg_namespace n on n.oid = m.relnamespace
         cross join keys k
         left join lateral (select option_value from pg_options_to_table(c.reloptions) where option_name = k.name) o on true
         left join lateral (select option_value from pg_options_to_table(m.reloptions)
                            where c.relkind = 't' and c.reloptions is null and option_name = k.name) f on true
    where c.relpersistence <> 't' and k.setting is not null and ($1::oid[] is null or m.oid = any ($1))
      and ($1::oid[] is not null or n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast'))
      and not (c.relkind = 't' and k.name like '%analyze%')
    order by 1, k.position";
