//! Which index finds the rows of a foreign key.

/// Whether the index `i` of access method `am` begins with the columns of the foreign key `f`, in any order.
pub(super) const LEADS: &str = "
    am.amname in ('btree', 'hash') and i.indnkeyatts >= cardinality(f.conkey)
    and (i.indpred is null or cardinality(f.conkey) = 1 and pg_get_expr(i.indpred, i.indrelid) = (
             select format('(%I IS NOT NULL)', attname) from pg_attribute where attrelid = i.indrelid and attnum = i.indkey[0]))
    and array(select k from unnest(f.conkey) k order by k)
        = array(select i.indkey[k] from generate_series(0, cardinality(f.conkey) - 1) k order by 1)";
