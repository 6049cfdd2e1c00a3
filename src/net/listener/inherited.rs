//! Listening sockets that another process has made: the one before this, or a service manager.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::{fmt, io};

use socket2::{Domain, Socket};

use super::{UnixName, UnixSocket};

pub(crate) enum Inherited {
    Tcp {
        listener: TcpListener,
        /// Every connection begins with a PROXY header.
        is_proxied: bool,
    },
    Unix(UnixListener),
}

impl Inherited {
    /// Fails if it is no listening socket that clients could come to.
    pub(crate) fn new(fd: OwnedFd, is_proxied: bool) -> io::Result<Inherited> {
        let socket = Socket::from(fd);
        if !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
        }
        socket.set_nonblocking(true)?;
        match socket.domain()? {
            Domain::UNIX => Ok(Inherited::Unix(socket.into())),
            Domain::IPV4 | Domain::IPV6 => Ok(Inherited::Tcp { listener: socket.into(), is_proxied }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither TCP nor Unix")),
        }
    }
}

impl fmt::Display for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inherited::Tcp { listener, .. } => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(e) => e.fmt(f),
            },
            Inherited::Unix(listener) => match listener.local_addr().ok().as_ref().and_then(|a| a.as_pathname()) {
                Some(path) => write!(f, "unix:{}", path.display()),
                None => f.write_str("unix:@"),
            },
        }
    }
}

/// The one that listens on `address`. One of the other kind is none: what is in its queue would be misread.
pub(super) fn take_tcp(inherited: &mut Vec<Inherited>, address: SocketAddr, is_proxied: bool) -> Option<TcpListener> {
    let is_it = |socket: &Inherited| match socket {
        Inherited::Tcp { listener, is_proxied: its_kind } => {
            *its_kind == is_proxied && listener.local_addr().is_ok_and(|its_own| its_own == address)
        }
        Inherited::Unix(_) => false,
    };
    let at = inherited.iter().position(is_it)?;
    match inherited.remove(at) {
        Inherited::Tcp { listener, .. } => Some(listener),
        Inherited::Unix(_) => None,
    }
}

/// One that is left has this port, too, so that nobody else can have all of its addresses.
pub(super) fn is_in_the_way(inherited: &[Inherited], address: SocketAddr) -> bool {
    let is_it = |its_own: SocketAddr| its_own.port() == address.port() && its_own.is_ipv4() == address.is_ipv4();
    inherited.iter().any(|socket| match socket {
        Inherited::Tcp { listener, .. } => listener.local_addr().is_ok_and(is_it),
        Inherited::Unix(_) => false,
    })
}

/// The one of this name.
pub(super) fn take_unix(inherited: &mut Vec<Inherited>, name: &UnixName) -> Option<UnixSocket> {
    let wanted = name.address().ok()?;
    let is_it = |socket: &Inherited| match socket {
        Inherited::Unix(listener) => socket2::SockRef::from(listener).local_addr().is_ok_and(|a| {
            // The end of a path in the kernel's answer may or may not count its NUL.
            a.as_pathname().is_some() && a.as_pathname() == wanted.as_pathname() || a == wanted
        }),
        Inherited::Tcp { .. } => false,
    };
    let at = inherited.iter().position(is_it)?;
    match inherited.remove(at) {
        Inherited::Unix(listener) => Some(UnixSocket::of_another(listener, name.path().map(Path::to_owned))),
        Inherited::Tcp { .. } => None,
    }
}
