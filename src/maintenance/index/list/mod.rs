//! `pgweir index list`: which indexes there are, and which of them want something done.

mod bloat;
mod duplicate;
mod missing;
mod summary;
mod unused;

use clap::Args;

use super::leftovers::invalid;
use super::names::{Kind, find};
use super::with_partitions;
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::options::Reading;
use crate::maintenance::server::Server;
use crate::maintenance::units::{Percent, Size, Span};

/// One question at a time; without any, all indexes are listed.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
pub(crate) struct Questions {
    /// Indexes without scans for --min-stats-age, but for those that uphold a constraint, uniqueness or a replica identity
    #[arg(long)]
    unused: bool,
    /// Indexes that another one makes superfluous: the same twice (columns, order, operator classes, collations, expressions,
    /// predicate, uniqueness, method, INCLUDE), or a btree that another begins with; and which one to keep
    #[arg(long)]
    duplicate: bool,
    /// Tables that are read whole more often than by an index, and foreign keys whose columns no index finds
    #[arg(long)]
    missing: bool,
    /// Btree indexes with at least --min-bloat-pct of air, by estimate or --exact
    #[arg(long)]
    bloat: bool,
    /// Indexes that are not valid, what left them, and whether somebody is at work on them
    #[arg(long)]
    invalid: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    questions: Questions,
    /// Only indexes of this table and its partitions, "schema.table" or "table"; may be given several times
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// Only indexes of tables in this schema; may be given several times
    #[arg(long, value_name = "SCHEMA")]
    schema: Vec<String>,
    /// Only indexes of this size or more, with --missing tables [default: 10MB for --bloat and for tables that are read whole,
    /// otherwise 0]
    #[arg(long, value_name = "SIZE")]
    min_size: Option<Size>,
    /// With --unused: for how long scans must have been counted; from PostgreSQL 16 on also how old the last scan must be
    #[arg(long, value_name = "TIME", default_value = "30d")]
    min_stats_age: Span,
    /// With --unused: indexes with so many scans or fewer count as unused
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_scans: u32,
    /// With --missing: so many sequential scans or more make a table worth a look
    #[arg(long, value_name = "N", default_value_t = 5)]
    min_seq_scans: u32,
    /// With --bloat: the least share of air, in percent
    #[arg(long, value_name = "PCT", default_value = "20")]
    min_bloat_pct: Percent,
    /// With --bloat: read the indexes whole by the extension pgstattuple instead of estimating
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// Which indexes are looked at.
struct Scope {
    /// None: of all tables but the system's.
    tables: Option<Vec<u32>>,
    min_bytes: i64,
}

const DEFAULT_MIN_BYTES: i64 = 10 << 20;

pub(crate) async fn list(job: &Job, options: &ListOptions) -> Done {
    let server = job.connect(&options.reading.target, options.reading.limits).await?;
    let tables = tables(job, &server, options).await?;
    let given = options.min_size.map(|size| i64::try_from(size.0).unwrap_or(i64::MAX));
    let questions = &options.questions;
    let least = if questions.bloat { DEFAULT_MIN_BYTES } else { 0 };
    let scope = Scope { tables, min_bytes: given.unwrap_or(least) };
    if questions.unused {
        let wanted = unused::Unused { min_age: options.min_stats_age, max_scans: i64::from(options.max_scans) };
        let rows = unused::unused(job, &server, &scope, &wanted).await?;
        job.out.rows(&rows, "No index can be called unused.")?;
    } else if questions.duplicate {
        job.out.rows(&duplicate::duplicates(&server, &scope).await?, "No index makes another superfluous.")?;
    } else if questions.missing {
        let min_table = given.unwrap_or(DEFAULT_MIN_BYTES);
        let rows = missing::missing(&server, &scope, min_table, i64::from(options.min_seq_scans)).await?;
        job.out.rows(&rows, "No index is missing.")?;
    } else if questions.bloat {
        let rows = bloat::bloat(job, &server, &scope, options.exact, options.min_bloat_pct).await?;
        let nothing = format!("No btree index has {} of air or more.", options.min_bloat_pct);
        job.out.rows(&rows, &nothing)?;
    } else if questions.invalid {
        let mut rows = invalid(&server, scope.tables.as_deref()).await?;
        rows.retain(|row| row.bytes >= scope.min_bytes);
        job.out.rows(&rows, "All indexes are valid.")?;
    } else {
        job.out.rows(&summary::summary(&server, &scope).await?, "There are no indexes.")?;
    }
    Ok(Exit::Fine)
}

/// Of partitioned tables their partitions, too. None: no flag narrows it down.
async fn tables(job: &Job, server: &Server, options: &ListOptions) -> Result<Option<Vec<u32>>, Failure> {
    if options.table.is_empty() && options.schema.is_empty() {
        return Ok(None);
    }
    let named = find(job, server, options.reading.limits, Kind::Table, &options.table).await?;
    let oids: Vec<u32> = named.iter().map(|table| table.oid).collect();
    with_partitions(server, &oids, &options.schema).await.map(Some)
}
