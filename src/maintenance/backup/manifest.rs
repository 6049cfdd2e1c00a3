//! What is known of a backup: written last, so that a backup without one never counts.

use std::path::{Component, Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::maintenance::databases::Facts;

/// The version of the manifest's own format. One that is newer is refused, not misread.
const MANIFEST_VERSION: u32 = 1;

/// The form of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DumpFormat {
    /// One compressed file, of which parts can be restored
    #[default]
    Custom,
    /// A directory with a file per table, dumped by several jobs
    Directory,
    /// SQL for psql
    Plain,
}

impl DumpFormat {
    /// The dump's name in the backup: of its file, or of its directory.
    pub(crate) fn data(self) -> &'static str {
        match self {
            DumpFormat::Custom => "data.dump",
            DumpFormat::Directory => "data",
            DumpFormat::Plain => "data.sql",
        }
    }
}

/// What was dumped, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DumpOptions {
    pub(crate) schema_only: bool,
    /// Patterns of pg_dump's --table; empty: all tables.
    pub(crate) tables: Vec<String>,
    /// Patterns of pg_dump's --exclude-table.
    pub(crate) excluded: Vec<String>,
    /// Rows are INSERT statements instead of COPY.
    pub(crate) inserts: bool,
    /// As pg_dump's --compress takes it; None: pg_dump's default.
    pub(crate) compress: Option<String>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    /// Below the backup's own directory, with slashes: `data.dump`, `data/toc.dat`.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// In hexadecimal.
    pub(crate) sha256: String,
}

/// How many rows a table had in the snapshot that was dumped. A partitioned table has none of its own, and is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableRows {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) rows: i64,
}

/// How a backup was verified last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// `checksum`, `full`, `restore`, `amcheck`
    pub(crate) level: String,
    pub(crate) at: Timestamp,
}

/// How S3 keeps the files. The manifest itself is always in the standard class, so that it can be read at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Upload {
    /// `STANDARD_IA`; None: the bucket's default.
    pub(crate) storage_class: Option<String>,
    pub(crate) sse: Option<Encryption>,
    /// For [`Encryption::Kms`]; None: the account's key for S3.
    pub(crate) kms_key: Option<String>,
}

/// Encryption by the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encryption {
    /// With keys of S3's own (SSE-S3, AES256)
    S3,
    /// With a key of KMS (SSE-KMS)
    Kms,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) manifest_version: u32,
    pub(crate) id: String,
    pub(crate) database: String,
    /// `15.4`
    pub(crate) server_version: String,
    /// `150004`
    pub(crate) server_version_num: i32,
    /// `15.4`; whoever restores needs a pg_restore that is not older.
    pub(crate) pg_dump_version: String,
    pub(crate) format: DumpFormat,
    pub(crate) options: DumpOptions,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Timestamp,
    /// Of all files together.
    pub(crate) bytes: u64,
    /// Of the dump's file; of a directory, that of the lines `SHA256  NAME` of its files by name, as sha256sum prints them.
    pub(crate) sha256: String,
    /// Sorted by name.
    pub(crate) files: Vec<File>,
    /// Sorted by schema and name; None: they were not counted.
    pub(crate) rows: Option<Vec<TableRows>>,
    /// The file of `files` with roles and tablespaces; None: they were not dumped.
    pub(crate) globals: Option<String>,
    pub(crate) upload: Option<Upload>,
    /// None: never, or not successfully.
    pub(crate) verified: Option<Verified>,
    /// The verification that has found it broken; None: none did, or one of that level has succeeded since.
    #[serde(default)]
    pub(crate) failed: Option<Verified>,
    /// What the database was made with; None: nobody looked.
    #[serde(default)]
    pub(crate) made_with: Option<Facts>,
    /// Never pruned.
    pub(crate) held: bool,
}

impl Manifest {
    pub(crate) const VERSION: u32 = MANIFEST_VERSION;

    /// The manifest of the backup `id`, which somebody may have edited.
    pub(crate) fn parse(id: &str, text: &[u8]) -> Result<Manifest, String> {
        let about: Version = serde_json::from_slice(text).map_err(|e| format!("its manifest is broken: {e}"))?;
        let version = about.manifest_version;
        if version != MANIFEST_VERSION {
            return Err(format!("its manifest has version {version}, this program knows {MANIFEST_VERSION}"));
        }
        let manifest: Manifest = serde_json::from_slice(text).map_err(|e| format!("its manifest is broken: {e}"))?;
        if manifest.id != id {
            return Err(format!("its manifest is that of {}", manifest.id));
        }
        match manifest.files.iter().map(|file| &file.name).chain(&manifest.globals).find(|name| !is_below(name)) {
            Some(name) => Err(format!("its manifest names a file elsewhere: {name:?}")),
            None => Ok(manifest),
        }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        // Strings and numbers only: nothing that JSON could not hold.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// The files that the dump itself has.
    pub(crate) fn data_files(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| self.globals.as_ref() != Some(&file.name))
    }
}

#[derive(Deserialize)]
struct Version {
    manifest_version: u32,
}

fn is_below(name: &str) -> bool {
    let is_plain = |component| matches!(component, Component::Normal(_));
    !name.is_empty() && Path::new(name).components().all(is_plain)
}

/// What may be the name of a backup.
pub(crate) fn is_id(text: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !text.is_empty() && text.len() <= 200 && text.chars().all(is_safe)
}

/// `app-20261121T091814Z`; what is unusual in a database's name is `_` here.
pub(crate) fn new_id(database: &str, at: Timestamp) -> String {
    let safe: String = database.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    format!("{safe}-{}", at.strftime("%Y%m%dT%H%M%SZ"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::maintenance::backup) fn sample(database: &str, at: &str) -> Manifest {
        let at: Timestamp = at.parse().unwrap();
        Manifest {
            manifest_version: MANIFEST_VERSION,
            id: new_id(database, at),
            database: database.to_owned(),
            server_version: "15.4".to_owned(),
            server_version_num: 150_004,
            pg_dump_version: "15.4".to_owned(),
            format: DumpFormat::Custom,
            options: DumpOptions::default(),
            started_at: at,
            finished_at: at,
            bytes: 3,
            sha256: "ab".to_owned(),
            files: vec![File { name: "data.dump".to_owned(), bytes: 3, sha256: "ab".to_owned() }],
            rows: Some(vec![TableRows { schema: "public".to_owned(), name: "t".to_owned(), rows: 7 }]),
            globals: None,
            upload: None,
            verified: None,
            failed: None,
            made_with: None,
            held: false,
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = sample("app", "2026-11-21T09:18:14Z");
        assert_eq!(manifest.id, "app-20261121T091814Z");
        let text = manifest.to_json();
        assert_eq!(Manifest::parse(&manifest.id, &text), Ok(manifest.clone()));
        assert!(Manifest::parse("other", &text).is_err());
        assert!(Manifest::parse(&manifest.id, &text[..text.len() / 2]).is_err());
        for (from, to) in [("\"manifest_version\": 1", "\"manifest_version\": 2"), ("\"data.dump\"", "\"../x\"")] {
            let edited = String::from_utf8(text.clone()).unwrap().replace(from, to);
            assert!(Manifest::parse(&manifest.id, edited.as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn unusual_names_make_safe_ids() {
        let at = "2026-11-21T09:18:14.5Z".parse().unwrap();
        assert_eq!(new_id("a b/../ü\"", at), "a_b______-20261121T091814Z");
        assert!(is_id(&new_id("a b/../ü\"", at)) && is_id(&new_id(&"x".repeat(63), at)));
        for text in ["", ".", "..", "a/b", "a b"] {
            assert!(!is_id(text), "{text}");
        }
    }
}
