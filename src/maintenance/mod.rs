//! The commands beside the pooler: they connect straight to PostgreSQL, do one thing and end.
//!
//! A command is a function `async fn(&Job, &Options) -> Done`, in a file or folder of its own here, and an entry in
//! `cli/commands.rs`. To add one:
//!
//! 1. Its `Options` derive `clap::Args`: every flag with a line that names its unit, its range and what leaving it out means.
//!    They flatten the groups of [`options`]: [`options::Target`] (which database), [`options::Limits`] (timeouts),
//!    [`options::Show`] (`--output`), [`options::Changing`] (`--dry-run`, `--yes`).
//! 2. It asks by [`server::Server`]: `job.connect(&options.target, options.limits)`, then `server.rows::<T>(sql, params)` with `T`
//!    made by [`rows::row`]; the same `T`s are printed by `job.out.rows(&rows, "nothing")`. Queries name what is in pg_catalog
//!    bare and everything else with its schema: `search_path` is empty. They must run on every supported version, as a member of
//!    pg_monitor.
//! 3. What changes a database: [`lock::JobLock::take`] first, then `job.confirm(what, word)`, and every statement through
//!    `job.change(&server, sql)`, which is what `--dry-run` prints; names by [`sql::ident`] and [`sql::qualified`]. What is no
//!    SQL is a `job.step(what)`.
//! 4. What would be left behind by a failure or Ctrl-C is registered by `job.cleanup.later(what, action)` before it is made;
//!    the action connects by `job.for_later()`. Loops ask
//!    `job.interrupt.check()?` and wait by `job.interrupt.sleep` and `or`; queries ask themselves, and are cancelled.
//! 5. Programs such as pg_dump are found by [`programs::find`] and started by [`programs::command`], with a
//!    [`conninfo::child::Passfile`].
//! 6. Traffic is held by [`hold::hold`]; figures of the pooler come from [`console::Console::show`].
//! 7. It returns an [`exit::Exit`], or a [`exit::Failure`] that knows its exit code and what to do about it.
//! 8. What takes long shows itself by `job.progress(label, counted, total)`.

pub(crate) mod autovacuum;
pub(crate) mod backup;
pub(crate) mod check;
mod conninfo;
mod console;
mod databases;
pub(crate) mod exit;
mod hold;
pub(crate) mod index;
mod interrupt;
pub(crate) mod job;
mod lock;
pub(crate) mod locks;
pub(crate) mod migrate;
pub(crate) mod options;
pub(crate) mod output;
pub(crate) mod pool;
mod programs;
mod progress;
mod relations;
pub(crate) mod report;
pub(crate) mod restore;
mod rows;
pub(crate) mod schedule;
mod scratch;
mod server;
pub(crate) mod sessions;
mod sql;
mod stream;
mod swap;
mod together;
mod units;
pub(crate) mod vacuum;
