//! A backup's files as they are read again: never believed before their checksum is right.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use ring::digest::{Context, SHA256};

use super::dump::hex;
use super::manifest::{File, Manifest};
use super::store::{Reader, Store};
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::progress::{Counted, Progress};

/// One file. Its last piece is handed out only when all of it is what the manifest says: whoever needs the whole file to come to
/// an end does so with the right one only.
pub(crate) struct Checked {
    id: String,
    expected: File,
    reader: Reader,
    hash: Option<Context>,
    bytes: u64,
    /// What has been read and not handed out.
    last: Option<Bytes>,
    /// The same as `bytes`, for whoever watches.
    seen: Rc<Cell<u64>>,
}

impl Checked {
    pub(crate) async fn open(store: &Store, id: &str, file: &File) -> Result<Checked, Failure> {
        let reader = store.read(id, &file.name).await?;
        Ok(Checked {
            id: id.to_owned(),
            expected: file.clone(),
            reader,
            hash: Some(Context::new(&SHA256)),
            bytes: 0,
            last: None,
            seen: Rc::default(),
        })
    }

    /// What comes next; None: that was all, and it is right.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(hash) = &mut self.hash {
            match self.reader.next().await? {
                Some(bytes) => {
                    hash.update(&bytes);
                    self.bytes += bytes.len() as u64;
                    self.seen.set(self.bytes);
                    if let Some(bytes) = self.last.replace(bytes) {
                        return Ok(Some(bytes));
                    }
                }
                None => self.verify()?,
            }
        }
        Ok(self.last.take())
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let Some(hash) = self.hash.take() else { return Ok(()) };
        let (id, File { name, bytes, sha256 }) = (&self.id, &self.expected);
        if self.bytes != *bytes {
            let read = self.bytes;
            return Err(Failure::unverified(format!("{id}: {name} has {read} bytes instead of {bytes}")));
        }
        let found = hex(hash.finish().as_ref());
        if found != *sha256 {
            let what = format!("{id}: {name} is damaged: its SHA-256 is {found}, the manifest says {sha256}");
            return Err(Failure::unverified(what));
        }
        Ok(())
    }

    /// How much has been read, now and later.
    pub(crate) fn seen(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.seen)
    }

    /// How much has been read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what is left, and so makes sure that it is right.
    pub(crate) async fn finish(&mut self, progress: &Progress) -> Result<(), Failure> {
        while self.next().await?.is_some() {
            progress.at(self.bytes);
        }
        Ok(())
    }

    /// All of a file that is small.
    pub(crate) async fn whole(mut self, limit: u64) -> Result<Vec<u8>, Failure> {
        if self.expected.bytes > limit {
            return Err(Failure::failed(format!("{}: {} is larger than {limit} bytes", self.id, self.expected.name)));
        }
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }
}

/// Reads all files of a backup.
pub(crate) async fn check_all(job: &Job, store: &Store, manifest: &Manifest) -> Result<(), Failure> {
    let progress = job.progress(format!("checking {}", manifest.id), Counted::Bytes, Some(manifest.bytes));
    let mut done = 0;
    for file in &manifest.files {
        let mut checked = Checked::open(store, &manifest.id, file).await?;
        while job.interrupt.or(checked.next()).await??.is_some() {
            progress.at(done + checked.bytes());
        }
        done += checked.bytes();
    }
    Ok(())
}
