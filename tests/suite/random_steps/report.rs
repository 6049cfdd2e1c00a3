//! What a run has seen: counts for a good one, the last messages for a failure.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::support::messages::Message;

/// How many messages a failure shows.
const SHOWN: usize = 60;

struct Entry {
    step: u64,
    sent: bool,
    /// With only the beginning of its body.
    message: Message,
    length: usize,
}

/// The latest messages of one client, both ways.
#[derive(Default)]
pub(super) struct Trace {
    entries: VecDeque<Entry>,
}

impl Trace {
    pub(super) fn sent(&mut self, step: u64, bytes: &[u8]) {
        self.note(step, true, bytes[0], &bytes[5..]);
    }

    pub(super) fn received(&mut self, step: u64, message: &Message) {
        self.note(step, false, message.tag, &message.body);
    }

    fn note(&mut self, step: u64, sent: bool, tag: u8, body: &[u8]) {
        if self.entries.len() == SHOWN {
            self.entries.pop_front();
        }
        let message = Message { tag, body: body[..body.len().min(200)].to_vec() };
        self.entries.push_back(Entry { step, sent, message, length: body.len() });
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { step, sent, message, length } in &self.entries {
            let arrow = if *sent { "->" } else { "<-" };
            let cut = if *length > 200 { format!(" ... {length} bytes") } else { String::new() };
            writeln!(f, "  step {step} {arrow} {message}{cut}")?;
        }
        Ok(())
    }
}

#[derive(Default)]
pub(super) struct Tally {
    pub(super) steps: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) transactions: u64,
    pub(super) connections: u64,
    kinds: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    events: BTreeMap<String, u64>,
}

fn bump(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => drop(counts.insert(name.to_owned(), 1)),
    }
}

impl Tally {
    pub(super) fn kind(&mut self, name: &str) {
        bump(&mut self.kinds, name);
    }

    pub(super) fn error(&mut self, sqlstate: &str) {
        bump(&mut self.errors, sqlstate);
    }

    pub(super) fn event(&mut self, name: &str) {
        bump(&mut self.events, name);
    }

    pub(super) fn add(&mut self, other: Tally) {
        self.steps += other.steps;
        self.sent += other.sent;
        self.received += other.received;
        self.transactions += other.transactions;
        self.connections += other.connections;
        for (mine, theirs) in
            [(&mut self.kinds, other.kinds), (&mut self.errors, other.errors), (&mut self.events, other.events)]
        {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { steps, sent, received, transactions, connections, .. } = self;
        writeln!(
            f,
            "{steps} steps, {sent} messages sent, {received} received, {transactions} transactions, {connections} connections"
        )?;
        for (name, counts) in [("steps", &self.kinds), ("errors", &self.errors), ("events", &self.events)] {
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            writeln!(f, "{name}: {}", counts.join(", "))?;
        }
        Ok(())
    }
}
