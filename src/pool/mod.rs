//! The pool's core: who holds which server, and who is next.
//!
//! Generic over the connection, with the time handed in, so that it is tested without
//! PostgreSQL. One short lock per pool; nothing is awaited or closed under it.

mod quota;
mod state;
mod waiters;

pub(crate) use quota::{Permit, Quota};
pub(crate) use state::{Checkout, Counts, Idle, Limits, Permits, PlaceKey, Pool, Released, ServerState, WaitKey};
