//! HTTP/1.1 for S3: connections over our own TLS, kept for the next request, and given up when nothing moves on them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Request, Uri};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, ReadBufCursor, Write};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use pgweir_config::SslMode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::maintenance::exit::Failure;
use crate::net::tls::{RootCertificates, client_config, server_name};

/// The longest that a connection may take to be made, whatever a request may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Idle connections that are kept for one server: as many as parts are under way at once, and some.
const IDLE_MAX: usize = 8;

/// Read at once from a connection.
const CHUNK: usize = 16 << 10;

type Sender = SendRequest<HttpRequestBody>;

/// All requests of a storage go through one of these.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    tls: Arc<rustls::ClientConfig>,
    /// A request is given up when nothing has moved for so long.
    limit: Duration,
    /// Idle ones by scheme and authority. Never held across an await.
    idle: Mutex<HashMap<(bool, String), Vec<Open>>>,
}

/// A connection with what has moved on it, in bytes.
struct Open {
    sender: Sender,
    moved: Arc<AtomicU64>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

impl Connections {
    /// `roots` are the authorities that are trusted; None: those of the system.
    pub(super) fn new(roots: Option<PathBuf>, limit: Duration) -> Result<Connections, Failure> {
        let roots = roots.map_or(RootCertificates::System, RootCertificates::File);
        let tls = client_config(SslMode::VerifyFull, &roots, None).map_err(|e| Failure::failed(e.to_string()))?;
        let mut tls = (*tls).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Connections(Arc::new(Shared { tls: Arc::new(tls), limit, idle: Mutex::default() })))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, HashMap<(bool, String), Vec<Open>>> {
        // Whoever panicked with it left a list that is still one.
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self, is_tls: bool, authority: &Authority) -> Result<Open, HttpError> {
        let kept = self.idle().get_mut(&(is_tls, authority.to_string())).and_then(Vec::pop);
        if let Some(open) = kept.filter(|open| open.sender.is_ready()) {
            return Ok(open);
        }
        let limit = self.0.limit.min(CONNECT_LIMIT);
        let connected = timeout(limit, self.connect(is_tls, authority)).await;
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("{authority} did not answer within {limit:?}"));
        let error = |e: io::Error| HttpError::new(HttpErrorKind::Connect, e);
        connected.map_err(|_| error(late()))?.map_err(|e| error(io::Error::new(e.kind(), format!("{authority}: {e}"))))
    }

    async fn connect(&self, is_tls: bool, authority: &Authority) -> io::Result<Open> {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let moved = Arc::new(AtomicU64::new(0));
        let sender = if is_tls {
            let name = server_name(SslMode::VerifyFull, host).map_err(|e| io::Error::other(e.to_string()))?;
            let stream = TlsConnector::from(Arc::clone(&self.0.tls)).connect(name, stream).await?;
            spoken(Counted { stream, moved: Arc::clone(&moved) }).await
        } else {
            spoken(Counted { stream, moved: Arc::clone(&moved) }).await
        };
        Ok(Open { sender: sender.map_err(io::Error::other)?, moved })
    }

    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let is_tls = parts.uri.scheme_str() != Some("http");
        let nowhere = || HttpError::new(HttpErrorKind::Unknown, io::Error::other("the address has no host"));
        let authority = parts.uri.authority().cloned().ok_or_else(nowhere)?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        parts.headers.entry(HOST).or_insert(host);
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        let mut open = self.open(is_tls, &authority).await?;
        let sent = open.sender.send_request(Request::from_parts(parts, body));
        let response = moving(sent, &open.moved, self.0.limit).await?;
        let (parts, body) = response.into_parts();
        let back = (self.clone(), (is_tls, authority.to_string()), open);
        let mut body = Answer { body, limit: self.0.limit, waiting: Box::pin(sleep(self.0.limit)), back: Some(back) };
        if body.body.is_end_stream() {
            body.give_back();
        }
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

async fn spoken<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: Counted<S>) -> hyper::Result<Sender> {
    let (sender, connection) = handshake(stream).await?;
    // Its end shows in the requests.
    tokio::spawn(async move { _ = connection.await });
    Ok(sender)
}

/// Waits for the answer as long as something moves.
async fn moving<T>(
    sent: impl Future<Output = hyper::Result<T>>,
    moved: &AtomicU64,
    limit: Duration,
) -> Result<T, HttpError> {
    let mut sent = std::pin::pin!(sent);
    loop {
        let before = moved.load(Ordering::Relaxed);
        match timeout(limit, &mut sent).await {
            Ok(answered) => return answered.map_err(http_error),
            Err(_) if moved.load(Ordering::Relaxed) == before => return Err(stuck(limit)),
            Err(_) => {}
        }
    }
}

fn stuck(limit: Duration) -> HttpError {
    let why = format!("nothing came for {limit:?}");
    HttpError::new(HttpErrorKind::Timeout, io::Error::new(io::ErrorKind::TimedOut, why))
}

fn http_error(e: hyper::Error) -> HttpError {
    let kind = match () {
        () if e.is_canceled() || e.is_closed() => HttpErrorKind::Request,
        () if e.is_parse() => HttpErrorKind::Decode,
        () => HttpErrorKind::Interrupted,
    };
    HttpError::new(kind, e)
}

impl HttpConnector for Connections {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Connections {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.ask(request).await
    }
}

/// The body of an answer. When it has been read, its connection is there for the next request.
struct Answer {
    body: Incoming,
    limit: Duration,
    waiting: Pin<Box<Sleep>>,
    back: Option<(Connections, (bool, String), Open)>,
}

impl Answer {
    fn give_back(&mut self) {
        if let Some((connections, to, open)) = self.back.take() {
            let mut idle = connections.idle();
            let kept = idle.entry(to).or_default();
            if kept.len() < IDLE_MAX {
                kept.push(open);
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => {
                ready!(self.waiting.as_mut().poll(cx));
                Poll::Ready(Some(Err(stuck(self.limit))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let limit = self.limit;
                self.waiting.as_mut().reset(tokio::time::Instant::now() + limit);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => Poll::Ready(Some(Err(http_error(e)))),
            Poll::Ready(None) => {
                self.give_back();
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream in hyper's terms, which counts what moves on it.
struct Counted<S> {
    stream: S,
    moved: Arc<AtomicU64>,
}

impl<S> Counted<S> {
    fn add(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> Read for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut to: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK];
        let room = to.remaining().min(CHUNK);
        let mut buf = ReadBuf::new(&mut chunk[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        to.put_slice(buf.filled());
        self.add(buf.filled().len());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Write for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.add(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
