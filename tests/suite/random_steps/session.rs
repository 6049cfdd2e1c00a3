//! What a session keeps from one message to the next, and what a rollback takes back of it.

use std::collections::BTreeMap;

use super::sql::Sql;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Transaction {
    None,
    Block,
    Failed,
}

impl Transaction {
    /// As ReadyForQuery tells it.
    pub(super) fn status(self) -> u8 {
        match self {
            Transaction::None => b'I',
            Transaction::Block => b'T',
            Transaction::Failed => b'E',
        }
    }
}

pub(super) struct Statement {
    pub(super) sql: Sql,
    /// Number of the transaction that made it.
    made_in: u64,
}

/// A value that a rollback takes back.
#[derive(Clone, Debug)]
pub(super) struct Kept<T> {
    pub(super) now: T,
    committed: T,
}

impl<T: Clone> Kept<T> {
    fn new(value: T) -> Kept<T> {
        Kept { now: value.clone(), committed: value }
    }

    fn commit(&mut self) {
        self.committed = self.now.clone();
    }

    fn roll_back(&mut self) {
        self.now = self.committed.clone();
    }
}

/// Parameters that the server reports when they change.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    session: Kept<BTreeMap<&'static str, String>>,
    /// Of SET LOCAL.
    local: BTreeMap<&'static str, String>,
    at_login: BTreeMap<&'static str, String>,
}

pub(super) const SETTINGS: [&str; 2] = ["application_name", "TimeZone"];

impl Settings {
    pub(super) fn get(&self, name: &str) -> &str {
        self.local.get(name).unwrap_or(&self.session.now[name])
    }

    pub(super) fn values(&self) -> Vec<String> {
        SETTINGS.iter().map(|name| self.get(name).to_owned()).collect()
    }

    fn set(&mut self, name: &'static str, value: &str, local: bool) {
        self.local.remove(name);
        let level = if local { &mut self.local } else { &mut self.session.now };
        level.insert(name, value.to_owned());
    }
}

pub(super) struct Session {
    pub(super) transaction: Transaction,
    /// How many have ended.
    pub(super) transactions: u64,
    /// The unnamed one included; those of SQL's PREPARE too, with which they share their names.
    pub(super) statements: BTreeMap<String, Statement>,
    pub(super) settings: Settings,
    /// How many rows of the ledger are this session's.
    pub(super) rows: Kept<i64>,
}

impl Session {
    pub(super) fn new(application_name: &str, timezone: &str) -> Session {
        let at_login: BTreeMap<_, _> =
            SETTINGS.into_iter().zip([application_name.to_owned(), timezone.to_owned()]).collect();
        Session {
            transaction: Transaction::None,
            transactions: 0,
            statements: BTreeMap::new(),
            settings: Settings { session: Kept::new(at_login.clone()), local: BTreeMap::new(), at_login },
            rows: Kept::new(0),
        }
    }

    pub(super) fn store(&mut self, name: String, sql: Sql) {
        self.statements.insert(name, Statement { sql, made_in: self.transactions });
    }

    /// Whether the unnamed statement was made in the current transaction.
    pub(super) fn unnamed_is_fresh(&self) -> bool {
        self.statements.get("").is_some_and(|statement| statement.made_in == self.transactions)
    }

    pub(super) fn commit(&mut self) {
        self.rows.commit();
        self.settings.local.clear();
        self.settings.session.commit();
    }

    pub(super) fn roll_back(&mut self) {
        self.rows.roll_back();
        self.settings.local.clear();
        self.settings.session.roll_back();
    }

    /// What `sql`, which is no transaction's beginning or end, has done when it completes with `tag`.
    pub(super) fn apply(&mut self, sql: &Sql, tag: &str) {
        let count = || tag.rsplit(' ').next().and_then(|word| word.parse::<i64>().ok()).unwrap_or_default();
        match sql {
            Sql::Insert { .. } | Sql::CopyIn => self.rows.now += count(),
            Sql::Delete { .. } => self.rows.now -= count(),
            Sql::Set { name, value, local } => self.settings.set(name, value, *local),
            Sql::Prepare { name, k } => self.store(name.clone(), Sql::Add { k: *k, owner: None }),
            Sql::Deallocate(name) => {
                self.statements.remove(name);
            }
            Sql::DeallocateAll => self.statements.retain(|name, _| name.is_empty()),
            Sql::DiscardAll => {
                self.statements.clear();
                self.settings.session.now = self.settings.at_login.clone();
            }
            _ => {}
        }
    }
}
