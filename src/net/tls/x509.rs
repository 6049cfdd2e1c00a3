//! What a certificate says, as far as rustls and webpki do not tell: its names, its time, and
//! all of a certificate of version 1, which OpenSSL makes unless told otherwise.
//! <https://www.rfc-editor.org/rfc/rfc5280#section-4.1>

use std::net::IpAddr;

use super::dn;

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// The kinds of text whose bytes are UTF-8: UTF8String, PrintableString, T61String and IA5String,
/// where they are used for what they are. Others have several bytes to each character.
const TEXTS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 29, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 29, 19];
const NAME_CONSTRAINTS: &[u8] = &[0x55, 29, 30];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 29, 37];

/// Purposes of keys.
pub(super) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
pub(super) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// A certificate's parts. Names and the algorithm are without their outer tag and length.
#[derive(Debug)]
pub(super) struct Certificate<'a> {
    /// What is signed.
    pub(super) tbs: &'a [u8],
    pub(super) is_v1: bool,
    /// The content of the integer.
    pub(super) serial: &'a [u8],
    pub(super) issuer: &'a [u8],
    /// Seconds since 1970, both included.
    pub(super) valid: (u64, u64),
    pub(super) subject: &'a [u8],
    /// With its outer tag and length.
    pub(super) public_key: &'a [u8],
    extensions: &'a [u8],
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
}

/// Takes elements off the front of DER.
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag, its content, and the whole of it.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let [tag, first, ..] = *self.0 else { return None };
        let (head, len) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x83 => {
                let digits = usize::from(first & 0x7f);
                let bytes = self.0.get(2..2 + digits)?;
                (2 + digits, bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)))
            }
            _ => return None,
        };
        let whole = self.0.get(..head + len)?;
        self.0 = &self.0[head + len..];
        Some((tag, &whole[head..], whole))
    }

    /// The content of the next element, which must be of this kind.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|next| next.0 == tag).map(|next| next.1)
    }

    /// The same if it is of this kind, or nothing is taken.
    pub(super) fn take_if(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.take(tag) } else { None }
    }
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut outer = Der(Der(der).take(SEQUENCE)?);
        let (_, fields, tbs) = outer.next().filter(|next| next.0 == SEQUENCE)?;
        let algorithm = outer.take(SEQUENCE)?;
        // The first byte counts unused bits, of which there are none.
        let signature = outer.take(BIT_STRING)?.strip_prefix(&[0])?;
        let mut fields = Der(fields);
        let is_v1 = fields.take_if(VERSION).is_none();
        let serial = fields.take(INTEGER)?;
        // It is signed and must be the one that is used.
        fields.take(SEQUENCE).filter(|inner| *inner == algorithm)?;
        let issuer = fields.take(SEQUENCE)?;
        let mut times = Der(fields.take(SEQUENCE)?);
        let valid = (time(&mut times)?, time(&mut times)?);
        let subject = fields.take(SEQUENCE)?;
        let (_, _, public_key) = fields.next().filter(|next| next.0 == SEQUENCE)?;
        let mut extensions: &[u8] = &[];
        while let Some((tag, content, _)) = fields.next() {
            if tag == EXTENSIONS {
                extensions = Der(content).take(SEQUENCE)?;
            }
        }
        Some(Certificate { tbs, is_v1, serial, issuer, valid, subject, public_key, extensions, algorithm, signature })
    }

    /// The subject's first common name; `None` also where it is not text.
    pub(super) fn common_name(&self) -> Option<&'a str> {
        let mut sets = Der(self.subject);
        while let Some(set) = sets.take(SET) {
            let mut pairs = Der(set);
            while let Some(pair) = pairs.take(SEQUENCE) {
                let mut pair = Der(pair);
                if pair.take(OID)? == COMMON_NAME {
                    let (_, text, _) = pair.next().filter(|(tag, ..)| TEXTS.contains(tag))?;
                    return std::str::from_utf8(text).ok();
                }
            }
        }
        None
    }

    pub(super) fn subject_text(&self) -> String {
        dn::text(self.subject)
    }

    pub(super) fn issuer_text(&self) -> String {
        dn::text(self.issuer)
    }

    /// What an extension holds, without the sequence that it is.
    fn extension(&self, oid: &[u8]) -> Option<Der<'a>> {
        let mut extensions = Der(self.extensions);
        while let Some(extension) = extensions.take(SEQUENCE) {
            let mut parts = Der(extension);
            if parts.take(OID) == Some(oid) {
                // Whether it is critical may stand in between.
                parts.take_if(BOOLEAN);
                return Some(Der(Der(parts.take(OCTET_STRING)?).take(SEQUENCE)?));
            }
        }
        None
    }

    /// Whether it may sign others. Of those of version 1, which cannot say, as in OpenSSL only
    /// those may that sign themselves.
    pub(super) fn is_authority(&self) -> bool {
        let flag = || self.extension(BASIC_CONSTRAINTS)?.take_if(BOOLEAN);
        self.is_v1 && self.subject == self.issuer || flag().is_some_and(|flag| flag != [0])
    }

    /// How many authorities may stand between this one and whom its chains end with; `None`: any number.
    pub(super) fn path_len(&self) -> Option<u64> {
        let mut constraints = self.extension(BASIC_CONSTRAINTS)?;
        constraints.take_if(BOOLEAN);
        let digits = constraints.take_if(INTEGER)?;
        Some(digits.iter().fold(0, |len: u64, digit| len.saturating_mul(256).saturating_add((*digit).into())))
    }

    /// Names that others below it may have, or may not, are listed.
    pub(super) fn has_name_constraints(&self) -> bool {
        self.extension(NAME_CONSTRAINTS).is_some()
    }

    /// Whether its key is for this purpose, or for any as it does not say.
    pub(super) fn is_for(&self, purpose: &[u8]) -> bool {
        let Some(mut purposes) = self.extension(EXTENDED_KEY_USAGE) else { return true };
        std::iter::from_fn(|| purposes.take(OID)).any(|known| known == purpose)
    }

    /// The subject's other names: tags and contents.
    fn alternative_names(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut names = self.extension(SUBJECT_ALT_NAME).unwrap_or(Der(&[]));
        std::iter::from_fn(move || names.next().map(|(tag, content, _)| (tag, content)))
    }

    /// Whether it is the certificate of this host. As in RFC 6125 the common name counts only
    /// where there are no other names of hosts, and where it is good for that at all.
    pub(super) fn is_of_host(&self, host: &str, is_common_name_good: bool) -> bool {
        let address = host.parse::<IpAddr>().ok();
        let mut has_names = false;
        for (tag, name) in self.alternative_names() {
            has_names |= matches!(tag, DNS_NAME | IP_ADDRESS);
            let is_it = match (tag, address) {
                (DNS_NAME, None) => std::str::from_utf8(name).is_ok_and(|name| is_name_of(name, host)),
                (IP_ADDRESS, Some(IpAddr::V4(address))) => name == address.octets(),
                (IP_ADDRESS, Some(IpAddr::V6(address))) => name == address.octets(),
                _ => false,
            };
            if is_it {
                return true;
            }
        }
        let name = self.common_name().filter(|_| is_common_name_good && !has_names);
        name.is_some_and(|name| if address.is_some() { name == host } else { is_name_of(name, host) })
    }

    /// Whether it is the certificate of this user: the name to the letter, with no wildcards.
    pub(super) fn is_of_user(&self, user: &str) -> bool {
        let is_it = |(tag, name): (u8, &[u8])| tag == DNS_NAME && name == user.as_bytes();
        self.common_name() == Some(user) || self.alternative_names().any(is_it)
    }
}

/// `*.example.org` stands for one more label in front, and never for a whole top level.
fn is_name_of(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(domain), Some((label, rest))) = (pattern.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest)
}

/// A time in UTC to the second, the only form that certificates may have.
fn time(times: &mut Der<'_>) -> Option<u64> {
    let (tag, text, _) = times.next()?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let is_right = |len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| text.parse::<u64>().ok();
    let (year, rest) = match tag {
        UTC_TIME if is_right(12) => {
            let year = number(&text[..2])?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        GENERALIZED_TIME if is_right(14) => (number(&text[..4])?, &text[4..]),
        _ => return None,
    };
    let two = |at: usize| number(&rest[at..at + 2]);
    let (month, day, hour, minute, second) = (two(0)?, two(2)?, two(4)?, two(6)?, two(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 by the civil calendar, years beginning with March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = (365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1).saturating_sub(719_468);
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 65_536);
        let len = content.len() as u16;
        let mut der = match len {
            0..=0x7f => vec![tag, len as u8],
            _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
        };
        der.extend_from_slice(content);
        der
    }

    fn certificate(common_name: &str, alternative: &[(u8, &[u8])]) -> Vec<u8> {
        certificate_of((0x0c, common_name.as_bytes()), alternative)
    }

    fn certificate_of((kind, common_name): (u8, &[u8]), alternative: &[(u8, &[u8])]) -> Vec<u8> {
        let algorithm = element(SEQUENCE, &element(OID, &[1, 2, 3]));
        let attribute = [element(OID, COMMON_NAME), element(kind, common_name)].concat();
        let subject = element(SEQUENCE, &element(SET, &element(SEQUENCE, &attribute)));
        let times = [element(UTC_TIME, b"700101000000Z"), element(GENERALIZED_TIME, b"20240229235959Z")].concat();
        let names: Vec<u8> = alternative.iter().flat_map(|(tag, name)| element(*tag, name)).collect();
        let extension =
            [element(OID, SUBJECT_ALT_NAME), element(1, &[0xff]), element(OCTET_STRING, &element(SEQUENCE, &names))];
        let extensions = element(EXTENSIONS, &element(SEQUENCE, &element(SEQUENCE, &extension.concat())));
        let mut fields = match alternative {
            [] => Vec::new(),
            _ => element(VERSION, &element(INTEGER, &[2])),
        };
        fields.extend(element(INTEGER, &[7]));
        fields.extend(algorithm.iter());
        fields.extend(element(SEQUENCE, b"issuer"));
        fields.extend(element(SEQUENCE, &times));
        fields.extend(&subject);
        fields.extend(element(SEQUENCE, b"key"));
        if !alternative.is_empty() {
            fields.extend(extensions);
        }
        let whole = [element(SEQUENCE, &fields), algorithm, element(BIT_STRING, b"\0signature")].concat();
        element(SEQUENCE, &whole)
    }

    #[test]
    fn parts_of_a_certificate() {
        let der = certificate("alice", &[]);
        let parsed = Certificate::parse(&der).unwrap();
        assert!(parsed.is_v1);
        assert_eq!((parsed.issuer, parsed.signature), (&b"issuer"[..], &b"signature"[..]));
        assert_eq!(parsed.valid, (0, 1_709_251_199));
        assert_eq!(parsed.common_name(), Some("alice"));
        assert_eq!((parsed.subject_text().as_str(), parsed.serial), ("/CN=alice", &[7][..]));
        assert!(!Certificate::parse(&certificate("x", &[(DNS_NAME, b"y")])).unwrap().is_v1);
    }

    #[test]
    fn whatever_is_cut_or_changed_is_survived() {
        let der = certificate("alice", &[(DNS_NAME, b"a.example.org"), (IP_ADDRESS, &[127, 0, 0, 1])]);
        for at in 0..der.len() {
            assert!(Certificate::parse(&der[..at]).is_none(), "{at}");
            for value in [0, 1, 0x30, 0x7f, 0x80, 0x82, 0x83, 0xff] {
                let mut other = der.clone();
                other[at] = value;
                if let Some(parsed) = Certificate::parse(&other) {
                    parsed.is_of_host("a.example.org", true);
                    parsed.is_of_user("alice");
                    parsed.subject_text();
                    parsed.issuer_text();
                }
            }
        }
    }

    #[test]
    fn names_of_hosts() {
        let is_of = |der: &[u8], host: &str| Certificate::parse(der).unwrap().is_of_host(host, true);
        let old = certificate("*.Example.org", &[]);
        for host in ["a.example.org", "B.EXAMPLE.ORG", "a.example.org."] {
            assert!(is_of(&old, host), "{host}");
        }
        for host in ["example.org", "a.b.example.org", ".example.org", "a.example.com", "org"] {
            assert!(!is_of(&old, host), "{host}");
        }
        assert!(!is_of(&certificate("*.org", &[]), "example.org") && !is_of(&certificate("*", &[]), "a"));
        assert!(is_of(&certificate("127.0.0.1", &[]), "127.0.0.1"));
        let v4: &[u8] = &[127, 0, 0, 1];
        let new = certificate("old.example.org", &[(DNS_NAME, b"new.example.org"), (IP_ADDRESS, v4)]);
        assert!(is_of(&new, "new.example.org") && is_of(&new, "127.0.0.1"));
        assert!(!is_of(&new, "old.example.org") && !is_of(&new, "127.0.0.2") && !is_of(&new, "::1"));
        let mail = certificate("a.example.org", &[(0x81, b"a@example.org")]);
        assert!(is_of(&mail, "a.example.org"));
        assert!(!is_of(&certificate("a.example.org\0.evil.org", &[]), "a.example.org"));
    }

    #[test]
    fn names_of_users() {
        let is_of = |der: &[u8], user: &str| Certificate::parse(der).unwrap().is_of_user(user);
        let der = certificate("alice", &[(DNS_NAME, b"bob"), (DNS_NAME, b"*.example.org")]);
        assert!(is_of(&der, "alice") && is_of(&der, "bob"));
        assert!(!is_of(&der, "Alice") && !is_of(&der, "a.example.org") && !is_of(&der, ""));
        // Six letters, or three characters of two bytes each.
        for (kind, is_six) in [(0x0c, true), (0x13, true), (0x16, true), (0x1e, false), (0x1c, false)] {
            assert_eq!(is_of(&certificate_of((kind, b"bobbob"), &[]), "bobbob"), is_six);
        }
    }
}
