//! The pooler's statements on one server: which are there, which are on their way, and which
//! go when there are too many.
//!
//! A *group* is what stands between two Syncs: if something in it fails, the server skips the
//! rest of it. What a group of its own has begun is counted on (it would be skipped with it);
//! what an earlier group has begun must be settled first.

use std::collections::HashMap;
use std::sync::Arc;

use super::statement::Statement;

/// Statements of one server, by their number.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    slots: HashMap<u64, Slot>,
    /// Evicted, and the Close for them is not answered yet; oldest first.
    closing: Vec<Closing>,
    /// Counts uses and preparations, to tell which came first.
    clock: u64,
    /// What was prepared before may be gone: something that deallocates was sent since.
    trusted_since: u64,
    /// What was prepared before was under the settings that were known then: everything had been
    /// answered.
    settled_at: u64,
    /// SQL-level PREPAREs without their DEALLOCATE. Their names are the client's own, so no
    /// other client may have the server meanwhile.
    sql_level: u32,
}

#[derive(Debug)]
struct Slot {
    statement: Arc<Statement>,
    /// Readings of the clock.
    used: u64,
    parsed: u64,
    /// The group whose Parse for it is not answered yet; `None`: it was.
    parsing: Option<u64>,
}

#[derive(Debug)]
struct Closing {
    slot: Slot,
    /// The group that holds the Close.
    group: u64,
}

/// Settled statements of a server, as another process goes on with them.
#[derive(Debug)]
pub(crate) struct PreparedParts {
    /// Least recently used first; false: it may be gone, or outdated.
    pub(crate) statements: Vec<(Arc<Statement>, bool)>,
    /// SQL-level PREPAREs without their DEALLOCATE.
    pub(crate) sql_level: u32,
}

/// What a server knows of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is there, or will be when what is sent now arrives.
    Ready,
    /// It may be gone, or outdated: to be closed and prepared anew.
    Doubtful,
    Absent,
    /// That depends on the answer to an earlier group.
    Unsettled,
}

impl Prepared {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// What is known of `statement` in `group`; it counts as used.
    pub(crate) fn look(&mut self, statement: &Statement, group: u64) -> Known {
        self.clock += 1;
        if self.closing.iter().any(|c| c.slot.statement.id == statement.id && c.group != group) {
            return Known::Unsettled;
        }
        let Some(slot) = self.slots.get_mut(&statement.id) else { return Known::Absent };
        slot.used = self.clock;
        if slot.parsing.is_some_and(|g| g != group) {
            Known::Unsettled
        } else if slot.parsed < self.trusted_since {
            Known::Doubtful
        } else {
            Known::Ready
        }
    }

    /// A Parse for it was sent in `group`.
    pub(crate) fn begin(&mut self, statement: &Arc<Statement>, group: u64) {
        self.clock += 1;
        let slot =
            Slot { statement: Arc::clone(statement), used: self.clock, parsed: self.clock, parsing: Some(group) };
        self.slots.insert(statement.id, slot);
    }

    /// Takes out what was not used for longest, if there are more than `capacity`; the caller
    /// sends the Close in `group`. The last one used stays: it is about to be.
    pub(crate) fn evict(&mut self, capacity: usize, group: u64) -> Option<Arc<Statement>> {
        if self.slots.len() <= capacity {
            return None;
        }
        let may_go = |slot: &&Slot| slot.used < self.clock && slot.parsing.is_none_or(|g| g == group);
        let oldest = self.slots.values().filter(may_go).min_by_key(|slot| slot.used)?.statement.id;
        self.begin_close(oldest, group)
    }

    /// Takes a statement out; the caller sends the Close in `group`.
    pub(crate) fn begin_close(&mut self, id: u64, group: u64) -> Option<Arc<Statement>> {
        let slot = self.slots.remove(&id)?;
        let statement = Arc::clone(&slot.statement);
        self.closing.push(Closing { slot, group });
        Some(statement)
    }

    /// ParseComplete.
    pub(crate) fn parsed(&mut self, id: u64) {
        // Its Close may be on the way behind it already.
        let closing =
            self.closing.iter_mut().map(|c| &mut c.slot).find(|s| s.statement.id == id && s.parsing.is_some());
        if let Some(slot) = closing.or(self.slots.get_mut(&id)) {
            slot.parsing = None;
        }
    }

    /// The Parse has failed or was skipped. Of several, the last comes first.
    pub(crate) fn parse_undone(&mut self, id: u64) {
        self.slots.remove(&id);
    }

    /// CloseComplete for an evicted statement.
    pub(crate) fn closed(&mut self, id: u64) {
        if let Some(at) = self.closing.iter().position(|c| c.slot.statement.id == id) {
            self.closing.remove(at);
        }
    }

    /// The Close was skipped. Of several, the last comes first.
    pub(crate) fn close_undone(&mut self, id: u64) {
        if let Some(at) = self.closing.iter().rposition(|c| c.slot.statement.id == id) {
            self.slots.insert(id, self.closing.remove(at).slot);
        }
    }

    /// Nothing of it waits for an answer.
    pub(crate) fn is_settled(&self) -> bool {
        self.closing.is_empty() && self.slots.values().all(|slot| slot.parsing.is_none())
    }

    /// What another process needs to go on with them, least recently used first, and of each whether it is
    /// beyond doubt. `None`: something is not answered.
    pub(crate) fn parts(&self) -> Option<PreparedParts> {
        if !self.is_settled() {
            return None;
        }
        let mut slots: Vec<&Slot> = self.slots.values().collect();
        slots.sort_unstable_by_key(|slot| slot.used);
        let part = |slot: &Slot| (Arc::clone(&slot.statement), slot.parsed >= self.trusted_since);
        Some(PreparedParts { statements: slots.into_iter().map(part).collect(), sql_level: self.sql_level })
    }

    pub(crate) fn from_parts(parts: PreparedParts) -> Prepared {
        let mut prepared = Prepared { trusted_since: 1, sql_level: parts.sql_level, ..Prepared::default() };
        for (statement, is_trusted) in parts.statements {
            prepared.clock += 1;
            let used = prepared.clock;
            let parsed = if is_trusted { used } else { 0 };
            prepared.slots.insert(statement.id, Slot { statement, used, parsed, parsing: None });
        }
        prepared.settle();
        prepared
    }

    /// Something was sent that may take all statements from the server.
    pub(crate) fn distrust(&mut self) {
        self.clock += 1;
        self.trusted_since = self.clock;
    }

    /// Everything was answered before what is sent now.
    pub(crate) fn settle(&mut self) {
        self.settled_at = self.clock;
    }

    /// The server's settings have changed: what was sent since all was answered may have been
    /// prepared under them, though it was meant for those before.
    pub(crate) fn distrust_unsettled(&mut self) {
        self.trusted_since = self.trusted_since.max(1);
        let settled_at = self.settled_at;
        self.slots.values_mut().filter(|slot| slot.parsed > settled_at).for_each(|slot| slot.parsed = 0);
    }

    /// DEALLOCATE ALL or DISCARD ALL was carried out: what is there is gone, but not what the
    /// server has yet to read.
    pub(crate) fn clear(&mut self) {
        self.slots.retain(|_, slot| slot.parsing.is_some());
        self.closing.retain(|c| c.slot.parsing.is_some());
        self.sql_level = 0;
    }

    pub(crate) fn sql_prepared(&mut self) {
        self.sql_level = self.sql_level.saturating_add(1);
    }

    /// DEALLOCATE was carried out. If it was not the first command of its Query, nobody has looked at it:
    /// it may have taken one of the pooler's statements, and given its name to another.
    pub(crate) fn sql_deallocated(&mut self) {
        self.distrust();
        self.sql_level = self.sql_level.saturating_sub(1);
    }

    /// The client has statements here under names of its own.
    pub(crate) fn is_pinned(&self) -> bool {
        self.sql_level > 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::statement::{Dialect, intern};
    use super::*;

    fn statement(text: &str) -> Arc<Statement> {
        intern(format!("prepared {text}\0\0\0").as_bytes(), Dialect { pool: 1, settings: 1 })
    }

    /// With these prepared in group 1 and answered.
    fn with(statements: &[&Arc<Statement>]) -> Prepared {
        let mut prepared = Prepared::default();
        for statement in statements {
            prepared.begin(statement, 1);
            prepared.parsed(statement.id);
        }
        prepared
    }

    #[test]
    fn a_statement_is_counted_on_in_its_own_group_only_until_it_is_there() {
        let a = statement("a");
        let mut prepared = Prepared::default();
        assert_eq!(prepared.look(&a, 1), Known::Absent);
        prepared.begin(&a, 1);
        assert_eq!((prepared.look(&a, 1), prepared.look(&a, 2)), (Known::Ready, Known::Unsettled));
        prepared.parsed(a.id);
        assert_eq!(prepared.look(&a, 2), Known::Ready);
        prepared.begin(&a, 2);
        prepared.parse_undone(a.id);
        assert_eq!(prepared.look(&a, 2), Known::Absent);
    }

    #[test]
    fn parts_make_the_same_again() {
        let (a, b, c) = (statement("a"), statement("b"), statement("c"));
        let mut prepared = with(&[&a, &b]);
        prepared.distrust();
        prepared.look(&a, 2);
        prepared.begin(&c, 2);
        assert!(prepared.parts().is_none());
        prepared.parsed(c.id);
        prepared.sql_prepared();
        let mut again = Prepared::from_parts(prepared.parts().unwrap());
        assert!(again.is_pinned());
        assert_eq!([&a, &b, &c].map(|s| again.look(s, 3)), [Known::Doubtful, Known::Doubtful, Known::Ready]);
        let mut again = Prepared::from_parts(prepared.parts().unwrap());
        again.look(&c, 3);
        assert_eq!(again.evict(2, 3).unwrap().id, b.id);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (a, b, c) = (statement("a"), statement("b"), statement("c"));
        let mut prepared = with(&[&a, &b]);
        prepared.look(&a, 2);
        prepared.begin(&c, 2);
        assert_eq!(prepared.evict(2, 2).unwrap().id, b.id);
        assert!(prepared.evict(2, 2).is_none());
        assert_eq!((prepared.look(&b, 2), prepared.look(&b, 3)), (Known::Absent, Known::Unsettled));
        prepared.closed(b.id);
        assert_eq!(prepared.look(&b, 3), Known::Absent);
    }

    #[test]
    fn what_an_earlier_group_has_yet_to_settle_is_not_evicted() {
        let (a, b) = (statement("a"), statement("b"));
        let mut prepared = Prepared::default();
        prepared.begin(&a, 1);
        prepared.begin(&b, 2);
        // Nor what was prepared just now.
        assert!(prepared.evict(1, 2).is_none());
        prepared.look(&a, 2);
        assert_eq!(prepared.evict(1, 2).unwrap().id, b.id);
        assert_eq!(prepared.len(), 1);
    }

    #[test]
    fn what_is_skipped_is_undone_from_its_end() {
        let a = statement("a");
        // Close and Parse of the same statement, both skipped: it is there as before.
        let mut prepared = with(&[&a]);
        prepared.begin_close(a.id, 2);
        prepared.begin(&a, 2);
        prepared.parse_undone(a.id);
        prepared.close_undone(a.id);
        assert_eq!(prepared.look(&a, 3), Known::Ready);
        // Parse and Close, of which only the Parse is carried out.
        let mut prepared = Prepared::default();
        prepared.begin(&a, 1);
        prepared.begin_close(a.id, 1);
        prepared.parsed(a.id);
        prepared.close_undone(a.id);
        assert_eq!(prepared.look(&a, 2), Known::Ready);
    }

    #[test]
    fn after_a_deallocate_only_what_came_behind_it_is_there() {
        let (a, b) = (statement("a"), statement("b"));
        let mut prepared = with(&[&a]);
        prepared.distrust();
        assert_eq!(prepared.look(&a, 2), Known::Doubtful);
        prepared.begin(&b, 2);
        assert_eq!(prepared.look(&b, 2), Known::Ready);
        prepared.clear();
        assert_eq!((prepared.look(&a, 2), prepared.look(&b, 2)), (Known::Absent, Known::Ready));
    }
}
