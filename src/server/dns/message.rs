//! Messages of the DNS (RFC 1035): questions for addresses and for the serial of a zone, and their answers.

use std::net::IpAddr;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    V4,
    V6,
    /// Start of authority: has the serial of a zone.
    Soa,
}

impl Question {
    fn code(self) -> u16 {
        match self {
            Question::V4 => TYPE_A,
            Question::V6 => TYPE_AAAA,
            Question::Soa => TYPE_SOA,
        }
    }
}

const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

const IS_ANSWER: u16 = 0x8000;
const IS_TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const CODE: u16 = 0x000f;
const NO_ERROR: u16 = 0;
const NAME_ERROR: u16 = 3;

const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 255;

/// What an answer says. Both empty: there is nothing of the kind under this name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) addresses: Vec<IpAddr>,
    /// Of the zone that the name is in.
    pub(super) serial: Option<u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// To another question than ours, or no answer at all: ours may still come.
    NotOurs,
    /// It ends where more should be.
    Malformed,
    /// It does not fit into a datagram.
    Truncated,
    /// The server cannot or will not answer; its code.
    Refused(u16),
}

/// `None`: such a name there cannot be.
pub(super) fn encode(id: u16, name: &str, question: Question) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(64);
    // Id, flags, and how many questions, answers, authorities and additional records follow.
    [id, RECURSION_DESIRED, 1, 0, 0, 0].iter().for_each(|n| out.extend(n.to_be_bytes()));
    let start = out.len();
    for label in name.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=LABEL_MAX).contains(&usize::from(*len)))?;
        out.push(len);
        out.extend(label.as_bytes());
    }
    out.push(0);
    if out.len() - start > NAME_MAX {
        return None;
    }
    [question.code(), CLASS_IN].iter().for_each(|n| out.extend(n.to_be_bytes()));
    Some(out)
}

/// The answer to `query`, which `encode` has made.
pub(super) fn parse(query: &[u8], message: &[u8]) -> Result<Answer, Fault> {
    let mut fields = Fields { message, at: 0 };
    let [id, flags, questions, answers, authorities, _] = fields.header().ok_or(Fault::NotOurs)?;
    let question = query.get(HEADER..).unwrap_or_default();
    let is_ours = query.get(..2) == Some(&id.to_be_bytes()) && flags & IS_ANSWER != 0;
    if !is_ours || questions != 1 || !fields.take(question.len()).is_some_and(|q| q.eq_ignore_ascii_case(question)) {
        return Err(Fault::NotOurs);
    }
    if flags & IS_TRUNCATED != 0 {
        return Err(Fault::Truncated);
    }
    match flags & CODE {
        NO_ERROR | NAME_ERROR => {}
        code => return Err(Fault::Refused(code)),
    }
    let mut answer = Answer::default();
    // Where the name is no zone's own, the zone that it is in comes as authority.
    for _ in 0..u32::from(answers) + u32::from(authorities) {
        fields.record(&mut answer).ok_or(Fault::Malformed)?;
    }
    Ok(answer)
}

const HEADER: usize = 12;

struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn header(&mut self) -> Option<[u16; HEADER / 2]> {
        let mut header = [0; HEADER / 2];
        for field in &mut header {
            *field = self.u16()?;
        }
        Some(header)
    }

    /// Labels up to an empty one, or to a pointer to where the rest stands.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            match self.take(1)?[0] {
                0 => return Some(()),
                len if len & 0xc0 == 0xc0 => return self.take(1).map(drop),
                len if usize::from(len) <= LABEL_MAX => drop(self.take(usize::from(len))?),
                _ => return None,
            }
        }
    }

    /// Name, type, class, time to live, length, data.
    fn record(&mut self, answer: &mut Answer) -> Option<()> {
        self.skip_name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let _ttl = self.u32()?;
        let len = usize::from(self.u16()?);
        let end = self.at.checked_add(len)?;
        match (kind, len) {
            _ if class != CLASS_IN => {}
            (TYPE_A, 4) => answer.addresses.push(<[u8; 4]>::try_from(self.take(4)?).ok()?.into()),
            (TYPE_AAAA, 16) => answer.addresses.push(<[u8; 16]>::try_from(self.take(16)?).ok()?.into()),
            (TYPE_SOA, _) => {
                // The server's name and the administrator's.
                self.skip_name()?;
                self.skip_name()?;
                let serial = self.u32()?;
                answer.serial.get_or_insert(serial);
            }
            _ => {}
        }
        self.at = end;
        (end <= self.message.len()).then_some(())
    }
}

/// For the fuzz target: any bytes that may come.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(data: &[u8]) {
    for question in [Question::V4, Question::V6, Question::Soa] {
        let query = encode(7, "db.example.org", question).expect("a name");
        // Behind our own head and question, so that the records are reached.
        let mut answer = query.clone();
        answer[2] |= (IS_ANSWER >> 8) as u8;
        answer[6..10].fill(u8::from(data.len() > 100) + 1);
        answer.extend(data);
        for message in [data, &answer] {
            if let Ok(answer) = parse(&query, message) {
                assert!(answer.addresses.len() * 4 <= message.len());
            }
        }
        if let Ok(name) = std::str::from_utf8(data) {
            assert!(encode(7, name, question).is_none_or(|query| query.len() <= HEADER + NAME_MAX + 4));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The answer to `query` with these records: type and data, the last `authorities` of them as authority.
    pub(in super::super) fn answer(query: &[u8], code: u16, records: &[(u16, &[u8])], authorities: u16) -> Vec<u8> {
        let mut out = query[..2].to_vec();
        let answers = records.len() as u16 - authorities;
        [IS_ANSWER | code, 1, answers, authorities, 0].iter().for_each(|n| out.extend(n.to_be_bytes()));
        out.extend(&query[HEADER..]);
        for (kind, data) in records {
            // The name: a pointer to the question's.
            out.extend([0xc0, HEADER as u8]);
            out.extend(kind.to_be_bytes());
            out.extend(CLASS_IN.to_be_bytes());
            out.extend([0; 4]);
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(*data);
        }
        out
    }

    pub(in super::super) fn soa(serial: u32) -> Vec<u8> {
        let mut data = b"\x02ns\x07example\x00\xc0\x0c".to_vec();
        [serial, 1, 2, 3, 4].iter().for_each(|n| data.extend(n.to_be_bytes()));
        data
    }

    #[test]
    fn a_question_has_its_labels() {
        let query = encode(0x1234, "db.example.", Question::V6).unwrap();
        assert_eq!(query, b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x07example\x00\x00\x1c\x00\x01");
        let long = "a".repeat(64);
        for none in ["", ".", "a..b", long.as_str(), "abc.".repeat(70).as_str()] {
            assert_eq!(encode(1, none, Question::V4), None, "{none}");
        }
    }

    #[test]
    fn answers_have_addresses_and_serials() {
        let query = encode(9, "db.example", Question::V4).unwrap();
        let v6 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        // An alias first, as servers send it.
        let records: [(u16, &[u8]); 3] = [(5, b"\x01x\xc0\x0c"), (TYPE_A, &[10, 0, 0, 1]), (TYPE_AAAA, &v6)];
        let parsed = parse(&query, &answer(&query, 0, &records, 0)).unwrap();
        assert_eq!(parsed.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        let soa = soa(2_026_112_101);
        for authorities in [0, 1] {
            let parsed = parse(&query, &answer(&query, 0, &[(TYPE_SOA, &soa)], authorities)).unwrap();
            assert_eq!(parsed.serial, Some(2_026_112_101));
        }
        assert_eq!(parse(&query, &answer(&query, NAME_ERROR, &[], 0)), Ok(Answer::default()));
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        let query = encode(9, "db.example", Question::V4).unwrap();
        let good = answer(&query, 0, &[(TYPE_A, &[10, 0, 0, 1])], 0);
        let changed = |at: usize, byte: u8| {
            let mut message = good.clone();
            message[at] = byte;
            parse(&query, &message)
        };
        assert_eq!(changed(1, 8), Err(Fault::NotOurs), "another id");
        assert_eq!(changed(2, 1), Err(Fault::NotOurs), "a question");
        assert_eq!(changed(HEADER + 1, b'x'), Err(Fault::NotOurs), "about another name");
        assert_eq!(changed(2, 0x82), Err(Fault::Truncated));
        assert_eq!(changed(3, 2), Err(Fault::Refused(2)));
        assert_eq!(changed(7, 2), Err(Fault::Malformed), "an answer less than it says");
        for end in 0..good.len() {
            assert!(parse(&query, &good[..end]).is_err(), "{end}");
        }
        // Letters may change case on the way.
        assert!(changed(HEADER + 1, b'D').is_ok());
    }
}
