//! `autovacuum suggest`: settings that fit what is done to a table, with the reasons.

use super::state::{State, states};
use super::{SuggestOptions, chosen};
use crate::maintenance::exit::{Done, Exit};
use crate::maintenance::job::Job;
use crate::maintenance::options::Target;
use crate::maintenance::output::{self, Format};
use crate::maintenance::relations::percent;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::span_text;

row! {
    SuggestRow {
        table: String,
        /// high churn, cache, append-only, disabled.
        kind: String,
        reason: String,
        settings: Vec<String>,
        /// The command that sets them.
        command: String,
    }
}

/// A table of fewer rows is small: a VACUUM of it is over before it costs anything.
const SMALL_ROWS: f64 = 10_000.0;
/// Less than this changed says nothing.
const MIN_CHANGES: i64 = 1000;
/// A small table whose rows were all changed so often is used like a cache.
const CACHE_TURNOVERS: f64 = 5.0;
/// A large one is changed a lot when so much of it was, or so much is dead.
const CHURN_SHARE: f64 = 0.5;
const CHURN_DEAD_PCT: f64 = 10.0;
/// Rows are hardly ever changed if there is less than one change in so many inserts.
const APPEND_INSERTS: i64 = 100;
/// The server's default; more makes autovacuum slower, not faster.
const DEFAULT_DELAY_MS: f64 = 2.0;

pub(crate) async fn suggest(job: &Job, options: &SuggestOptions) -> Done {
    let target = &options.reading.target;
    let server = job.connect(target, options.reading.limits).await?;
    let oids = chosen(&server, &options.tables).await?;
    let mut states: Vec<State> = states(&server, oids.as_deref()).await?;
    states.retain(|state| !state.is_toast);
    states.sort_by_key(|state| std::cmp::Reverse(state.updated + state.deleted + state.inserted_ever));
    let connection = connection(target, &server);
    let rows: Vec<SuggestRow> = states.iter().filter_map(|state| row(state, &connection)).collect();
    if job.out.format != Format::Table {
        job.out.rows(&rows, "")?;
    } else if rows.is_empty() {
        output::print("The settings fit what is done to the tables, or nothing has been done yet.\n")?;
    }
    if job.out.format == Format::Table {
        for SuggestRow { table, kind, reason, command, .. } in &rows {
            output::print(&format!("{table}: {kind}\n  {reason}\n  {command}\n"))?;
        }
    }
    Ok(Exit::Fine)
}

fn row(state: &State, connection: &str) -> Option<SuggestRow> {
    let Advice { kind, reason, settings } = advice(state)?;
    // The name is what `set` takes, too.
    let command = format!("pgweir autovacuum set {} {}{connection}", shell(&state.table), settings.join(" "));
    Some(SuggestRow { table: state.table.clone(), kind: kind.to_owned(), reason, settings, command })
}

#[derive(Debug, PartialEq)]
struct Advice {
    kind: &'static str,
    reason: String,
    settings: Vec<String>,
}

/// None: it is well as it is.
fn advice(state: &State) -> Option<Advice> {
    let changes = state.updated + state.deleted;
    let over = state.counted_s.map(|secs| format!(" in {}", span_text(secs.round()))).unwrap_or_default();
    let dead_pct = percent(state.dead, state.rows as i64);
    if !state.is_enabled {
        let reason = format!("autovacuum is off for it; {} dead rows ({dead_pct:.1} %)", state.dead);
        return Some(Advice { kind: "disabled", reason, settings: vec!["enabled=default".to_owned()] });
    }
    let turnovers = changes as f64 / state.rows.max(1.0);
    let said = |threshold: f64, scale: f64| {
        format!(
            "{changes} updates and deletes{over} on {} rows, {dead_pct:.1} % dead, {} autovacuums; it comes at {:.0} dead rows, \
             and would at {:.0}",
            state.rows,
            state.autovacuums,
            state.vacuum_at,
            threshold + scale * state.rows
        )
    };
    let is_large = state.rows > SMALL_ROWS;
    if changes >= MIN_CHANGES && !is_large && turnovers >= CACHE_TURNOVERS {
        return dead_rows("cache", state, (25.0, 0.05), said);
    }
    if changes >= MIN_CHANGES && is_large && (turnovers >= CHURN_SHARE || dead_pct >= CHURN_DEAD_PCT) {
        return dead_rows("high churn", state, (1000.0, 0.01), said);
    }
    if is_large && state.inserted_ever >= MIN_CHANGES && changes <= state.inserted_ever / APPEND_INSERTS {
        return append_only(state, changes, &over);
    }
    None
}

/// Earlier than now, or nothing.
fn dead_rows(
    kind: &'static str,
    state: &State,
    (threshold, scale): (f64, f64),
    said: impl Fn(f64, f64) -> String,
) -> Option<Advice> {
    let mut settings = Vec::new();
    let mut reason = said(threshold, scale);
    if threshold + scale * state.rows < state.vacuum_at {
        settings = vec![format!("vacuum_threshold={threshold}"), format!("vacuum_scale_factor={scale}")];
    }
    if state.cost_delay > DEFAULT_DELAY_MS {
        settings.push(format!("vacuum_cost_delay={DEFAULT_DELAY_MS}"));
        reason += &format!("; it rests {} ms at a time, and smaller is faster", state.cost_delay);
    }
    (!settings.is_empty()).then_some(Advice { kind, reason, settings })
}

/// There is little to clean: what counts is that new rows are frozen, and marked as visible to all, before there are many.
fn append_only(state: &State, changes: i64, over: &str) -> Option<Advice> {
    const SCALE: f64 = 0.2;
    const INSERT_SCALE: f64 = 0.05;
    let mut settings = Vec::new();
    if state.scale_factor != SCALE {
        settings.push(format!("vacuum_scale_factor={SCALE}"));
    }
    if state.insert_at.is_none() {
        settings.push("vacuum_insert_threshold=1000".to_owned());
    }
    if state.insert_at.is_none() || state.insert_scale_factor > INSERT_SCALE {
        settings.push(format!("vacuum_insert_scale_factor={INSERT_SCALE}"));
    }
    let now = state.insert_at.map_or("for no number of inserts".to_owned(), |at| format!("at {at:.0} inserts"));
    let reason = format!(
        "{} inserts and {changes} updates and deletes{over} on {} rows; it comes {now}, and would at about {:.0}, for index-only \
         scans and with less to freeze at once",
        state.inserted_ever,
        state.rows,
        1000.0 + INSERT_SCALE * state.rows
    );
    (!settings.is_empty()).then_some(Advice { kind: "append-only", reason, settings })
}

/// The flags by which the same database is found, without a password.
fn connection(target: &Target, server: &Server) -> String {
    let mut text = String::new();
    if let Some(config) = &target.config {
        text += &format!(" --config {}", shell(&config.to_string_lossy()));
    }
    if let Some(database) = &target.database {
        text += &format!(" --database {}", shell(database));
    }
    if let Some(dsn) = &target.dsn {
        let has_password =
            dsn.0.contains("password") || dsn.0.split_once('@').is_some_and(|(user, _)| user.matches(':').count() > 1);
        let dsn = match has_password {
            false => dsn.0.clone(),
            true => {
                let (conninfo, address) = (&server.conninfo, &server.address);
                let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
                let (host, dbname, user) =
                    (quoted(&address.host.to_string()), quoted(&conninfo.dbname), quoted(&conninfo.user));
                format!("host={host} port={} dbname={dbname} user={user}", address.port)
            }
        };
        text += &format!(" --dsn {}", shell(&dsn));
    }
    text
}

/// A word of a shell's command line.
fn shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:@=,-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(rows: f64, updated: i64, inserted_ever: i64) -> State {
        State {
            table: "t".to_owned(),
            running: None,
            dead: 0,
            vacuum_at: 50.0 + 0.2 * rows,
            inserted: 0,
            insert_at: Some(1000.0 + 0.2 * rows),
            changed: 0,
            analyze_at: None,
            xid_age: 0,
            freeze_pct: 0.0,
            since_autovacuum_s: None,
            since_autoanalyze_s: None,
            settings: Vec::new(),
            is_toast: false,
            is_enabled: true,
            rows,
            updated,
            deleted: 0,
            inserted_ever,
            counted_s: Some(7200.0),
            autovacuums: 0,
            scale_factor: 0.2,
            insert_scale_factor: 0.2,
            cost_delay: 2.0,
        }
    }

    fn settings(state: &State) -> String {
        advice(state).map(|advice| format!("{}: {}", advice.kind, advice.settings.join(" "))).unwrap_or_default()
    }

    #[test]
    fn kinds() {
        assert_eq!(
            settings(&state(1e6, 600_000, 1_000_000)),
            "high churn: vacuum_threshold=1000 vacuum_scale_factor=0.01"
        );
        assert_eq!(settings(&state(500.0, 5000, 500)), "cache: vacuum_threshold=25 vacuum_scale_factor=0.05");
        assert_eq!(settings(&state(1e6, 10, 1_000_000)), "append-only: vacuum_insert_scale_factor=0.05");
        assert_eq!(settings(&state(1e6, 100_000, 1_000_000)), "");
        assert_eq!(settings(&state(500.0, 10, 500)), "");
        // Nobody has done anything to it.
        assert_eq!(settings(&state(0.0, 0, 0)), "");
    }

    #[test]
    fn what_is_set_already_is_not_suggested() {
        let churn = state(1e6, 600_000, 1_000_000);
        assert_eq!(settings(&State { vacuum_at: 11_000.0, ..churn.clone() }), "");
        let slow = State { vacuum_at: 11_000.0, cost_delay: 10.0, ..churn };
        assert_eq!(settings(&slow), "high churn: vacuum_cost_delay=2");
        assert!(advice(&slow).is_some_and(|advice| advice.reason.contains("smaller is faster")));
        let append = state(1e6, 10, 1_000_000);
        assert_eq!(settings(&State { insert_scale_factor: 0.01, ..append.clone() }), "");
        let none = State { insert_at: None, scale_factor: 0.01, ..append.clone() };
        let wanted =
            "append-only: vacuum_scale_factor=0.2 vacuum_insert_threshold=1000 vacuum_insert_scale_factor=0.05";
        assert_eq!(settings(&none), wanted);
        assert_eq!(settings(&State { is_enabled: false, ..append }), "disabled: enabled=default");
    }

    #[test]
    fn words_of_a_shell() {
        assert_eq!(shell("public.t"), "public.t");
        assert_eq!(shell("\"it's\""), "'\"it'\\''s\"'");
        assert_eq!(shell(""), "''");
    }
}
