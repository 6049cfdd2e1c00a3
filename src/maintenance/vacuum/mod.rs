//! `pgweir vacuum` and `pgweir analyze`.

mod analyze;
mod choose;
mod horizon;
mod space;
mod watch;
mod window;
mod work;

use clap::Args;

pub(crate) use analyze::{AnalyzeOptions, analyze};
use horizon::{Keeper, keepers};
use window::{Opening, Window};
use work::{Ended, Outcome, Plan, Task};

use super::exit::{Done, Exit, Failure};
use super::job::Job;
use super::lock::JobLock;
use super::options::{Changing, Limits, Show, Target};
use super::output::Format;
use super::relations::relations;
use super::rows::row;
use super::server::Server;
use super::units::{Percent, Size};

/// Of those that keep dead rows, so many are named.
const NAMED_KEEPERS: usize = 5;

#[derive(Args, Clone, Debug)]
pub(crate) struct VacuumOptions {
    /// Tables to vacuum, as NAME, SCHEMA.NAME or '"Odd.Name"', where * and ? stand for other characters; of a partitioned table its
    /// partitions [default: those that need it by --min-dead-pct and --min-dead-rows, or against wraparound]
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
    /// Only tables of whose rows at least this share is dead, 0 to 100; 0: all [default: 20 if no table is named]
    #[arg(long, value_name = "PERCENT")]
    min_dead_pct: Option<Percent>,
    /// Only tables with at least so many dead rows [default: 10000 if no table and no --min-dead-pct is given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32))]
    min_dead_rows: Option<u32>,
    /// The system's own tables, too, when none is named
    #[arg(long)]
    catalogs: bool,
    /// Update the planner's statistics as well
    #[arg(long)]
    analyze: bool,
    /// Freeze all rows, so that no later VACUUM against wraparound has to
    #[arg(long)]
    freeze: bool,
    /// Write tables and indexes anew, which gives the space back: locks each table against everything, reading too, and takes room
    /// for a copy of it. Needs --window or --force
    #[arg(long)]
    full: bool,
    /// Begin nothing outside this time of day, as 02:00-04:30 or 23:00-03:00; a VACUUM FULL is cancelled at its end
    #[arg(long, value_name = "HH:MM-HH:MM")]
    window: Option<Window>,
    /// Time zone of --window, as Europe/Berlin [default: the server's]
    #[arg(long, value_name = "ZONE", requires = "window")]
    time_zone: Option<String>,
    /// VACUUM FULL outside of a window, and if nobody knows how much room there is
    #[arg(long, requires = "full")]
    force: bool,
    /// Room that there is for VACUUM FULL, as 20GB [default: looked up where the server is on this machine]
    #[arg(long, value_name = "BYTES", requires = "full")]
    free_space: Option<Size>,
    /// Tables at a time, each in a session of its own, 1 to 64
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Rest so many milliseconds whenever --cost-limit is used up, 0 to 100; 0: never [default: the server's vacuum_cost_delay]
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    cost_delay: Option<f64>,
    /// Work between two rests, 1 to 10000; reading a page costs about 2, writing one 20 [default: the server's vacuum_cost_limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    cost_limit: Option<u16>,
    /// How often a table is tried again, after the others, when its lock is not to be had within --lock-timeout
    #[arg(long, value_name = "N", default_value_t = 3)]
    lock_retries: u32,
    #[command(flatten)]
    pub(crate) changing: Changing,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    pub(crate) show: Show,
}

fn milliseconds(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches("ms").trim_end().parse().ok();
    number.filter(|n| (0.0..=100.0).contains(n)).ok_or_else(|| "expected milliseconds from 0 to 100".to_owned())
}

row! {
    /// What has become of a table.
    VacuumRow {
        table: String,
        /// done, not permitted, failed and why, not begun and why.
        result: String,
        dead_rows_before: i64,
        /// None: it was not done.
        dead_rows_after: Option<i64>,
        /// With indexes and TOAST.
        size_before_bytes: i64,
        size_after_bytes: Option<i64>,
        /// Transactions since it was frozen.
        xid_age_before: i64,
        xid_age_after: Option<i64>,
        took_s: Option<f64>,
        /// Who may still see the rows that are left; empty: nobody, or there are none.
        held_by: Vec<String>,
    }
}

pub(crate) async fn vacuum(job: &Job, options: &VacuumOptions) -> Done {
    let server = job.connect(&options.target, options.limits).await?;
    refuse_standby(job, &server).await?;
    let opening = options.window.map(|window| Opening { window, time_zone: options.time_zone.clone() });
    check_window(options, opening.as_ref(), &server).await?;
    server.warn_unless_monitor(job).await?;
    let lock = JobLock::take(job, &server).await?;
    let all = relations(&server, None).await?;
    let chosen = choose::tables(&all, options)?;
    if chosen.is_empty() {
        let nothing = format!("Nothing to vacuum: no table has {}.", choose::wanted(options));
        job.out.rows::<VacuumRow>(&[], &nothing)?;
        return Ok(Exit::Fine);
    }
    let (permitted, forbidden): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|table| table.is_permitted);
    forbidden.iter().for_each(|table| warn_forbidden(job, &server, &table.shown()));
    warn_keepers(job, &keepers(&server).await?, options.catalogs, "keeps the rows dead that were deleted since");
    if options.full {
        let tables = &permitted;
        space::check(job, &server, tables, usize::from(options.jobs), options.free_space, options.force).await?;
        job.warn("VACUUM FULL locks each table against everything, also reading, while it is written anew");
    }
    let count = permitted.len();
    let stages = choose::stages(&all, permitted, options);
    if count > 0 {
        job.confirm(&question(options, &server, count), if options.full { "FULL" } else { "VACUUM" }).await?;
    }
    let plan = plan(job, &server, options, opening).await?;
    let mut ended = work::run(job, &server, lock.as_ref(), &plan, stages).await?;
    ended.extend(forbidden.into_iter().map(|table| Ended::without(table, Outcome::Forbidden)));
    if job.is_dry_run() {
        return work::exit(job, &ended);
    }
    report(job, &server, ended).await
}

/// Prints what has become of the tables, and who keeps what is left of dead rows.
async fn report(job: &Job, server: &Server, ended: Vec<Ended>) -> Done {
    let left = |ended: &&Ended| ended.after.as_ref().is_some_and(|after| after.dead + after.toast_dead > 0);
    let is_left = ended.iter().any(|ended| left(&ended));
    let keepers = if is_left { keepers(server).await.unwrap_or_default() } else { Vec::new() };
    let is_system = ended.iter().filter(left).any(|ended| ended.before.is_system);
    warn_keepers(job, &keepers, is_system, "keeps dead rows that are left");
    let rows: Vec<VacuumRow> = ended.iter().map(|ended| vacuum_row(job.out.format, ended, &keepers)).collect();
    job.out.rows(&rows, "")?;
    work::exit(job, &ended)
}

/// In a table the keepers' names are enough: the warnings have the rest.
fn vacuum_row(format: Format, ended: &Ended, keepers: &[Keeper]) -> VacuumRow {
    let Ended { before, after, outcome, took_s } = ended;
    let dead = after.as_ref().map(|after| after.dead + after.toast_dead);
    let keeps = |keeper: &&Keeper| before.is_system || !keeper.catalogs_only;
    let name = |keeper: &Keeper| if format == Format::Table { keeper.what.clone() } else { keeper.text() };
    let held_by = match dead {
        Some(1..) => keepers.iter().filter(keeps).take(NAMED_KEEPERS).map(name).collect(),
        _ => Vec::new(),
    };
    VacuumRow {
        table: before.shown(),
        result: outcome.text(),
        dead_rows_before: before.dead + before.toast_dead,
        dead_rows_after: dead,
        size_before_bytes: before.total_bytes,
        size_after_bytes: after.as_ref().map(|after| after.total_bytes),
        xid_age_before: before.xid_age,
        xid_age_after: after.as_ref().map(|after| after.xid_age),
        took_s: *took_s,
        held_by,
    }
}

async fn refuse_standby(job: &Job, server: &Server) -> Result<(), Failure> {
    if server.value("select pg_is_in_recovery()", &[]).await? {
        return Err(Failure::refused(format!("{} is a standby", server.address))
            .hint(format!("{} is done on its primary, and comes to it from there", job.name)));
    }
    Ok(())
}

async fn check_window(options: &VacuumOptions, opening: Option<&Opening>, server: &Server) -> Result<(), Failure> {
    match opening {
        Some(_) if options.force => Ok(()),
        Some(opening) => opening.left(server).await.map(|_| ()),
        None if options.full && !options.force => Err(Failure::refused(
            "VACUUM FULL locks tables against everything while it writes them anew",
        )
        .hint("--window HH:MM-HH:MM says when that may be, --force does it now; without --full nobody is locked out")),
        None => Ok(()),
    }
}

fn warn_forbidden(job: &Job, server: &Server, table: &str) {
    let user = &server.conninfo.user;
    let needs = match server.version.major() {
        ..17 => "its owner, the database's, or a superuser",
        _ => "its owner, the database's, pg_maintain or the right MAINTAIN on it",
    };
    job.warn(format!("{user} may not vacuum or analyze {table}: it takes {needs}"));
}

fn warn_keepers(job: &Job, keepers: &[Keeper], with_catalogs: bool, what: &str) {
    let keepers: Vec<&Keeper> = keepers.iter().filter(|keeper| with_catalogs || !keeper.catalogs_only).collect();
    for keeper in keepers.iter().take(NAMED_KEEPERS) {
        job.warn(format!("{what}: {}", keeper.text()));
    }
    if keepers.len() > NAMED_KEEPERS {
        job.warn(format!("and {} younger ones", keepers.len() - NAMED_KEEPERS));
    }
}

fn question(options: &VacuumOptions, server: &Server, tables: usize) -> String {
    let (what, locks) =
        if options.full { ("VACUUM FULL", ", each locked against everything meanwhile") } else { ("VACUUM", "") };
    let plural = if tables == 1 { "" } else { "s" };
    format!("{what} {tables} table{plural} of {}{locks}", server.conninfo.dbname)
}

row! {
    Costs {
        delay: String,
        limit: String,
    }
}

/// Says under which cost limits it works.
async fn plan(job: &Job, server: &Server, options: &VacuumOptions, opening: Option<Opening>) -> Result<Plan, Failure> {
    let mut settings = Vec::new();
    settings.extend(options.cost_delay.map(|delay| format!("SET vacuum_cost_delay = {delay}")));
    settings.extend(options.cost_limit.map(|limit| format!("SET vacuum_cost_limit = {limit}")));
    let costs: Costs = server
        .one("select current_setting('vacuum_cost_delay') as delay, current_setting('vacuum_cost_limit') as limit", &[])
        .await?;
    let delay = options
        .cost_delay
        .map_or(costs.delay, |delay| if delay == 0.0 { "0".to_owned() } else { format!("{delay}ms") });
    let limit = options.cost_limit.map_or(costs.limit, |limit| limit.to_string());
    let rest = if delay == "0" { ", never rests" } else { "" };
    job.say(format!("vacuum_cost_delay {delay}{rest}, vacuum_cost_limit {limit}, {} at a time", options.jobs));
    Ok(Plan {
        jobs: usize::from(options.jobs),
        limits: options.limits,
        retries: options.lock_retries,
        settings,
        opening: opening.filter(|_| !options.force),
        is_full: options.full,
    })
}
