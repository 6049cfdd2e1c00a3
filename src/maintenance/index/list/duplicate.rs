//! `index list --duplicate`: indexes that another one makes superfluous.

use std::cmp::Reverse;

use super::Scope;
use crate::maintenance::exit::Failure;
use crate::maintenance::index::definition::{Definition, definitions};
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

row! {
    /// An index that can go.
    DuplicateRow {
        name: String,
        table: String,
        bytes: i64,
        /// `exact`: the same is there twice; `prefix`: another one begins with all of it.
        kind: String,
        /// The index that does as well.
        keep: String,
        /// Why that one, and what to think of first.
        reason: String,
        definition: String,
        keep_definition: String,
        /// None: it is no index of its own; the reason tells.
        statement: Option<String>,
    }
}

pub(super) async fn duplicates(server: &Server, scope: &Scope) -> Result<Vec<DuplicateRow>, Failure> {
    let mut all = definitions(server, scope.tables.as_deref()).await?;
    all.retain(|index| index.valid);
    // The better ones first: an index is superfluous by those before it only.
    all.sort_by_key(worth);
    let mut rows: Vec<DuplicateRow> = Vec::new();
    for (place, index) in all.iter().enumerate() {
        // Of a partitioned index's parts, the whole is told.
        if index.attached {
            continue;
        }
        let better = &all[..place];
        if let Some(keep) = better.iter().find(|other| index.equals(other)) {
            rows.push(row("exact", index, keep));
        } else if !index.is_bound()
            && let Some(keep) = all.iter().filter(|other| index.is_covered_by(other)).min_by_key(|other| other.bytes)
        {
            rows.push(row("prefix", index, keep));
        }
    }
    rows.retain(|row| row.bytes >= scope.min_bytes);
    rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    Ok(rows)
}

/// What is to be kept of equal ones sorts first; of equal worth the older, which has the smaller number.
fn worth(index: &Definition) -> (Reverse<[bool; 6]>, u32) {
    let Definition { attached, primary, referenced, replica_identity, clustered, .. } = *index;
    (Reverse([attached, primary, referenced, index.constraint.is_some(), replica_identity, clustered]), index.oid)
}

fn row(kind: &str, index: &Definition, keep: &Definition) -> DuplicateRow {
    let merits = [
        (keep.attached, "part of a partitioned index"),
        (keep.primary, "the primary key"),
        (keep.referenced, "referenced by foreign keys"),
        (keep.constraint.is_some(), "of a constraint"),
        (keep.replica_identity, "the replica identity"),
        (keep.clustered, "marked by CLUSTER"),
        (keep.unique && kind == "prefix", "unique"),
    ];
    let merit = merits.iter().find(|(has, _)| *has).map(|(_, merit)| *merit);
    let reason = match (kind, merit) {
        ("exact", Some(merit)) => format!("the other is {merit}"),
        ("exact", None) => "the other is older".to_owned(),
        (_, Some(merit)) => format!("the other begins with the same columns and is {merit}"),
        (_, None) => "the other begins with the same columns".to_owned(),
    };
    let larger = keep.bytes > 2 * index.bytes.max(1) && kind == "prefix";
    let clustered = index.clustered.then_some("this one is marked by CLUSTER").into_iter();
    let notes = clustered.chain(larger.then_some("which is more than twice as large: reading it costs more"));
    let reason = [reason.as_str()].into_iter().chain(notes).collect::<Vec<_>>().join("; ");
    let statement = match &index.constraint {
        _ if index.referenced || index.replica_identity => None,
        Some(constraint) => {
            let constraint = crate::maintenance::sql::ident(constraint);
            Some(format!("ALTER TABLE {} DROP CONSTRAINT {constraint};", index.table))
        }
        None if index.partitioned => Some(format!("DROP INDEX {};", index.name)),
        None => Some(format!("DROP INDEX CONCURRENTLY {};", index.name)),
    };
    DuplicateRow {
        name: index.name.clone(),
        table: index.table.clone(),
        bytes: index.bytes,
        kind: kind.to_owned(),
        keep: keep.name.clone(),
        reason,
        definition: index.definition.clone(),
        keep_definition: keep.definition.clone(),
        statement,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(oid: u32, keys: &[&str]) -> Definition {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        Definition {
            oid,
            table_oid: 1,
            name: format!("i{oid}"),
            table: "t".to_owned(),
            method: "btree".to_owned(),
            key_names: keys.clone(),
            keys,
            included: Vec::new(),
            predicate: String::new(),
            unique: false,
            nulls_not_distinct: false,
            immediate: true,
            valid: true,
            clustered: false,
            replica_identity: false,
            primary: false,
            constraint: None,
            referenced: false,
            attached: false,
            partitioned: false,
            bytes: 8192,
            definition: String::new(),
        }
    }

    #[test]
    fn what_is_the_same() {
        let one = index(1, &["a", "b"]);
        assert!(one.equals(&index(2, &["a", "b"])));
        for other in [
            index(2, &["b", "a"]),
            Definition { table_oid: 2, ..index(2, &["a", "b"]) },
            Definition { predicate: "(a > 0)".to_owned(), ..index(2, &["a", "b"]) },
            Definition { unique: true, ..index(2, &["a", "b"]) },
            Definition { method: "gist".to_owned(), ..index(2, &["a", "b"]) },
            Definition { included: vec!["c".to_owned()], ..index(2, &["a", "b"]) },
            Definition { immediate: false, ..index(2, &["a", "b"]) },
        ] {
            assert!(!one.equals(&other), "{other:?}");
        }
    }

    #[test]
    fn what_covers_what() {
        let long = index(1, &["a", "b"]);
        let partial = Definition { predicate: "(a > 0)".to_owned(), ..index(2, &["a"]) };
        let unique = Definition { unique: true, ..index(3, &["a"]) };
        let with_b = Definition { included: vec!["b".to_owned()], ..index(4, &["a"]) };
        let with_c = Definition { included: vec!["c".to_owned()], ..index(5, &["a"]) };
        assert!(index(6, &["a"]).is_covered_by(&long) && with_b.is_covered_by(&long));
        for other in [&partial, &unique, &with_c, &index(6, &["b"]), &index(6, &["a", "b"])] {
            assert!(!other.is_covered_by(&long), "{other:?}");
        }
        assert!(index(6, &["a"]).is_covered_by(&unique) && !unique.is_covered_by(&index(6, &["a"])));
        assert!(index(6, &["a"]).is_covered_by(&with_c) && !with_c.is_covered_by(&index(6, &["a"])));
        assert!(!long.is_covered_by(&partial));
    }

    #[test]
    fn what_is_kept() {
        let constraint = Definition { constraint: Some("c".to_owned()), ..index(9, &["a"]) };
        let primary = Definition { primary: true, constraint: Some("p".to_owned()), ..index(10, &["a"]) };
        let mut all = [index(5, &["a"]), constraint, index(3, &["a"]), primary];
        all.sort_by_key(worth);
        assert_eq!(all.map(|index| index.oid), [10, 9, 3, 5]);
    }
}
