//! `pgweir index drop`: DROP INDEX CONCURRENTLY of what nothing else depends on.

use std::time::{Duration, Instant};

use clap::Args;

use super::build::{Builder, Waiting};
use super::definition::{Definition, definitions};
use super::foreign_keys::LEADS;
use super::leftovers::{InvalidRow, invalid};
use super::names::{Kind, find};
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::interrupt::Undo;
use crate::maintenance::job::Job;
use crate::maintenance::lock::JobLock;
use crate::maintenance::options::{Changing, Limits, Reading};
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::ident;
use crate::maintenance::units::{Size, Span};

#[derive(Args, Clone, Debug)]
pub(crate) struct DropOptions {
    /// Indexes, "schema.index" or "index", as in the catalogue or quoted as in SQL
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    pub(crate) changing: Changing,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

row! {
    /// An index that is gone.
    DroppedRow {
        name: String,
        table: String,
        freed_bytes: i64,
        duration_s: f64,
        /// By which it can be made again.
        definition: String,
    }
}

pub(crate) async fn drop_indexes(job: &Job, options: &DropOptions) -> Done {
    let limits = options.reading.limits;
    let server = job.connect(&options.reading.target, limits).await?;
    let lock = JobLock::take(job, &server).await?;
    let found = find(job, &server, limits, Kind::Index, &options.names).await?;
    let mut indexes: Vec<Definition> = Vec::new();
    for one in &found {
        const TABLE: &str = "select indrelid from pg_index where indexrelid = $1";
        let table: u32 = server.value(TABLE, &[&one.oid]).await?;
        let of_table = definitions(&server, Some(&[table])).await?;
        let broken = invalid(&server, Some(&[table])).await?;
        let index = of_table.into_iter().find(|index| index.oid == one.oid);
        let index = index.ok_or_else(|| Failure::failed(format!("{} is gone", one.qualified())))?;
        refuse(&server, &index, &broken, table).await?;
        if indexes.iter().all(|other| other.oid != index.oid) {
            indexes.push(index);
        }
    }
    for index in &indexes {
        warn(job, &server, index).await?;
    }
    let bytes: i64 = indexes.iter().map(|index| index.bytes).sum();
    let names: Vec<&str> = indexes.iter().map(|index| index.name.as_str()).collect();
    job.confirm(&format!("drop {} ({})", names.join(", "), Size(bytes as u64)), "DROP").await?;
    let builder = Builder::open(job, &server, limits, options.waiting, None, false).await?;
    let mut rows = Vec::new();
    let mut done = Ok(());
    for index in &indexes {
        job.step(&format!("to make it again: {};", index.definition))?;
        let begun = Instant::now();
        done = one(job, &server, &builder, index).await;
        if done.is_err() {
            break;
        }
        rows.push(DroppedRow {
            name: index.name.clone(),
            table: index.table.clone(),
            freed_bytes: index.bytes,
            duration_s: begun.elapsed().as_secs_f64(),
            definition: index.definition.clone(),
        });
    }
    drop(lock);
    if !job.is_dry_run() && !rows.is_empty() {
        job.out.rows(&rows, "")?;
    }
    match done {
        // What is left is told on its own.
        Err(failure) if !rows.is_empty() => Err(Failure { exit: Exit::Partly, ..failure }),
        done => done.map(|()| Exit::Fine),
    }
}

/// What must not go, or not as an index.
async fn refuse(server: &Server, index: &Definition, broken: &[InvalidRow], table: u32) -> Result<(), Failure> {
    let Definition { name, table: of, .. } = index;
    if table < 16384 {
        return Err(Failure::refused(format!("{name} is the system's")));
    }
    if let Some(constraint) = &index.constraint {
        let hint = format!("ALTER TABLE {of} DROP CONSTRAINT {} drops both", ident(constraint));
        return Err(Failure::refused(format!("{name} upholds the constraint {constraint} of {of}")).hint(hint));
    }
    if index.referenced {
        return Err(Failure::refused(format!("foreign keys refer to the columns that {name} keeps unique"))
            .hint("drop the foreign keys first"));
    }
    if index.replica_identity {
        let hint = format!("ALTER TABLE {of} REPLICA IDENTITY ... gives it another one");
        return Err(Failure::refused(format!("{name} is the replica identity of {of}")).hint(hint));
    }
    if index.attached {
        const WHOLE: &str =
            "select format('%I.%I', n.nspname, c.relname) from pg_inherits h join pg_class c on c.oid = h.inhparent
                             join pg_namespace n on n.oid = c.relnamespace where h.inhrelid = $1";
        let whole: String = server.value(WHOLE, &[&index.oid]).await?;
        return Err(Failure::refused(format!("{name} is a part of the partitioned index {whole}"))
            .hint("only the whole can be dropped"));
    }
    match broken.iter().find(|one| one.oid == index.oid).and_then(|one| one.building_pid) {
        Some(pid) => Err(Failure::refused(format!("process {pid} is at work on {name}"))),
        None => Ok(()),
    }
}

/// What may be missed afterwards.
async fn warn(job: &Job, server: &Server, index: &Definition) -> Result<(), Failure> {
    let name = &index.name;
    if index.unique && index.valid {
        job.warn(format!("{name} keeps its columns unique: without it, nothing does"));
    }
    if index.clustered {
        job.warn(format!("{name} is what CLUSTER sorts {} by", index.table));
    }
    if index.partitioned {
        job.warn(format!("{name} is partitioned: {} and its partitions are locked for a moment", index.table));
    }
    let keys: Vec<String> = server
        .query(&LAST_OF.replace("{leads}", LEADS), &[&index.oid])
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    if !keys.is_empty() {
        let keys = keys.join(", ");
        job.warn(format!(
            "{name} is the last index on the columns of foreign key {keys}: deletes there will read all of {}",
            index.table
        ));
    }
    Ok(())
}

/// The foreign keys whose rows only this index finds.
const LAST_OF: &str = "
    with valid as (
        select i.*, f.oid as key, f.conname
        from pg_index own join pg_constraint f on f.conrelid = own.indrelid and f.contype = 'f' and f.conparentid = 0
             join pg_index i on i.indrelid = own.indrelid and i.indisvalid
             join pg_class c on c.oid = i.indexrelid join pg_am am on am.oid = c.relam
        where own.indexrelid = $1 and {leads})
    select conname::text from valid group by key, conname having bool_and(indexrelid = $1) order by 1";

async fn one(job: &Job, server: &Server, builder: &Builder<'_>, index: &Definition) -> Result<(), Failure> {
    let name = &index.name;
    if index.partitioned {
        return builder.run_briefly(name, &format!("DROP INDEX {name}")).await.map(|_| ());
    }
    let undo = finish_later(job, server, index);
    match builder.run(name, &format!("DROP INDEX CONCURRENTLY {name}")).await {
        Ok(_) => {
            undo.dismiss();
            Ok(())
        }
        Err(failure) => {
            if !job.interrupt.is_requested()
                && let Err(left) = undo.now().await
            {
                job.warn(left.to_string());
            }
            Err(failure)
        }
    }
}

const FINISH_LIMITS: Limits =
    Limits { lock_timeout: Span(Duration::from_secs(5)), statement_timeout: Span(Duration::from_secs(30)) };

/// Once begun, it cannot be taken back: the index is of no use any more, and only waits for transactions to end.
fn finish_later(job: &Job, server: &Server, index: &Definition) -> Undo {
    let (job_then, here, name, oid) = (job.for_later(), server.here(), index.name.clone(), index.oid);
    let was_valid = index.valid;
    job.cleanup.later(format!("finish the drop of {name}"), async move {
        let server = job_then.connect_to(&here, FINISH_LIMITS).await?;
        const BEGUN: &str = "select exists (select from pg_index where indexrelid = $1 and not indisvalid)";
        if !was_valid || !server.value::<bool>(BEGUN, &[&oid]).await? {
            return Ok(());
        }
        let again = |failure: Failure| {
            failure.hint(format!(
                "queries do not use it any more: DROP INDEX CONCURRENTLY {name} again when the transactions have ended"
            ))
        };
        server.batch(&format!("DROP INDEX CONCURRENTLY IF EXISTS {name}")).await.map_err(again)
    })
}
