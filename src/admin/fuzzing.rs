//! The body of the fuzz target for what a console client sends.

use pgweir_proto::admin_error::AdminError;

use super::inbox::{Inbox, Request};
use super::parse::Command;

/// Messages as they come, in two reads; each query is parsed as a command.
pub(crate) fn console(data: &[u8]) {
    let (cut, bytes) = data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest));
    let whole = requests(&[bytes]);
    assert_eq!(requests(&[&bytes[..cut.min(bytes.len())], &bytes[cut.min(bytes.len())..]]), whole);
    for request in whole {
        if let Request::Query(text) = request {
            command(&text);
        }
    }
    command(&String::from_utf8_lossy(bytes));
}

/// What the pieces hold, up to a fault.
fn requests(pieces: &[&[u8]]) -> Vec<Request> {
    let (mut inbox, mut requests) = (Inbox::default(), Vec::new());
    for piece in pieces {
        inbox.push(piece);
        loop {
            match inbox.next() {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(_) => return requests,
            }
        }
    }
    requests
}

fn command(text: &str) {
    let quote = |word: &str, quote: char| {
        let doubled = word.replace(quote, &format!("{quote}{quote}"));
        format!("{quote}{doubled}{quote}")
    };
    match Command::parse(text) {
        Ok(Command::Nothing) => assert!(text.len() < 2 || text.chars().all(|c| c == ';' || c.is_ascii_whitespace())),
        Ok(Command::Plain { verb, argument }) => {
            assert!(verb.len() <= 15 && argument.len() <= 63);
            let behind = if argument.is_empty() { String::new() } else { format!(" {}", quote(&argument, '"')) };
            let again = format!("{}{behind};", quote(&verb, '"'));
            assert_eq!(Command::parse(&again), Ok(Command::Plain { verb, argument }));
        }
        Ok(Command::Set { key, value }) => {
            assert!(!key.is_empty() && key.len() + value.len() < text.len());
            let again = format!("set {} = {}", quote(&key, '"'), quote(&value, '\''));
            assert_eq!(Command::parse(&again), Ok(Command::Set { key, value }));
        }
        Err(AdminError::InvalidCommand(said)) => assert_eq!(said, text),
        Err(_) => {}
    }
}
