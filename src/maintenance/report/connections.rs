//! `report connections`: how many, whose, from where, and since when.

use super::Options;
use crate::maintenance::exit::{Done, Exit};
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;

row! {
    /// The clients' connections that have something in common.
    ConnectionRow {
        by: String,
        value: String,
        connections: i64,
        /// Of max_connections.
        of_max_pct: f64,
        active: i64,
        idle: i64,
        idle_in_transaction: i64,
        /// Since the login of the oldest.
        oldest_s: f64,
        /// Since the last statement of the one that has done nothing for longest; none: none idles.
        longest_idle_s: Option<f64>,
    }
}

pub(crate) async fn connections(job: &Job, options: &Options) -> Done {
    let server = job.connect(&options.reading.target, options.reading.limits).await?;
    server.warn_unless_monitor(job).await?;
    let rows: Vec<ConnectionRow> = server.rows(CONNECTIONS, &[&options.limit()]).await?;
    job.out.rows(&rows, "Nobody is connected.")?;
    Ok(Exit::Fine)
}

/// The limit is for each way of grouping.
const CONNECTIONS: &str = "
    with session as (
        select s.*, extract(epoch from clock_timestamp() - s.backend_start)::float8 as age_s,
               extract(epoch from clock_timestamp() - s.state_change)::float8 as in_state_s
        from pg_stat_activity s where s.backend_type = 'client backend'),
    grouped as (
        select k.by, k.place, k.value, count(*) as connections,
               100 * count(*) / current_setting('max_connections')::float8 as of_max_pct,
               count(*) filter (where state = 'active') as active,
               count(*) filter (where state = 'idle') as idle,
               count(*) filter (where state like 'idle in transaction%') as idle_in_transaction,
               max(age_s) as oldest_s, max(in_state_s) filter (where state like 'idle%') as longest_idle_s
        from session cross join lateral (values
            (1, 'all', 'all'), (2, 'state', coalesce(state, '')), (3, 'database', coalesce(datname::text, '')),
            (4, 'user', coalesce(usename::text, '')), (5, 'application', coalesce(application_name, '')),
            (6, 'address', coalesce(host(client_addr), 'local'))) as k(place, by, value)
        group by 1, 2, 3),
    numbered as (select *, row_number() over (partition by place order by connections desc, value) as n from grouped)
    select * from numbered where $1::int8 is null or n <= $1 order by place, n";
