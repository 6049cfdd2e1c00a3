//! What the tests share: a real PostgreSQL, a pooler in front of it, and clients that speak the
//! protocol byte by byte.

pub(crate) mod balancer;
pub(crate) mod bouncer;
pub(crate) mod directory;
pub(crate) mod fake_server;
pub(crate) mod messages;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod tls;
pub(crate) mod wire;

pub(crate) use bouncer::Bouncer;
pub(crate) use fake_server::FakeServer;
pub(crate) use messages::{self as msg, PgError};
pub(crate) use postgres::Postgres;
pub(crate) use process::{PATIENCE, wait_until};
pub(crate) use random::Random;
pub(crate) use wire::{Gone, Wire};

use std::time::Duration;

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
