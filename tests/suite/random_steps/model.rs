//! What PostgreSQL answers to the messages of one session: a state machine that is given what was
//! sent and foresees the replies one after the other. It keeps to PostgreSQL's source, in which a
//! pooler must not be told from a server.

use std::collections::{BTreeMap, VecDeque};

use super::request::{Args, Reply, Request};
use super::session::{Session, Transaction};
use super::sql::{Context, Outcome, Sql};

/// Part of a request: expects replies, or changes the state once those before it have come.
enum Op {
    /// A statement of a simple Query.
    Run(Sql, Args),
    /// An Execute.
    Proceed(String, u32),
    Call(String),
    /// Replies foreseen while the request was looked at.
    Expect(Vec<Reply>),
    Store(String, Sql),
    Open(String, Portal),
    /// Has completed with this tag.
    Apply(Sql, String),
    StartCopy,
    /// An error came: the transaction fails, the rest of the request is void.
    Fail,
    /// The end of an implicit transaction.
    Finish,
    Ready,
}

#[derive(Clone)]
struct Portal {
    sql: Sql,
    binary: bool,
    /// As of its Bind.
    outcome: Outcome,
    /// Rows already returned.
    returned: usize,
    /// Whether it has run to its end; only statements that return rows may be executed again.
    done: bool,
}

impl Portal {
    fn new(sql: Sql, binary: bool, outcome: Outcome) -> Portal {
        Portal { sql, binary, outcome, returned: 0, done: false }
    }
}

/// What a COPY from the client has taken in.
#[derive(Default)]
struct CopyIn {
    rows: u32,
    /// The line that is not complete.
    partial: Vec<u8>,
}

/// How an error ends what is being answered.
#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    /// With ReadyForQuery.
    Simple,
    /// By skipping everything up to the next Sync.
    Extended,
}

pub(super) struct Model {
    sent: VecDeque<Request>,
    ops: VecDeque<Op>,
    expected: VecDeque<Reply>,
    answering: Protocol,
    /// An error has made the server discard what comes, up to a Sync.
    skipping: bool,
    copying: Option<CopyIn>,
    /// Whether extended messages were sent that no Sync has followed.
    open: bool,
    portals: BTreeMap<String, Portal>,
    /// What was refused for no other reason than the failed transaction.
    refused: Option<(String, Sql)>,
    pub(super) session: Session,
}

impl Model {
    pub(super) fn new(session: Session) -> Model {
        Model {
            sent: VecDeque::new(),
            ops: VecDeque::new(),
            expected: VecDeque::new(),
            answering: Protocol::Simple,
            skipping: false,
            copying: None,
            open: false,
            portals: BTreeMap::new(),
            refused: None,
            session,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    pub(super) fn portal_names(&self) -> Vec<String> {
        self.portals.keys().cloned().collect()
    }

    pub(super) fn send(&mut self, request: Request) {
        self.sent.push_back(request);
    }

    /// The reply that must come next, `None` when the server owes nothing.
    pub(super) fn expected(&mut self) -> Option<&Reply> {
        while self.expected.is_empty() {
            if self.copying.is_some() {
                let request = self.sent.pop_front()?;
                self.feed(request);
            } else if let Some(op) = self.ops.pop_front() {
                self.perform(op);
            } else {
                let request = self.sent.pop_front()?;
                self.begin(request);
            }
        }
        self.expected.front()
    }

    /// The expected reply has come.
    pub(super) fn advance(&mut self) {
        self.expected.pop_front();
    }

    /// An error came in place of the expected reply, as after a cancel request.
    pub(super) fn interrupt(&mut self) {
        self.expected.clear();
        self.fail();
    }

    /// Whether the expected reply is the refusal of a Parse in a failed transaction; if so,
    /// ParseComplete has come instead.
    pub(super) fn parse_anyway(&mut self) -> bool {
        let Some((name, sql)) = self.refused.take() else { return false };
        self.expected.clear();
        self.ops = VecDeque::from([Op::Store(name, sql)]);
        true
    }

    fn expect(&mut self, replies: impl IntoIterator<Item = Reply>) {
        self.expected.extend(replies);
    }

    fn then(&mut self, op: Op) {
        self.ops.push_front(op);
    }

    fn error(&mut self, codes: &'static [&'static str]) {
        self.expect([Reply::Error(codes)]);
        self.then(Op::Fail);
    }

    fn fail(&mut self) {
        self.refused = None;
        self.ops.clear();
        self.copying = None;
        self.session.roll_back();
        match self.session.transaction {
            Transaction::None => self.end_transaction(),
            Transaction::Block | Transaction::Failed => self.session.transaction = Transaction::Failed,
        }
        match self.answering {
            Protocol::Simple => self.then(Op::Ready),
            Protocol::Extended => self.skipping = true,
        }
    }

    fn end_transaction(&mut self) {
        self.session.transaction = Transaction::None;
        self.session.transactions += 1;
        self.portals.clear();
    }

    fn is_failed(&self) -> bool {
        self.session.transaction == Transaction::Failed
    }

    fn begin(&mut self, request: Request) {
        if self.skipping && !matches!(request, Request::Sync) {
            return;
        }
        self.answering = match request {
            Request::Query(_) | Request::Call(_) | Request::Sync => Protocol::Simple,
            _ => Protocol::Extended,
        };
        match request {
            Request::Query(parts) => return self.query(parts),
            Request::Call(mark) => return self.ops.extend([Op::Call(mark), Op::Finish, Op::Ready]),
            Request::Sync => {
                (self.skipping, self.open) = (false, false);
                return self.ops.extend([Op::Finish, Op::Ready]);
            }
            // Left over from a COPY that has failed; a Flush changes no state.
            Request::CopyData(_) | Request::CopyDone | Request::CopyFail | Request::Flush => return,
            _ => self.open = true,
        }
        match request {
            Request::Parse { name, sql } => self.parse(name, sql),
            Request::Bind { portal, name, args, binary } => self.bind(portal, &name, &args, binary),
            Request::DescribeStatement(name) => self.describe_statement(&name),
            Request::DescribePortal(name) => self.describe_portal(&name),
            Request::Execute { portal, max } => self.then(Op::Proceed(portal, max)),
            Request::CloseStatement(name) => {
                self.session.statements.remove(&name);
                self.expect([Reply::Plain(b'3')]);
            }
            Request::ClosePortal(name) => {
                self.portals.remove(&name);
                self.expect([Reply::Plain(b'3')]);
            }
            _ => {}
        }
    }

    fn query(&mut self, parts: Vec<(Sql, Args)>) {
        self.session.statements.remove("");
        if parts.iter().any(|(sql, _)| *sql == Sql::Misspelt) {
            return self.error(&["42601"]);
        }
        if parts.iter().all(|(sql, _)| *sql == Sql::Empty) {
            self.ops.push_back(Op::Expect(vec![Reply::Plain(b'I')]));
        } else {
            self.ops.extend(parts.into_iter().map(|(sql, args)| Op::Run(sql, args)));
        }
        self.ops.extend([Op::Finish, Op::Ready]);
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Run(sql, args) => self.run(sql, args),
            Op::Proceed(portal, max) => self.proceed(&portal, max),
            Op::Call(_) if self.is_failed() => self.error(&["25P02"]),
            Op::Call(mark) => self.expect([Reply::Result(mark.chars().rev().collect())]),
            Op::Expect(replies) => self.expect(replies),
            Op::Store(name, sql) => self.session.store(name, sql),
            Op::Open(name, portal) => {
                self.portals.insert(name, portal);
            }
            Op::Apply(sql, tag) => self.apply(&sql, &tag),
            Op::StartCopy => self.copying = Some(CopyIn::default()),
            Op::Fail => self.fail(),
            Op::Finish => {
                if self.session.transaction == Transaction::None {
                    self.session.commit();
                    self.end_transaction();
                }
            }
            Op::Ready => {
                let status = self.session.transaction.status();
                self.expect([Reply::Ready(status)]);
            }
        }
    }

    fn context(&self) -> Context {
        Context { owned_rows: self.session.rows.now, settings: self.session.settings.values() }
    }

    /// Why PostgreSQL refuses to plan or begin `sql` at this moment.
    fn refusal(&self, sql: &Sql) -> Option<&'static [&'static str]> {
        let known = |name: &String| self.session.statements.contains_key(name);
        match sql {
            _ if self.is_failed() && !sql.ends_transaction() => Some(&["25P02"]),
            Sql::NoTable => Some(&["42P01"]),
            Sql::Deallocate(name) | Sql::Perform { name, .. } if !known(name) => Some(&["26000"]),
            Sql::Prepare { name, .. } if known(name) => Some(&["42P05"]),
            Sql::DiscardAll if self.session.transaction != Transaction::None => Some(&["25001"]),
            _ => None,
        }
    }

    fn run(&mut self, sql: Sql, args: Args) {
        if let Some(codes) = self.refusal(&sql) {
            if !matches!(codes, ["25P02" | "42P01"]) {
                // Refused when it ran: in a transaction block its portal stays, but PostgreSQL may crash
                // when that is executed.
                self.portals.remove("");
            }
            return self.error(codes);
        }
        self.portals.remove("");
        let (sql, args) = match sql {
            Sql::Perform { name, number, mark } => {
                (self.session.statements[&name].sql.clone(), vec![number.to_string(), mark])
            }
            other => (other, args),
        };
        let columns = sql.columns();
        let outcome = sql.outcome(&args, &self.context());
        if !columns.is_empty() {
            self.expect([Reply::Columns { columns, binary: false }]);
        }
        self.give(&sql, &outcome, 0..outcome.rows.len(), false);
    }

    /// Rows, and what comes after them.
    fn give(&mut self, sql: &Sql, outcome: &Outcome, rows: std::ops::Range<usize>, binary: bool) {
        let count = rows.len();
        self.expect(outcome.rows[rows].iter().map(|cells| Reply::Row { cells: cells.clone(), binary }));
        if let Some(codes) = outcome.fails {
            return self.error(codes);
        }
        match sql {
            Sql::CopyIn => {
                self.expect([Reply::Plain(b'G')]);
                return self.then(Op::StartCopy);
            }
            Sql::CopyOut { rows, mark } => {
                self.expect([Reply::Plain(b'H')]);
                self.expect((1..=*rows).map(|i| Reply::CopyRow(format!("{i}\t{mark}\n"))));
                self.expect([Reply::Plain(b'c')]);
            }
            _ => {}
        }
        let tag = match outcome.tag.as_str() {
            "SELECT" => format!("SELECT {count}"),
            // A failed transaction cannot but be rolled back.
            "COMMIT" if self.is_failed() => "ROLLBACK".to_owned(),
            other => other.to_owned(),
        };
        self.expect([Reply::Complete(tag.clone())]);
        self.then(Op::Apply(sql.clone(), tag));
    }

    fn apply(&mut self, sql: &Sql, tag: &str) {
        match sql {
            Sql::Begin => self.session.transaction = Transaction::Block,
            Sql::Commit if !self.is_failed() => {
                self.session.commit();
                self.end_transaction();
            }
            Sql::Commit | Sql::Rollback => {
                self.session.roll_back();
                self.end_transaction();
            }
            _ => self.session.apply(sql, tag),
        }
    }

    fn parse(&mut self, name: String, sql: Sql) {
        if name.is_empty() {
            self.session.statements.remove("");
        }
        if sql == Sql::Misspelt {
            return self.error(&["42601"]);
        }
        if self.is_failed() && !sql.ends_transaction() && sql != Sql::Empty {
            self.refused = Some((name, sql));
            return self.error(&["25P02"]);
        }
        if sql == Sql::NoTable {
            return self.error(&["42P01"]);
        }
        if self.session.statements.contains_key(&name) {
            return self.error(&["42P05"]);
        }
        self.expect([Reply::Plain(b'1')]);
        self.then(Op::Store(name, sql));
    }

    fn bind(&mut self, portal: String, name: &str, args: &Args, binary: bool) {
        let Some(statement) = self.session.statements.get(name) else { return self.error(&["26000"]) };
        let sql = statement.sql.clone();
        let oids = sql.param_oids();
        if oids.len() != args.len() {
            return self.error(&["08P01"]);
        }
        if self.is_failed() && !sql.ends_transaction() {
            return self.error(&["25P02"]);
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return self.error(&["42P03"]);
        }
        let is_int = |oid: &u32| *oid != super::sql::TEXT;
        if oids.iter().zip(args).any(|(oid, arg)| is_int(oid) && arg.parse::<i64>().is_err()) {
            // PostgreSQL has made the portal by then: in a transaction block it stays, empty.
            self.portals.insert(portal, Portal::new(Sql::Empty, binary, Outcome::default()));
            return self.error(&["22P02"]);
        }
        let outcome = sql.outcome(args, &self.context());
        self.expect([Reply::Plain(b'2')]);
        self.then(Op::Open(portal, Portal::new(sql, binary, outcome)));
    }

    fn describe_statement(&mut self, name: &str) {
        let Some(statement) = self.session.statements.get(name) else { return self.error(&["26000"]) };
        let (columns, oids) = (statement.sql.columns(), statement.sql.param_oids());
        if self.is_failed() && !columns.is_empty() {
            return self.error(&["25P02"]);
        }
        self.expect([Reply::Params(oids)]);
        self.describe(columns, false);
    }

    fn describe_portal(&mut self, name: &str) {
        let Some(portal) = self.portals.get(name) else { return self.error(&["34000"]) };
        let (columns, binary) = (portal.sql.columns(), portal.binary);
        if self.is_failed() && !columns.is_empty() {
            return self.error(&["25P02"]);
        }
        self.describe(columns, binary);
    }

    fn describe(&mut self, columns: Vec<(String, u32)>, binary: bool) {
        match columns.is_empty() {
            true => self.expect([Reply::Plain(b'n')]),
            false => self.expect([Reply::Columns { columns, binary }]),
        }
    }

    fn proceed(&mut self, name: &str, max: u32) {
        let Some(portal) = self.portals.get(name).cloned() else { return self.error(&["34000"]) };
        if portal.sql == Sql::Empty {
            return self.expect([Reply::Plain(b'I')]);
        }
        if let Some(codes) = self.refusal(&portal.sql) {
            return self.error(codes);
        }
        let returns_rows = !portal.sql.columns().is_empty();
        if portal.done && !returns_rows {
            return self.error(&["55000"]);
        }
        let (from, left) = (portal.returned, portal.outcome.rows.len() - portal.returned);
        let suspended = returns_rows && max > 0 && left >= max as usize;
        let to = from + if suspended { max as usize } else { left };
        let entry = self.portals.get_mut(name).expect("looked at above");
        (entry.returned, entry.done) = (to, !suspended);
        if suspended {
            let rows = &portal.outcome.rows[from..to];
            self.expect(rows.iter().map(|cells| Reply::Row { cells: cells.clone(), binary: portal.binary }));
            return self.expect([Reply::Plain(b's')]);
        }
        let context = self.context();
        let outcome = match portal.sql {
            // These are evaluated when executed.
            Sql::Delete { .. } => portal.sql.outcome(&[], &context),
            _ => portal.outcome,
        };
        self.give(&portal.sql, &outcome, from..to, portal.binary);
    }

    /// What a COPY from the client does with a message: Flush and Sync are nothing to it.
    fn feed(&mut self, request: Request) {
        let copy = self.copying.as_mut().expect("a COPY");
        match request {
            Request::CopyData(data) => {
                for byte in data {
                    if byte != b'\n' {
                        copy.partial.push(byte);
                        continue;
                    }
                    let line = std::mem::take(&mut copy.partial);
                    if line.iter().filter(|byte| **byte == b'\t').count() != 1 {
                        // Too many columns.
                        return self.error_in_copy(&["22P04"]);
                    }
                    copy.rows += 1;
                }
            }
            Request::CopyDone => {
                let tag = format!("COPY {}", copy.rows);
                self.copying = None;
                self.expect([Reply::Complete(tag.clone())]);
                self.then(Op::Apply(Sql::CopyIn, tag));
            }
            Request::CopyFail => self.error_in_copy(&["57014"]),
            _ => {}
        }
    }

    fn error_in_copy(&mut self, codes: &'static [&'static str]) {
        self.copying = None;
        self.error(codes);
    }
}
