//! TAKEOVER, which another process of ours says to take this one's place. People have no use for it.

use pgweir_proto::admin_error::AdminError;
use tokio::sync::oneshot;

use super::session::{End, Session, Stop};
use crate::auth::is_own_process;
use crate::control::Command;
use crate::takeover::FORMAT;

/// Gives the connection away, to be spoken on in another language. Does not return if that goes well.
pub(super) async fn take_over(session: &mut Session, format: &str) -> Result<std::convert::Infallible, Stop> {
    session.require_admin()?;
    let refuse = |why: String| Stop::Error(AdminError::NoTakeover(why));
    if !is_own_process(&session.stream) {
        return Err(refuse("only the owner of this process may take over, by its Unix socket".into()));
    }
    if format.parse() != Ok(FORMAT) {
        return Err(refuse(format!("takeover format {format} is not known here, only {FORMAT}: restart without -R")));
    }
    let socket = session.stream.duplicate().map_err(|e| refuse(e.to_string()))?;
    let (answer, answered) = oneshot::channel();
    // Nobody takes commands any more only when the process is ending already.
    let _ = session.console.commands.send(Command::TakeOver(socket, answer));
    match answered.await {
        Ok(Ok(())) => Err(Stop::End(End::GivenAway)),
        Ok(Err(why)) => Err(refuse(why)),
        Err(_) => Err(Stop::Error(AdminError::ShuttingDown)),
    }
}
