//! What is measured, once in time (`benches/parts.rs`) and once in instructions (`main.rs`).

mod scripts;

use std::hint::black_box;

use pgweir::benching::{Handout, Relay, console};
use pgweir_proto::backend;
use pgweir_proto::frame::{self, Header};

use scripts::Script;

/// Something that is done again and again.
pub type Work = Box<dyn FnMut()>;

/// A work that is measured.
pub struct Part {
    /// Group and name, as criterion calls it and as the table of instructions has it.
    pub name: &'static str,
    /// Makes everything that is not measured.
    pub prepare: fn() -> Work,
    /// How often it is done where instructions are counted: some ten million of them.
    pub repeats: u32,
}

pub const PARTS: &[Part] = &[
    Part { name: "framing/read_1000_headers", prepare: read_headers, repeats: 1_000 },
    Part { name: "framing/write_a_message", prepare: write_message, repeats: 100_000 },
    Part { name: "relay/select_1", prepare: || relay(200, scripts::simple()), repeats: 20_000 },
    Part { name: "relay/select_1_statements_not_tracked", prepare: || relay(0, scripts::simple()), repeats: 20_000 },
    Part { name: "relay/extended", prepare: || relay(200, scripts::extended()), repeats: 10_000 },
    Part { name: "relay/1000_rows", prepare: || relay(200, scripts::rows()), repeats: 200 },
    Part { name: "prepared/known_to_the_server", prepare: prepared, repeats: 10_000 },
    Part { name: "prepared/by_another_name", prepare: prepared_again, repeats: 10_000 },
    Part { name: "prepared/in_place_of_another", prepare: prepared_in_turns, repeats: 5_000 },
    Part { name: "pool/checkout_release", prepare: || handout(8, Handout::turn), repeats: 100_000 },
    Part { name: "pool/checkout_wait_release", prepare: || handout(1, Handout::turn_with_a_wait), repeats: 100_000 },
    Part { name: "console/parse_a_command", prepare: parse_command, repeats: 50_000 },
    Part { name: "console/show_100_clients", prepare: show_clients, repeats: 50 },
];

fn read_headers() -> Work {
    let reply = scripts::rows().reply;
    Box::new(move || {
        let mut rest = black_box(&reply[..]);
        let mut rows = 0;
        while let Ok(Some(head)) = Header::read(rest) {
            rows += u32::from(head.tag == backend::DATA_ROW);
            rest = &rest[head.len..];
        }
        assert_eq!(rows, 1_000);
    })
}

fn write_message() -> Work {
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        frame::message(&mut out, backend::DATA_ROW, black_box(b"\0\x01\0\0\0\x011"));
        black_box(&out);
    })
}

fn transaction(relay: &mut Relay, script: &Script) {
    relay.transaction(black_box(&script.request), black_box(&script.reply));
}

fn relay(max_prepared_statements: usize, script: Script) -> Work {
    let mut relay = Relay::new(max_prepared_statements);
    Box::new(move || {
        transaction(&mut relay, &script);
        assert_eq!((relay.to_server.len(), relay.to_client_len), (script.request.len(), script.reply.len()));
    })
}

fn prepared() -> Work {
    let mut relay = Relay::new(200);
    transaction(&mut relay, &scripts::prepare("a"));
    let script = scripts::prepared("a");
    Box::new(move || {
        transaction(&mut relay, &script);
        assert_eq!(relay.to_client_len, script.reply.len());
    })
}

fn prepared_again() -> Work {
    let mut relay = Relay::new(200);
    transaction(&mut relay, &scripts::prepare("a"));
    let script = scripts::prepared_again("a");
    Box::new(move || {
        transaction(&mut relay, &script);
        // ParseComplete and CloseComplete are the pooler's own.
        assert_eq!(relay.to_client_len, script.reply.len() + 2 * frame::HEADER_LEN);
    })
}

/// Two statements, of which a server may have one.
fn prepared_in_turns() -> Work {
    let mut relay = Relay::new(1);
    transaction(&mut relay, &scripts::prepare("a"));
    transaction(&mut relay, &scripts::prepare_in_place("b"));
    let turns = ["a", "b"].map(scripts::prepared_in_place);
    Box::new(move || {
        for script in &turns {
            transaction(&mut relay, script);
            assert_eq!(relay.to_client_len, script.reply.len() - 2 * frame::HEADER_LEN);
        }
    })
}

fn handout(servers: u32, turn: fn(&Handout)) -> Work {
    let handout = Handout::new(servers);
    Box::new(move || turn(black_box(&handout)))
}

fn parse_command() -> Work {
    Box::new(|| assert!(console::parse(black_box("SHOW CLIENTS;"))))
}

fn show_clients() -> Work {
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        console::show_clients(100, &mut out);
        black_box(&out);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_can_be_done_again() {
        for part in PARTS {
            let mut work = (part.prepare)();
            (0..3).for_each(|_| work());
        }
    }
}
