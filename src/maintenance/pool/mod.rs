//! `pgweir pool advise`: sizes of pools, and how they come about.

mod advice;
mod measure;

use clap::Args;

use advice::{Facts, advise};

use super::console::{Console, Need};
use super::exit::{Done, Exit, Failure};
use super::job::Job;
use super::options::{Reading, Show};
use super::rows::row;
use super::units::Span;

#[derive(Args, Clone, Debug)]
pub(crate) struct AdviseOptions {
    /// Processes or machines that run a pooler with this configuration; 1 or more
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    /// Pools, that is pairs of database and user, that share the server [default: those that the pooler has, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pools: Option<u32>,
    /// Cores of PostgreSQL's machine: more than 2 per core and 1 per disk are seldom of use [default: not known, no such limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cores: Option<u32>,
    /// Disks that seek, for the same rule; 0 for flash
    #[arg(long, value_name = "N", default_value_t = 1)]
    disks: u32,
    /// By how much to stay below what the server can take, from 1 to 100
    #[arg(long, value_name = "FACTOR", default_value_t = 1.5, value_parser = factor)]
    safety: f64,
    /// Connections to leave for others than the pooler [default: those that others have now, else 10]
    #[arg(long, value_name = "N")]
    others: Option<u32>,
    /// Clients expected on each instance [default: as many as were seen]
    #[arg(long, value_name = "N")]
    clients: Option<u32>,
    /// How long to watch the pooler for what it uses, as 10s or 5m; 0: not at all. Needs --config or --console
    #[arg(long, value_name = "TIME", default_value = "10s")]
    measure: Span,
    #[command(flatten)]
    reading: Reading,
}

impl AdviseOptions {
    pub(crate) fn show(&self) -> Show {
        self.reading.show
    }
}

fn factor(text: &str) -> Result<f64, String> {
    let factor: Option<f64> = text.parse().ok().filter(|factor: &f64| (1.0..=100.0).contains(factor));
    factor.ok_or_else(|| "expected a number from 1 to 100".to_owned())
}

row! {
    /// How many connections the server takes, and has.
    Capacity {
        max_connections: i64,
        /// For superusers and, since PostgreSQL 16, for pg_usagereserved_connections.
        reserved: i64,
        clients: i64,
    }
}

pub(crate) async fn advise_pool(job: &Job, options: &AdviseOptions) -> Done {
    let target = &options.reading.target;
    let server = job.connect(target, options.reading.limits).await?;
    let capacity: Capacity = server.one(CAPACITY, &[]).await?;
    let has_pooler = target.config.is_some() || target.console.is_some();
    let usage = if has_pooler && !options.measure.0.is_zero() {
        Some(measure::measure(job, target, options.measure.0).await?)
    } else {
        None
    };
    let now = if has_pooler { settings(job, options).await? } else { Vec::new() };
    // Ours is one of them.
    let others = usage.as_ref().map(|usage| (capacity.clients - 1 - usage.servers).max(0));
    let facts = Facts {
        max_connections: capacity.max_connections,
        reserved: capacity.reserved,
        others: options.others.map(i64::from).or(others).unwrap_or(OTHERS),
        instances: i64::from(options.instances),
        pools: options.pools.map(i64::from).or(usage.as_ref().map(|usage| usage.pools)).unwrap_or(1).max(1),
        useful: options.cores.map(|cores| i64::from(2 * cores + options.disks)),
        safety: options.safety,
        wanted: usage.as_ref().map(|usage| usage.wanted_p99),
        clients: options.clients.map(i64::from).or(usage.as_ref().map(|usage| usage.clients)),
    };
    let current = |name: &str| now.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let rows = advise(&facts, current).ok_or_else(|| {
        Failure::failed("the server has no connections left to share out").hint("see --others and --instances")
    })?;
    job.out.rows(&rows, "")?;
    Ok(Exit::Fine)
}

/// Where nobody has counted.
const OTHERS: i64 = 10;

/// The pooler's settings in force.
async fn settings(job: &Job, options: &AdviseOptions) -> Result<Vec<(String, String)>, Failure> {
    let consoles = Console::connect_all(job, &options.reading.target, Need::Figures).await?;
    let Some(console) = consoles.first() else { return Ok(Vec::new()) };
    let shown = console.show("CONFIG").await?;
    Ok(shown.iter().map(|row| (row.text("key").to_owned(), row.text("value").to_owned())).collect())
}

const CAPACITY: &str = "
    select current_setting('max_connections')::int8 as max_connections,
           current_setting('superuser_reserved_connections')::int8
               + coalesce(current_setting('reserved_connections', true), '0')::int8 as reserved,
           (select count(*) from pg_stat_activity where backend_type = 'client backend') as clients";
