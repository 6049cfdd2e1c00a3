//! Opening a socket to a server.

use std::io;
use std::time::Duration;

use tokio::net::{TcpSocket, UnixStream};

use crate::net::stream::Stream;
use crate::net::tcp::TcpOptions;
use crate::registry::{Address, Ends};

/// How soon a Unix socket whose listener is behind is asked again.
const UNIX_RETRY: Duration = Duration::from_millis(10);

/// Connects, with this thread's runtime. Takes as long as the system lets it.
pub(crate) async fn dial(address: &Address, tcp: Option<&TcpOptions>) -> io::Result<Stream> {
    match address {
        Address::Tcp(peer) => {
            let socket = if peer.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(tcp) = tcp {
                tcp.apply(&socket)?;
            }
            let stream = socket.connect(*peer).await?;
            // A free port may be given to our own end, which is then connected to itself.
            if stream.local_addr()? == *peer {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(Stream::tcp(stream))
        }
        Address::Unix(path) => loop {
            // The system's form of an abstract name begins with NUL.
            let name = path.strip_prefix('@').map(|name| format!("\0{name}"));
            match UnixStream::connect(name.as_deref().unwrap_or(path)).await {
                Ok(stream) => return Ok(Stream::unix(stream)),
                // Unlike TCP's, a full queue is an error at once.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(UNIX_RETRY).await,
                Err(e) => return Err(e),
            }
        },
    }
}

/// Both ends of a socket made by `dial`. `port` is the one in a Unix socket's name.
pub(crate) fn ends(stream: &Stream, port: u16) -> io::Result<Ends> {
    Ok(match stream.addresses()? {
        Some((peer, local)) => Ends::Tcp { peer, local },
        None => {
            let pid = stream.peer_cred().and_then(|peer| peer.pid());
            Ends::Unix { port, peer_pid: pid.and_then(|pid| u32::try_from(pid).ok()) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, SockAddr, Socket, Type};

    #[tokio::test]
    async fn a_full_unix_listener_is_waited_for() {
        let name = format!("pgweir-dial-{}", std::process::id());
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(format!("\0{name}")).unwrap()).unwrap();
        // Room for one.
        listener.listen(0).unwrap();
        let address = Address::Unix(format!("@{name}").into());
        let _first = dial(&address, None).await.unwrap();
        let second = dial(&address, None);
        tokio::pin!(second);
        assert!(tokio::time::timeout(UNIX_RETRY * 3, &mut second).await.is_err());
        listener.accept().unwrap();
        tokio::time::timeout(Duration::from_secs(20), second).await.unwrap().unwrap();
    }
}
