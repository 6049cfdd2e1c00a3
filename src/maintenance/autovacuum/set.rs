//! `autovacuum set` and `undo`: a table's own settings, with what was there before kept in the database, so that whoever undoes
//! it, from wherever, finds it, and so that both change at once or not at all.

use super::keys::{Assignment, KEYS};
use super::{SetOptions, UndoOptions};
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::lock::JobLock;
use crate::maintenance::relations::{Relation, leaves, named, relations};
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::literal;

row! {
    /// One setting of one table.
    SetRow {
        table: String,
        setting: String,
        /// None: the server's counted.
        before: Option<String>,
        /// None: the server's counts.
        after: Option<String>,
        /// done, or failed and why.
        result: String,
    }
}

row! {
    /// A setting of a table, or of its TOAST table with toast. in front.
    Own {
        setting: String,
        value: Option<String>,
    }
}

pub(crate) async fn set(job: &Job, options: &SetOptions) -> Done {
    let mut wanted: Vec<Assignment> = Vec::new();
    for text in &options.settings {
        let assignment = Assignment::parse(text)?;
        if wanted.iter().any(|other| other.name() == assignment.name()) {
            return Err(Failure::usage(format!("{} is given twice", assignment.name())));
        }
        wanted.push(assignment);
    }
    let server = job.connect(&options.target, options.limits).await?;
    wanted.iter().try_for_each(|assignment| assignment.check_version(server.version))?;
    let _lock = JobLock::take(job, &server).await?;
    let tables = tables(&server, &options.table).await?;
    let mut rows = Vec::new();
    for table in &tables {
        let own = own(&server, table).await?;
        let remembered = if options.no_undo { Vec::new() } else { remembering(&server, table, &wanted, &own).await? };
        let has_toast: bool =
            server.value("select reltoastrelid <> 0 from pg_class where oid = $1", &[&table.oid]).await?;
        // The server would take it, and forget it.
        let result = match wanted.iter().any(|assignment| assignment.is_toast) && !has_toast {
            true => Err(Failure::failed("it has no TOAST table")),
            false => apply(job, &server, table, &wanted, remembered).await,
        };
        rows.extend(result_rows(job, table, &wanted, &own, result)?);
    }
    ended(job, &rows)
}

pub(crate) async fn undo(job: &Job, options: &UndoOptions) -> Done {
    let server = job.connect(&options.target, options.limits).await?;
    let _lock = JobLock::take(job, &server).await?;
    let tables = tables(&server, &options.table).await?;
    let before = remembered(&server, &tables).await?;
    // Of several tables, those go back that are known; what others were given by hand is not for us to take.
    let knows_any = before.iter().any(|before| !before.is_empty());
    let mut rows = Vec::new();
    for (table, before) in tables.iter().zip(&before) {
        let own = own(&server, table).await?;
        let wanted = if knows_any { assignments(before)? } else { resets(job, table, &own).await? };
        if wanted.is_empty() {
            continue;
        }
        let forget = format!(
            "DELETE FROM pgweir.autovacuum_before WHERE schema_name = {} AND table_name = {}",
            literal(&table.schema),
            literal(&table.name)
        );
        let forget = if knows_any { vec![forget] } else { Vec::new() };
        let result = apply(job, &server, table, &wanted, forget).await;
        rows.extend(result_rows(job, table, &wanted, &own, result)?);
    }
    ended(job, &rows)
}

/// What was remembered, checked as if a user had written it.
fn assignments(before: &[Own]) -> Result<Vec<Assignment>, Failure> {
    before.iter().map(|own| Assignment::of(&own.setting, own.value.as_deref())).collect()
}

/// With nothing remembered, all of a table's own settings for autovacuum go, if the user wants it so.
async fn resets(job: &Job, table: &Relation, own: &[Own]) -> Result<Vec<Assignment>, Failure> {
    let is_known = |own: &&Own| KEYS.iter().any(|key| own.setting.trim_start_matches("toast.") == key.name);
    let resets: Vec<Assignment> =
        own.iter().filter(is_known).map(|own| Assignment::of(&own.setting, None)).collect::<Result<_, _>>()?;
    if !resets.is_empty() {
        let names: Vec<String> = resets.iter().map(Assignment::name).collect();
        let what = format!("reset {} of {}, of which nothing older is remembered", names.join(", "), table.shown());
        job.confirm(&what, "RESET").await?;
    }
    Ok(resets)
}

async fn tables(server: &Server, name: &str) -> Result<Vec<Relation>, Failure> {
    let all = relations(server, None).await?;
    let tables: Vec<Relation> = leaves(&all, &named(&all, &[name.to_owned()])?)
        .into_iter()
        .filter(|table| table.kind != "f")
        .cloned()
        .collect();
    if tables.is_empty() {
        return Err(Failure::usage(format!("{name} has no rows of its own for autovacuum to look after")));
    }
    Ok(tables)
}

async fn own(server: &Server, table: &Relation) -> Result<Vec<Own>, Failure> {
    server.rows(OWN, &[&table.oid]).await
}

const OWN: &str = "
    select option_name as setting, option_value as value
    from pg_class c, pg_options_to_table(c.reloptions) where c.oid = $1
    union all
    select 'toast.' || option_name, option_value
    from pg_class c join pg_class t on t.oid = c.reltoastrelid, pg_options_to_table(t.reloptions) where c.oid = $1";

/// What is remembered of each.
async fn remembered(server: &Server, tables: &[Relation]) -> Result<Vec<Vec<Own>>, Failure> {
    if !has_memory(server).await? {
        return Ok(vec![Vec::new(); tables.len()]);
    }
    let mut all = Vec::new();
    for table in tables {
        all.push(server.rows(REMEMBERED, &[&table.schema, &table.name]).await?);
    }
    Ok(all)
}

async fn has_memory(server: &Server) -> Result<bool, Failure> {
    server.value("select to_regclass('pgweir.autovacuum_before') is not null", &[]).await
}

const REMEMBERED: &str = "
    select setting, value_before as value from pgweir.autovacuum_before
    where schema_name = $1 and table_name = $2 order by setting";

const SCHEMA: &str = "CREATE SCHEMA pgweir";
const TABLE: &str = "CREATE TABLE pgweir.autovacuum_before (schema_name text, table_name text, setting text, value_before text, \
                     set_at timestamptz DEFAULT now(), set_by text DEFAULT session_user, \
                     PRIMARY KEY (schema_name, table_name, setting))";

/// The statements that remember what is there now. What is remembered already is from before our first change, and stays.
async fn remembering(
    server: &Server,
    table: &Relation,
    wanted: &[Assignment],
    own: &[Own],
) -> Result<Vec<String>, Failure> {
    let mut statements = Vec::new();
    if !server.value::<bool>("select exists (select from pg_namespace where nspname = 'pgweir')", &[]).await? {
        statements.push(SCHEMA.to_owned());
    }
    if !has_memory(server).await? {
        statements.push(TABLE.to_owned());
    }
    let rows: Vec<String> = wanted
        .iter()
        .map(|assignment| {
            let name = assignment.name();
            let value = value(own, &name).map_or("NULL".to_owned(), literal);
            format!("({}, {}, {}, {value})", literal(&table.schema), literal(&table.name), literal(&name))
        })
        .collect();
    statements.push(format!(
        "INSERT INTO pgweir.autovacuum_before (schema_name, table_name, setting, value_before) VALUES {} ON CONFLICT DO NOTHING",
        rows.join(", ")
    ));
    Ok(statements)
}

fn value<'a>(own: &'a [Own], name: &str) -> Option<&'a str> {
    own.iter().find(|own| own.setting == name).and_then(|own| own.value.as_deref())
}

/// The settings and what belongs to them, or nothing. The table comes first: its lock may not be to be had.
async fn apply(
    job: &Job,
    server: &Server,
    table: &Relation,
    wanted: &[Assignment],
    more: Vec<String>,
) -> Result<(), Failure> {
    let values = |is_set: bool| wanted.iter().filter(move |assignment| assignment.value.is_some() == is_set);
    let sets: Vec<String> = values(true)
        .map(|assignment| format!("{} = {}", assignment.name(), assignment.value.as_deref().unwrap_or_default()))
        .collect();
    let resets: Vec<String> = values(false).map(Assignment::name).collect();
    let mut statements = Vec::new();
    for (verb, list) in [("SET", sets), ("RESET", resets)] {
        if !list.is_empty() {
            statements.push(format!("ALTER TABLE {} {verb} ({})", table.sql(), list.join(", ")));
        }
    }
    job.change(server, "BEGIN").await?;
    for statement in statements.iter().chain(&more) {
        if let Err(failure) = job.change(server, statement).await {
            // The session may be gone, and the transaction with it.
            let _ = server.batch("ROLLBACK").await;
            return Err(explained(failure, more.contains(statement)));
        }
    }
    job.change(server, "COMMIT").await.map(|_| ())
}

fn explained(failure: Failure, is_memory: bool) -> Failure {
    use tokio_postgres::error::SqlState;
    match &failure.sqlstate {
        Some(state) if *state == SqlState::INSUFFICIENT_PRIVILEGE && is_memory => failure.hint(
            "what was there before is kept in pgweir.autovacuum_before; --no-undo does without, or have it made by the \
             database's owner, and INSERT, SELECT and DELETE granted",
        ),
        Some(state) if *state == SqlState::LOCK_NOT_AVAILABLE => {
            failure.hint("a VACUUM or a change of the table is under way: pgweir autovacuum show, pgweir locks")
        }
        _ => failure,
    }
}

/// One table that cannot be changed is no reason not to change the others, but no server is.
fn result_rows(
    job: &Job,
    table: &Relation,
    wanted: &[Assignment],
    own: &[Own],
    result: Result<(), Failure>,
) -> Result<Vec<SetRow>, Failure> {
    let text = match result {
        Ok(()) => "done".to_owned(),
        Err(failure) if failure.exit == Exit::Failed && !job.interrupt.is_requested() => {
            job.warn(format!("{}: {failure}", table.shown()));
            format!("failed: {}", failure.message)
        }
        Err(failure) => return Err(failure),
    };
    let row = |assignment: &Assignment| {
        let setting = assignment.name();
        let before = value(own, &setting).map(str::to_owned);
        let after = if text == "done" { assignment.value.clone() } else { before.clone() };
        SetRow { table: table.shown(), setting, before, after, result: text.clone() }
    };
    Ok(wanted.iter().map(row).collect())
}

fn ended(job: &Job, rows: &[SetRow]) -> Done {
    if !job.is_dry_run() {
        job.out.rows(rows, "There is nothing to undo.")?;
    }
    let failed = rows.iter().filter(|row| row.result != "done").count();
    Ok(match failed {
        0 => Exit::Fine,
        _ if failed == rows.len() => Exit::Failed,
        _ => Exit::Partly,
    })
}
