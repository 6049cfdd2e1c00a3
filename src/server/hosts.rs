//! Host names and their addresses, kept for as long as `dns_max_ttl` and `dns_nxdomain_ttl` say.
//!
//! Names are looked up by the system (getaddrinfo), on a thread of the runtime's blocking pool, or
//! at the servers that `resolv_conf` names; one lookup per name at a time, however many wait for it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use pgweir_config::{HostAddr, Settings};
use tokio::sync::watch;

use crate::log::log_at;
use crate::registry::{Address, ServerInfo};
use crate::server::dns::Resolver;
pub(crate) use crate::server::zones::ZoneRow;
use crate::server::zones::{Zones, zone_of};

/// Addresses, or why there are none.
pub(crate) type Answer = Result<Arc<[IpAddr]>, Arc<str>>;

type Lookup = Box<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

/// All names that servers are reached by.
pub(crate) struct Hosts {
    /// Protects the cache; not held while anything is looked up.
    cache: Mutex<Cache>,
    /// The system's resolver, or a test's.
    lookup: Lookup,
    /// Asks for the serials of zones.
    resolver: Resolver,
}

/// A line of SHOW DNS_HOSTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostRow {
    pub(crate) hostname: String,
    /// How long what is known counts; zero while it is being looked up anew.
    pub(crate) ttl: Duration,
    /// Empty if the name could not be resolved.
    pub(crate) addresses: Vec<IpAddr>,
}

/// `None`: the system's.
fn conf(settings: &Settings) -> Option<&Path> {
    settings.resolv_conf.as_deref().filter(|conf| !conf.as_os_str().is_empty())
}

impl Hosts {
    pub(crate) fn new(settings: &Settings) -> Arc<Hosts> {
        let lookup: Lookup = match conf(settings) {
            None => Box::new(|name| {
                Box::pin(async move {
                    let found = tokio::net::lookup_host((name, 0)).await?;
                    Ok(found.map(|address| address.ip()).collect())
                })
            }),
            Some(conf) => {
                let resolver = Resolver::new(Some(conf));
                Box::new(move |name| {
                    let resolver = resolver.clone();
                    Box::pin(async move { resolver.addresses(&name).await })
                })
            }
        };
        Hosts::with_lookup(settings, lookup)
    }

    fn with_lookup(settings: &Settings, lookup: Lookup) -> Arc<Hosts> {
        let hosts = Arc::new(Hosts { cache: Mutex::default(), lookup, resolver: Resolver::new(conf(settings)) });
        hosts.configure(settings);
        hosts
    }

    /// Takes new settings; what is known is measured against them from now on.
    pub(crate) fn configure(&self, settings: &Settings) {
        let mut cache = self.cache();
        (cache.max_ttl, cache.nxdomain_ttl) = (settings.dns_max_ttl, settings.dns_nxdomain_ttl);
        cache.zones.configure(settings.dns_zone_check_period);
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of a name, each call beginning with the next one.
    async fn resolve(self: &Arc<Self>, name: &str) -> Result<Vec<IpAddr>, Arc<str>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let (answer, lookup) = {
            let mut cache = self.cache();
            let (answer, is_due) = cache.ask(name, Instant::now());
            (answer, is_due.then(|| self.look_up(&mut cache, name)))
        };
        let answer = match (answer, lookup) {
            (Some(answer), _) => answer,
            (None, Some(mut lookup)) => match lookup.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().unwrap_or_else(|| Err(ABANDONED.into())),
                Err(_) => Err(ABANDONED.into()),
            },
            (None, None) => Err(ABANDONED.into()),
        };
        Ok(self.cache().rotated(name, &answer?))
    }

    /// Where a server or a peer can be connected to, in the order in which to try.
    pub(crate) async fn addresses(self: &Arc<Self>, host: &HostAddr, port: u16) -> Result<Vec<Address>, Arc<str>> {
        Ok(match host {
            HostAddr::Unix(directory) => vec![Address::Unix(format!("{directory}/.s.PGSQL.{port}").into())],
            HostAddr::Tcp(name) => {
                self.resolve(name).await?.into_iter().map(|ip| Address::Tcp((ip, port).into())).collect()
            }
        })
    }

    /// A connection was made to an address of `name`; it is to be replaced when the name loses
    /// that address.
    pub(crate) fn note_server(&self, name: &str, server: &Arc<ServerInfo>) {
        if let Some(known) = self.cache().names.get_mut(name) {
            known.servers.retain(|server| server.strong_count() > 0);
            known.servers.push(Arc::downgrade(server));
        }
    }

    /// Looks up again all names in use whose time is over, and looks after zones. For the janitor:
    /// a change of address is noticed although no new connection is made.
    pub(crate) fn refresh(self: &Arc<Self>) {
        let (mut cache, now) = (self.cache(), Instant::now());
        for name in cache.due(now) {
            self.look_up(&mut cache, &name);
        }
        let Cache { zones, names, .. } = &mut *cache;
        if let Some(due) = zones.due(now, names.keys().map(String::as_str)) {
            tokio::spawn(Arc::clone(self).check_zones(due));
        }
    }

    /// Looks up again the names of zones that have changed.
    async fn check_zones(self: Arc<Self>, zones: Vec<String>) {
        for zone in zones {
            let serial = self.resolver.serial(&zone).await;
            let mut cache = self.cache();
            if cache.zones.note(&zone, serial) {
                let names: Vec<String> =
                    cache.names.keys().filter(|name| zone_of(name) == Some(&zone)).cloned().collect();
                names.iter().for_each(|name| drop(self.look_up(&mut cache, name)));
            }
        }
        self.cache().zones.checked(Instant::now());
    }

    /// For SHOW DNS_ZONES.
    pub(crate) fn zones(&self) -> Vec<ZoneRow> {
        let cache = self.cache();
        cache.zones.rows(cache.names.keys().map(String::as_str))
    }

    pub(crate) fn snapshot(&self) -> Vec<HostRow> {
        self.cache().rows(Instant::now())
    }

    /// Names known, and lookups under way: `dns_names` and `dns_queries` of SHOW LISTS.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let cache = self.cache();
        (cache.names.len(), cache.names.values().filter(|name| name.is_looked_up()).count())
    }

    /// Bytes of an entry, without what it refers to.
    pub(crate) fn entry_size(&self) -> usize {
        size_of::<(String, Name)>()
    }

    /// Joins the lookup of `name` that is under way, or begins one.
    fn look_up(self: &Arc<Self>, cache: &mut Cache, name: &str) -> watch::Receiver<Option<Answer>> {
        let known = cache.names.entry(name.to_owned()).or_default();
        if let Some(lookup) = known.lookup.as_ref().filter(|_| known.is_looked_up()) {
            return lookup.clone();
        }
        let (done, lookup) = watch::channel(None);
        known.lookup = Some(lookup.clone());
        let (hosts, name) = (Arc::clone(self), name.to_owned());
        tokio::spawn(async move {
            let found = (hosts.lookup)(name.clone()).await;
            let answer = hosts.cache().answered(&name, found, Instant::now());
            done.send_replace(Some(answer));
        });
        lookup
    }
}

/// A lookup ends without an answer only when the process ends.
const ABANDONED: &str = "lookup abandoned";

#[derive(Default)]
struct Cache {
    /// `dns_max_ttl`
    max_ttl: Duration,
    /// `dns_nxdomain_ttl`
    nxdomain_ttl: Duration,
    names: HashMap<String, Name>,
    zones: Zones,
}

/// What is known of one name.
#[derive(Default)]
struct Name {
    /// The latest addresses, and when they were looked up.
    found: Option<(Arc<[IpAddr]>, Instant)>,
    /// Why the lookup failed, and when, if the latest did.
    failed: Option<(Arc<str>, Instant)>,
    /// The lookup under way.
    lookup: Option<watch::Receiver<Option<Answer>>>,
    /// Whose turn it is among the addresses.
    turn: usize,
    /// Servers connected to by this name, to be replaced if it changes.
    servers: Vec<Weak<ServerInfo>>,
}

impl Name {
    fn is_looked_up(&self) -> bool {
        // A closed channel is that of a task that was dropped.
        self.lookup.as_ref().is_some_and(|lookup| lookup.has_changed().is_ok())
    }
}

fn is_within(at: Instant, ttl: Duration, now: Instant) -> bool {
    now.saturating_duration_since(at) < ttl
}

impl Cache {
    /// What can be answered at once, and whether to look the name up.
    ///
    /// Once their time is over, addresses are used for as long again while a lookup is under way
    /// or fails: nobody waits for a resolver that is slow or down for a moment.
    fn ask(&self, name: &str, now: Instant) -> (Option<Answer>, bool) {
        let Some(known) = self.names.get(name) else { return (None, true) };
        let found_within =
            |ttl| known.found.as_ref().filter(|(_, at)| is_within(*at, ttl, now)).map(|(a, _)| Ok(Arc::clone(a)));
        if let Some(fresh) = found_within(self.max_ttl) {
            return (Some(fresh), false);
        }
        let stale = found_within(self.max_ttl * 2);
        match known.failed.as_ref().filter(|(_, at)| is_within(*at, self.nxdomain_ttl, now)) {
            Some((why, _)) => (stale.or_else(|| Some(Err(Arc::clone(why)))), false),
            None => (stale, true),
        }
    }

    /// Names with servers that `ask` would look up.
    fn due(&self, now: Instant) -> Vec<String> {
        let in_use = |name: &Name| name.servers.iter().any(|server| server.strong_count() > 0);
        let names = self.names.iter().filter(|(name, known)| in_use(known) && self.ask(name, now).1);
        names.map(|(name, _)| name.clone()).collect()
    }

    /// Notes what a lookup found and has connections to addresses that are gone replaced.
    fn answered(&mut self, name: &str, found: io::Result<Vec<IpAddr>>, now: Instant) -> Answer {
        let known = self.names.entry(name.to_owned()).or_default();
        known.lookup = None;
        let answer = match found {
            Ok(addresses) if !addresses.is_empty() => {
                let addresses: Arc<[IpAddr]> = addresses.into();
                replace_gone(name, known, &addresses);
                (known.found, known.failed) = (Some((Arc::clone(&addresses), now)), None);
                Ok(addresses)
            }
            none => {
                let why = none.err().map_or_else(|| "no addresses".to_owned(), |error| error.to_string());
                log_at!(Warning, "DNS lookup failed: {name}: {why}");
                let why: Arc<str> = why.into();
                known.failed = Some((Arc::clone(&why), now));
                // As for those who did not wait: the old addresses may do for a while.
                let (max_ttl, found) = (self.max_ttl, &known.found);
                match found.as_ref().filter(|(_, at)| is_within(*at, max_ttl * 2, now)) {
                    Some((addresses, _)) => Ok(Arc::clone(addresses)),
                    None => Err(why),
                }
            }
        };
        self.forget(now);
        answer
    }

    /// Drops names that nobody has and that would have to be looked up anyway.
    fn forget(&mut self, now: Instant) {
        let (max_ttl, nxdomain_ttl) = (self.max_ttl, self.nxdomain_ttl);
        self.names.retain(|_, name| {
            name.servers.retain(|server| server.strong_count() > 0);
            let counts = name.found.as_ref().is_some_and(|(_, at)| is_within(*at, max_ttl * 2, now))
                || name.failed.as_ref().is_some_and(|(_, at)| is_within(*at, nxdomain_ttl, now));
            counts || name.is_looked_up() || !name.servers.is_empty()
        });
    }

    fn rotated(&mut self, name: &str, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut addresses = addresses.to_vec();
        if let Some(known) = self.names.get_mut(name) {
            let turn = known.turn % addresses.len().max(1);
            addresses.rotate_left(turn);
            known.turn = known.turn.wrapping_add(1);
        }
        addresses
    }

    fn rows(&self, now: Instant) -> Vec<HostRow> {
        let row = |(hostname, name): (&String, &Name)| {
            let (at, ttl) = match (&name.found, &name.failed) {
                (_, Some((_, at))) => (*at, self.nxdomain_ttl),
                (Some((_, at)), None) => (*at, self.max_ttl),
                (None, None) => (now, Duration::ZERO),
            };
            HostRow {
                hostname: hostname.clone(),
                ttl: ttl.saturating_sub(now.saturating_duration_since(at)),
                addresses: name.found.as_ref().map_or_else(Vec::new, |(addresses, _)| addresses.to_vec()),
            }
        };
        let mut rows: Vec<HostRow> = self.names.iter().map(row).collect();
        rows.sort_unstable_by(|a, b| a.hostname.cmp(&b.hostname));
        rows
    }
}

/// Servers at addresses that `name` had and has no more are closed once they are free.
fn replace_gone(name: &str, known: &Name, addresses: &[IpAddr]) {
    let is_gone = |server: &Arc<ServerInfo>| match &server.address {
        Address::Tcp(peer) => !addresses.contains(&peer.ip()),
        Address::Unix(_) => false,
    };
    let gone: Vec<_> = known.servers.iter().filter_map(Weak::upgrade).filter(is_gone).collect();
    gone.iter().for_each(|server| server.set_close_needed());
    if !gone.is_empty() {
        log_at!(
            Log,
            "DNS: {name} is now {addresses:?}: {} server connections to other addresses are replaced",
            gone.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Ends;
    use pgweir_proto::cancel::CancelKey;

    const TTL: Duration = Duration::from_secs(15);
    const NXDOMAIN_TTL: Duration = Duration::from_secs(5);

    fn ip(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    fn cache() -> Cache {
        Cache { max_ttl: TTL, nxdomain_ttl: NXDOMAIN_TTL, ..Cache::default() }
    }

    fn failed() -> io::Result<Vec<IpAddr>> {
        Err(io::Error::other("no such name"))
    }

    fn addresses(answer: Option<Answer>) -> Option<Vec<IpAddr>> {
        answer.map(|answer| answer.unwrap().to_vec())
    }

    fn server(id: u64, address: IpAddr) -> Arc<ServerInfo> {
        let peer = (address, 5432).into();
        let ends = Ends::Tcp { peer, local: peer };
        let key = CancelKey::parse(&[0; 8]).unwrap();
        Arc::new(ServerInfo::new(id, ends, Address::Tcp(peer), "u".into(), "d".into(), key, 1))
    }

    #[test]
    fn addresses_are_fresh_then_stale_then_gone() {
        let (mut cache, start) = (cache(), Instant::now());
        assert!(matches!(cache.ask("db", start), (None, true)));
        cache.answered("db", Ok(vec![ip(1)]), start).unwrap();
        let at = |after| cache.ask("db", start + after);
        let (fresh, due) = at(TTL - Duration::from_millis(1));
        assert_eq!((addresses(fresh), due), (Some(vec![ip(1)]), false));
        let (stale, due) = at(TTL);
        assert_eq!((addresses(stale), due), (Some(vec![ip(1)]), true));
        let (gone, due) = at(TTL * 2);
        assert_eq!((addresses(gone), due), (None, true));
    }

    #[test]
    fn failures_are_kept_for_their_own_time() {
        let (mut cache, start) = (cache(), Instant::now());
        assert!(cache.answered("db", failed(), start).is_err());
        let (answer, due) = cache.ask("db", start + NXDOMAIN_TTL - Duration::from_millis(1));
        assert!(answer.unwrap().unwrap_err().contains("no such name") && !due);
        assert!(matches!(cache.ask("db", start + NXDOMAIN_TTL), (None, true)));
        // No address is no answer either.
        assert!(cache.answered("db", Ok(Vec::new()), start).is_err());
    }

    #[test]
    fn a_resolver_that_is_down_for_a_moment_is_not_noticed() {
        let (mut cache, start) = (cache(), Instant::now());
        cache.answered("db", Ok(vec![ip(1)]), start).unwrap();
        assert_eq!(cache.answered("db", failed(), start + TTL).unwrap().to_vec(), [ip(1)]);
        let (answer, due) = cache.ask("db", start + TTL + Duration::from_secs(1));
        assert_eq!((addresses(answer), due), (Some(vec![ip(1)]), false));
        assert_eq!(cache.rows(start + TTL)[0].ttl, NXDOMAIN_TTL);
        assert!(cache.answered("db", failed(), start + TTL * 2).is_err());
    }

    #[test]
    fn addresses_take_turns() {
        let mut cache = cache();
        let known = cache.answered("db", Ok(vec![ip(1), ip(2), ip(3)]), Instant::now()).unwrap();
        let first: Vec<_> = (0..4).map(|_| cache.rotated("db", &known)[0]).collect();
        assert_eq!(first, [ip(1), ip(2), ip(3), ip(1)]);
    }

    #[test]
    fn servers_at_addresses_that_are_gone_are_replaced() {
        let (mut cache, start) = (cache(), Instant::now());
        cache.answered("db", Ok(vec![ip(1), ip(2)]), start).unwrap();
        let (old, kept) = (server(1, ip(1)), server(2, ip(2)));
        let weak = [&old, &kept].map(Arc::downgrade);
        cache.names.get_mut("db").unwrap().servers.extend(weak);
        assert_eq!(cache.due(start), [""; 0]);
        assert_eq!(cache.due(start + TTL), ["db"]);
        cache.answered("db", failed(), start + TTL).unwrap();
        assert!(!old.is_close_needed());
        cache.answered("db", Ok(vec![ip(2), ip(3)]), start + TTL).unwrap();
        assert!(old.is_close_needed() && !kept.is_close_needed());
    }

    #[test]
    fn names_that_nobody_uses_are_forgotten() {
        let (mut cache, start) = (cache(), Instant::now());
        for name in ["used", "unused"] {
            cache.answered(name, Ok(vec![ip(1)]), start).unwrap();
        }
        let server = server(1, ip(1));
        cache.names.get_mut("used").unwrap().servers.push(Arc::downgrade(&server));
        let names = |cache: &Cache| cache.rows(start).into_iter().map(|row| row.hostname).collect::<Vec<_>>();
        cache.forget(start + TTL);
        assert_eq!(names(&cache), ["unused", "used"]);
        cache.forget(start + TTL * 2);
        assert_eq!(names(&cache), ["used"]);
        drop(server);
        cache.forget(start + TTL * 2);
        assert_eq!(names(&cache), [""; 0]);
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_lookup() {
        let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
        let (answers, answer) = watch::channel(false);
        let lookup: Lookup = Box::new(move |name| {
            asked.send(name).unwrap();
            let mut answer = answer.clone();
            Box::pin(async move {
                answer.wait_for(|open| *open).await.map_err(io::Error::other)?;
                Ok(vec![ip(1), ip(2)])
            })
        });
        let hosts = Hosts::with_lookup(&Settings::default(), lookup);
        let ask = |hosts: &Arc<Hosts>| {
            let hosts = Arc::clone(hosts);
            tokio::spawn(async move { hosts.resolve("db").await.unwrap()[0] })
        };
        let waiting = [ask(&hosts), ask(&hosts)];
        assert_eq!(asks.recv().await.unwrap(), "db");
        assert_eq!(hosts.counts(), (1, 1));
        answers.send_replace(true);
        let mut first = Vec::new();
        for waiting in waiting {
            first.push(waiting.await.unwrap());
        }
        first.sort_unstable();
        assert_eq!(first, [ip(1), ip(2)]);
        assert_eq!(hosts.counts(), (1, 0));
        assert_eq!(hosts.snapshot()[0].addresses, [ip(1), ip(2)]);
        assert!(asks.try_recv().is_err(), "looked up again");
    }

    #[tokio::test]
    async fn the_system_knows_localhost_and_not_the_rest() {
        let hosts = Hosts::new(&Settings::default());
        assert!(hosts.resolve("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
        assert_eq!(hosts.resolve("::1").await.unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        assert!(hosts.resolve("no such host.invalid").await.is_err());
    }
}
