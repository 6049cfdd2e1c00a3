//! PostgreSQL's programs that read a dump: how they are fed, watched and ended.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::reading::Checked;
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::progress::Progress;

/// How long a program may take to end when it is told to, its cancel request included.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How much is kept of what a program says: the first errors, which the others follow from.
const SAID_BYTES: usize = 16 * 1024;

/// Where a dump comes from.
pub(crate) enum Input {
    /// Through the program's standard input.
    Stream(Box<Checked>),
    /// It reads by itself what was checked before.
    Path(PathBuf),
}

/// Runs `command` on `input` until it ends well, and returns the beginning of what it said. All of the input is read, also what the
/// program did not want. `watch` looks after it meanwhile, and ends it by ending. `name` is what it is called in messages.
pub(crate) async fn run(
    job: &Job,
    name: &str,
    command: Command,
    input: &mut Input,
    progress: &Progress,
    watch: impl Future<Output = Failure>,
) -> Result<String, Failure> {
    let (status, said) = run_partly(job, name, command, input, progress, watch).await?;
    if !status.success() {
        return Err(failed(name, status, &said));
    }
    if let Input::Stream(checked) = input {
        job.interrupt.or(checked.finish(progress)).await??;
    }
    Ok(said)
}

/// The same, however it ends, for a program that needs the beginning only, of which nobody knows then whether it is right.
pub(crate) async fn run_partly(
    job: &Job,
    name: &str,
    mut command: Command,
    input: &mut Input,
    progress: &Progress,
    watch: impl Future<Output = Failure>,
) -> Result<(ExitStatus, String), Failure> {
    if let Input::Stream(_) = input {
        command.stdin(Stdio::piped());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| Failure::failed(format!("could not start {name}: {e}")))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let fed = feed(input, stdin, progress, &mut child);
        let (fed, said, printed) = tokio::join!(fed, heard(stderr), heard(stdout));
        // pg_amcheck prints what it finds.
        (fed, if said.is_empty() { printed } else { said })
    };
    let (fed, said) = tokio::select! {
        done = job.interrupt.or(work) => match done {
            Ok(done) => done,
            Err(failure) => (Err(failure), String::new()),
        },
        failure = watch => (Err(failure), String::new()),
    };
    match fed {
        Ok(status) => Ok((status, said)),
        Err(failure) => {
            end(&mut child).await;
            Err(failure)
        }
    }
}

/// Writes everything to the program, and waits for its end. One that wants no more ends by itself. A failure is that of the
/// input, and leaves the program without its end.
async fn feed(
    input: &mut Input,
    stdin: Option<ChildStdin>,
    progress: &Progress,
    child: &mut Child,
) -> Result<ExitStatus, Failure> {
    if let (Input::Stream(checked), Some(mut stdin)) = (input, stdin) {
        loop {
            let next = match checked.next().await {
                Ok(next) => next,
                Err(failure) => {
                    // Its standard input must not seem to have come to its end.
                    end(child).await;
                    return Err(failure);
                }
            };
            let Some(bytes) = next else { break };
            progress.at(checked.bytes());
            match stdin.write_all(&bytes).await {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
                Err(e) => return Err(Failure::failed(format!("could not write to the program: {e}"))),
            }
        }
    }
    child.wait().await.map_err(|e| Failure::failed(format!("could not wait for the program: {e}")))
}

/// All that it says is read; the beginning of it is kept.
async fn heard(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut said, mut bytes) = (Vec::new(), [0; 4096]);
    // A failure is the end of it as well.
    while let Ok(count @ 1..) = stderr.read(&mut bytes).await {
        said.extend_from_slice(&bytes[..count.min(SAID_BYTES.saturating_sub(said.len()))]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

pub(super) fn failed(name: &str, status: ExitStatus, said: &str) -> Failure {
    let said = said.trim_end();
    let failure =
        Failure::failed(if said.is_empty() { format!("{name} ended with {status}") } else { said.to_owned() });
    match said.contains("role \"") && said.contains("does not exist") {
        true => failure.hint(
            "--globals makes the roles that were backed up with it, --no-owner and --no-privileges leave them out",
        ),
        false => failure,
    }
}

/// Ends a program: it cancels what it runs on the server when it is asked to.
async fn end(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    // It may be gone already.
    pid.iter().for_each(|pid| _ = kill(Pid::from_raw(*pid), Signal::SIGTERM));
    if timeout(END_LIMIT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// The connection string of a database by its name alone, for programs that take one as an argument: a bare name with `=` in it
/// would be taken for a string itself.
pub(crate) fn dbname_argument(name: &str) -> String {
    format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A file of ours for a program, removed when dropped.
pub(crate) struct Note(PathBuf);

impl Note {
    pub(crate) fn create(name: &str, text: &str) -> Result<Note, Failure> {
        use std::fs::OpenOptions;
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;

        let path = std::env::temp_dir().join(format!("pgweir-{name}.{}", std::process::id()));
        // A process with our number may have been killed.
        let _ = std::fs::remove_file(&path);
        let failed = |e: io::Error| Failure::failed(format!("could not write {}: {e}", path.display()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let note = Note(path.clone());
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(note)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // Somebody may have tidied up.
        let _ = std::fs::remove_file(&self.0);
    }
}
