//! What a server still owes its client, in order.

use std::sync::LazyLock;

use pgweir_proto::backend::{self, TransactionStatus};
use pgweir_proto::frame;

use super::names::Names;
use super::prepared::Prepared;
use super::queue::{Asker, Kind, Queue, Request, Step};

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
    queue: Queue,
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
            queue: Queue::default(),
            group: 0,
            skipping: false,
            copy_in: false,
            doubtful: false,
            status: Some(TransactionStatus::Idle),
            last_status: TransactionStatus::Idle,
        }
    }

    /// The transaction's state, if nothing is under way either way: the last that was sent was a ReadyForQuery.
    pub(crate) fn resting(&self) -> Option<TransactionStatus> {
        self.status.filter(|_| self.queue.is_empty() && !self.skipping && !self.copy_in)
    }

    /// The state of a server that rests so.
    pub(crate) fn rest(status: TransactionStatus, is_doubtful: bool) -> Outstanding {
        Outstanding { status: Some(status), last_status: status, doubtful: is_doubtful, ..Outstanding::new() }
    }

    /// The transaction, if one is open, has not failed, and only this group can make it fail.
    pub(crate) fn is_status_sure(&self) -> bool {
        self.last_status != TransactionStatus::Failed && self.queue.ends() == 0
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
        self.queue.len() >= REQUESTS_MAX && !self.is_clients_turn()
    }

    /// Enough was answered for the client to go on after `is_full`.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() <= REQUESTS_MAX / 2 || self.is_clients_turn()
    }

    /// The server says nothing more before it gets the Sync to which it skips, or the data of a
    /// COPY, behind which it has only Syncs to swallow.
    fn is_clients_turn(&self) -> bool {
        self.is_skipping() || self.copy_in && self.queue.syncs() + 1 == self.queue.len()
    }

    /// The group that is being sent: what stands between two Syncs.
    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    /// What is sent up to the next Sync will be ignored by the server.
    #[inline]
    pub(crate) fn is_skipping(&self) -> bool {
        self.skipping && self.queue.syncs() == 0
    }

    /// Exactly one ReadyForQuery is owed, and nothing behind it.
    pub(crate) fn is_one_request(&self) -> bool {
        self.queue.ends() == 1 && self.queue.back().is_some_and(Request::is_end)
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
mod tests;
