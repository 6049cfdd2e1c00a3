//! The command of a job under way.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::maintenance::job::Job;
use crate::process::daemon;

/// Of what a command says, so many lines are kept, and of each so many bytes.
const LINES_MAX: usize = 20;
const LINE_MAX: usize = 500;

/// How often an interrupt is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// What errors of our own begin with.
const OWN: &str = "pgweir: ";

/// How a command ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// It took too long.
    pub(super) is_late: bool,
    pub(super) said: Said,
}

/// The last that a command has said, in its order.
#[derive(Clone, Default)]
pub(super) struct Said {
    lines: VecDeque<String>,
    /// The first line that looks like why it failed.
    error: Option<String>,
}

impl Said {
    fn add(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(&line[..line.len().min(LINE_MAX)]);
        let text = text.trim_end().to_owned();
        if text.is_empty() {
            return;
        }
        if self.error.is_none() {
            self.error = text.strip_prefix(OWN).or(text.strip_prefix("error: ")).map(str::to_owned);
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(text);
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }

    /// What tells best why it failed.
    pub(super) fn failure(&self) -> Option<&String> {
        self.error.as_ref().or(self.lines.back())
    }
}

/// How to run it.
pub(super) struct Run<'a> {
    pub(super) words: &'a [String],
    /// Given to the command, if it takes one.
    pub(super) config: Option<&'a Path>,
    /// Zero: none.
    pub(super) deadline: Duration,
    pub(super) kill_after: Duration,
    /// What it says goes to our own stdout and stderr, too.
    pub(super) is_shown: bool,
}

impl Run<'_> {
    /// Runs it to its end. An interrupt of ours is one of the command's.
    pub(super) async fn run(&self, job: &Job) -> io::Result<Ended> {
        let mut command = Command::from(daemon::command());
        command.args(self.words);
        if let Some(config) = self.config {
            command.arg("--config").arg(config);
        }
        // Ctrl-C is passed on once, and not given by the terminal, too. Nobody is there to answer.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
        let said = Rc::new(RefCell::new(Said::default()));
        let stdout = gather(child.stdout.take(), self.is_shown.then(io::stdout), &said);
        let stderr = gather(child.stderr.take(), self.is_shown.then(io::stderr), &said);
        let mut reading = std::pin::pin!(async { tokio::join!(stdout, stderr) });
        let mut ended = std::pin::pin!(self.wait(&mut child, job));
        let (status, is_late) = tokio::select! {
            ended = &mut ended => {
                // What is in the pipes; programs that it has left behind may keep them open.
                let _ = timeout(Duration::from_secs(1), &mut reading).await;
                ended?
            }
            _ = &mut reading => ended.await?,
        };
        let said = said.borrow().clone();
        Ok(Ended { status, is_late, said })
    }

    /// Its status, and whether it took too long.
    async fn wait(&self, child: &mut Child, job: &Job) -> io::Result<(ExitStatus, bool)> {
        let too_long = async {
            match self.deadline {
                Duration::ZERO => std::future::pending().await,
                deadline => sleep(deadline).await,
            }
        };
        let interrupted = async {
            while !job.interrupt.is_requested() {
                sleep(LOOK).await;
            }
        };
        let is_late = tokio::select! {
            status = child.wait() => return Ok((status?, false)),
            () = too_long => true,
            () = interrupted => false,
        };
        signal(child, Signal::SIGINT);
        if let Ok(status) = timeout(self.kill_after, child.wait()).await {
            return Ok((status?, is_late));
        }
        signal(child, Signal::SIGKILL);
        Ok((child.wait().await?, is_late))
    }
}

fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended meanwhile; until it is waited for, its number is nobody else's.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Reads until the end, and shows what comes as it comes.
async fn gather(stream: Option<impl AsyncRead + Unpin>, mut shown: Option<impl Write>, said: &RefCell<Said>) {
    let Some(mut stream) = stream else { return };
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let bytes = &buffer[..count];
        if let Some(shown) = &mut shown {
            // Nobody looks any more.
            let _ = shown.write_all(bytes).and_then(|()| shown.flush());
        }
        for byte in bytes {
            match byte {
                b'\n' => said.borrow_mut().add(&std::mem::take(&mut line)),
                byte if line.len() < LINE_MAX => line.push(*byte),
                _ => {}
            }
        }
    }
    said.borrow_mut().add(&line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_and_the_first_error() {
        let said = RefCell::new(Said::default());
        let mut text = String::from("begin\npgweir: it broke\nHint: mend it\n");
        (0..30).for_each(|number| text += &format!("line {number}\n"));
        text += &format!("pgweir: later\n\n{}\nend", "x".repeat(2000));
        let mut shown = Vec::new();
        gather(Some(text.as_bytes()), Some(&mut shown), &said).await;
        let said = said.into_inner();
        assert_eq!(said.failure().map(String::as_str), Some("it broke"));
        let lines: Vec<&String> = said.lines().collect();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (LINES_MAX, "line 13", "end"));
        assert_eq!(lines[18].len(), LINE_MAX);
        assert_eq!(shown, text.as_bytes());
    }
}
