//! What keeps dead rows from going: whoever may still see them.

use crate::maintenance::exit::Failure;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::span_text;

row! {
    /// A transaction, slot or standby, by which rows that were deleted since are still to be seen.
    Keeper {
        /// A process, a prepared transaction, a slot, a standby.
        what: String,
        note: Option<String>,
        /// How long it has been so; none: nobody knows.
        age_s: Option<f64>,
        /// Transactions since.
        xid_age: i64,
        /// It keeps rows of the system's tables only.
        catalogs_only: bool,
    }
}

impl Keeper {
    pub(super) fn text(&self) -> String {
        let Keeper { what, note, age_s, xid_age, .. } = self;
        let note = note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        let age = age_s.map(|secs| format!("open for {}, ", span_text(secs.round()))).unwrap_or_default();
        let plural = if *xid_age == 1 { "" } else { "s" };
        format!("{what}{note}: {age}{xid_age} transaction{plural} ago")
    }
}

/// The oldest first. Who is not in pg_monitor sees its own sessions only.
pub(super) async fn keepers(server: &Server) -> Result<Vec<Keeper>, Failure> {
    server.rows(KEEPERS, &[]).await
}

/// Transactions count in their own database. A lazy VACUUM keeps nothing, whatever its xmin is.
const KEEPERS: &str = "
    select * from (
        select 'process ' || a.pid as what,
               concat_ws(', ', 'user ' || a.usename::text, nullif(a.application_name, ''), host(a.client_addr),
                         case a.backend_type when 'client backend' then a.state else a.backend_type end) as note,
               extract(epoch from clock_timestamp() - a.xact_start)::float8 as age_s,
               greatest(age(a.backend_xmin), age(a.backend_xid))::int8 as xid_age, false as catalogs_only
        from pg_stat_activity a
        where a.pid <> pg_backend_pid() and (a.datid is null or a.datname = current_database())
          and a.backend_type <> 'walsender' and a.pid not in (select pid from pg_stat_progress_vacuum)
        union all
        select 'prepared transaction ' || quote_ident(gid), 'user ' || owner::text,
               extract(epoch from clock_timestamp() - prepared)::float8, age(transaction)::int8, false
        from pg_prepared_xacts where database = current_database()
        union all
        select 'replication slot ' || slot_name, case when active then 'active' else 'inactive' end, null,
               case when xmin is not null then greatest(age(xmin), age(catalog_xmin)) else age(catalog_xmin) end::int8,
               xmin is null
        from pg_replication_slots
        union all
        select 'standby ' || coalesce(nullif(application_name, ''), usename::text, pid::text),
               concat_ws(', ', 'hot_standby_feedback', host(client_addr)), null, age(backend_xmin)::int8, false
        from pg_stat_replication) k
    where xid_age > 0
    order by xid_age desc, what";
