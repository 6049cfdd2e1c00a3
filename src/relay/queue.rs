//! The requests that wait for their answers, counted by what is asked of them as a whole.

use std::collections::VecDeque;
use std::collections::vec_deque::Iter;
use std::ops::RangeBounds;

use pgweir_proto::backend;

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
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Request::Query | Request::Deallocate | Request::FunctionCall | Request::Sync)
    }

    /// The client does not get what the server says to it.
    pub(super) fn is_ours(&self) -> bool {
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
    pub(super) fn is_closed_by(self, tag: u8) -> bool {
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

/// Requests in their order. What is asked of all of them is counted, since there may be many.
#[derive(Debug, Default)]
pub(super) struct Queue {
    requests: VecDeque<Request>,
    /// How many of them are a Sync.
    syncs: usize,
    /// How many of them end in ReadyForQuery.
    ends: usize,
}

impl Queue {
    #[inline]
    pub(super) fn push_back(&mut self, request: Request) {
        self.syncs += usize::from(request == Request::Sync);
        self.ends += usize::from(request.is_end());
        self.requests.push_back(request);
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<Request> {
        let request = self.requests.pop_front()?;
        self.syncs -= usize::from(request == Request::Sync);
        self.ends -= usize::from(request.is_end());
        Some(request)
    }

    pub(super) fn drain(&mut self, range: impl RangeBounds<usize>) {
        for request in self.requests.drain(range) {
            self.syncs -= usize::from(request == Request::Sync);
            self.ends -= usize::from(request.is_end());
        }
    }

    #[inline]
    pub(super) fn syncs(&self) -> usize {
        self.syncs
    }

    #[inline]
    pub(super) fn ends(&self) -> usize {
        self.ends
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    #[inline]
    pub(super) fn front(&self) -> Option<&Request> {
        self.requests.front()
    }

    pub(super) fn back(&self) -> Option<&Request> {
        self.requests.back()
    }

    pub(super) fn get(&self, at: usize) -> Option<&Request> {
        self.requests.get(at)
    }

    pub(super) fn iter(&self) -> Iter<'_, Request> {
        self.requests.iter()
    }

    pub(super) fn range(&self, range: impl RangeBounds<usize>) -> Iter<'_, Request> {
        self.requests.range(range)
    }
}
