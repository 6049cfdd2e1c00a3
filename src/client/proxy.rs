//! The PROXY header of a connection that comes from a balancer.

use pgweir_proto::proxy::{HEADER_LEN_MAX, Parsed, ProxyError, ProxySource, parse_proxy_header};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A read of a header; one without TLVs takes two.
const READ_LEN_MAX: usize = 256;

/// Why there is no header.
#[derive(Debug)]
pub(super) enum HeaderError {
    /// The connection was closed before its first byte, as by a check of whether somebody listens.
    Silent,
    /// It was closed in the middle.
    Truncated,
    Bad(ProxyError),
}

/// Reads the header and not a byte more. There is no time limit in here.
pub(super) async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<ProxySource, HeaderError> {
    let mut header = Vec::new();
    loop {
        let more = match parse_proxy_header(&header).map_err(HeaderError::Bad)? {
            Parsed::Whole(source) => return Ok(source),
            Parsed::NeedMore(more) => more.min(READ_LEN_MAX),
        };
        // The parser has its own, tighter limits.
        debug_assert!(header.len() + more <= HEADER_LEN_MAX);
        let mut piece = [0; READ_LEN_MAX];
        match stream.read(&mut piece[..more]).await {
            Ok(0) | Err(_) if header.is_empty() => return Err(HeaderError::Silent),
            Ok(0) | Err(_) => return Err(HeaderError::Truncated),
            Ok(n) => header.extend_from_slice(&piece[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 6432\r\n";

    #[tokio::test]
    async fn a_header_is_read_however_it_is_cut_and_nothing_behind_it() {
        for cut in 0..HEADER.len() {
            let (mut near, mut far) = duplex(1024);
            let balancer = async {
                near.write_all(&HEADER[..cut]).await.unwrap();
                tokio::task::yield_now().await;
                near.write_all(&HEADER[cut..]).await.unwrap();
                near.write_all(b"behind").await.unwrap();
                drop(near);
            };
            let both = async { tokio::join!(read_header(&mut far), balancer).0 };
            let source = tokio::time::timeout(Duration::from_secs(10), both).await.expect("it ends").unwrap();
            assert_eq!(source, ProxySource::Client("192.0.2.7:4711".parse().unwrap()));
            let mut behind = Vec::new();
            far.read_to_end(&mut behind).await.unwrap();
            assert_eq!(behind, b"behind", "{cut}");
        }
    }

    #[tokio::test]
    async fn a_connection_without_a_header_is_known_at_its_first_bytes() {
        let sent = async |bytes: &[u8]| {
            let (mut near, mut far) = duplex(1024);
            near.write_all(bytes).await.unwrap();
            let read = tokio::time::timeout(Duration::from_secs(10), read_header(&mut far));
            // The other end stays open: no answer may depend on more.
            read.await.expect("it ends").unwrap_err()
        };
        assert!(matches!(sent(b"\0").await, HeaderError::Bad(ProxyError::NoHeader)));
        assert!(matches!(sent(b"PROXY TCP4 \n    ").await, HeaderError::Bad(ProxyError::BadLine)));
    }

    #[tokio::test]
    async fn a_connection_may_end_at_any_byte() {
        for len in 0..HEADER.len() {
            let (mut near, mut far) = duplex(1024);
            near.write_all(&HEADER[..len]).await.unwrap();
            drop(near);
            let error = read_header(&mut far).await.unwrap_err();
            assert!(matches!((len, error), (0, HeaderError::Silent) | (1.., HeaderError::Truncated)));
        }
    }
}
