//! Who is at the other end of a Unix socket, according to the kernel.

use nix::unistd::getuid;

use crate::net::stream::Stream;

/// This user gets in to the console without a password over a Unix socket, from the system
/// user that runs the pooler.
const CONSOLE_OWNER: &str = "pgbouncer";

/// Whether a client that asks for the console as `user` is whoever runs this process.
pub(crate) fn is_console_owner(stream: &Stream, user: &str) -> bool {
    user == CONSOLE_OWNER && stream.peer_cred().is_some_and(|peer| peer.uid() == getuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    #[tokio::test]
    async fn only_the_same_user_over_a_unix_socket_owns_the_console() {
        let (_peer, unix) = UnixStream::pair().unwrap();
        let unix = Stream::unix(unix);
        assert!(is_console_owner(&unix, "pgbouncer"));
        assert!(!is_console_owner(&unix, "postgres"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!is_console_owner(&Stream::tcp(tcp), "pgbouncer"));
    }
}
