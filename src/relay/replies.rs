//! What a server sends to the client that it is linked to.

use pgweir_proto::backend::{self as tag, TransactionStatus};
use pgweir_proto::frame::{BadLength, HEADER_LEN, Header};

use super::outstanding::Unexpected;
use super::{Outstanding, WHOLE_MESSAGE_MAX};

/// Why both sides must be closed: what the server says cannot be told apart any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyFault {
    BadHeader(BadLength),
    UnknownMessage(u8),
    /// ReadyForQuery or ParameterStatus with a body that is none.
    Malformed(u8),
    /// ReadyForQuery that nobody asked for.
    Unexpected(u8),
}

/// A message that somebody besides the client must know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    ParameterStatus {
        name: &'a str,
        value: &'a str,
    },
    ErrorResponse {
        body: &'a [u8],
    },
    /// RESET or DISCARD ALL was carried out; ParameterStatus follows for what it changed.
    Reset,
    Ready {
        status: TransactionStatus,
        /// Where in the bytes that were scanned the message begins.
        at: usize,
    },
}

/// The state of the server's stream between reads.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// Bytes still to come of a message whose beginning was forwarded.
    body_left: usize,
}

/// Messages that are read and so must be whole before they are forwarded.
fn is_read(message: u8) -> bool {
    matches!(message, tag::READY_FOR_QUERY | tag::PARAMETER_STATUS | tag::ERROR_RESPONSE)
}

/// CommandComplete of a command that takes parameters back to what they were at login. One
/// that comes in pieces is not recognised; it is sent in one.
fn is_reset(buf: &[u8]) -> bool {
    let body = &buf[HEADER_LEN..];
    body.starts_with(b"RESET\0") || body.starts_with(b"DISCARD ALL\0")
}

fn is_known(message: u8) -> bool {
    matches!(
        message,
        tag::BIND_COMPLETE
            | tag::CLOSE_COMPLETE
            | tag::COMMAND_COMPLETE
            | tag::COPY_BOTH_RESPONSE
            | tag::COPY_DATA
            | tag::COPY_DONE
            | tag::COPY_IN_RESPONSE
            | tag::COPY_OUT_RESPONSE
            | tag::DATA_ROW
            | tag::EMPTY_QUERY_RESPONSE
            | tag::ERROR_RESPONSE
            | tag::FUNCTION_CALL_RESPONSE
            | tag::NO_DATA
            | tag::NOTICE_RESPONSE
            | tag::NOTIFICATION_RESPONSE
            | tag::PARAMETER_DESCRIPTION
            | tag::PARAMETER_STATUS
            | tag::PARSE_COMPLETE
            | tag::PORTAL_SUSPENDED
            | tag::READY_FOR_QUERY
            | tag::ROW_DESCRIPTION
    )
}

impl Replies {
    /// The last byte forwarded was the last of a message.
    #[inline]
    pub(crate) fn at_boundary(&self) -> bool {
        self.body_left == 0
    }

    /// Settles what `buf` answers and returns how much of it to forward; the rest, at most
    /// `WHOLE_MESSAGE_MAX` bytes, must be kept until more has come.
    #[inline]
    pub(crate) fn scan(
        &mut self,
        buf: &[u8],
        owed: &mut Outstanding,
        mut on_event: impl FnMut(Event<'_>),
    ) -> Result<usize, ReplyFault> {
        let mut at = self.body_left.min(buf.len());
        self.body_left -= at;
        while let Some(head) = Header::read(&buf[at..]).map_err(ReplyFault::BadHeader)? {
            let here = buf.len() - at;
            if here < head.len && is_read(head.tag) {
                if head.len <= WHOLE_MESSAGE_MAX {
                    break;
                }
                if head.tag != tag::ERROR_RESPONSE {
                    return Err(ReplyFault::Malformed(head.tag));
                }
            }
            if head.tag == tag::READY_FOR_QUERY {
                let body = &buf[at + HEADER_LEN..at + head.len];
                let status = TransactionStatus::read(body).ok_or(ReplyFault::Malformed(head.tag))?;
                owed.ready(status).map_err(|Unexpected { tag }| ReplyFault::Unexpected(tag))?;
                on_event(Event::Ready { status, at });
            } else if is_known(head.tag) {
                owed.reply(head.tag);
                if head.tag == tag::COMMAND_COMPLETE && is_reset(&buf[at..]) {
                    on_event(Event::Reset);
                }
                if is_read(head.tag) {
                    self.read(head, &buf[at..], &mut on_event)?;
                }
            } else {
                return Err(ReplyFault::UnknownMessage(head.tag));
            }
            self.body_left = head.len.saturating_sub(here);
            at += head.len.min(here);
        }
        Ok(at)
    }

    /// ParameterStatus, or ErrorResponse as far as it is here.
    fn read(&self, head: Header, buf: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> Result<(), ReplyFault> {
        let body = &buf[HEADER_LEN..head.len.min(buf.len())];
        if head.tag == tag::ERROR_RESPONSE {
            on_event(Event::ErrorResponse { body });
            return Ok(());
        }
        let (name, value) = tag::parameter_status(body).ok_or(ReplyFault::Malformed(head.tag))?;
        // Tracked parameters are ASCII or UTF-8; another encoding can only be one passed through.
        if let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) {
            on_event(Event::ParameterStatus { name, value });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Request;
    use pgweir_proto::frame;

    fn stream() -> Vec<u8> {
        let mut out = Vec::new();
        frame::message(&mut out, b'S', b"TimeZone\0UTC\0");
        frame::message(&mut out, b'D', b"some row");
        frame::message(&mut out, b'E', b"SERROR\0\0");
        frame::message(&mut out, b'Z', b"I");
        out
    }

    #[test]
    fn every_cut_forwards_the_same_and_reports_the_same() {
        let all = stream();
        for cut in 0..=all.len() {
            let (mut owed, mut replies, mut events) = (Outstanding::new(), Replies::default(), Vec::new());
            owed.request(Request::Query);
            let mut note = |e: Event<'_>| events.push(format!("{e:?}"));
            let first = replies.scan(&all[..cut], &mut owed, &mut note).unwrap();
            let second = replies.scan(&all[first..], &mut owed, &mut note).unwrap();
            assert_eq!(first + second, all.len());
            assert!(owed.is_idle() && replies.at_boundary());
            assert_eq!(events.len(), 3, "{events:?}");
        }
    }

    #[test]
    fn nonsense_is_a_fault() {
        let scan = |buf: &[u8]| Replies::default().scan(buf, &mut Outstanding::new(), |_| ());
        let mut out = Vec::new();
        frame::message(&mut out, b'Z', b"I");
        assert_eq!(scan(&out), Err(ReplyFault::Unexpected(b'Z')));
        out[5] = b'?';
        assert_eq!(scan(&out), Err(ReplyFault::Malformed(b'Z')));
        assert_eq!(scan(b"!\0\0\0\x04"), Err(ReplyFault::UnknownMessage(b'!')));
        assert!(matches!(scan(b"D\0\0\0\0"), Err(ReplyFault::BadHeader(_))));
        assert_eq!(scan(b"S\x7f\0\0\0ab"), Err(ReplyFault::Malformed(b'S')));
    }
}
