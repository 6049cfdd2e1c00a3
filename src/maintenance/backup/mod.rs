//! `pgweir backup`: what pg_dump writes, kept with a manifest that says what is in it.

pub(crate) mod archive;
pub(crate) mod dump;
mod hold;
mod list;
pub(crate) mod loading;
pub(crate) mod manifest;
pub(crate) mod reading;
mod patterns;
mod prune;
mod run;
mod snapshot;
pub(crate) mod store;
mod verify;

pub(crate) use hold::{HoldOptions, hold};
pub(crate) use list::{ListOptions, list, list_all};
pub(crate) use prune::{PruneOptions, prune};
pub(crate) use run::{RunOptions, run};
pub(crate) use verify::{VerifyOptions, usable, verify};
