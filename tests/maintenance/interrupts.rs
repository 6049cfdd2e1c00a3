//! Ctrl-C, and locks that are held for ever.

use std::time::Instant;

use crate::program::{monitored, pgweir};
use crate::support::process::signal;
use crate::support::*;

/// Holds what `check sequences` reads.
fn holding(pg: &Postgres, database: &str) -> Wire {
    let mut holder = pg.direct(database);
    holder.run("begin; lock table pg_catalog.pg_sequence in access exclusive mode");
    holder
}

#[test]
fn what_runs_on_the_server_is_cancelled() {
    let pg = Postgres::shared();
    for name in ["INT", "TERM", "HUP"] {
        let (monitor, database) = monitored(pg);
        let mut holder = holding(pg, &database);
        let program = pgweir("check sequences --lock-timeout 0 --statement-timeout 0").on(pg, monitor, &database);
        let child = program.spawn();
        let waits = format!(
            "select 1 from pg_stat_activity where datname = '{database}' and application_name = 'pgweir/check' and wait_event_type = 'Lock'"
        );
        wait_until("it waits", PATIENCE, || !pg.sql(&waits).is_empty());
        let begun = Instant::now();
        signal(child.id(), name);
        let out = child.wait_with_output().expect("wait for it");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("pgweir: interrupted"), "{stderr}");
        assert!(begun.elapsed() < PATIENCE);
        // Still held: the waiting has been cancelled, not served.
        let backends =
            format!("select 1 from pg_stat_activity where datname = '{database}' and application_name like 'pgweir/%'");
        wait_until("its session has gone", PATIENCE, || pg.sql(&backends).is_empty());
        holder.run("rollback");
    }
}

#[test]
fn a_wait_of_our_own_ends_at_once() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let child = pgweir("report transactions --interval 1h").on(pg, monitor, &database).spawn();
    let sessions = format!(
        "select 1 from pg_stat_activity where datname = '{database}' and application_name like 'pgweir/%' and state = 'idle'"
    );
    wait_until("it measures", PATIENCE, || !pg.sql(&sessions).is_empty());
    let begun = Instant::now();
    signal(child.id(), "INT");
    let out = child.wait_with_output().expect("wait for it");
    assert_eq!(out.status.code(), Some(2));
    assert!(begun.elapsed() < secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_lock_that_is_held_for_ever_is_given_up() {
    let pg = Postgres::shared();
    let (monitor, database) = monitored(pg);
    let mut holder = holding(pg, &database);
    for (limit, message) in
        [("--lock-timeout 300ms", "lock timeout"), ("--lock-timeout 0 --statement-timeout 300ms", "statement timeout")]
    {
        let ran =
            pgweir(&format!("check sequences connections {limit} --output json")).on(pg, monitor, &database).run();
        let ran = ran.ends_with(1);
        assert!(ran.stdout.contains(&format!("canceling statement due to {message}")), "{}", ran.stdout);
        assert!(ran.stdout.contains("\"connections\""), "{}", ran.stdout);
    }
    holder.run("rollback");
}
