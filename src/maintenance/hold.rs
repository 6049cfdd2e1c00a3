//! The pooler's clients are kept off a database while it is put out of the way.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use pgweir_config::HostAddr;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::conninfo::Conninfo;
use super::console::{Console, Need, ways};
use super::exit::Failure;
use super::interrupt::Undo;
use super::job::Job;
use super::options::Target;
use super::server::Server;
use super::sql::ident;
use super::units::Span;

/// How clients are kept off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// They wait (PAUSE, RESUME): for moments.
    Pause,
    /// New ones are turned away (DISABLE, ENABLE): for longer.
    Disable,
}

impl Hold {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Hold::Pause => ("PAUSE", "RESUME"),
            Hold::Disable => ("DISABLE", "ENABLE"),
        }
    }

    /// The column of SHOW DATABASES that says that it is so already.
    fn column(self) -> &'static str {
        match self {
            Hold::Pause => "paused",
            Hold::Disable => "disabled",
        }
    }
}

/// Clients are kept off, until this is released or the command ends.
#[must_use = "clients are kept off until the command ends"]
pub(crate) struct Held(Vec<Undo>);

impl Held {
    /// Lets the clients in again, in all processes of the pooler that can be reached.
    pub(crate) async fn release(self) -> Result<(), Failure> {
        let mut first = Ok(());
        for undo in self.0.into_iter().rev() {
            first = first.and(undo.now().await);
        }
        first
    }
}

/// Keeps the clients of `dbname` off, under whichever names processes of the pooler lead to it, and lets them in again however
/// the command ends. PAUSE returns when all servers are given back: `limit` ends a wait for clients that stay in their
/// transactions. What somebody else has paused or disabled is left as it is, then and afterwards.
pub(crate) async fn hold(
    job: &Job,
    target: &Target,
    server: &Server,
    dbname: &str,
    hows: &[Hold],
    limit: Span,
) -> Result<Held, Failure> {
    let mut held = Held(Vec::new());
    for candidates in ways(target, Need::Commands)? {
        let console = Console::connect(job, &candidates).await?;
        for name in names(target, &console, server, dbname).await? {
            for how in hows {
                let undo = one(job, &candidates, &console, &name, *how, limit).await?;
                held.0.extend(undo);
            }
        }
    }
    Ok(held)
}

/// Fails now where [`hold`] would fail later: there is no such entry, or nobody answers.
pub(crate) async fn check(job: &Job, target: &Target, server: &Server, dbname: &str) -> Result<(), Failure> {
    let mut all = BTreeSet::new();
    for console in Console::connect_all(job, target, Need::Commands).await? {
        all.extend(names(target, &console, server, dbname).await?);
    }
    if all.is_empty() {
        return Err(Failure::refused(format!("no database of the pooler leads to {dbname} at {}", server.address))
            .hint("--no-pooler says that there is no pooler in front of it"));
    }
    Ok(())
}

/// None: it is so already, or this is a dry run.
async fn one(
    job: &Job,
    candidates: &[Conninfo],
    console: &Console,
    name: &str,
    how: Hold,
    limit: Span,
) -> Result<Option<Undo>, Failure> {
    let (begin, end) = how.words();
    let databases = console.show("DATABASES").await?;
    if databases.iter().any(|shown| shown.text("name") == name && shown.text(how.column()) == "1") {
        job.warn(format!("{name} is {} on the pooler by somebody else, and stays so", how.column()));
        return Ok(None);
    }
    let place = &console.server.address;
    if !job.step(&format!("pooler at {place}: {begin} {}", ident(name)))? {
        return Ok(None);
    }
    // Registered before: the command may take effect although its answer is lost.
    let undo = let_in_later(job, candidates.to_vec(), name, end);
    match job.interrupt.or(timeout(limit.0, console.command(begin, name))).await? {
        Ok(Ok(())) => Ok(Some(undo)),
        Ok(Err(failure)) => {
            if failure.sqlstate.is_some() {
                undo.dismiss();
            }
            Err(failure)
        }
        Err(_) => Err(Failure::failed(format!("{begin} {name} did not end within {limit}"))
            .hint("clients stay in their transactions: SHOW CLIENTS on the pooler's console tells which")),
    }
}

fn let_in_later(job: &Job, candidates: Vec<Conninfo>, database: &str, end: &'static str) -> Undo {
    let what = format!("{end} {database} on the pooler");
    let (job_for_later, database) = (job.for_later(), database.to_owned());
    job.cleanup.later(what, async move {
        let console = Console::connect(&job_for_later, &candidates).await?;
        console.command(end, &database).await
    })
}

/// The names under which one process of the pooler leads to `dbname` of the server.
async fn names(target: &Target, console: &Console, server: &Server, dbname: &str) -> Result<BTreeSet<String>, Failure> {
    let ours = addresses_of(&host_text(&server.address.host)).await;
    let ours: BTreeSet<IpAddr> = ours.into_iter().chain(server.address.hostaddr.map(canonical)).collect();
    let hosts_text: Vec<String> = server.conninfo.addresses.iter().map(|address| host_text(&address.host)).collect();
    let leads_there = async |hosts: &str| {
        for host in hosts.split(',') {
            if hosts_text.iter().any(|own| own == host) || !addresses_of(host).await.is_disjoint(&ours) {
                return true;
            }
        }
        false
    };
    let mut names = BTreeSet::new();
    for shown in console.show("DATABASES").await? {
        let is_same = shown.text("database") == dbname && shown.text("port") == server.address.port.to_string();
        if is_same && leads_there(shown.text("host")).await {
            names.insert(shown.text("name").to_owned());
        }
    }
    // One that is made of the entry "*" is shown only while it is in use.
    if let Some(entry) = target.pooler()?.and_then(|config| config.database(dbname)) {
        let is_same = entry.server_dbname() == dbname && entry.port == server.address.port;
        if is_same && leads_there(&entry.show_hosts().unwrap_or_default()).await {
            names.insert(dbname.to_owned());
        }
    }
    Ok(names)
}

fn host_text(host: &HostAddr) -> String {
    match host {
        HostAddr::Unix(dir) => dir.clone(),
        HostAddr::Tcp(host) => host.clone(),
    }
}

/// Where a host of an entry is: a directory of sockets is this machine. Empty: nobody knows.
async fn addresses_of(host: &str) -> BTreeSet<IpAddr> {
    if host.is_empty() || host.starts_with(['/', '@']) {
        return BTreeSet::from([Ipv4Addr::LOCALHOST.into()]);
    }
    let found = lookup_host((host, 0)).await;
    found.into_iter().flatten().map(|address| canonical(address.ip())).collect()
}

/// All addresses of this machine's own network as one.
fn canonical(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        address => address,
    }
}
