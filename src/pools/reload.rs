//! A new configuration takes the place of the old one, all at once.

use std::sync::{Arc, PoisonError};

use pgweir_config::Config;

use super::{Pools, ServerPool};
use crate::net::tls::TlsSetup;

impl Pools {
    /// Puts `config` in force: pools grow and shrink in place, changed databases get new
    /// servers, removed ones lose theirs. Returns what changed, for the log.
    pub(crate) fn reload(self: &Arc<Self>, config: Arc<Config>, tls: Arc<TlsSetup>) -> Vec<String> {
        let old_tls = self.renew_tls(Arc::clone(&tls));
        let old =
            std::mem::replace(&mut *self.config.write().unwrap_or_else(PoisonError::into_inner), Arc::clone(&config));
        let mut changes = Vec::new();
        if !tls.dialer.is_like(&old_tls.dialer) {
            changes.push("TLS towards servers changed".to_owned());
            self.pools().iter().for_each(ServerPool::make_obsolete);
        }
        for name in config.databases.keys() {
            if !old.databases.contains_key(name) {
                changes.push(format!("database added: {name}"));
            }
            self.database(name);
        }
        for database in self.databases() {
            let before = database.entry();
            match config.database(&database.name) {
                None => {
                    changes.push(format!("database removed: {}", database.name));
                    self.remove_database(&database.name);
                }
                Some(after) if *after != *before => {
                    changes.push(format!("database changed: {}", database.name));
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
        changes
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
