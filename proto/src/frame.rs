//! Framing: every message after startup is a tag byte, a big-endian `u32` length that
//! counts itself but not the tag, and a body of `length - 4` bytes.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

/// Bytes in front of a body: tag and length.
pub const HEADER_LEN: usize = 5;

/// The head of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Bytes of the whole message: tag, length and body. At least 5, at most 2^31.
    pub len: usize,
}

/// A length below 4 or above 2^31 - 1: the two sides no longer agree on where messages begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLength {
    pub header: [u8; HEADER_LEN],
}

impl std::fmt::Display for BadLength {
    /// The hexadecimal form that PgBouncer prints in "bad packet header: '...'".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.header.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::error::Error for BadLength {}

impl Header {
    /// Reads the header at the start of `bytes`; `None` while fewer than 5 bytes are there.
    #[inline]
    pub fn read(bytes: &[u8]) -> Result<Option<Header>, BadLength> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let [tag, a, b, c, d] = *header;
        let len = u32::from_be_bytes([a, b, c, d]);
        if !(4..=i32::MAX as u32).contains(&len) {
            return Err(BadLength { header: *header });
        }
        Ok(Some(Header { tag, len: len as usize + 1 }))
    }
}

/// Begins a message in `out` and returns where its length stands; `finish` fills it in.
#[must_use]
pub fn begin(out: &mut Vec<u8>, tag: u8) -> usize {
    out.push(tag);
    out.extend_from_slice(&[0; 4]);
    out.len() - 4
}

/// Writes the length of the message begun at `at`.
pub fn finish(out: &mut [u8], at: usize) {
    let len = u32::try_from(out.len() - at).expect("a message that we build is below 4 GB");
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Appends a whole message.
pub fn message(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    let at = begin(out, tag);
    out.extend_from_slice(body);
    finish(out, at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_message_writes() {
        let mut out = Vec::new();
        message(&mut out, b'Q', b"select 1\0");
        assert_eq!(Header::read(&out), Ok(Some(Header { tag: b'Q', len: out.len() })));
        assert_eq!(Header::read(&out[..4]), Ok(None));
    }

    #[test]
    fn refuses_impossible_lengths() {
        for bytes in [*b"Q\0\0\0\x03", *b"Q\x80\0\0\0", *b"Q\xff\xff\xff\xff"] {
            assert_eq!(Header::read(&bytes), Err(BadLength { header: bytes }));
        }
        let bad = BadLength { header: *b"Q\0\0\0\x03" };
        assert_eq!(bad.to_string(), "5100000003");
    }
}
