//! `pgweir restore`: a backup comes back as a new database, which may then take the old one's place, or over an existing one.

mod content;
mod globals;
mod in_place;
mod options;
mod selection;

use std::time::{Duration, Instant};

pub(super) use content::{Compared, compare, smoke};
pub(crate) use options::RestoreOptions;
pub(super) use selection::Selection;

use super::backup;
use super::backup::archive::{Archive, How};
use super::backup::loading::Note;
use super::backup::manifest::{DumpFormat, Manifest};
use super::backup::store::Store;
use super::conninfo::Conninfo;
use super::databases::{self, Facts};
use super::exit::{Done, Exit, Failure};
use super::job::Job;
use super::lock::JobLock;
use super::options::Limits;
use super::progress::Counted;
use super::rows::row;
use super::server::Server;
use super::sql::{ident, literal};
use super::swap::Swap;

/// Between two looks at a database's size.
const GROWTH_EVERY: Duration = Duration::from_secs(1);

row! {
    /// What has come of it.
    Restored {
        backup: String,
        /// Where it is now.
        database: String,
        /// The name of the database whose place it took; None: it took nobody's.
        replaced: Option<String>,
        /// Whose rows were counted; None: the backup says nothing of rows.
        tables: Option<i64>,
        rows: Option<i64>,
        /// Whether the counts are the backup's; None: there was nothing to compare.
        counts_equal: Option<bool>,
        smoke: String,
        /// Until it was checked, without a swap.
        restored_s: f64,
    }
}

/// What the parts of a restore share.
struct Restore<'a> {
    job: &'a Job,
    options: &'a RestoreOptions,
    dump: Archive<'a>,
    selection: Selection,
    begun: Instant,
}

pub(crate) async fn restore(job: &Job, options: &RestoreOptions) -> Done {
    if options.how.swap_only {
        return swap_only(job, options).await;
    }
    let store = Store::open(&options.place).await?;
    let Some(which) = &options.backup else {
        job.say("name one of these backups, or latest:");
        return backup::list_all(job, &store, options.of.as_deref()).await;
    };
    let named = dsn_database(options)?;
    let manifest = backup::usable(job, &store, which, options.of.as_deref(), &named).await?;
    let selection = Selection { tables: options.what.table.clone(), schemas: options.what.schema.clone() };
    let server = if options.how.in_place {
        job.connect(&options.target, options.limits()).await?
    } else {
        maintenance(job, options).await?
    };
    let dump = Archive::open(&store, &manifest, options.how.pg_bin.as_deref(), Some(server.version)).await?;
    let restore = Restore { job, options, dump, selection, begun: Instant::now() };
    restore.check(&server).await?;
    if options.how.in_place { restore.in_place(&server).await } else { restore.as_new(&server).await }
}

/// A session in a database that is neither made nor renamed.
async fn maintenance(job: &Job, options: &RestoreOptions) -> Result<Server, Failure> {
    let conninfo = options.target.conninfo()?.with_dbname(&options.maintenance_db);
    let server = job.connect_to(&conninfo, options.limits()).await.map_err(|failure| match failure.sqlstate {
        Some(tokio_postgres::error::SqlState::INVALID_CATALOG_NAME) => {
            failure.hint("--maintenance-db names another database of the server")
        }
        _ => failure,
    })?;
    job.say(format!(
        "server at {} as {}, PostgreSQL {}; lock_timeout {}, statement_timeout none",
        server.address, server.conninfo.user, server.version, options.lock_timeout
    ));
    Ok(server)
}

/// The database that `--dsn` names, which is the one to be replaced.
fn dsn_database(options: &RestoreOptions) -> Result<String, Failure> {
    Ok(options.target.conninfo()?.dbname)
}

impl Restore<'_> {
    fn manifest(&self) -> &Manifest {
        self.dump.manifest
    }

    fn is_streamed(&self) -> bool {
        self.dump.is_streamed(self.options.how.jobs)
    }

    /// What cannot go well is told before anything is done.
    async fn check(&self, server: &Server) -> Result<(), Failure> {
        let (manifest, id) = (self.manifest(), &self.manifest().id);
        if manifest.format == DumpFormat::Plain {
            let flags = [
                (!self.selection.is_all(), "--table and --schema"),
                (self.options.how.in_place, "--in-place"),
                (self.options.what.no_owner || self.options.what.no_privileges, "--no-owner and --no-privileges"),
            ];
            if let Some((_, flag)) = flags.iter().find(|(is_wanted, _)| *is_wanted) {
                return Err(Failure::refused(format!("{id} is a plain dump, for which there is no {flag}"))
                    .hint("it can be restored into a new database as it is"));
            }
        }
        if self.options.how.in_place && !self.selection.is_all() {
            return Err(Failure::refused("single tables are not restored over existing ones, which others refer to")
                .hint("restore them by --into into a new database, and copy the rows that are wanted"));
        }
        if self.options.what.globals && manifest.globals.is_none() {
            return Err(Failure::refused(format!("{id} was made without roles and tablespaces")));
        }
        if manifest.server_version_num / 10_000 > server.version.major() {
            let (from, to) = (&manifest.server_version, server.version);
            self.job.warn(format!("{id} is of PostgreSQL {from}, which is newer than {to}: it may not fit"));
        }
        Ok(())
    }

    async fn as_new(&self, server: &Server) -> Done {
        let (job, how, manifest) = (self.job, &self.options.how, self.manifest());
        let name = how.into.clone().unwrap_or_else(|| default_name(manifest));
        refuse_existing(server, &name).await?;
        if !databases::may_create(server).await? {
            let user = &server.conninfo.user;
            return Err(Failure::refused(format!("{user} may not make databases"))
                .hint(format!("ALTER ROLE {} CREATEDB", ident(user))));
        }
        let old = dsn_database(self.options)?;
        let swap = Swap { target: &self.options.target, options: self.options.swap, server, old: &old, new: &name };
        let mut locks = Vec::new();
        let mut what = format!("restore {} of {} into the new database {name}", manifest.id, manifest.database);
        if how.swap {
            swap.check(job).await?;
            what += &format!(" and put it in place of {old}");
        }
        job.confirm(&what, "RESTORE").await?;
        if how.swap {
            locks.extend(lock(job, server, &old).await?);
        }
        let restored = self.make(server, &name, &old).await?;
        let Some((mut row, lock)) = restored else {
            if how.swap {
                swap.run(job, Vec::new()).await?;
            }
            return Ok(Exit::Fine);
        };
        locks.extend(lock);
        if how.swap {
            let swapped = swap.run(job, locks).await;
            let replaced = swapped.map_err(|failure| {
                let hint =
                    format!("{name} is restored and stays: pgweir restore --swap-only --into {name} tries again");
                let hint = failure.hint.iter().cloned().chain([hint]).collect::<Vec<_>>().join("\n");
                Failure { exit: Exit::Partly, hint: Some(hint), ..failure }
            })?;
            tell_replaced(job, &old, &replaced);
            row = Restored { database: old, replaced: Some(replaced), ..row };
        }
        job.out.one(&row)?;
        Ok(Exit::Fine)
    }

    /// Makes the database and checks it. None: a dry run.
    async fn make(
        &self,
        server: &Server,
        name: &str,
        old: &str,
    ) -> Result<Option<(Restored, Option<JobLock>)>, Failure> {
        let (job, how) = (self.job, &self.options.how);
        if self.options.what.globals {
            self.globals(server).await?;
        }
        let facts = facts(server, self.manifest()).await?;
        let tablespace = match &how.tablespace {
            None if how.swap => Some(databases::tablespace(server, old).await?),
            named => named.clone(),
        };
        let undo = databases::create(job, server, name, facts.as_ref(), tablespace.as_deref()).await?;
        let unfinished = format!("pgweir: restore of {} is not finished", self.manifest().id);
        comment(job, server, name, Some(&unfinished)).await?;
        let Some(undo) = undo else {
            job.step(&format!("{} restores {} into {}", self.dump.program_name(), self.manifest().id, ident(name)))?;
            job.step(&format!("in {}: ANALYZE, compare the rows of tables, run the smoke query", ident(name)))?;
            return Ok(None);
        };
        let done = async {
            let new = job.connect_to(&server.here().with_dbname(name), self.options.limits()).await?;
            let lock = JobLock::take(job, &new).await?;
            self.load(&new, false, grows(job, server, name, self.is_streamed())).await?;
            Ok::<_, Failure>((new, lock))
        };
        let (new, lock) = match done.await {
            Ok(done) => done,
            Err(failure) if how.keep => {
                undo.dismiss();
                return Err(failure.while_at(format!("{name} is not complete, and is kept")));
            }
            Err(failure) => {
                undo.now().await?;
                return Err(failure);
            }
        };
        // From here on there is something that may be of use: whoever looks at it decides.
        undo.dismiss();
        let kept = |failure: Failure| match failure.exit {
            Exit::Unverified => {
                failure.hint(format!("{name} is kept to be looked at; to remove it: DROP DATABASE {}", ident(name)))
            }
            _ => failure.while_at(format!("{name} is restored, but not checked")),
        };
        let row = self.checked(&new).await.map_err(kept)?;
        comment(job, server, name, None).await?;
        Ok(Some((row, lock)))
    }

    /// Runs the program that restores, with what belongs to it.
    async fn load(&self, new: &Server, replaces: bool, watch: impl Future<Output = Failure>) -> Result<(), Failure> {
        let (how, what) = (&self.options.how, &self.options.what);
        let list = match self.selection.is_all() {
            true => None,
            false => {
                let list = self.dump.list(self.job).await?;
                let known = self.manifest().rows.as_deref().unwrap_or_default();
                let (text, tables) = self.selection.filter(&list, known)?;
                self.job.say(format!("rows of {tables} tables"));
                Some(Note::create("selection", &text)?)
            }
        };
        let how = How {
            jobs: how.jobs,
            replaces,
            no_owner: what.no_owner,
            no_privileges: what.no_privileges,
            work_dir: how.work_dir.clone(),
        };
        self.dump.load(self.job, new, &how, list.as_ref(), watch).await
    }

    /// Makes statistics, compares the counts, runs the smoke query.
    async fn checked(&self, new: &Server) -> Result<Restored, Failure> {
        let (job, id) = (self.job, &self.manifest().id);
        job.say(format!("{}: ANALYZE", new.conninfo.dbname));
        job.change(new, "ANALYZE").await?;
        let compared = compare(job, new, self.manifest(), &self.selection).await?;
        if !compared.differences.is_empty() {
            job.out.rows(&compared.differences, "")?;
            let tables = compared.differences.len();
            return Err(Failure::unverified(format!("{tables} tables do not have the rows that {id} says they had")));
        }
        let smoke = smoke(job, new, self.options.what.smoke.as_deref()).await?;
        let Compared { tables, rows, .. } = compared;
        Ok(Restored {
            backup: id.clone(),
            database: new.conninfo.dbname.clone(),
            replaced: None,
            tables: tables.and_then(|tables| i64::try_from(tables).ok()),
            rows: tables.map(|_| rows),
            counts_equal: tables.map(|_| true),
            smoke,
            restored_s: self.begun.elapsed().as_secs_f64(),
        })
    }
}

/// `app_restored_20261121T091814Z`
fn default_name(manifest: &Manifest) -> String {
    let stamp = manifest.finished_at.strftime("_restored_%Y%m%dT%H%M%SZ").to_string();
    databases::name_with(&manifest.database, &stamp)
}

async fn refuse_existing(server: &Server, name: &str) -> Result<(), Failure> {
    if name.is_empty() || name.len() > databases::NAME_BYTES {
        return Err(Failure::usage(format!("\"{name}\" cannot be a database's name")));
    }
    if !databases::exists(server, name).await? {
        return Ok(());
    }
    let note: Option<String> = server
        .value("select shobj_description(oid, 'pg_database') from pg_database where datname = $1", &[&name])
        .await?;
    let hint = match note.filter(|note| note.starts_with("pgweir: restore of ")) {
        Some(note) => format!("\"{note}\"; to remove it: DROP DATABASE {}", ident(name)),
        None => {
            "name another one by --into; --swap puts it in the old one's place, --in-place restores over it".to_owned()
        }
    };
    Err(Failure::refused(format!("there is a database {name} already")).hint(hint))
}

/// What the new database is made with: what the backup says, or what the database of that name has if there is one.
pub(super) async fn facts(server: &Server, manifest: &Manifest) -> Result<Option<Facts>, Failure> {
    match &manifest.made_with {
        Some(facts) => Ok(Some(facts.clone())),
        None => Facts::of(server, &manifest.database).await,
    }
}

async fn comment(job: &Job, server: &Server, name: &str, text: Option<&str>) -> Result<(), Failure> {
    let text = text.map_or_else(|| "NULL".to_owned(), literal);
    job.change(server, &format!("COMMENT ON DATABASE {} IS {text}", ident(name))).await.map(|_| ())
}

/// The lock of a database, by a session in it that is closed again.
async fn lock(job: &Job, server: &Server, database: &str) -> Result<Option<JobLock>, Failure> {
    let conninfo: Conninfo = server.here().with_dbname(database);
    JobLock::take(job, &job.connect_to(&conninfo, Limits::NONE).await?).await
}

/// Shows how the database grows, if it is not shown how the dump is read. Nobody knows how large it will be.
async fn grows(job: &Job, server: &Server, name: &str, is_streamed: bool) -> Failure {
    if is_streamed {
        return std::future::pending().await;
    }
    let progress = job.progress(format!("restoring {name}"), Counted::Bytes, None);
    loop {
        match server.value::<i64>("select pg_database_size($1::name)", &[&name]).await {
            Ok(bytes) => progress.at(bytes.unsigned_abs()),
            Err(failure) => return failure,
        }
        if let Err(failure) = job.interrupt.sleep(GROWTH_EVERY).await {
            return failure;
        }
    }
}

fn tell_replaced(job: &Job, old: &str, replaced: &str) {
    job.say(format!(
        "the database that was {old} is now {replaced}; to go back, with the same --dsn and --config: \
         pgweir restore --swap-only --into {replaced}; \
         to remove it: DROP DATABASE {}",
        ident(replaced)
    ));
}

row! {
    /// What has come of a swap alone.
    Swapped {
        database: String,
        replaced: String,
    }
}

async fn swap_only(job: &Job, options: &RestoreOptions) -> Done {
    let (Some(new), old) = (&options.how.into, dsn_database(options)?) else {
        return Err(Failure::usage("--swap-only needs --into"));
    };
    let server = maintenance(job, options).await?;
    if !databases::exists(&server, new).await? {
        return Err(Failure::refused(format!("there is no database {new}")));
    }
    let swap = Swap { target: &options.target, options: options.swap, server: &server, old: &old, new };
    swap.check(job).await?;
    job.confirm(&format!("put {new} in place of {old}"), "SWAP").await?;
    let mut locks = Vec::new();
    for name in [&old, new] {
        locks.extend(lock(job, &server, name).await?);
    }
    let replaced = swap.run(job, locks).await?;
    if job.is_dry_run() {
        return Ok(Exit::Fine);
    }
    tell_replaced(job, &old, &replaced);
    job.out.one(&Swapped { database: old, replaced })?;
    Ok(Exit::Fine)
}
