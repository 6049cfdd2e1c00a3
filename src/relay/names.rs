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
    unnamed: UnnamedState,
    /// Something that may take all names from the client was sent and is not answered yet.
    is_doubtful: bool,
    /// For each change that the server has not confirmed, oldest first.
    journal: VecDeque<Change>,
    /// Bytes of all names and texts, here and in the journal.
    bytes: usize,
}

#[derive(Debug, Default)]
struct UnnamedState {
    means: Unnamed,
    /// The linked server's unnamed statement is what this client has made of it.
    is_here: bool,
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

/// Settled names, as another process goes on with them.
#[derive(Debug)]
pub(crate) struct NamesParts {
    pub(crate) known: Vec<(Box<[u8]>, Arc<Statement>)>,
    pub(crate) unnamed: Unnamed,
    /// The linked server's unnamed statement is what this client has made of it.
    pub(crate) is_unnamed_here: bool,
}

/// A change that the server has not confirmed.
#[derive(Debug)]
struct Change {
    /// The group of the message: what stands between two Syncs is skipped together.
    group: u64,
    undo: Undo,
}

#[derive(Debug)]
enum Undo {
    Named { name: Box<[u8]>, before: Option<Arc<Statement>> },
    Unnamed { before: UnnamedState },
}

fn entry_len(name: &[u8], statement: &Statement) -> usize {
    ENTRY_LEN + name.len() + statement.parse().len()
}

impl Undo {
    /// Empty for the unnamed statement.
    fn name(&self) -> &[u8] {
        match self {
            Undo::Named { name, .. } => name,
            Undo::Unnamed { .. } => b"",
        }
    }

    fn len(&self) -> usize {
        match self {
            Undo::Named { name, before: Some(statement) } => entry_len(name, statement),
            Undo::Named { name, before: None } => ENTRY_LEN + name.len(),
            Undo::Unnamed { before: UnnamedState { means: Unnamed::Raw(body), .. } } => ENTRY_LEN + body.len(),
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

    /// What `name` stands for in `group` depends on the answer to an earlier group, which may be
    /// skipped.
    #[inline]
    pub(crate) fn is_unsettled(&self, name: &[u8], group: u64) -> bool {
        let Some(inner) = &self.inner else { return false };
        if inner.journal.front().is_none_or(|oldest| oldest.group == group) {
            return false;
        }
        inner.journal.iter().rev().find(|change| change.undo.name() == name).is_some_and(|last| last.group != group)
    }

    fn inner(&mut self) -> &mut Inner {
        self.inner.get_or_insert_default()
    }

    /// Parse: `name` is `statement` from now on.
    pub(crate) fn insert(&mut self, name: &[u8], statement: Arc<Statement>, group: u64) {
        self.inner().change(name, Some(statement), group);
    }

    /// Close. False: there is no such name, and nothing is changed.
    pub(crate) fn remove(&mut self, name: &[u8], group: u64) -> bool {
        let Some(inner) = &mut self.inner else { return false };
        let is_known = inner.known.contains_key(name);
        if is_known {
            inner.change(name, None, group);
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
            inner.unnamed.means = Unnamed::Shared(statement);
        }
    }

    /// The client has been told that a statement's result has another type now: its names for it mean the
    /// text as it is prepared from now on.
    pub(crate) fn renew(&mut self, id: u64) {
        let Some(inner) = &mut self.inner else { return };
        let is_it = |statement: &Arc<Statement>| statement.id == id;
        let renewed = |old: &Arc<Statement>| {
            old.retire();
            intern(old.body(), old.dialect)
        };
        let names: Vec<Box<[u8]>> = inner.known.iter().filter(|(_, s)| is_it(s)).map(|(n, _)| n.clone()).collect();
        for name in names {
            let new = inner.known.get(&name).map(renewed);
            inner.set(&name, new);
        }
        if let Unnamed::Shared(old) = &mut inner.unnamed.means
            && is_it(old)
        {
            *old = renewed(old);
        }
    }

    /// DEALLOCATE of one name, carried out by the pooler itself. False: there is no such name.
    pub(crate) fn deallocate(&mut self, name: &[u8]) -> bool {
        let Some(inner) = &mut self.inner else { return false };
        let is_known = inner.known.contains_key(name);
        inner.set(name, None);
        is_known
    }

    /// Parse or Close of the unnamed statement, which the server gets too unless it is shared.
    pub(crate) fn set_unnamed(&mut self, means: Unnamed, group: u64) {
        let inner = self.inner();
        let is_here = inner.unnamed.is_here || !matches!(means, Unnamed::Shared(_));
        let before = std::mem::replace(&mut inner.unnamed, UnnamedState { means, is_here });
        inner.note(Undo::Unnamed { before }, group);
    }

    /// A Query, which ends the unnamed statement.
    #[inline]
    pub(crate) fn drop_unnamed(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.unnamed.means = Unnamed::None;
        }
    }

    /// The unnamed statement as one of the pooler's. `None`: it is on the linked server, or there
    /// is none.
    pub(crate) fn shared_unnamed(&mut self, dialect: Dialect) -> Option<Arc<Statement>> {
        let inner = self.inner.as_mut()?;
        let statement = match &inner.unnamed.means {
            Unnamed::Shared(statement) => return Some(Arc::clone(statement)),
            Unnamed::Raw(body) if !inner.unnamed.is_here => intern(body, dialect),
            Unnamed::Raw(_) | Unnamed::Long | Unnamed::None => return None,
        };
        inner.unnamed.means = Unnamed::Shared(Arc::clone(&statement));
        Some(statement)
    }

    pub(crate) fn is_unnamed_here(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.unnamed.is_here)
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
            && let Some(change) = inner.journal.pop_front()
        {
            inner.bytes -= change.undo.len();
        }
    }

    /// The server has skipped the oldest `n` changes.
    pub(crate) fn undo(&mut self, n: usize) {
        let Some(inner) = &mut self.inner else { return };
        let n = n.min(inner.journal.len());
        let skipped: Vec<Undo> = inner.journal.drain(..n).map(|change| change.undo).collect();
        inner.bytes -= skipped.iter().map(Undo::len).sum::<usize>();
        inner.take_back(skipped);
    }

    /// The Parse of the unnamed statement has failed: there is none, but for what was sent later.
    pub(crate) fn lose_unnamed(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.take_back([Undo::Unnamed { before: UnnamedState { means: Unnamed::None, is_here: true } }]);
        }
    }

    /// DEALLOCATE ALL or DISCARD ALL was carried out; what the client has named since stays.
    pub(crate) fn clear(&mut self) {
        let Some(inner) = &mut self.inner else { return };
        let names: Vec<Box<[u8]>> = inner.known.keys().cloned().collect();
        inner.take_back(names.into_iter().map(|name| Undo::Named { name, before: None }));
    }

    /// The server has confirmed all of it.
    pub(crate) fn is_settled(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.journal.is_empty())
    }

    /// `None`: the server has yet to confirm some of it.
    pub(crate) fn parts(&self) -> Option<NamesParts> {
        let Some(inner) = &self.inner else {
            return Some(NamesParts { known: Vec::new(), unnamed: Unnamed::None, is_unnamed_here: false });
        };
        let known = inner.known.iter().map(|(name, statement)| (name.clone(), Arc::clone(statement))).collect();
        let UnnamedState { means, is_here } = &inner.unnamed;
        let parts = NamesParts { known, unnamed: means.clone(), is_unnamed_here: *is_here };
        self.is_settled().then_some(parts)
    }

    pub(crate) fn from_parts(parts: NamesParts) -> Names {
        let NamesParts { known, unnamed, is_unnamed_here } = parts;
        let mut names = Names::default();
        if known.is_empty() && matches!(unnamed, Unnamed::None) && !is_unnamed_here {
            return names;
        }
        let inner = names.inner();
        for (name, statement) in known {
            inner.set(&name, Some(statement));
        }
        inner.unnamed = UnnamedState { means: unnamed, is_here: is_unnamed_here };
        names
    }

    /// The client parts from its server.
    pub(crate) fn part(&mut self) {
        let Some(inner) = &mut self.inner else { return };
        inner.unnamed.is_here = false;
        if matches!(inner.unnamed.means, Unnamed::Long) {
            inner.unnamed.means = Unnamed::None;
        }
    }
}

impl Inner {
    fn change(&mut self, name: &[u8], statement: Option<Arc<Statement>>, group: u64) {
        let before = self.set(name, statement);
        self.note(Undo::Named { name: name.into(), before }, group);
    }

    fn note(&mut self, undo: Undo, group: u64) {
        self.bytes += undo.len();
        self.journal.push_back(Change { group, undo });
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

    /// As if the changes, in their order, had never been. A later change of the same name stays, but
    /// what was before it is now what was before these.
    fn take_back(&mut self, changes: impl IntoIterator<Item = Undo>) {
        let mut undone: HashMap<Box<[u8]>, Undo> = HashMap::new();
        for undo in changes {
            undone.entry(undo.name().into()).or_insert(undo);
        }
        for later in self.journal.iter_mut().map(|change| &mut change.undo) {
            if undone.is_empty() {
                return;
            }
            if let Some(undo) = undone.remove(later.name()) {
                self.bytes -= later.len();
                *later = undo;
                self.bytes += later.len();
            }
        }
        for undo in undone.into_values() {
            match undo {
                Undo::Named { name, before } => drop(self.set(&name, before)),
                Undo::Unnamed { before } => self.unnamed = before,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(text: &str) -> Arc<Statement> {
        intern(format!("names {text}\0\0\0").as_bytes(), Dialect { pool: 1, settings: 1 })
    }

    fn ids(names: &Names) -> Vec<Option<u64>> {
        [b"x", b"y"].map(|name| names.get(name).map(|s| s.id)).to_vec()
    }

    #[test]
    fn changes_count_at_once_and_can_be_taken_back() {
        let (a, b) = (statement("a"), statement("b"));
        let mut names = Names::default();
        names.insert(b"x", Arc::clone(&a), 1);
        names.confirm();
        let bytes = names.bytes();
        assert!(names.remove(b"x", 1) && !names.remove(b"x", 1));
        names.insert(b"x", Arc::clone(&b), 1);
        names.insert(b"y", Arc::clone(&b), 1);
        assert_eq!(ids(&names), [Some(b.id), Some(b.id)]);
        names.undo(3);
        assert_eq!((ids(&names), names.bytes()), (vec![Some(a.id), None], bytes));
    }

    #[test]
    fn what_came_later_outlives_what_is_taken_back() {
        let (a, b) = (statement("a"), statement("b"));
        let mut names = Names::default();
        names.insert(b"x", Arc::clone(&a), 1);
        names.remove(b"x", 1);
        names.insert(b"x", Arc::clone(&b), 1);
        // The first Parse was skipped; what came behind was not.
        names.undo(1);
        assert_eq!(ids(&names)[0], Some(b.id));
        names.undo(2);
        assert_eq!((ids(&names)[0], names.bytes()), (None, 0));
    }

    #[test]
    fn only_settled_names_have_parts_which_make_the_same_again() {
        let a = statement("a");
        let mut names = Names::default();
        names.insert(b"x", Arc::clone(&a), 1);
        assert!(names.parts().is_none());
        names.confirm();
        names.set_unnamed(Unnamed::Raw(b"raw".to_vec()), 1);
        names.confirm();
        let again = Names::from_parts(names.parts().unwrap());
        assert_eq!((ids(&again), again.bytes()), (ids(&names), names.bytes()));
        assert!(again.is_unnamed_here());
        assert_eq!(Names::from_parts(Names::default().parts().unwrap()).len(), 0);
    }

    #[test]
    fn a_name_is_unsettled_when_an_earlier_group_has_changed_it_last() {
        let a = statement("a");
        let mut names = Names::default();
        assert!(!names.is_unsettled(b"x", 1));
        names.insert(b"x", Arc::clone(&a), 1);
        names.insert(b"y", Arc::clone(&a), 1);
        names.set_unnamed(Unnamed::None, 1);
        assert!(!names.is_unsettled(b"x", 1));
        assert!(names.is_unsettled(b"x", 2) && names.is_unsettled(b"", 2) && !names.is_unsettled(b"z", 2));
        names.remove(b"x", 2);
        names.set_unnamed(Unnamed::None, 2);
        assert!(!names.is_unsettled(b"x", 2) && names.is_unsettled(b"y", 2) && !names.is_unsettled(b"", 2));
        (0..3).for_each(|_| names.confirm());
        assert!(!names.is_unsettled(b"y", 2) && names.is_unsettled(b"x", 3));
    }

    #[test]
    fn clearing_spares_what_is_named_later() {
        let (a, b) = (statement("a"), statement("b"));
        let mut names = Names::default();
        names.insert(b"x", Arc::clone(&a), 1);
        names.insert(b"y", Arc::clone(&a), 1);
        names.confirm();
        names.confirm();
        names.insert(b"y", Arc::clone(&b), 1);
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
        names.set_unnamed(raw(), 1);
        names.confirm();
        assert!(names.shared_unnamed(Dialect { pool: 1, settings: 1 }).is_none());
        names.part();
        let shared = names.shared_unnamed(Dialect { pool: 1, settings: 1 }).unwrap();
        assert_eq!(shared.body(), b"names unnamed\0\0\0");

        names.set_unnamed(Unnamed::Long, 1);
        assert!(names.is_unnamed_here());
        names.undo(1);
        assert!(names.shared_unnamed(Dialect { pool: 1, settings: 1 }).is_some() && !names.is_unnamed_here());
        names.set_unnamed(raw(), 1);
        names.undo(1);
        names.lose_unnamed();
        assert!(matches!(names.inner().unnamed.means, Unnamed::None));
        names.set_unnamed(Unnamed::Long, 1);
        names.confirm();
        names.part();
        assert_eq!((names.shared_unnamed(Dialect { pool: 1, settings: 1 }).is_none(), names.bytes()), (true, 0));
    }
}
