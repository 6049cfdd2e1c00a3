//! The next step of a client: what it sends at once, and what it does besides. A step is drawn from
//! seed, client and number of the step, and from the state of the session; so a run repeats itself
//! but for what depends on timing.

use super::groups::Groups;
use super::model::Model;
use super::options::{Class, Options};
use super::request::{Args, Request};
use super::session::{SETTINGS, Transaction};
use super::sql::{self, Sql};
use crate::support::Random;

pub(super) struct Step {
    /// For the tally.
    pub(super) kind: &'static str,
    pub(super) requests: Vec<Request>,
    /// Where the bytes are cut to be sent in pieces, modulo their length.
    pub(super) cuts: Vec<u64>,
    pub(super) besides: Besides,
}

pub(super) enum Besides {
    Nothing,
    /// A cancel request, so many microseconds after the last byte.
    Cancel(u64),
    /// Leaves without reading the answers.
    Leave(Leave),
    /// Terminates one of the backends that serve this database.
    Kill,
}

#[derive(Clone, Copy)]
pub(super) enum Leave {
    Close,
    Reset,
    Terminate,
    /// Somewhere in the middle of the bytes.
    CutShort,
}

/// What the draws of one step have in common.
pub(super) struct Draw<'a> {
    pub(super) random: Random,
    pub(super) options: &'a Options,
    pub(super) model: &'a Model,
    pub(super) client: u32,
    /// The owner of this session's rows in the ledger.
    pub(super) owner: &'a str,
    /// What every mark of this step begins with.
    prefix: String,
    marks: u32,
    /// Whether something large may still be sent or asked for: once in a step, so that no side
    /// waits for the other to read.
    may_be_large: bool,
}

impl<'a> Draw<'a> {
    pub(super) fn new(options: &'a Options, model: &'a Model, client: u32, owner: &'a str, step: u64) -> Draw<'a> {
        let mut random = Random::seeded(options.seed ^ (u64::from(client) << 40));
        // Neighbouring seeds must not give neighbouring numbers.
        let random = Random::seeded(random.next() ^ step.wrapping_mul(0x9E6C_63D0_876A_9A62));
        let may_be_large = options.allow(Class::Large);
        Draw { random, options, model, client, owner, prefix: format!("c{client}-s{step}"), marks: 0, may_be_large }
    }

    pub(super) fn percent(&mut self, share: u64) -> bool {
        self.random.below(100) < share
    }

    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.below(high - low + 1)
    }

    pub(super) fn mark(&mut self) -> String {
        self.marks += 1;
        format!("{}-{}", self.prefix, self.marks)
    }

    /// Lengths around those at which buffers end.
    fn size(&mut self) -> u64 {
        if !self.may_be_large || self.percent(70) {
            return self.random.below(200);
        }
        self.may_be_large = false;
        let edge = match self.random.below(40) {
            0 => 1 << 20,
            1..=12 => 65_536,
            13..=26 => 16_384,
            _ => 4_096,
        };
        edge - 80 + self.random.below(100)
    }

    /// A statement with two parameters.
    pub(super) fn statement(&mut self) -> Sql {
        let k = self.random.below(24) as u32;
        let owner = self.owner.to_owned();
        match self.random.below(100) {
            0..=29 => Sql::Add { k, owner: None },
            30..=49 => Sql::Add { k: k % 8, owner: Some(self.client) },
            50..=59 => Sql::Series { k: k % 4 },
            60..=66 => Sql::Divide { k: 1000 + k % 4 },
            67..=71 => Sql::Repeat { k: k % 3 },
            72..=76 => Sql::Echo { k: k % 3 },
            77..=81 => Sql::Settings,
            82..=90 => Sql::Insert { owner },
            91..=97 => Sql::Count { owner },
            98 => Sql::Delete { owner },
            _ => Sql::Sleep,
        }
    }

    pub(super) fn args(&mut self, sql: &Sql) -> Args {
        if sql.param_oids().is_empty() {
            return Vec::new();
        }
        let first = match sql {
            Sql::Echo { .. } => "e".repeat(self.size() as usize),
            Sql::Repeat { .. } => self.size().to_string(),
            Sql::Series { .. } if self.percent(3) => self.between(100, 600).to_string(),
            Sql::Series { .. } | Sql::Divide { .. } => self.random.below(7).to_string(),
            Sql::Insert { .. } | Sql::Sleep => self.random.below(5).to_string(),
            _ => self.random.below(30_000).to_string(),
        };
        vec![first, self.mark()]
    }

    pub(super) fn set(&mut self) -> Sql {
        let name = SETTINGS[self.random.below(2) as usize];
        let value = match name {
            "TimeZone" => ["UTC", "Asia/Tokyo", "Europe/Paris"][self.random.below(3) as usize].to_owned(),
            _ => self.mark(),
        };
        let in_block = self.model.session.transaction == Transaction::Block;
        Sql::Set { name, value, local: in_block && self.percent(40) }
    }

    /// Some rows of a COPY.
    fn copy_lines(&mut self) -> Vec<u8> {
        let (count, mark) = (self.random.below(4), self.mark());
        let long = "l".repeat(self.size() as usize);
        (0..count).map(|i| format!("{}\t{mark}-{i}{long}\n", self.owner)).collect::<String>().into_bytes()
    }

    /// The data of a COPY and how it ends.
    pub(super) fn copy_data(&mut self) -> Vec<Request> {
        let mut lines: Vec<u8> = (0..self.between(0, 3)).flat_map(|_| self.copy_lines()).collect();
        if self.percent(15) {
            lines.extend(b"one\ttoo\tmany\n");
        }
        let mut out = Vec::new();
        // Messages need not end where lines do.
        while !lines.is_empty() {
            let length = self.between(1, lines.len().min(40_000) as u64) as usize;
            out.push(Request::CopyData(lines.drain(..length).collect()));
            if self.options.allow(Class::SyncInCopy) && self.percent(10) {
                out.push(if self.percent(50) { Request::Flush } else { Request::Sync });
            }
        }
        out.push(if self.percent(80) { Request::CopyDone } else { Request::CopyFail });
        out
    }

    fn simple(&mut self) -> Vec<Request> {
        let count = if self.percent(60) { 1 } else { self.between(2, 4) };
        let mut parts: Vec<(Sql, Args)> = (0..count).map(|_| self.simple_part()).collect();
        if self.model.session.transaction == Transaction::None && self.percent(10) {
            parts.insert(0, (Sql::Begin, Vec::new()));
            let end = if self.percent(60) { Sql::Commit } else { Sql::Rollback };
            parts.push((end, Vec::new()));
        }
        vec![Request::Query(parts)]
    }

    fn simple_part(&mut self) -> (Sql, Args) {
        let sql = match self.random.below(100) {
            0 => Sql::NoTable,
            1 => Sql::Misspelt,
            2..=5 => self.set(),
            6..=7 => Sql::CopyOut { rows: self.random.below(30) as u32, mark: self.mark() },
            _ => self.statement(),
        };
        let args = match sql {
            Sql::NoTable | Sql::Misspelt => vec!["1".into(), self.mark()],
            _ => self.args(&sql),
        };
        (sql, args)
    }

    /// Both halves of a transfer, in an order in which two of them cannot wait for each other.
    fn transfer(&mut self) -> [Sql; 2] {
        let (low, amount) = (self.random.below(ACCOUNTS - 1) as u32, self.random.below(100) as i64 - 50);
        let high = self.between(u64::from(low) + 1, ACCOUNTS - 1) as u32;
        [Sql::Move { account: low, amount }, Sql::Move { account: high, amount: -amount }]
    }

    /// By SQL's own PREPARE.
    fn sql_prepared(&mut self) -> Sql {
        let name = format!("q{}", self.random.below(4));
        match self.random.below(4) {
            0 => Sql::Prepare { name, k: self.random.below(24) as u32 },
            1 => Sql::Deallocate(name),
            _ => Sql::Perform { name, number: self.random.below(1000) as i64, mark: self.mark() },
        }
    }
}

/// Between which money is moved; what they hold together must stay.
pub(super) const ACCOUNTS: u64 = 8;

fn query(sqls: impl IntoIterator<Item = Sql>) -> Vec<Request> {
    vec![Request::Query(sqls.into_iter().map(|sql| (sql, Vec::new())).collect())]
}

/// The step `draw` leads to.
pub(super) fn step(mut draw: Draw<'_>) -> Step {
    let model = draw.model;
    let besides = besides(&mut draw);
    let (kind, mut requests) = match &besides {
        Besides::Cancel(_) => ("cancel", slow(&mut draw)),
        _ if model.is_open() => continue_open(&mut draw),
        _ => match model.session.transaction {
            Transaction::None => idle(&mut draw),
            Transaction::Block => in_block(&mut draw),
            Transaction::Failed => in_failed(&mut draw),
        },
    };
    // A Query that is discarded is answered by nothing: something must end the skipping.
    if model.is_open() && !requests.iter().any(|request| matches!(request, Request::Sync | Request::Flush)) {
        requests.push(Request::Sync);
    }
    let kind = match besides {
        Besides::Leave(_) => "disconnect",
        Besides::Kill => "kill",
        Besides::Cancel(_) | Besides::Nothing => kind,
    };
    let pieces = if draw.percent(25) { draw.between(1, 4) } else { 0 };
    let cuts = (0..pieces).map(|_| draw.random.next()).collect();
    Step { kind, requests, cuts, besides }
}

fn besides(draw: &mut Draw<'_>) -> Besides {
    let chance = draw.random.below(1000);
    let leave = [Leave::Close, Leave::Reset, Leave::Terminate, Leave::CutShort];
    match chance {
        0..=6 if draw.options.allow(Class::Cancel) => Besides::Cancel(draw.random.below(40_000)),
        10..=24 if draw.options.allow(Class::Disconnect) => Besides::Leave(leave[draw.random.below(4) as usize]),
        25..=27 if draw.options.allow(Class::Kill) => Besides::Kill,
        _ => Besides::Nothing,
    }
}

/// Longer than a query waits on a busy machine: before it begins there is nothing to cancel.
const NAP_MS: u32 = 60;

/// Something that takes a while, for a cancel request to hit.
fn slow(draw: &mut Draw<'_>) -> Vec<Request> {
    let nap = |draw: &mut Draw<'_>| (Sql::Sleep, vec![NAP_MS.to_string(), draw.mark()]);
    if draw.model.is_open() || draw.percent(50) {
        let mut groups = Groups::new(draw);
        groups.expect_errors();
        groups.add_segment();
        groups.add_nap(NAP_MS);
        groups.sync();
        groups.add_segment();
        groups.sync();
        return groups.finish();
    }
    let parts = vec![draw.simple_part(), nap(draw), draw.simple_part()];
    vec![Request::Query(parts)]
}

fn pipeline(draw: &mut Draw<'_>) -> (&'static str, Vec<Request>) {
    let mut groups = Groups::new(draw);
    groups.add_pipeline();
    ("pipeline", groups.finish())
}

/// A pipeline that was flushed and has had no Sync yet.
fn continue_open(draw: &mut Draw<'_>) -> (&'static str, Vec<Request>) {
    let class = if draw.model.is_skipping() { Class::QueryWhileSkipping } else { Class::QueryWhileOpen };
    match draw.random.below(10) {
        0 | 1 if draw.options.allow(class) => ("simple query in a pipeline", draw.simple()),
        2 if draw.options.allow(class) => ("function call in a pipeline", vec![Request::Call(draw.mark())]),
        _ => pipeline(draw),
    }
}

fn idle(draw: &mut Draw<'_>) -> (&'static str, Vec<Request>) {
    match draw.random.below(100) {
        0..=11 => ("begin", query([Sql::Begin])),
        12..=16 => {
            let [first, second] = draw.transfer();
            match draw.random.below(3) {
                0 => ("transfer", query([first, second])),
                1 => ("transfer", query([Sql::Begin, first, second, Sql::Commit])),
                _ => ("transfer", Groups::of_unnamed(draw, [first, second])),
            }
        }
        17 if draw.options.allow(Class::DiscardAll) && draw.percent(20) => ("discard all", query([Sql::DiscardAll])),
        18 if draw.options.allow(Class::QueryTimeout) && draw.random.below(100) == 0 => {
            let args = vec!["4500".to_owned(), draw.mark()];
            ("query_timeout", vec![Request::Query(vec![(Sql::Sleep, args)])])
        }
        _ => anywhere(draw),
    }
}

fn in_block(draw: &mut Draw<'_>) -> (&'static str, Vec<Request>) {
    match draw.random.below(100) {
        0..=15 => ("commit", query([Sql::Commit])),
        16..=20 => ("rollback", query([Sql::Rollback])),
        21..=26 => {
            let end = if draw.percent(70) { Sql::Commit } else { Sql::Rollback };
            ("end of a transaction in a pipeline", Groups::of_unnamed(draw, [end]))
        }
        27 => {
            let args = vec!["1".to_owned(), draw.mark()];
            ("statement_timeout", vec![Request::Query(vec![(Sql::Hasten, Vec::new()), (Sql::Overlong, args)])])
        }
        _ => anywhere(draw),
    }
}

fn in_failed(draw: &mut Draw<'_>) -> (&'static str, Vec<Request>) {
    match draw.random.below(10) {
        0..=2 => ("rollback", query([Sql::Rollback])),
        3 => ("commit", query([Sql::Commit])),
        4 => ("end of a transaction in a pipeline", Groups::of_unnamed(draw, [Sql::Rollback])),
        _ => anywhere(draw),
    }
}

fn anywhere(draw: &mut Draw<'_>) -> (&'static str, Vec<Request>) {
    match draw.random.below(100) {
        0..=24 => ("simple query", draw.simple()),
        25 => ("empty query", query([Sql::Empty])),
        26..=27 => ("function call", vec![Request::Call(draw.mark())]),
        28..=30 => ("set", query([draw.set()])),
        31..=33 if draw.options.allow(Class::Copy) => ("copy", [query([Sql::CopyIn]), draw.copy_data()].concat()),
        34..=37 if draw.options.allow(Class::Copy) => {
            let mut groups = Groups::new(draw);
            groups.add_copy();
            ("copy in a pipeline", groups.finish())
        }
        38..=44 if draw.options.allow(Class::SqlPrepare) => ("prepare by SQL", query([draw.sql_prepared()])),
        45 if draw.options.allow(Class::DeallocateAll) => ("deallocate all", query([Sql::DeallocateAll])),
        46 if draw.options.allow(Class::Deallocate) => {
            let name = super::groups::name(draw);
            ("deallocate", query([Sql::Deallocate(name)]))
        }
        47..=48 => {
            // Several requests of one kind, answered one after the other.
            let requests = (0..draw.between(2, 4)).flat_map(|_| draw.simple()).collect();
            ("simple queries in a row", requests)
        }
        _ => pipeline(draw),
    }
}

/// Type OIDs for [`Sql::Typed`].
pub(super) const OIDS: [u32; 3] = [sql::INT4, sql::INT8, sql::TEXT];
