//! What a run is asked to do.

use std::collections::BTreeSet;
use std::str::FromStr;

/// A kind of step that can be left out with `PGWEIR_WITHOUT=name,name`, because a pooler does not
/// claim to do it or to narrow a failure down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Named statements by protocol.
    Named,
    /// Named statements where something fails: in the same pipeline, in a failed transaction.
    NamedAmongErrors,
    /// That a Parse is refused in a failed transaction. Left out, a pooler that has the statement
    /// already may answer for the server, and leave the refusal to the Bind.
    ParseInFailed,
    /// Close of named statements.
    CloseNamed,
    /// More statements than the pooler may keep on a server.
    Eviction,
    /// Parse of a name that exists; Bind, Describe of one that does not.
    Misnamed,
    /// Bind of the unnamed statement in a later transaction than its Parse.
    UnnamedLater,
    /// Bind of the unnamed statement when there is none.
    UnnamedGone,
    /// PREPARE and EXECUTE by SQL, in different transactions.
    SqlPrepare,
    /// DEALLOCATE of a statement that a Parse has named.
    Deallocate,
    DeallocateAll,
    /// DEALLOCATE ALL with more behind it in the same pipeline.
    DeallocateInPipeline,
    DiscardAll,
    /// A Query or FunctionCall that the server discards, skipping to a Sync.
    QueryWhileSkipping,
    /// A Query or FunctionCall in a pipeline that no Sync has ended.
    QueryWhileOpen,
    /// Flush and Sync within the data of a COPY.
    SyncInCopy,
    Copy,
    Large,
    Cancel,
    Disconnect,
    Kill,
    /// The pooler's query_timeout.
    QueryTimeout,
}

const NAMES: [(&str, Class); 22] = [
    ("named", Class::Named),
    ("named_among_errors", Class::NamedAmongErrors),
    ("parse_in_failed", Class::ParseInFailed),
    ("close_named", Class::CloseNamed),
    ("eviction", Class::Eviction),
    ("misnamed", Class::Misnamed),
    ("unnamed_later", Class::UnnamedLater),
    ("unnamed_gone", Class::UnnamedGone),
    ("sql_prepare", Class::SqlPrepare),
    ("deallocate", Class::Deallocate),
    ("deallocate_all", Class::DeallocateAll),
    ("deallocate_in_pipeline", Class::DeallocateInPipeline),
    ("discard_all", Class::DiscardAll),
    ("query_while_skipping", Class::QueryWhileSkipping),
    ("query_while_open", Class::QueryWhileOpen),
    ("sync_in_copy", Class::SyncInCopy),
    ("copy", Class::Copy),
    ("large", Class::Large),
    ("cancel", Class::Cancel),
    ("disconnect", Class::Disconnect),
    ("kill", Class::Kill),
    ("query_timeout", Class::QueryTimeout),
];

/// PgBouncer takes a Parse for done whatever the server says, mixes up replies when it evicts or
/// closes a statement amidst a pipeline, loses the statements of others to a DEALLOCATE ALL, closes
/// the connection of whoever misnames a statement, does not follow the unnamed statement from server
/// to server nor PREPARE by SQL, loses count of a Sync within a COPY and of a Query that the server
/// skips, and resets parameters to the server's.
const BEYOND_PGBOUNCER: &str = "named_among_errors,close_named,eviction,misnamed,unnamed_later,unnamed_gone,\
                                sql_prepare,deallocate,deallocate_all,deallocate_in_pipeline,discard_all,sync_in_copy,query_while_skipping";

/// pgweir ends the session where it cannot tell which of several Syncs in a COPY that failed the server
/// has answered. What stands behind a DEALLOCATE ALL in the same pipeline may still use the names of before.
const BEYOND_PGWEIR: &str = "deallocate_in_pipeline,sync_in_copy";

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) steps: u64,
    pub(super) clients: u32,
    without: BTreeSet<Class>,
}

/// An environment variable's value, if it is set.
fn variable<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

/// Of the system's own randomness.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) % 1_000_000_000
}

fn classes(names: &str) -> BTreeSet<Class> {
    let named = |name: &str| NAMES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("class {name}")).1;
    names.split(',').filter(|name| !name.is_empty()).map(named).collect()
}

impl Options {
    /// `PGWEIR_STEPS`, `PGWEIR_SEED`, `PGWEIR_CLIENTS`, `PGWEIR_WITHOUT`, where they are set.
    pub(super) fn from_environment(steps: u64, without: &str) -> Options {
        Options {
            seed: variable("PGWEIR_SEED").unwrap_or_else(fresh_seed),
            steps: variable("PGWEIR_STEPS").unwrap_or(steps),
            clients: variable("PGWEIR_CLIENTS").unwrap_or(24),
            without: classes(&variable("PGWEIR_WITHOUT").unwrap_or(without.to_owned())),
        }
    }

    /// What the pooler under test is not asked for by default.
    pub(super) fn beyond_the_pooler(is_pgbouncer: bool) -> &'static str {
        if is_pgbouncer { BEYOND_PGBOUNCER } else { BEYOND_PGWEIR }
    }

    pub(super) fn allow(&self, class: Class) -> bool {
        !self.without.contains(&class)
    }

    /// What repeats this run.
    pub(super) fn replay(&self) -> String {
        let without: Vec<&str> =
            NAMES.iter().filter(|(_, class)| self.without.contains(class)).map(|(name, _)| *name).collect();
        let without = if without.is_empty() { String::new() } else { format!(" PGWEIR_WITHOUT={}", without.join(",")) };
        format!("PGWEIR_SEED={} PGWEIR_STEPS={} PGWEIR_CLIENTS={}{without}", self.seed, self.steps, self.clients)
    }
}
