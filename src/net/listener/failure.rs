//! Why a socket cannot be listened on, in PgBouncer's words.

use std::{fmt, io};

use nix::errno::Errno;

/// A call that failed on the way to a listening socket.
pub(super) struct Failure {
    call: &'static str,
    error: io::Error,
}

impl Failure {
    pub(super) fn is_in_use(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(): ", self.call)?;
        match self.error.raw_os_error() {
            Some(errno) => f.write_str(Errno::from_raw(errno).desc()),
            None => self.error.fmt(f),
        }
    }
}

pub(super) trait Call<T> {
    /// Names the call that the result is of.
    fn of(self, call: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Call<T> for Result<T, E> {
    fn of(self, call: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure { call, error: error.into() })
    }
}
