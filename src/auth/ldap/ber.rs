//! As much of BER as LDAP has: definite lengths, tags of one byte.
//! <https://www.rfc-editor.org/rfc/rfc4511#section-5.1>

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;

/// Appends an element with what `content` appends.
pub(super) fn element(out: &mut Vec<u8>, tag: u8, content: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    content(&mut inner);
    octets(out, tag, &inner);
}

/// Appends an element with `content`.
pub(super) fn octets(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let len = content.len().to_be_bytes();
    match content.len() {
        0..=0x7f => out.push(content.len() as u8),
        _ => {
            let digits = &len[len.iter().take_while(|&&byte| byte == 0).count()..];
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(content);
}

/// Appends a number as INTEGER or ENUMERATED.
pub(super) fn number(out: &mut Vec<u8>, tag: u8, number: i32) {
    let bytes = number.to_be_bytes();
    // The shortest form in which the sign can still be seen.
    let is_spare = |at: usize| {
        let sign = if bytes[at + 1] & 0x80 == 0 { 0 } else { 0xff };
        bytes[at] == sign
    };
    let spare = (0..bytes.len() - 1).take_while(|&at| is_spare(at)).count();
    octets(out, tag, &bytes[spare..]);
}

/// The length of the content behind a tag, and that of the form it is in. `None`: more of `input` is needed.
/// `Some(Err)`: it is none that we take.
pub(super) fn length(input: &[u8]) -> Option<Result<(usize, usize), Malformed>> {
    let first = *input.first()?;
    if first < 0x80 {
        return Some(Ok((usize::from(first), 1)));
    }
    let digits = usize::from(first & 0x7f);
    // No end is told by 0x80; and four bytes are more than anybody needs.
    if digits == 0 || digits > 4 {
        return Some(Err(Malformed));
    }
    let bytes = input.get(1..1 + digits)?;
    let len = bytes.iter().fold(0, |len: usize, &byte| len << 8 | usize::from(byte));
    Some(Ok((len, 1 + digits)))
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What is left of the inside of an element.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag and its content.
    pub(super) fn any(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (&tag, rest) = self.0.split_first().ok_or(Malformed)?;
        let (len, head) = length(rest).ok_or(Malformed)??;
        let end = head.checked_add(len).ok_or(Malformed)?;
        let content = rest.get(head..end).ok_or(Malformed)?;
        self.0 = &rest[end..];
        Ok((tag, content))
    }

    /// The content of the next element, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        match self.any()? {
            (found, content) if found == tag => Ok(content),
            _ => Err(Malformed),
        }
    }

    pub(super) fn number(&mut self, tag: u8) -> Result<i32, Malformed> {
        let content = self.take(tag)?;
        let first = *content.first().ok_or(Malformed)?;
        if content.len() > 4 {
            return Err(Malformed);
        }
        let sign = if first & 0x80 == 0 { 0 } else { -1 };
        Ok(content.iter().fold(sign, |number: i32, &byte| number << 8 | i32::from(byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_shortest_form_and_come_back() {
        for (n, bytes) in [
            (0, &[2, 1, 0][..]),
            (127, &[2, 1, 127]),
            (128, &[2, 2, 0, 128]),
            (-1, &[2, 1, 255]),
            (-129, &[2, 2, 255, 127]),
            (i32::MAX, &[2, 4, 127, 255, 255, 255]),
        ] {
            let mut out = Vec::new();
            number(&mut out, INTEGER, n);
            assert_eq!(out, bytes);
            assert_eq!(Reader(&out).number(INTEGER), Ok(n));
        }
        for bad in [&[2, 0][..], &[2, 5, 1, 1, 1, 1, 1], &[10, 1, 1], &[2, 2, 1]] {
            assert_eq!(Reader(bad).number(INTEGER), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn lengths_of_all_forms() {
        for len in [0, 1, 127, 128, 255, 256, 65_536] {
            let mut out = Vec::new();
            element(&mut out, SEQUENCE, |out| out.extend(vec![7; len]));
            let mut reader = Reader(&out);
            assert_eq!(reader.take(SEQUENCE).unwrap().len(), len);
            assert!(reader.0.is_empty());
            assert_eq!(Reader(&out[..out.len() - 1]).any(), Err(Malformed));
        }
        assert_eq!(length(&[0x82, 1]), None);
        assert_eq!(length(&[0x80]), Some(Err(Malformed)));
        assert_eq!(length(&[0x85, 0, 0, 0, 0, 1]), Some(Err(Malformed)));
        assert_eq!(Reader(&[4, 0x84, 255, 255, 255, 255, 0]).any(), Err(Malformed));
    }
}
