//! What a statement is, as far as running it depends on that: known by its words.

use super::script::Statement;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    /// BEGIN, START TRANSACTION
    Begin,
    /// COMMIT, END
    Commit,
    /// Anything else that ends or parks a transaction.
    Ending,
    /// The server refuses it inside a transaction; what it is called.
    Outside(&'static str),
    /// CALL and DO may commit by themselves, if nobody else has begun a transaction.
    Routine,
    /// COPY FROM STDIN: the rows would have to follow in the file.
    CopyIn,
}

impl Statement {
    pub(super) fn kind(&self) -> Kind {
        let first = self.words.first().map_or("", |word| word.text.as_str());
        let second = self.words.get(1).map_or("", |word| word.text.as_str());
        match (first, second) {
            ("BEGIN", _) | ("START", "TRANSACTION") => Kind::Begin,
            ("COMMIT", "PREPARED") | ("PREPARE", "TRANSACTION") => Kind::Ending,
            ("COMMIT" | "END", _) => Kind::Commit,
            // To a savepoint, which the transaction survives.
            ("ROLLBACK", _) if self.has("TO") => Kind::Ordinary,
            ("ROLLBACK" | "ABORT", _) => Kind::Ending,
            ("CALL" | "DO", _) => Kind::Routine,
            ("COPY", _) if self.words.windows(2).any(|two| two[0].text == "FROM" && two[1].text == "STDIN") => {
                Kind::CopyIn
            }
            _ => self.outside().map_or(Kind::Ordinary, Kind::Outside),
        }
    }

    fn outside(&self) -> Option<&'static str> {
        // REINDEX takes it in parentheses, too.
        let is_concurrent = || self.words.iter().any(|word| word.text == "CONCURRENTLY");
        let begins = |words: &[&str]| self.begins(words);
        Some(match () {
            () if begins(&["VACUUM"]) => "VACUUM",
            () if (begins(&["CREATE", "INDEX"]) || begins(&["CREATE", "UNIQUE", "INDEX"])) && is_concurrent() => {
                "CREATE INDEX CONCURRENTLY"
            }
            () if begins(&["DROP", "INDEX", "CONCURRENTLY"]) => "DROP INDEX CONCURRENTLY",
            () if begins(&["REINDEX"]) && is_concurrent() => "REINDEX CONCURRENTLY",
            () if begins(&["REINDEX"]) && ["DATABASE", "SYSTEM", "SCHEMA"].iter().any(|word| self.has(word)) => {
                "REINDEX of many tables"
            }
            () if begins(&["CREATE", "DATABASE"]) => "CREATE DATABASE",
            () if begins(&["DROP", "DATABASE"]) => "DROP DATABASE",
            () if begins(&["ALTER", "DATABASE"]) && self.has("TABLESPACE") => "ALTER DATABASE SET TABLESPACE",
            () if begins(&["CREATE", "TABLESPACE"]) => "CREATE TABLESPACE",
            () if begins(&["DROP", "TABLESPACE"]) => "DROP TABLESPACE",
            () if begins(&["ALTER", "SYSTEM"]) => "ALTER SYSTEM",
            () if begins(&["CREATE", "SUBSCRIPTION"]) => "CREATE SUBSCRIPTION",
            () if begins(&["ALTER", "SUBSCRIPTION"]) => "ALTER SUBSCRIPTION",
            () if begins(&["DROP", "SUBSCRIPTION"]) => "DROP SUBSCRIPTION",
            () if begins(&["ALTER", "TABLE"]) && self.has("DETACH") && self.has("CONCURRENTLY") => {
                "DETACH PARTITION CONCURRENTLY"
            }
            () if begins(&["CLUSTER"]) && self.words.iter().skip(1).all(|word| word.text == "VERBOSE") => {
                "CLUSTER of all tables"
            }
            () if begins(&["DISCARD", "ALL"]) => "DISCARD ALL",
            () => return None,
        })
    }

    /// Whether rows or columns are gone for good when it is done.
    pub(super) fn destroys_data(&self) -> bool {
        const HOLDERS: [&str; 7] = ["TABLE", "SCHEMA", "DATABASE", "MATERIALIZED", "OWNED", "EXTENSION", "TYPE"];
        let second = self.words.get(1).map_or("", |word| word.text.as_str());
        let drops = self.begins(&["DROP"]) && HOLDERS.contains(&second);
        let deletes_all = self.begins(&["DELETE"]) && !self.has("WHERE");
        drops || self.begins(&["TRUNCATE"]) || deletes_all || self.begins(&["ALTER", "TABLE"]) && self.drops_column()
    }

    /// DROP of a part of a table other than what holds no rows.
    fn drops_column(&self) -> bool {
        const HARMLESS: [&str; 6] = ["CONSTRAINT", "DEFAULT", "NOT", "IDENTITY", "EXPRESSION", "RULE"];
        let words: Vec<&str> =
            self.words.iter().filter(|word| word.depth == 0).map(|word| word.text.as_str()).collect();
        words.windows(2).any(|two| two[0] == "DROP" && !HARMLESS.contains(&two[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::split;
    use super::*;

    fn one(text: &str) -> Statement {
        split(text, false).unwrap().remove(0)
    }

    #[test]
    fn kinds() {
        for (text, kind) in [
            ("begin isolation level serializable", Kind::Begin),
            ("start transaction", Kind::Begin),
            ("commit", Kind::Commit),
            ("end", Kind::Commit),
            ("rollback", Kind::Ending),
            ("rollback to savepoint a", Kind::Ordinary),
            ("prepare transaction 'x'", Kind::Ending),
            ("commit prepared 'x'", Kind::Ending),
            ("prepare x as select 1", Kind::Ordinary),
            ("call p()", Kind::Routine),
            ("copy t (a) from stdin", Kind::CopyIn),
            ("copy t from '/x'", Kind::Ordinary),
            ("copy t to stdout", Kind::Ordinary),
            ("create index concurrently on t (a)", Kind::Outside("CREATE INDEX CONCURRENTLY")),
            ("create unique index concurrently if not exists i on t (a)", Kind::Outside("CREATE INDEX CONCURRENTLY")),
            ("create index i on t (a)", Kind::Ordinary),
            ("drop index concurrently i", Kind::Outside("DROP INDEX CONCURRENTLY")),
            ("reindex (verbose, concurrently) table t", Kind::Outside("REINDEX CONCURRENTLY")),
            ("reindex table t", Kind::Ordinary),
            ("reindex schema s", Kind::Outside("REINDEX of many tables")),
            ("vacuum full t", Kind::Outside("VACUUM")),
            ("alter table p detach partition q concurrently", Kind::Outside("DETACH PARTITION CONCURRENTLY")),
            ("alter database d set work_mem = 1", Kind::Ordinary),
            ("cluster verbose", Kind::Outside("CLUSTER of all tables")),
            ("cluster t", Kind::Ordinary),
            ("alter system set work_mem = 1", Kind::Outside("ALTER SYSTEM")),
        ] {
            assert_eq!(one(text).kind(), kind, "{text}");
        }
    }

    #[test]
    fn data_that_goes() {
        for text in [
            "drop table t",
            "drop schema s cascade",
            "truncate t",
            "delete from t",
            "alter table t add a int, drop column b",
            "alter table t drop b",
            "drop materialized view v",
        ] {
            assert!(one(text).destroys_data(), "{text}");
        }
        for text in [
            "drop index i",
            "drop view v",
            "delete from t where a = 1",
            "alter table t drop constraint c, alter a drop not null, alter b drop default",
            "alter table t add check (\"drop\" > (drop))",
            "create table t (a int)",
            "alter table \"drop\" add column b int",
        ] {
            assert!(!one(text).destroys_data(), "{text}");
        }
    }
}
