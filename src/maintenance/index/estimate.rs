//! How much of a btree index is air: estimated from the planner's statistics, or measured by pgstattuple.

use crate::maintenance::exit::Failure;
use crate::maintenance::index::definition::with_bytes;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

row! {
    /// A btree index with what the planner knows of its columns. What is not known makes for no estimate.
    Btree {
        oid: u32,
        name: String,
        table: String,
        bytes: i64,
        block_bytes: i64,
        /// Percent of a leaf page that a build fills.
        fill_factor: f64,
        /// None: nobody has counted.
        rows: Option<f64>,
        /// Per column: bytes of its values that are not null, share of nulls, and `pg_stats.n_distinct`.
        widths: Vec<Option<f64>>,
        null_shares: Vec<Option<f64>>,
        distincts: Vec<Option<f64>>,
        /// Whether a column's values differ in length.
        varies: bool,
        /// Whether equal keys can be stored as one with a list of rows.
        deduplicates: bool,
        /// Whether REINDEX CONCURRENTLY would take it.
        concurrently: bool,
    }
}

/// How full an index is, and what a new one would take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bloat {
    pub(super) bytes: i64,
    pub(super) pct: f64,
    /// Measured only: how full leaf pages are, and how many of them do not follow their neighbour on disk.
    pub(super) leaf_density_pct: Option<f64>,
    pub(super) fragmentation_pct: Option<f64>,
}

impl Bloat {
    fn of(bytes: i64, wanted_bytes: f64) -> Bloat {
        let air = (bytes as f64 - wanted_bytes).max(0.0);
        let pct = if bytes > 0 { 100.0 * air / bytes as f64 } else { 0.0 };
        Bloat { bytes: air as i64, pct, leaf_density_pct: None, fragmentation_pct: None }
    }
}

/// Of a page: its header, and the links to its neighbours.
const PAGE_OVERHEAD: f64 = 24.0 + 16.0;
/// Of a tuple: the pointer to it, its header, and the latter with a bitmap of nulls.
const ITEM_POINTER: f64 = 4.0;
const TUPLE_HEADER: f64 = 8.0;
const TUPLE_HEADER_WITH_NULLS: f64 = 16.0;
const ALIGNMENT: f64 = 8.0;
/// How full a build makes pages above the leaves, in percent.
const INNER_FILL_FACTOR: f64 = 70.0;
/// A row in a list of those with the same key, and the share of a page that such a list may take.
const ROW_POINTER: f64 = 6.0;
const LIST_SHARE: f64 = 0.1;
/// ANALYZE takes large numbers of distinct values for smaller than they are. From so many rows per value on, an error by ten
/// matters little.
const DEDUPLICATED_FROM: f64 = 50.0;

impl Btree {
    /// None: statistics are missing.
    pub(super) fn estimate(&self) -> Option<Bloat> {
        let rows = self.rows?;
        let known = |values: &[Option<f64>]| values.iter().copied().collect::<Option<Vec<f64>>>();
        let (widths, null_shares, distincts) =
            (known(&self.widths)?, known(&self.null_shares)?, known(&self.distincts)?);
        let has_nulls = null_shares.iter().any(|share| *share > 0.0);
        let header = if has_nulls { TUPLE_HEADER_WITH_NULLS } else { TUPLE_HEADER };
        let data: f64 = widths.iter().zip(&null_shares).map(|(width, nulls)| width * (1.0 - nulls)).sum();
        // Values of all lengths lose half of the alignment on average.
        let tuple = if self.varies || has_nulls {
            header + data + (ALIGNMENT - 1.0) / 2.0
        } else {
            ((header + data) / ALIGNMENT).ceil() * ALIGNMENT
        };
        let pages = self.pages(self.leaf_bytes(rows, tuple, &distincts), tuple + ITEM_POINTER);
        Some(Bloat::of(self.bytes, pages * self.block_bytes as f64))
    }

    /// All leaf tuples with their pointers.
    fn leaf_bytes(&self, rows: f64, tuple: f64, distincts: &[f64]) -> f64 {
        let plain = rows * (tuple + ITEM_POINTER);
        // Negative: a share of the rows, which grows with the table.
        if !self.deduplicates || distincts.iter().any(|distinct| *distinct <= 0.0) {
            return plain;
        }
        let keys = distincts.iter().product::<f64>().clamp(1.0, rows.max(1.0));
        let rows_per_key = rows / keys;
        if rows_per_key < DEDUPLICATED_FROM {
            return plain;
        }
        let rows_per_list = ((self.block_bytes as f64 * LIST_SHARE - tuple) / ROW_POINTER).max(1.0);
        let lists = keys * (rows_per_key / rows_per_list).ceil();
        rows * ROW_POINTER + lists * (tuple + ITEM_POINTER)
    }

    /// Leaves, the levels above them, and the first page, which says where the root is.
    fn pages(&self, leaf_bytes: f64, item: f64) -> f64 {
        let block = self.block_bytes as f64;
        let usable = |fill_factor: f64| block * fill_factor / 100.0 - PAGE_OVERHEAD;
        let leaves = (leaf_bytes / usable(self.fill_factor)).ceil().max(1.0);
        let per_inner = (usable(INNER_FILL_FACTOR) / item).max(2.0);
        let (mut level, mut pages) = (leaves, leaves + 1.0);
        while level > 1.0 {
            level = (level / per_inner).ceil();
            pages += level;
        }
        pages
    }
}

/// The btree indexes of at least a size, of some tables or of all that are not the system's; the largest first.
pub(super) async fn btrees(server: &Server, tables: Option<&[u32]>, min_bytes: i64) -> Result<Vec<Btree>, Failure> {
    server.rows(&with_bytes(BTREES), &[&tables, &min_bytes]).await
}

/// The schema of the extension pgstattuple; None: it is not installed.
pub(super) async fn pgstattuple(server: &Server) -> Result<Option<String>, Failure> {
    let sql = "select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace where extname = 'pgstattuple'";
    Ok(server.query(sql, &[]).await?.first().map(|row| row.try_get(0)).transpose()?)
}

row! {
    Measured {
        leaf_pages: i64,
        leaf_density: f64,
        fragmentation: f64,
        size: i64,
        other_pages: i64,
    }
}

/// Reads the whole index by an extension that is in `schema`.
pub(super) async fn measure(server: &Server, schema: &str, index: &Btree) -> Result<Bloat, Failure> {
    let function = crate::maintenance::sql::qualified(schema, "pgstatindex");
    let sql = format!(
        "select leaf_pages, case when leaf_pages > 0 then avg_leaf_density else 0 end::float8 as leaf_density,
                case when leaf_pages > 0 then leaf_fragmentation else 0 end::float8 as fragmentation,
                index_size as size, internal_pages + 1 as other_pages
         from {function}($1::oid::regclass)"
    );
    let measured: Measured = server.one(&sql, &[&index.oid]).await?;
    let Measured { leaf_pages, leaf_density, fragmentation, size, other_pages } = measured;
    let leaves = (leaf_pages as f64 * leaf_density / index.fill_factor).ceil().max(1.0);
    let bloat = Bloat::of(size, (leaves + other_pages as f64) * index.block_bytes as f64);
    Ok(Bloat { leaf_density_pct: Some(leaf_density), fragmentation_pct: Some(fragmentation), ..bloat })
}

/// Statistics on a plain column are those of the table's, on an expression the index's own. Only support function 4 of an
/// operator class says that equal values look the same, which storing them once needs.
const BTREES: &str = "
    with {locked}
    select c.oid, format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as table,
           size.bytes, current_setting('block_size')::int8 as block_bytes,
           coalesce((select option_value from pg_options_to_table(c.reloptions) where option_name = 'fillfactor'), '90')::float8
               as fill_factor,
           case when c.reltuples > 0 then c.reltuples when i.indpred is null and t.reltuples >= 0 then t.reltuples end::float8 as rows,
           k.widths, k.null_shares, k.distincts, k.varies,
           k.is_image and i.indnatts = i.indnkeyatts and not i.indisunique and coalesce((
               select option_value from pg_options_to_table(c.reloptions) where option_name = 'deduplicate_items'), 'on')::bool
               as deduplicates,
           not i.indisexclusion as concurrently
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
         join pg_namespace n on n.oid = c.relnamespace join pg_namespace tn on tn.oid = t.relnamespace
         join pg_am am on am.oid = c.relam and am.amname = 'btree'
         cross join lateral (select {bytes} as bytes) size
         cross join lateral (
             select array_agg(s.avg_width::float8 order by a.attnum) as widths,
                    array_agg(s.null_frac::float8 order by a.attnum) as null_shares,
                    array_agg(s.n_distinct::float8 order by a.attnum) as distincts,
                    bool_or(a.attlen < 0) as varies,
                    bool_and(a.attnum > i.indnkeyatts or exists (
                        select from pg_opclass o join pg_amproc p on p.amprocfamily = o.opcfamily
                               and p.amproclefttype = o.opcintype and p.amprocrighttype = o.opcintype and p.amprocnum = 4
                        where o.oid = i.indclass[a.attnum - 1])) as is_image
             from pg_attribute a
                  left join pg_attribute plain on plain.attrelid = i.indrelid and plain.attnum = i.indkey[a.attnum - 1]
                                                  and plain.attnum > 0
                  left join pg_stats s on not s.inherited and case
                      when plain.attnum is null then s.schemaname = n.nspname and s.tablename = c.relname and s.attname = a.attname
                      else s.schemaname = tn.nspname and s.tablename = t.relname and s.attname = plain.attname end
             where a.attrelid = c.oid and a.attnum > 0) k
    where c.relkind = 'i' and t.relpersistence <> 't' and size.bytes >= $2
      and ($1::oid[] is null and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'
           or t.oid = any ($1))
    order by size.bytes desc, name";

#[cfg(test)]
mod tests {
    use super::*;

    fn int4(rows: f64, pages: i64) -> Btree {
        Btree {
            oid: 1,
            name: "i".to_owned(),
            table: "t".to_owned(),
            bytes: pages * 8192,
            block_bytes: 8192,
            fill_factor: 90.0,
            rows: Some(rows),
            widths: vec![Some(4.0)],
            null_shares: vec![Some(0.0)],
            distincts: vec![Some(-1.0)],
            varies: false,
            deduplicates: true,
            concurrently: true,
        }
    }

    #[track_caller]
    fn assert_near(index: &Btree, pct: f64) {
        let bloat = index.estimate().expect("an estimate");
        assert!((bloat.pct - pct).abs() < 2.0, "{bloat:?}");
    }

    /// The pages are what PostgreSQL 15 makes of such indexes.
    #[test]
    fn a_new_index_has_none() {
        assert_near(&int4(1e6, 2745), 0.0);
        assert_near(&int4(1e6, 5490), 50.0);
        assert_near(&Btree { distincts: vec![Some(10.0)], ..int4(1e6, 848) }, 0.0);
        assert_near(&int4(0.0, 2745), 100.0);
    }

    #[test]
    fn nothing_is_made_up() {
        assert!(Btree { widths: vec![Some(4.0), None], ..int4(1e6, 100) }.estimate().is_none());
        assert!(Btree { rows: None, ..int4(1e6, 100) }.estimate().is_none());
    }
}
