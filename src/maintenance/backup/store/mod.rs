//! Where backups are kept. A backup is a directory, or a prefix of S3, called by its id:
//!
//! ```text
//! ID/started.json    while it is made; touched now and then
//! ID/data.dump       what pg_dump wrote: data.sql in plain format, data/... in directory format
//! ID/globals.sql     roles and tablespaces, if asked for
//! ID/manifest.json   written last, removed first: without it there is no backup
//! ```

mod local;
#[cfg(feature = "s3")]
mod s3;

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::manifest::{Manifest, Upload, is_id};
use crate::maintenance::exit::Failure;
use local::Local;
#[cfg(feature = "s3")]
use s3::S3;
#[cfg(feature = "s3")]
pub(crate) use s3::S3Options;

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const STARTED: &str = "started.json";

/// The word for the newest backup.
pub(crate) const LATEST: &str = "latest";

/// Where backups are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Storage")]
pub(crate) struct Place {
    /// Where the backups are, each in a directory of its own: a directory, or s3://BUCKET/PREFIX. Credentials of S3 come from
    /// AWS's variables (AWS_ACCESS_KEY_ID, ...), AWS_PROFILE and the files in ~/.aws, or the machine's role
    #[arg(long, value_name = "DIR_OR_S3_URL")]
    pub(crate) to: String,
    #[cfg(feature = "s3")]
    #[command(flatten)]
    pub(crate) s3: S3Options,
}

/// A place that is open. Clones are of the same.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Local(Local),
    #[cfg(feature = "s3")]
    S3(Box<S3>),
}

/// What there is in a place.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Newest first.
    pub(crate) backups: Vec<Manifest>,
    /// Of backups that did not end, or are being made.
    pub(crate) leftovers: Vec<Leftover>,
    /// Ids of backups whose manifest cannot be read, and why.
    pub(crate) unreadable: Vec<(String, String)>,
}

/// What a backup without a manifest consists of.
#[derive(Clone, Debug)]
pub(crate) struct Leftover {
    pub(crate) id: String,
    pub(crate) bytes: u64,
    /// When anything of it was written last.
    pub(crate) written_at: Timestamp,
}

/// What `started.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) at: Timestamp,
    /// Uploads that have begun, by file name: their parts are no objects yet, and are known by these names only.
    pub(super) uploads: Vec<(String, String)>,
}

impl Store {
    /// The place that `--to` names. That it exists and can be used, its first use tells.
    pub(crate) async fn open(place: &Place) -> Result<Store, Failure> {
        match place.to.split_once("://") {
            None if place.to.is_empty() => Err(Failure::usage("--to is empty")),
            None => Ok(Store::Local(Local::new(PathBuf::from(&place.to)))),
            #[cfg(feature = "s3")]
            Some(("s3", rest)) => Ok(Store::S3(Box::new(S3::open(rest, &place.s3)?))),
            #[cfg(not(feature = "s3"))]
            Some(("s3", _)) => Err(Failure::usage("--to: this pgweir was built without S3 (cargo feature s3)")),
            Some((scheme, _)) => Err(Failure::usage(format!("--to: backups cannot be kept in {scheme}://"))),
        }
    }

    /// All that is there.
    pub(crate) async fn listing(&self) -> Result<Listing, Failure> {
        let mut listing = match self {
            Store::Local(local) => local.listing().await?,
            #[cfg(feature = "s3")]
            Store::S3(s3) => s3.listing().await?,
        };
        listing.backups.sort_by(|a, b| (b.finished_at, &b.id).cmp(&(a.finished_at, &a.id)));
        listing.leftovers.sort_by(|a, b| a.id.cmp(&b.id));
        listing.unreadable.sort();
        Ok(listing)
    }

    /// A backup by its id, or the newest for `latest`; of `database` only, if one is named.
    pub(crate) async fn find(&self, which: &str, database: Option<&str>) -> Result<Manifest, Failure> {
        let is_of = |manifest: &Manifest| database.is_none_or(|database| manifest.database == database);
        if which != LATEST {
            let manifest = self.manifest(which).await?;
            return match database {
                Some(database) if !is_of(&manifest) => {
                    Err(Failure::usage(format!("{which} is a backup of {}, not of {database}", manifest.database)))
                }
                _ => Ok(manifest),
            };
        }
        let listing = self.listing().await?;
        let of = database.map(|database| format!(" of {database}")).unwrap_or_default();
        let missing = || Failure::usage(format!("there is no backup{of} in {self}"));
        listing.backups.into_iter().find(is_of).ok_or_else(missing)
    }

    /// The manifest of one backup. That there is no such backup is [`crate::maintenance::exit::Exit::Usage`], that its manifest
    /// is broken [`crate::maintenance::exit::Exit::Unverified`].
    pub(crate) async fn manifest(&self, id: &str) -> Result<Manifest, Failure> {
        if !is_id(id) {
            return Err(Failure::usage(format!("\"{id}\" is no backup's id")).hint("pgweir backup list names them"));
        }
        let text = match self {
            Store::Local(local) => local.manifest(id).await?,
            #[cfg(feature = "s3")]
            Store::S3(s3) => s3.manifest(id).await?,
        };
        Manifest::parse(id, &text.ok_or_else(|| self.missing(id))?)
            .map_err(|why| Failure::unverified(format!("{id}: {why}")))
    }

    fn missing(&self, id: &str) -> Failure {
        Failure::usage(format!("there is no backup {id} in {self}")).hint("pgweir backup list names what there is")
    }

    /// Begins a backup: reserves the id for it, or a similar one if there is such a backup. Until [`Store::finish`] it does not
    /// count.
    #[cfg_attr(not(feature = "s3"), allow(unused_variables, reason = "S3 alone has to know"))]
    pub(crate) async fn begin(&self, id: &str, upload: Option<&Upload>) -> Result<Draft, Failure> {
        for number in 1..1000 {
            let id = if number == 1 { id.to_owned() } else { format!("{id}-{number}") };
            let begun = match self {
                Store::Local(local) => local.begin(&id).await?.then(|| Draft::Local(local.clone(), id)),
                #[cfg(feature = "s3")]
                Store::S3(s3) => s3.begin(&id, upload).await?.map(|draft| Draft::S3(Box::new(draft))),
            };
            if let Some(draft) = begun {
                return Ok(draft);
            }
        }
        Err(Failure::failed(format!("there are too many backups {id} in {self}")))
    }

    /// From here on the backup counts.
    pub(crate) async fn finish(&self, manifest: &Manifest) -> Result<(), Failure> {
        match self {
            Store::Local(local) => local.finish(manifest).await,
            #[cfg(feature = "s3")]
            Store::S3(s3) => s3.finish(manifest).await,
        }
    }

    /// Changes what the manifest says, as it is now: `held`, `verified`.
    pub(crate) async fn change(&self, id: &str, change: impl Fn(&mut Manifest)) -> Result<Manifest, Failure> {
        match self {
            Store::Local(local) => {
                let _locked = local.lock(id).await?;
                let mut manifest = self.manifest(id).await?;
                change(&mut manifest);
                local.finish(&manifest).await?;
                Ok(manifest)
            }
            #[cfg(feature = "s3")]
            Store::S3(s3) => s3.change(id, &change).await?.ok_or_else(|| self.missing(id)),
        }
    }

    /// A file from its beginning.
    pub(crate) async fn read(&self, id: &str, name: &str) -> Result<Reader, Failure> {
        match self {
            Store::Local(local) => Ok(Reader::Local(local.read(id, name).await?)),
            #[cfg(feature = "s3")]
            Store::S3(s3) => Ok(Reader::S3(s3.read(id, name).await?)),
        }
    }

    /// Where a file of a backup is for programs that read it themselves; None: not on this machine.
    pub(crate) fn path(&self, id: &str, name: &str) -> Option<PathBuf> {
        match self {
            Store::Local(local) => Some(local.path(id, name)),
            #[cfg(feature = "s3")]
            Store::S3(_) => None,
        }
    }

    /// Removes a backup, or what is left of one: its manifest first, then everything else. One that is gone is no failure.
    pub(crate) async fn delete(&self, id: &str) -> Result<(), Failure> {
        match self {
            Store::Local(local) => local.delete(id).await,
            #[cfg(feature = "s3")]
            Store::S3(s3) => s3.delete(id).await,
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Store::Local(local) => local.fmt(f),
            #[cfg(feature = "s3")]
            Store::S3(s3) => s3.fmt(f),
        }
    }
}

/// A backup that is being made.
pub(crate) enum Draft {
    /// With its id.
    Local(Local, String),
    #[cfg(feature = "s3")]
    S3(Box<s3::Draft>),
}

impl Draft {
    pub(crate) fn id(&self) -> &str {
        match self {
            Draft::Local(_, id) => id,
            #[cfg(feature = "s3")]
            Draft::S3(draft) => draft.id(),
        }
    }

    /// Says that the backup is still being made.
    pub(crate) async fn touch(&self) -> Result<(), Failure> {
        match self {
            Draft::Local(local, id) => local.touch(id).await,
            #[cfg(feature = "s3")]
            Draft::S3(draft) => draft.touch().await,
        }
    }

    /// A new file, of about so many bytes.
    #[cfg_attr(not(feature = "s3"), allow(unused_variables, reason = "S3 alone has to know"))]
    pub(crate) async fn write(&self, name: &str, expected: u64) -> Result<Writer, Failure> {
        match self {
            Draft::Local(local, id) => Ok(Writer::Local(local.write(id, name).await?)),
            #[cfg(feature = "s3")]
            Draft::S3(draft) => Ok(Writer::S3(Box::new(draft.write(name, expected).await?))),
        }
    }
}

/// A file that is being written. One that is dropped unfinished is removed with its backup.
pub(crate) enum Writer {
    Local(local::Writer),
    #[cfg(feature = "s3")]
    S3(Box<s3::Writer>),
}

impl Writer {
    pub(crate) async fn write(&mut self, bytes: &Bytes) -> Result<(), Failure> {
        match self {
            Writer::Local(writer) => writer.write(bytes).await,
            #[cfg(feature = "s3")]
            Writer::S3(writer) => writer.write(bytes).await,
        }
    }

    /// All of it is there and stays there.
    pub(crate) async fn finish(self) -> Result<(), Failure> {
        match self {
            Writer::Local(writer) => writer.finish().await,
            #[cfg(feature = "s3")]
            Writer::S3(writer) => writer.finish().await,
        }
    }
}

/// A file that is being read.
pub(crate) enum Reader {
    Local(local::Reader),
    #[cfg(feature = "s3")]
    S3(s3::Reader),
}

impl Reader {
    /// What comes next, of any size but 0; None: that was all.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self {
            Reader::Local(reader) => reader.next().await,
            #[cfg(feature = "s3")]
            Reader::S3(reader) => reader.next().await,
        }
    }
}
