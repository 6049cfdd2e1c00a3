//! What a server sends to the client that it is linked to.

use memchr::memmem;
use pgweir_proto::backend::{self as tag, TransactionStatus};
use pgweir_proto::error_response::ErrorFields;
use pgweir_proto::frame::{BadLength, HEADER_LEN, Header};
use pgweir_proto::sqlstate::SqlState;

use super::outstanding::{Books, OutOfStep, StatementError, Unexpected, Verdict};
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
    /// A COPY has failed amidst a pipeline.
    OutOfStep,
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

/// A place where the client gets something else than the server has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Where in the bytes that were scanned.
    pub(crate) at: usize,
    /// So many of them are left out.
    pub(crate) hide_len: usize,
    /// This is put in.
    pub(crate) insert: &'static [u8],
}

/// Messages that are read, or may be kept from the client, and so must be whole before they are
/// forwarded.
fn is_read(message: u8) -> bool {
    matches!(
        message,
        tag::READY_FOR_QUERY
            | tag::PARAMETER_STATUS
            | tag::ERROR_RESPONSE
            | tag::COMMAND_COMPLETE
            | tag::PARSE_COMPLETE
            | tag::CLOSE_COMPLETE
            | tag::EMPTY_QUERY_RESPONSE
    )
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

    /// Bytes of the message under way that have not come yet.
    #[inline]
    pub(crate) fn message_left(&self) -> usize {
        self.body_left
    }

    /// Settles what `buf` answers and returns how much of it to forward, but for `edits`, which
    /// are added in their order; the rest, at most `WHOLE_MESSAGE_MAX` bytes, must be kept until
    /// more has come.
    #[inline]
    pub(crate) fn scan(
        &mut self,
        buf: &[u8],
        owed: &mut Outstanding,
        books: &mut Books<'_>,
        edits: &mut Vec<Edit>,
        mut on_event: impl FnMut(Event<'_>),
    ) -> Result<usize, ReplyFault> {
        let mut at = self.body_left.min(buf.len());
        self.body_left -= at;
        if at > 0 && self.body_left == 0 {
            answer(at, owed, books, edits);
        }
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
            let message = &buf[at..buf.len().min(at + head.len)];
            match self.settle(head.tag, message, at, owed, books, &mut on_event)? {
                Verdict::Forward => {}
                Verdict::Hide => edits.push(Edit { at, hide_len: head.len, insert: b"" }),
                Verdict::Replace(insert) => edits.push(Edit { at, hide_len: head.len, insert }),
            }
            self.body_left = head.len.saturating_sub(here);
            at += head.len.min(here);
            if self.body_left == 0 {
                answer(at, owed, books, edits);
            }
        }
        Ok(at)
    }

    /// Takes note of one message, which is whole if somebody looks into it.
    #[inline]
    fn settle(
        &self,
        message_tag: u8,
        message: &[u8],
        at: usize,
        owed: &mut Outstanding,
        books: &mut Books<'_>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<Verdict, ReplyFault> {
        let body = &message[HEADER_LEN..];
        let unexpected = |Unexpected { tag }| ReplyFault::Unexpected(tag);
        match message_tag {
            tag::DATA_ROW => return Ok(Verdict::Forward),
            tag::READY_FOR_QUERY => {
                let status = TransactionStatus::read(body).ok_or(ReplyFault::Malformed(message_tag))?;
                owed.ready(status, books).map_err(unexpected)?;
                on_event(Event::Ready { status, at });
            }
            tag::ERROR_RESPONSE => {
                let verdict = owed.error(of_statement(body), books).map_err(|OutOfStep| ReplyFault::OutOfStep)?;
                on_event(Event::ErrorResponse { body });
                return Ok(verdict);
            }
            tag::PARAMETER_STATUS => {
                let (name, value) = tag::parameter_status(body).ok_or(ReplyFault::Malformed(message_tag))?;
                // Tracked parameters are ASCII or UTF-8; another encoding can only be one passed through.
                if let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) {
                    on_event(Event::ParameterStatus { name, value });
                }
            }
            known if is_known(known) => {
                let verdict = owed.reply(known, books).map_err(unexpected)?;
                if known == tag::COMMAND_COMPLETE {
                    completed(body, books, on_event);
                }
                return Ok(verdict);
            }
            unknown => return Err(ReplyFault::UnknownMessage(unknown)),
        }
        Ok(Verdict::Forward)
    }
}

/// Answers what the server was not asked, at `at` in its stream, if it is its turn.
#[inline]
fn answer(at: usize, owed: &mut Outstanding, books: &mut Books<'_>, edits: &mut Vec<Edit>) {
    while let Some(insert) = owed.answer(books) {
        edits.push(Edit { at, hide_len: 0, insert });
    }
}

/// Commands that change more than tables.
#[inline]
fn completed(command: &[u8], books: &mut Books<'_>, on_event: &mut impl FnMut(Event<'_>)) {
    if !matches!(command.first(), Some(b'R' | b'D' | b'P')) {
        return;
    }
    match command {
        b"RESET\0" => on_event(Event::Reset),
        b"DISCARD ALL\0" | b"DEALLOCATE ALL\0" => {
            books.names.clear();
            books.prepared.clear();
            if command.starts_with(b"DISCARD") {
                on_event(Event::Reset);
            }
        }
        b"PREPARE\0" => books.prepared.sql_prepared(),
        b"DEALLOCATE\0" => books.prepared.sql_deallocated(),
        _ => {}
    }
}

fn of_statement(body: &[u8]) -> StatementError {
    match ErrorFields::parse(body).sqlstate {
        Some(SqlState::INVALID_SQL_STATEMENT_NAME) => StatementError::Missing,
        // Its message may be in any language.
        Some(SqlState::FEATURE_NOT_SUPPORTED) if memmem::find(body, b"\0RRevalidateCachedQuery\0").is_some() => {
            StatementError::Stale
        }
        Some(SqlState::FEATURE_NOT_SUPPORTED) => StatementError::NotSupported,
        _ => StatementError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Names, Prepared, Request};
    use super::*;
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
            let (mut names, mut prepared, mut edits) = (Names::default(), Prepared::default(), Vec::new());
            let mut books = Books { names: &mut names, prepared: &mut prepared };
            owed.request(Request::Query);
            let mut note = |e: Event<'_>| events.push(format!("{e:?}"));
            let first = replies.scan(&all[..cut], &mut owed, &mut books, &mut edits, &mut note).unwrap();
            let second = replies.scan(&all[first..], &mut owed, &mut books, &mut edits, &mut note).unwrap();
            assert_eq!(first + second, all.len());
            assert!(owed.is_idle() && replies.at_boundary());
            assert_eq!((events.len(), edits.len()), (3, 0), "{events:?}");
        }
    }

    #[test]
    fn nonsense_is_a_fault() {
        let scan = |buf: &[u8]| {
            let (mut names, mut prepared) = (Names::default(), Prepared::default());
            let mut books = Books { names: &mut names, prepared: &mut prepared };
            Replies::default().scan(buf, &mut Outstanding::new(), &mut books, &mut Vec::new(), |_| ())
        };
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
