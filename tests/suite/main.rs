//! pgweir in front of a real PostgreSQL, tested from outside, through its sockets.
//!
//! `PGWEIR_TEST_BOUNCER=/path/to/pgbouncer cargo test --test suite` runs the same tests against
//! PgBouncer; what pgweir does better by intent fails there.

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod auth_query;
mod bulk;
mod cancel;
mod console;
mod console_commands;
mod console_protocol;
mod copy;
mod dns;
mod drivers;
mod exporter;
mod faults;
mod framing;
mod hba;
mod isolation;
mod ldap;
mod leaks;
mod lifecycle;
mod limits;
mod listening;
mod login;
mod logs;
mod parameters;
mod peers;
mod pam;
mod pgbench;
mod pooling;
mod prepared;
mod proxy_protocol;
mod random_steps;
mod relay;
mod reloads;
mod replication;
mod replication_programs;
mod scram;
mod server_protocol;
mod servers;
mod service_manager;
mod session_use;
mod startup;
mod takeover;
mod timeouts;
mod tls;
mod workers;
