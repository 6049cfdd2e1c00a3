//! Distinguished names as text, in the form in which PostgreSQL shows them (`pg_stat_ssl`).

use super::x509::{Der, OID, SEQUENCE, SET};

const BMP_STRING: u8 = 0x1e;

/// Object identifiers as they are encoded, and what they are called.
const NAMES: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 97], "organizationIdentifier"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
];

/// As `/C=DE/O=Example/CN=db.example.org`. What is no name is as much text as it is, and nothing
/// in it can break a line.
pub(super) fn text(name: &[u8]) -> String {
    let mut out = String::new();
    let mut sets = Der(name);
    while let Some(set) = sets.take(SET) {
        let mut pairs = Der(set);
        while let Some(pair) = pairs.take(SEQUENCE) {
            let mut pair = Der(pair);
            let (Some(oid), Some((tag, value, _))) = (pair.take(OID), pair.next()) else { continue };
            out.push('/');
            out.push_str(&label(oid));
            out.push('=');
            out.extend(decoded(tag, value).chars().map(|c| if c.is_control() { '?' } else { c }));
        }
    }
    out
}

fn label(oid: &[u8]) -> String {
    match NAMES.iter().find(|(known, _)| *known == oid) {
        Some((_, name)) => (*name).to_owned(),
        None => oid.iter().fold("oid".to_owned(), |text, byte| format!("{text}.{byte:02x}")),
    }
}

fn decoded(tag: u8, value: &[u8]) -> String {
    match tag {
        BMP_STRING => {
            let units: Vec<u16> = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        _ => String::from_utf8_lossy(value).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lines_of_text() {
        let pair = |oid: &[u8], tag: u8, value: &[u8]| {
            let mut pair = vec![OID, oid.len() as u8];
            pair.extend(oid);
            pair.extend([tag, value.len() as u8]);
            pair.extend(value);
            [&[SET, pair.len() as u8 + 2, SEQUENCE, pair.len() as u8], &pair[..]].concat()
        };
        let name = [
            pair(&[0x55, 4, 6], 0x13, b"DE"),
            pair(&[0x55, 4, 10], BMP_STRING, &[0, b'A', 0, 0xe9]),
            pair(&[1, 2], 0x0c, b"x\ny\xff"),
            pair(&[0x55, 4, 3], 0x0c, b"a"),
        ];
        assert_eq!(text(&name.concat()), "/C=DE/O=A\u{e9}/oid.01.02=x?y\u{fffd}/CN=a");
        assert_eq!(text(b"no name"), "");
    }
}
