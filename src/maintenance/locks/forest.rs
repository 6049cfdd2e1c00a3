//! From "waits for" to trees whose roots wait for nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::{Holder, Waits};

/// A line of the output: a holder in its place.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) holder: &'a Holder,
    pub(super) depth: usize,
    /// How many wait for it, directly or behind others.
    pub(super) blocks: usize,
    pub(super) blocked_by: Vec<&'a Holder>,
    pub(super) is_deadlock: bool,
}

struct Grower<'a> {
    waits: &'a Waits,
    /// The same the other way round.
    waiters: BTreeMap<&'a Holder, BTreeSet<&'a Holder>>,
    planted: BTreeSet<&'a Holder>,
    places: Vec<Place<'a>>,
}

/// Every holder once, below one of those that it waits for. The roots with most behind them come first; of a deadlock, which has
/// no root, one of its members is.
pub(super) fn forest(waits: &Waits) -> Vec<Place<'_>> {
    let mut waiters: BTreeMap<&Holder, BTreeSet<&Holder>> = BTreeMap::new();
    for (waiter, blockers) in waits {
        for blocker in blockers {
            waiters.entry(blocker).or_default().insert(waiter);
        }
    }
    let mut grower = Grower { waits, waiters, planted: BTreeSet::new(), places: Vec::new() };
    let mut roots: Vec<&Holder> =
        grower.waiters.keys().copied().filter(|holder| !waits.contains_key(*holder)).collect();
    roots.sort_by_key(|root| std::cmp::Reverse(grower.behind(root).len()));
    for root in roots {
        grower.grow(root);
    }
    while let Some(stuck) = waits.keys().find(|holder| !grower.planted.contains(holder)) {
        let member = grower.in_circle(stuck);
        grower.grow(member);
    }
    grower.places
}

impl<'a> Grower<'a> {
    /// All that wait for it, directly or behind others; itself only in a deadlock.
    fn behind(&self, holder: &Holder) -> BTreeSet<&'a Holder> {
        let mut found = BTreeSet::new();
        let mut ahead: Vec<&'a Holder> = self.waiters.get(holder).into_iter().flatten().copied().collect();
        while let Some(waiter) = ahead.pop() {
            if found.insert(waiter) {
                ahead.extend(self.waiters.get(waiter).into_iter().flatten());
            }
        }
        found
    }

    fn grow(&mut self, root: &'a Holder) {
        let mut ahead = vec![(root, 0)];
        while let Some((holder, depth)) = ahead.pop() {
            if !self.planted.insert(holder) {
                continue;
            }
            let behind = self.behind(holder);
            let is_deadlock = behind.contains(holder);
            self.places.push(Place {
                holder,
                depth,
                blocks: behind.len() - usize::from(is_deadlock),
                blocked_by: self.waits.get(holder).into_iter().flatten().collect(),
                is_deadlock,
            });
            let waiters = self.waiters.get(holder).into_iter().flatten();
            ahead.extend(waiters.rev().map(|waiter| (*waiter, depth + 1)));
        }
    }

    /// Who is met twice on the way from one that has no root.
    fn in_circle(&self, stuck: &'a Holder) -> &'a Holder {
        let mut met = BTreeSet::new();
        let mut holder = stuck;
        while met.insert(holder) {
            // Everyone ahead of it waits, too: otherwise it would have been found from a root.
            let ahead = self.waits.get(holder).and_then(|blockers| blockers.iter().next());
            holder = ahead.unwrap_or(holder);
        }
        holder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `waits` as pairs of a process and those it waits for.
    fn shown(pairs: &[(i32, &[i32])]) -> Vec<String> {
        let process = |pid: &i32| Holder::Process(*pid);
        let waits =
            pairs.iter().map(|(pid, blockers)| (process(pid), blockers.iter().map(process).collect())).collect();
        let line = |place: &Place<'_>| {
            let mark = if place.is_deadlock { "!" } else { "" };
            format!("{}{}{mark} {}", ".".repeat(place.depth), place.holder.name(), place.blocks)
        };
        forest(&waits).iter().map(line).collect()
    }

    #[test]
    fn trees() {
        assert_eq!(shown(&[]), [""; 0]);
        // 1 holds up 2 and 3; 4 waits for 3; 9 holds up 8.
        assert_eq!(
            shown(&[(2, &[1]), (3, &[1]), (4, &[3]), (8, &[9])]),
            ["1 3", ".2 0", ".3 1", "..4 0", "9 1", ".8 0"]
        );
        // Of two that it waits for, it stands below one.
        assert_eq!(shown(&[(3, &[1, 2])]), ["1 1", ".3 0", "2 1"]);
    }

    #[test]
    fn deadlocks_have_no_root() {
        assert_eq!(shown(&[(1, &[2]), (2, &[1])]), ["1! 1", ".2! 1"]);
        // 5 waits for a circle without being part of it.
        assert_eq!(shown(&[(1, &[2]), (2, &[1]), (5, &[1])]), ["1! 2", ".2! 2", ".5 0"]);
        // A circle that somebody else holds up, too.
        assert_eq!(shown(&[(1, &[2]), (2, &[1, 7])]), ["7 2", ".2! 1", "..1! 1"]);
    }
}
