//! A connected socket, TCP or Unix, with or without TLS, on whichever runtime holds it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, SockRef};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::unix::UCred;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use super::tls::{Phase, RECORD_LEN_MAX, SharedTls, Tls, TlsError, TlsState};

/// A read during a handshake; a flight is 1 to 4 KB.
const HANDSHAKE_READ_LEN: usize = 4 * 1024;

/// Of one write, so much is encrypted at once.
const WRITE_LEN_MAX: usize = 16 * 1024;

thread_local! {
    /// Ciphertext between socket and plaintext. Borrowed for one read, never across an await.
    static CIPHERTEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A socket registered with the runtime of the thread that made or attached it.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    /// `None`: bytes go as they are.
    tls: Option<SharedTls>,
    /// A handshake has begun and not ended: no text may be sent.
    is_in_handshake: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What nobody has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    Bytes,
    /// The peer has closed the connection.
    End,
}

/// A socket between two runtimes.
#[derive(Debug)]
pub(crate) struct Detached {
    socket: DetachedSocket,
    tls: Option<SharedTls>,
}

#[derive(Debug)]
enum DetachedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Why a handshake has come to nothing.
#[derive(Debug)]
pub(crate) enum StartTlsError {
    Io(io::Error),
    /// The peer has closed the connection.
    Eof,
    Tls(TlsError),
    /// There was no thread to compute on: the process ends.
    NoThread,
}

impl fmt::Display for StartTlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartTlsError::Io(e) => e.fmt(f),
            StartTlsError::Eof => f.write_str("the peer has closed the connection"),
            StartTlsError::Tls(e) => e.fmt(f),
            StartTlsError::NoThread => f.write_str("no thread to compute on"),
        }
    }
}

impl Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Socket::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }

    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.try_read(buf),
            Socket::Unix(s) => s.try_read(buf),
        }
    }

    fn is_readable(&self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let polled = match self {
            Socket::Tcp(s) => s.poll_read_ready(&mut cx),
            Socket::Unix(s) => s.poll_read_ready(&mut cx),
        };
        polled.is_ready()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Socket::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Socket::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }

    /// Reads until there is text; 0 is the end.
    fn poll_read_tls(&mut self, tls: &SharedTls, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut tls = tls.lock();
        let n = tls.take_plain(buf);
        if n > 0 || buf.is_empty() {
            return Poll::Ready(Ok(n));
        }
        while !tls.is_ended() {
            let n = ready!(with_ciphertext(&mut tls, buf, |input| {
                let mut read = ReadBuf::new(input);
                self.poll_read(cx, &mut read).map_ok(|()| read.filled().len())
            }))?;
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
        }
        Poll::Ready(Ok(0))
    }

    fn poll_flush_tls(&mut self, tls: &SharedTls, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut tls = tls.lock();
        let out = tls.out();
        while !out.is_empty() {
            let n = ready!(self.poll_write(cx, out))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.drain(..n);
        }
        *out = Vec::new();
        Poll::Ready(Ok(()))
    }
}

/// Has `read` fill the room behind the ciphertext that was kept, and decrypts all of it to `buf`.
/// As much is read as `buf` has room for, so that all finds a place there, but a whole record.
fn with_ciphertext(
    tls: &mut Tls,
    buf: &mut [u8],
    read: impl FnOnce(&mut [u8]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    CIPHERTEXT.with_borrow_mut(|input| {
        let kept = tls.kept().len();
        let end = buf.len().max(kept + RECORD_LEN_MAX);
        if input.len() < end {
            input.resize(end, 0);
        }
        input[..kept].copy_from_slice(tls.kept());
        match ready!(read(&mut input[kept..end]))? {
            // Without a word before, as many do.
            0 => {
                tls.set_ended();
                Poll::Ready(Ok(0))
            }
            n => Poll::Ready(tls.open(&mut input[..kept + n], buf).map_err(invalid)),
        }
    })
}

/// What goes out as the last of a connection.
fn at_the_end<'a>(tls: Option<&SharedTls>, last_words: &'a [u8]) -> Cow<'a, [u8]> {
    tls.map_or(last_words.into(), |tls| tls.lock().end(last_words).into())
}

fn invalid(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Stream {
    pub(crate) fn tcp(socket: TcpStream) -> Stream {
        Stream { socket: Socket::Tcp(socket), tls: None, is_in_handshake: false }
    }

    pub(crate) fn unix(socket: UnixStream) -> Stream {
        Stream { socket: Socket::Unix(socket), tls: None, is_in_handshake: false }
    }

    /// Takes the socket off its runtime.
    pub(crate) fn detach(self) -> io::Result<Detached> {
        let socket = match self.socket {
            Socket::Tcp(s) => DetachedSocket::Tcp(s.into_std()?),
            Socket::Unix(s) => DetachedSocket::Unix(s.into_std()?),
        };
        Ok(Detached { socket, tls: self.tls })
    }

    /// A further descriptor of the socket.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        let fd = match &self.socket {
            Socket::Tcp(s) => s.as_fd(),
            Socket::Unix(s) => s.as_fd(),
        };
        fd.try_clone_to_owned()
    }

    pub(crate) fn fd(&self) -> RawFd {
        match &self.socket {
            Socket::Tcp(s) => s.as_raw_fd(),
            Socket::Unix(s) => s.as_raw_fd(),
        }
    }

    pub(crate) fn tls(&self) -> Option<&SharedTls> {
        self.tls.as_ref()
    }

    /// Another process could go on with it: of what was received nothing is left unread in here.
    pub(crate) fn is_portable(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.lock().is_portable())
    }

    /// Version and cipher, as the log and the console name them.
    pub(crate) fn tls_description(&self) -> Option<Arc<str>> {
        self.tls.as_ref().map(|tls| tls.lock().description())
    }

    pub(crate) fn is_unix(&self) -> bool {
        matches!(self.socket, Socket::Unix(_))
    }

    /// The peer sends no more; there may be something that it has sent before. As far as the
    /// runtime has noted.
    pub(crate) fn is_peer_gone(&self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let ready = match &self.socket {
            Socket::Tcp(s) => pin!(s.ready(Interest::READABLE)).poll(&mut cx),
            Socket::Unix(s) => pin!(s.ready(Interest::READABLE)).poll(&mut cx),
        };
        matches!(ready, Poll::Ready(ready) if ready.as_ref().map_or(true, |ready| ready.is_read_closed()))
    }

    /// Both addresses, the peer's first; `None` of a Unix socket.
    pub(crate) fn addresses(&self) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
        match &self.socket {
            Socket::Tcp(s) => Ok(Some((s.peer_addr()?, s.local_addr()?))),
            Socket::Unix(_) => Ok(None),
        }
    }

    /// Who is at the other end of a Unix socket, where the system tells it.
    pub(crate) fn peer_cred(&self) -> Option<UCred> {
        match &self.socket {
            Socket::Tcp(_) => None,
            Socket::Unix(s) => s.peer_cred().ok(),
        }
    }

    /// Carries the handshake out; all that follows is encrypted. What it computes, which may take
    /// a millisecond, is computed `beside` the data path where this is on it.
    pub(crate) async fn start_tls(&mut self, mut tls: Tls, beside: Option<&Handle>) -> Result<(), StartTlsError> {
        let mut input = Vec::new();
        self.is_in_handshake = true;
        if tls.waits_for_hello() {
            self.read_handshake(&mut input).await?;
        }
        loop {
            let advanced;
            (tls, advanced) = match beside.filter(|_| !tls.is_nearly_done()) {
                None => {
                    let advanced = tls.advance(&input);
                    (tls, advanced)
                }
                Some(beside) => {
                    let input = std::mem::take(&mut input);
                    let job = beside.spawn(async move {
                        let advanced = tls.advance(&input);
                        (tls, advanced)
                    });
                    job.await.map_err(|_| StartTlsError::NoThread)?
                }
            };
            // After an error, too: it is the alert that tells the peer.
            let sent = self.write_all(tls.out()).await;
            tls.out().clear();
            match advanced.map_err(StartTlsError::Tls)? {
                Phase::Traffic => break,
                Phase::Handshake if !tls.is_ended() => sent.map_err(StartTlsError::Io)?,
                Phase::Handshake | Phase::Closed => return Err(StartTlsError::Eof),
            }
            self.read_handshake(&mut input).await?;
        }
        self.tls = Some(SharedTls::new(tls.settle().map_err(StartTlsError::Tls)?));
        self.is_in_handshake = false;
        Ok(())
    }

    async fn read_handshake(&mut self, input: &mut Vec<u8>) -> Result<(), StartTlsError> {
        input.clear();
        input.reserve(HANDSHAKE_READ_LEN);
        match self.read_buf(input).await.map_err(StartTlsError::Io)? {
            0 => Err(StartTlsError::Eof),
            _ => Ok(()),
        }
    }

    /// Resolves when there is something to read, or nothing will be any more.
    pub(crate) async fn readable(&self) {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let mut peek = |socket: SockRef<'_>| socket.peek(&mut byte).map(drop);
        // The runtime believes of a socket just accepted that something has come. Whoever reads next is told of an error.
        let _ = match &self.socket {
            Socket::Tcp(s) => s.async_io(Interest::READABLE, || peek(SockRef::from(s))).await,
            Socket::Unix(s) => s.async_io(Interest::READABLE, || peek(SockRef::from(s))).await,
        };
    }

    /// Waits until the peer has sent something, and says whether that is its end. Over TCP.
    pub(crate) async fn is_at_end(&self) -> bool {
        match &self.socket {
            Socket::Tcp(s) => matches!(s.peek(&mut [0]).await, Ok(0) | Err(_)),
            Socket::Unix(_) => false,
        }
    }

    /// Reads once into `buf`; 0 is the end. A short read clears the readiness, so that the next
    /// call waits without asking the kernel again.
    #[inline]
    pub(crate) fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let Stream { socket, tls, .. } = self;
        if let Some(tls) = tls {
            return socket.poll_read_tls(tls, cx, buf);
        }
        let mut read = ReadBuf::new(buf);
        socket.poll_read(cx, &mut read).map_ok(|()| read.filled().len())
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.socket {
            Socket::Tcp(s) => s.poll_write_ready(cx),
            Socket::Unix(s) => s.poll_write_ready(cx),
        }
    }

    /// Sends bytes as they are: with TLS, records that a lane has sealed.
    pub(crate) fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.socket {
            Socket::Tcp(s) => s.try_write(bytes),
            Socket::Unix(s) => s.try_write(bytes),
        }
    }

    /// Takes what has come and nobody will read, up to 64 KB: closed over it, the connection is reset, and the peer may
    /// not get to see what it was told. To be called only then.
    pub(crate) fn discard_unread(&self) {
        let mut scrap = [0; 4096];
        for _ in 0..16 {
            if !(self.socket.is_readable() && matches!(self.socket.try_read(&mut scrap), Ok(1..))) {
                return;
            }
        }
    }

    /// Says `last_words`, if any, and that nothing follows. If the socket does not take it at
    /// once, the peer will see the end all the same. Not for a stream with a record half sent.
    pub(crate) fn try_end(&self, last_words: &[u8]) {
        if self.is_in_handshake {
            return;
        }
        let bytes = at_the_end(self.tls.as_ref(), last_words);
        if !bytes.is_empty() {
            let _ = self.try_send(&bytes);
        }
    }

    /// Whether there is something to read that nobody read: on an idle server that is its end,
    /// or bytes nobody asked for. Costs a system call only if the runtime believes so; it may
    /// have been left in that belief by a read that just filled its buffer.
    pub(crate) fn unread(&self) -> Option<Unread> {
        if let Some(tls) = &self.tls {
            return self.unread_tls(&mut tls.lock());
        }
        let mut byte = [0];
        match self.socket.is_readable().then(|| self.socket.try_read(&mut byte))? {
            Ok(1..) => Some(Unread::Bytes),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Ok(0) | Err(_) => Some(Unread::End),
        }
    }

    /// What TLS says on its own behalf (tickets for another session, new keys) is nobody's to read.
    fn unread_tls(&self, tls: &mut Tls) -> Option<Unread> {
        loop {
            if tls.has_unread() {
                return Some(Unread::Bytes);
            }
            if tls.is_ended() {
                return Some(Unread::End);
            }
            let read = self
                .socket
                .is_readable()
                .then(|| with_ciphertext(tls, &mut [], |input| Poll::Ready(self.socket.try_read(input))))?;
            match read {
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Poll::Ready(Err(_)) => return Some(Unread::End),
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
        }
    }
}

impl Detached {
    /// A socket that comes from another process. `None`: what is said of its TLS makes no sense.
    pub(crate) fn adopt(fd: OwnedFd, tls: Option<TlsState>) -> Option<Detached> {
        let is_unix = SockRef::from(&fd).domain().is_ok_and(|domain| domain == Domain::UNIX);
        let socket = match is_unix {
            true => DetachedSocket::Unix(fd.into()),
            false => DetachedSocket::Tcp(fd.into()),
        };
        let tls = match tls {
            Some(state) => Some(SharedTls::new(Tls::adopt(state)?)),
            None => None,
        };
        Some(Detached { socket, tls })
    }

    /// A further descriptor of the socket.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        let fd: BorrowedFd<'_> = match &self.socket {
            DetachedSocket::Tcp(s) => s.as_fd(),
            DetachedSocket::Unix(s) => s.as_fd(),
        };
        fd.try_clone_to_owned()
    }

    /// As [`Stream::unread`], but that costs a system call. What TLS says on its own behalf cannot be told from
    /// text here, so of bytes there is no word.
    pub(crate) fn unread(&self) -> Option<Unread> {
        let fd = match &self.socket {
            DetachedSocket::Tcp(s) => s.as_raw_fd(),
            DetachedSocket::Unix(s) => s.as_raw_fd(),
        };
        match recv(fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(1..) if self.tls.is_none() => Some(Unread::Bytes),
            Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR) => None,
            Ok(0) | Err(_) => Some(Unread::End),
        }
    }

    /// As [`Stream::try_end`].
    pub(crate) fn try_end(&self, last_words: &[u8]) {
        let bytes = at_the_end(self.tls.as_ref(), last_words);
        // The peer may be gone by now.
        let _ = match &self.socket {
            DetachedSocket::Tcp(s) => (&*s).write_all(&bytes),
            DetachedSocket::Unix(s) => (&*s).write_all(&bytes),
        };
    }

    /// Registers the socket with the runtime of the calling thread.
    pub(crate) fn attach(self) -> io::Result<Stream> {
        let socket = match self.socket {
            DetachedSocket::Tcp(s) => {
                s.set_nonblocking(true)?;
                Socket::Tcp(TcpStream::from_std(s)?)
            }
            DetachedSocket::Unix(s) => {
                s.set_nonblocking(true)?;
                Socket::Unix(UnixStream::from_std(s)?)
            }
        };
        Ok(Stream { socket, tls: self.tls, is_in_handshake: false })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Stream { socket, tls, .. } = self.get_mut();
        let Some(tls) = tls else { return socket.poll_read(cx, buf) };
        let n = ready!(socket.poll_read_tls(tls, cx, buf.initialize_unfilled()))?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

/// With TLS, what was written has to be flushed.
impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Stream { socket, tls, .. } = self.get_mut();
        let Some(tls) = tls else { return socket.poll_write(cx, buf) };
        // So that no more than this waits at once.
        ready!(socket.poll_flush_tls(tls, cx))?;
        let n = buf.len().min(WRITE_LEN_MAX);
        let mut records = Vec::new();
        let mut locked = tls.lock();
        locked.seal(&buf[..n], &mut records).map_err(invalid)?;
        *locked.out() = records;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream { socket, tls, .. } = self.get_mut();
        tls.as_ref().map_or(Poll::Ready(Ok(())), |tls| socket.poll_flush_tls(tls, cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.get_mut().socket.poll_shutdown(cx)
    }
}
