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
mod parse;
mod pause;
mod reply;
mod session;
mod settings;
mod show;
mod shutdown;
mod table;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;

use std::sync::Arc;

use pgweir_proto::error_response::{ErrorResponse, Severity};
use pgweir_proto::sqlstate::SqlState;

pub(crate) use history::StatsHistory;

use crate::client::ConsoleClient;
use crate::control::Commands;
use crate::log::log_at;
use crate::pools::Pools;
use session::Session;

/// What all console clients share.
pub(crate) struct Console {
    pools: Arc<Pools>,
    /// For what concerns the process as a whole.
    commands: Commands,
    stats: Arc<StatsHistory>,
    /// Held while the configuration is replaced: SET makes the new one from the one in force.
    settings_turn: tokio::sync::Mutex<()>,
}

impl Console {
    pub(crate) fn new(pools: Arc<Pools>, commands: Commands, stats: Arc<StatsHistory>) -> Console {
        Console { pools, commands, stats, settings_turn: tokio::sync::Mutex::new(()) }
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
