//! A client that waits for a server: for its turn, until it goes away, or until what it asked is cancelled.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use pgweir_proto::backend::TransactionStatus;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::console;
use pgweir_proto::error_response::{ErrorResponse, Severity};
use pgweir_proto::frontend;
use pgweir_proto::sqlstate::SqlState;

use super::end::End;
use super::session::{COPY_MAX, Session};
use crate::pool::WaitKey;
use crate::pools::{Got, Waited, Waiting};
use crate::relay::{Outstanding, Requests, Stop};
use crate::server::Server;

/// PostgreSQL's words for a cancelled query.
const CANCELED: &str = "canceling statement due to user request";

impl Session {
    /// Waits for its turn.
    pub(super) async fn wait(&mut self, key: WaitKey) -> Result<(), End> {
        let mut waiting = Waiting { pool: Arc::clone(&self.member.pool), key: Some(key) };
        let began_us = match std::mem::take(&mut self.waits_since_us) {
            0 => self.worker.now_us(),
            since_us => since_us,
        };
        self.cell.info.begin_wait(began_us);
        self.worker.note_busy(&self.cell);
        let server = poll_fn(|cx| self.poll_wait(&mut waiting, cx)).await?;
        let waited_us = self.worker.now_us().saturating_sub(began_us);
        let stats = self.member.pool.stats(self.worker.id);
        stats.wait_time_us.add(waited_us);
        stats.latencies().wait.add(waited_us);
        self.cell.info.end_wait();
        self.cell.was_notified.set(false);
        self.link(server);
        Ok(())
    }

    fn poll_wait(&mut self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<Result<Box<Server>, End>> {
        loop {
            self.check()?;
            if self.cell.info.is_query_canceled() {
                return Poll::Ready(Err(End::WaitCanceled));
            }
            if self.must_leave() {
                return Poll::Ready(Err(End::Leaving));
            }
            self.poll_client_gone(cx)?;
            let (worker, now_us) = (self.worker.id, self.worker.now_us());
            let Some(key) = &waiting.key else {
                if waiting.pool.is_removed() {
                    return Poll::Ready(Err(End::Error(ClientError::DatabaseRemoved)));
                }
                match waiting.pool.checkout(worker, now_us) {
                    Got::Server(server) => return Poll::Ready(Ok(server)),
                    Got::Wait(key) => waiting.key = Some(key),
                }
                continue;
            };
            let Poll::Ready(waited) = waiting.pool.poll_wait(key, worker, cx) else {
                self.note_buffers();
                return Poll::Pending;
            };
            waiting.key = None;
            match waited {
                Waited::Server(server) => return Poll::Ready(Ok(server)),
                Waited::Again => {}
                Waited::Refused(error) => return Poll::Ready(Err(End::Error(error))),
            }
        }
    }

    /// Answers a request that was cancelled before a server had it, as the server would have.
    pub(super) fn answer_canceled(&mut self) -> Result<(), End> {
        self.cell.info.end_wait();
        self.cell.info.set_query_us(0);
        // It may have got a server meanwhile.
        self.try_release();
        let mut owed = Outstanding::new();
        let stash = std::mem::take(&mut self.partial);
        if stash.first() == Some(&frontend::QUERY) {
            self.names.drop_unnamed();
        }
        let mut requests = Requests::default();
        let (n, stop) = requests.scan(&stash, self.worker.limits.get(), &mut owed, |_| {});
        let is_whole = n == stash.len() && stop == Stop::NeedMore && requests.at_boundary();
        // Of several requests only the first is cancelled, and the others are still to be
        // carried out; that, as anything that is not whole, is left to the client, which
        // connects again.
        if !(is_whole && owed.is_one_request()) {
            return Err(End::Error(ClientError::Server {
                message: CANCELED.to_owned(),
                sqlstate: Some(SqlState::QUERY_CANCELED),
            }));
        }
        let mut answer = Vec::new();
        ErrorResponse::new(Severity::Error, SqlState::QUERY_CANCELED, CANCELED).error(&mut answer);
        console::ready_for_query(&mut answer, TransactionStatus::Idle);
        self.worker.outbox.push(&self.cell.to_client, &answer);
        Ok(())
    }

    /// A waiting client that goes away must not keep its place or its server; one that sends more
    /// is read when it is its turn, so that what waits is bounded.
    pub(super) fn poll_client_gone(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if self.partial.len() >= COPY_MAX {
            return Ok(());
        }
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        match self.stream.poll_read_into(cx, &mut scratch[..COPY_MAX]) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(0)) => Err(End::ClientEof),
            Poll::Ready(Ok(n)) => {
                self.partial.extend_from_slice(&scratch[..n]);
                // There may be more, or its end: be told.
                cx.waker().wake_by_ref();
                Ok(())
            }
            Poll::Ready(Err(e)) => Err(End::ClientFailed(e)),
        }
    }
}
