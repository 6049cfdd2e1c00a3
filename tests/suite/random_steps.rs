//! Random steps of the protocol, each reply checked against a model of what PostgreSQL answers. The
//! model is checked by the same steps with no pooler between.
//!
//! A failure prints what repeats it: `PGWEIR_SEED=... cargo test --test suite random_steps`.
//! `make soak` takes a million steps.

mod client;
mod generator;
mod groups;
mod model;
mod options;
mod report;
mod request;
mod session;
mod sql;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::bouncer::IS_PGBOUNCER;
use crate::support::*;
use client::{Client, World};
use generator::ACCOUNTS;
use options::{Class, Options};
use report::Tally;

/// Few, so that clients wait and servers change hands all the time.
const SERVERS: usize = 3;
/// Less than any client uses, so that statements are evicted all the time; or more than there are.
const PREPARED: [u32; 2] = [4, 400];
const STEPS: u64 = 20_000;
const QUERY_TIMEOUT: u64 = 3;

fn create_tables(pg: &Postgres, database: &str) {
    let mut direct = pg.direct(database);
    direct.run("create table ledger (owner text, mark text); create index on ledger (owner)");
    direct.run("create table accounts (account int primary key, balance bigint)");
    direct.run(&format!("insert into accounts select i, 1000 from generate_series(0, {}) i", ACCOUNTS - 1));
    // Who has moved what, for whoever has to find out why the sum is not what it was.
    direct.run("create table moves (xid bigint, amount bigint, who text, sql text, at timestamptz)");
    direct.run(
        "create function note_move() returns trigger language plpgsql as $$ begin \
         insert into moves values (txid_current(), new.balance - old.balance, \
         current_setting('application_name') || ' ' || pg_backend_pid(), current_query(), clock_timestamp()); \
         return new; end $$",
    );
    direct.run("create trigger noted after update on accounts for each row execute function note_move()");
    direct.run("grant all on ledger, accounts, moves to app");
}

fn world(pg: &Postgres, options: Options, server_database: &str) -> World {
    create_tables(pg, server_database);
    World {
        options,
        port: pg.port,
        database: server_database.to_owned(),
        query_timeout: None,
        server_database: server_database.to_owned(),
        admin: Mutex::new(pg.direct("postgres")),
        kills: Mutex::new(Vec::new()),
        stop: AtomicBool::new(false),
    }
}

/// What PostgreSQL says about connections that it ended, with the lines around.
fn fatal_log_lines(pg: &Postgres) -> String {
    let log = std::fs::read(pg.dir.join("log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    // Of errors only those that the protocol is about.
    let words = ["FATAL", "PANIC", "LOG:  ", "ERROR:  unexpected ", "ERROR:  invalid message"];
    let told = |line: &str| words.iter().any(|word| line.contains(word));
    let shown: Vec<String> =
        lines.iter().filter(|line| told(line)).map(|line| line.chars().take(200).collect()).collect();
    shown[shown.len().saturating_sub(20)..].join("\n")
}

/// Lets the clients take their steps, while `watch` looks on; panics with the first failure.
fn run(pg: &Postgres, world: &World, watch: impl Fn()) {
    let Options { steps, clients, .. } = world.options;
    let share = steps.div_ceil(u64::from(clients));
    let begun = Instant::now();
    println!("random steps: {}", world.options.replay());
    let mut tally = Tally::default();
    let failures: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|id| {
                scope.spawn(move || {
                    let mut client = Client::new(world, id);
                    (client.run(share), client.tally)
                })
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            watch();
            thread::sleep(millis(100));
        }
        let mut failures = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok((result, part)) => {
                    failures.extend(result.err());
                    tally.add(part);
                }
                Err(_) => failures.push("a client panicked".to_owned()),
            }
        }
        failures
    });
    println!("{tally}in {:.1} s", begun.elapsed().as_secs_f64());
    let last_words = if failures.is_empty() { String::new() } else { fatal_log_lines(pg) };
    assert!(failures.is_empty(), "\n{}\n\nlog of PostgreSQL:\n{last_words}", failures.join("\n\n"));
    assert_eq!(tally.steps, share * u64::from(clients));
}

/// What must hold when all is over.
fn check_server(pg: &Postgres, database: &str) {
    let mut direct = pg.direct(database);
    let open = format!("select 1 from pg_stat_activity where datname = '{database}' and state like 'idle in%'");
    wait_until("no transaction is left open", PATIENCE, || pg.sql(&open).is_empty());
    let halves = "select * from moves where xid in (select xid from moves group by xid having sum(amount) <> 0)";
    assert_eq!(direct.query(halves), Ok(Vec::new()), "half a transfer");
    assert_eq!(direct.one("select sum(balance) from accounts"), (1000 * ACCOUNTS).to_string());
}

#[test]
fn model_foresees_what_postgres_answers() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let world = world(pg, Options::from_environment(STEPS / 4, ""), &database);
    run(pg, &world, || {});
    check_server(pg, &database);
}

#[test]
fn clients_of_the_pooler_get_what_postgres_would_answer() {
    let pg = Postgres::shared();
    let options = Options::from_environment(STEPS, Options::beyond_the_pooler(*IS_PGBOUNCER));
    let prepared = PREPARED[usize::from(!options.allow(Class::Eviction))];
    let mut bouncer = Bouncer::start(pg, |setup| {
        setup
            .set("default_pool_size", SERVERS)
            .set("max_prepared_statements", prepared)
            .set("query_timeout", QUERY_TIMEOUT)
            .set("server_login_retry", 1)
            .set("max_client_conn", 1000)
    });
    let mut world = world(pg, options, &bouncer.server_database);
    (world.port, world.database, world.query_timeout) = (bouncer.port, "app".to_owned(), Some(secs(QUERY_TIMEOUT)));
    run(pg, &world, || {
        // Those that carry cancel requests are no servers of the pool. PgBouncer may log in one too many.
        let counts = |state: &str, link: &str| match state {
            "active_cancel" => false,
            "new" => link.is_empty() && !*IS_PGBOUNCER,
            _ => true,
        };
        let servers = bouncer.show("SERVERS").into_iter().filter(|server| counts(&server["state"], &server["link"]));
        let states: Vec<String> = servers.map(|server| server["state"].clone()).collect();
        if states.len() > SERVERS {
            world.stop.store(true, Ordering::Relaxed);
            panic!("more servers than the pool may have: {states:?}");
        }
    });
    assert!(bouncer.is_running());
    check_server(pg, &bouncer.server_database);
    wait_until("no more backends than the pool may have", PATIENCE, || bouncer.backends(pg) <= SERVERS);
}
