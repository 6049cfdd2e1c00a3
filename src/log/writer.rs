//! The thread that writes.

use std::io;
use std::mem::discriminant;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use jiff::Zoned;
use pgweir_config::LogFormat;

use super::line::Line;
use super::sink::{Out, Sink};
use super::stream::Stream;
use super::syslog::Syslog;
use super::{LOGGER, Level, Target};

/// How often it is tried to tell of lost lines where no further line comes.
const TELL_LOST: Duration = Duration::from_secs(1);

pub(super) enum Item {
    Line(Line),
    /// There is a new target.
    Look,
}

pub(super) struct Writer {
    sinks: Vec<Sink>,
    format: LogFormat,
}

impl Writer {
    pub(super) fn new(target: Target) -> io::Result<Writer> {
        let logfile = target.logfile.as_deref().map(open).transpose()?;
        Ok(Writer::with(target, logfile))
    }

    fn with(target: Target, logfile: Option<Sink>) -> Writer {
        // Without stderr there is nobody to tell that there is none.
        let stderr = target.stderr.then(|| Stream::stderr().ok()).flatten();
        let syslog = target.syslog.map(Syslog::new);
        let sinks = [stderr.map(Out::Stderr).map(Sink::new), logfile, syslog.map(Out::Syslog).map(Sink::new)];
        Writer { sinks: sinks.into_iter().flatten().collect(), format: target.format }
    }

    pub(super) fn run(mut self, items: &Receiver<Item>) {
        loop {
            let next = match self.sinks.iter().any(|sink| sink.lost > 0) {
                true => items.recv_timeout(TELL_LOST),
                false => items.recv().map_err(RecvTimeoutError::from),
            };
            self.retarget();
            self.count_lost();
            match next {
                Ok(Item::Line(line)) => {
                    self.sinks.iter_mut().for_each(|sink| sink.put(&line, self.format));
                    if let Some(logger) = LOGGER.get() {
                        logger.written.fetch_add(1, Ordering::Release);
                    }
                }
                Ok(Item::Look) => {}
                Err(RecvTimeoutError::Timeout) => self.sinks.iter_mut().for_each(|sink| sink.tell_lost(self.format)),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Lines that found the queue full have reached nobody.
    fn count_lost(&mut self) {
        let lost = LOGGER.get().map_or(0, |logger| logger.lost.swap(0, Ordering::Relaxed));
        self.sinks.iter_mut().for_each(|sink| sink.lost += lost);
    }

    /// Opens the file anew: `logfile` may have been moved away or changed.
    fn retarget(&mut self) {
        let slot = LOGGER.get().map(|logger| logger.target.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(target) = slot.flatten() {
            self.change(target);
        }
    }

    fn change(&mut self, target: Target) {
        let mut before = std::mem::take(&mut self.sinks);
        let (logfile, failed) = match target.logfile.as_deref().map(open).transpose() {
            Ok(logfile) => (logfile, None),
            Err(e) => {
                let old = before.iter().position(|sink| matches!(sink.out, Out::Logfile(_)));
                (old.map(|old| before.swap_remove(old)), Some(e))
            }
        };
        *self = Writer::with(target, logfile);
        for sink in &mut self.sinks {
            let same = before.iter().find(|old| discriminant(&old.out) == discriminant(&sink.out));
            sink.lost += same.map_or(0, |old| old.lost);
        }
        if let Some(e) = failed {
            let text = format!("cannot open logfile, keeping the old one: {e}");
            let line = Line::new(Zoned::now(), Level::Error, None, text);
            self.sinks.iter_mut().for_each(|sink| sink.put(&line, self.format));
        }
    }
}

fn open(path: &Path) -> io::Result<Sink> {
    Stream::open(path).map(Out::Logfile).map(Sink::new)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use nix::sys::stat::Mode;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pgweir-log-{name}-{}", std::process::id()))
    }

    fn target(path: &Path) -> Target {
        Target { stderr: false, logfile: Some(path.to_owned()), syslog: None, format: LogFormat::Text }
    }

    fn put(writer: &mut Writer, text: &str) {
        let line = Line::new(Zoned::now(), Level::Log, None, text.to_owned());
        writer.sinks.iter_mut().for_each(|sink| sink.put(&line, writer.format));
    }

    /// What the lines say behind their level.
    fn said(log: &str) -> Vec<&str> {
        log.lines().map(|line| line.split_once("] ").unwrap().1).collect()
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so_later() {
        let path = path("full");
        let mut writer = Writer::new(target(Path::new("/dev/full"))).unwrap();
        put(&mut writer, "lost");
        put(&mut writer, "lost too");
        writer.change(target(&path));
        put(&mut writer, "here");
        let log = fs::read_to_string(&path).unwrap();
        let told = "WARNING 2 log lines lost: they could not be written fast enough, or not at all";
        assert_eq!(said(&log), [told, "LOG here"]);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_not_changed_to() {
        let path = path("kept");
        let mut writer = Writer::new(target(&path)).unwrap();
        writer.change(target(Path::new("/nonexistent/log")));
        put(&mut writer, "here");
        let log = fs::read_to_string(&path).unwrap();
        assert!(said(&log)[0].starts_with("ERROR cannot open logfile, keeping the old one: "), "{log}");
        assert_eq!(said(&log)[1], "LOG here");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_waited_for_once() {
        let path = path("pipe");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(Writer::new(target(&path)).is_err(), "nobody has it open");
        let reader = fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut writer = Writer::new(target(&path)).unwrap();
        let begin = std::time::Instant::now();
        let long = "x".repeat(3000);
        (0..100).for_each(|_| put(&mut writer, &long));
        // 64 KB are room for twenty.
        let lost = writer.sinks[0].lost;
        assert!((75..=85).contains(&lost), "{lost}");
        assert!(begin.elapsed() < Duration::from_secs(10), "waited for each line");
        let mut taken = vec![0; 40_000];
        std::io::Read::read_exact(&mut &reader, &mut taken).unwrap();
        put(&mut writer, "here");
        assert_eq!(writer.sinks[0].lost, 0);
        drop(writer);
        let mut rest = vec![0; 40_000];
        let n = std::io::Read::read(&mut &reader, &mut rest).unwrap();
        let rest = String::from_utf8_lossy(&rest[..n]).into_owned();
        assert!(rest.contains(&format!("WARNING {lost} log lines lost")) && rest.ends_with("LOG here\n"), "{rest}");
        fs::remove_file(&path).unwrap();
    }
}
