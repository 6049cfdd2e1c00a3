//! A connection's bytes: the socket, TLS as `sslmode` asks for it, and whose backend is at the other end.

use std::future::{Ready, ready};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll};

use pgweir_config::{HostAddr, SslMode, SslNegotiation};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::conninfo::{Address, Conninfo};
use super::exit::Failure;
use crate::net::tls::{client_config, end_point, server_name};

/// `SSLRequest`: its length, 1234 and 5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

/// A connection ready for its startup packet.
pub(super) struct Stream {
    bytes: Box<dyn Bytes>,
    /// For SCRAM's channel binding; None: there is no TLS, or its certificate cannot be bound to.
    end_point: Option<Vec<u8>>,
    backend: BackendKey,
    /// Which of the host's addresses answered; None for a Unix socket.
    pub(super) peer: Option<IpAddr>,
}

/// The process that the server has said to be behind a connection; 0 until it has. A pooler says a number of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct BackendKey(Arc<AtomicI32>);

impl BackendKey {
    pub(super) fn pid(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The ways that `sslmode` allows, in the order of trying. Over a Unix socket there is no TLS.
pub(super) fn attempts(conninfo: &Conninfo, address: &Address) -> &'static [SslMode] {
    match conninfo.sslmode {
        _ if matches!(address.host, HostAddr::Unix(_)) => &[SslMode::Disable],
        SslMode::Disable => &[SslMode::Disable],
        SslMode::Allow => &[SslMode::Disable, SslMode::Require],
        SslMode::Prefer => &[SslMode::Prefer, SslMode::Disable],
        SslMode::Require => &[SslMode::Require],
        SslMode::VerifyCa => &[SslMode::VerifyCa],
        SslMode::VerifyFull => &[SslMode::VerifyFull],
    }
}

impl Stream {
    /// Connects to one server of `conninfo`.
    pub(super) async fn dial(conninfo: &Conninfo, address: &Address, attempt: SslMode) -> Result<Stream, Failure> {
        let unreachable = |e: io::Error| Failure::unreachable(format!("could not connect to {address}: {e}"));
        let (mut plain, peer): (Box<dyn Bytes>, _) = match &address.host {
            HostAddr::Unix(dir) => (Box::new(unix(dir, address.port).await.map_err(unreachable)?), None),
            HostAddr::Tcp(host) => {
                let host = address.hostaddr.map_or_else(|| host.clone(), |ip| ip.to_string());
                let stream = tcp(TcpStream::connect((host.as_str(), address.port)).await).map_err(unreachable)?;
                let peer = stream.peer_addr().map_err(unreachable)?.ip();
                (Box::new(stream), Some(peer))
            }
        };
        let backend = BackendKey::default();
        let is_tls = attempt != SslMode::Disable && asks_for_tls(conninfo, address, attempt, &mut plain).await?;
        let (bytes, end_point): (Box<dyn Bytes>, _) = if is_tls {
            let tls = handshake(conninfo, address, attempt, plain).await?;
            let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let end_point = certificate.and_then(|der| end_point(der));
            (Box::new(Watched::new(tls, backend.clone())), end_point)
        } else {
            (Box::new(Watched::new(plain, backend.clone())), None)
        };
        Ok(Stream { bytes, end_point, backend, peer })
    }

    pub(super) fn backend(&self) -> BackendKey {
        self.backend.clone()
    }
}

/// Whether TLS begins now. A server that has none is no failure where TLS is only preferred.
async fn asks_for_tls(
    conninfo: &Conninfo,
    address: &Address,
    attempt: SslMode,
    plain: &mut Box<dyn Bytes>,
) -> Result<bool, Failure> {
    if conninfo.sslnegotiation == SslNegotiation::Direct {
        return Ok(true);
    }
    let unreachable = |e: io::Error| Failure::unreachable(format!("could not connect to {address}: {e}"));
    plain.write_all(&SSL_REQUEST).await.map_err(unreachable)?;
    match plain.read_u8().await.map_err(unreachable)? {
        b'S' => Ok(true),
        _ if attempt == SslMode::Prefer => Ok(false),
        _ => Err(Failure::unreachable(format!("{address} does not support TLS, but it was required"))),
    }
}

async fn handshake(
    conninfo: &Conninfo,
    address: &Address,
    attempt: SslMode,
    plain: Box<dyn Bytes>,
) -> Result<tokio_rustls::client::TlsStream<Box<dyn Bytes>>, Failure> {
    let setup = |e| Failure::usage(format!("{address}: {e}"));
    let own = conninfo.sslcert.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    let config = client_config(attempt, &conninfo.sslrootcert, own).map_err(setup)?;
    let name = server_name(attempt, address.host.as_str()).map_err(setup)?;
    let failed = |e: io::Error| Failure::unreachable(format!("TLS with {address} failed: {e}"));
    TlsConnector::from(config).connect(name, plain).await.map_err(failed)
}

async fn unix(dir: &str, port: u16) -> io::Result<UnixStream> {
    let name = format!(".s.PGSQL.{port}");
    match dir.strip_prefix('@') {
        // The abstract namespace, where a name begins with a zero byte.
        Some(rest) => UnixStream::connect(format!("\0{rest}/{name}")).await,
        None => UnixStream::connect(Path::new(dir).join(name)).await,
    }
}

fn tcp(connected: io::Result<TcpStream>) -> io::Result<TcpStream> {
    let stream = connected?;
    stream.set_nodelay(true)?;
    // A job may wait for hours for one answer, and must learn when nobody is left to give it.
    let keepalive = socket2::TcpKeepalive::new().with_time(std::time::Duration::from_secs(60));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// Hands tokio-postgres a stream whose TLS is there already, or is not wanted.
pub(super) struct ReadyMade;

impl TlsConnect<Stream> for ReadyMade {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Ready<io::Result<Stream>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(stream))
    }
}

/// Looks at the messages that pass, up to BackendKeyData, for the process id in it: tokio-postgres keeps it to itself.
struct Watched<S> {
    inner: S,
    backend: BackendKey,
    /// The beginning of the message under way; as long as it takes to read a process id.
    head: Vec<u8>,
    /// What is left of a message that is of no interest.
    skip: usize,
}

/// Tag, length, process id.
const KEY_DATA_LEN: usize = 9;

impl<S> Watched<S> {
    fn new(inner: S, backend: BackendKey) -> Watched<S> {
        Watched { inner, backend, head: Vec::with_capacity(KEY_DATA_LEN), skip: 0 }
    }

    fn watch(&mut self, mut bytes: &[u8]) {
        while self.backend.pid() == 0 && !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if let &[tag, a, b, c, d, ref rest @ ..] = self.head.as_slice() {
                let behind = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                match (tag, rest) {
                    (b'K', [e, f, g, h]) => {
                        self.backend.0.store(i32::from_be_bytes([*e, *f, *g, *h]), Ordering::Relaxed)
                    }
                    (b'K', _) => {}
                    _ => {
                        self.skip = behind;
                        self.head.clear();
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.watch(&buf.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_is_found_however_the_bytes_come() {
        let mut bytes = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0b\0".to_vec();
        bytes.extend(b"K\0\0\0\x0c\0\0\x30\x39\x01\x02\x03\x04Z\0\0\0\x05I");
        for chunk in [1, 2, 7, 100] {
            let backend = BackendKey::default();
            let mut watched = Watched::new((), backend.clone());
            bytes.chunks(chunk).for_each(|chunk| watched.watch(chunk));
            assert_eq!(backend.pid(), 12345, "{chunk}");
        }
    }
}
