//! SCRAM keys of passwords, kept: making them takes longer than most queries.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use pgweir_config::Secret;
use pgweir_proto::scram::{Challenge, ScramKeys};

/// The latest keys of each user. Servers of one cluster, and its replicas, ask for the same.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    /// Protects the map; not held while keys are made.
    users: Mutex<HashMap<Arc<str>, Entry>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    password: Secret,
    salt: Vec<u8>,
    iterations: NonZeroU32,
    keys: ScramKeys,
}

impl KeyCache {
    /// The keys that `challenge` asks for. `None` if the runtime is shutting down.
    pub(super) async fn keys(&self, user: &Arc<str>, password: &Secret, challenge: &Challenge) -> Option<ScramKeys> {
        let (salt, iterations) = (challenge.salt().to_vec(), challenge.iterations());
        let is_for =
            |entry: &&Entry| entry.password == *password && entry.salt == salt && entry.iterations == iterations;
        if let Some(entry) = self.users.lock().unwrap_or_else(PoisonError::into_inner).get(user).filter(is_for) {
            return Some(entry.keys.clone());
        }
        let password = password.clone();
        let making = tokio::task::spawn_blocking(move || {
            let keys = ScramKeys::from_password(password.expose().as_bytes(), &salt, iterations);
            Entry { password, salt, iterations, keys }
        });
        let entry = making.await.ok()?;
        let keys = entry.keys.clone();
        self.users.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(user), entry);
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgweir_proto::scram::ScramClient;

    fn challenge(salt: &str, iterations: u32) -> Challenge {
        let client = ScramClient::new([1; 18]);
        let nonce = client.client_first().split_once("r=").unwrap().1.to_owned();
        client.server_first(format!("r={nonce}x,s={salt},i={iterations}").as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn keys_are_made_once_per_password_salt_and_count() {
        let (user, cache, password) = (Arc::from("bob"), KeyCache::default(), Secret::new("secret"));
        let made = cache.keys(&user, &password, &challenge("AAAA", 2)).await.unwrap();
        // What is in the cache now is what comes out of it.
        let other = ScramKeys::from_password(b"x", b"x", NonZeroU32::MIN);
        cache.users.lock().unwrap().get_mut(&user).unwrap().keys = other.clone();
        assert_eq!(cache.keys(&user, &password, &challenge("AAAA", 2)).await, Some(other.clone()));
        for (password, challenge) in [
            (Secret::new("other"), challenge("AAAA", 2)),
            (password.clone(), challenge("AAAB", 2)),
            (password.clone(), challenge("AAAA", 3)),
        ] {
            let fresh = cache.keys(&user, &password, &challenge).await.unwrap();
            assert!(fresh != other && fresh != made);
        }
        assert_eq!(cache.keys(&user, &password, &challenge("AAAA", 2)).await, Some(made));
    }
}
