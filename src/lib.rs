//! pgweir: a PostgreSQL connection pooler that replaces PgBouncer in place.
//!
//! The modules stand in the order of their floors: each imports only from those above it here.

mod admin;
mod app;
mod auth;
pub mod cli;
mod client;
mod control;
mod crew;
mod log;
mod net;
mod pool;
mod pools;
mod process;
mod registry;
mod relay;
mod serve;
mod server;
mod worker;
