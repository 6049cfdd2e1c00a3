//! What has been run when, where and how it ended: a line of JSON each.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MigrationRow;
use crate::process::kept;

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    /// When it ended.
    at: String,
    server: &'a str,
    #[serde(flatten)]
    row: &'a MigrationRow,
}

/// As much of a line as tells whether a file has been run.
#[derive(Deserialize)]
struct Known {
    at: String,
    server: String,
    database: String,
    sha256: String,
    outcome: String,
}

/// The file; None: there is no home, and none was named.
pub(super) fn file(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| Some(kept::default_dir()?.join("migrations.jsonl")))
}

/// When the same file was run whole on this database before.
pub(super) fn ran_before(journal: &Path, server: &str, database: &str, sha256: &str) -> Option<String> {
    let lines = BufReader::new(fs::File::open(journal).ok()?).lines().map_while(Result::ok);
    // Lines of others are none of ours.
    let known = lines.filter_map(|line| serde_json::from_str::<Known>(&line).ok());
    let same = known.filter(|known| known.server == server && known.database == database && known.sha256 == sha256);
    same.filter(|known| known.outcome == "done").last().map(|known| known.at)
}

pub(super) fn note(journal: &Path, server: &str, at: String, row: &MigrationRow) -> io::Result<()> {
    if let Some(dir) = journal.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir)?;
    }
    let mut line = serde_json::to_vec(&Line { at, server, row })?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(journal)?;
    file.write_all(&line)
}
