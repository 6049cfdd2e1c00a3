//! Which index finds the rows of a foreign key.

/// Whether the index `i` of access method `am` begins with the columns of the foreign key `f`, in any order. A partial one does if
/// it leaves out nulls of the only column: that is read from the stored expression, since to have it printed would wait for
/// whoever has locked the table.
pub(super) const LEADS: &str = r"
    am.amname in ('btree', 'hash') and i.indnkeyatts >= cardinality(f.conkey)
    and (i.indpred is null or cardinality(f.conkey) = 1 and i.indpred::text ~ format(
             '^\(?\{NULLTEST :arg \{VAR :varno 1 :varattno %s [^{}]*\} :nulltesttype 1 [^{}]*\}\)?$', i.indkey[0]))
    and array(select k from unnest(f.conkey) k order by k)
        = array(select i.indkey[k] from generate_series(0, cardinality(f.conkey) - 1) k order by 1)";
