//! `pgweir index create`: CREATE INDEX CONCURRENTLY with checks before and after.

mod partitions;
mod sketch;

use std::time::Instant;

use clap::Args;

use self::sketch::sketch;
use super::build::{Builder, Memory, Waiting};
use super::definition::{Definition, definitions};
use super::leftovers::{InvalidRow, Remains, drop_concurrently, invalid, remove_later};
use super::names::{Kind, Relation, find};
use super::rebuild::Parameter;
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::lock::JobLock;
use crate::maintenance::options::{Changing, Reading};
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::{ident, qualified};

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateOptions {
    /// Table, partitioned table or materialized view, "schema.table" or "table", as in the catalogue or quoted as in SQL
    #[arg(value_name = "TABLE")]
    table: String,
    /// Columns and expressions as CREATE INDEX takes them, 'a, lower(b) desc nulls last, c text_pattern_ops'
    #[arg(long, value_name = "SQL")]
    columns: String,
    /// Name of the index [default: made of table and columns, as PostgreSQL does]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// No two rows may have the same values
    #[arg(long)]
    unique: bool,
    /// With --unique: nulls count as the same (PostgreSQL 15 and later)
    #[arg(long, requires = "unique")]
    nulls_not_distinct: bool,
    /// Access method: btree, hash, gist, spgist, gin, brin, or an extension's [default: btree]
    #[arg(long, value_name = "METHOD")]
    using: Option<String>,
    /// Columns that are stored without being searched by, 'c, d'
    #[arg(long, value_name = "SQL")]
    include: Option<String>,
    /// Condition of a partial index, 'deleted_at is null'
    #[arg(long = "where", value_name = "SQL")]
    predicate: Option<String>,
    /// Storage parameter, such as fillfactor=80, lists=200 or m=24; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    with: Vec<Parameter>,
    /// Tablespace of the index [default: the server's default_tablespace]
    #[arg(long, value_name = "NAME")]
    tablespace: Option<String>,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    pub(crate) changing: Changing,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

impl CreateOptions {
    /// CREATE INDEX with `how` (CONCURRENTLY) before a name, on `table`, which ONLY may precede.
    fn sql(&self, how: &str, name: &str, table: &str) -> String {
        let CreateOptions { columns, unique, nulls_not_distinct, .. } = self;
        let unique = if *unique { "UNIQUE " } else { "" };
        let using = self.using.as_ref().map(|method| format!(" USING {}", ident(method))).unwrap_or_default();
        let include = self.include.as_ref().map(|columns| format!(" INCLUDE ({columns})")).unwrap_or_default();
        let nulls = if *nulls_not_distinct { " NULLS NOT DISTINCT" } else { "" };
        let with: Vec<String> = self.with.iter().map(Parameter::sql).collect();
        let with = if with.is_empty() { String::new() } else { format!(" WITH ({})", with.join(", ")) };
        let space = self.tablespace.as_ref().map(|name| format!(" TABLESPACE {}", ident(name))).unwrap_or_default();
        let predicate = self.predicate.as_ref().map(|condition| format!(" WHERE ({condition})")).unwrap_or_default();
        format!(
            "CREATE {unique}INDEX {how}{name} ON {table}{using} ({columns}){include}{nulls}{with}{space}{predicate}"
        )
    }
}

row! {
    /// The index that was made.
    CreatedRow {
        name: String,
        table: String,
        bytes: i64,
        valid: bool,
        duration_s: f64,
        definition: String,
    }
}

/// What is known before anything is made.
struct Plan {
    table: Relation,
    /// The index's, without its schema, which is the table's.
    name: String,
    /// None: what it will be like could not be tried out.
    sketch: Option<Definition>,
    /// An index of that definition that is not complete.
    unfinished: Option<InvalidRow>,
}

pub(crate) async fn create(job: &Job, options: &CreateOptions) -> Done {
    let limits = options.reading.limits;
    let server = job.connect(&options.reading.target, limits).await?;
    let lock = JobLock::take(job, &server).await?;
    let named = std::slice::from_ref(&options.table);
    let table = find(job, &server, limits, Kind::Table, named).await?.remove(0);
    const OWNS: &str = "select pg_has_role(relowner, 'usage') from pg_class where oid = $1";
    if !server.value::<bool>(OWNS, &[&table.oid]).await? {
        return Err(Failure::failed(format!("{} must be owner of {}", server.conninfo.user, table.qualified())));
    }
    let builder = Builder::open(job, &server, limits, options.waiting, Some(options.memory), true).await?;
    let plan = plan(job, &server, &builder, options, table).await?;
    let begun = Instant::now();
    let (name, table) = (ident(&plan.name), plan.table.qualified());
    job.confirm(&format!("create the index {name} on {table}"), "CREATE").await?;
    let index = qualified(&plan.table.schema, &plan.name);
    let made = match plan.table.kind.as_str() {
        "p" => partitions::create(job, &server, &builder, options, &plan).await,
        _ => create_one(job, &server, &builder, options, &plan).await,
    };
    drop(lock);
    if !made? {
        return Ok(Exit::Fine);
    }
    let row = created(&server, &index, begun).await?;
    if !row.valid {
        return Err(Failure::failed(format!("{index} is not valid")));
    }
    job.out.rows(&[row], "")?;
    Ok(Exit::Fine)
}

async fn plan(
    job: &Job,
    server: &Server,
    builder: &Builder<'_>,
    options: &CreateOptions,
    table: Relation,
) -> Result<Plan, Failure> {
    let sketched = sketch(job, builder.session(), options, &table).await?;
    let (base, sketch) = match (&options.name, sketched) {
        (given, Some((made, sketch))) => (given.clone().unwrap_or(made), Some(sketch)),
        (Some(given), None) => (given.clone(), None),
        (None, None) => return Err(Failure::usage("the index needs a name").hint("give it by --name")),
    };
    if base.len() > 63 {
        return Err(Failure::usage(format!("the name {base} is longer than 63 bytes")));
    }
    let equal = match &sketch {
        Some(sketch) => equal(job, builder.session(), &table, sketch).await?,
        None => None,
    };
    let broken = invalid(server, Some(&[table.oid])).await?;
    let broken = equal.and_then(|equal| broken.into_iter().find(|index| index.oid == equal.oid));
    if let Some((pid, index)) = broken.as_ref().and_then(|index| index.building_pid.zip(Some(index))) {
        return Err(Failure::refused(format!("process {pid} is building it already: {}", index.name)));
    }
    let own = match &broken {
        Some(index) => Some(name_of(server, index.oid).await?),
        None => None,
    };
    let name = match own {
        // What is unfinished is gone on with, or made anew, under its own name.
        Some(own) if options.name.as_ref().is_none_or(|given| *given == own) => own,
        Some(own) if table.kind == "p" => {
            let message = format!("an unfinished index like it is there: {own}");
            return Err(Failure::refused(message).hint("go on with it by that --name, or drop it first"));
        }
        _ => {
            let free = free_name(server, &table.schema, &base).await?;
            if options.name.is_some() && free != base {
                return Err(Failure::refused(format!("{} is there already", qualified(&table.schema, &base))));
            }
            free
        }
    };
    Ok(Plan { table, name, sketch, unfinished: broken })
}

/// An index like it that is not valid; a valid one is a reason to refuse.
async fn equal(
    job: &Job,
    session: &Server,
    table: &Relation,
    sketch: &Definition,
) -> Result<Option<Definition>, Failure> {
    let own = Definition { table_oid: table.oid, ..sketch.clone() };
    let there = definitions(session, Some(&[table.oid])).await?;
    if let Some(index) = there.iter().find(|index| index.valid && index.equals(&own)) {
        let message = format!("there is such an index already: {}", index.name);
        return Err(Failure::refused(message).hint(index.definition.clone()));
    }
    if let Some(index) = there.iter().find(|index| index.valid && own.is_covered_by(index)) {
        job.warn(format!("{} begins with the same columns and may do as well: {}", index.name, index.definition));
    }
    Ok(there.into_iter().find(|index| index.equals(&own)))
}

async fn name_of(server: &Server, oid: u32) -> Result<String, Failure> {
    server.value("select relname::text from pg_class where oid = $1", &[&oid]).await
}

/// The name itself or, if it is taken, with the first number behind it that makes it free.
async fn free_name(server: &Server, schema: &str, base: &str) -> Result<String, Failure> {
    const FREE: &str = "
        select left($2, 63 - length(suffix)) || suffix
        from (select '' as suffix, 0 as place union all select n::text, n from generate_series(1, 9999) n) s
        where not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                          where n.nspname = $1 and c.relname = left($2, 63 - length(suffix)) || suffix)
        order by place limit 1";
    server.value(FREE, &[&schema, &base]).await
}

/// Whether it was made: a dry run only prints it.
async fn create_one(
    job: &Job,
    server: &Server,
    builder: &Builder<'_>,
    options: &CreateOptions,
    plan: &Plan,
) -> Result<bool, Failure> {
    if let Some(unfinished) = &plan.unfinished {
        drop_concurrently(job, server, &unfinished.name).await?;
    }
    let index = qualified(&plan.table.schema, &plan.name);
    let remains = Remains::Index(index.clone());
    build(
        job,
        server,
        builder,
        &index,
        &options.sql("CONCURRENTLY ", &ident(&plan.name), &plan.table.qualified()),
        remains,
    )
    .await
}

/// Builds concurrently, and leaves nothing if that fails.
async fn build(
    job: &Job,
    server: &Server,
    builder: &Builder<'_>,
    label: &str,
    sql: &str,
    remains: Remains,
) -> Result<bool, Failure> {
    let undo = remove_later(job, server, builder.pid(), remains);
    match builder.run(label, sql).await {
        Ok(ran) => {
            undo.dismiss();
            Ok(ran)
        }
        Err(failure) => {
            if !job.interrupt.is_requested()
                && let Err(left) = undo.now().await
            {
                job.warn(left.to_string());
            }
            Err(failure)
        }
    }
}

async fn created(server: &Server, index: &str, begun: Instant) -> Result<CreatedRow, Failure> {
    const CREATED: &str = "
        select format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as table,
               case when c.relkind = 'I' then (select sum(pg_relation_size(relid))::int8 from pg_partition_tree(c.oid))
                    else pg_relation_size(c.oid) end as bytes,
               i.indisvalid as valid, $2::float8 as duration_s, pg_get_indexdef(c.oid) as definition
        from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
             join pg_class t on t.oid = i.indrelid join pg_namespace tn on tn.oid = t.relnamespace
        where c.oid = to_regclass($1)";
    server.one(CREATED, &[&index, &begun.elapsed().as_secs_f64()]).await
}
