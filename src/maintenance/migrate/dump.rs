//! The schema as it was before, by pg_dump.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use jiff::Timestamp;

use super::MigrateOptions;
use crate::maintenance::conninfo::child::Passfile;
use crate::maintenance::exit::Failure;
use crate::maintenance::job::Job;
use crate::maintenance::programs::{self, Program};
use crate::maintenance::server::Server;
use crate::process::kept;

/// A dump that is to be made: everything that can be wrong with it is known before.
pub(super) struct Dump {
    program: Program,
    file: PathBuf,
}

impl Dump {
    /// None: it is not wanted.
    pub(super) async fn prepare(
        server: &Server,
        options: &MigrateOptions,
        now: Timestamp,
    ) -> Result<Option<Dump>, Failure> {
        if options.no_backup {
            return Ok(None);
        }
        let without = "or go without by --no-backup";
        let default = kept::default_dir().map(|dir| dir.join("migrations"));
        let dir = options.backup_dir.clone().or(default).ok_or_else(|| {
            Failure::usage("there is no home directory for the schema backup")
                .hint(format!("name a place by --backup-dir, {without}"))
        })?;
        let found = programs::find("pg_dump", server.version.major(), options.pg_bin.as_deref()).await;
        let program = found.map_err(|failure| {
            let hint = failure.hint.clone().map_or_else(|| without.to_owned(), |hint| format!("{hint}, {without}"));
            Failure::refused(failure.message).hint(hint)
        })?;
        let file = dir.join(file_name(&server.conninfo.dbname, &options.file, now));
        Ok(Some(Dump { program, file }))
    }

    pub(super) fn line(&self) -> String {
        format!("{} --schema-only > {}", self.program.path.display(), self.file.display())
    }

    /// Makes it, or leaves nothing behind.
    pub(super) async fn make(&self, job: &Job, server: &Server, options: &MigrateOptions) -> Result<String, Failure> {
        let failed = |what: &dyn std::fmt::Display| {
            Failure::failed(format!("schema backup {}: {what}", self.file.display()))
                .hint("nothing was run; --backup-dir names another place, --no-backup goes without")
        };
        let dir = self.file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        let partial = self.file.with_extension("partial");
        let passfile = Passfile::create(&server.conninfo).map_err(|e| failed(&e))?;
        let to_remove = partial.clone();
        let undo = job.cleanup.later(format!("remove {}", partial.display()), async move {
            // It may not have been made.
            let _ = fs::remove_file(to_remove);
            Ok(())
        });
        let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(|e| failed(&e))?;
        let mut command = programs::command(&self.program.path, job, server, passfile.as_ref());
        command.args(["--schema-only", "--no-password"]);
        let limit = options.limits.lock_timeout.millis();
        if limit > 0 {
            command.arg(format!("--lock-wait-timeout={limit}"));
        }
        let kept = out.try_clone().map_err(|e| failed(&e))?;
        let child = command.stdout(out).stderr(Stdio::piped()).spawn().map_err(|e| failed(&e))?;
        let ended = job.interrupt.or(child.wait_with_output()).await?.map_err(|e| failed(&e))?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr);
            return Err(failed(&format!("pg_dump: {}, {}", ended.status, said.trim())));
        }
        kept.sync_all().and_then(|()| fs::rename(&partial, &self.file)).map_err(|e| failed(&e))?;
        undo.dismiss();
        job.say(format!("schema saved to {}", self.file.display()));
        Ok(self.file.display().to_string())
    }
}

/// `app-0042_add_index-20260102T030405Z.sql`, of harmless characters only.
fn file_name(database: &str, file: &Path, now: Timestamp) -> String {
    let harmless = |text: &str| -> String {
        text.chars().map(|c| if c.is_alphanumeric() || "_-".contains(c) { c } else { '_' }).take(60).collect()
    };
    let stem = file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    format!("{}-{}-{}.sql", harmless(database), harmless(&stem), now.strftime("%Y%m%dT%H%M%SZ"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_harmless() {
        let now = Timestamp::from_second(1_767_322_800).unwrap();
        let name = |database, file| file_name(database, Path::new(file), now);
        assert_eq!(name("app", "/m/0042_add.sql"), "app-0042_add-20260102T030000Z.sql");
        assert_eq!(name("../My \"DB\" ä", "x y.sql"), "___My__DB__ä-x_y-20260102T030000Z.sql");
    }
}
