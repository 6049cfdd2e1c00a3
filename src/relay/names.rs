//! The prepared statements of one client, by the names that it gave them.
//!
//! Changes count at once, because the client's next message may use them, and are taken back
//! if the server turns out to have skipped the message: `journal` holds what was before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::statement::{Dialect, Statement, intern};

/// What an entry takes besides name and text, in bytes, as far as limits are concerned.
const ENTRY_LEN: usize = 96;

/// A client's prepared statements. Most clients have none, and take no memory for them.
#[derive(Debug, Default)]
pub(crate) struct Names {
    inner: Option<Box<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Box<[u8]>, Arc<Statement>>,
    unnamed: Unnamed,
    /// The linked server's unnamed statement is what this client has made of it.
    is_unnamed_here: bool,
    /// Something that may take all names from the client was sent and is not answered yet.
    is_doubtful: bool,
    /// For each change that the server has not confirmed, oldest first.
    journal: VecDeque<Undo>,
    /// Bytes of all names and texts, here and in the journal.
    bytes: usize,
}

/// The client's unnamed statement.
#[derive(Debug, Default, Clone)]
pub(crate) enum Unnamed {
    #[default]
    None,
    /// On the linked server, as the client sent it: text and types.
    Raw(Vec<u8>),
    /// The same, too long to be remembered when the client parts from the server.
    Long,
    /// One of the pooler's statements stands for it.
    Shared(Arc<Statement>),
}

#[derive(Debug)]
enum Undo {
    Named { name: Box<[u8]>, before: Option<Arc<Statement>> },
    Unnamed { before: Unnamed },
}

fn entry_len(name: &[u8], statement: &Statement) -> usize {
    ENTRY_LEN + name.len() + statement.parse().len()
}

impl Undo {
    fn len(&self) -> usize {
        match self {
            Undo::Named { name, before: Some(statement) } => entry_len(name, statement),
            Undo::Named { name, before: None } => ENTRY_LEN + name.len(),
            Undo::Unnamed { before: Unnamed::Raw(body) } => ENTRY_LEN + body.len(),
            Undo::Unnamed { .. } => ENTRY_LEN,
        }
    }
}

impl Names {
    /// How many there are, the unnamed one not counted.
    pub(crate) fn len(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.known.len())
    }

    /// What they take, in bytes; a text that others have prepared too counts all the same.
    pub(crate) fn bytes(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.bytes)
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.inner.as_ref()?.known.get(name)
    }

    /// Whether `name` stands for a statement beyond doubt.
    pub(crate) fn is_taken(&self, name: &[u8]) -> bool {
        self.inner.as_ref().is_some_and(|inner| !inner.is_doubtful && inner.known.contains_key(name))
    }

    fn inner(&mut self) -> &mut Inner {
        self.inner.get_or_insert_default()
    }

    /// Parse: `name` is `statement` from now on.
    pub(crate) fn insert(&mut self, name: &[u8], statement: Arc<Statement>) {
        self.inner().change(name, Some(statement));
    }

    /// Close. False: there is no such name, and nothing is changed.
    pub(crate) fn remove(&mut self, name: &[u8]) -> bool {
        let Some(inner) = &mut self.inner else { return false };
        let is_known = inner.known.contains_key(name);
        if is_known {
            inner.change(name, None);
        }
        is_known
    }

    /// The same statement in another dialect. Nothing that the client has asked for, so nothing
    /// that is taken back.
    pub(crate) fn replace(&mut self, name: &[u8], statement: Arc<Statement>) {
        let inner = self.inner();
        if inner.known.contains_key(name) {
            inner.set(name, Some(statement));
        } else if name.is_empty() {
            inner.unnamed = Unnamed::Shared(statement);
        }
    }

    /// DEALLOCATE of one name, carried out by the pooler itself. False: there is no such name.
    pub(crate) fn deallocate(&mut self, name: &[u8]) -> bool {
        let Some(inner) = &mut self.inner else { return false };
        let is_known = inner.known.contains_key(name);
        inner.set(name, None);
        is_known
    }

    /// Parse or Close of the unnamed statement.
    pub(crate) fn set_unnamed(&mut self, unnamed: Unnamed) {
        let inner = self.inner();
        let before = std::mem::replace(&mut inner.unnamed, unnamed);
        inner.note(Undo::Unnamed { before });
    }

    /// A Query, which ends the unnamed statement.
    #[inline]
    pub(crate) fn drop_unnamed(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.unnamed = Unnamed::None;
        }
    }

    /// The unnamed statement as one of the pooler's. `None`: it is on the linked server, or there
    /// is none.
    pub(crate) fn shared_unnamed(&mut self, dialect: Dialect) -> Option<Arc<Statement>> {
        let inner = self.inner.as_mut()?;
        let statement = match &inner.unnamed {
            Unnamed::Shared(statement) => return Some(Arc::clone(statement)),
            Unnamed::Raw(body) if !inner.is_unnamed_here => intern(body, dialect),
            Unnamed::Raw(_) | Unnamed::Long | Unnamed::None => return None,
        };
        inner.unnamed = Unnamed::Shared(Arc::clone(&statement));
        Some(statement)
    }

    pub(crate) fn is_unnamed_here(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.is_unnamed_here)
    }

    pub(crate) fn set_unnamed_here(&mut self) {
        self.inner().is_unnamed_here = true;
    }

    /// Something was sent that may take all names.
    pub(crate) fn distrust(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.is_doubtful = true;
        }
    }

    /// Everything was answered.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.is_doubtful = false;
        }
    }

    /// The server has carried out the oldest change.
    pub(crate) fn confirm(&mut self) {
        if let Some(inner) = &mut self.inner
            && let Some(undo) = inner.journal.pop_front()
        {
            inner.bytes -= undo.len();
        }
    }

    /// The server has skipped the oldest `n` changes.
    pub(crate) fn undo(&mut self, n: usize) {
        let Some(inner) = &mut self.inner else { return };
        let n = n.min(inner.journal.len());
        let skipped: Vec<Undo> = inner.journal.drain(..n).collect();
        for undo in skipped.into_iter().rev() {
            inner.bytes -= undo.len();
            inner.take_back(undo);
        }
    }

    /// The Parse of the unnamed statement has failed: there is none, but for what was sent later.
    pub(crate) fn lose_unnamed(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.take_back(Undo::Unnamed { before: Unnamed::None });
        }
    }

    /// DEALLOCATE ALL or DISCARD ALL was carried out; what the client has named since stays.
    pub(crate) fn clear(&mut self) {
        let Some(inner) = &mut self.inner else { return };
        let names: Vec<Box<[u8]>> = inner.known.keys().cloned().collect();
        for name in names {
            inner.take_back(Undo::Named { name, before: None });
        }
    }

    /// The client parts from its server.
    pub(crate) fn part(&mut self) {
        let Some(inner) = &mut self.inner else { return };
        inner.is_unnamed_here = false;
        if matches!(inner.unnamed, Unnamed::Long) {
            inner.unnamed = Unnamed::None;
        }
    }
}

impl Inner {
    fn change(&mut self, name: &[u8], statement: Option<Arc<Statement>>) {
        let before = self.set(name, statement);
        self.note(Undo::Named { name: name.into(), before });
    }

    fn note(&mut self, undo: Undo) {
        self.bytes += undo.len();
        self.journal.push_back(undo);
    }

    fn set(&mut self, name: &[u8], statement: Option<Arc<Statement>>) -> Option<Arc<Statement>> {
        self.bytes += statement.as_ref().map_or(0, |statement| entry_len(name, statement));
        let before = match statement {
            Some(statement) => self.known.insert(name.into(), statement),
            None => self.known.remove(name),
        };
        self.bytes -= before.as_ref().map_or(0, |statement| entry_len(name, statement));
        before
    }

    /// As if the change had never been. A later change of the same name stays, but what was
    /// before it is now what was before this one.
    fn take_back(&mut self, undo: Undo) {
        match undo {
            Undo::Named { name, before } => {
                let later = self.journal.iter_mut().find(|u| matches!(u, Undo::Named { name: n, .. } if *n == name));
                let Some(later) = later else {
                    self.set(&name, before);
                    return;
                };
                self.bytes -= later.len();
                *later = Undo::Named { name, before };
                self.bytes += later.len();
            }
            Undo::Unnamed { before } => {
                let later = self.journal.iter_mut().find(|u| matches!(u, Undo::Unnamed { .. }));
                let Some(later) = later else {
                    self.unnamed = before;
                    return;
                };
                self.bytes -= later.len();
                *later = Undo::Unnamed { before };
                self.bytes += later.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(text: &str) -> Arc<Statement> {
        intern(format!("names {text}\0\0\0").as_bytes(), Dialect(1))
    }

    fn ids(names: &Names) -> Vec<Option<u64>> {
        [b"x", b"y"].map(|name| names.get(name).map(|s| s.id)).to_vec()
    }

    #[test]
    fn changes_count_at_once_and_can_be_taken_back() {
        let (a, b) = (statement("a"), statement("b"));
        let mut names = Names::default();
        names.insert(b"x", Arc::clone(&a));
        names.confirm();
        let bytes = names.bytes();
        assert!(names.remove(b"x") && !names.remove(b"x"));
        names.insert(b"x", Arc::clone(&b));
        names.insert(b"y", Arc::clone(&b));
        assert_eq!(ids(&names), [Some(b.id), Some(b.id)]);
        names.undo(3);
        assert_eq!((ids(&names), names.bytes()), (vec![Some(a.id), None], bytes));
    }

    #[test]
    fn what_came_later_outlives_what_is_taken_back() {
        let (a, b) = (statement("a"), statement("b"));
        let mut names = Names::default();
        names.insert(b"x", Arc::clone(&a));
        names.remove(b"x");
        names.insert(b"x", Arc::clone(&b));
        // The first Parse was skipped; what came behind was not.
        names.undo(1);
        assert_eq!(ids(&names)[0], Some(b.id));
        names.undo(2);
        assert_eq!((ids(&names)[0], names.bytes()), (None, 0));
    }

    #[test]
    fn clearing_spares_what_is_named_later() {
        let (a, b) = (statement("a"), statement("b"));
        let mut names = Names::default();
        names.insert(b"x", Arc::clone(&a));
        names.insert(b"y", Arc::clone(&a));
        names.confirm();
        names.confirm();
        names.insert(b"y", Arc::clone(&b));
        names.clear();
        assert_eq!(ids(&names), [None, Some(b.id)]);
        // And if that fails, nothing is left of it.
        names.undo(1);
        assert_eq!((ids(&names), names.bytes()), (vec![None, None], 0));
    }

    #[test]
    fn the_unnamed_statement_is_remembered() {
        let mut names = Names::default();
        let raw = || Unnamed::Raw(b"names unnamed\0\0\0".to_vec());
        names.set_unnamed(raw());
        names.set_unnamed_here();
        names.confirm();
        assert!(names.shared_unnamed(Dialect(1)).is_none());
        names.part();
        let shared = names.shared_unnamed(Dialect(1)).unwrap();
        assert_eq!(shared.body(), b"names unnamed\0\0\0");

        names.set_unnamed(Unnamed::Long);
        names.set_unnamed_here();
        names.undo(1);
        assert!(names.shared_unnamed(Dialect(1)).is_some());
        names.set_unnamed(raw());
        names.undo(1);
        names.lose_unnamed();
        assert!(matches!(names.inner().unnamed, Unnamed::None));
        names.set_unnamed(Unnamed::Long);
        names.confirm();
        names.part();
        assert_eq!((names.shared_unnamed(Dialect(1)).is_none(), names.bytes()), (true, 0));
    }
}
