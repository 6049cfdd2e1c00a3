//! A client's connection during its login: read ahead, so that a message is one read, and sent
//! through the outbox, so that the answers of a turn go out together.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;

use crate::net::outbox::{Lane, Towards};
use crate::net::stream::{Detached, StartTlsError, Stream};
use crate::net::tls::Acceptor;
use crate::worker::Worker;

/// What is read at once has room for an honest startup packet, and for any message of SCRAM.
const READ_LEN: usize = 1024;

pub(super) struct LoginStream {
    lane: OpenLane,
    stream: Stream,
    worker: Rc<Worker>,
    /// What was read and not asked for yet.
    ahead: Vec<u8>,
}

/// A lane that is closed when it is dropped, before the socket is.
struct OpenLane(Option<Rc<Lane>>);

impl Drop for OpenLane {
    fn drop(&mut self) {
        if let Some(lane) = &self.0 {
            lane.close();
        }
    }
}

/// What a login leaves to whoever comes next.
pub(super) struct Parts {
    pub(super) stream: Stream,
    /// Towards the client, open.
    pub(super) lane: Rc<Lane>,
    /// Read already, and not looked at.
    pub(super) ahead: Vec<u8>,
}

impl LoginStream {
    pub(super) fn new(stream: Stream, worker: &Rc<Worker>) -> LoginStream {
        let lane = Rc::new(Lane::new(Towards::Client));
        lane.open(stream.fd(), stream.tls());
        LoginStream { lane: OpenLane(Some(lane)), stream, worker: Rc::clone(worker), ahead: Vec::new() }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Carries the handshake out, of which `early` was read already; computes `beside` the data path.
    pub(super) async fn start_tls(
        &mut self,
        acceptor: &Acceptor,
        mut early: Vec<u8>,
        beside: &Handle,
    ) -> Result<(), StartTlsError> {
        self.settle().await.map_err(StartTlsError::Io)?;
        early.append(&mut self.ahead);
        let tls = acceptor.begin(&early).map_err(StartTlsError::Tls)?;
        self.stream.start_tls(tls, Some(beside)).await?;
        self.lane().open(self.stream.fd(), self.stream.tls());
        Ok(())
    }

    fn lane(&self) -> &Rc<Lane> {
        self.lane.0.as_ref().expect("there is one until the stream is taken apart")
    }

    /// Waits until the peer has sent something, and says whether that is its end. Over TCP.
    pub(super) async fn is_at_end(&self) -> bool {
        self.ahead.is_empty() && self.stream.is_at_end().await
    }

    /// Waits until all is out, for one who cannot send through the outbox.
    pub(super) async fn settle(&mut self) -> io::Result<()> {
        self.worker.outbox.flush();
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    /// Says `last_words` behind all that was sent, and that nothing follows.
    pub(super) fn end(&self, last_words: &[u8]) {
        self.worker.outbox.flush();
        if !self.lane().is_blocked() {
            self.stream.try_end(last_words);
        }
    }

    /// Takes the socket off its runtime, with what was read and not looked at. To be settled before.
    pub(super) fn detach(self) -> io::Result<(Detached, Vec<u8>)> {
        let Parts { stream, lane, ahead } = self.into_parts();
        lane.close();
        Ok((stream.detach()?, ahead))
    }

    pub(super) fn into_parts(mut self) -> Parts {
        let lane = self.lane.0.take().expect("there is one until here");
        Parts { stream: self.stream, lane, ahead: self.ahead }
    }

    /// Sends what the client has not taken.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (lane, stream) = (self.lane(), &self.stream);
        loop {
            if let Some(e) = lane.failure() {
                return Poll::Ready(Err(e));
            }
            if !lane.is_blocked() || lane.drain(|bytes| stream.try_send(bytes))? {
                return Poll::Ready(Ok(()));
            }
            ready!(stream.poll_write_ready(cx))?;
        }
    }
}

impl AsyncRead for LoginStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lane().is_blocked() {
            ready!(this.poll_drain(cx))?;
        }
        if this.ahead.is_empty() {
            let worker = Rc::clone(&this.worker);
            let mut scratch = worker.scratch.borrow_mut();
            let n = ready!(this.stream.poll_read_into(cx, &mut scratch[..READ_LEN]))?;
            let taken = n.min(buf.remaining());
            buf.put_slice(&scratch[..taken]);
            this.ahead.extend_from_slice(&scratch[taken..n]);
        } else {
            let taken = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..taken]);
            this.ahead.drain(..taken);
        }
        Poll::Ready(Ok(()))
    }
}

/// What was written goes out when the turn ends; a flush waits for what has not gone out then.
impl AsyncWrite for LoginStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // So that what waits is bounded.
        ready!(this.poll_drain(cx))?;
        this.lane().set_waker(cx.waker());
        this.worker.outbox.push(this.lane(), buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
