//! Carrying out a command, whichever protocol it came by.

use pgweir_proto::admin_error::AdminError;

use super::parse::Command;
use super::reply::Reply;
use super::session::{Answer, Session, Stop};
use super::{databases, kill, pause, settings, show, shutdown, takeover};

impl Session {
    /// `text` is what `command` was made of.
    pub(super) async fn execute(&mut self, command: &Command, text: &str) -> Answer {
        self.console.stats.count_console_command();
        let invalid = || Stop::Error(AdminError::InvalidCommand(text.to_owned()));
        let (verb, argument) = match command {
            Command::Nothing => return Ok(Reply::default()),
            Command::Set { key, value } => return settings::set(self, key, value).await,
            Command::Plain { verb, argument } => (verb.to_ascii_lowercase(), argument),
        };
        match (verb.as_str(), argument.as_str()) {
            ("show" | "select", what) => show::show(self, what)?.ok_or_else(invalid),
            ("pause", name) => pause::pause(self, name).await,
            ("resume", name) => pause::resume(self, name).await,
            ("suspend", "") => pause::suspend(self).await,
            ("kill", name) => kill::kill(self, name).await,
            ("kill_client", id) => kill::kill_client(self, id).await,
            ("wait_close", name) => databases::wait_close(self, name).await,
            ("reconnect", name) => databases::reconnect(self, name).await,
            ("disable", name) => databases::disable(self, name),
            ("enable", name) => databases::enable(self, name),
            ("reload", "") => settings::reload(self).await,
            ("deallocate", name) if !name.is_empty() => Ok(self.prepared.deallocate(name)?),
            ("discard", what) if what.eq_ignore_ascii_case("all") => Ok(self.prepared.discard()),
            ("takeover", format) => match takeover::take_over(self, format).await? {},
            ("shutdown", how) => match shutdown::mode(how) {
                Some(how) => shutdown::shutdown(self, how).await,
                None => Err(invalid()),
            },
            (verb, of_what) => self.transaction(verb, of_what).ok_or_else(invalid),
        }
    }

    /// Many drivers begin a transaction before anything else. Here they are words only: what a
    /// command does is done at once, and is not taken back.
    fn transaction(&mut self, verb: &str, of_what: &str) -> Option<Reply> {
        let of_what = of_what.to_ascii_lowercase();
        let is_named = matches!(of_what.as_str(), "" | "work" | "transaction");
        let (tag, in_block) = match verb {
            "begin" if is_named => ("BEGIN", true),
            "start" if of_what == "transaction" => ("START TRANSACTION", true),
            "commit" | "end" if is_named => ("COMMIT", false),
            "rollback" | "abort" if is_named => ("ROLLBACK", false),
            _ => return None,
        };
        self.in_block = in_block;
        Some(Reply::done(tag))
    }
}
