//! What servers make of parameter values that clients ask for at login: `utf8` is reported as
//! `UTF8`, `iso` as `ISO, MDY`. A client must be told the server's spelling, also at a login
//! that needs no server.

use std::collections::HashMap;
use std::sync::Arc;

use crate::server::parameters::{APPLICATION_NAME, Parameters};

/// Values that are remembered; a client that makes them up must not fill the memory.
const SPELLINGS_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Spellings {
    /// The server's spelling of a value of the parameter at a position.
    known: HashMap<(usize, Arc<str>), Arc<str>>,
}

impl Spellings {
    /// `asked` in the server's spelling, and whether that is known for every value.
    pub(super) fn spell(&self, asked: &Parameters) -> (Parameters, bool) {
        let (mut spelled, mut complete) = (asked.clone(), true);
        for (position, value) in asked.values() {
            // A free text, and different for most clients.
            if position == APPLICATION_NAME {
                continue;
            }
            match self.known.get(&(position, Arc::clone(value))) {
                Some(known) => spelled = spelled.with(position, known),
                None => complete = false,
            }
        }
        (spelled, complete)
    }

    /// A server on which `asked` was set reports `reported`.
    pub(super) fn learn(&mut self, asked: &Parameters, reported: &Parameters) {
        for (position, value) in asked.values() {
            if let Some(spelled) = reported.get(position)
                && position != APPLICATION_NAME
                && self.known.len() < SPELLINGS_MAX
            {
                self.known.insert((position, Arc::clone(value)), Arc::clone(spelled));
                // What the server says, it says again.
                self.known.insert((position, Arc::clone(spelled)), Arc::clone(spelled));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::parameters::Tracked;

    #[test]
    fn a_spelling_is_known_once_a_server_has_said_it() {
        let none = Parameters::none(&Tracked::new([]));
        let asked = none.with(0, "utf8").with(APPLICATION_NAME, "psql");
        let mut spellings = Spellings::default();
        assert!(!spellings.spell(&asked).1);
        spellings.learn(&asked, &none.with(0, "UTF8").with(1, "ISO, MDY").with(APPLICATION_NAME, "psql"));
        let (spelled, complete) = spellings.spell(&asked);
        assert!(complete && spelled.is_same(&none.with(0, "UTF8").with(APPLICATION_NAME, "psql")));
        assert!(spellings.spell(&none.with(0, "UTF8").with(APPLICATION_NAME, "other")).1);
        assert!(!spellings.spell(&none.with(0, "latin1")).1);
    }
}
