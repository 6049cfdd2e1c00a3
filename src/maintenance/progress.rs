//! How far something is: a line that is redrawn on a terminal, a line now and then elsewhere. On stderr.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::units::{Size, span_text};

/// Between two lines on a terminal, and elsewhere.
const REDRAW: Duration = Duration::from_millis(200);
const PLAIN_LINE: Duration = Duration::from_secs(10);

const BAR: usize = 24;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Bytes,
    /// Tables, blocks, rows: what they are called.
    Things(&'static str),
}

impl Counted {
    fn show(self, number: u64) -> String {
        match self {
            Counted::Bytes => Size(number).to_string(),
            Counted::Things(_) => number.to_string(),
        }
    }

    fn name(self) -> String {
        match self {
            Counted::Bytes => String::new(),
            Counted::Things(name) => format!(" {name}"),
        }
    }
}

/// One thing under way. The line goes when it is dropped.
pub(crate) struct Progress {
    label: RefCell<String>,
    counted: Counted,
    /// None: nobody knows how much there is.
    total: Option<u64>,
    begun: Instant,
    /// When a line was written last; None: never.
    shown: Cell<Option<Instant>>,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Terminal,
    Lines,
    Quiet,
}

impl Progress {
    pub(super) fn new(label: String, counted: Counted, total: Option<u64>, is_quiet: bool) -> Progress {
        let mode = match io::stderr().is_terminal() {
            _ if is_quiet => Mode::Quiet,
            true => Mode::Terminal,
            false => Mode::Lines,
        };
        let now = Instant::now();
        // The first plain line comes when it turns out to take long.
        let shown = Cell::new((mode == Mode::Lines).then_some(now));
        Progress { label: RefCell::new(label), counted, total, begun: now, shown, mode }
    }

    /// From now on it is called so.
    pub(crate) fn rename(&self, label: String) {
        self.label.replace(label);
    }

    /// So much is done, of the total that there is or of a better one.
    pub(crate) fn at(&self, done: u64) {
        self.at_of(done, self.total);
    }

    pub(crate) fn at_of(&self, done: u64, total: Option<u64>) {
        let interval = if self.mode == Mode::Terminal { REDRAW } else { PLAIN_LINE };
        let now = Instant::now();
        let is_due = self.shown.get().is_none_or(|shown| now.duration_since(shown) >= interval);
        if self.mode == Mode::Quiet || !is_due {
            return;
        }
        self.shown.set(Some(now));
        let elapsed = now.duration_since(self.begun);
        let label = self.label.borrow();
        let mut text = line(&label, self.counted, done, total, elapsed);
        if let Some(width) = self.width() {
            // A line that is longer than the terminal is wide could not be taken back.
            let excess = text.chars().count().saturating_sub(width);
            text = line(&cut(&label, excess), self.counted, done, total, elapsed).chars().take(width).collect();
        }
        let mut stderr = io::stderr();
        // Nobody looks any more.
        let _ = match self.mode {
            Mode::Terminal => write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush()),
            _ => writeln!(stderr, "{text}"),
        };
    }
}

impl Progress {
    /// Of the terminal; None: it is none, or does not know.
    fn width(&self) -> Option<usize> {
        let size = (self.mode == Mode::Terminal).then(|| rustix::termios::tcgetwinsize(io::stderr()).ok()).flatten()?;
        Some(usize::from(size.ws_col)).filter(|width| *width > 0)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.mode == Mode::Terminal && self.shown.get().is_some() {
            let mut stderr = io::stderr();
            let _ = write!(stderr, "\r\x1b[K").and_then(|()| stderr.flush());
        }
    }
}

/// The label without so much of its end, but for what tells things apart.
fn cut(label: &str, excess: usize) -> String {
    const SHORTEST: usize = 12;
    let length = label.chars().count();
    let kept = length.saturating_sub(excess + 1).max(SHORTEST);
    if excess == 0 || length <= kept { label.to_owned() } else { label.chars().take(kept).chain(['…']).collect() }
}

/// Label, bar, how much of how much, rate, time left.
fn line(label: &str, counted: Counted, done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let secs = elapsed.as_secs_f64();
    // What was done before anybody looked makes no rate.
    let rate = if secs >= 0.5 { done as f64 / secs } else { 0.0 };
    let per_second = format!("{}/s", counted.show(rate as u64));
    let (shown, name) = (counted.show(done), counted.name());
    let Some(total) = total.filter(|total| *total > 0) else {
        return format!("{label}  {shown}{name}  {per_second}  {}", span_text(secs.round()));
    };
    let share = (done as f64 / total as f64).min(1.0);
    let filled = (share * BAR as f64) as usize;
    let bar = "#".repeat(filled) + &"-".repeat(BAR - filled);
    let left = match (total.saturating_sub(done)) as f64 / rate {
        left if left.is_finite() => format!("{} left", span_text(left.round())),
        _ => String::new(),
    };
    let total = counted.show(total);
    format!("{label}  [{bar}] {:.0} %  {shown} of {total}{name}  {per_second}  {left}", share * 100.0)
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_give_way() {
        assert_eq!(cut("public.orders: scanning", 0), "public.orders: scanning");
        assert_eq!(cut("public.orders: scanning", 9), "public.orders…");
        assert_eq!(cut("public.orders: scanning", 100), "public.order…");
        assert_eq!(cut("short", 100), "short");
    }

    #[test]
    fn lines_tell_rate_and_time_left() {
        let secs = Duration::from_secs;
        assert_eq!(
            line("dump", Counted::Bytes, 50 << 20, Some(200 << 20), secs(10)),
            "dump  [######------------------] 25 %  50 MB of 200 MB  5 MB/s  30s left"
        );
        assert_eq!(line("rows", Counted::Things("rows"), 90, None, secs(90)), "rows  90 rows  1/s  1m30s");
        assert_eq!(
            line("v", Counted::Things("tables"), 0, Some(3), secs(0)),
            "v  [------------------------] 0 %  0 of 3 tables  0/s"
        );
    }
}
