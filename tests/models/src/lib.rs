//! The pool's core, with loom's threads, lock and atomics in the place of std's.

#[allow(dead_code, unused_imports, reason = "the models call what changes the pool, not what reports on it")]
#[path = "../../../src/pool/mod.rs"]
mod pool;
mod sync;
pub mod models;
