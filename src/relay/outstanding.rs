//! What a server still owes its client, in order.

use std::collections::VecDeque;
use std::sync::LazyLock;

use pgweir_proto::backend::{self, TransactionStatus};
use pgweir_proto::frame;

use super::names::Names;
use super::prepared::Prepared;

/// One thing that a server was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Query: ends in ReadyForQuery.
    Query,
    /// The same; it stands for the client's DEALLOCATE of a name that only the pooler knows.
    Deallocate,
    /// FunctionCall: ends in ReadyForQuery.
    FunctionCall,
    /// Sync: ends in ReadyForQuery.
    Sync,
    /// A message of the extended protocol.
    Step(Step),
    /// CopyDone or CopyFail: no reply of its own, but if the server copies in it marks which
    /// Syncs the server has swallowed (it ignores Sync in copy-in mode).
    CopyEnd,
}

impl Request {
    /// It ends in ReadyForQuery.
    fn is_end(&self) -> bool {
        matches!(self, Request::Query | Request::Deallocate | Request::FunctionCall | Request::Sync)
    }

    /// The client does not get what the server says to it.
    fn is_ours(&self) -> bool {
        matches!(self, Request::Step(step) if step.asker != Asker::Client)
    }
}

/// A message of the extended protocol, which has one closing reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    pub(crate) asker: Asker,
    /// The pooler's statement that it prepares, closes or uses; 0: none.
    pub(crate) statement: u64,
    /// The client's names have changed with it.
    pub(crate) renames: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Parse,
    /// Of the unnamed statement.
    ParseUnnamed,
    Bind,
    Describe,
    Execute,
    Close,
}

/// Who gets the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Client,
    /// The client, and the reply can only be an error.
    Refused,
    /// The same; the client is told that the statement's result has another type now.
    RefusedAsStale,
    /// The pooler itself: the client does not see it, unless it is an error.
    Pooler,
    /// The server was not asked: the client is answered when its turn has come.
    Nobody,
}

impl Step {
    pub(crate) fn client(kind: Kind) -> Step {
        Step { kind, asker: Asker::Client, statement: 0, renames: false }
    }

    /// Whether a message of this tag ends the reply.
    fn is_closed_by(self, tag: u8) -> bool {
        match self.kind {
            Kind::Parse | Kind::ParseUnnamed => {
                tag == backend::PARSE_COMPLETE && !matches!(self.asker, Asker::Refused | Asker::RefusedAsStale)
            }
            Kind::Bind => tag == backend::BIND_COMPLETE,
            Kind::Describe => matches!(tag, backend::ROW_DESCRIPTION | backend::NO_DATA),
            Kind::Execute => {
                matches!(tag, backend::COMMAND_COMPLETE | backend::EMPTY_QUERY_RESPONSE | backend::PORTAL_SUSPENDED)
            }
            Kind::Close => tag == backend::CLOSE_COMPLETE,
        }
    }
}

/// What an ErrorResponse says of a prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatementError {
    /// It is not there.
    Missing,
    /// Its result has another type than when it was prepared.
    Stale,
    /// Any other feature that is not supported.
    NotSupported,
    Other,
}

/// What becomes of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Forward,
    /// It was the pooler that asked.
    Hide,
    /// The client gets this instead.
    Replace(&'static [u8]),
}

/// What hangs on the answers: the client's names and the server's statements.
pub(crate) struct Books<'a> {
    pub(crate) names: &'a mut Names,
    pub(crate) prepared: &'a mut Prepared,
}

const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";
/// "cached plan must not change result type" in PostgreSQL's words; drivers look at code and routine.
static STALE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::new();
    let fields =
        b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0Fplancache.c\0RRevalidateCachedQuery\0\0";
    frame::message(&mut out, backend::ERROR_RESPONSE, fields);
    out
});
const DEALLOCATED: &[u8] = b"C\0\0\0\x0fDEALLOCATE\0";

/// Ends of copies in a row that are remembered. One Query may hold several COPYs, but a client
/// can also send CopyDone without end to no purpose.
const COPY_ENDS_MAX: usize = 64;

/// As many requests may be under way: what the pooler answers itself does not even fill a socket.
const REQUESTS_MAX: usize = 16 * 1024;

/// It cannot be told any more which replies are whose, and it matters: both sides must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfStep;

/// A reply that nothing was asked for. The two sides are out of step, so both must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unexpected {
    pub(crate) tag: u8,
}

/// The requests that a server has not answered yet.
///
/// ```text
///            request                     ReadyForQuery, nothing left, 'I'
///   idle ─────────────▶ outstanding ────────────────────────────▶ idle
///                        │       ▲
///     error in an        ▼       │ ReadyForQuery of the group's Sync
///     extended group   skipping ─┘
/// ```
#[derive(Debug)]
pub(crate) struct Outstanding {
    queue: VecDeque<Request>,
    /// Syncs sent so far: the number of the group that is being sent.
    group: u64,
    /// An error ended an extended group: the server ignores everything up to its Sync.
    skipping: bool,
    /// Between CopyInResponse or CopyBothResponse and the end of that copy.
    copy_in: bool,
    /// It cannot be told which Syncs the server will answer (a failed COPY with Syncs in it).
    /// The client is served on, but the server must not be used again.
    doubtful: bool,
    /// The last ReadyForQuery said so and nothing was asked since.
    status: Option<TransactionStatus>,
    /// What the last ReadyForQuery said.
    last_status: TransactionStatus,
}

impl Outstanding {
    /// The state of a server that has just logged in.
    pub(crate) fn new() -> Outstanding {
        Outstanding {
            queue: VecDeque::new(),
            group: 0,
            skipping: false,
            copy_in: false,
            doubtful: false,
            status: Some(TransactionStatus::Idle),
            last_status: TransactionStatus::Idle,
        }
    }

    /// The transaction, if one is open, has not failed, and only this group can make it fail.
    pub(crate) fn is_status_sure(&self) -> bool {
        self.last_status != TransactionStatus::Failed && !self.queue.iter().any(Request::is_end)
    }

    /// Nothing is owed and no transaction is open: another client may have the server.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.status == Some(TransactionStatus::Idle) && self.queue.is_empty()
    }

    /// Every request was answered, whatever the transaction's state.
    #[inline]
    pub(crate) fn is_answered(&self) -> bool {
        self.queue.is_empty()
    }

    /// Everything was answered, and the transaction, if one is open, has not failed.
    pub(crate) fn is_at_ease(&self) -> bool {
        matches!(self.status, Some(TransactionStatus::Idle | TransactionStatus::InBlock)) && self.queue.is_empty()
    }

    /// The server must be closed when its client is done with it.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// So much is under way that the client has to wait.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= REQUESTS_MAX
    }

    /// Enough was answered for the client to go on after `is_full`.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() <= REQUESTS_MAX / 2
    }

    /// The group that is being sent: what stands between two Syncs.
    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    /// What is sent up to the next Sync will be ignored by the server.
    #[inline]
    pub(crate) fn is_skipping(&self) -> bool {
        self.skipping && !self.queue.contains(&Request::Sync)
    }

    /// Exactly one ReadyForQuery is owed, and nothing behind it.
    pub(crate) fn is_one_request(&self) -> bool {
        self.queue.iter().filter(|r| r.is_end()).count() == 1 && self.queue.back().is_some_and(Request::is_end)
    }

    pub(crate) fn is_copying_in(&self) -> bool {
        self.copy_in
    }

    /// The client, or the pooler for it, sent `request` to the server.
    #[inline]
    pub(crate) fn request(&mut self, request: Request) {
        if request == Request::CopyEnd {
            // Of no meaning unless a copy is, or may yet be, under way.
            let last_are_ends = self.queue.iter().rev().take(COPY_ENDS_MAX).all(|r| *r == Request::CopyEnd);
            let is_flood = last_are_ends && self.queue.len() > COPY_ENDS_MAX;
            if !self.queue.is_empty() && !is_flood {
                self.queue.push_back(request);
            }
            return;
        }
        self.status = None;
        self.group += u64::from(request == Request::Sync);
        if !self.is_swallowed(request) {
            self.queue.push_back(request);
        }
    }

    /// The server will say nothing to it and it need not be remembered: what a server swallows,
    /// a client can send without end.
    fn is_swallowed(&self, request: Request) -> bool {
        if self.skipping {
            return request != Request::Sync && self.is_skipping();
        }
        // One Sync in a copy tells as much as many.
        self.copy_in
            && request == Request::Sync
            && self.queue.len() > 1
            && self.queue.iter().skip(1).all(|r| *r == Request::Sync)
    }

    /// The answer to what the server was not asked, if it is its turn.
    #[inline]
    pub(crate) fn answer(&mut self, books: &mut Books<'_>) -> Option<&'static [u8]> {
        let Some(Request::Step(step @ Step { asker: Asker::Nobody, .. })) = self.queue.front() else { return None };
        let step = *step;
        if self.skipping {
            return None;
        }
        self.queue.pop_front();
        self.drop_copy_ends();
        if step.renames {
            books.names.confirm();
        }
        Some(if step.kind == Kind::Close { CLOSE_COMPLETE } else { PARSE_COMPLETE })
    }

    /// The server sent a message other than ReadyForQuery and ErrorResponse.
    #[inline]
    pub(crate) fn reply(&mut self, tag: u8, books: &mut Books<'_>) -> Result<Verdict, Unexpected> {
        match tag {
            backend::DATA_ROW | backend::COPY_DATA => Ok(Verdict::Forward),
            backend::COMMAND_COMPLETE => {
                if self.copy_in {
                    self.end_copy(false);
                }
                self.complete(tag, books)
            }
            backend::PARSE_COMPLETE
            | backend::BIND_COMPLETE
            | backend::CLOSE_COMPLETE
            | backend::NO_DATA
            | backend::ROW_DESCRIPTION
            | backend::EMPTY_QUERY_RESPONSE
            | backend::PORTAL_SUSPENDED => self.complete(tag, books),
            backend::COPY_IN_RESPONSE | backend::COPY_BOTH_RESPONSE => {
                self.copy_in = true;
                Ok(Verdict::Forward)
            }
            _ => Ok(Verdict::Forward),
        }
    }

    /// The server sent ErrorResponse.
    pub(crate) fn error(&mut self, said: StatementError, books: &mut Books<'_>) -> Result<Verdict, OutOfStep> {
        if self.copy_in {
            let swallowed = self.end_copy(true);
            // A driver sends one Sync behind the Execute that begins a copy, and the server reads it
            // before any data. Whoever has sent others waits for an unknown number of answers.
            let is_usual = swallowed == 0 || swallowed == 1 && matches!(self.queue.front(), Some(Request::Step(_)));
            if !is_usual {
                return Err(OutOfStep);
            }
        }
        let Some(Request::Step(step)) = self.queue.front() else { return Ok(Verdict::Forward) };
        self.skipping = true;
        let is_stale_here = step.asker == Asker::RefusedAsStale && said == StatementError::NotSupported;
        match said {
            // Somebody has taken it from the server behind our back.
            StatementError::Missing if step.statement != 0 => books.prepared.distrust(),
            StatementError::Stale => books.names.renew(step.statement),
            _ if is_stale_here => {
                books.names.renew(step.statement);
                return Ok(Verdict::Replace(&STALE));
            }
            StatementError::Missing | StatementError::NotSupported | StatementError::Other => {}
        }
        Ok(Verdict::Forward)
    }

    /// The server sent ReadyForQuery.
    #[inline]
    pub(crate) fn ready(&mut self, status: TransactionStatus, books: &mut Books<'_>) -> Result<(), Unexpected> {
        if !self.pop_ready(books) && !self.doubtful {
            return Err(Unexpected { tag: backend::READY_FOR_QUERY });
        }
        self.drop_copy_ends();
        self.copy_in = false;
        self.last_status = status;
        if self.queue.is_empty() {
            self.status = Some(status);
            books.names.settle();
        }
        Ok(())
    }

    /// Removes the request that this ReadyForQuery answers, and what stood before it.
    #[inline]
    fn pop_ready(&mut self, books: &mut Books<'_>) -> bool {
        let skipping = std::mem::take(&mut self.skipping);
        let ends = |r: &Request| match r {
            Request::Sync => true,
            // In a failed group the server skips these as well.
            Request::Query | Request::Deallocate | Request::FunctionCall => !skipping,
            Request::Step(_) | Request::CopyEnd => false,
        };
        let (end, found) = match self.queue.iter().position(ends) {
            Some(0) => return self.queue.pop_front().is_some(),
            Some(end) => (end, true),
            None => (self.queue.len(), false),
        };
        let is_step = |r: &Request| matches!(r, Request::Step(_));
        self.doubtful |= !skipping && self.queue.range(..end).any(is_step);
        self.undo(0, end, books);
        if let (true, Some(Request::Step(Step { kind: Kind::ParseUnnamed, .. }))) = (skipping, self.queue.front()) {
            // Not skipped but failed, and the old one went before the server looked at the new.
            books.names.lose_unnamed();
        }
        self.queue.drain(..(end + usize::from(found)));
        found
    }

    /// What the server has skipped of the queue, from `from` to `end`, had no effect.
    fn undo(&self, from: usize, end: usize, books: &mut Books<'_>) {
        let renames = |r: &&Request| matches!(r, Request::Step(Step { renames: true, .. }));
        let n = self.queue.range(from..end).filter(renames).count();
        books.names.undo(n);
        for request in self.queue.range(from..end).rev() {
            if let Request::Step(step) = request
                && step.statement != 0
            {
                match step.kind {
                    Kind::Parse if step.asker != Asker::Refused => books.prepared.parse_undone(step.statement),
                    Kind::Close => books.prepared.close_undone(step.statement),
                    _ => {}
                }
            }
        }
    }

    /// One closing reply of an extended request; those of a Query count for nothing.
    #[inline]
    fn complete(&mut self, tag: u8, books: &mut Books<'_>) -> Result<Verdict, Unexpected> {
        let step = match self.queue.front() {
            Some(Request::Step(step)) => *step,
            Some(Request::Deallocate) if tag == backend::EMPTY_QUERY_RESPONSE => {
                return Ok(Verdict::Replace(DEALLOCATED));
            }
            _ => return Ok(Verdict::Forward),
        };
        if self.doubtful && !step.is_closed_by(tag) && !self.queue.iter().any(Request::is_ours) {
            return Ok(Verdict::Forward);
        }
        if !step.is_closed_by(tag) || step.asker == Asker::Nobody {
            return Err(Unexpected { tag });
        }
        self.queue.pop_front();
        self.drop_copy_ends();
        match step.kind {
            Kind::Parse if step.statement != 0 => books.prepared.parsed(step.statement),
            Kind::Close if step.statement != 0 => books.prepared.closed(step.statement),
            _ => {}
        }
        if step.renames {
            books.names.confirm();
        }
        Ok(if step.asker == Asker::Pooler { Verdict::Hide } else { Verdict::Forward })
    }

    /// The ends of copies that never were stand for nothing.
    fn drop_copy_ends(&mut self) {
        while self.queue.front() == Some(&Request::CopyEnd) {
            self.queue.pop_front();
        }
    }

    /// Copy-in is over: the Syncs sent during it were ignored by the server. It takes nothing else
    /// but the end of the copy meanwhile, so what else was sent it reads only now.
    /// Returns how many Syncs.
    fn end_copy(&mut self, failed: bool) -> usize {
        self.copy_in = false;
        let is_sync = |r: &&Request| **r == Request::Sync;
        // The request that started the copy stands first and stays.
        let from = 1.min(self.queue.len());
        let syncs = self.queue.range(from..).take_while(is_sync).count();
        let is_ended = self.queue.get(from + syncs) == Some(&Request::CopyEnd);
        self.queue.drain(from..from + syncs + usize::from(is_ended));
        // The server may have ended a copy that the client has not. After a failure it depends on
        // where in the stream the server noticed it.
        self.doubtful |= if failed { syncs > 0 } else { !is_ended };
        syncs
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::prepared::Known;
    use super::super::statement::{Dialect, Statement, intern};
    use super::*;
    use TransactionStatus::{Idle, InBlock};

    /// A server's queue with what hangs on it.
    #[derive(Default)]
    struct Bench {
        names: Names,
        prepared: Prepared,
    }

    impl Bench {
        fn feed(&mut self, o: &mut Outstanding, replies: &str) -> Result<Vec<Verdict>, Unexpected> {
            let mut books = Books { names: &mut self.names, prepared: &mut self.prepared };
            let mut verdicts = Vec::new();
            for tag in replies.bytes() {
                match tag {
                    b'Z' => o.ready(Idle, &mut books)?,
                    b'z' => o.ready(InBlock, &mut books)?,
                    b'E' => verdicts.push(o.error(StatementError::Other, &mut books).expect("in step")),
                    b'e' => verdicts.push(o.error(StatementError::Stale, &mut books).expect("in step")),
                    b'x' => verdicts.push(o.error(StatementError::NotSupported, &mut books).expect("in step")),
                    tag => verdicts.push(o.reply(tag, &mut books)?),
                }
            }
            Ok(verdicts)
        }
    }

    fn step(kind: Kind) -> Request {
        Request::Step(Step::client(kind))
    }

    /// Queues Query, Function call, Sync, Parse, Bind, Describe, Execute, cLose, Copy end.
    fn ask(o: &mut Outstanding, requests: &str) {
        for request in requests.bytes() {
            o.request(match request {
                b'Q' => Request::Query,
                b'F' => Request::FunctionCall,
                b'S' => Request::Sync,
                b'P' => step(Kind::Parse),
                b'B' => step(Kind::Bind),
                b'D' => step(Kind::Describe),
                b'E' => step(Kind::Execute),
                b'L' => step(Kind::Close),
                _ => Request::CopyEnd,
            });
        }
    }

    fn feed(o: &mut Outstanding, replies: &str) {
        Bench::default().feed(o, replies).unwrap();
    }

    /// Feeds requests, then reply tags; `Z` is ReadyForQuery idle, `z` in a block.
    fn after(requests: &str, replies: &str) -> Outstanding {
        let mut o = Outstanding::new();
        ask(&mut o, requests);
        feed(&mut o, replies);
        o
    }

    #[test]
    fn simple_and_extended_queries_end_idle() {
        assert!(after("", "").is_idle());
        assert!(!after("Q", "TDC").is_idle());
        assert!(after("Q", "TDCZ").is_idle());
        assert!(after("F", "VZ").is_idle());
        assert!(after("PBDES", "12TDCZ").is_idle());
        let in_block = after("Q", "Cz");
        assert!(in_block.is_answered() && !in_block.is_idle());
    }

    #[test]
    fn a_pipeline_is_idle_only_after_its_last_sync() {
        assert!(!after("PBESPBES", "12CZ").is_idle());
        assert!(after("PBESPBES", "12CZ12CZ").is_idle());
    }

    #[test]
    fn flush_without_sync_is_answered_but_not_idle() {
        let mut o = after("PB", "12");
        assert!(o.is_answered() && !o.is_idle());
        ask(&mut o, "S");
        feed(&mut o, "Z");
        assert!(o.is_idle());
    }

    #[test]
    fn an_error_skips_to_the_groups_sync_even_past_a_query() {
        assert!(after("PBDEQS", "1EZ").is_idle());
        assert!(!after("PBDESPBS", "1EZ").is_idle());
        // A Query's own error is answered by its own ReadyForQuery.
        assert!(!after("QQ", "EZ").is_idle());
        assert!(after("QQ", "EZCZ").is_idle());
        // An error while a Sync commits.
        assert!(after("BES", "2CEZ").is_idle());
    }

    #[test]
    fn syncs_in_a_copy_are_not_answered() {
        let mut o = after("BES", "2G");
        assert!(o.is_copying_in());
        ask(&mut o, "cS");
        feed(&mut o, "CZ");
        assert!(o.is_idle() && !o.is_doubtful());
    }

    #[test]
    fn a_copy_may_be_sent_before_the_server_asks_for_it() {
        let o = after("PBEcSPBES", "12GCZ12CZ");
        assert!(o.is_idle() && !o.is_doubtful());
        assert!(after("QcQ", "GCZCZ").is_idle());
        // It turns out to be none.
        assert!(after("QcQ", "EZCZ").is_idle());
        assert!(after("PBEcS", "1EZ").is_idle());
        assert!(after("PcS", "1Z").is_idle());
    }

    #[test]
    fn a_failed_copy_with_syncs_leaves_a_doubt() {
        let mut o = after("BES", "2GE");
        ask(&mut o, "cS");
        feed(&mut o, "Z");
        assert!(o.is_idle() && o.is_doubtful());
        // Without a Sync in it there is none.
        let mut o = after("Q", "G");
        ask(&mut o, "c");
        feed(&mut o, "EZ");
        assert!(o.is_idle() && !o.is_doubtful());
        // Nor when the server fails before the client has ended its copy.
        let mut o = after("Q", "GEZ");
        ask(&mut o, "c");
        assert!(o.is_idle() && o.is_answered() && !o.is_doubtful());
    }

    #[test]
    fn only_syncs_are_swallowed_by_a_copy() {
        // The copy had failed before the server read the rest, which it answers.
        let mut o = after("QPBc", "GEZ");
        assert!(!o.is_answered());
        feed(&mut o, "12");
        assert!(o.is_answered() && !o.is_idle() && !o.is_doubtful());
        let mut o = after("QQc", "GEZ");
        assert!(!o.is_answered());
        // The end is the second copy's.
        feed(&mut o, "GCZ");
        assert!(o.is_idle() && !o.is_doubtful());
        let mut o = after("Q", "G");
        ask(&mut o, "PSS");
        feed(&mut o, "EZ1ZZ");
        assert!(o.is_idle() && !o.is_doubtful());
    }

    #[test]
    fn a_failed_copy_with_unusual_syncs_ends_both() {
        for requests in ["QS", "BESS"] {
            let mut o = Outstanding::new();
            ask(&mut o, requests);
            let mut bench = Bench::default();
            bench.feed(&mut o, if requests.starts_with('B') { "2G" } else { "G" }).unwrap();
            let mut books = Books { names: &mut bench.names, prepared: &mut bench.prepared };
            assert_eq!(o.error(StatementError::Other, &mut books), Err(OutOfStep), "{requests}");
        }
    }

    #[test]
    fn what_a_server_swallows_takes_no_memory() {
        let mut o = after("PBE", "12G");
        (0..1000).for_each(|_| ask(&mut o, "S"));
        assert!(o.queue.len() <= 2);
        ask(&mut o, "cS");
        feed(&mut o, "CZ");
        assert!(o.is_idle() && !o.is_doubtful());
        let mut o = after("Q", "");
        (0..1000).for_each(|_| ask(&mut o, "c"));
        assert!(o.queue.len() <= COPY_ENDS_MAX + 1);
        let mut o = after("P", "E");
        (0..1000).for_each(|_| ask(&mut o, "QP"));
        assert_eq!(o.queue.len(), 1);
        ask(&mut o, "SQ");
        feed(&mut o, "ZCZ");
        assert!(o.is_idle());
    }

    #[test]
    fn one_request_is_one_ready() {
        for (requests, is_one) in
            [("Q", true), ("PBES", true), ("PBE", false), ("", false), ("QP", false), ("QS", false)]
        {
            assert_eq!(after(requests, "").is_one_request(), is_one, "{requests}");
        }
    }

    #[test]
    fn a_reply_to_something_else_is_a_fault() {
        for (requests, replies) in
            [("", "Z"), ("PS", "2"), ("BS", "1"), ("BS", "C"), ("DS", "3"), ("ES", "T"), ("LS", "1"), ("QS", "CZZZ")]
        {
            let mut o = Outstanding::new();
            ask(&mut o, requests);
            assert!(Bench::default().feed(&mut o, replies).is_err(), "{requests} {replies}");
        }
    }

    fn statement(text: &str) -> Arc<Statement> {
        intern(format!("outstanding {text}\0\0\0").as_bytes(), Dialect(1))
    }

    #[test]
    fn what_the_pooler_asks_is_hidden_and_what_it_knows_is_answered_in_turn() {
        let a = statement("a");
        let (mut bench, mut o) = (Bench::default(), Outstanding::new());
        let hidden = Step { asker: Asker::Pooler, statement: a.id, ..Step::client(Kind::Parse) };
        let unasked = Step { asker: Asker::Nobody, ..Step::client(Kind::Close) };
        bench.prepared.begin(&a, o.group());
        for request in [Request::Step(hidden), step(Kind::Bind), Request::Step(unasked), Request::Sync] {
            o.request(request);
        }
        let answer = |bench: &mut Bench, o: &mut Outstanding| {
            o.answer(&mut Books { names: &mut bench.names, prepared: &mut bench.prepared })
        };
        assert_eq!(bench.feed(&mut o, "1"), Ok(vec![Verdict::Hide]));
        assert_eq!((answer(&mut bench, &mut o), bench.prepared.look(&a, 9)), (None, Known::Ready));
        assert_eq!(bench.feed(&mut o, "2"), Ok(vec![Verdict::Forward]));
        assert_eq!(answer(&mut bench, &mut o), Some(CLOSE_COMPLETE));
        assert_eq!(bench.feed(&mut o, "Z"), Ok(vec![]));
        assert!(o.is_idle());
    }

    #[test]
    fn an_error_undoes_what_it_has_skipped_and_no_more() {
        let (a, b) = (statement("a"), statement("b"));
        let (mut bench, mut o) = (Bench::default(), Outstanding::new());
        let named = |statement: &Arc<Statement>| {
            let step = Step { statement: statement.id, renames: true, ..Step::client(Kind::Parse) };
            Request::Step(step)
        };
        for (name, statement) in [(b"a", &a), (b"b", &b)] {
            o.request(named(statement));
            bench.prepared.begin(statement, o.group());
            bench.names.insert(name, Arc::clone(statement), 1);
        }
        ask(&mut o, "S");
        bench.feed(&mut o, "1EZ").unwrap();
        assert!(bench.names.get(b"a").is_some() && bench.names.get(b"b").is_none());
        assert_eq!((bench.prepared.look(&a, 9), bench.prepared.look(&b, 9)), (Known::Ready, Known::Absent));
    }

    #[test]
    fn whoever_is_told_of_a_stale_plan_goes_on_with_a_new_statement() {
        let (a, mut bench, mut o) = (statement("stale"), Bench::default(), Outstanding::new());
        bench.names.insert(b"a", Arc::clone(&a), 0);
        bench.names.confirm();
        o.request(Request::Step(Step { statement: a.id, ..Step::client(Kind::Bind) }));
        ask(&mut o, "ES");
        assert_eq!(bench.feed(&mut o, "eZ"), Ok(vec![Verdict::Forward]));
        let new = bench.names.get(b"a").unwrap().id;
        assert!(a.is_retired() && new != a.id);
        // Elsewhere the server does not say so by itself.
        let stale = Step { asker: Asker::RefusedAsStale, statement: new, ..Step::client(Kind::Parse) };
        o.request(Request::Step(stale));
        ask(&mut o, "BES");
        assert_eq!(bench.feed(&mut o, "xZ"), Ok(vec![Verdict::Replace(&STALE)]));
        assert!(bench.names.get(b"a").unwrap().id > new && o.is_idle());
    }
}
