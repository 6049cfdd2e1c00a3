//! Pools go to the process that takes over, or come from the one before.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pgweir_proto::scram::ScramKeys;

use super::launch::Room;
use super::{Membership, Pools, ServerPool};
use crate::net::clock;
use crate::pool::{Permit, ServerState};
use crate::relay::Statement;
use crate::server::Server;
use crate::server::connect::{ServerSecret, Welcome};
use crate::server::handover::Adopter;
use crate::takeover::record::{DatabaseRecord, Keys, PoolRecord, PoolSecret, ServerRecord, StateRecord};
use crate::takeover::{Carried, Giver};

/// A pool of the process before.
pub(crate) struct ElderPool {
    database: Arc<str>,
    user: Arc<str>,
    /// The pool here when it was told of, whose statements it has.
    pub(crate) pool: Arc<ServerPool>,
    /// The servers of that time, as `ServerPool::epoch` counts; `None`: what comes was never as good as those made here.
    epoch: Option<u32>,
}

impl ElderPool {
    /// So many of its servers are still to come; none are made in their place.
    pub(crate) fn expect(&self, coming: u32) {
        if self.epoch.is_some() {
            self.pool.core.expect(coming);
            self.pool.launch();
        }
    }
}

/// What an [`ElderPool`] is here at a certain moment.
pub(crate) struct AdoptedPool {
    pub(crate) member: Membership,
    /// Servers that come are as good as those made here.
    pub(crate) is_same: bool,
}

impl Pools {
    pub(crate) fn state_record(&self) -> StateRecord {
        let of = |database: Arc<super::entries::Database>| DatabaseRecord {
            name: database.name.to_string(),
            is_paused: database.is_paused(),
            is_killed: database.is_killed(),
            is_disabled: database.is_disabled(),
        };
        StateRecord { is_paused: self.is_paused(), databases: self.databases().into_iter().map(of).collect() }
    }

    /// PAUSE, KILL and DISABLE, as they are in the process before.
    pub(crate) fn adopt_state(&self, StateRecord { is_paused, databases }: &StateRecord) {
        if *is_paused {
            self.pause(None);
        }
        for record in databases.iter().filter(|record| record.is_paused || record.is_disabled) {
            let Some(database) = self.database(&record.name) else { continue };
            database.set_disabled(record.is_disabled);
            match (record.is_killed, record.is_paused) {
                (true, _) => database.set_killed(),
                (false, true) => self.pause(Some(&database)),
                (false, false) => {}
            }
        }
    }

    /// `None`: this process has no such database.
    pub(crate) fn adopt_pool(self: &Arc<Self>, record: PoolRecord) -> Option<ElderPool> {
        let database = self.database(&record.database)?;
        let pool = Arc::clone(&self.join(&database, &record.user).pool);
        // What comes has no TLS.
        let is_same = database.entry().connection_text() == record.connection && !self.tls().dialer.is_required();
        if is_same && pool.welcome().is_none() {
            pool.set_welcome(record.welcome.map(|parameters| Arc::new(Welcome { parameters })));
        }
        if pool.learned_secret() == ServerSecret::None {
            pool.learn_secret(match record.secret {
                PoolSecret::None {} => ServerSecret::None,
                PoolSecret::Plain { secret } => ServerSecret::Plain(secret),
                PoolSecret::Md5 { secret } => ServerSecret::Md5(secret),
                PoolSecret::Scram { keys } => ServerSecret::Scram(ScramKeys::from_bytes(&keys.0)),
            });
        }
        let epoch = is_same.then(|| pool.epoch.load(Ordering::Relaxed));
        Some(ElderPool { database: record.database, user: record.user, pool, epoch })
    }

    /// As it is by now: what has come to the pool may be gone, made anew, or obsolete. `None`: the database was removed.
    pub(crate) fn adopted(self: &Arc<Self>, elder: &ElderPool) -> Option<AdoptedPool> {
        let member = self.join(&self.database(&elder.database)?, &elder.user);
        let epoch = Some(member.pool.epoch.load(Ordering::Relaxed));
        let is_same = Arc::ptr_eq(&member.pool, &elder.pool) && epoch == elder.epoch;
        Some(AdoptedPool { member, is_same })
    }

    /// The process gives its clients to another one: it keeps no more servers than clients, and makes none in
    /// advance.
    pub(crate) fn set_giver(&self, giver: Option<Giver>) {
        self.giving.send_replace(giver);
    }

    pub(super) fn is_giving(&self) -> bool {
        self.giving.borrow().is_some()
    }

    /// Where clients are given, as soon as they are.
    pub(crate) async fn giver(&self) -> Giver {
        let mut giving = self.giving.subscribe();
        let giver = giving.wait_for(Option::is_some).await.ok().and_then(|giver| giver.clone());
        match giver {
            Some(giver) => giver,
            // It ends with the process only.
            None => std::future::pending().await,
        }
    }
}

impl ServerPool {
    pub(crate) fn record(&self) -> PoolRecord {
        PoolRecord {
            number: self.number,
            database: Arc::clone(&self.database.name),
            user: Arc::clone(&self.user.name),
            connection: self.database.entry().connection_text(),
            secret: match self.learned_secret() {
                ServerSecret::None => PoolSecret::None {},
                ServerSecret::Plain(secret) => PoolSecret::Plain { secret },
                ServerSecret::Md5(secret) => PoolSecret::Md5 { secret },
                ServerSecret::Scram(keys) => PoolSecret::Scram { keys: Keys(keys.to_bytes()) },
            },
            welcome: self.welcome().map(|welcome| welcome.parameters.clone()),
        }
    }

    /// Takes out the idle servers that the clients which are left have no use for. Those that another process
    /// cannot go on with are closed.
    pub(crate) fn take_spare(&self) -> impl Iterator<Item = Box<Server>> + use<> {
        let clients = self.client_count();
        let mut left = self.counts().connected();
        let spare = self.core.take_idle(|_, _, _| {
            let is_spare = left > clients;
            left -= u32::from(is_spare);
            is_spare
        });
        let mut fit = Vec::new();
        for server in spare {
            match server.reason_to_drop() {
                Some(reason) => server.close(reason),
                None if server.info.is_close_needed() => server.close("obsolete connection"),
                None if !server.is_resting() => server.close("cannot go to the process that takes over"),
                None => fit.push(server),
            }
        }
        fit.into_iter()
    }

    /// A server that a client of this pool had now belongs to another process.
    pub(crate) fn gave_away(self: &Arc<Self>, server: Box<Server>) {
        drop(server);
        self.core.closed(ServerState::Active);
        self.freed();
    }

    /// Makes a server of another process one of this pool.
    pub(crate) fn adopt_server(
        self: &Arc<Self>,
        record: ServerRecord,
        fd: OwnedFd,
        permits: [Permit; 2],
        statement: &dyn Fn(u64) -> Option<Arc<Statement>>,
    ) -> Option<Box<Server>> {
        let pools = self.pools.upgrade()?;
        let adopter = Adopter {
            registry: &pools.registry,
            tracked: &pools.tracked,
            database: &self.database.name,
            user: &self.user.name,
            statement,
        };
        let server = Server::adopt(record, fd, permits, &adopter)?;
        pools.connector.hosts.note_server(server.info.host(), &server.info);
        Some(Box::new(server))
    }

    /// Permits for a server that is there already, whatever the limits say.
    pub(crate) fn permits_beyond_limits(&self) -> Option<[Permit; 2]> {
        Some([self.database.servers.try_take(0)?, self.user.servers.try_take(0)?])
    }

    /// The same, unless there are too many already.
    pub(crate) fn permits_within_limits(self: &Arc<Self>) -> Option<[Permit; 2]> {
        self.pools.upgrade()?.permits(self, Room::Taken)
    }

    /// An adopted server that nobody uses.
    pub(crate) fn add_idle(self: &Arc<Self>, server: Box<Server>) {
        self.core.adopt(ServerState::Login);
        self.give_back(ServerState::Login, server, None, clock::now_us());
    }

    /// An adopted server that its client is linked to.
    pub(crate) fn count_active(&self) {
        self.core.adopt(ServerState::Active);
    }
}

/// What of a server goes over.
pub(crate) fn parcel(server: &Server, pool: &ServerPool) -> Option<(Carried, Vec<Arc<Statement>>, Vec<OwnedFd>)> {
    let pools = pool.pools.upgrade()?;
    let (record, statements) = server.record(pool.number, &pools.tracked)?;
    let fd = server.duplicate_socket().ok()?;
    Some((Carried::Server(Box::new(record)), statements, vec![fd]))
}
