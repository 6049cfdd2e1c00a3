//! The files of keys and certificates: what is in them, and whether they have changed since.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file that a setting names, as it was read: once, so that all that is made of it agrees.
#[derive(Debug)]
pub(super) struct File<'a> {
    /// Behind the prefix of its side.
    pub(super) setting: &'static str,
    pub(super) path: &'a Path,
    /// From before it was read: a change meanwhile will show.
    stamp: Option<Stamp>,
    read: io::Result<Vec<u8>>,
}

impl<'a> File<'a> {
    pub(super) fn read(setting: &'static str, path: &'a Path) -> File<'a> {
        File { setting, path, stamp: Stamp::of(path), read: fs::read(path) }
    }

    pub(super) fn content(&self) -> Result<&[u8], &io::Error> {
        self.read.as_deref()
    }
}

/// What tells a state of a file from any other. Links are followed, so that one which is put
/// elsewhere makes another state, too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// The same. No program can set it.
    changed: (i64, i64),
}

impl Stamp {
    /// `None`: it cannot be looked at.
    fn of(path: &Path) -> Option<Stamp> {
        let file = fs::metadata(path).ok()?;
        Some(Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// The states of all files that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

impl Stamps {
    /// Those from when they were read.
    pub(super) fn of<'a>(files: impl IntoIterator<Item = &'a File<'a>>) -> Stamps {
        Stamps(files.into_iter().map(|file| (file.path.to_owned(), file.stamp.clone())).collect())
    }

    /// Those of the same files now.
    pub(crate) fn now(&self) -> Stamps {
        Stamps(self.0.iter().map(|(path, _)| (path.clone(), Stamp::of(path))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn any_change_shows() {
        let dir = std::env::temp_dir().join(format!("pgweir-files-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        // As Kubernetes mounts a secret.
        for version in ["1", "2"] {
            fs::create_dir(dir.join(version)).unwrap();
            fs::write(dir.join(version).join("key"), "same").unwrap();
        }
        let link = |to: &str| {
            symlink(to, dir.join("new")).unwrap();
            fs::rename(dir.join("new"), dir.join("..data")).unwrap();
        };
        link("1");
        symlink("..data/key", dir.join("key")).unwrap();
        let file = dir.join("key");
        let read = [File::read("key_file", &file), File::read("ca_file", Path::new("/nowhere"))];
        assert_eq!(read[0].content().unwrap(), b"same");
        let mut last = Stamps::of(&read);
        assert_eq!(last, last.now());
        let changes: [(&str, &dyn Fn()); 4] = [
            ("another file", &|| link("2")),
            ("more in it", &|| fs::write(dir.join("2/key"), "longer").unwrap()),
            ("gone", &|| fs::remove_file(dir.join("2/key")).unwrap()),
            ("back", &|| fs::write(dir.join("2/key"), "longer").unwrap()),
        ];
        for (what, change) in changes {
            change();
            let now = last.now();
            assert_ne!(now, last, "{what}");
            last = now;
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
