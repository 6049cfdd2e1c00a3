//! Lines to syslog: datagrams to the local socket, in the form of RFC 3164, as glibc's `syslog` sends them.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Zoned;
use pgweir_config::SyslogFacility;

use super::Level;
use super::stream::wait_writable;

/// Where the system's syslog listens.
const SOCKET: &str = "/dev/log";

/// `syslog_ident` and `syslog_facility`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyslogTarget {
    pub(crate) ident: String,
    pub(crate) facility: SyslogFacility,
}

#[derive(Debug)]
pub(super) struct Syslog {
    target: SyslogTarget,
    path: &'static Path,
    /// `None`: nobody listens, as far as is known. Tried again with each line, so that a syslog that starts later is found.
    socket: Option<UnixDatagram>,
}

impl Syslog {
    pub(super) fn new(target: SyslogTarget) -> Syslog {
        Syslog { target, path: Path::new(SOCKET), socket: None }
    }

    /// Waits up to `patience` for a reader that takes nothing.
    pub(super) fn send(&mut self, at: &Zoned, level: Level, message: &str, patience: Duration) -> io::Result<()> {
        let priority = facility_code(self.target.facility) << 3 | severity(level);
        let (time, ident, pid) = (at.strftime("%b %e %H:%M:%S"), &self.target.ident, std::process::id());
        let packet = format!("<{priority}>{time} {ident}[{pid}]: {message}");
        let deadline = Instant::now() + patience;
        // A syslog that was started anew has another socket.
        let sent = self.try_send(packet.as_bytes(), deadline);
        if sent.is_err() && self.socket.is_none() { self.try_send(packet.as_bytes(), deadline) } else { sent }
    }

    fn try_send(&mut self, packet: &[u8], deadline: Instant) -> io::Result<()> {
        if self.socket.is_none() {
            let socket = UnixDatagram::unbound()?;
            socket.connect(self.path)?;
            socket.set_nonblocking(true)?;
            self.socket = Some(socket);
        }
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        wait_writable(socket.as_fd(), deadline)?;
        let sent = socket.send(packet);
        match &sent {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => self.socket = None,
            _ => {}
        }
        sent.map(drop)
    }
}

fn severity(level: Level) -> u8 {
    match level {
        Level::Fatal => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Log => 6,
        Level::Debug => 7,
    }
}

fn facility_code(facility: SyslogFacility) -> u8 {
    match facility {
        SyslogFacility::User => 1,
        SyslogFacility::Daemon => 3,
        SyslogFacility::Auth => 4,
        SyslogFacility::Authpriv => 10,
        SyslogFacility::Local0 => 16,
        SyslogFacility::Local1 => 17,
        SyslogFacility::Local2 => 18,
        SyslogFacility::Local3 => 19,
        SyslogFacility::Local4 => 20,
        SyslogFacility::Local5 => 21,
        SyslogFacility::Local6 => 22,
        SyslogFacility::Local7 => 23,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(20);

    /// Where a test listens in place of the system.
    fn syslog(name: &str) -> Syslog {
        let path = std::env::temp_dir().join(format!("pgweir-syslog-{name}-{}", std::process::id()));
        let target = SyslogTarget { ident: "pooler".into(), facility: SyslogFacility::Local3 };
        Syslog { target, path: Box::leak(path.into_boxed_path()), socket: None }
    }

    fn received(listener: &UnixDatagram) -> String {
        let mut buffer = [0; 200];
        listener.set_nonblocking(true).unwrap();
        let n = listener.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    fn at() -> Zoned {
        "2026-11-02T09:08:07.309Z".parse::<jiff::Timestamp>().unwrap().to_zoned(jiff::tz::TimeZone::UTC)
    }

    #[test]
    fn a_line_is_a_datagram() {
        let mut syslog = syslog("line");
        let listener = UnixDatagram::bind(syslog.path).unwrap();
        let pid = std::process::id();
        for (level, code) in [(Level::Warning, 19 * 8 + 4), (Level::Log, 19 * 8 + 6), (Level::Fatal, 19 * 8 + 2)] {
            syslog.send(&at(), level, "process up", PATIENCE).unwrap();
            assert_eq!(received(&listener), format!("<{code}>Nov  2 09:08:07 pooler[{pid}]: process up"));
        }
        std::fs::remove_file(syslog.path).unwrap();
    }

    #[test]
    fn a_syslog_that_comes_later_or_anew_is_found() {
        let mut syslog = syslog("later");
        assert!(syslog.send(&at(), Level::Log, "lost", PATIENCE).is_err());
        for text in ["first", "second"] {
            let listener = UnixDatagram::bind(syslog.path).unwrap();
            syslog.send(&at(), Level::Log, text, PATIENCE).unwrap();
            assert!(received(&listener).ends_with(text));
            drop(listener);
            std::fs::remove_file(syslog.path).unwrap();
        }
        assert!(syslog.send(&at(), Level::Log, "lost again", PATIENCE).is_err());
    }

    #[test]
    fn one_that_reads_nothing_holds_up_nobody_for_long() {
        let mut syslog = syslog("stalled");
        let listener = UnixDatagram::bind(syslog.path).unwrap();
        let failed = (0..100_000).find_map(|_| syslog.send(&at(), Level::Log, "x", PATIENCE).err());
        assert_eq!(failed.expect("a full queue").kind(), io::ErrorKind::TimedOut);
        received(&listener);
        syslog.send(&at(), Level::Log, "x", PATIENCE).unwrap();
        std::fs::remove_file(syslog.path).unwrap();
    }
}
