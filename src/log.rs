//! Log lines in PgBouncer's format, written by a thread of their own.
//!
//! `2026-11-21 09:18:14.309 UTC [8936] LOG C-0x2a: app/postgres@127.0.0.1:49974 login attempt: ...`
//!
//! Whoever logs only puts a line into a bounded queue. A full disk or a slow reader of stderr
//! loses lines, which are counted and told of in the log once it takes lines again.

use std::borrow::Cow;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Zoned;

/// Lines that may wait for the writer.
const QUEUE_MAX: usize = 10_000;

/// PgBouncer's levels, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Fatal,
    Error,
    Warning,
    Log,
    /// Shown with `verbose` 1 and above.
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Fatal => "FATAL",
            Level::Error => "ERROR",
            Level::Warning => "WARNING",
            Level::Log => "LOG",
            Level::Debug => "DEBUG",
        }
    }
}

/// Where lines go; `None` and `false` switch one off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) stderr: bool,
    pub(crate) logfile: Option<PathBuf>,
}

enum Item {
    Line {
        at: Zoned,
        level: Level,
        text: String,
    },
    /// There is a new target.
    Look,
    Flush(SyncSender<()>),
}

struct Logger {
    queue: SyncSender<Item>,
    /// Where lines go from the next one on; `None`: as before. Not sent through the queue, which
    /// may be full.
    target: Mutex<Option<Target>>,
    /// Lines that found the queue full or could not be written, not told of yet.
    lost: AtomicU64,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();
static VERBOSE: AtomicU8 = AtomicU8::new(0);

/// Starts the writer; lines logged before go to stderr. To be called after any fork.
pub(crate) fn start(target: Target) -> io::Result<()> {
    let (queue, items) = sync_channel(QUEUE_MAX);
    let writer = Writer::new(target)?;
    std::thread::Builder::new().name("log".into()).spawn(move || writer.run(items))?;
    // A second start, as in tests, keeps the first writer.
    let _ = LOGGER.set(Logger { queue, target: Mutex::new(None), lost: AtomicU64::new(0) });
    Ok(())
}

/// `verbose`: 0 shows up to LOG, 1 and more DEBUG.
pub(crate) fn set_verbose(verbose: u32) {
    VERBOSE.store(verbose.min(1) as u8, Ordering::Relaxed);
}

pub(crate) fn is_enabled(level: Level) -> bool {
    level <= Level::Log || level as u8 <= Level::Log as u8 + VERBOSE.load(Ordering::Relaxed)
}

/// What the operator can do without; the settings `log_connections`, `log_disconnections` and
/// `log_pooler_errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Connections,
    Disconnections,
    PoolerErrors,
}

static WANTED: [AtomicBool; 3] = [const { AtomicBool::new(true) }; 3];

pub(crate) fn is_wanted(topic: Topic) -> bool {
    WANTED[topic as usize].load(Ordering::Relaxed)
}

pub(crate) fn set_wanted(topic: Topic, is_wanted: bool) {
    WANTED[topic as usize].store(is_wanted, Ordering::Relaxed);
}

/// Lines go to `target` from now on; its file is opened anew.
pub(crate) fn set_target(target: Target) {
    if let Some(logger) = LOGGER.get() {
        *logger.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
        // If the queue is full, the writer looks soon enough.
        let _ = logger.queue.try_send(Item::Look);
    }
}

/// Waits until what was logged so far is written, a second at most.
pub(crate) fn flush() {
    let (done, wait) = sync_channel(1);
    if LOGGER.get().is_some_and(|logger| logger.queue.try_send(Item::Flush(done)).is_ok()) {
        let _ = wait.recv_timeout(Duration::from_secs(1));
    }
}

/// Logs a line that concerns no connection.
pub(crate) fn write(level: Level, text: fmt::Arguments<'_>) {
    if !is_enabled(level) {
        return;
    }
    let line = Item::Line { at: Zoned::now(), level, text: text.to_string() };
    match LOGGER.get() {
        Some(logger) => {
            if logger.queue.try_send(line).is_err() {
                logger.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        None => eprintln!("{} {text}", level.name()),
    }
}

macro_rules! log_at {
    ($level:ident, $($text:tt)*) => {
        $crate::log::write($crate::log::Level::$level, format_args!($($text)*))
    };
}
pub(crate) use log_at;

struct Writer {
    target: Target,
    file: Option<File>,
    pid: u32,
    /// Lines that could not be written, not told of yet.
    unwritten: u64,
}

impl Writer {
    fn new(target: Target) -> io::Result<Writer> {
        let file = target.logfile.as_deref().map(open).transpose()?;
        Ok(Writer { target, file, pid: std::process::id(), unwritten: 0 })
    }

    fn run(mut self, items: Receiver<Item>) {
        while let Ok(item) = items.recv() {
            self.retarget();
            match item {
                Item::Line { at, level, text } => {
                    self.tell_lost(&at);
                    self.line(&at, level, &text);
                }
                Item::Look => {}
                Item::Flush(done) => drop(done.send(())),
            }
        }
    }

    /// Opens the files anew: `logfile` may have been moved away or changed.
    fn retarget(&mut self) {
        let slot = LOGGER.get().map(|logger| logger.target.lock().unwrap_or_else(PoisonError::into_inner).take());
        let Some(target) = slot.flatten() else { return };
        match Writer::new(target) {
            Ok(new) => *self = Writer { unwritten: self.unwritten, ..new },
            Err(e) => {
                let text = format!("cannot open logfile, keeping the old one: {e}");
                self.line(&Zoned::now(), Level::Error, &text);
            }
        }
    }

    fn tell_lost(&mut self, at: &Zoned) {
        let queue_full = LOGGER.get().map_or(0, |l| l.lost.swap(0, Ordering::Relaxed));
        let lost = self.unwritten + queue_full;
        if lost > 0 {
            self.unwritten = lost;
            let before = self.unwritten;
            self.line(
                at,
                Level::Warning,
                &format!("{lost} log lines were lost: the log could not be written fast enough"),
            );
            if self.unwritten == before {
                self.unwritten = 0;
            }
        }
    }

    fn line(&mut self, at: &Zoned, level: Level, text: &str) {
        let text = harmless(text);
        let line = format!("{} [{}] {} {text}\n", at.strftime("%Y-%m-%d %H:%M:%S.%3f %Z"), self.pid, level.name());
        let to_file = self.file.as_mut().map(|file| file.write_all(line.as_bytes()));
        if matches!(to_file, Some(Err(_))) {
            self.unwritten += 1;
        }
        if self.target.stderr {
            // Nobody may read stderr; that is no reason to stop.
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

/// Names and messages are others' words, and anybody may say them: what follows a line break is
/// indented, as PgBouncer does, so that it is no line of ours, and nothing commands a terminal.
fn harmless(text: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| c.is_control() && c != '\t';
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\n\t"),
            c if is_harmful(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(path: &Path) -> Writer {
        Writer::new(Target { stderr: false, logfile: Some(path.to_owned()) }).unwrap()
    }

    #[test]
    fn lines_have_the_format_of_pgbouncer() {
        let path = std::env::temp_dir().join(format!("pgweir-log-{}", std::process::id()));
        let at = "2026-11-21T09:18:14.309Z".parse::<jiff::Timestamp>().unwrap().to_zoned(jiff::tz::TimeZone::UTC);
        let mut log = writer(&path);
        log.line(&at, Level::Log, "C-0x2a: app/postgres@127.0.0.1:49974 login attempt");
        log.line(&at, Level::Log, "user=x\n2026 LOG\tfine\r\u{1b}[2J\u{9b}é\\");
        let head = format!("2026-11-21 09:18:14.309 UTC [{}] LOG", std::process::id());
        let expected = format!(
            "{head} C-0x2a: app/postgres@127.0.0.1:49974 login attempt\n\
             {head} user=x\n\t2026 LOG\tfine\\r\\u{{1b}}[2J\\u{{9b}}é\\\n"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so_later() {
        let now = Zoned::now();
        let mut full = writer(Path::new("/dev/full"));
        full.line(&now, Level::Log, "lost");
        full.line(&now, Level::Log, "lost too");
        assert_eq!(full.unwritten, 2);
        let path = std::env::temp_dir().join(format!("pgweir-full-{}", std::process::id()));
        let mut later = Writer { unwritten: full.unwritten, ..writer(&path) };
        later.tell_lost(&now);
        assert_eq!(later.unwritten, 0);
        assert!(std::fs::read_to_string(&path).unwrap().contains("WARNING 2 log lines were lost"));
        std::fs::remove_file(&path).unwrap();
    }
}
