//! `pgweir backup`

mod list;
pub(crate) mod manifest;
pub(crate) mod store;

pub(crate) use list::{ListOptions, list};
