//! What a service manager is told (`NOTIFY_SOCKET`).
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::{env, process};

use crate::log::log_at;
use crate::net::clock;

/// Clients can connect.
pub(crate) fn ready() {
    // It is the main process, whoever has started it.
    notify(&format!("MAINPID={}\nREADY=1", process::id()));
}

/// A reload begins; `reloaded` ends it.
pub(crate) fn reloading() {
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::now_us()));
}

pub(crate) fn reloaded() {
    notify("READY=1");
}

pub(crate) fn stopping() {
    notify("STOPPING=1");
}

/// This process has taken over from the main one, or that is needed again.
pub(crate) fn main_process(pid: u32) {
    notify(&format!("MAINPID={pid}"));
}

fn notify(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(e) = send(&name, state) {
        log_at!(Warning, "cannot notify the service manager at {}: {e}", name.display());
    }
}

fn send(name: &OsString, state: &str) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // Nobody waits for a service manager that does not listen.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut text = [0; 100];
        let n = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..n].to_vec()).unwrap()
    }

    #[test]
    fn paths_and_abstract_names_are_reached() {
        let name = format!("pgweir-notify-{}", process::id());
        let hidden = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(&format!("@{name}").into(), "READY=1").unwrap();
        assert_eq!(received(&hidden), "READY=1");
        let path = env::temp_dir().join(name);
        let file = UnixDatagram::bind(&path).unwrap();
        send(&path.clone().into(), "STOPPING=1").unwrap();
        assert_eq!(received(&file), "STOPPING=1");
        drop(file);
        std::fs::remove_file(&path).unwrap();
        assert!(send(&path.into(), "READY=1").is_err());
    }
}
