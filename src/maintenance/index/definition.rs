//! What an index is, so that two of them can be compared.

use crate::maintenance::exit::Failure;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

row! {
    /// An index as far as it matters for what it can be used for.
    Definition {
        oid: u32,
        table_oid: u32,
        name: String,
        table: String,
        method: String,
        /// Columns and expressions with operator class, collation and order, as one text each that says nothing to people.
        keys: Vec<String>,
        /// Of INCLUDE.
        included: Vec<String>,
        /// The names of all key columns and expressions, which are returned by index-only scans as `included` are.
        key_names: Vec<String>,
        /// Of a partial index; empty: it has every row.
        predicate: String,
        unique: bool,
        nulls_not_distinct: bool,
        /// Not of a deferrable constraint.
        immediate: bool,
        valid: bool,
        clustered: bool,
        replica_identity: bool,
        primary: bool,
        /// Of a primary key, unique or exclusion constraint; none: it is nobody's.
        constraint: Option<String>,
        /// Whether foreign keys refer to it.
        referenced: bool,
        /// Whether it is a part of a partitioned index.
        attached: bool,
        partitioned: bool,
        bytes: i64,
        /// CREATE INDEX
        definition: String,
    }
}

impl Definition {
    /// Whether both are good for the same queries and say the same of the rows.
    pub(super) fn equals(&self, other: &Definition) -> bool {
        self.table_oid == other.table_oid && self.is_like(other)
    }

    /// The same, of indexes of two tables.
    pub(super) fn is_like(&self, other: &Definition) -> bool {
        self.method == other.method
            && self.keys == other.keys
            && self.included == other.included
            && self.predicate == other.predicate
            && self.unique == other.unique
            && self.nulls_not_distinct == other.nulls_not_distinct
            && self.immediate == other.immediate
    }

    /// Whether `other` begins with all that this one has, and can be used in its place.
    pub(super) fn is_covered_by(&self, other: &Definition) -> bool {
        let has = |name: &String| other.key_names.contains(name) || other.included.contains(name);
        let is_less = self.keys.len() < other.keys.len() || other.unique || self.included.len() < other.included.len();
        self.table_oid == other.table_oid
            && self.method == "btree"
            && other.method == "btree"
            && !self.unique
            && is_less
            && other.keys.starts_with(&self.keys)
            && self.included.iter().all(has)
            && self.predicate == other.predicate
    }

    /// Whether it is more than a means to be quick, and not to be dropped as an index.
    pub(super) fn is_bound(&self) -> bool {
        self.constraint.is_some() || self.replica_identity || self.referenced || self.attached
    }
}

/// The indexes of some tables or, without any, of all that are not the system's and that
/// nobody has locked against reading.
pub(super) async fn definitions(server: &Server, tables: Option<&[u32]>) -> Result<Vec<Definition>, Failure> {
    server.rows(&with_bytes(DEFINITIONS), &[&tables]).await
}

/// Makes a query with `with {locked}` and `pg_class c` in it know the size of `c` as `{bytes}`, and with all
/// that a partitioned index consists of as `{total_bytes}`, and what `pg_index i` is made by as `{definition}`. To ask for the size of what is
/// locked exclusively would wait: of that the size at the last VACUUM or ANALYZE is told, and no
/// definition.
pub(super) fn with_bytes(sql: &str) -> String {
    const LOCKED: &str = "locked as materialized (
        select relation from pg_locks
        where locktype = 'relation' and mode = 'AccessExclusiveLock' and granted and pid <> pg_backend_pid()
          and database = (select oid from pg_database where datname = current_database()))";
    const BYTES: &str =
        "case when c.oid in (select relation from locked) then c.relpages * current_setting('block_size')::int8
                              else coalesce(pg_relation_size(c.oid), 0) end";
    let total = format!(
        "case when c.relkind = 'I' then (select coalesce(sum(pg_relation_size(relid)), 0)::int8 from pg_partition_tree(c.oid))
              else {BYTES} end"
    );
    const DEFINITION: &str =
        "case when i.indrelid not in (select relation from locked) then pg_get_indexdef(i.indexrelid) end";
    let sql = sql.replace("{locked}", LOCKED).replace("{total_bytes}", &total).replace("{bytes}", BYTES);
    sql.replace("{definition}", DEFINITION)
}

/// `indnullsnotdistinct` is of PostgreSQL 15 and later.
const DEFINITIONS: &str = "
    with {locked}
    select c.oid, i.indrelid as table_oid, format('%I.%I', n.nspname, c.relname) as name,
           format('%I.%I', tn.nspname, t.relname) as table, am.amname::text as method,
           array(select concat_ws(' ', pg_get_indexdef(c.oid, k, true), i.indclass[k - 1], i.indcollation[k - 1],
                                  i.indoption[k - 1], a.attoptions::text)
                 from generate_series(1, i.indnkeyatts) k
                      join pg_attribute a on a.attrelid = c.oid and a.attnum = k order by k) as keys,
           array(select pg_get_indexdef(c.oid, k, true)
                 from generate_series(i.indnkeyatts + 1, i.indnatts) k order by k) as included,
           array(select pg_get_indexdef(c.oid, k, true) from generate_series(1, i.indnkeyatts) k order by k) as key_names,
           coalesce(pg_get_expr(i.indpred, i.indrelid), '') as predicate, i.indisunique as unique,
           coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) as nulls_not_distinct,
           i.indimmediate as immediate, i.indisvalid as valid, i.indisclustered as clustered,
           i.indisreplident as replica_identity, i.indisprimary as primary,
           (select conname::text from pg_constraint where conindid = c.oid and contype in ('p', 'u', 'x') limit 1) as constraint,
           exists (select from pg_constraint where conindid = c.oid and contype = 'f') as referenced,
           c.relispartition as attached, c.relkind = 'I' as partitioned, {total_bytes} as bytes,
           pg_get_indexdef(c.oid) as definition
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
         join pg_namespace n on n.oid = c.relnamespace join pg_namespace tn on tn.oid = t.relnamespace
         join pg_am am on am.oid = c.relam
    where ($1::oid[] is null and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
           and i.indrelid not in (select relation from locked) or i.indrelid = any ($1))
    order by c.oid";
