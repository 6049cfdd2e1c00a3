//! `pgweir index rebuild`: REINDEX CONCURRENTLY, index by index.

mod parameters;
mod plan;
mod state;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

pub(super) use self::parameters::Parameter;
use self::plan::{Plan, Target, plan};
use self::state::State;
use super::build::{Builder, Memory, Waiting};
use super::leftovers::{Remains, remove_later, sweep};
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::interrupt::Undo;
use crate::maintenance::job::Job;
use crate::maintenance::lock::JobLock;
use crate::maintenance::options::{Changing, Limits, Reading};
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::ident;
use crate::maintenance::units::{Percent, Size};

#[derive(Args, Clone, Debug)]
pub(crate) struct RebuildOptions {
    /// Indexes, "schema.index" or "index", as in the catalogue or quoted as in SQL; of a partitioned one, all parts
    #[arg(value_name = "NAME", required_unless_present_any = ["table", "schema", "all"])]
    names: Vec<String>,
    /// All indexes of a table, its partitions and its TOAST table; may be given several times
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// All indexes of the tables in a schema; may be given several times
    #[arg(long, value_name = "SCHEMA")]
    schema: Vec<String>,
    /// All indexes of the database but for the system's
    #[arg(long)]
    all: bool,
    /// Only indexes of this size or more [default: all]
    #[arg(long, value_name = "SIZE")]
    min_size: Option<Size>,
    /// Only btree indexes with at least this share of air in percent, by estimate or --exact [default: all]
    #[arg(long, value_name = "PCT")]
    min_bloat_pct: Option<Percent>,
    /// With --min-bloat-pct: measure by the extension pgstattuple, which reads the indexes whole
    #[arg(long, requires = "min_bloat_pct")]
    exact: bool,
    /// Go on with the last run on this database that was interrupted or has failed: what it has rebuilt is left out
    #[arg(long)]
    resume: bool,
    /// File that remembers what an unfinished run has rebuilt [default: pgweir/rebuild.json in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Storage parameter that the rebuilt index gets, such as lists=200 (ivfflat), m=24, ef_construction=128 (hnsw) or fillfactor=80;
    /// queries use the old index until the new one is complete; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Parameter>,
    /// Tablespace that the rebuilt index goes to [default: the one that it is in]
    #[arg(long, value_name = "NAME")]
    tablespace: Option<String>,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    pub(crate) changing: Changing,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

impl RebuildOptions {
    fn limits(&self) -> Limits {
        self.reading.limits
    }
}

row! {
    /// What became of an index.
    RebuiltRow {
        name: String,
        table: String,
        /// `rebuilt`, `skipped: ...`, `failed: ...`.
        result: String,
        before_bytes: i64,
        /// None: it was not rebuilt.
        after_bytes: Option<i64>,
        freed_pct: Option<f64>,
        duration_s: Option<f64>,
    }
}

pub(crate) async fn rebuild(job: &Job, options: &RebuildOptions) -> Done {
    let server = job.connect(&options.reading.target, options.limits()).await?;
    let lock = JobLock::take(job, &server).await?;
    let Plan { mut targets, leftovers, tables } = plan(job, &server, options).await?;
    let mut rows: Vec<RebuiltRow> = Vec::new();
    let keeps_state = targets.len() > 1 && !job.is_dry_run();
    let mut state = match keeps_state || options.resume {
        true => Some(State::open(job, &server, options.state.as_deref(), options.resume).await?),
        false => None,
    };
    if let Some(state) = state.as_ref().filter(|_| options.resume) {
        targets.retain(|target| !state.has(target.oid));
    }
    let (targets, skipped): (Vec<Target>, Vec<Target>) =
        targets.into_iter().partition(|target| target.obstacle.is_none());
    rows.extend(skipped.iter().map(Target::skipped));
    if targets.is_empty() && leftovers.is_empty() {
        job.out.rows(&rows, "There is no index to rebuild.")?;
        return Ok(if rows.is_empty() { Exit::Fine } else { Exit::Partly });
    }
    let bytes: i64 = targets.iter().map(|target| target.bytes).sum();
    let what = counted(targets.len(), leftovers.len(), bytes);
    if let Some(largest) = targets.iter().max_by_key(|target| target.bytes) {
        let (size, space) = (Size(largest.bytes as u64), options.tablespace.as_ref().unwrap_or(&largest.tablespace));
        job.say(format!("{what}; while the largest is built, up to {size} more are needed in tablespace {space}"));
    }
    job.confirm(&format!("{what} of {}", server.conninfo.dbname), "REBUILD").await?;
    let builder = Builder::open(job, &server, options.limits(), options.waiting, Some(options.memory), false).await?;
    let run = Run { job, options, server: &server, builder, lock };
    run.sweep(&tables).await?;
    let done = run.all(&targets, &mut state, &mut rows).await;
    if job.is_dry_run() {
        return done.map(|()| Exit::Fine);
    }
    // What was done is told of a run that was interrupted, too.
    if !rows.is_empty() || done.is_ok() {
        job.out.rows(&rows, "There was no index to rebuild.")?;
    }
    done.map(|()| exit(&rows))
}

fn counted(indexes: usize, leftovers: usize, bytes: i64) -> String {
    let indexes = if indexes == 1 { "1 index".to_owned() } else { format!("{indexes} indexes") };
    let left = if leftovers > 0 { format!(", drop {leftovers} that earlier runs have left") } else { String::new() };
    format!("rebuild {indexes} ({}){left}", Size(bytes as u64))
}

fn exit(rows: &[RebuiltRow]) -> Exit {
    let failed = rows.iter().filter(|row| row.result.starts_with("failed")).count();
    let rebuilt = rows.iter().filter(|row| row.after_bytes.is_some()).count();
    match rows.len() {
        all if all == rebuilt => Exit::Fine,
        all if all == failed => Exit::Failed,
        _ => Exit::Partly,
    }
}

impl Target {
    fn row(&self, result: String) -> RebuiltRow {
        let (name, table) = (self.name.clone(), self.table.clone());
        let before_bytes = self.bytes;
        RebuiltRow { name, table, result, before_bytes, after_bytes: None, freed_pct: None, duration_s: None }
    }

    fn skipped(&self) -> RebuiltRow {
        self.row(format!("skipped: {}", self.obstacle.as_deref().unwrap_or_default()))
    }
}

row! {
    After {
        oid: u32,
        bytes: i64,
        valid: bool,
    }
}

/// All that one run needs.
struct Run<'a> {
    job: &'a Job,
    options: &'a RebuildOptions,
    server: &'a Server,
    builder: Builder<'a>,
    /// None: a dry run.
    lock: Option<JobLock>,
}

impl Run<'_> {
    /// What is somebody else's to drop does not keep us from building.
    async fn sweep(&self, tables: &[u32]) -> Result<(), Failure> {
        match sweep(self.job, self.server, tables).await {
            Err(failure) if failure.sqlstate.is_some() => {
                self.job.warn(format!("could not drop what an earlier run has left: {failure}"));
                Ok(())
            }
            done => done,
        }
    }

    async fn all(
        &self,
        targets: &[Target],
        state: &mut Option<State>,
        rows: &mut Vec<RebuiltRow>,
    ) -> Result<(), Failure> {
        for (place, target) in (1..).zip(targets) {
            self.job.interrupt.check()?;
            if let Some(lock) = &self.lock {
                lock.check().await?;
            }
            let label = if targets.len() > 1 {
                format!("{place}/{} {}", targets.len(), target.name)
            } else {
                target.name.clone()
            };
            match self.one(target, &label).await {
                Ok(None) => {}
                Ok(Some((oid, row))) => {
                    rows.push(row);
                    state.iter_mut().for_each(|state| state.add(self.job, oid));
                }
                Err(failure) if targets.len() == 1 || failure.exit == Exit::Unreachable => return Err(failure),
                Err(failure) => {
                    self.job.interrupt.check()?;
                    self.job.warn(failure.to_string());
                    rows.push(target.row(format!("failed: {}", failure.message)));
                }
            }
        }
        if self.job.is_dry_run() {
            return Ok(());
        }
        let is_whole = rows.iter().all(|row| !row.result.starts_with("failed"));
        state.iter().filter(|_| is_whole).for_each(|state| state.finish(self.job));
        Ok(())
    }

    /// None: a dry run.
    async fn one(&self, target: &Target, label: &str) -> Result<Option<(u32, RebuiltRow)>, Failure> {
        let begun = Instant::now();
        let mut undos: Vec<Undo> = parameters::set(self.job, &self.builder, target, &self.options.set).await?;
        let remains = Remains::OfTable(target.table_oid);
        undos.push(remove_later(self.job, self.server, self.builder.pid(), remains));
        let sql = match &self.options.tablespace {
            Some(name) => format!("REINDEX (CONCURRENTLY, TABLESPACE {}) INDEX {}", ident(name), target.name),
            None => format!("REINDEX INDEX CONCURRENTLY {}", target.name),
        };
        let built = match self.builder.run(label, &sql).await {
            Ok(true) => self.after(target).await,
            Ok(false) => {
                undos.into_iter().for_each(Undo::dismiss);
                return Ok(None);
            }
            Err(failure) => Err(failure),
        };
        let After { oid, bytes, .. } = match built {
            Ok(after) => after,
            Err(failure) => {
                self.undo(undos).await;
                return Err(failure);
            }
        };
        undos.into_iter().for_each(Undo::dismiss);
        let freed = 100.0 * (target.bytes - bytes) as f64 / target.bytes.max(1) as f64;
        let row = RebuiltRow {
            after_bytes: Some(bytes),
            freed_pct: Some(freed),
            duration_s: Some(begun.elapsed().as_secs_f64()),
            ..target.row("rebuilt".to_owned())
        };
        self.job.say(format!("{label}: {} before, {} now", Size(target.bytes as u64), Size(bytes as u64)));
        Ok(Some((oid, row)))
    }

    /// The last first. Of an interrupted run it is done at its end.
    async fn undo(&self, undos: Vec<Undo>) {
        if self.job.interrupt.is_requested() {
            return;
        }
        for undo in undos.into_iter().rev() {
            if let Err(failure) = undo.now().await {
                self.job.warn(failure.to_string());
            }
        }
    }

    async fn after(&self, target: &Target) -> Result<After, Failure> {
        const AFTER: &str = "
            select indexrelid as oid, pg_relation_size(indexrelid) as bytes, indisvalid as valid
            from pg_index where indexrelid = to_regclass($1)";
        let after: After = self.server.one(AFTER, &[&target.name]).await?;
        if after.valid { Ok(after) } else { Err(Failure::failed(format!("{} is not valid afterwards", target.name))) }
    }
}
