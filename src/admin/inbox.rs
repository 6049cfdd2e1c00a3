//! What a console client sends, cut into messages.

use std::fmt;
use std::io;

use pgweir_proto::admin_error::AdminError;
use pgweir_proto::extended::{Bind, Execute, Parse, Target};
use pgweir_proto::frame::{BadLength, HEADER_LEN, Header};
use pgweir_proto::frontend as tag;
use tokio::io::AsyncReadExt;

use crate::net::stream::Stream;

/// No command is nearly as long.
const MESSAGE_LEN_MAX: usize = 16 * 1024;

/// A message that wants an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Query(String),
    Parse(Parse),
    Bind(Bind),
    Describe(Target),
    Execute(Execute),
    Close(Target),
    Sync,
    Flush,
    Terminate,
    /// A message of the protocol that the console does not take; after the answer it closes.
    Unsupported(AdminError),
}

/// The two sides no longer agree: told in PgBouncer's words, then the connection is closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    BadHeader(BadLength),
    UnknownMessage,
    TooLong,
    /// A query without its end.
    BrokenQuery,
    /// A message of the extended protocol whose parts do not fit together.
    Broken(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::BadHeader(header) => write!(f, "bad packet header: '{header}'"),
            Fault::UnknownMessage => f.write_str("unknown pkt"),
            Fault::TooLong => f.write_str("incomplete pkt"),
            Fault::BrokenQuery => f.write_str("incomplete query"),
            Fault::Broken(message) => write!(f, "broken {message} packet"),
        }
    }
}

/// Bytes that were read and not looked at yet: no more are read while there is a longest message.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    /// Some was read before.
    pub(super) fn new(ahead: Vec<u8>) -> Inbox {
        Inbox { bytes: ahead }
    }

    /// The next request; `None`: more must be read.
    pub(super) fn next(&mut self) -> Result<Option<Request>, Fault> {
        loop {
            let Some(Header { tag, len }) = Header::read(&self.bytes).map_err(Fault::BadHeader)? else {
                return Ok(None);
            };
            if len > MESSAGE_LEN_MAX {
                return Err(Fault::TooLong);
            }
            let Some(body) = self.bytes.get(HEADER_LEN..len) else { return Ok(None) };
            let request = request(tag, body)?;
            self.bytes.drain(..len);
            if let Some(request) = request {
                return Ok(Some(request));
            }
        }
    }

    /// Reads once; 0 is the end. Nothing is lost if it is dropped before it is done.
    pub(super) async fn read(&mut self, stream: &mut Stream) -> io::Result<usize> {
        self.bytes.reserve(1024);
        stream.read_buf(&mut self.bytes).await
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// There is no room for more before something is taken out.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= MESSAGE_LEN_MAX
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// What a message asks for; `None`: nothing, as PgBouncer sees it.
fn request(tag: u8, body: &[u8]) -> Result<Option<Request>, Fault> {
    Ok(Some(match tag {
        tag::QUERY => {
            let end = body.iter().position(|&byte| byte == 0).ok_or(Fault::BrokenQuery)?;
            Request::Query(String::from_utf8_lossy(&body[..end]).into_owned())
        }
        tag::TERMINATE => Request::Terminate,
        tag::PARSE => Request::Parse(Parse::read(body).ok_or(Fault::Broken("Parse"))?),
        tag::BIND => Request::Bind(Bind::read(body).ok_or(Fault::Broken("Bind"))?),
        tag::DESCRIBE => Request::Describe(Target::read(body).ok_or(Fault::Broken("Describe"))?),
        tag::EXECUTE => Request::Execute(Execute::read(body).ok_or(Fault::Broken("Execute"))?),
        tag::CLOSE => Request::Close(Target::read(body).ok_or(Fault::Broken("Close"))?),
        tag::SYNC => Request::Sync,
        tag::FLUSH => Request::Flush,
        tag::FUNCTION_CALL => Request::Unsupported(AdminError::UnsupportedPacket(tag)),
        // What is left of a COPY that never was.
        tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => return Ok(None),
        _ => return Err(Fault::UnknownMessage),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgweir_proto::frame;

    fn inbox(messages: &[(u8, &[u8])]) -> Inbox {
        let mut bytes = Vec::new();
        for (tag, body) in messages {
            frame::message(&mut bytes, *tag, body);
        }
        Inbox { bytes }
    }

    fn query(text: &str) -> Result<Option<Request>, Fault> {
        Ok(Some(Request::Query(text.into())))
    }

    #[test]
    fn cuts_messages_and_leaves_out_what_asks_for_nothing() {
        let mut inbox =
            inbox(&[(b'Q', b"SHOW STATE\0"), (b'd', b"x"), (b'c', b""), (b'Q', b"\xff\0more\0"), (b'X', b"")]);
        let all = inbox.bytes.clone();
        let mut read = Inbox::default();
        for byte in &all[..15] {
            assert_eq!(read.next(), Ok(None));
            read.bytes.push(*byte);
        }
        read.bytes.push(all[15]);
        assert_eq!(read.next(), query("SHOW STATE"));
        assert_eq!(inbox.next(), query("SHOW STATE"));
        assert_eq!(inbox.next(), query("\u{fffd}"));
        assert_eq!(inbox.next(), Ok(Some(Request::Terminate)));
        assert_eq!((inbox.next(), inbox.bytes.len()), (Ok(None), 0));
    }

    #[test]
    fn reads_the_extended_protocol() {
        let mut inbox = inbox(&[
            (b'P', b"s\0SHOW STATE\0\0\0"),
            (b'D', b"Ss\0"),
            (b'C', b"Pp\0"),
            (b'E', b"p\0\0\0\0\0"),
            (b'H', b""),
            (b'S', b""),
            (b'B', b"p\0s\0"),
        ]);
        let mut next = || inbox.next().map(Option::unwrap);
        assert_eq!(next(), Ok(Request::Parse(Parse { name: "s".into(), sql: "SHOW STATE".into() })));
        assert_eq!(next(), Ok(Request::Describe(Target::Statement("s".into()))));
        assert_eq!(next(), Ok(Request::Close(Target::Portal("p".into()))));
        assert_eq!(next(), Ok(Request::Execute(Execute { portal: "p".into(), rows_max: 0 })));
        assert_eq!([next(), next()], [Ok(Request::Flush), Ok(Request::Sync)]);
        assert_eq!(next(), Err(Fault::Broken("Bind")));
    }

    #[test]
    fn refuses_what_is_no_request() {
        let refused = |tag: u8| match inbox(&[(tag, b"")]).next() {
            Ok(Some(Request::Unsupported(error))) => error.message().into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(b'F'), "unsupported packet type for admin console: 70");
        assert_eq!(inbox(&[(b'y', b"")]).next(), Err(Fault::UnknownMessage));
        assert_eq!(inbox(&[(b'p', b"secret\0")]).next(), Err(Fault::UnknownMessage));
    }

    #[test]
    fn refuses_broken_and_endless_messages() {
        assert_eq!(inbox(&[(b'Q', b"SHOW STATE")]).next(), Err(Fault::BrokenQuery));
        let mut broken = Inbox { bytes: b"Q\0\0\0\x01xxxx".to_vec() };
        assert_eq!(broken.next().unwrap_err().to_string(), "bad packet header: '5100000001'");
        let mut endless = Inbox { bytes: b"Q\0\0\x40\0".to_vec() };
        assert_eq!(endless.next(), Err(Fault::TooLong));
        let mut longest = Inbox { bytes: b"Q\0\0\x3f\xff".to_vec() };
        assert_eq!(longest.next(), Ok(None));
        longest.bytes.resize(MESSAGE_LEN_MAX, 0);
        assert!(longest.is_full() && matches!(longest.next(), Ok(Some(Request::Query(_)))));
    }
}
