//! Listening sockets that a service manager has opened for us (`LISTEN_FDS`).
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::{env, process};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::close;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// The first of them.
pub(crate) const FDS_START: RawFd = 3;

/// How many there are; 0: none, or they are for another process.
fn count() -> RawFd {
    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(n)) if pid == process::id() => RawFd::try_from(n).unwrap_or(0),
        _ => 0,
    }
}

/// Takes them. To be called once, before anything else is opened: then nobody else has these numbers. The error is
/// that of the descriptor of this number.
pub(crate) fn take() -> Result<Vec<OwnedFd>, (RawFd, io::Error)> {
    (FDS_START..FDS_START + count()).map(|fd| own(fd).map_err(|e| (fd, e))).collect()
}

/// A number alone proves nothing, so a descriptor that somebody owns is only to be had by sending it: to ourselves.
fn own(fd: RawFd) -> io::Result<OwnedFd> {
    let (from, to) = UnixStream::pair()?;
    let fds = [fd];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(from.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::empty(), None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&to, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut received = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let owned = received.next().ok_or(io::ErrorKind::NotFound)?;
    close(fd)?;
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_number_becomes_a_descriptor() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut owned = UnixStream::from(own(far.into_raw_fd()).unwrap());
        owned.write_all(b"x").unwrap();
        let mut byte = [0];
        near.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        // Ours was the only one.
        drop(owned);
        assert_eq!(near.read(&mut byte).unwrap(), 0);
        assert!(own(1_000_000).is_err());
        assert_eq!(count(), 0);
    }
}
