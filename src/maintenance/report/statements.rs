//! `report statements`: what pg_stat_statements has counted.

use clap::{Args, ValueEnum};

use super::Options;
use crate::maintenance::exit::{Done, Exit, Failure};
use crate::maintenance::job::Job;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;
use crate::maintenance::sql::ident;

#[derive(Args, Clone, Debug)]
pub(crate) struct StatementOptions {
    /// What the first have most of
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Order::Total)]
    pub(crate) by: Order,
    /// Statements of all databases, not of the one connected to alone
    #[arg(long)]
    pub(crate) all_databases: bool,
    #[command(flatten)]
    pub(crate) list: Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Time of all calls together
    Total,
    /// Time of a call on average
    Mean,
    /// Time of the slowest call
    Max,
    Calls,
    /// Blocks read, not found in shared_buffers
    Reads,
}

impl Order {
    fn column(self) -> &'static str {
        match self {
            Order::Total => "total_ms",
            Order::Mean => "mean_ms",
            Order::Max => "max_ms",
            Order::Calls => "calls",
            Order::Reads => "read_blocks",
        }
    }
}

row! {
    /// One statement, its constants left out, as it was run by one user.
    StatementRow {
        calls: i64,
        total_ms: f64,
        /// Of all time that statements took.
        total_pct: Option<f64>,
        mean_ms: f64,
        max_ms: f64,
        rows: i64,
        hit_pct: Option<f64>,
        read_blocks: i64,
        user: String,
        database: String,
        query: String,
    }
}

pub(crate) async fn statements(job: &Job, options: &StatementOptions) -> Done {
    let reading = &options.list.reading;
    let server = job.connect(&reading.target, reading.limits).await?;
    server.warn_unless_monitor(job).await?;
    let schema = schema(&server).await?;
    let sql = STATEMENTS.replace("{schema}", &ident(&schema)).replace("{order}", options.by.column());
    let rows: Vec<StatementRow> = server.rows(&sql, &[&options.list.limit(), &options.all_databases]).await?;
    job.out.rows(&rows, "No statements have been counted.")?;
    Ok(Exit::Fine)
}

/// Where the extension is, whoever made it.
async fn schema(server: &Server) -> Result<String, Failure> {
    const SCHEMA: &str =
        "select (select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace
                                  where e.extname = 'pg_stat_statements')";
    let schema: Option<String> = server.value(SCHEMA, &[]).await?;
    schema.ok_or_else(|| {
        Failure::failed(format!("the extension pg_stat_statements is not in {}", server.conninfo.dbname))
            .hint("add it to shared_preload_libraries, restart, and CREATE EXTENSION pg_stat_statements")
    })
}

const STATEMENTS: &str = "
    select s.calls, s.total_exec_time as total_ms,
           100 * s.total_exec_time / nullif(sum(s.total_exec_time) over (), 0) as total_pct,
           s.mean_exec_time as mean_ms, s.max_exec_time as max_ms, s.rows,
           100 * s.shared_blks_hit::float8 / nullif(s.shared_blks_hit + s.shared_blks_read, 0)::float8 as hit_pct,
           s.shared_blks_read as read_blocks,
           coalesce(r.rolname::text, s.userid::text) as user, coalesce(d.datname::text, s.dbid::text) as database,
           coalesce(s.query, '') as query
    from {schema}.pg_stat_statements s
         left join pg_roles r on r.oid = s.userid left join pg_database d on d.oid = s.dbid
    where $2 or d.datname = current_database()
    order by {order} desc, s.queryid, s.userid limit $1";
