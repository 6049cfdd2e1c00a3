//! A new configuration takes the place of the old one, all at once.

use std::sync::{Arc, PoisonError};

use pgweir_config::Config;

use super::{Pools, ServerPool};
use crate::net::tls::TlsSetup;

impl Pools {
    /// Puts `config` in force: pools grow and shrink in place, changed databases get new
    /// servers, removed ones lose theirs. Returns whether TLS towards servers has changed.
    pub(crate) fn reload(self: &Arc<Self>, config: Arc<Config>, tls: Arc<TlsSetup>) -> bool {
        let old_tls = self.renew_tls(Arc::clone(&tls));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&config);
        let is_tls_new = !tls.dialer.is_like(&old_tls.dialer);
        if is_tls_new {
            self.pools().iter().for_each(ServerPool::make_obsolete);
        }
        for name in config.databases.keys() {
            self.database(name);
        }
        for database in self.databases() {
            let before = database.entry();
            match config.database(&database.name) {
                None => self.remove_database(&database.name),
                Some(after) if *after != *before => {
                    database.set_entry(Arc::clone(&after));
                    if !before.connects_like(&after) {
                        self.pools_of(Some(&database)).iter().for_each(ServerPool::make_obsolete);
                    }
                }
                Some(_) => {}
            }
        }
        self.peers.configure(&config);
        self.lookups.clear();
        for pool in self.pools() {
            pool.configure(self);
            pool.launch();
        }
        is_tls_new
    }

    /// Puts `tls` in force for new connections, and returns what was.
    pub(crate) fn renew_tls(&self, tls: Arc<TlsSetup>) -> Arc<TlsSetup> {
        std::mem::replace(&mut *self.tls.write().unwrap_or_else(PoisonError::into_inner), tls)
    }

    /// Clients of a removed database are told when they next need a server.
    fn remove_database(&self, name: &str) {
        let mut maps = self.maps();
        maps.databases.remove(name);
        let mut gone = Vec::new();
        maps.pools.retain(|(database, _), pool| {
            let keep = &**database != name;
            if !keep {
                gone.push(Arc::clone(pool));
            }
            keep
        });
        drop(maps);
        for pool in gone {
            pool.set_removed();
            // A client of replication might never need another server.
            pool.servers().iter().for_each(|server| server.set_close_needed());
            pool.retire("database removed");
            pool.core.turn_away();
        }
    }
}
