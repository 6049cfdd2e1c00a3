//! The linked phase: bytes pass both ways until the transaction is over.

use std::rc::Rc;
use std::task::{Context, Poll};

use pgweir_config::PoolMode;

use super::end::End;
use super::session::Session;
use crate::registry::Buffered;
use crate::server::Server;

/// Reads of one side in a row before others get a turn.
const READS_MAX: usize = 16;

/// What a look at one side has come to.
#[derive(PartialEq, Eq)]
enum Progress {
    /// Something was read; there may be more.
    Read,
    /// Nothing there; we are told when there is.
    Pending,
    /// The transaction is over and the server is released, or needs to be made ready for the next.
    Released,
}

impl Session {
    /// Relays until the server is released (`Ok`) or the session must end.
    pub(super) fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        for _ in 0..READS_MAX {
            self.check()?;
            if self.must_leave() {
                return Poll::Ready(Err(End::Leaving));
            }
            if self.worker.must_rest.get() && self.may_rest() {
                self.cell.is_resting.set(true);
                return Poll::Pending;
            }
            if let Some(e) = self.cell.to_server.failure() {
                // What it has said before its end is worth reading.
                if self.poll_server(cx)? == Progress::Pending {
                    return Poll::Ready(Err(End::ServerFailed(e)));
                }
                continue;
            }
            let server = if self.is_client_ready(cx)? { self.poll_server(cx)? } else { Progress::Pending };
            if server == Progress::Released {
                return Poll::Ready(Ok(()));
            }
            let was_blocked = self.cell.to_server.is_blocked();
            let is_server_ready = self.is_server_ready(cx)?;
            // The last that the server had to take may have been all that kept it here.
            if was_blocked && is_server_ready && self.try_release() {
                return Poll::Ready(Ok(()));
            }
            let client = if is_server_ready { self.poll_client(cx)? } else { Progress::Pending };
            match client {
                Progress::Released => return Poll::Ready(Ok(())),
                Progress::Pending if server == Progress::Pending => {
                    self.note_buffers();
                    return Poll::Pending;
                }
                _ => {}
            }
        }
        self.worker.turn();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nothing is under way that came in part, either way.
    fn may_rest(&self) -> bool {
        let is_server_at_rest = |server: &Server| server.partial.is_empty() && server.replies.at_boundary();
        self.partial.is_empty()
            && self.requests.at_boundary()
            && self.server.as_deref().is_none_or(is_server_at_rest)
            && !self.cell.to_client.is_blocked()
            && !self.cell.to_server.is_blocked()
    }

    /// The client has taken what it was sent: the server may be read.
    #[inline]
    fn is_client_ready(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.cell.to_client.is_blocked() {
            return Ok(true);
        }
        match self.poll_drain_client(cx) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// The server has taken what it was sent: the client may be read.
    #[inline]
    fn is_server_ready(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let lane = &self.cell.to_server;
        if !lane.is_blocked() {
            return Ok(true);
        }
        let Some(server) = &mut self.server else { return Ok(true) };
        let stream = server.stream();
        loop {
            if lane.drain(|bytes| stream.try_send(bytes)).map_err(End::ServerFailed)? {
                return Ok(true);
            }
            match stream.poll_write_ready(cx) {
                Poll::Ready(result) => result.map_err(End::ServerFailed)?,
                Poll::Pending => return Ok(false),
            }
        }
    }

    #[inline]
    fn poll_server(&mut self, cx: &mut Context<'_>) -> Result<Progress, End> {
        let Some(server) = &mut self.server else { return Ok(Progress::Released) };
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        let kept = server.partial.len();
        scratch[..kept].copy_from_slice(&server.partial);
        let n = match server.stream().poll_read_into(cx, &mut scratch[kept..]) {
            Poll::Pending => return Ok(Progress::Pending),
            Poll::Ready(Ok(0)) => return Err(End::ServerEof),
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) => return Err(End::ServerFailed(e)),
        };
        server.partial.clear();
        self.forward_replies(&scratch[..kept + n])?;
        self.resume()?;
        Ok(if self.try_release() { Progress::Released } else { Progress::Read })
    }

    #[inline]
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<Progress, End> {
        if self.is_held {
            self.poll_client_gone(cx)?;
            return Ok(Progress::Pending);
        }
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        let kept = self.partial.len();
        scratch[..kept].copy_from_slice(&self.partial);
        let n = match self.stream.poll_read_into(cx, &mut scratch[kept..]) {
            Poll::Pending => return Ok(Progress::Pending),
            Poll::Ready(Ok(0)) => return Err(End::ClientEof),
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) => return Err(End::ClientFailed(e)),
        };
        self.partial.clear();
        if self.needs_parameters() {
            self.was_reset = false;
            self.partial.extend_from_slice(&scratch[..kept + n]);
            return Ok(Progress::Released);
        }
        self.forward_requests(&scratch[..kept + n])?;
        // The end of a message that the server has not waited for, as after a failed COPY.
        Ok(if self.try_release() { Progress::Released } else { Progress::Read })
    }

    /// Gives the server back if the transaction is over and both sides are between messages.
    #[inline]
    pub(super) fn try_release(&mut self) -> bool {
        if !self.is_clean() {
            return false;
        }
        if self.keeps_server() {
            return false;
        }
        self.was_reset = false;
        self.release();
        true
    }

    /// It has its server to itself between transactions too.
    fn keeps_server(&self) -> bool {
        let is_pinned = self.server.as_ref().is_some_and(|server| server.prepared.is_pinned());
        is_pinned || self.pool_mode() == PoolMode::Session
    }

    /// After a RESET the server needs the client's parameters before its next request. A walsender
    /// got them with its login.
    #[inline]
    fn needs_parameters(&self) -> bool {
        self.was_reset && self.cell.info.replication.is_none() && self.is_clean() && self.keeps_server()
    }

    /// The pool's mode; a client of replication is served as in session pooling.
    #[inline]
    pub(super) fn pool_mode(&self) -> PoolMode {
        match self.cell.info.replication {
            None => self.member.pool.policy.mode(),
            Some(_) => PoolMode::Session,
        }
    }

    /// Nothing is owed, no transaction is open, no message is half sent either way.
    pub(super) fn is_clean(&self) -> bool {
        let Some(server) = &self.server else { return true };
        let lane = &self.cell.to_server;
        if !(server.outstanding.is_idle()
            && server.replies.at_boundary()
            && server.partial.is_empty()
            && self.requests.at_boundary())
            // After a FATAL the server ends, and it was told to this client.
            || self.was_told
        {
            return false;
        }
        if self.worker.outbox.is_pending(lane) {
            // The tail of a failed COPY: the server ignores it, but it must be out.
            self.worker.outbox.flush();
        }
        !lane.is_blocked() && lane.failure().is_none()
    }

    /// The server goes back to the pool.
    pub(super) fn release(&mut self) {
        self.note_prepared();
        let Some(server) = self.server.take() else { return };
        if self.has_buffered {
            server.info.buffers.set(Buffered::default());
        }
        self.cell.to_server.close();
        self.names.part();
        self.is_held = false;
        // The tail of a COPY that has failed may have begun what never ends.
        self.is_in_query = false;
        self.cell.info.set_query_us(0);
        self.cell.info.set_xact_us(0);
        // First the link, then the look at cancel requests inside `release`.
        self.cell.info.set_link(0);
        server.info.set_link(0);
        self.member.pool.release(server, self.worker.id, self.worker.now_us());
    }
}
