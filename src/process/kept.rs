//! What is kept between runs, in files.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The directory where this user's programs keep such things. None: there is no home.
pub(crate) fn default_dir() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let dir = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|home| home.join(".local/state")))?;
    Some(dir.join("pgweir"))
}

/// Writes a file such that nobody ever sees half of it.
pub(crate) fn write_whole(file: &Path, content: &[u8]) -> io::Result<()> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    // Beside it, so that it can be renamed; node_exporter reads only what ends in .prom.
    let new = dir.join(format!(".{name}.{}", std::process::id()));
    let mut options = OpenOptions::new();
    let written = options.write(true).create(true).truncate(true).mode(0o644).open(&new).and_then(|mut opened| {
        opened.write_all(content)?;
        opened.sync_all()?;
        fs::rename(&new, file)
    });
    if written.is_err() {
        // It may not have been made.
        let _ = fs::remove_file(&new);
    }
    written
}
