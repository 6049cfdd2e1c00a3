//! Clients of replication: each has a server of its own, made for it at its login, whatever the
//! pool's mode, and lets go of it only at its end.

use std::future::poll_fn;
use std::sync::Arc;

use pgweir_config::Config;
use pgweir_proto::client_error::ClientError;

use super::end::End;
use super::login::Refused;
use super::session::Session;
use super::welcome::{greet, refused};
use crate::pools::{Claim, Walsender};
use crate::server::connect::Welcome;
use crate::server::parameters::Parameters;

/// Gets the client its server, and tells it what that server has said.
pub(super) async fn welcome(
    session: &mut Session,
    config: &Config,
    walsender: Walsender,
    unsent: Vec<u8>,
) -> Result<(), Refused> {
    session.enter_task().await;
    let welcome = session.claim_server(walsender).await.map_err(refused)?;
    let notices = session.server.as_mut().map(|server| std::mem::take(&mut server.notices)).unwrap_or_default();
    session.assigned();
    greet(session, config, &welcome, unsent, notices)
}

impl Session {
    /// Waits for a place in the pool and for the login.
    async fn claim_server(&mut self, walsender: Walsender) -> Result<Welcome, End> {
        let began_us = self.worker.now_us();
        self.cell.info.begin_wait(began_us);
        self.worker.note_busy(&self.cell);
        let pool = Arc::clone(&self.member.pool);
        if pool.is_removed() {
            return Err(End::Error(ClientError::DatabaseRemoved));
        }
        let mut claim = Claim::new(pool, self.worker.id, walsender, self.parameters.clone(), began_us);
        let claimed = poll_fn(|cx| {
            self.check()?;
            self.poll_client_gone(cx)?;
            claim.poll(cx).map_err(End::Error)
        });
        let (server, welcome) = claimed.await?;
        let waited_us = self.worker.now_us().saturating_sub(began_us);
        let stats = self.member.pool.stats(self.worker.id);
        stats.wait_time_us.add(waited_us);
        stats.latencies().wait.add(waited_us);
        self.cell.info.end_wait();
        self.parameters = server.parameters.clone();
        // The server itself goes back to what its login asked for.
        self.asked = Parameters::none(&self.pools.tracked);
        self.link(server);
        Ok(welcome)
    }

    /// Serves the client to its end.
    pub(super) async fn replicate(&mut self) -> End {
        let early = std::mem::take(&mut self.partial);
        let done = match self.forward_requests(&early) {
            Ok(()) => poll_fn(|cx| self.poll_relay(cx)).await,
            failed => failed,
        };
        done.err().unwrap_or(End::ServerEof)
    }
}
