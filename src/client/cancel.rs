//! Cancel requests: a connection of its own that names a client and proves to be of it. Carried
//! out on the runtime beside the data path.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgweir_proto::cancel::CancelKey;

use super::ClientSlot;
use crate::log::{self, Level, Subject, Topic, log_at};
use crate::net::clock;
use crate::net::stream::{Detached, Stream};
use crate::pools::{Peer, Pools};
use crate::registry::{CancelInfo, CancelTarget, ClientInfo, Ends, Listed};
use crate::server::cancel;
use crate::server::connect::ends;
use crate::takeover::record::Ask;

/// How often it is looked whether a client that leaves has left.
const LEFT_LOOK: Duration = Duration::from_millis(1);

/// A cancel request and the connection that it came on. That gets no answer, since one would
/// tell a stranger which keys are good, but is closed when all is done: so an honest asker knows
/// that nothing of its own is on the way any more.
pub(super) struct CancelRequest {
    pub(super) pools: Arc<Pools>,
    pub(super) key: CancelKey,
    pub(super) id: u64,
    pub(super) ends: Ends,
    /// As it is shown.
    pub(super) tls: Option<Arc<str>>,
    pub(super) connect_us: u64,
    /// `None`: the process that takes over has passed it on.
    pub(super) _held: Option<(Detached, ClientSlot)>,
}

/// Carries out a cancel request that has come to the process that takes over; false if the client is not here.
pub(crate) async fn carry_out_for_successor(pools: Arc<Pools>, key: CancelKey) -> bool {
    let (id, connect_us) = (pools.registry.next_id(), clock::now_us());
    let ends = Ends::Unix { port: pools.config().settings.listen_port, peer_pid: None };
    let request = CancelRequest { pools, key, id, ends, tls: None, connect_us, _held: None };
    loop {
        match request.forward().await {
            Err(GivenUp::UnknownKey) => return false,
            // Soon it is there, or stays.
            Err(GivenUp::Left) => tokio::time::sleep(LEFT_LOOK).await,
            outcome => {
                request.conclude(outcome);
                return true;
            }
        }
    }
}

/// Why a request was not carried out.
enum GivenUp {
    UnknownKey,
    /// The client is on its way to the process that takes over.
    Left,
    /// The client runs nothing.
    Idle,
    /// What the client ran when the request came was over when its turn came.
    NowIdle,
    /// `cancel_wait_timeout`
    TimedOut,
    /// KILL or KILL_CLIENT
    Killed,
    TooMany,
    /// It was passed on too often.
    PassedOnTooOften,
    NoSuchPeer,
    PeerRemoved,
    NotResolved(Arc<str>),
    Failed(io::Error),
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GivenUp::UnknownKey | GivenUp::Left => "failed cancel request",
            GivenUp::Idle => "cancel request for idle client",
            GivenUp::NowIdle => "not sending cancel request for client that is now idle",
            GivenUp::Killed => "admin forced disconnect",
            GivenUp::TimedOut => "cancel_wait_timeout",
            GivenUp::TooMany => "too many cancel requests at once",
            GivenUp::PassedOnTooOften => "failed to forward cancel request because its TTL was exhausted",
            GivenUp::NoSuchPeer => "could not find peer to forward request to",
            GivenUp::PeerRemoved => "peer removed",
            GivenUp::NotResolved(why) => return write!(f, "the peer's host was not found: {why}"),
            GivenUp::Failed(e) => return write!(f, "failed to send cancel request: {e}"),
        })
    }
}

impl CancelRequest {
    pub(super) async fn carry_out(self) {
        let outcome = self.forward().await;
        self.conclude(outcome);
    }

    fn conclude(&self, outcome: Result<(), GivenUp>) {
        let reason = match outcome {
            Ok(()) => "successfully sent cancel request".to_owned(),
            Err(GivenUp::Failed(e)) => {
                let reason = GivenUp::Failed(e).to_string();
                self.log(Level::Warning, format_args!("{reason}"));
                reason
            }
            Err(given_up) => given_up.to_string(),
        };
        if log::is_wanted(Topic::Disconnections) {
            let age_s = clock::now_us().saturating_sub(self.connect_us) / 1_000_000;
            self.log(Level::Log, format_args!("closing because: {reason} (age={age_s}s)"));
        }
    }

    fn log(&self, level: Level, text: fmt::Arguments<'_>) {
        log::write_about(Subject::client(self.id, "(nodb)", "(nouser)", &self.ends), level, text);
    }

    /// To the server that runs the client's query, or to the peer that the client is with.
    async fn forward(&self) -> Result<(), GivenUp> {
        let registry = &self.pools.registry;
        let own_id = self.pools.config().settings.peer_id;
        let as_given_out = || registry.client_with(&self.key.with_full_ttl()).filter(|_| own_id > 0);
        let peer_id = u32::from(self.key.peer_id());
        let find = || registry.client_with(&self.key).or_else(as_given_out);
        let mut found = find();
        if found.is_none() && self.pools.elder.ask(Ask::Cancel { key: self.key.clone() }).await {
            return Ok(());
        }
        // If it was on its way here, it has come meanwhile.
        found = found.or_else(find);
        match found {
            Some(client) => self.to_server(&client).await,
            None if own_id > 0 && peer_id != own_id => self.to_peer(peer_id).await,
            None => Err(GivenUp::UnknownKey),
        }
    }

    async fn to_server(&self, client: &ClientInfo) -> Result<(), GivenUp> {
        let query = client.running_query().ok_or(GivenUp::Idle)?;
        client.cancel_query(query);
        if client.is_leaving() {
            return Err(GivenUp::Left);
        }
        let Some(server) = self.pools.registry.server(client.link()) else {
            // It waits for one, and has been told.
            return Ok(());
        };
        let listed = self.list(CancelTarget::Server(Arc::clone(&server)))?;
        let sent_before = server.cancels_sent();
        let wait = async {
            let turn = server.cancel_turn().await;
            if server.cancels_sent() > sent_before {
                return Ok(None);
            }
            if client.running_query() != Some(query) {
                return Err(GivenUp::NowIdle);
            }
            listed.connecting();
            let (config, tls) = (self.pools.config(), self.pools.tls());
            let stream = cancel::connect(&server, &tls.dialer, &config.settings).await;
            let stream = stream.map_err(GivenUp::Failed)?;
            // From here on the server serves nobody else until the request is over.
            let guard = server.begin_cancel(client, query).ok_or(GivenUp::NowIdle)?;
            Ok(Some((turn, stream, guard)))
        };
        let Some((_turn, stream, _guard)) = self.within_limit(&listed, wait).await? else { return Ok(()) };
        listed.sending(cancel::ends(&stream, &server.address));
        cancel::send(stream, &server.cancel_key).await.map_err(|e| {
            // Nobody knows whether it will still arrive.
            server.set_close_needed();
            GivenUp::Failed(e)
        })
    }

    async fn to_peer(&self, peer_id: u32) -> Result<(), GivenUp> {
        let key = self.key.passed_on().ok_or(GivenUp::PassedOnTooOften)?;
        let peer = self.pools.peers.get(peer_id, &self.pools.config()).ok_or(GivenUp::NoSuchPeer)?;
        let listed = self.list(CancelTarget::Peer(peer_id))?;
        let wait = async {
            let turn = peer.turn().await.ok_or(GivenUp::PeerRemoved)?;
            listed.connecting();
            Ok((turn, self.connect_to(&peer).await?))
        };
        let (_turn, stream) = self.within_limit(&listed, wait).await?;
        listed.sending(ends(&stream, peer.entry.port).ok());
        log_at!(Debug, "C-{:#x}: forwarding cancellation request to peer {peer_id}", self.id);
        cancel::send(stream, &key).await.map_err(GivenUp::Failed)
    }

    async fn connect_to(&self, peer: &Peer) -> Result<Stream, GivenUp> {
        let config = self.pools.config();
        let host = peer.entry.host().ok_or(GivenUp::NoSuchPeer)?;
        let found = self.pools.connector.hosts.addresses(host, peer.entry.port).await;
        let mut last = io::ErrorKind::AddrNotAvailable.into();
        for address in found.map_err(GivenUp::NotResolved)? {
            match cancel::connect_to_peer(&address, &config.settings).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(GivenUp::Failed(last))
    }

    fn list(&self, target: CancelTarget) -> Result<Listed, GivenUp> {
        let info = CancelInfo::new(self.id, self.ends.clone(), self.tls.clone(), target, self.connect_us);
        self.pools.registry.add_cancel(info).ok_or(GivenUp::TooMany)
    }

    /// `cancel_wait_timeout` is for the time until the request is sent.
    async fn within_limit<T>(
        &self,
        listed: &Listed,
        wait: impl Future<Output = Result<T, GivenUp>>,
    ) -> Result<T, GivenUp> {
        let limit = self.pools.config().settings.cancel_wait_timeout;
        let limit = if limit.is_zero() { Duration::MAX } else { limit };
        tokio::select! {
            done = tokio::time::timeout(limit, wait) => done.unwrap_or(Err(GivenUp::TimedOut)),
            () = listed.info().killed.notified() => Err(GivenUp::Killed),
        }
    }
}
