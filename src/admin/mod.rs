//! The console: the database `pgbouncer`, in which commands take the place of SQL.
//!
//! `session` serves one client: `inbox` cuts what it sends into messages, `parse` reads the
//! command, `execute` and a file per verb carry it out, `extended` does so for the extended
//! protocol, `reply` is what comes of it; `show/` has a file per SHOW, of which `columns` knows the
//! head and `table` the form. `history` keeps what SHOW STATS needs.

mod columns;
mod databases;
mod execute;
mod extended;
mod history;
mod inbox;
mod kill;
mod latencies;
mod parse;
mod pause;
mod reply;
mod session;
mod settings;
mod show;
mod shutdown;
mod table;
mod takeover;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(feature = "benching")]
pub mod benching;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgweir_proto::error_response::{ErrorResponse, Severity};
use pgweir_proto::sqlstate::SqlState;
use tokio::sync::Notify;

pub(crate) use history::StatsHistory;

use crate::client::ConsoleClient;
use crate::control::Commands;
use crate::log::log_at;
use crate::pools::Pools;
use crate::worker::Roster;
use session::Session;

/// What all console clients share.
pub(crate) struct Console {
    pools: Arc<Pools>,
    /// For what concerns the process as a whole.
    commands: Commands,
    stats: Arc<StatsHistory>,
    /// What the workers do.
    roster: Arc<Roster>,
    /// Held while the configuration is replaced: SET makes the new one from the one in force.
    settings_turn: tokio::sync::Mutex<()>,
    /// What ends each session of the console itself, by the client's id.
    kills: Mutex<HashMap<u64, Arc<Notify>>>,
}

impl Console {
    pub(crate) fn new(pools: Arc<Pools>, commands: Commands, stats: Arc<StatsHistory>, roster: Arc<Roster>) -> Console {
        Console { pools, commands, stats, roster, settings_turn: tokio::sync::Mutex::new(()), kills: Mutex::default() }
    }

    fn kills(&self) -> MutexGuard<'_, HashMap<u64, Arc<Notify>>> {
        self.kills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// KILL_CLIENT of a client of the console; false if it is none.
    fn kill_session(&self, id: u64) -> bool {
        let kill = self.kills().get(&id).cloned();
        kill.inspect(|kill| kill.notify_one()).is_some()
    }

    /// Serves a client until it is gone.
    pub(crate) async fn serve(self: Arc<Self>, client: ConsoleClient) {
        let ends = client.ends.clone();
        match Session::new(self, client) {
            Ok(session) => session.serve().await,
            Err(e) => log_at!(Warning, "console client at {ends} cannot be served: {e}"),
        }
    }
}

/// Appends a notice.
fn notice(out: &mut Vec<u8>, message: &str, detail: Option<&str>) {
    let notice = ErrorResponse::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message);
    ErrorResponse { detail, ..notice }.notice(out);
}
