//! The bodies of the fuzz targets for the relay's core.

use pgweir_proto::frontend as tag;

use super::session_use::{SessionUse, look};

/// SQL from a client.
pub(crate) fn session_use(data: &[u8]) {
    let text = data.split(|&b| b == 0).next().unwrap_or_default();
    let mut uses = Vec::new();
    look(tag::QUERY, data, |used| uses.push(used));
    // A NUL ends the text.
    let mut again = Vec::new();
    look(tag::QUERY, text, |used| again.push(used));
    assert_eq!(uses, again);
    // A statement has five bytes at the least: `set a=b`, `load'x'`.
    assert!(uses.len() <= text.len() / 5);
    for used in &uses {
        assert!(used.kind() < SessionUse::KINDS);
        if let SessionUse::Set(name) = used {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b"_.$".contains(&b);
            assert!((1..64).contains(&name.len()) && name.bytes().all(is_name), "{name:?}");
        }
    }
    // In a Parse it is the same; as the data of a COPY it is nothing.
    let parse = [b"name\0", text, b"\0\0\0"].concat();
    let mut again = Vec::new();
    look(tag::PARSE, &parse, |used| again.push(used));
    assert_eq!(uses, again);
    look(tag::COPY_DATA, data, |used| panic!("{used:?}"));
}
