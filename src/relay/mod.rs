//! The relay's core, without I/O: bytes in, verdicts out.
//!
//! It looks at tag and length and never decodes what it only passes on. `requests` reads what
//! a client sends, `replies` what its server answers, `outstanding` keeps what is still owed.
//!
//! Prepared statements: `statement` holds each text once, `names` what a client calls it,
//! `prepared` which of them a server has; `tracking` rewrites the messages between the two.
//! `session_use` sees what a text does that needs a session.

mod statement;
mod names;
mod prepared;
mod queue;
mod outstanding;
mod tracking;
mod requests;
mod replies;
mod session_use;
mod sql;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;

use pgweir_proto::frame::BadLength;

pub(crate) use names::{Names, NamesParts, Unnamed};
pub(crate) use outstanding::{Books, Outstanding};
pub(crate) use prepared::{Prepared, PreparedParts};
pub(crate) use queue::{Kind, Request, Step};
pub(crate) use replies::{Edit, Event, Replies, ReplyFault};
pub(crate) use requests::{First, RequestLimits, Requests, Stop};
pub(crate) use session_use::SessionUse;
pub(crate) use statement::{Dialect, Statement, adopt, begin_numbers_after, in_memory, last_number};
pub(crate) use tracking::{Parses, Tracking, TrackingSettings};

/// A message up to this size is forwarded whole, so that a client that sends only the head of
/// one holds no server; a longer one is streamed once so much of it has come.
pub(crate) const WHOLE_MESSAGE_MAX: usize = 16 * 1024;

/// Why a client must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestFault {
    /// Length impossible, or above `max_packet_size`.
    BadHeader(BadLength),
    UnknownMessage(u8),
    PqexecDisallowed,
    /// A message without its layout: the name of its kind.
    Broken(&'static str),
    StatementNameTooLong,
    /// Above `max_client_prepared_size`.
    StatementsTooLarge,
}
