//! Options of TCP sockets, towards clients and towards servers.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use pgweir_config::Settings;
use socket2::{SockRef, TcpKeepalive};

/// The `tcp_*` settings. A zero leaves the system's value alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TcpOptions {
    keepalive: bool,
    keepidle: Duration,
    keepintvl: Duration,
    keepcnt: u32,
    user_timeout: Duration,
    /// Bytes, for each direction.
    socket_buffer: usize,
}

/// What servers get where the settings leave it to the system. Linux would ask an idle peer
/// after two hours and resend to a silent one for a quarter of an hour; behind a cut network
/// every query would hang for so long.
const SERVER_KEEPIDLE: Duration = Duration::from_secs(30);
const SERVER_KEEPINTVL: Duration = Duration::from_secs(10);
const SERVER_KEEPCNT: u32 = 9;
/// It decides for probes too. Not shorter, since Linux also ends a connection whose peer is
/// well but reads nothing for so long while data waits for it, as a server does whose COPY
/// waits for a lock.
const SERVER_USER_TIMEOUT: Duration = Duration::from_secs(120);

impl TcpOptions {
    pub(crate) fn for_clients(settings: &Settings) -> TcpOptions {
        TcpOptions {
            keepalive: settings.tcp_keepalive,
            keepidle: settings.tcp_keepidle,
            keepintvl: settings.tcp_keepintvl,
            keepcnt: settings.tcp_keepcnt,
            user_timeout: settings.tcp_user_timeout,
            socket_buffer: settings.tcp_socket_buffer as usize,
        }
    }

    pub(crate) fn for_servers(settings: &Settings) -> TcpOptions {
        let asked = TcpOptions::for_clients(settings);
        let or = |own: Duration, ours: Duration| if own.is_zero() { ours } else { own };
        TcpOptions {
            keepidle: or(asked.keepidle, SERVER_KEEPIDLE),
            keepintvl: or(asked.keepintvl, SERVER_KEEPINTVL),
            keepcnt: if asked.keepcnt == 0 { SERVER_KEEPCNT } else { asked.keepcnt },
            user_timeout: or(asked.user_timeout, SERVER_USER_TIMEOUT),
            ..asked
        }
    }

    /// Sets the options on a TCP socket, connected or about to be.
    pub(crate) fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        // What is sent is sent whole; nothing more is coming that would be worth waiting for.
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(self.keepalive)?;
        if self.keepalive {
            socket.set_tcp_keepalive(&self.probes())?;
        }
        if !self.user_timeout.is_zero() {
            socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        }
        if self.socket_buffer != 0 {
            socket.set_send_buffer_size(self.socket_buffer)?;
            socket.set_recv_buffer_size(self.socket_buffer)?;
        }
        Ok(())
    }

    fn probes(&self) -> TcpKeepalive {
        let mut probes = TcpKeepalive::new();
        if !self.keepidle.is_zero() {
            probes = probes.with_time(self.keepidle);
        }
        if !self.keepintvl.is_zero() {
            probes = probes.with_interval(self.keepintvl);
        }
        if self.keepcnt != 0 {
            probes = probes.with_retries(self.keepcnt);
        }
        probes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn applied(options: &TcpOptions) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        options.apply(&stream).unwrap();
        stream
    }

    /// Applied to the listener only.
    fn inherited(options: &TcpOptions) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        options.apply(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap().0
    }

    #[test]
    fn settings_reach_the_socket() {
        let mut settings = Settings::default();
        for (key, value) in [
            ("tcp_keepidle", "77"),
            ("tcp_keepintvl", "7"),
            ("tcp_keepcnt", "5"),
            ("tcp_user_timeout", "12345"),
            ("tcp_socket_buffer", "40000"),
        ] {
            settings.set(key, value).unwrap();
        }
        for options in [TcpOptions::for_clients(&settings), TcpOptions::for_servers(&settings)] {
            for stream in [applied(&options), inherited(&options)] {
                let socket = SockRef::from(&stream);
                assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(12_345)));
                // Linux doubles it for its own use.
                assert_eq!((socket.send_buffer_size().unwrap(), socket.recv_buffer_size().unwrap()), (80_000, 80_000));
            }
        }
    }

    #[test]
    fn servers_are_probed_by_default_and_clients_as_the_system_does() {
        let mut settings = Settings::default();
        let (client, server) =
            (applied(&TcpOptions::for_clients(&settings)), applied(&TcpOptions::for_servers(&settings)));
        let (client, server) = (SockRef::from(&client), SockRef::from(&server));
        assert!(client.keepalive().unwrap() && server.keepalive().unwrap());
        assert_eq!(client.tcp_user_timeout().unwrap(), None);
        assert_eq!(server.tcp_user_timeout().unwrap(), Some(SERVER_USER_TIMEOUT));
        assert_eq!(server.tcp_keepalive_time().unwrap(), SERVER_KEEPIDLE);
        assert_ne!(client.tcp_keepalive_time().unwrap(), SERVER_KEEPIDLE);
        settings.set("tcp_keepalive", "0").unwrap();
        assert!(!SockRef::from(&applied(&TcpOptions::for_servers(&settings))).keepalive().unwrap());
    }
}
