//! Groups of extended messages, pipelined over several Syncs.

use std::collections::{BTreeMap, BTreeSet};

use super::generator::{Draw, OIDS};
use super::options::Class;
use super::request::Request;
use super::session::Transaction;
use super::sql::Sql;

/// More than the pooler may keep on a server, each client's under the same names.
const NAMES: u64 = 12;

pub(super) fn name(draw: &mut Draw<'_>) -> String {
    format!("s{}", draw.random.below(NAMES))
}

pub(super) struct Groups<'d, 'a> {
    draw: &'d mut Draw<'a>,
    requests: Vec<Request>,
    /// What each name should stand for by now; an error on the way may have it otherwise.
    likely: BTreeMap<String, Sql>,
    /// Names that surely exist: since before this step and not closed in it, or made in this segment.
    sure: BTreeSet<String>,
    /// Names that surely do not exist, whatever has failed on the way.
    free: BTreeSet<String>,
    /// Made in this segment, to be forgotten with it.
    fresh: BTreeSet<String>,
    /// Whether the unnamed statement was made in this transaction.
    unnamed_is_fresh: bool,
    /// Whether named statements may be used.
    named: bool,
    /// Whether anything may fail.
    errors: bool,
}

impl<'d, 'a> Groups<'d, 'a> {
    pub(super) fn new(draw: &'d mut Draw<'a>) -> Groups<'d, 'a> {
        let session = &draw.model.session;
        let likely: BTreeMap<String, Sql> =
            session.statements.iter().map(|(name, statement)| (name.clone(), statement.sql.clone())).collect();
        let sure: BTreeSet<String> = likely.keys().filter(|name| name.starts_with('s')).cloned().collect();
        let free = (0..NAMES).map(|i| format!("s{i}")).filter(|name| !sure.contains(name)).collect();
        let unnamed_is_fresh = session.unnamed_is_fresh();
        let (named, errors) = match draw.options.allow(Class::NamedAmongErrors) {
            true => (true, true),
            false => {
                let calm = !draw.model.is_open() && session.transaction != Transaction::Failed && draw.percent(50);
                (calm, !calm)
            }
        };
        let named = named && draw.options.allow(Class::Named);
        let (requests, fresh) = (Vec::new(), BTreeSet::new());
        Groups { draw, requests, likely, sure, free, fresh, unnamed_is_fresh, named, errors }
    }

    /// Statements without parameters, one after the other before a Sync.
    pub(super) fn of_unnamed(draw: &'d mut Draw<'a>, sqls: impl IntoIterator<Item = Sql>) -> Vec<Request> {
        let mut groups = Groups::new(draw);
        for sql in sqls {
            groups.parse("", sql.clone());
            groups.run("", &sql);
        }
        groups.sync();
        groups.finish()
    }

    /// Something in it may be cancelled.
    pub(super) fn expect_errors(&mut self) {
        self.named &= self.allow(Class::NamedAmongErrors);
        self.errors = true;
    }

    pub(super) fn finish(self) -> Vec<Request> {
        self.requests
    }

    fn push(&mut self, request: Request) {
        self.requests.push(request);
    }

    pub(super) fn sync(&mut self) {
        self.push(Request::Sync);
        for name in std::mem::take(&mut self.fresh) {
            self.sure.remove(&name);
        }
        self.unnamed_is_fresh = false;
    }

    fn allow(&self, class: Class) -> bool {
        self.draw.options.allow(class)
    }

    pub(super) fn add_pipeline(&mut self) {
        let segments = if self.draw.percent(55) { 1 } else { self.draw.between(2, 4) };
        let mut in_block = self.draw.model.session.transaction != Transaction::None;
        for segment in 0..segments {
            let first = segment > 0 || !self.draw.model.is_open();
            if first && !in_block && self.draw.percent(15) {
                self.parse("", Sql::Begin);
                self.run("", &Sql::Begin);
                in_block = true;
            }
            self.add_segment();
            if in_block && self.draw.percent(15) {
                self.parse("", Sql::Commit);
                self.run("", &Sql::Commit);
                in_block = false;
            }
            let last = segment + 1 == segments;
            match last && self.draw.percent(8) {
                true => self.push(Request::Flush),
                false => self.sync(),
            }
        }
    }

    pub(super) fn add_segment(&mut self) {
        for _ in 0..self.draw.between(1, 4) {
            self.add_unit();
        }
    }

    fn add_unit(&mut self) {
        match self.draw.random.below(100) {
            0..=29 => self.add_unnamed(),
            30..=64 if self.named => self.add_named(),
            65..=69 if self.named => drop(self.parse_named()),
            70..=74 if self.named && self.allow(Class::CloseNamed) => self.close_named(),
            75..=79 if self.named => {
                if let Some(name) = self.existing() {
                    self.push(Request::DescribeStatement(name));
                }
            }
            80..=83 => self.bind_unnamed(),
            84..=88 if self.errors => self.add_error(),
            89..=92 if self.errors => self.use_portal(),
            93..=94 => {
                let sql = self.draw.set();
                self.parse("", sql.clone());
                self.run("", &sql);
            }
            95 if self.allow(Class::DeallocateInPipeline) && self.draw.percent(30) => {
                self.parse("", Sql::DeallocateAll);
                self.run("", &Sql::DeallocateAll);
                self.sure.clear();
            }
            96 => {
                self.parse("", Sql::Empty);
                self.run("", &Sql::Empty);
            }
            97 => self.push(Request::CloseStatement(String::new())),
            _ => self.push(Request::Flush),
        }
    }

    fn parse(&mut self, name: &str, sql: Sql) {
        self.likely.insert(name.to_owned(), sql.clone());
        self.unnamed_is_fresh |= name.is_empty();
        self.push(Request::Parse { name: name.to_owned(), sql });
    }

    /// Any statement, also those of which the text does not say all.
    fn statement(&mut self) -> Sql {
        if self.draw.percent(12) {
            let oid = OIDS[self.draw.random.below(3) as usize];
            return Sql::Typed { k: self.draw.random.below(3) as u32, oid };
        }
        loop {
            let sql = self.draw.statement();
            if self.errors || !matches!(sql, Sql::Divide { .. }) {
                return sql;
            }
        }
    }

    fn add_unnamed(&mut self) {
        let sql = self.statement();
        self.parse("", sql.clone());
        if self.draw.percent(20) {
            self.push(Request::DescribeStatement(String::new()));
        }
        self.run("", &sql);
    }

    /// Binds what was parsed earlier, or nothing.
    fn bind_unnamed(&mut self) {
        let exists = self.likely.contains_key("");
        let allowed = match (exists, self.unnamed_is_fresh) {
            (true, true) => true,
            (true, false) => self.allow(Class::UnnamedLater) && self.allow(Class::UnnamedGone),
            (false, _) => self.allow(Class::UnnamedGone),
        };
        let sql = self.likely.get("").cloned().unwrap_or(Sql::Settings);
        // Half a transfer must not happen again, nor a COPY without its data; also not what was there
        // before this pipeline, and will still be if what replaces it is skipped.
        let before = self.draw.model.session.statements.get("").map(|statement| &statement.sql);
        let is_once = |sql: &Sql| matches!(sql, Sql::Move { .. } | Sql::CopyIn);
        if allowed && !is_once(&sql) && !before.is_some_and(is_once) {
            self.run("", &sql);
        }
    }

    /// The name of a statement to use: one that exists, unless misnaming is allowed.
    fn existing(&mut self) -> Option<String> {
        if self.allow(Class::Misnamed) && self.draw.percent(5) {
            return Some(name(self.draw));
        }
        let index = self.draw.random.below(self.sure.len().max(1) as u64) as usize;
        self.sure.iter().nth(index).cloned()
    }

    fn add_named(&mut self) {
        let known = if self.draw.percent(70) { self.existing() } else { None };
        let Some(name) = known.or_else(|| self.parse_named()) else { return };
        let sql = self.likely.get(&name).cloned().unwrap_or(Sql::Settings);
        self.run(&name, &sql);
    }

    fn parse_named(&mut self) -> Option<String> {
        let name = if self.allow(Class::Misnamed) && self.draw.percent(40) {
            name(self.draw)
        } else {
            let index = self.draw.random.below(self.free.len().max(1) as u64) as usize;
            self.free.iter().nth(index).cloned()?
        };
        let sql = self.statement();
        self.parse(&name, sql);
        self.free.remove(&name);
        self.fresh.insert(name.clone());
        self.sure.insert(name.clone());
        Some(name)
    }

    /// Of names that do not exist too: the server does not mind.
    fn close_named(&mut self) {
        let name = name(self.draw);
        self.sure.remove(&name);
        self.push(Request::CloseStatement(name));
    }

    /// Bind and Execute, with what may be around them.
    fn run(&mut self, name: &str, sql: &Sql) {
        let named = self.errors && self.draw.percent(15);
        let portal = if named { format!("p{}", self.draw.random.below(4)) } else { String::new() };
        let (args, binary) = (self.draw.args(sql), self.draw.percent(30));
        self.push(Request::Bind { portal: portal.clone(), name: name.to_owned(), args, binary });
        if self.draw.percent(30) {
            self.push(Request::DescribePortal(portal.clone()));
        }
        let returns_rows = !sql.columns().is_empty();
        let max = if returns_rows && self.draw.percent(35) { self.draw.between(1, 4) as u32 } else { 0 };
        self.push(Request::Execute { portal: portal.clone(), max });
        while returns_rows && self.draw.percent(if max > 0 { 60 } else { 3 }) {
            let max = self.draw.between(0, 3) as u32;
            self.push(Request::Execute { portal: portal.clone(), max });
        }
        if self.draw.percent(15) {
            self.push(Request::ClosePortal(portal));
        }
    }

    pub(super) fn add_nap(&mut self, ms: u32) {
        self.parse("", Sql::Sleep);
        let args = vec![ms.to_string(), self.draw.mark()];
        self.push(Request::Bind { portal: String::new(), name: String::new(), args, binary: false });
        self.push(Request::Execute { portal: String::new(), max: 0 });
    }

    fn use_portal(&mut self) {
        let portals = self.draw.model.portal_names();
        let Some(portal) = portals.get(self.draw.random.below(4) as usize).cloned() else { return };
        let max = self.draw.random.below(3) as u32;
        let request = match self.draw.random.below(3) {
            0 => Request::ClosePortal(portal),
            1 => Request::DescribePortal(portal),
            _ => Request::Execute { portal, max },
        };
        self.push(request);
    }

    /// Something that makes the server skip the rest of the segment.
    fn add_error(&mut self) {
        let (bad, named) = (Sql::Add { k: 1, owner: None }, self.named && self.draw.percent(40));
        let taken = self.free.iter().next().cloned();
        let name = taken.filter(|_| named).unwrap_or_default();
        let bind = |name: &str, args: Vec<String>| Request::Bind {
            portal: String::new(),
            name: name.to_owned(),
            args,
            binary: false,
        };
        match self.draw.random.below(6) {
            0 => self.push(Request::Parse { name, sql: Sql::Misspelt }),
            1 => self.push(Request::Parse { name, sql: Sql::NoTable }),
            2 => {
                self.parse("", bad);
                let mark = self.draw.mark();
                self.push(bind("", vec!["no number".into(), mark]));
            }
            3 => {
                self.parse("", bad);
                self.push(bind("", Vec::new()));
            }
            4 => self.push(Request::Execute { portal: "nobody's".into(), max: 0 }),
            _ => self.push(Request::DescribePortal("nobody's".into())),
        }
        if self.draw.percent(50) {
            self.add_unnamed();
        }
    }

    pub(super) fn add_copy(&mut self) {
        let sql = match self.draw.percent(35) {
            true => Sql::CopyOut { rows: self.draw.random.below(50) as u32, mark: self.draw.mark() },
            false => Sql::CopyIn,
        };
        self.parse("", sql.clone());
        self.push(Request::Bind { portal: String::new(), name: String::new(), args: Vec::new(), binary: false });
        self.push(Request::Execute { portal: String::new(), max: 0 });
        if sql == Sql::CopyIn {
            let data = self.draw.copy_data();
            self.requests.extend(data);
        }
        if self.draw.percent(40) {
            self.add_unnamed();
        }
        self.sync();
    }
}
