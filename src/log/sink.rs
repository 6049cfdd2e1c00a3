//! A place that lines go to, which may be slow, full or gone without harm to the others.

use std::io;
use std::time::Duration;

use jiff::Zoned;
use pgweir_config::LogFormat;

use super::Level;
use super::line::Line;
use super::stream::Stream;
use super::syslog::Syslog;

/// How long a reader may take nothing before lines are thrown away.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Out {
    Stderr(Stream),
    Logfile(Stream),
    Syslog(Syslog),
}

#[derive(Debug)]
pub(super) struct Sink {
    pub(super) out: Out,
    /// Lines that it did not take, not told of yet.
    pub(super) lost: u64,
    /// It took nothing for `PATIENCE`: not waited for until it takes a line again.
    is_stalled: bool,
}

impl Sink {
    pub(super) fn new(out: Out) -> Sink {
        Sink { out, lost: 0, is_stalled: false }
    }

    /// A line, and before it what has become of earlier ones.
    pub(super) fn put(&mut self, line: &Line, format: LogFormat) {
        self.tell_lost(format);
        if self.send(line, format).is_err() {
            self.lost += 1;
        }
    }

    pub(super) fn tell_lost(&mut self, format: LogFormat) {
        let lost = self.lost;
        if lost > 0 {
            let text = format!("{lost} log lines lost: they could not be written fast enough, or not at all");
            let line = Line::new(Zoned::now(), Level::Warning, None, text);
            if self.send(&line, format).is_ok() {
                self.lost = 0;
            }
        }
    }

    fn send(&mut self, line: &Line, format: LogFormat) -> io::Result<()> {
        let patience = if self.is_stalled { Duration::ZERO } else { PATIENCE };
        let text = match (&self.out, format) {
            // DEBUG lines are none of syslog's, as in PgBouncer.
            (Out::Syslog(_), _) if line.level > Level::Log => return Ok(()),
            (_, LogFormat::Json) => line.json(),
            (Out::Syslog(_), LogFormat::Text) => line.message(),
            (_, LogFormat::Text) => line.text(),
        };
        let sent = match &mut self.out {
            Out::Stderr(stream) | Out::Logfile(stream) => stream.send(&text, patience),
            Out::Syslog(syslog) => syslog.send(&line.at, line.level, &text, patience),
        };
        self.is_stalled = matches!(&sent, Err(e) if e.kind() == io::ErrorKind::TimedOut);
        sent
    }
}
