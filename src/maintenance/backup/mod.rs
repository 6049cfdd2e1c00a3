//! `pgweir backup`: what pg_dump writes, kept with a manifest that says what is in it.

pub(crate) mod dump;
mod hold;
mod list;
pub(crate) mod manifest;
mod patterns;
mod prune;
mod run;
mod snapshot;
pub(crate) mod store;

pub(crate) use hold::{HoldOptions, hold};
pub(crate) use list::{ListOptions, list};
pub(crate) use prune::{PruneOptions, prune};
pub(crate) use run::{RunOptions, run};
