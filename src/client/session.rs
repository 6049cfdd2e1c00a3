//! A client that is logged in: it asks, gets a server, is served, and gives the server back.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pgweir_config::PoolMode;
use pgweir_proto::client_error::ClientError;

use super::ClientSlot;
use super::end::End;
use super::login_stream::Parts;
use super::session_use::{Told, Watch};
use crate::log::Level;
use crate::net::stream::Stream;
use crate::pool::{Permit, ServerState, WaitKey};
use crate::pools::{Got, Membership, Pools};
use crate::registry::{Buffered, ClientInfo};
use crate::relay::{Dialect, First, Names, Parses, Requests, SessionUse, Stop, Tracking};
use crate::server::parameters::Parameters;
use crate::server::{Server, query};
use crate::worker::{Placed, SessionCell, Worker};

/// Runs up to this size are copied into the outbox; longer ones are sent at once.
pub(super) const COPY_MAX: usize = 4 * 1024;

/// Flush: the server is to send what it holds back.
const FLUSH: &[u8] = b"H\0\0\0\x04";

/// How long a server may take to accept parameters if `server_connect_timeout` is off.
const PARAMETERS_TIMEOUT: Duration = Duration::from_secs(60);

/// A logged-in client.
pub(crate) struct Session {
    pub(super) worker: Rc<Worker>,
    pub(super) pools: Arc<Pools>,
    pub(super) member: Membership,
    pub(super) cell: Rc<SessionCell>,
    /// Its key in the worker's list.
    pub(super) listed: usize,
    pub(super) stream: Stream,
    /// What the client has set; the next server gets the same.
    pub(super) parameters: Parameters,
    /// What it asked for at its login: RESET and DISCARD go back to it.
    pub(super) asked: Parameters,
    /// RESET or DISCARD was carried out, and ReadyForQuery has not come yet.
    pub(super) was_reset: bool,
    pub(super) requests: Requests,
    /// Its prepared statements, in transaction and statement pooling.
    pub(super) names: Names,
    /// It has prepared a name that it had already, and the log says so.
    pub(super) has_reused_name: bool,
    /// `partial` begins with a request that must wait for answers; the client is not read.
    pub(super) is_held: bool,
    /// What the client has sent and no server was given: the head of a message, or what a
    /// client that waits has asked.
    pub(super) partial: Vec<u8>,
    /// The server that it is linked to.
    pub(super) server: Option<Box<Server>>,
    /// A query runs: since when is in the registry.
    pub(super) is_in_query: bool,
    /// The server's own FATAL was passed on, so its end needs no more words.
    pub(super) was_told: bool,
    /// What it was warned about that needs a session.
    pub(super) told: Told,
    /// The client has got the beginning of a message that has no end: no other may follow.
    pub(super) is_cut: bool,
    /// The registry says that something is under way, from the client or from its server.
    pub(super) has_buffered: bool,
    /// It cannot go to the process that takes over.
    pub(super) stays: bool,
    /// Since when it has waited for a server before it came from another process, or had to stay; 0: it has not.
    pub(super) waits_since_us: u64,
    /// Its place among the connected clients.
    pub(super) slot: ClientSlot,
    /// Its units of `max_db_client_connections` and `max_user_client_connections`.
    pub(super) _permits: [Permit; 2],
}

/// What a client takes up.
pub(super) struct Seat {
    pub(super) member: Membership,
    /// Units of `max_db_client_connections` and `max_user_client_connections`.
    pub(super) permits: [Permit; 2],
    pub(super) slot: ClientSlot,
}

/// What a client without a server waits for.
enum Asked {
    /// It is linked, and its request is on the way.
    Linked,
    /// It is linked, but the server's parameters are not the client's (any more).
    Different,
    Queued(WaitKey),
}

impl Session {
    /// A client of whom nothing is known but what it `asked` for.
    pub(super) fn new(
        worker: &Rc<Worker>,
        pools: &Arc<Pools>,
        seat: Seat,
        Parts { stream, lane, ahead }: Parts,
        info: Arc<ClientInfo>,
        asked: Parameters,
    ) -> Session {
        let cell = Rc::new(SessionCell::new(info, lane));
        let listed = worker.enlist(&cell);
        let Seat { member, permits, slot } = seat;
        Session {
            worker: Rc::clone(worker),
            pools: Arc::clone(pools),
            member,
            cell,
            listed,
            stream,
            parameters: asked.clone(),
            asked,
            was_reset: false,
            requests: Requests::default(),
            names: Names::default(),
            has_reused_name: false,
            is_held: false,
            partial: ahead,
            server: None,
            is_in_query: false,
            was_told: false,
            told: Told::default(),
            is_cut: false,
            has_buffered: false,
            stays: false,
            waits_since_us: 0,
            slot,
            _permits: permits,
        }
    }

    /// Serves the client to its end. No `async fn`, whose future would have room for the session twice.
    #[expect(clippy::manual_async_fn)]
    pub(super) fn run(mut self, placed: Placed) -> impl Future<Output = ()> {
        async move {
            self.enter_task().await;
            let end = self.serve().await;
            Box::pin(self.finish(end)).await;
            drop(placed);
        }
    }

    /// Whoever wants this session to look up wakes the task that calls this.
    pub(super) async fn enter_task(&self) {
        poll_fn(|cx| {
            self.cell.set_waker(cx.waker());
            Poll::Ready(())
        })
        .await;
    }

    /// Serves the client until it goes or must go.
    async fn serve(&mut self) -> End {
        if self.cell.info.replication.is_some() {
            return self.replicate().await;
        }
        // It may have come from another process with its server.
        let mut is_linked = self.server.is_some() && !self.try_release();
        loop {
            let done = match is_linked {
                true => poll_fn(|cx| self.poll_relay(cx)).await,
                false => self.transaction().await,
            };
            let must_leave = match done {
                Ok(()) => false,
                Err(End::Leaving) => true,
                Err(end) => return end,
            };
            // Boxed, as it is large, and room for it would be taken by every client.
            if must_leave && Box::pin(self.leave()).await {
                return End::Leaving;
            }
            is_linked = must_leave && self.server.is_some();
        }
    }

    /// From a request to the release of the server.
    async fn transaction(&mut self) -> Result<(), End> {
        let asked = match self.look_early()? {
            Some(asked) => asked,
            None => poll_fn(|cx| self.poll_idle(cx)).await?,
        };
        match self.make_ready(asked).await {
            Ok(()) => {}
            Err(End::WaitCanceled) => return self.answer_canceled(),
            Err(end) => return Err(end),
        }
        poll_fn(|cx| self.poll_relay(cx)).await
    }

    /// Gets what was asked on its way to a server.
    async fn make_ready(&mut self, asked: Asked) -> Result<(), End> {
        match asked {
            Asked::Linked => return Ok(()),
            Asked::Different => {}
            Asked::Queued(key) => self.wait(key).await?,
        }
        self.begin().await
    }

    /// It has a server for what it asks, and the server has its parameters. Only now can what
    /// runs there be cancelled: it is the client's own.
    pub(super) fn assigned(&mut self) {
        self.waits_since_us = 0;
        if let Some(server) = &mut self.server {
            server.is_fresh = false;
            self.cell.info.set_link(server.info.id);
            self.worker.note_busy(&self.cell);
        }
        self.member.pool.stats(self.worker.id).server_assignments.add(1);
        if let Some(server) = &mut self.server {
            self.worker.outbox.push(&self.cell.to_client, &std::mem::take(&mut server.notices));
        }
    }

    /// No server, nothing asked.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<Asked, End>> {
        loop {
            self.check()?;
            if self.cell.to_client.is_blocked() {
                ready!(self.poll_drain_client(cx))?;
            }
            if self.must_leave() {
                return Poll::Ready(Err(End::Leaving));
            }
            if self.worker.must_rest.get() && self.partial.is_empty() {
                self.cell.is_resting.set(true);
                return Poll::Pending;
            }
            let worker = Rc::clone(&self.worker);
            let mut scratch = worker.scratch.borrow_mut();
            let kept = self.partial.len();
            scratch[..kept].copy_from_slice(&self.partial);
            let n = match self.stream.poll_read_into(cx, &mut scratch[kept..]) {
                Poll::Pending => {
                    self.note_buffers();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::ClientEof)),
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(End::ClientFailed(e))),
            };
            self.partial.clear();
            if let Some(asked) = self.look(&scratch[..kept + n])? {
                return Poll::Ready(Ok(asked));
            }
        }
    }

    /// Acts on what it has sent before it came to rest.
    fn look_early(&mut self) -> Result<Option<Asked>, End> {
        let early = std::mem::take(&mut self.partial);
        self.look(&early)
    }

    /// Acts on what a client without a server has sent; `None` if it needs no server yet.
    fn look(&mut self, mut buf: &[u8]) -> Result<Option<Asked>, End> {
        loop {
            match self.requests.first(buf, self.worker.limits.get()) {
                First::Server => return self.ask(buf).map(Some),
                First::NeedMore => {
                    self.partial.extend_from_slice(buf);
                    return Ok(None);
                }
                First::Discard(n) => buf = &buf[n..],
                First::Terminate => return Err(End::ClientClosed),
                First::Fault(fault) => return Err(End::RequestFault(fault)),
            }
        }
    }

    /// `buf` begins with a request.
    fn ask(&mut self, buf: &[u8]) -> Result<Asked, End> {
        if self.server.is_some() {
            self.partial.extend_from_slice(buf);
            return Ok(Asked::Different);
        }
        let now_us = self.worker.now_us();
        let info = &self.cell.info;
        info.set_request_us(now_us);
        info.set_query_us(now_us);
        let pool = &self.member.pool;
        if pool.is_removed() {
            return Err(End::Error(ClientError::DatabaseRemoved));
        }
        if let Some(error) = pool.cached_error() {
            return Err(End::Error(error));
        }
        match pool.checkout(self.worker.id, now_us) {
            Got::Server(server) => {
                let is_same = server.parameters.is_same(&self.parameters);
                self.link(server);
                if is_same {
                    self.assigned();
                    self.forward_requests(buf)?;
                    return Ok(Asked::Linked);
                }
                self.partial.extend_from_slice(buf);
                Ok(Asked::Different)
            }
            Got::Wait(key) => {
                self.partial.extend_from_slice(buf);
                Ok(Asked::Queued(key))
            }
        }
    }

    pub(super) fn link(&mut self, mut server: Box<Server>) {
        server.info.set_link(self.cell.info.id);
        server.was_lent = true;
        let stream = server.stream();
        self.cell.to_server.open(stream.fd(), stream.tls());
        self.server = Some(server);
    }

    /// Brings the server's parameters to the client's, then sends what the client has asked.
    async fn begin(&mut self) -> Result<(), End> {
        self.apply_parameters().await?;
        self.assigned();
        if self.cell.info.is_query_canceled() {
            return Err(End::WaitCanceled);
        }
        let stash = std::mem::take(&mut self.partial);
        self.forward_requests(&stash)
    }

    pub(super) async fn apply_parameters(&mut self) -> Result<(), End> {
        let Some(server) = &self.server else { return Ok(()) };
        if server.parameters.is_same(&self.parameters) {
            return Ok(());
        }
        if let Some(sql) = self.parameters.set_commands(&server.parameters, &self.pools.tracked) {
            // Boxed, as it is large, and room for it would be taken by every client.
            Box::pin(self.set_parameters(sql)).await?;
        }
        let Some(server) = &self.server else { return Ok(()) };
        server.info.set_values(server.parameters.shared());
        self.parameters = self.parameters.as_on(&server.parameters);
        self.cell.info.set_values(self.parameters.shared());
        Ok(())
    }

    async fn set_parameters(&mut self, sql: String) -> Result<(), End> {
        let Some(server) = &mut self.server else { return Ok(()) };
        server.log_at(Level::Debug, format_args!("varcache_apply: {sql}"));
        let limit = self.pools.config().settings.server_connect_timeout;
        let limit = if limit.is_zero() { PARAMETERS_TIMEOUT } else { limit };
        let cell = &self.cell;
        let mut run = pin!(query::run(server, &self.pools.tracked, &sql, limit));
        let done = poll_fn(|cx| match cell.take_kill() {
            Some(kill) => Poll::Ready(Err(End::Killed(*kill))),
            None => run.as_mut().poll(cx).map_err(End::ParametersFailed),
        });
        done.await.map(drop)
    }

    /// Sends to the server what `buf` holds in whole messages and keeps the rest.
    pub(super) fn forward_requests(&mut self, buf: &[u8]) -> Result<(), End> {
        let mode = self.pool_mode();
        let mut limits = self.worker.limits.get();
        limits.track_session_use &= mode != PoolMode::Session;
        let is_tracked = limits.tracking.per_server > 0 && mode != PoolMode::Session;
        let Some(server) = &mut self.server else { return Ok(()) };
        let (worker, lane) = (&*self.worker, &self.cell.to_server);
        let Server { socket, outstanding, prepared, parameters, .. } = &mut **server;
        let mut watch = Watch {
            told: &mut self.told,
            mode,
            prepare_pins: is_tracked,
            stats: self.member.pool.stats(worker.id),
            client: &self.cell.info,
            tracked: &self.pools.tracked,
            on_server: parameters,
        };
        let on_use = |used: SessionUse<'_>| watch.note(used);
        let mut send = |bytes: &[u8]| {
            if bytes.len() <= COPY_MAX {
                worker.outbox.push(lane, bytes);
            } else {
                worker.outbox.push_now(lane, bytes, |bytes| socket.stream().try_send(bytes));
            }
        };
        let mut tracking = Tracking {
            owed: outstanding,
            names: &mut self.names,
            prepared,
            settings: limits.tracking,
            dialect: Dialect { pool: self.member.pool.number, settings: self.parameters.dialect() },
            parses: Parses::default(),
            taken: None,
        };
        let (n, stop) = if is_tracked {
            self.requests.track(buf, limits, &mut tracking, &mut send, on_use)
        } else {
            send(&self.requests.give_up_collected(tracking.owed));
            // What the client makes of it now is not looked at.
            tracking.names.drop_unnamed();
            let (n, stop) = self.requests.scan(buf, limits, tracking.owed, on_use);
            send(&buf[..n]);
            (n, stop)
        };
        let Tracking { parses, taken, .. } = tracking;
        if outstanding.is_full() && self.requests.is_between_messages() {
            // What the server holds back until it is asked may be all that the rest waits for.
            send(FLUSH);
        }
        if n > 0 {
            self.note_requests(n, parses);
        }
        if is_tracked {
            self.answer();
            self.note_prepared();
        }
        if let Some(name) = taken
            && !std::mem::replace(&mut self.has_reused_name, true)
        {
            let name = String::from_utf8_lossy(&name);
            self.log(Level::Warning, format_args!("prepared statement '{name}' was already prepared"));
        }
        self.is_held = stop == Stop::Hold;
        match stop {
            Stop::NeedMore | Stop::Hold => {
                self.partial.extend_from_slice(&buf[n..]);
                Ok(())
            }
            Stop::Terminate => Err(End::ClientClosed),
            Stop::Fault(fault) => Err(End::RequestFault(fault)),
        }
    }

    /// `n` bytes were sent on.
    fn note_requests(&mut self, n: usize, parses: Parses) {
        let now_us = self.worker.now_us();
        let (info, stats) = (&self.cell.info, self.member.pool.stats(self.worker.id));
        info.set_request_us(now_us);
        self.cell.is_idle_in_transaction.set(false);
        if info.xact_us() == 0 {
            info.set_xact_us(now_us);
            stats.xacts.add(1);
        }
        if !self.is_in_query {
            self.is_in_query = true;
            info.set_query_us(now_us);
            stats.queries.add(1);
        }
        stats.received.add(n as u64);
        if parses.client + parses.server + parses.binds > 0 {
            stats.client_parses.add(parses.client);
            stats.server_parses.add(parses.server);
            stats.binds.add(parses.binds);
        }
    }

    /// For the console: what is under way when the session comes to rest. Nearly always nothing, as
    /// before.
    #[inline]
    pub(super) fn note_buffers(&mut self) {
        let is_empty = self.partial.is_empty()
            && self.requests.is_between_messages()
            && self.server.as_ref().is_none_or(|server| server.partial.is_empty() && server.replies.at_boundary())
            && !self.cell.to_client.is_blocked()
            && !self.cell.to_server.is_blocked();
        if !is_empty || self.has_buffered {
            self.has_buffered = !is_empty;
            self.tell_buffers();
        }
    }

    #[cold]
    fn tell_buffers(&self) {
        self.cell.info.buffers.set(Buffered {
            kept: self.partial.len() as u32,
            message_left: self.requests.message_left() as u32,
            unsent: self.cell.to_server.unsent_len() as u32,
        });
        if let Some(server) = &self.server {
            server.info.buffers.set(Buffered {
                kept: server.partial.len() as u32,
                message_left: server.replies.message_left() as u32,
                unsent: self.cell.to_client.unsent_len() as u32,
            });
        }
    }

    /// For the console.
    pub(super) fn note_prepared(&self) {
        self.cell.info.set_prepared(self.names.len());
        if let Some(server) = &self.server {
            server.info.set_prepared(server.prepared.len());
        }
    }

    /// Goes on with what had to wait for answers, if they have come.
    pub(super) fn resume(&mut self) -> Result<(), End> {
        let is_time = self.server.as_ref().is_some_and(|server| server.outstanding.has_room());
        if !(self.is_held && is_time) {
            return Ok(());
        }
        let held = std::mem::take(&mut self.partial);
        self.forward_requests(&held)
    }

    /// Somebody has decided that this session ends, or its client is gone.
    #[inline]
    pub(super) fn check(&self) -> Result<(), End> {
        self.worker.note_poll();
        if let Some(kill) = self.cell.take_kill() {
            return Err(End::Killed(*kill));
        }
        match self.cell.to_client.failure() {
            Some(e) => Err(End::ClientFailed(e)),
            None => Ok(()),
        }
    }

    /// Sends what the client has not taken yet.
    pub(super) fn poll_drain_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            match self.cell.to_client.drain(|bytes| self.stream.try_send(bytes)) {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => {}
                Err(e) => return Poll::Ready(Err(End::ClientFailed(e))),
            }
            if let Err(e) = ready!(self.stream.poll_write_ready(cx)) {
                return Poll::Ready(Err(End::ClientFailed(e)));
            }
        }
    }
}

impl Drop for Session {
    /// Whatever ends the task, its server is not lost: it was released or closed before, or is
    /// closed now.
    fn drop(&mut self) {
        self.pools.registry.remove_client(&self.cell.info);
        self.worker.delist(self.listed);
        self.cell.to_client.close();
        if let Some(mut server) = self.server.take() {
            server.is_midway = true;
            self.cell.to_server.close();
            self.member.pool.close(ServerState::Active, server, "client disconnect while server was not ready");
        }
    }
}
