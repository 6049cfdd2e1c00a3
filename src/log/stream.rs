//! Lines to a descriptor: stderr, a file, a pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// So much a pipe takes without blocking, if it takes anything.
const CHUNK_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Stream {
    file: File,
    /// The latest line was begun and not ended: the next one begins with its end.
    is_midline: bool,
}

impl Stream {
    pub(super) fn stderr() -> io::Result<Stream> {
        let fd = io::stderr().as_fd().try_clone_to_owned()?;
        Ok(Stream { file: fd.into(), is_midline: false })
    }

    /// A pipe that nobody reads is an error instead of a wait without end.
    pub(super) fn open(path: &Path) -> io::Result<Stream> {
        let file = OpenOptions::new().append(true).create(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        Ok(Stream { file, is_midline: false })
    }

    /// Waits up to `patience` for a reader that takes nothing.
    pub(super) fn send(&mut self, line: &str, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        let end = if self.is_midline { "\n" } else { "" };
        let bytes = format!("{end}{line}\n").into_bytes();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            wait_writable(self.file.as_fd(), deadline)?;
            match self.file.write(&rest[..rest.len().min(CHUNK_MAX)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    rest = &rest[n..];
                    self.is_midline = !rest.is_empty();
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// An error of the descriptor counts as writable: the write names it.
pub(super) fn wait_writable(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
