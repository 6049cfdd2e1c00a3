//! Cancel requests: a connection of its own that names a client and proves to be of it.

use pgweir_config::CONSOLE_DATABASE;
use pgweir_proto::cancel::CancelKey;

use crate::log::log_at;
use crate::pools::Pools;
use crate::registry::{ClientState, Ends};
use crate::server::cancel;

/// Passes a cancel request on to the server that runs the client's query, if one does.
///
/// The client gets no answer either way: that would tell a stranger which keys are good.
pub(super) async fn forward(pools: &Pools, key: &CancelKey, id: u32, ends: &Ends) {
    let Some(client) = pools.registry.client(u64::from(key.pid)).filter(|c| c.cancel_secret == key.secret) else {
        log_at!(Log, "C-{id:#x}: (nodb)/(nouser)@{ends} closing because: failed cancel request");
        return;
    };
    if &*client.database == CONSOLE_DATABASE {
        // A console that waits for PAUSE looks at its own state.
        client.set_state(ClientState::ActiveCancel);
        return;
    }
    if client.state() == ClientState::Waiting {
        return client.cancel_wait();
    }
    let Some(server) = pools.registry.server(client.link()) else {
        log_at!(Log, "C-{id:#x}: (nodb)/(nouser)@{ends} closing because: cancel request for idle client");
        return;
    };
    // Held until the request is over: the server serves nobody else before.
    let Some(_guard) = server.begin_cancel(&client) else { return };
    let timeout = pools.config().settings.cancel_wait_timeout;
    if let Err(e) = cancel::send_cancel(&server.address, &server.cancel_key, timeout).await {
        log_at!(Warning, "S-{:#x}: cancel request could not be forwarded: {e}", server.id);
    }
}
