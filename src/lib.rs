//! pgweir: a PostgreSQL connection pooler that replaces PgBouncer in place.
//!
//! The modules stand in the order of their floors: each imports only from those above it here.

mod sync;
mod log;
mod control;
mod net;
mod relay;
mod pool;
mod registry;
mod takeover;
mod worker;
mod auth;
mod server;
mod pools;
mod client;
mod process;
mod schedule;
mod admin;
mod accept;
mod crew;
mod serve;
mod give;
mod take;
mod succession;
mod app;
mod maintenance;
pub mod cli;
#[cfg(feature = "benching")]
pub mod benching;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
