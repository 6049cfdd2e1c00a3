//! What a server still owes its client, in order.

use std::collections::VecDeque;

use pgweir_proto::backend::{self, TransactionStatus};

/// One thing that a client asked for, or a run of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Query: ends in ReadyForQuery.
    Query,
    /// FunctionCall: ends in ReadyForQuery.
    FunctionCall,
    /// Sync: ends in ReadyForQuery.
    Sync,
    /// So many of Parse, Bind, Describe, Execute and Close, each with one closing reply.
    Extended(u32),
    /// CopyDone or CopyFail: no reply of its own, but if the server copies in it marks which
    /// Syncs the server has swallowed (it ignores Sync in copy-in mode).
    CopyEnd,
}

/// Ends of copies in a row that are remembered. One Query may hold several COPYs, but a client
/// can also send CopyDone without end to no purpose.
const COPY_ENDS_MAX: usize = 64;

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
    /// An error ended an extended group: the server ignores everything up to its Sync.
    skipping: bool,
    /// Between CopyInResponse or CopyBothResponse and the end of that copy.
    copy_in: bool,
    /// It cannot be told which Syncs the server will answer (a failed COPY with Syncs in it).
    /// The client is served on, but the server must not be used again.
    doubtful: bool,
    /// The last ReadyForQuery said so and nothing was asked since.
    status: Option<TransactionStatus>,
}

impl Outstanding {
    /// The state of a server that has just logged in.
    pub(crate) fn new() -> Outstanding {
        Outstanding {
            queue: VecDeque::new(),
            skipping: false,
            copy_in: false,
            doubtful: false,
            status: Some(TransactionStatus::Idle),
        }
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

    /// The server must be closed when its client is done with it.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Exactly one ReadyForQuery is owed, and nothing behind it.
    pub(crate) fn is_one_request(&self) -> bool {
        let ends = |r: &&Request| matches!(r, Request::Query | Request::FunctionCall | Request::Sync);
        self.queue.iter().filter(ends).count() == 1 && self.queue.back().as_ref().is_some_and(ends)
    }

    pub(crate) fn is_copying_in(&self) -> bool {
        self.copy_in
    }

    /// The client sent `request` to the server.
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
        if self.is_swallowed(request) {
            return;
        }
        if let (Request::Extended(more), Some(Request::Extended(n))) = (request, self.queue.back_mut()) {
            *n = n.saturating_add(more);
        } else {
            self.queue.push_back(request);
        }
    }

    /// The server will say nothing to it and it need not be remembered: what a server swallows,
    /// a client can send without end.
    fn is_swallowed(&self, request: Request) -> bool {
        if self.skipping {
            return request != Request::Sync && !self.queue.contains(&Request::Sync);
        }
        // One Sync in a copy tells as much as many.
        self.copy_in
            && request == Request::Sync
            && self.queue.back() == Some(&Request::Sync)
            && !self.queue.contains(&Request::CopyEnd)
    }

    /// The server sent a message other than ReadyForQuery.
    #[inline]
    pub(crate) fn reply(&mut self, tag: u8) {
        match tag {
            backend::DATA_ROW | backend::COPY_DATA => {}
            backend::COMMAND_COMPLETE => {
                if self.copy_in {
                    self.end_copy(false);
                }
                self.complete_one();
            }
            backend::PARSE_COMPLETE
            | backend::BIND_COMPLETE
            | backend::CLOSE_COMPLETE
            | backend::NO_DATA
            | backend::ROW_DESCRIPTION
            | backend::EMPTY_QUERY_RESPONSE
            | backend::PORTAL_SUSPENDED => self.complete_one(),
            backend::COPY_IN_RESPONSE | backend::COPY_BOTH_RESPONSE => self.copy_in = true,
            backend::ERROR_RESPONSE => {
                if self.copy_in {
                    self.end_copy(true);
                }
                self.skipping |= matches!(self.queue.front(), Some(Request::Extended(_)));
            }
            _ => {}
        }
    }

    /// The server sent ReadyForQuery.
    #[inline]
    pub(crate) fn ready(&mut self, status: TransactionStatus) -> Result<(), Unexpected> {
        if !self.pop_ready() && !self.doubtful {
            return Err(Unexpected { tag: backend::READY_FOR_QUERY });
        }
        self.drop_copy_ends();
        self.copy_in = false;
        if self.queue.is_empty() {
            self.status = Some(status);
        }
        Ok(())
    }

    /// Removes the request that this ReadyForQuery answers, and what stood before it.
    fn pop_ready(&mut self) -> bool {
        let skipping = std::mem::take(&mut self.skipping);
        while let Some(request) = self.queue.pop_front() {
            match request {
                Request::Sync => return true,
                // In a failed group the server skips these as well.
                Request::Query | Request::FunctionCall if !skipping => return true,
                Request::Query | Request::FunctionCall | Request::CopyEnd => {}
                Request::Extended(_) => self.doubtful |= !skipping,
            }
        }
        false
    }

    /// One closing reply of an extended request; those of a Query count for nothing.
    #[inline]
    fn complete_one(&mut self) {
        if let Some(Request::Extended(n)) = self.queue.front_mut() {
            *n -= 1;
            if *n == 0 {
                self.queue.pop_front();
                self.drop_copy_ends();
            }
        }
    }

    /// The ends of copies that never were stand for nothing.
    fn drop_copy_ends(&mut self) {
        while self.queue.front() == Some(&Request::CopyEnd) {
            self.queue.pop_front();
        }
    }

    /// Copy-in is over: the Syncs sent during it were ignored by the server.
    fn end_copy(&mut self, failed: bool) {
        self.copy_in = false;
        let swallowed = match self.queue.iter().position(|r| *r == Request::CopyEnd) {
            // The request that started the copy stands first and stays.
            Some(end) => self.queue.drain(1.min(end)..=end).any(|r| r == Request::Sync),
            None if !failed => {
                // The server has ended a copy that the client has not.
                self.doubtful = true;
                false
            }
            None => {
                let before = self.queue.len();
                self.queue.retain(|r| *r != Request::Sync);
                before != self.queue.len()
            }
        };
        // After a failure it depends on where in the stream the server noticed it.
        self.doubtful |= failed && swallowed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TransactionStatus::{Idle, InBlock};

    /// Feeds requests, then reply tags; `Z` is ReadyForQuery idle, `z` in a block.
    fn after(requests: &[Request], replies: &str) -> Outstanding {
        let mut o = Outstanding::new();
        requests.iter().for_each(|r| o.request(*r));
        feed(&mut o, replies);
        o
    }

    fn feed(o: &mut Outstanding, replies: &str) {
        for tag in replies.bytes() {
            match tag {
                b'Z' => o.ready(Idle).unwrap(),
                b'z' => o.ready(InBlock).unwrap(),
                tag => o.reply(tag),
            }
        }
    }

    use Request::{CopyEnd, Extended, FunctionCall, Query, Sync};

    #[test]
    fn simple_and_extended_queries_end_idle() {
        assert!(after(&[], "").is_idle());
        assert!(!after(&[Query], "TDC").is_idle());
        assert!(after(&[Query], "TDCZ").is_idle());
        assert!(after(&[FunctionCall], "VZ").is_idle());
        assert!(after(&[Extended(1), Extended(1), Extended(1), Extended(1), Sync], "12TDCZ").is_idle());
        let in_block = after(&[Query], "Cz");
        assert!(in_block.is_answered() && !in_block.is_idle());
    }

    #[test]
    fn a_pipeline_is_idle_only_after_its_last_sync() {
        let group = [Extended(3), Sync, Extended(3), Sync];
        assert!(!after(&group, "12CZ").is_idle());
        assert!(after(&group, "12CZ12CZ").is_idle());
    }

    #[test]
    fn flush_without_sync_is_answered_but_not_idle() {
        let mut o = after(&[Extended(2)], "12");
        assert!(o.is_answered() && !o.is_idle());
        o.request(Sync);
        feed(&mut o, "Z");
        assert!(o.is_idle());
    }

    #[test]
    fn an_error_skips_to_the_groups_sync_even_past_a_query() {
        assert!(after(&[Extended(4), Query, Sync], "1EZ").is_idle());
        let o = after(&[Extended(4), Sync, Extended(2), Sync], "1EZ");
        assert!(!o.is_idle());
        // A Query's own error is answered by its own ReadyForQuery.
        assert!(!after(&[Query, Query], "EZ").is_idle());
        assert!(after(&[Query, Query], "EZCZ").is_idle());
        // An error while a Sync commits.
        assert!(after(&[Extended(2), Sync], "2CEZ").is_idle());
    }

    #[test]
    fn syncs_in_a_copy_are_not_answered() {
        let mut o = after(&[Extended(2), Sync], "2G");
        assert!(o.is_copying_in());
        o.request(CopyEnd);
        o.request(Sync);
        feed(&mut o, "CZ");
        assert!(o.is_idle() && !o.is_doubtful());
    }

    #[test]
    fn a_copy_may_be_sent_before_the_server_asks_for_it() {
        let o = after(&[Extended(3), CopyEnd, Sync, Extended(3), Sync], "12GCZ12CZ");
        assert!(o.is_idle() && !o.is_doubtful());
        assert!(after(&[Query, CopyEnd, Query], "GCZCZ").is_idle());
        // It turns out to be none.
        assert!(after(&[Query, CopyEnd, Query], "EZCZ").is_idle());
        assert!(after(&[Extended(3), CopyEnd, Sync], "1EZ").is_idle());
        assert!(after(&[Extended(1), CopyEnd, Sync], "1Z").is_idle());
    }

    #[test]
    fn a_failed_copy_with_syncs_leaves_a_doubt() {
        let mut o = after(&[Extended(2), Sync], "2GE");
        o.request(CopyEnd);
        o.request(Sync);
        feed(&mut o, "Z");
        assert!(o.is_idle() && o.is_doubtful());
        // Without a Sync in it there is none.
        let mut o = after(&[Query], "G");
        o.request(CopyEnd);
        feed(&mut o, "EZ");
        assert!(o.is_idle() && !o.is_doubtful());
        // Nor when the server fails before the client has ended its copy.
        let mut o = after(&[Query], "GEZ");
        o.request(CopyEnd);
        assert!(o.is_idle() && o.is_answered() && !o.is_doubtful());
    }

    #[test]
    fn what_a_server_swallows_takes_no_memory() {
        let mut o = after(&[Extended(3)], "12G");
        (0..1000).for_each(|_| o.request(Sync));
        assert!(o.queue.len() <= 2);
        o.request(CopyEnd);
        o.request(Sync);
        feed(&mut o, "CZ");
        assert!(o.is_idle() && !o.is_doubtful());
        let mut o = after(&[Query], "");
        (0..1000).for_each(|_| o.request(CopyEnd));
        assert!(o.queue.len() <= COPY_ENDS_MAX + 1);
        let mut o = after(&[Extended(1)], "E");
        (0..1000).for_each(|_| o.request(Query));
        assert_eq!(o.queue.len(), 1);
        o.request(Sync);
        o.request(Query);
        feed(&mut o, "ZCZ");
        assert!(o.is_idle());
    }

    #[test]
    fn one_request_is_one_ready() {
        for (requests, is_one) in [
            (&[Query][..], true),
            (&[Extended(3), Sync], true),
            (&[Extended(3)], false),
            (&[], false),
            (&[Query, Extended(1)], false),
            (&[Query, Sync], false),
        ] {
            assert_eq!(after(requests, "").is_one_request(), is_one, "{requests:?}");
        }
    }

    #[test]
    fn an_unasked_ready_is_a_fault() {
        assert_eq!(Outstanding::new().ready(Idle), Err(Unexpected { tag: b'Z' }));
    }
}
