//! The pooler's own server connections: those that idle in a pool are there to idle.

use std::collections::BTreeSet;

use super::Session;
use crate::maintenance::console::{Console, Need};
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::options::Target;

/// Processes of PostgreSQL that serve nobody in a pool. One of another host with the same number is spared, too.
pub(super) struct IdleServers {
    /// None: no pooler was named.
    pids: Option<BTreeSet<i32>>,
}

impl IdleServers {
    pub(super) fn is_known(&self) -> bool {
        self.pids.is_some()
    }

    pub(super) fn has(&self, session: &Session) -> bool {
        self.pids.as_ref().is_some_and(|pids| pids.contains(&session.pid))
    }
}

/// A pooler that is named and does not answer is a failure: its servers must not be taken for others' idle sessions.
pub(super) async fn idle_servers(job: &Job, target: &Target) -> Result<IdleServers, Failure> {
    if target.config.is_none() && target.console.is_none() {
        return Ok(IdleServers { pids: None });
    }
    let mut pids = BTreeSet::new();
    for console in Console::connect_all(job, target, Need::Figures).await? {
        let servers = console.show("SERVERS").await?;
        let idle = servers.iter().filter(|server| server.text("link").is_empty());
        pids.extend(idle.filter_map(|server| server.text("remote_pid").parse::<i32>().ok()));
    }
    Ok(IdleServers { pids: Some(pids) })
}
