//! pg_dump at work: what it writes goes on as it comes, and its end decides whether it counts.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ring::digest::{Context, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, timeout};

use super::manifest::File;
use super::store::{Draft, Store};
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::progress::Progress;

const CHUNK: usize = 256 << 10;

/// Of what a program says on stderr so much is kept.
const SAID_MAX: usize = 16 << 10;

/// How long a program may take to cancel what it runs on the server.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How often a backup says that it is still being made: much more often than leftovers are taken for such.
const TOUCH_EVERY: Duration = Duration::from_secs(300);

/// How often the size of a directory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A program that was started.
pub(super) struct Running {
    /// `pg_dump`
    name: String,
    child: Child,
    said: JoinHandle<String>,
}

impl Running {
    pub(super) fn start(mut command: Command) -> Result<Running, Failure> {
        let program = PathBuf::from(command.as_std().get_program());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let failed = |e| Failure::failed(format!("could not start {}: {e}", program.display()));
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().map_err(failed)?;
        let stderr = child.stderr.take();
        let said = spawn_local(async move {
            match stderr {
                Some(stderr) => last_words(stderr).await,
                None => String::new(),
            }
        });
        Ok(Running { name, child, said })
    }

    /// Waits for its end, and passes on what it has said. Fails unless it was content.
    pub(super) async fn end(mut self, job: &Job) -> Result<(), Failure> {
        let ended = match job.interrupt.or(self.child.wait()).await {
            Ok(ended) => ended,
            Err(failure) => {
                self.stop().await;
                return Err(failure);
            }
        };
        let status = ended.map_err(|e| Failure::failed(format!("{}: {e}", self.name)))?;
        self.ended(job, status).await
    }

    async fn ended(self, job: &Job, status: ExitStatus) -> Result<(), Failure> {
        let said = self.said.await.unwrap_or_default();
        if status.success() {
            said.lines().for_each(|line| job.warn(line));
            return Ok(());
        }
        let how = std::os::unix::process::ExitStatusExt::signal(&status)
            .map(|signal| format!("was killed by signal {signal}"))
            .or(status.code().map(|code| format!("failed with exit code {code}")))
            .unwrap_or_default();
        let said = said.trim_end();
        let said = if said.is_empty() { String::new() } else { format!(":\n{said}") };
        Err(Failure::failed(format!("{} {how}{said}", self.name)))
    }

    /// Has it cancel what it runs on the server, and waits until it is gone.
    pub(super) async fn stop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// The end of what comes, in whole lines.
async fn last_words(mut from: impl AsyncRead + Unpin) -> String {
    let mut said: Vec<u8> = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(bytes) = from.read(&mut chunk).await
        && bytes > 0
    {
        said.extend_from_slice(&chunk[..bytes]);
        if said.len() > 2 * SAID_MAX {
            said.drain(..said.len() - SAID_MAX);
        }
    }
    let start = match said.len().checked_sub(SAID_MAX) {
        Some(start) => said[start..].iter().position(|byte| *byte == b'\n').map_or(start, |at| start + at + 1),
        None => 0,
    };
    String::from_utf8_lossy(&said[start..]).into_owned()
}

/// Where a dump goes to.
pub(super) struct Destination<'a> {
    pub(super) job: &'a Job,
    pub(super) draft: &'a Draft,
    pub(super) progress: &'a Progress,
    /// About how many bytes there may be.
    pub(super) expected: u64,
}

impl Destination<'_> {
    /// Runs a program whose output becomes a file.
    pub(super) async fn stream(&self, mut command: Command, name: &str) -> Result<File, Failure> {
        command.stdout(std::process::Stdio::piped());
        let mut running = Running::start(command)?;
        let copied = self.copy(&mut running, name).await;
        let (file, writer) = match copied {
            Ok(copied) => copied,
            Err(failure) => {
                running.stop().await;
                return Err(failure);
            }
        };
        // Half of a dump is none, however well it was written.
        running.end(self.job).await?;
        self.job.interrupt.or(writer.finish()).await??;
        Ok(file)
    }

    async fn copy(&self, running: &mut Running, name: &str) -> Result<(File, super::store::Writer), Failure> {
        let mut writer = self.job.interrupt.or(self.draft.write(name, self.expected)).await??;
        let mut stdout = running.child.stdout.take();
        let (mut hash, mut bytes, mut touched) = (Context::new(&SHA256), 0, Instant::now());
        while let Some(stdout) = &mut stdout {
            let Some(chunk) = self.job.interrupt.or(next(stdout)).await?? else { break };
            hash.update(&chunk);
            bytes += chunk.len() as u64;
            self.job.interrupt.or(writer.write(&chunk)).await??;
            self.progress.at(bytes);
            self.touch(&mut touched).await?;
        }
        Ok((File { name: name.to_owned(), bytes, sha256: hex(hash.finish().as_ref()) }, writer))
    }

    async fn touch(&self, touched: &mut Instant) -> Result<(), Failure> {
        if touched.elapsed() > TOUCH_EVERY {
            self.job.interrupt.or(self.draft.touch()).await??;
            *touched = Instant::now();
        }
        Ok(())
    }

    /// Runs a program that writes the directory `dir` of the backup itself.
    pub(super) async fn directory(&self, command: Command, store: &Store, name: &str) -> Result<Vec<File>, Failure> {
        let id = self.draft.id();
        let dir = store.path(id, name).ok_or_else(|| Failure::usage("a directory cannot be streamed"))?;
        let mut running = Running::start(command)?;
        let mut touched = Instant::now();
        let looked = loop {
            if let Ok(Ok(_)) = timeout(LOOK_EVERY, running.child.wait()).await {
                break Ok(());
            }
            if let Err(failure) = self.job.interrupt.check() {
                break Err(failure);
            }
            self.progress.at(size_of(&dir));
            if let Err(failure) = self.touch(&mut touched).await {
                break Err(failure);
            }
        };
        if let Err(failure) = looked {
            running.stop().await;
            return Err(failure);
        }
        running.end(self.job).await?;
        self.files(store, name, &dir).await
    }

    /// What has been written into a directory.
    async fn files(&self, store: &Store, name: &str, dir: &Path) -> Result<Vec<File>, Failure> {
        let cannot = |e: std::io::Error| Failure::failed(format!("could not read {}: {e}", dir.display()));
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(entry.path(), private).map_err(cannot)?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        let mut files = Vec::new();
        let mut touched = Instant::now();
        for file in names {
            let name = format!("{name}/{file}");
            let (bytes, sha256) = self.job.interrupt.or(checksum(store, self.draft.id(), &name)).await??;
            files.push(File { name, bytes, sha256 });
            self.touch(&mut touched).await?;
        }
        let synced = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(cannot)?;
        Ok(files)
    }
}

fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|about| about.len()).sum()
}

async fn next(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>, Failure> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    match from.read_buf(&mut chunk).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(chunk.freeze())),
        Err(e) => Err(Failure::failed(format!("could not read what pg_dump writes: {e}"))),
    }
}

/// Bytes and SHA-256 of a file of a backup, as it is now.
pub(crate) async fn checksum(store: &Store, id: &str, name: &str) -> Result<(u64, String), Failure> {
    let mut reader = store.read(id, name).await?;
    let (mut hash, mut bytes) = (Context::new(&SHA256), 0);
    while let Some(chunk) = reader.next().await? {
        hash.update(&chunk);
        bytes += chunk.len() as u64;
    }
    Ok((bytes, hex(hash.finish().as_ref())))
}

/// The checksum of a whole dump: of its only file, or of the list of its files as sha256sum prints it.
pub(crate) fn checksum_of_all(files: &[&File]) -> String {
    if let [file] = files
        && !file.name.contains('/')
    {
        return file.sha256.clone();
    }
    let list: String = files.iter().map(|file| format!("{}  {}\n", file.sha256, file.name)).collect();
    hex(ring::digest::digest(&SHA256, list.as_bytes()).as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_of_much_talk_is_kept() {
        let talk: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
        let kept = last_words(talk.as_bytes()).await;
        assert!(kept.len() <= SAID_MAX && kept.starts_with("line ") && kept.ends_with("line 19999\n"), "{kept}");
        assert_eq!(last_words(&b"one\ntwo"[..]).await, "one\ntwo");
    }

    #[test]
    fn a_directorys_checksum_is_that_of_the_list() {
        let file = |name: &str| File { name: name.to_owned(), bytes: 0, sha256: "ab".to_owned() };
        let (one, inside) = (file("data.dump"), file("data/toc.dat"));
        assert_eq!(checksum_of_all(&[&one]), "ab");
        // printf 'ab  data/toc.dat\n' | sha256sum
        let wanted = hex(ring::digest::digest(&SHA256, b"ab  data/toc.dat\n").as_ref());
        assert_eq!(checksum_of_all(&[&inside]), wanted);
    }
}
