//! What a client sends after its login.

use pgweir_proto::frame::{BadLength, HEADER_LEN, Header};
use pgweir_proto::frontend as tag;

use super::queue::{Kind, Step};
use super::session_use::{self, SessionUse};
use super::tracking::{Deallocate, Rewritten, Tracking, TrackingSettings};
use super::{Outstanding, Request, RequestFault, WHOLE_MESSAGE_MAX};

/// Settings that decide whether a message is let through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLimits {
    /// `max_packet_size`, in bytes without the tag.
    pub(crate) max_packet_size: usize,
    /// `disable_pqexec`: no simple Query.
    pub(crate) disable_pqexec: bool,
    pub(crate) tracking: TrackingSettings,
    /// `track_session_use`, and the client's pool does not give it a session.
    pub(crate) track_session_use: bool,
}

/// Where a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Everything that can be forwarded was; what is left is the head of a message.
    NeedMore,
    /// What is left can be forwarded only when more was answered.
    Hold,
    Terminate,
    Fault(RequestFault),
}

/// What the first message of a client without a server asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// A server, now.
    Server,
    /// Nothing yet: the message is not whole.
    NeedMore,
    /// Drop so many bytes: a Flush with nothing to flush, or the end of a COPY that failed and
    /// whose server is gone.
    Discard(usize),
    Terminate,
    Fault(RequestFault),
}

/// The state of the client's stream between reads.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Bytes still to come of a message whose beginning was forwarded.
    body_left: usize,
    /// The same of one that is dropped.
    discard_left: usize,
    /// The beginning of a long Parse of a named statement, which is needed whole; its end are
    /// the next `body_left` bytes.
    collected: Vec<u8>,
}

fn header(buf: &[u8], limits: RequestLimits) -> Result<Option<Header>, RequestFault> {
    match Header::read(buf).map_err(RequestFault::BadHeader)? {
        Some(h) if h.len - 1 > limits.max_packet_size => {
            let header = *buf.first_chunk().expect("a header was read from it");
            Err(RequestFault::BadHeader(BadLength { header }))
        }
        other => Ok(other),
    }
}

/// What a message asks of the server; `None` if nothing comes back for it.
#[inline]
fn request_of(message: u8, limits: RequestLimits) -> Result<Option<Request>, RequestFault> {
    Ok(match message {
        tag::QUERY if limits.disable_pqexec => return Err(RequestFault::PqexecDisallowed),
        tag::QUERY => Some(Request::Query),
        tag::PARSE => Some(Request::Step(Step::client(Kind::Parse))),
        tag::BIND => Some(Request::Step(Step::client(Kind::Bind))),
        tag::DESCRIBE => Some(Request::Step(Step::client(Kind::Describe))),
        tag::EXECUTE => Some(Request::Step(Step::client(Kind::Execute))),
        tag::CLOSE => Some(Request::Step(Step::client(Kind::Close))),
        tag::SYNC => Some(Request::Sync),
        tag::FUNCTION_CALL => Some(Request::FunctionCall),
        tag::COPY_DONE | tag::COPY_FAIL => Some(Request::CopyEnd),
        tag::COPY_DATA | tag::FLUSH => None,
        unknown => return Err(RequestFault::UnknownMessage(unknown)),
    })
}

impl Requests {
    /// The last byte forwarded was the last of a message.
    #[inline]
    pub(crate) fn at_boundary(&self) -> bool {
        self.body_left == 0 && self.collected.is_empty()
    }

    /// Nothing of a message is remembered.
    pub(crate) fn is_resting(&self) -> bool {
        self.at_boundary() && self.discard_left == 0
    }

    /// The last byte that was dealt with was the last of a message.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.body_left == 0
    }

    /// Bytes of the message under way that have not come yet.
    #[inline]
    pub(crate) fn message_left(&self) -> usize {
        self.body_left
    }

    /// Tracking was turned off: what was gathered of a Parse goes to the server as it is, and its
    /// rest behind it.
    pub(crate) fn give_up_collected(&mut self, owed: &mut Outstanding) -> Vec<u8> {
        if !self.collected.is_empty() {
            owed.request(Request::Step(Step::client(Kind::Parse)));
        }
        std::mem::take(&mut self.collected)
    }

    /// Looks at what a client without a server has sent. `buf` begins at a message.
    pub(crate) fn first(&mut self, buf: &[u8], limits: RequestLimits) -> First {
        if self.discard_left > 0 {
            let n = self.discard_left.min(buf.len());
            self.discard_left -= n;
            return if n > 0 { First::Discard(n) } else { First::NeedMore };
        }
        let head = match header(buf, limits) {
            Ok(Some(head)) => head,
            Ok(None) => return First::NeedMore,
            Err(fault) => return First::Fault(fault),
        };
        if head.tag == tag::TERMINATE {
            return First::Terminate;
        }
        match request_of(head.tag, limits) {
            Err(fault) => First::Fault(fault),
            Ok(_) if matches!(head.tag, tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL | tag::FLUSH) => {
                let n = head.len.min(buf.len());
                self.discard_left = head.len - n;
                First::Discard(n)
            }
            Ok(_) if buf.len() >= head.len.min(WHOLE_MESSAGE_MAX) => First::Server,
            Ok(_) => First::NeedMore,
        }
    }

    /// Notes what `buf` asks of a server that does not keep track of statements, and returns how
    /// much of it to forward. `on_use` hears of what needs a session.
    #[inline]
    pub(crate) fn scan(
        &mut self,
        buf: &[u8],
        limits: RequestLimits,
        owed: &mut Outstanding,
        mut on_use: impl FnMut(SessionUse<'_>),
    ) -> (usize, Stop) {
        let mut at = self.body_left.min(buf.len());
        self.body_left -= at;
        loop {
            let (head, request) = match self.next(&buf[at..], limits) {
                Ok(next) => next,
                Err(stop) => return (at, stop),
            };
            if owed.is_full() {
                return (at, Stop::Hold);
            }
            look(head, &buf[at..], limits, &mut on_use);
            if let Some(request) = request {
                owed.request(request);
            }
            at += self.pass(head.len, buf.len() - at);
        }
    }

    /// Hands to `out` what the linked server gets for `buf`, and returns how much of `buf` that was.
    /// `on_use` hears of what needs a session.
    #[inline]
    pub(crate) fn track(
        &mut self,
        buf: &[u8],
        limits: RequestLimits,
        tracking: &mut Tracking<'_>,
        out: &mut impl FnMut(&[u8]),
        mut on_use: impl FnMut(SessionUse<'_>),
    ) -> (usize, Stop) {
        if tracking.owed.is_answered() {
            tracking.prepared.settle();
        }
        let mut at = self.body_left.min(buf.len());
        self.body_left -= at;
        let mut run = 0;
        if !self.collected.is_empty() {
            self.collected.extend_from_slice(&buf[..at]);
            run = at;
            if let Some(stop) = self.finish_collected(tracking, out) {
                return (at, stop);
            }
        }
        let stop = loop {
            let (head, request) = match self.next(&buf[at..], limits) {
                Ok(next) => next,
                Err(stop) => break stop,
            };
            if tracking.owed.is_full() {
                break Stop::Hold;
            }
            let here = &buf[at..];
            let rewritten = match request {
                _ if tracking.owed.is_skipping() && head.tag != tag::SYNC => Rewritten::AsItIs,
                Some(Request::Step(Step { kind: Kind::Execute, .. })) | None => {
                    request.into_iter().for_each(|request| tracking.owed.request(request));
                    Rewritten::AsItIs
                }
                Some(Request::Step(_)) if is_long_named_parse(head, here) => {
                    out(&buf[run..at]);
                    return self.collect(head, here, at, limits, tracking);
                }
                Some(Request::Step(_)) => {
                    // What stands before goes first.
                    out(&buf[run..at]);
                    run = at;
                    tracking.rewrite(head, here, out)
                }
                Some(Request::Query) => {
                    let text = &here[..here.len().min(head.len)];
                    if tracking.query(text) == Some(Deallocate) {
                        out(&buf[run..at]);
                        out(EMPTY_QUERY);
                        tracking.owed.request(Request::Deallocate);
                        Rewritten::Replaced(head.len)
                    } else {
                        tracking.owed.request(Request::Query);
                        Rewritten::AsItIs
                    }
                }
                Some(request) => {
                    tracking.owed.request(request);
                    Rewritten::AsItIs
                }
            };
            if matches!(rewritten, Rewritten::AsItIs | Rewritten::Replaced(_)) {
                look(head, here, limits, &mut on_use);
            }
            match rewritten {
                Rewritten::AsItIs => at += self.pass(head.len, here.len()),
                Rewritten::Replaced(n) => {
                    run = at + n;
                    at += self.pass(head.len, here.len());
                }
                Rewritten::Hold => break Stop::Hold,
                Rewritten::NeedMore => break Stop::NeedMore,
                Rewritten::Fault(fault) => break Stop::Fault(fault),
            }
        };
        out(&buf[run..at]);
        (at, stop)
    }

    /// The next message, if there is enough of it to do something about it.
    #[inline]
    fn next(&self, buf: &[u8], limits: RequestLimits) -> Result<(Header, Option<Request>), Stop> {
        let head = header(buf, limits).map_err(Stop::Fault)?.ok_or(Stop::NeedMore)?;
        if head.tag == tag::TERMINATE {
            return Err(Stop::Terminate);
        }
        let request = request_of(head.tag, limits).map_err(Stop::Fault)?;
        if buf.len() < head.len.min(WHOLE_MESSAGE_MAX) {
            return Err(Stop::NeedMore);
        }
        Ok((head, request))
    }

    /// A message of `len` bytes, of which `here` have come, is dealt with; returns how many.
    #[inline]
    fn pass(&mut self, len: usize, here: usize) -> usize {
        self.body_left = len.saturating_sub(here);
        len.min(here)
    }

    /// Begins to gather a Parse that is not whole, of which `here` is all that has come.
    fn collect(
        &mut self,
        head: Header,
        here: &[u8],
        at: usize,
        limits: RequestLimits,
        tracking: &Tracking<'_>,
    ) -> (usize, Stop) {
        if tracking.names.bytes() + head.len > limits.tracking.client_len_max {
            return (at, Stop::Fault(RequestFault::StatementsTooLarge));
        }
        self.collected.extend_from_slice(here);
        (at + self.pass(head.len, here.len()), Stop::NeedMore)
    }

    /// Deals with a gathered Parse once it is whole; `Some`: nothing more can be done now.
    fn finish_collected(&mut self, tracking: &mut Tracking<'_>, out: &mut impl FnMut(&[u8])) -> Option<Stop> {
        if self.body_left > 0 {
            return Some(Stop::NeedMore);
        }
        if !tracking.owed.is_skipping() {
            match tracking.parse(&self.collected[HEADER_LEN..], out) {
                Rewritten::Replaced(_) => {}
                Rewritten::AsItIs => out(&self.collected),
                Rewritten::Hold => return Some(Stop::Hold),
                Rewritten::NeedMore => return Some(Stop::NeedMore),
                Rewritten::Fault(fault) => return Some(Stop::Fault(fault)),
            }
        }
        self.collected = Vec::new();
        None
    }
}

/// Looks for what needs a session in a message that `here` begins with, if it is whole.
#[inline]
fn look(head: Header, here: &[u8], limits: RequestLimits, on_use: &mut impl FnMut(SessionUse<'_>)) {
    if limits.track_session_use
        && let Some(body) = here.get(HEADER_LEN..head.len)
    {
        session_use::look(head.tag, body, on_use);
    }
}

const EMPTY_QUERY: &[u8] = b"Q\0\0\0\x05\0";

/// A Parse of a named statement that has not come whole.
#[inline]
fn is_long_named_parse(head: Header, here: &[u8]) -> bool {
    head.tag == tag::PARSE && here.len() < head.len && here.get(HEADER_LEN).is_some_and(|&b| b != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgweir_proto::frame;

    const LIMITS: RequestLimits = RequestLimits {
        max_packet_size: i32::MAX as usize,
        disable_pqexec: false,
        tracking: TrackingSettings { per_server: 0, client_len_max: 0 },
        track_session_use: false,
    };

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::message(&mut out, tag, body);
        out
    }

    #[test]
    fn whole_messages_are_forwarded_and_heads_kept() {
        let mut buf = message(b'Q', b"select 1\0");
        let whole = buf.len();
        buf.extend(message(b'Q', b"select 2\0"));
        for cut in 0..buf.len() {
            let mut owed = Outstanding::new();
            let expect = if cut < whole { 0 } else { whole };
            assert_eq!(Requests::default().scan(&buf[..cut], LIMITS, &mut owed, |_| {}), (expect, Stop::NeedMore));
        }
    }

    #[test]
    fn the_head_of_a_query_needs_no_server_but_a_large_one_does() {
        let small = message(b'Q', b"select 1\0");
        let large = message(b'Q', &vec![b'x'; WHOLE_MESSAGE_MAX]);
        let mut requests = Requests::default();
        assert_eq!(requests.first(&small[..small.len() - 1], LIMITS), First::NeedMore);
        assert_eq!(requests.first(&small, LIMITS), First::Server);
        // Announcing much is not enough.
        let n = WHOLE_MESSAGE_MAX;
        assert_eq!(requests.first(&large[..n - 1], LIMITS), First::NeedMore);
        assert_eq!(requests.first(&large[..n], LIMITS), First::Server);
        let mut owed = Outstanding::new();
        assert_eq!(requests.scan(&large[..n], LIMITS, &mut owed, |_| {}), (n, Stop::NeedMore));
        assert!(!requests.at_boundary());
        assert_eq!(requests.scan(&large[n..], LIMITS, &mut owed, |_| {}), (large.len() - n, Stop::NeedMore));
        assert!(requests.at_boundary());
    }

    #[test]
    fn late_copy_messages_are_dropped_even_in_pieces() {
        let data = message(b'd', b"0123456789");
        let mut requests = Requests::default();
        assert_eq!(requests.first(&data[..7], LIMITS), First::Discard(7));
        assert_eq!(requests.first(&data[7..], LIMITS), First::Discard(data.len() - 7));
        assert_eq!(requests.first(&message(b'c', b""), LIMITS), First::Discard(5));
        assert_eq!(requests.first(b"", LIMITS), First::NeedMore);
    }

    #[test]
    fn what_needs_a_session_is_reported_once_and_when_it_is_forwarded() {
        let limits = RequestLimits { track_session_use: true, ..LIMITS };
        let mut buf = message(b'Q', b"listen a\0");
        let first = buf.len();
        buf.extend(message(b'P', b"\0load 'b'\0\0\0"));
        let (mut owed, mut requests, mut uses) = (Outstanding::new(), Requests::default(), 0);
        let (n, _) = requests.scan(&buf[..buf.len() - 1], limits, &mut owed, |_| uses += 1);
        assert_eq!((n, uses), (first, 1));
        requests.scan(&buf[n..], limits, &mut owed, |_| uses += 1);
        assert_eq!(uses, 2);
        requests.scan(&buf, LIMITS, &mut owed, |_| uses += 1);
        assert_eq!(uses, 2);
    }

    #[test]
    fn what_must_not_pass_is_a_fault() {
        let mut owed = Outstanding::new();
        let mut scan = |buf: &[u8], limits| Requests::default().scan(buf, limits, &mut owed, |_| {}).1;
        assert_eq!(scan(&message(b'!', b""), LIMITS), Stop::Fault(RequestFault::UnknownMessage(b'!')));
        assert_eq!(scan(&message(b'X', b""), LIMITS), Stop::Terminate);
        assert!(matches!(scan(b"Q\0\0\0\x01", LIMITS), Stop::Fault(RequestFault::BadHeader(_))));
        let strict = RequestLimits { max_packet_size: 10, disable_pqexec: true, ..LIMITS };
        assert!(matches!(scan(&message(b'Q', b"1234567"), strict), Stop::Fault(RequestFault::BadHeader(_))));
        assert_eq!(scan(&message(b'Q', b""), strict), Stop::Fault(RequestFault::PqexecDisallowed));
    }
}
