//! Roles and tablespaces, which belong to the server and not to a database.

use super::Restore;
use crate::maintenance::backup::archive::major_of;
use crate::maintenance::backup::loading::{self, Input, Note};
use crate::maintenance::backup::reading::Checked;
use crate::maintenance::conninfo::child::Passfile;
use crate::maintenance::exit::Failure;
use crate::maintenance::programs;
use crate::maintenance::progress::Counted;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

/// A dump of them is read as a whole.
const GLOBALS_BYTES: u64 = 16 << 20;

row! {
    RoleName {
        name: String,
    }
}

impl Restore<'_> {
    /// Roles that exist keep their passwords and attributes.
    pub(super) async fn globals(&self, server: &Server) -> Result<(), Failure> {
        let (job, manifest) = (self.job, self.manifest());
        let file = manifest.files.iter().find(|file| manifest.globals.as_ref() == Some(&file.name));
        let Some(file) = file else { return Ok(()) };
        if !job.step(&format!("psql makes the roles and tablespaces of {}", manifest.id))? {
            return Ok(());
        }
        let text = Checked::open(self.dump.store, &manifest.id, file).await?.whole(GLOBALS_BYTES).await?;
        let there: Vec<RoleName> = server.rows("select quote_ident(rolname)::text as name from pg_roles", &[]).await?;
        let is_of_existing = |line: &str| {
            let role = ["CREATE ROLE ", "ALTER ROLE "].iter().find_map(|words| line.strip_prefix(words));
            role.is_some_and(|rest| {
                let is_name = |role: &RoleName| {
                    rest.strip_prefix(role.name.as_str()).is_some_and(|rest| rest.starts_with([' ', ';']))
                };
                there.iter().any(is_name)
            })
        };
        let text = String::from_utf8_lossy(&text);
        let wanted: String = text.lines().filter(|line| !is_of_existing(line)).flat_map(|line| [line, "\n"]).collect();
        let note = Note::create("globals", &wanted)?;
        let major = major_of(&manifest.pg_dump_version);
        let program = programs::find("psql", major, self.options.how.pg_bin.as_deref()).await?;
        let passfile = Passfile::create(&server.conninfo)
            .map_err(|e| Failure::failed(format!("could not write a password file: {e}")))?;
        let mut command = programs::command(&program.path, job, server, passfile.as_ref());
        command.args(["-X", "-q", "-f"]).arg(note.path());
        let progress = job.progress("roles and tablespaces", Counted::Bytes, None);
        let mut input = Input::Path(note.path().to_owned());
        let said = loading::run(job, "psql", command, &mut input, &progress, std::future::pending()).await?;
        for line in said.lines().filter(|line| line.contains("ERROR:") && !line.contains("already exists")) {
            job.warn(format!("roles and tablespaces: {line}"));
        }
        Ok(())
    }
}
