//! Log lines, written by a thread of their own to stderr, a file and syslog.
//!
//! `2026-11-21 09:18:14.309 UTC [8936] LOG C-0x2a: app/postgres@127.0.0.1:49974 login attempt: ...`
//!
//! Whoever logs only puts a line into a bounded queue. A full disk or a slow reader loses lines,
//! which are counted and told of in the log once it takes lines again.

mod line;
mod sink;
mod stream;
mod syslog;
mod writer;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Zoned;
use pgweir_config::LogFormat;

pub(crate) use line::Subject;
pub(crate) use syslog::SyslogTarget;

use line::{Line, Owned};
use writer::{Item, Writer};

/// Lines that may wait for the writer.
const QUEUE_MAX: usize = 10_000;

/// When it is looked whether the log has what is told next. Not for long: a late log holds up nobody.
const WRITTEN_LOOKS_MS: [u64; 5] = [1, 2, 4, 8, 16];

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

/// Where lines go, and how they look there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) stderr: bool,
    pub(crate) logfile: Option<PathBuf>,
    pub(crate) syslog: Option<SyslogTarget>,
    pub(crate) format: LogFormat,
}

struct Logger {
    queue: SyncSender<Item>,
    /// Where lines go from the next one on; `None`: as before. Not sent through the queue, which
    /// may be full.
    target: Mutex<Option<Target>>,
    /// Lines that found the queue full, not told of yet.
    lost: AtomicU64,
    /// Lines put into the queue so far. Counted before they are: then a line is out when so many are.
    queued: AtomicU64,
    /// Lines that the writer is done with.
    written: AtomicU64,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();
static VERBOSE: AtomicU8 = AtomicU8::new(0);

/// Starts the writer; lines logged before go to stderr. To be called after any fork.
pub(crate) fn start(target: Target) -> io::Result<()> {
    let (queue, items) = sync_channel(QUEUE_MAX);
    let writer = Writer::new(target)?;
    std::thread::Builder::new().name("log".into()).spawn(move || writer.run(&items))?;
    // A second start, as in tests, keeps the first writer.
    let _ = LOGGER.set(Logger {
        queue,
        target: Mutex::new(None),
        lost: AtomicU64::new(0),
        queued: AtomicU64::new(0),
        written: AtomicU64::new(0),
    });
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

impl Logger {
    /// Tells whether what was logged until now is written.
    fn is_written(&self) -> impl Fn() -> bool + use<'_> {
        let queued = self.queued.load(Ordering::Acquire);
        move || self.written.load(Ordering::Acquire) >= queued
    }
}

/// Waits until what was logged so far is written, a second at most. For the end of the process.
pub(crate) fn flush() {
    let Some(is_written) = LOGGER.get().map(Logger::is_written) else { return };
    let deadline = Instant::now() + Duration::from_secs(1);
    while !is_written() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits, not for long, until the log has what a client is told next.
pub(crate) async fn written() {
    let Some(is_written) = LOGGER.get().map(Logger::is_written) else { return };
    for wait_ms in WRITTEN_LOOKS_MS {
        if is_written() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// Logs a line that concerns no connection.
pub(crate) fn write(level: Level, text: fmt::Arguments<'_>) {
    put(level, None, text);
}

/// Logs a line about a connection.
pub(crate) fn write_about(subject: Subject<'_>, level: Level, text: fmt::Arguments<'_>) {
    put(level, Some(subject), text);
}

fn put(level: Level, about: Option<Subject<'_>>, text: fmt::Arguments<'_>) {
    if !is_enabled(level) {
        return;
    }
    let line = Line::new(Zoned::now(), level, about.map(Owned::from), text.to_string());
    match LOGGER.get() {
        Some(logger) => {
            logger.queued.fetch_add(1, Ordering::AcqRel);
            if logger.queue.try_send(Item::Line(line)).is_err() {
                logger.queued.fetch_sub(1, Ordering::AcqRel);
                logger.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        None => eprintln!("{}", line.text()),
    }
}

macro_rules! log_at {
    ($level:ident, $($text:tt)*) => {
        $crate::log::write($crate::log::Level::$level, format_args!($($text)*))
    };
}
pub(crate) use log_at;
