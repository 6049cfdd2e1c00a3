//! Cancelling what a server runs.

use std::io;
use std::time::Duration;

use pgweir_proto::cancel::CancelKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::dial;
use crate::registry::Address;

/// Sends a CancelRequest to `address`, the very one that the server to be cancelled is connected
/// to, and waits until the server has closed that connection: then the signal is on its way to
/// the backend, though it may not have arrived. A `timeout` of zero is none.
pub(crate) async fn send_cancel(address: &Address, key: &CancelKey, timeout: Duration) -> io::Result<()> {
    let limit = if timeout.is_zero() { Duration::MAX } else { timeout };
    let sending = async {
        let mut stream = dial(address, None).await?;
        let mut request = Vec::new();
        key.cancel_request(&mut request);
        stream.write_all(&request).await?;
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
    };
    tokio::time::timeout(limit, sending).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::login::fake::key;
    use tokio::net::TcpListener;

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
            let (sent, request) = tokio::join!(send_cancel(&address, &key, Duration::ZERO), serve);
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
        let sent = send_cancel(&address, &key(b"abcd"), Duration::from_millis(20)).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(listener);
        let sent = send_cancel(&address, &key(b"abcd"), Duration::ZERO).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
