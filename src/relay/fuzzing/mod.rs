//! The bodies of the fuzz targets for the relay's core.

mod pooler;
mod postgres;

use pgweir_proto::frame;
use pgweir_proto::frontend as tag;

use super::WHOLE_MESSAGE_MAX;
use super::session_use::{SessionUse, look};
use pooler::Pooler;

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

/// Texts of statements; those of the server that stands in know no others.
const TEXTS: [&str; 11] = ["row 1", "row 2", "row 3", "row 4", "", "begin", "commit", "set", "err", "bad", "copy"];

/// Texts only of simple queries.
const QUERIES: [&str; 5] = ["row 5;row 6", "out", "row 7;err;row 8", "begin;row 9;commit", "execute sql"];

const NAMES: [&str; 4] = ["a", "b", "c", "sql"];

const PORTALS: [&str; 2] = ["", "p"];

/// Two clients that say what `data` tells them to, through a relay that reads as it tells it to.
pub(crate) fn relay(data: &[u8]) {
    let mut pooler = Pooler::new();
    let mut bytes = data.iter().copied();
    while let (Some(what), Some(how)) = (bytes.next(), bytes.next()) {
        let client = usize::from(what >> 7);
        match what & 0x7f {
            0..=79 => say(&mut pooler, client, what & 0x7f, how),
            80..=95 => drop(pooler.read_client(client, usize::from(how) * usize::from(how) + 1)),
            96..=107 => drop(pooler.step_server()),
            108..=119 => drop(pooler.read_server(usize::from(how) + 1)),
            _ => {
                pooler.settle();
                pooler.check();
            }
        }
    }
    for client in [0, 1] {
        // Whatever it is in the middle of comes to its end.
        for (tag, body) in
            [(tag::COPY_DONE, &b""[..]), (tag::SYNC, b""), (tag::QUERY, b"commit\0"), (tag::QUERY, b"deallocate all\0")]
        {
            pooler.send(client, &message(tag, body));
            pooler.settle();
        }
    }
    pooler.settle();
    pooler.check_end();
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::message(&mut out, tag, body);
    out
}

/// A client sends one message, or a few that belong together.
fn say(pooler: &mut Pooler, client: usize, what: u8, how: u8) {
    let pick = |of: &[&'static str]| of[usize::from(how) % of.len()];
    let direct = pooler.direct(client);
    if direct.is_copying() {
        // Anything else ends the connection.
        let (tag, body): (u8, &[u8]) = match what % 8 {
            0..=2 => (tag::COPY_DATA, b"some"),
            3 => (tag::COPY_DATA, b"bad"),
            4 => (tag::COPY_FAIL, b"no\0"),
            5 => (tag::SYNC, b""),
            6 => (tag::FLUSH, b""),
            _ => (tag::COPY_DONE, b""),
        };
        return pooler.send(client, &message(tag, body));
    }
    // One in sixteen is too long to be held back whole.
    let padding = if how >= 0xf0 { " ".repeat(WHOLE_MESSAGE_MAX + 100) } else { String::new() };
    let query = |sql: &str| message(tag::QUERY, format!("{sql}{padding}\0").as_bytes());
    let parse = |name: &str, sql: &str| message(tag::PARSE, format!("{name}\0{sql}{padding}\0\0\0").as_bytes());
    let bind = |portal: &str, name: &str| message(tag::BIND, format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes());
    let object = |tag: u8, kind: char, name: &str| message(tag, format!("{kind}{name}\0").as_bytes());
    let text = TEXTS[usize::from(how & 0x7f) % TEXTS.len()];
    let name = NAMES[usize::from(how >> 2) % 3];
    let portal = PORTALS[usize::from(how) % PORTALS.len()];
    match what {
        0..=7 => pooler.send(client, &query(text)),
        8..=11 => pooler.send(client, &query(pick(&QUERIES))),
        12..=14 => {
            // What these do to names is known when they are answered.
            pooler.settle();
            if pooler.is_at_ease(client) {
                let texts =
                    ["prepare sql as row 10", "deallocate sql", "deallocate a", "deallocate b", "deallocate all"];
                pooler.send(client, &query(pick(&texts)));
                pooler.settle();
            }
        }
        // In a failed transaction a Parse of what is prepared fails later than without a pooler.
        15..=27 if !direct.is_failed() => pooler.send(client, &parse(name, text)),
        28..=36 if !direct.is_failed() => {
            pooler.send(client, &parse("", text));
            pooler.send(client, &bind(portal, ""));
        }
        37..=48 => pooler.send(client, &bind(portal, pick(&NAMES))),
        49..=51 => pooler.send(client, &object(tag::DESCRIBE, 'S', pick(&NAMES))),
        52..=53 => pooler.send(client, &object(tag::DESCRIBE, 'P', portal)),
        54..=63 => pooler.send(client, &message(tag::EXECUTE, format!("{portal}\0\0\0\0\0").as_bytes())),
        64..=66 => pooler.send(client, &object(tag::CLOSE, 'S', name)),
        67 => pooler.send(client, &object(tag::CLOSE, 'S', "")),
        68 => pooler.send(client, &object(tag::CLOSE, 'P', portal)),
        69 => pooler.send(client, &message(tag::FLUSH, b"")),
        70 => pooler.send(client, &message(tag::FUNCTION_CALL, &[0; 10])),
        71 => pooler.send(client, &message(tag::COPY_DATA, b"late")),
        72 => pooler.send(client, &message(tag::COPY_DONE, b"")),
        73..=79 => pooler.send(client, &message(tag::SYNC, b"")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    /// xorshift64
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn fails(data: &[u8]) -> bool {
        catch_unwind(|| relay(data)).is_err()
    }

    /// Leaves out steps as long as it still fails.
    fn shrink(mut data: Vec<u8>) -> Vec<u8> {
        let mut at = 0;
        while at < data.len() {
            let mut less = data.clone();
            less.drain(at..(at + 2).min(data.len()));
            if fails(&less) {
                (data, at) = (less, 0);
            } else {
                at += 2;
            }
        }
        data
    }

    #[test]
    fn replies_come_in_their_order_whatever_two_clients_say() {
        let rounds = std::env::var("PGWEIR_RELAY_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_u64);
        for seed in 1..=rounds {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let len = random(&mut state) % 300;
            let data: Vec<u8> = (0..len).map(|_| (random(&mut state) >> 32) as u8).collect();
            if fails(&data) {
                let least = shrink(data);
                println!("seed {seed}, least input: {least:?}");
                relay(&least);
            }
        }
    }
}
