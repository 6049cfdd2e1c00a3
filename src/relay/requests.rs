//! What a client sends after its login.

use pgweir_proto::frame::{BadLength, Header};
use pgweir_proto::frontend as tag;

use super::{Outstanding, Request, WHOLE_MESSAGE_MAX};

/// Settings that decide whether a message is let through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLimits {
    /// `max_packet_size`, in bytes without the tag.
    pub(crate) max_packet_size: usize,
    /// `disable_pqexec`: no simple Query.
    pub(crate) disable_pqexec: bool,
}

/// Why a client must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestFault {
    /// Length impossible, or above `max_packet_size`.
    BadHeader(BadLength),
    UnknownMessage(u8),
    PqexecDisallowed,
}

/// Where a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Everything that can be forwarded was; what is left is the head of a message.
    NeedMore,
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
        tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE => Some(Request::Extended(1)),
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
        self.body_left == 0
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

    /// Notes what `buf` asks of the linked server and returns how much of it to forward.
    #[inline]
    pub(crate) fn scan(&mut self, buf: &[u8], limits: RequestLimits, owed: &mut Outstanding) -> (usize, Stop) {
        let mut at = self.body_left.min(buf.len());
        self.body_left -= at;
        loop {
            let head = match header(&buf[at..], limits) {
                Ok(Some(head)) => head,
                Ok(None) => return (at, Stop::NeedMore),
                Err(fault) => return (at, Stop::Fault(fault)),
            };
            if head.tag == tag::TERMINATE {
                return (at, Stop::Terminate);
            }
            let request = match request_of(head.tag, limits) {
                Ok(request) => request,
                Err(fault) => return (at, Stop::Fault(fault)),
            };
            let here = buf.len() - at;
            if here < head.len && head.len <= WHOLE_MESSAGE_MAX {
                return (at, Stop::NeedMore);
            }
            if let Some(request) = request {
                owed.request(request);
            }
            self.body_left = head.len.saturating_sub(here);
            at += head.len.min(here);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgweir_proto::frame;

    const LIMITS: RequestLimits = RequestLimits { max_packet_size: i32::MAX as usize, disable_pqexec: false };

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
            assert_eq!(Requests::default().scan(&buf[..cut], LIMITS, &mut owed), (expect, Stop::NeedMore));
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
        assert_eq!(requests.scan(&large[..n], LIMITS, &mut owed), (n, Stop::NeedMore));
        assert!(!requests.at_boundary());
        assert_eq!(requests.scan(&large[n..], LIMITS, &mut owed), (large.len() - n, Stop::NeedMore));
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
    fn what_must_not_pass_is_a_fault() {
        let mut owed = Outstanding::new();
        let mut scan = |buf: &[u8], limits| Requests::default().scan(buf, limits, &mut owed).1;
        assert_eq!(scan(&message(b'!', b""), LIMITS), Stop::Fault(RequestFault::UnknownMessage(b'!')));
        assert_eq!(scan(&message(b'X', b""), LIMITS), Stop::Terminate);
        assert!(matches!(scan(b"Q\0\0\0\x01", LIMITS), Stop::Fault(RequestFault::BadHeader(_))));
        let strict = RequestLimits { max_packet_size: 10, disable_pqexec: true };
        assert!(matches!(scan(&message(b'Q', b"1234567"), strict), Stop::Fault(RequestFault::BadHeader(_))));
        assert_eq!(scan(&message(b'Q', b""), strict), Stop::Fault(RequestFault::PqexecDisallowed));
    }
}
