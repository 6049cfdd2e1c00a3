//! Cancelling what a server runs, or asking a peer to have it cancelled.

use std::io;
use std::time::Duration;

use pgweir_config::Settings;
use pgweir_proto::cancel::CancelKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::{SecureError, dial, secure};
use crate::net::stream::Stream;
use crate::net::tcp::TcpOptions;
use crate::net::tls::Dialer;
use crate::registry::{Address, Ends, ServerInfo};

/// How long a request that was sent may take until the other side closes the connection. A peer
/// may have to wait for its server.
const SENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Connects to a server whose query is to be cancelled, at the very address that it is connected
/// to, and with TLS if that connection has it: who reads the key can cancel, too.
pub(crate) async fn connect(server: &ServerInfo, tls: &Dialer, settings: &Settings) -> io::Result<Stream> {
    let made = async {
        let mut stream = dial(&server.address, Some(&TcpOptions::for_servers(settings))).await?;
        if server.tls.is_some() {
            let mut secured = secure(&mut stream, server.host(), tls).await;
            // What is only preferred for others is required here, unless it has been switched off since.
            if tls.is_used() && stream.tls().is_none() {
                secured = secured.and(Err(SecureError::Refused));
            }
            secured.map_err(|e| io::Error::other(e.to_string()))?;
        }
        Ok(stream)
    };
    within(connect_limit(settings), made).await
}

/// Both ends of a connection to a server.
pub(crate) fn ends(stream: &Stream, address: &Address) -> Option<Ends> {
    let port = match address {
        Address::Tcp(peer) => peer.port(),
        // The port stands behind the last dot of the name.
        Address::Unix(path) => path.rsplit('.').next().and_then(|port| port.parse().ok()).unwrap_or(0),
    };
    super::connect::ends(stream, port).ok()
}

/// Connects to a peer. As PgBouncer's, it gets its requests without TLS, which
/// `server_tls_sslmode` says nothing about.
pub(crate) async fn connect_to_peer(address: &Address, settings: &Settings) -> io::Result<Stream> {
    let tcp = TcpOptions::for_servers(settings);
    within(connect_limit(settings), dial(address, Some(&tcp))).await
}

fn connect_limit(settings: &Settings) -> Duration {
    let limit = settings.server_connect_timeout;
    if limit.is_zero() { Duration::MAX } else { limit }
}

/// Sends a CancelRequest and waits until the other side has closed the connection: then the
/// signal is on its way to the backend, though it may not have arrived. After an error the
/// request may still be under way.
pub(crate) async fn send(stream: Stream, key: &CancelKey) -> io::Result<()> {
    within(SENT_TIMEOUT, send_and_wait(stream, key)).await
}

async fn send_and_wait(mut stream: Stream, key: &CancelKey) -> io::Result<()> {
    let mut request = Vec::new();
    key.cancel_request(&mut request);
    stream.write_all(&request).await?;
    stream.flush().await?;
    // Nothing is answered; what comes all the same means nothing.
    let mut ignored = [0; 64];
    loop {
        match stream.read(&mut ignored).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

async fn within<T>(limit: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::login::fake::key;
    use tokio::net::TcpListener;

    async fn cancel(address: &Address, key: &CancelKey) -> io::Result<()> {
        send(connect_to_peer(address, &Settings::default()).await?, key).await
    }

    #[tokio::test]
    async fn the_request_is_over_when_the_server_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        for secret in [&b"abcd"[..], &[1; 32]] {
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 12 + secret.len()];
                stream.read_exact(&mut request).await.unwrap();
                request
            };
            let key = key(secret);
            let (sent, request) = tokio::join!(cancel(&address, &key), serve);
            sent.unwrap();
            let mut expected = Vec::new();
            key.cancel_request(&mut expected);
            assert_eq!(request, expected);
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_close_or_is_not_there_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let stream = connect_to_peer(&address, &Settings::default()).await.unwrap();
        let sent = within(Duration::from_millis(20), send_and_wait(stream, &key(b"abcd"))).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(listener);
        let sent = cancel(&address, &key(b"abcd")).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
