//! PostgreSQL wire protocol: framing, views of what is received, builders of what is sent.
//!
//! No I/O, no clock, no settings. Every decoder takes bytes from a stranger: it neither
//! panics nor allocates more than the message is long.
//! <https://www.postgresql.org/docs/current/protocol.html>

pub mod admin_error;
pub mod auth;
pub mod backend;
pub mod cancel;
pub mod client_error;
pub mod console;
pub mod error_response;
pub mod extended;
pub mod frame;
pub mod frontend;
pub mod md5;
pub mod options;
pub mod proxy;
pub mod replication;
pub mod scram;
pub mod secret;
pub mod sqlstate;
pub mod startup;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;

mod encode;
mod read;

#[cfg(test)]
mod garbage;
