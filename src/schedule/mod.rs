//! `[maintenance]`: commands that are run by the calendar.
//!
//! A **slot** is a moment at which a job's expression comes true; it is **due** then, or up to `jitter` later. The serving process
//! (`runner`) starts `pgweir schedule run NAME --due SLOT` for each slot, a process that claims it, runs the job's command as a
//! child, ends it at its deadline, and notes what came of it in a file (`record`). `status` is what is known of all jobs.
//! Whoever runs a job goes on with it whatever becomes of the process that has started it.

pub(crate) mod record;
pub(crate) mod runner;
mod slots;
pub(crate) mod status;

pub(crate) use slots::{Slot, first_after, is_late};
