//! The relay's core, without I/O: bytes in, verdicts out.
//!
//! It looks at tag and length and never decodes what it only passes on. `requests` reads what
//! a client sends, `replies` what its server answers, `outstanding` keeps what is still owed.

mod outstanding;
mod replies;
mod requests;

pub(crate) use outstanding::{Outstanding, Request};
pub(crate) use replies::{Event, Replies, ReplyFault};
pub(crate) use requests::{First, RequestFault, RequestLimits, Requests, Stop};

/// A message up to this size is forwarded whole, so that a client that sends only the head of
/// one holds no server; a longer one is streamed once so much of it has come.
pub(crate) const WHOLE_MESSAGE_MAX: usize = 16 * 1024;
