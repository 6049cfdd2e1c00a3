//! `index list --bloat`: btree indexes that a rebuild would make smaller.

use super::Scope;
use crate::maintenance::exit::Failure;
use crate::maintenance::index::estimate::{Bloat, Btree, btrees, measure, pgstattuple};
use crate::maintenance::job::Job;
use crate::maintenance::progress::Counted;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::units::Percent;

row! {
    /// An index with more air than it needs.
    BloatRow {
        name: String,
        table: String,
        bytes: i64,
        /// That a rebuild would free.
        bloat_bytes: i64,
        bloat_pct: f64,
        /// `estimate` from the planner's statistics, or `pgstatindex`, which has read it.
        by: String,
        /// How full leaf pages are; none: estimated only.
        leaf_density_pct: Option<f64>,
        /// Leaf pages that do not follow their neighbour on disk.
        fragmentation_pct: Option<f64>,
        /// None: a constraint that cannot be rebuilt concurrently.
        statement: Option<String>,
    }
}

pub(super) async fn bloat(
    job: &Job,
    server: &Server,
    scope: &Scope,
    is_exact: bool,
    min_bloat: Percent,
) -> Result<Vec<BloatRow>, Failure> {
    let found = btrees(server, scope.tables.as_deref(), scope.min_bytes).await?;
    let figures = if is_exact { measured(job, server, &found).await? } else { estimated(job, &found) };
    let mut rows: Vec<BloatRow> = found
        .iter()
        .zip(figures)
        .filter_map(|(index, bloat)| Some((index, bloat?)))
        .filter(|(_, bloat)| bloat.pct >= min_bloat.0)
        .map(|(index, bloat)| row(index, bloat))
        .collect();
    rows.sort_by(|a, b| b.bloat_bytes.cmp(&a.bloat_bytes).then_with(|| a.name.cmp(&b.name)));
    Ok(rows)
}

fn row(index: &Btree, bloat: Bloat) -> BloatRow {
    let Bloat { bytes, pct, leaf_density_pct, fragmentation_pct } = bloat;
    BloatRow {
        name: index.name.clone(),
        table: index.table.clone(),
        bytes: index.bytes,
        bloat_bytes: bytes,
        bloat_pct: pct,
        by: if leaf_density_pct.is_some() { "pgstatindex" } else { "estimate" }.to_owned(),
        leaf_density_pct,
        fragmentation_pct,
        statement: index.concurrently.then(|| format!("REINDEX INDEX CONCURRENTLY {};", index.name)),
    }
}

fn estimated(job: &Job, found: &[Btree]) -> Vec<Option<Bloat>> {
    let figures: Vec<Option<Bloat>> = found.iter().map(Btree::estimate).collect();
    let unknown = figures.iter().filter(|bloat| bloat.is_none()).count();
    if unknown > 0 {
        job.warn(format!(
            "left out: {unknown} of {} btree indexes, without statistics that can be seen: their tables were never analyzed, or there \
             is no right to read them (pg_read_all_data)",
            found.len()
        ));
    }
    figures
}

async fn measured(job: &Job, server: &Server, found: &[Btree]) -> Result<Vec<Option<Bloat>>, Failure> {
    let Some(schema) = pgstattuple(server).await? else {
        return Err(Failure::failed("--exact needs the extension pgstattuple in this database")
            .hint("a superuser can CREATE EXTENSION pgstattuple; without --exact, bloat is estimated"));
    };
    let progress = job.progress("read", Counted::Bytes, Some(found.iter().map(|index| index.bytes as u64).sum()));
    let (mut figures, mut done) = (Vec::new(), 0);
    for index in found {
        progress.at(done);
        let bloat = match measure(server, &schema, index).await {
            Ok(bloat) => Some(bloat),
            // Dropped meanwhile, not ours to read, or too large for the time.
            Err(failure) if failure.sqlstate.is_some() => {
                job.warn(format!("left out: {}: {}", index.name, failure.message));
                None
            }
            Err(failure) => return Err(failure),
        };
        figures.push(bloat);
        done += index.bytes as u64;
    }
    Ok(figures)
}
