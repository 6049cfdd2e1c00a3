//! What a client does that needs a session, in a pool that gives it none: counted, and told to
//! the operator.

use pgweir_config::{Named, PoolMode};

use crate::log::{self, Level, Subject};
use crate::pools::stats::Stats;
use crate::registry::ClientInfo;
use crate::relay::SessionUse;
use crate::server::parameters::{Parameters, Tracked};

/// The kinds that the log has a warning about already, a bit each.
#[derive(Debug, Default)]
pub(super) struct Told(u8);

impl Told {
    pub(super) fn bits(&self) -> u8 {
        self.0
    }

    pub(super) fn from_bits(bits: u8) -> Told {
        Told(bits)
    }
}

/// Hears of what a client uses.
pub(super) struct Watch<'a> {
    pub(super) told: &'a mut Told,
    pub(super) mode: PoolMode,
    /// PREPARE in SQL keeps the server for its client.
    pub(super) prepare_pins: bool,
    pub(super) stats: &'a Stats,
    pub(super) client: &'a ClientInfo,
    pub(super) tracked: &'a Tracked,
    /// What the server reports: such a parameter follows the client if it is tracked.
    pub(super) on_server: &'a Parameters,
}

impl Watch<'_> {
    #[cold]
    pub(super) fn note(&mut self, used: SessionUse<'_>) {
        if matches!(used, SessionUse::Set(name) if self.follows(name)) {
            return;
        }
        self.stats.session_uses[used.kind()].add(1);
        let bit = 1 << used.kind();
        if self.told.0 & bit == 0 {
            self.told.0 |= bit;
            self.warn(used);
        }
    }

    fn warn(&self, used: SessionUse<'_>) {
        let parameter;
        let (what, why, advice) = match used {
            SessionUse::TemporaryTable => (
                "a temporary table",
                "it stays on one server connection, which other clients get too",
                "create it with ON COMMIT DROP, in the transaction that uses it",
            ),
            SessionUse::AdvisoryLock => (
                "a session advisory lock",
                "one server connection keeps it, from which this client may never release it",
                "use pg_advisory_xact_lock",
            ),
            SessionUse::Listen => (
                "LISTEN",
                "notifications come to one server connection, and not to this client",
                "listen on a connection that is not pooled",
            ),
            SessionUse::HoldCursor => (
                "a cursor WITH HOLD",
                "it stays on one server connection, which other clients get too",
                "read it within its transaction",
            ),
            SessionUse::Set(name) => {
                parameter = format!("SET {name}");
                (
                    parameter.as_str(),
                    "the value stays on one server connection, which other clients get too",
                    "use SET LOCAL, or ALTER ROLE ... SET",
                )
            }
            SessionUse::Load => {
                ("LOAD", "one server connection has the library, the others do not", "use session_preload_libraries")
            }
            SessionUse::Prepare => (
                "PREPARE in SQL",
                if self.prepare_pins {
                    "it keeps a server connection for this client alone, until DEALLOCATE"
                } else {
                    "one server connection knows the statement, the others do not"
                },
                "prepare it by the protocol, as drivers do",
            ),
        };
        let ClientInfo { id, database, user, ends, .. } = self.client;
        let mode = self.mode.name();
        log::write_about(
            Subject::client(*id, database, user, ends),
            Level::Warning,
            format_args!(
                "{what} needs a session, which pool_mode={mode} does not give: \
                 {why}; {advice}, or use pool_mode=session"
            ),
        );
    }

    /// The pooler sets this parameter on whatever server the client gets.
    fn follows(&self, name: &str) -> bool {
        self.tracked.position(name).is_some_and(|position| self.on_server.get(position).is_some())
    }
}
