//! Backups in a directory. Files are their owner's alone.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use tokio::fs::{self, DirBuilder, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_blocking;

use super::{Leftover, Listing, MANIFEST, STARTED, Started};
use crate::maintenance::backup::manifest::{Manifest, is_id};
use crate::maintenance::exit::Failure;

const READ_BYTES: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Local {
    root: PathBuf,
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.display().fmt(f)
    }
}

fn failed(doing: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::failed(format!("could not {doing} {}: {e}", path.display()))
}

impl Local {
    pub(super) fn new(root: PathBuf) -> Local {
        Local { root }
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    pub(super) fn path(&self, id: &str, name: &str) -> PathBuf {
        self.dir(id).join(name)
    }

    pub(super) async fn listing(&self) -> Result<Listing, Failure> {
        let cannot = |e: io::Error| failed("read", &self.root, &e);
        let mut listing = Listing::default();
        let mut entries = fs::read_dir(&self.root).await.map_err(cannot)?;
        while let Some(entry) = entries.next_entry().await.map_err(cannot)? {
            let name = entry.file_name();
            let Some(id) = name.to_str().filter(|id| is_id(id)) else { continue };
            // Removed meanwhile, or somebody else's: nothing else has one of our files in it.
            if !entry.file_type().await.is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            match self.manifest(id).await {
                Ok(Some(text)) => match Manifest::parse(id, &text) {
                    Ok(manifest) => listing.backups.push(manifest),
                    Err(why) => listing.unreadable.push((id.to_owned(), why)),
                },
                Ok(None) if fs::try_exists(self.path(id, STARTED)).await.is_ok_and(|exists| exists) => {
                    let dir = self.dir(id);
                    let sizes =
                        spawn_blocking(move || sizes(&dir)).await.map_err(|e| Failure::failed(e.to_string()))?;
                    let (bytes, written) = sizes.map_err(|e| failed("read", &self.dir(id), &e))?;
                    let written_at = Timestamp::try_from(written).unwrap_or(Timestamp::MAX);
                    listing.leftovers.push(Leftover { id: id.to_owned(), bytes, written_at });
                }
                Ok(None) => {}
                Err(failure) => listing.unreadable.push((id.to_owned(), failure.message)),
            }
        }
        Ok(listing)
    }

    /// None: there is none.
    pub(super) async fn manifest(&self, id: &str) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.path(id, MANIFEST);
        match fs::read(&path).await {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", &path, &e)),
        }
    }

    /// Whether the backup is a new one.
    pub(super) async fn begin(&self, id: &str) -> Result<bool, Failure> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.recursive(true).create(&self.root).await.map_err(|e| failed("create", &self.root, &e))?;
        let dir = self.dir(id);
        match builder.recursive(false).create(&dir).await {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(failed("create", &dir, &e)),
        }
        let written = self.mark_started(id).await;
        if written.is_err() {
            // Nothing is in it yet, or half of that file.
            let _ = fs::remove_dir_all(&dir).await;
        }
        written.map(|()| true)
    }

    async fn mark_started(&self, id: &str) -> Result<(), Failure> {
        let started = Started { at: Timestamp::now(), uploads: Vec::new() };
        let text = serde_json::to_vec(&started).map_err(|e| Failure::failed(e.to_string()))?;
        self.write_whole(id, STARTED, &text).await
    }

    pub(super) async fn touch(&self, id: &str) -> Result<(), Failure> {
        let path = self.path(id, STARTED);
        let touched = fs::OpenOptions::new().write(true).open(&path).await;
        let touched = match touched {
            Ok(file) => file.into_std().await.set_modified(SystemTime::now()),
            Err(e) => Err(e),
        };
        touched.map_err(|e| failed("touch", &path, &e))
    }

    pub(super) async fn write(&self, id: &str, name: &str) -> Result<Writer, Failure> {
        let path = self.path(id, name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).await;
        let mut file = file.map_err(|e| failed("create", &path, &e))?;
        file.set_max_buf_size(READ_BYTES);
        Ok(Writer { path, file })
    }

    /// Writes a file such that nobody ever sees half of it.
    async fn write_whole(&self, id: &str, name: &str, text: &[u8]) -> Result<(), Failure> {
        let (path, dir) = (self.path(id, name), self.dir(id));
        let new = self.path(id, &format!(".{name}.{}", std::process::id()));
        let written = async {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).await?;
            file.write_all(text).await?;
            file.sync_all().await?;
            fs::rename(&new, &path).await?;
            File::open(&dir).await?.sync_all().await
        };
        let written: io::Result<()> = written.await;
        if written.is_err() {
            // It may not have been made.
            let _ = fs::remove_file(&new).await;
        }
        written.map_err(|e| failed("write", &path, &e))
    }

    pub(super) async fn finish(&self, manifest: &Manifest) -> Result<(), Failure> {
        self.write_whole(&manifest.id, MANIFEST, &manifest.to_json()).await?;
        // The name of the backup itself must last, too.
        let synced = async { File::open(&self.root).await?.sync_all().await };
        synced.await.map_err(|e| failed("write", &self.root, &e))?;
        match fs::remove_file(self.path(&manifest.id, STARTED)).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &self.path(&manifest.id, STARTED), &e))
            }
            _ => Ok(()),
        }
    }

    /// Nobody else changes the manifest meanwhile.
    pub(super) async fn lock(&self, id: &str) -> Result<Flock<std::fs::File>, Failure> {
        let dir = self.dir(id);
        let path = dir.clone();
        let locked = spawn_blocking(move || {
            let file = std::fs::File::open(&path)?;
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))
        });
        let missing = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => Failure::usage(format!("there is no backup {id} in {self}")),
            _ => failed("lock", &dir, &e),
        };
        locked.await.map_err(|e| Failure::failed(e.to_string()))?.map_err(missing)
    }

    pub(super) async fn read(&self, id: &str, name: &str) -> Result<Reader, Failure> {
        let path = self.path(id, name);
        let missing = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => Failure::unverified(format!("{id}: {name} is missing")),
            _ => failed("open", &path, &e),
        };
        let mut file = File::open(&path).await.map_err(missing)?;
        file.set_max_buf_size(READ_BYTES);
        Ok(Reader { path, file })
    }

    pub(super) async fn delete(&self, id: &str) -> Result<(), Failure> {
        let gone = |done: io::Result<()>| match done {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.dir(id), &e)),
            _ => Ok(()),
        };
        // Without a manifest and without this it would look like nobody's.
        if fs::try_exists(self.path(id, MANIFEST)).await.unwrap_or(false) {
            self.mark_started(id).await?;
            gone(fs::remove_file(self.path(id, MANIFEST)).await)?;
        }
        gone(fs::remove_dir_all(self.dir(id)).await)
    }
}

/// Bytes and the time of the last change of all that is in a directory.
fn sizes(dir: &Path) -> io::Result<(u64, SystemTime)> {
    let mut total = (0, std::fs::metadata(dir)?.modified()?);
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        let (bytes, written) = if about.is_dir() { sizes(&entry.path())? } else { (about.len(), about.modified()?) };
        total = (total.0 + bytes, total.1.max(written));
    }
    Ok(total)
}

pub(crate) struct Writer {
    path: PathBuf,
    file: File,
}

impl Writer {
    pub(super) async fn write(&mut self, bytes: &Bytes) -> Result<(), Failure> {
        self.file.write_all(bytes).await.map_err(|e| failed("write", &self.path, &e))
    }

    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        let synced = async {
            self.file.flush().await?;
            self.file.sync_all().await
        };
        synced.await.map_err(|e| failed("write", &self.path, &e))
    }
}

pub(crate) struct Reader {
    path: PathBuf,
    file: File,
}

impl Reader {
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let mut bytes = BytesMut::with_capacity(READ_BYTES);
        match self.file.read_buf(&mut bytes).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(bytes.freeze())),
            Err(e) => Err(failed("read", &self.path, &e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::maintenance::backup::manifest::tests::sample;
    use crate::maintenance::backup::store::{LATEST, Store};

    fn scratch(name: &str) -> Store {
        let dir = std::env::temp_dir().join(format!("pgweir-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Store::Local(Local::new(dir))
    }

    async fn made(store: &Store, at: &str) -> String {
        let mut manifest = sample("app", at);
        let draft = store.begin(&manifest.id, None).await.unwrap();
        manifest.id = draft.id().to_owned();
        let mut writer = draft.write("data.dump", 0).await.unwrap();
        writer.write(&Bytes::from_static(b"abc")).await.unwrap();
        writer.finish().await.unwrap();
        store.finish(&manifest).await.unwrap();
        manifest.id
    }

    #[tokio::test]
    async fn a_backup_counts_from_its_manifest_on() {
        let store = scratch("counts");
        let old = made(&store, "2026-11-20T00:00:00Z").await;
        let new = made(&store, "2026-11-21T00:00:00Z").await;
        let same = made(&store, "2026-11-21T00:00:00Z").await;
        assert_eq!(same, format!("{new}-2"));
        let draft = store.begin("app-20261122T000000Z", None).await.unwrap();
        draft.write("data.dump", 0).await.unwrap().write(&Bytes::from_static(b"ab")).await.unwrap();
        let unfinished = draft.id().to_owned();
        let listing = store.listing().await.unwrap();
        let ids: Vec<&String> = listing.backups.iter().map(|manifest| &manifest.id).collect();
        assert_eq!(ids, [&same, &new, &old]);
        assert_eq!(listing.leftovers.iter().map(|leftover| &leftover.id).collect::<Vec<_>>(), [&unfinished]);
        assert_eq!(store.find(LATEST, Some("app")).await.unwrap().id, same);
        assert!(store.find(LATEST, Some("other")).await.is_err());
        assert!(store.find(&unfinished, None).await.is_err());

        let local = Local::new(store.path("", "").unwrap());
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(local.dir(&old)), 0o700);
        assert_eq!([mode(local.path(&old, MANIFEST)), mode(local.path(&old, "data.dump"))], [0o600, 0o600]);

        assert!(store.change(&old, |manifest| manifest.held = true).await.unwrap().held);
        assert!(store.manifest(&old).await.unwrap().held);
        let mut reader = store.read(&old, "data.dump").await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), "abc");
        assert!(reader.next().await.unwrap().is_none());

        std::fs::write(local.path(&new, MANIFEST), "{").unwrap();
        store.delete(&same).await.unwrap();
        store.delete(&unfinished).await.unwrap();
        store.delete(&unfinished).await.unwrap();
        let listing = store.listing().await.unwrap();
        assert_eq!((listing.backups.len(), listing.leftovers.len(), listing.unreadable.len()), (1, 0, 1));
        std::fs::remove_dir_all(&local.root).unwrap();
    }
}
