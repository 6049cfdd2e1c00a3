//! SCRAM keys of passwords, kept: making them takes longer than most queries.

use std::fmt;

use pgweir_config::Secret;
use pgweir_proto::scram::{Challenge, ScramKeys};

use crate::auth::{Computing, Kept};

/// The keys of passwords under the salts and counts that servers have asked for. Servers of one
/// cluster, and its replicas, ask for the same.
#[derive(Default)]
pub(crate) struct KeyCache {
    computing: Computing,
    made: Kept<ScramKeys>,
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyCache(..)")
    }
}

impl KeyCache {
    /// The keys that `challenge` asks for. `None` if the runtime is shutting down.
    pub(super) async fn keys(&self, password: &Secret, challenge: &Challenge) -> Option<ScramKeys> {
        let (password, salt, iterations) = (password.expose().as_bytes(), challenge.salt(), challenge.iterations());
        let note = self.made.note(&[password, salt, &iterations.get().to_be_bytes()]);
        self.made.get_or_make(note, self.computing.keys(password, salt, iterations)).await
    }

    /// A reload: passwords may have changed.
    pub(crate) fn clear(&self) {
        self.made.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgweir_proto::scram::{ChannelBinding, ScramClient};
    use std::num::NonZeroU32;

    fn challenge(salt: &str, iterations: u32) -> Challenge {
        let client = ScramClient::new([1; 18], ChannelBinding::Unavailable);
        let nonce = client.client_first().split_once("r=").unwrap().1.to_owned();
        client.server_first(format!("r={nonce}x,s={salt},i={iterations}").as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn keys_are_made_once_per_password_salt_and_count() {
        let (cache, password) = (KeyCache::default(), Secret::new("secret"));
        let keys = async |password: &str, salt, iterations| {
            cache.keys(&Secret::new(password), &challenge(salt, iterations)).await
        };
        // Servers of two clusters, logged in to in turn.
        for _ in 0..3 {
            for (salt, iterations) in [("AAAA", 2), ("AAAB", 2), ("AAAA", 3)] {
                let made = ScramKeys::from_password(
                    b"secret",
                    challenge(salt, iterations).salt(),
                    NonZeroU32::new(iterations).unwrap(),
                );
                assert_eq!(cache.keys(&password, &challenge(salt, iterations)).await, Some(made));
            }
        }
        assert_eq!(cache.computing.iterations(), 2 + 2 + 3);
        assert_ne!(keys("other", "AAAA", 2).await, keys("secret", "AAAA", 2).await);
        assert_eq!(cache.computing.iterations(), 7 + 2);
        cache.clear();
        keys("secret", "AAAA", 2).await.unwrap();
        assert_eq!(cache.computing.iterations(), 9 + 2);
    }
}
