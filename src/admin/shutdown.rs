//! SHUTDOWN.

use tokio::sync::oneshot;

use super::reply::Reply;
use super::session::{Answer, Session};
use crate::control::{Command, Shutdown};
use crate::log::log_at;

/// What the argument of SHUTDOWN says; `None` if it says nothing that we know.
pub(super) fn mode(argument: &str) -> Option<Shutdown> {
    match argument.to_ascii_uppercase().as_str() {
        "" => Some(Shutdown::Immediate),
        "WAIT_FOR_SERVERS" => Some(Shutdown::WaitForServers),
        "WAIT_FOR_CLIENTS" => Some(Shutdown::WaitForClients),
        _ => None,
    }
}

/// Tells the process to end. An immediate end has no answer but the end of the connection.
pub(super) async fn shutdown(session: &mut Session, how: Shutdown) -> Answer {
    session.require_admin()?;
    let command = match how {
        Shutdown::Immediate => "SHUTDOWN",
        Shutdown::WaitForServers => "SHUTDOWN WAIT_FOR_SERVERS",
        Shutdown::WaitForClients => "SHUTDOWN WAIT_FOR_CLIENTS",
    };
    log_at!(Log, "{command} command issued");
    let (answer, begun) = oneshot::channel();
    // Nobody takes commands any more only when the process is ending already.
    let _ = session.console.commands.send(Command::Shutdown(how, answer));
    if how == Shutdown::Immediate {
        return Err(session.wait_for_end().await);
    }
    let _ = begun.await;
    Ok(Reply::done("SHUTDOWN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_pgbouncers() {
        assert_eq!(mode(""), Some(Shutdown::Immediate));
        assert_eq!(mode("wait_for_servers"), Some(Shutdown::WaitForServers));
        assert_eq!(mode("WAIT_FOR_CLIENTS"), Some(Shutdown::WaitForClients));
        assert_eq!(mode("now"), None);
    }
}
