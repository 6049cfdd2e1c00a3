//! Which sessions.

use clap::{Args, ValueEnum};

use super::{End, EndedRow};
use crate::maintenance::exit::Failure;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::Span;

/// A session meets all conditions that are given.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Idle, also in a transaction, for at least this long, as 30s, 10m or 2h
    #[arg(long, value_name = "TIME")]
    idle: Option<Span>,
    /// At its statement for at least this long
    #[arg(long, value_name = "TIME")]
    active: Option<Span>,
    /// Logged in at least this long ago
    #[arg(long, value_name = "TIME")]
    age: Option<Span>,
    /// In one of these states; may be given several times
    #[arg(long, value_name = "STATE", value_enum)]
    state: Vec<State>,
    /// Of this user; may be given several times
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    /// Whose application_name is this, where * stands for anything; may be given several times
    #[arg(long, value_name = "PATTERN")]
    application: Vec<String>,
    /// In this database, or in any for "*"; may be given several times [default: the one connected to]
    #[arg(long = "in-database", value_name = "NAME")]
    in_database: Vec<String>,
    /// Whose last statement matches this regular expression, upper and lower case being the same
    #[arg(long, value_name = "REGEX")]
    query: Option<String>,
    /// This process; may be given several times
    #[arg(long, value_name = "PID")]
    pid: Vec<i32>,
    /// Sessions at the most, those longest in their state first; 1 or more
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Active,
    Idle,
    /// Its transaction holds locks and keeps dead rows
    IdleInTransaction,
    IdleInTransactionAborted,
}

impl State {
    /// As pg_stat_activity has it.
    fn name(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Idle => "idle",
            State::IdleInTransaction => "idle in transaction",
            State::IdleInTransactionAborted => "idle in transaction (aborted)",
        }
    }
}

row! {
    /// One client's session.
    Session {
        pid: i32,
        user: Option<String>,
        database: Option<String>,
        application: Option<String>,
        address: Option<String>,
        state: Option<String>,
        /// Since it is in its state.
        in_state_s: Option<f64>,
        /// Since its transaction began; none: there is none.
        transaction_s: Option<f64>,
        age_s: f64,
        /// What it waits for; none: it does not wait.
        waits_for: Option<String>,
        query: String,
    }
    hidden {
        state_change: Option<String>,
        query_start: Option<String>,
    }
}

impl Session {
    pub(super) fn is_idle(&self) -> bool {
        self.state.as_deref() == Some("idle")
    }

    /// What changes when the session goes on to something else.
    pub(super) fn stamp(&self, end: End) -> Option<&str> {
        match end {
            End::Cancel => self.query_start.as_deref(),
            End::Terminate => self.state_change.as_deref(),
        }
    }

    pub(super) fn ended(self, result: String) -> EndedRow {
        let Session { pid, user, database, application, state, in_state_s, query, .. } = self;
        EndedRow { pid, user, database, application, state, in_state_s, result, query }
    }
}

impl Filter {
    /// No condition but the limit.
    pub(super) fn is_everybody(&self) -> bool {
        let times = [self.idle, self.active, self.age];
        let lists = [&self.user, &self.application];
        times.iter().all(Option::is_none)
            && lists.iter().all(|list| list.is_empty())
            && self.state.is_empty()
            && self.query.is_none()
            && self.pid.is_empty()
    }

    pub(super) async fn sessions(&self, server: &Server) -> Result<Vec<Session>, Failure> {
        let secs = |span: Option<Span>| span.map(Span::secs);
        let states: Vec<&str> = self.state.iter().map(|state| state.name()).collect();
        let patterns: Vec<String> = self.application.iter().map(|pattern| like(pattern)).collect();
        server
            .rows(
                SESSIONS,
                &[
                    &secs(self.idle),
                    &secs(self.active),
                    &secs(self.age),
                    &states,
                    &self.user,
                    &patterns,
                    &self.in_database,
                    &self.query,
                    &self.pid,
                    &i64::from(self.limit),
                ],
            )
            .await
    }
}

/// For LIKE: only the star is special.
fn like(pattern: &str) -> String {
    pattern.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_").replace('*', "%")
}

/// Clients only: no walsenders and no processes of the server itself, and none of our own jobs, some of which do nothing but
/// hold a lock.
const SESSIONS: &str = "
    with session as (
        select a.*, extract(epoch from clock_timestamp() - state_change)::float8 as in_state,
               extract(epoch from clock_timestamp() - backend_start)::float8 as age
        from pg_stat_activity a
        where backend_type = 'client backend' and pid <> pg_backend_pid() and application_name not like 'pgweir/%')
    select pid, usename::text as user, datname::text as database, application_name as application,
           coalesce(host(client_addr), 'local') as address, state, in_state as in_state_s,
           extract(epoch from clock_timestamp() - xact_start)::float8 as transaction_s, age as age_s,
           case when state = 'active' then wait_event_type || ': ' || wait_event end as waits_for,
           coalesce(query, '') as query, state_change::text as state_change, query_start::text as query_start
    from session
    where ($1::float8 is null or (state like 'idle%' and in_state >= $1))
      and ($2::float8 is null or (state = 'active' and in_state >= $2))
      and ($3::float8 is null or age >= $3)
      and ($4::text[] = '{}' or state = any ($4))
      and ($5::text[] = '{}' or usename::text = any ($5))
      and ($6::text[] = '{}' or application_name like any ($6))
      and (case when $7::text[] = '{}' then datname = current_database()
                else datname::text = any ($7) or '*' = any ($7) end)
      and ($8::text is null or query ~* $8)
      and ($9::int4[] = '{}' or pid = any ($9))
    order by in_state desc nulls last, pid limit $10";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_star_is_special() {
        assert_eq!(like("a_b%c\\*"), "a\\_b\\%c\\\\%");
    }
}
