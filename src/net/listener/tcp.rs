//! Listening on TCP.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::AsFd;

use nix::sys::socket::SetSockOpt;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use pgweir_config::Settings;
use socket2::{Domain, Protocol, Socket, Type};

use super::failure::{Call, Failure};
use super::{ListenError, backlog};
use crate::log::log_at;
use crate::net::tcp::TcpOptions;

/// What `listen_addr` stands for at this port, each address once.
pub(super) fn addresses(settings: &Settings, port: u16) -> Result<Vec<SocketAddr>, ListenError> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for entry in settings.listen_addr.iter() {
        let resolved = if entry == "*" {
            vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
        } else {
            let resolved = (entry.as_str(), port).to_socket_addrs();
            let failed = |error| ListenError::Resolve { address: entry.clone(), port, error };
            resolved.map_err(failed)?.collect()
        };
        for address in resolved {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(addresses)
}

pub(super) fn bind(address: SocketAddr, settings: &Settings) -> Result<TcpListener, Failure> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP)).of("socket")?;
    socket.set_reuse_address(true).of("setsockopt/SO_REUSEADDR")?;
    if address.is_ipv6() {
        // IPv4 has a socket of its own.
        socket.set_only_v6(true).of("setsockopt/IPV6_V6ONLY")?;
    }
    if settings.so_reuseport {
        socket.set_reuse_port(true).of("setsockopt/SO_REUSEPORT")?;
    }
    socket.bind(&address.into()).of("bind")?;
    // Connections inherit them, and buffers only make a large window if they are there before it is agreed on.
    TcpOptions::for_clients(settings).apply(&socket).of("setsockopt")?;
    socket.listen(backlog(settings)).of("listen")?;
    let listener = socket.into();
    set_defer_accept(&listener, settings.tcp_defer_accept);
    Ok(listener)
}

/// `tcp_defer_accept`: whether a connection is only accepted once its first data has come. Also for a RELOAD.
pub(crate) fn set_defer_accept(listener: &TcpListener, on: bool) {
    // In seconds; then a silent connection is handed over all the same. PgBouncer's manual says 45, the program says 1.
    if let Err(error) = DeferAccept.set(&listener.as_fd(), &u32::from(on)) {
        let act = if on { "install" } else { "uninstall" };
        log_at!(Warning, "tune_accept: {act} TCP_DEFER_ACCEPT: {}", error.desc());
    }
}

sockopt_impl!(DeferAccept, Both, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, u32);
