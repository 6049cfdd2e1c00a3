//! A cursor over a message body: every read is checked and `None` means "too short".

use std::fmt::Write as _;

pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// The bytes up to the next NUL, which is consumed too.
    pub(crate) fn cstr(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let (value, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(value)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (value, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*value)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn skip(&mut self, len: usize) -> Option<()> {
        self.0 = self.0.get(len..)?;
        Some(())
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Text from a peer. PostgreSQL allows names in any encoding, this program holds UTF-8:
/// each byte that is not part of valid UTF-8 becomes `\xHH`, as PostgreSQL 16 does with
/// `application_name`.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_where_the_bytes_end() {
        let mut reader = Reader::new(b"ab\0\0\0\0\x07z");
        assert_eq!(reader.cstr(), Some(&b"ab"[..]));
        assert_eq!(reader.u32(), Some(7));
        assert_eq!(reader.cstr(), None);
        assert_eq!(reader.u32(), None);
        assert!(!reader.is_empty());
        assert_eq!(reader.rest(), b"z");
    }

    #[test]
    fn text_keeps_utf8_and_escapes_the_rest() {
        assert_eq!(text("grün".as_bytes()), "grün");
        assert_eq!(text(b"gr\xfcn"), "gr\\xfcn");
        assert_eq!(text(b"\xe2\x82"), "\\xe2\\x82");
    }
}
