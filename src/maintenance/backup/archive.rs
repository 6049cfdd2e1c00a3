//! A backup to be read again by the programs that fit it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::fs::{self, DirBuilder, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::sleep;

use super::loading::{self, Input, Note, dbname_argument};
use super::manifest::{DumpFormat, File, Manifest};
use super::reading::{Checked, check_all};
use super::store::Store;
use crate::maintenance::conninfo::child::Passfile;
use crate::maintenance::exit::Failure;
use crate::maintenance::interrupt::Undo;
use crate::maintenance::job::Job;
use crate::maintenance::programs::{self, Program};
use crate::maintenance::progress::{Counted, Progress};
use crate::maintenance::server::{Server, Version};
use crate::maintenance::units::Span;

/// PostgreSQL's first version whose programs set `transaction_timeout`, which no older server knows.
const TRANSACTION_TIMEOUT: i32 = 17;

/// How long a piece of an archive may take that goes nowhere, and a storage to send the next.
const STALL_LIMIT: Duration = Duration::from_secs(180);

/// Of the list of an archive's content.
const LIST_BYTES: u64 = 256 << 20;

/// A backup, and the program that reads its dump.
pub(crate) struct Archive<'a> {
    pub(crate) store: &'a Store,
    pub(crate) manifest: &'a Manifest,
    /// pg_restore, or psql for a plain one.
    program: Program,
}

/// How a dump is put into a database.
#[derive(Clone, Debug, Default)]
pub(crate) struct How {
    pub(crate) jobs: u32,
    /// What is there is dropped, all in one transaction if there is one job.
    pub(crate) replaces: bool,
    pub(crate) no_owner: bool,
    pub(crate) no_privileges: bool,
    /// For what has to be a file here; None: the directory for temporary files.
    pub(crate) work_dir: Option<PathBuf>,
}

impl<'a> Archive<'a> {
    /// Finds the program: not older than the one that made the dump, and for a server of version `server` if there is one.
    pub(crate) async fn open(
        store: &'a Store,
        manifest: &'a Manifest,
        bin: Option<&Path>,
        server: Option<Version>,
    ) -> Result<Archive<'a>, Failure> {
        let made_by = major_of(&manifest.pg_dump_version);
        let is_plain = manifest.format == DumpFormat::Plain;
        let program = programs::find(if is_plain { "psql" } else { "pg_restore" }, made_by, bin).await?;
        if let Some(server) = server {
            let setting_by = if is_plain { made_by } else { program.version.major };
            if setting_by >= TRANSACTION_TIMEOUT && server.major() < TRANSACTION_TIMEOUT {
                let what = if is_plain { "a plain dump by pg_dump" } else { "pg_restore" };
                return Err(Failure::refused(format!(
                    "{what} {setting_by} does not go into PostgreSQL {}: it sets transaction_timeout, which is not known there",
                    server.major()
                ))
                .hint(format!("install postgresql-client-{made_by}, or name the directory of its programs by --pg-bin")));
            }
        }
        Ok(Archive { store, manifest, program })
    }

    /// What a step of the plan calls it.
    pub(crate) fn program_name(&self) -> String {
        format!("{} {}", self.name(), self.program.version)
    }

    fn name(&self) -> &'static str {
        if self.manifest.format == DumpFormat::Plain { "psql" } else { "pg_restore" }
    }

    /// Whether the dump is read as it comes; otherwise it has to be in files.
    pub(crate) fn is_streamed(&self, jobs: u32) -> bool {
        match self.manifest.format {
            DumpFormat::Plain => true,
            DumpFormat::Custom => jobs <= 1,
            DumpFormat::Directory => false,
        }
    }

    fn progress(&self, job: &Job, doing: &str) -> Progress {
        job.progress(format!("{doing} {}", self.manifest.id), Counted::Bytes, Some(self.manifest.bytes))
    }

    /// The file of a dump that is one.
    fn file(&self) -> Result<&File, Failure> {
        let id = &self.manifest.id;
        self.manifest.data_files().next().ok_or_else(|| Failure::unverified(format!("{id} has no files")))
    }

    /// Reads the whole archive, whatever is in it.
    pub(crate) async fn read_whole(&self, job: &Job, work_dir: Option<&Path>) -> Result<(), Failure> {
        let progress = self.progress(job, "reading");
        if self.manifest.format == DumpFormat::Plain {
            return self.read_plain(job, &progress).await;
        }
        let (mut input, _undo) = self.input(job, 1, work_dir).await?;
        let mut command = local(&self.program.path);
        command.args(["-f", "/dev/null"]);
        command.args(path_of(&input));
        let watch = stalls(&input);
        let done = loading::run(job, self.name(), command, &mut input, &progress, watch).await;
        done.map(|_| ()).map_err(|failure| self.broken(failure))
    }

    /// psql would only know by running it.
    async fn read_plain(&self, job: &Job, progress: &Progress) -> Result<(), Failure> {
        const END: &str = "-- PostgreSQL database dump complete";
        const TAIL_BYTES: usize = 4096;
        let mut checked = Checked::open(self.store, &self.manifest.id, self.file()?).await?;
        let mut tail = Vec::new();
        while let Some(bytes) = job.interrupt.or(checked.next()).await?? {
            progress.at(checked.bytes());
            tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
            tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
        }
        match String::from_utf8_lossy(&tail).contains(END) {
            true => Ok(()),
            false => Err(Failure::unverified(format!("{}: the end of the dump is missing", self.manifest.id))),
        }
    }

    /// A program that cannot read it says that it is broken; an interrupt does not.
    fn broken(&self, failure: Failure) -> Failure {
        use crate::maintenance::exit::Exit;
        let exit = if failure.exit == Exit::Failed { Exit::Unverified } else { failure.exit };
        Failure { exit, ..failure }.while_at(&self.manifest.id)
    }

    /// The archive's list of contents, as pg_restore prints it.
    pub(crate) async fn list(&self, job: &Job) -> Result<String, Failure> {
        let (mut input, _undo) = self.input(job, 1, None).await?;
        let note = Note::create("list", "")?;
        let mut command = local(&self.program.path);
        command.arg("--list").arg("-f").arg(note.path()).args(path_of(&input));
        let progress = self.progress(job, "reading");
        let watch = std::future::pending();
        let (status, said) = loading::run_partly(job, self.name(), command, &mut input, &progress, watch).await?;
        if !status.success() {
            return Err(self.broken(loading::failed(self.name(), status, &said)));
        }
        let about =
            fs::metadata(note.path()).await.map_err(|e| Failure::failed(format!("could not read the list: {e}")))?;
        if about.len() > LIST_BYTES {
            return Err(Failure::failed("the archive's list is too long"));
        }
        let text = fs::read(note.path()).await.map_err(|e| Failure::failed(format!("could not read the list: {e}")))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Puts it into the database that `server` is connected to; `list` names what of it, None: all.
    pub(crate) async fn load(
        &self,
        job: &Job,
        server: &Server,
        how: &How,
        list: Option<&Note>,
        watch: impl Future<Output = Failure>,
    ) -> Result<(), Failure> {
        let (mut input, undo) = self.input(job, how.jobs, how.work_dir.as_deref()).await?;
        let passfile = Passfile::create(&server.conninfo)
            .map_err(|e| Failure::failed(format!("could not write a password file: {e}")))?;
        let mut command = programs::command(&self.program.path, job, server, passfile.as_ref());
        match self.manifest.format {
            DumpFormat::Plain => {
                command.args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
            }
            _ => {
                command.args(["--exit-on-error", "--dbname", &dbname_argument(&server.conninfo.dbname)]);
                command.args(how.arguments());
                list.iter().for_each(|list| _ = command.arg("--use-list").arg(list.path()));
                command.args(path_of(&input));
            }
        }
        let progress = self.progress(job, "restoring");
        let done = loading::run(job, self.name(), command, &mut input, &progress, watch).await;
        if let Some(undo) = undo {
            undo.now().await?;
        }
        done.map(|_| ())
    }

    /// A stream if that will do; a path of what has been checked otherwise, which is removed in the end if it had to be copied.
    async fn input(&self, job: &Job, jobs: u32, work_dir: Option<&Path>) -> Result<(Input, Option<Undo>), Failure> {
        let Archive { store, manifest, .. } = self;
        if self.is_streamed(jobs) {
            return Ok((Input::Stream(Box::new(Checked::open(store, &manifest.id, self.file()?).await?)), None));
        }
        if let Some(path) = store.path(&manifest.id, manifest.format.data()) {
            check_all(job, store, manifest).await?;
            return Ok((Input::Path(path), None));
        }
        let dir = work_dir.map_or_else(std::env::temp_dir, Path::to_owned);
        let dir = dir.join(format!("pgweir-{}.{}", manifest.id, std::process::id()));
        job.say(format!("{} is copied to {}: pg_restore needs it as a file", manifest.id, dir.display()));
        let removed = dir.clone();
        let undo = job.cleanup.later(format!("remove {}", dir.display()), async move {
            fs::remove_dir_all(&removed).await.map_err(|e| Failure::failed(e.to_string()))
        });
        self.copy_to(job, &dir).await?;
        Ok((Input::Path(dir.join(manifest.format.data())), Some(undo)))
    }

    async fn copy_to(&self, job: &Job, dir: &Path) -> Result<(), Failure> {
        let progress = self.progress(job, "copying");
        let failed = |e: std::io::Error| Failure::failed(format!("could not write below {}: {e}", dir.display()));
        let mut done = 0;
        for file in self.manifest.data_files() {
            let path = dir.join(&file.name);
            let parent = path.parent().unwrap_or(dir);
            DirBuilder::new().recursive(true).mode(0o700).create(parent).await.map_err(failed)?;
            let mut copy =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).await.map_err(failed)?;
            let mut checked = Checked::open(self.store, &self.manifest.id, file).await?;
            while let Some(bytes) = job.interrupt.or(checked.next()).await?? {
                copy.write_all(&bytes).await.map_err(failed)?;
                progress.at(done + checked.bytes());
            }
            copy.flush().await.map_err(failed)?;
            done += checked.bytes();
        }
        Ok(())
    }
}

impl How {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.jobs > 1 {
            arguments.push(format!("--jobs={}", self.jobs));
        }
        if self.replaces {
            arguments.extend(["--clean", "--if-exists"].map(str::to_owned));
            if self.jobs <= 1 {
                arguments.push("--single-transaction".to_owned());
            }
        }
        let flags = [(self.no_owner, "--no-owner"), (self.no_privileges, "--no-privileges")];
        arguments.extend(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| (*flag).to_owned()));
        arguments
    }
}

/// Ends when nothing more of a stream is taken: there is damage over which pg_restore turns in circles.
fn stalls(input: &Input) -> impl Future<Output = Failure> + use<> {
    let seen = match input {
        Input::Stream(checked) => Some(checked.seen()),
        Input::Path(_) => None,
    };
    async move {
        let Some(seen) = seen else { return std::future::pending().await };
        let mut before = None;
        while before != Some(seen.get()) {
            before = Some(seen.get());
            sleep(STALL_LIMIT).await;
        }
        Failure::failed(format!("pg_restore has taken nothing more of it for {}", Span(STALL_LIMIT)))
    }
}

/// A program that connects to nothing.
fn local(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

fn path_of(input: &Input) -> Option<&Path> {
    match input {
        Input::Stream(_) => None,
        Input::Path(path) => Some(path),
    }
}

/// `15` of `15.4`; 0 where nobody knows, which any program suits.
pub(crate) fn major_of(version: &str) -> i32 {
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}
