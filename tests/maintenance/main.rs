//! The maintenance commands, run as users run them, on real servers of every version that they support.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with tests/suite, which uses the rest")]
mod support;

mod autovacuum;
mod backup;
mod backup_s3;
mod check;
mod connecting;
mod depot;
mod index;
mod interrupts;
mod locks;
mod migrate;
mod pool;
mod program;
mod reports;
mod restoring;
mod s3;
mod schedule;
mod servers;
mod sessions;
mod swapping;
mod vacuum;
mod verifying;
