//! The four requests that we make, and what directories answer. <https://www.rfc-editor.org/rfc/rfc4511#section-4>

use std::fmt;

use pgweir_config::{Comparison, LdapFilter, LdapScope, LdapSearch};

use super::ber::{BOOLEAN, ENUMERATED, INTEGER, Malformed, OCTETS, Reader, SEQUENCE, element, number, octets};

const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND_REQUEST: u8 = 0x42;
const SEARCH_REQUEST: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const SEARCH_REFERENCE: u8 = 0x73;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;

const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// Asked for where no attribute is.
const NO_ATTRIBUTES: &[u8] = b"1.1";

/// One entry is what we hope for; the second tells that there is more than one.
const ENTRIES_MAX: i32 = 2;

/// Result codes that mean something to us.
pub(super) const SUCCESS: i32 = 0;
pub(super) const SIZE_LIMIT_EXCEEDED: i32 = 4;

/// No more of a directory's own words goes to the log.
const TEXT_LEN_MAX: usize = 200;

/// Writes one message.
pub(super) fn request(id: i32, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    element(&mut out, SEQUENCE, |out| {
        number(out, INTEGER, id);
        write(out);
    });
    out
}

pub(super) fn bind(out: &mut Vec<u8>, dn: &[u8], password: &[u8]) {
    element(out, BIND_REQUEST, |out| {
        number(out, INTEGER, 3);
        octets(out, OCTETS, dn);
        octets(out, 0x80, password);
    });
}

/// Says that we are done; nothing is answered.
pub(super) fn unbind(out: &mut Vec<u8>) {
    octets(out, UNBIND_REQUEST, &[]);
}

pub(super) fn start_tls(out: &mut Vec<u8>) {
    element(out, EXTENDED_REQUEST, |out| octets(out, 0x80, START_TLS));
}

pub(super) fn search(out: &mut Vec<u8>, search: &LdapSearch, user: &str, limit_s: i32) {
    let scope = match search.scope {
        LdapScope::Base => 0,
        LdapScope::One => 1,
        LdapScope::Sub => 2,
    };
    element(out, SEARCH_REQUEST, |out| {
        octets(out, OCTETS, search.base_dn.as_bytes());
        number(out, ENUMERATED, scope);
        // Aliases stay what they are.
        number(out, ENUMERATED, 0);
        number(out, INTEGER, ENTRIES_MAX);
        number(out, INTEGER, limit_s);
        octets(out, BOOLEAN, &[0]);
        filter(out, &search.filter, user);
        element(out, SEQUENCE, |out| octets(out, OCTETS, NO_ATTRIBUTES));
    });
}

fn filter(out: &mut Vec<u8>, asked: &LdapFilter, user: &str) {
    let all = |out: &mut Vec<u8>, filters: &[LdapFilter]| filters.iter().for_each(|part| filter(out, part, user));
    match asked {
        LdapFilter::And(filters) => element(out, 0xa0, |out| all(out, filters)),
        LdapFilter::Or(filters) => element(out, 0xa1, |out| all(out, filters)),
        LdapFilter::Not(part) => element(out, 0xa2, |out| filter(out, part, user)),
        LdapFilter::Present(attribute) => octets(out, 0x87, attribute.as_bytes()),
        LdapFilter::Compare { attribute, comparison, value } => {
            let tag = match comparison {
                Comparison::Equal => 0xa3,
                Comparison::GreaterOrEqual => 0xa5,
                Comparison::LessOrEqual => 0xa6,
                Comparison::Approximate => 0xa8,
            };
            element(out, tag, |out| {
                octets(out, OCTETS, attribute.as_bytes());
                octets(out, OCTETS, &value.fill(user));
            });
        }
        LdapFilter::Substrings { attribute, initial, any, last } => element(out, 0xa4, |out| {
            octets(out, OCTETS, attribute.as_bytes());
            element(out, SEQUENCE, |out| {
                initial.iter().for_each(|piece| octets(out, 0x80, &piece.fill(user)));
                any.iter().for_each(|piece| octets(out, 0x81, &piece.fill(user)));
                last.iter().for_each(|piece| octets(out, 0x82, &piece.fill(user)));
            });
        }),
        LdapFilter::Extensible { rule, attribute, value, with_dn } => element(out, 0xa9, |out| {
            rule.iter().for_each(|rule| octets(out, 0x81, rule.as_bytes()));
            attribute.iter().for_each(|attribute| octets(out, 0x82, attribute.as_bytes()));
            octets(out, 0x83, &value.fill(user));
            if *with_dn {
                octets(out, 0x84, &[0xff]);
            }
        }),
    }
}

/// An answer that we understand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    Bind(Outcome),
    /// Its name.
    Entry(Vec<u8>),
    /// Entries elsewhere, which are not looked for.
    Reference,
    SearchDone(Outcome),
    Extended(Outcome),
}

/// How a request has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth) struct Outcome {
    pub(super) code: i32,
    /// The directory's own words; often none.
    text: String,
}

/// Reads what is inside of a message: the id of its request, 0 for what nobody has asked for, and the answer.
pub(super) fn response(content: &[u8]) -> Result<(i32, Response), Malformed> {
    let mut message = Reader(content);
    let id = message.number(INTEGER)?;
    let (tag, content) = message.any()?;
    let response = match tag {
        BIND_RESPONSE => Response::Bind(outcome(content)?),
        SEARCH_DONE => Response::SearchDone(outcome(content)?),
        EXTENDED_RESPONSE => Response::Extended(outcome(content)?),
        SEARCH_ENTRY => Response::Entry(Reader(content).take(OCTETS)?.to_vec()),
        SEARCH_REFERENCE => Response::Reference,
        _ => return Err(Malformed),
    };
    Ok((id, response))
}

fn outcome(content: &[u8]) -> Result<Outcome, Malformed> {
    let mut content = Reader(content);
    let code = content.number(ENUMERATED)?;
    content.take(OCTETS)?;
    let text = String::from_utf8_lossy(content.take(OCTETS)?);
    let text = text.chars().filter(|c| !c.is_control()).take(TEXT_LEN_MAX).collect();
    Ok(Outcome { code, text })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.code {
            0 => "success",
            1 => "operations error",
            2 => "protocol error",
            3 => "time limit exceeded",
            4 => "size limit exceeded",
            7 => "authentication method not supported",
            8 => "stronger authentication required",
            10 => "referral",
            11 => "administrative limit exceeded",
            13 => "confidentiality required",
            18 => "inappropriate matching",
            32 => "no such object",
            34 => "invalid DN syntax",
            48 => "inappropriate authentication",
            49 => "invalid credentials",
            50 => "insufficient access rights",
            51 => "busy",
            52 => "unavailable",
            53 => "unwilling to perform",
            _ => "LDAP error",
        };
        write!(f, "{name} ({})", self.code)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

#[cfg(test)]
mod tests {
    use pgweir_config::{AuthType, Config, LdapBind};

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn filter_of(text: &str, user: &str) -> Vec<u8> {
        let mut config = Config::default();
        let options = format!("ldapserver=h ldapbasedn=x ldapsearchfilter=\"{text}\"");
        config.set("auth_ldap_options", &options).unwrap();
        config.set("auth_type", AuthType::Ldap.to_string().as_str()).unwrap();
        let LdapBind::Search(search) = &config.ldap.as_ref().unwrap().bind else { panic!("no search") };
        let mut out = Vec::new();
        filter(&mut out, &search.filter, user);
        out
    }

    #[test]
    fn filters_as_openldap_writes_them() {
        assert_eq!(filter_of("(uid=$username)", "ann"), bytes("a30a 0403 756964 0403 616e6e"));
        assert_eq!(filter_of("(!(a=*))", ""), bytes("a203 870161"));
        let nested = filter_of("(&(a>=1)(|(b~=2)(c<=3)))", "");
        assert_eq!(nested, bytes("a01a a506 040161 040131 a110 a806 040162 040132 a606 040163 040133"));
        assert_eq!(filter_of("(a=x*y*$username*z)", "u"), bytes("a411 040161 300c 800178 810179 810175 82017a"));
        assert_eq!(filter_of("(cn:dn:2.4:=v)", ""), bytes("a90f 8103 322e34 8202 636e 830176 8401ff"));
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_a_filter() {
        assert_eq!(filter_of("(uid=$username)", "*"), bytes("a308 0403 756964 0401 2a"));
        let sly = "x)(uid=*";
        assert_eq!(filter_of("(uid=$username)", sly)[9..], *sly.as_bytes());
    }

    #[test]
    fn requests_as_openldap_writes_them() {
        let bound = request(1, |out| bind(out, b"cn=x", b"pw"));
        assert_eq!(bound, bytes("3012 020101 600d 020103 0404 636e3d78 8002 7077"));
        assert_eq!(request(7, unbind), bytes("3005 020107 4200"));
        let tls = request(2, start_tls);
        assert_eq!(tls[..9], bytes("301d 020102 7718 8016"));
    }

    #[test]
    fn answers_are_read() {
        let done = Outcome { code: 49, text: String::new() };
        assert_eq!(response(&bytes("020101 6107 0a0131 0400 0400")), Ok((1, Response::Bind(done.clone()))));
        assert_eq!(done.to_string(), "invalid credentials (49)");
        let entry = bytes("020102 6408 0404 636e3d78 3000");
        assert_eq!(response(&entry), Ok((2, Response::Entry(b"cn=x".to_vec()))));
        let told = response(&bytes("020100 7809 0a0134 0400 0402 410a")).unwrap().1;
        let Response::Extended(outcome) = told else { panic!("{told:?}") };
        assert_eq!(outcome.to_string(), "unavailable (52): A");
        for bad in ["", "020101", "020101 6100", "020101 7f00", "0401 01", "020101 6105 0a0131 0400"] {
            assert_eq!(response(&bytes(bad)), Err(Malformed), "{bad}");
        }
    }
}
