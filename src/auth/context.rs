//! What logins share for the life of the process.

use std::num::NonZeroU32;

use pgweir_proto::scram::{SaltSecret, Verifier};
use tokio::runtime::Handle;

use super::computing::Computing;
use super::kept::Kept;
use super::outside::Places;
use super::random::random_bytes;

pub(crate) struct AuthContext {
    salts: SaltSecret,
    /// Threads that give way to the data path.
    beside: Handle,
    pub(super) computing: Computing,
    /// Of users with a password in clear text.
    verifiers: Kept<Verifier>,
    /// Passwords in clear text that have passed against a verifier.
    passed: Kept<()>,
    pub(crate) places: Places,
}

impl AuthContext {
    pub(crate) fn new(beside: Handle) -> AuthContext {
        AuthContext {
            salts: SaltSecret::new(random_bytes()),
            computing: Computing::new(Some(beside.clone())),
            beside,
            verifiers: Kept::default(),
            passed: Kept::default(),
            places: Places::new(),
        }
    }

    /// Where to compute what takes long.
    pub(crate) fn beside(&self) -> &Handle {
        &self.beside
    }

    pub(super) fn salts(&self) -> &SaltSecret {
        &self.salts
    }

    /// The secrets of users have changed.
    pub(crate) fn forget(&self) {
        self.verifiers.clear();
        self.passed.clear();
    }

    /// The verifier of a password in clear text, made at the first login that needs it, and
    /// whether that was now. The salt is the one that the user would have without existing.
    /// `None` if the runtime shuts down first.
    pub(super) async fn verifier(
        &self,
        user: &str,
        password: &str,
        iterations: NonZeroU32,
    ) -> Option<(Verifier, bool)> {
        let made_of = [user.as_bytes(), password.as_bytes(), &iterations.get().to_be_bytes()];
        let note = self.verifiers.note(&made_of);
        if let Some(verifier) = self.verifiers.get(&note) {
            return Some((verifier, false));
        }
        let salt = self.salts.salt(user);
        let make = async {
            let keys = self.computing.keys(password.as_bytes(), &salt, iterations).await?;
            Some(Verifier::from_keys(&keys, &salt, iterations))
        };
        let verifier = self.verifiers.get_or_make(note, make).await?;
        Some((verifier, true))
    }

    /// Whether `password` in clear text is the one behind `verifier`, by a computation, or by
    /// one HMAC if it has passed before. A wrong one never passes sooner. `None` as in `verifier`.
    pub(super) async fn verify(&self, verifier: &Verifier, password: &[u8]) -> Option<bool> {
        let note = self.passed.note(&[verifier.to_stored().as_bytes(), password]);
        if self.passed.get(&note).is_some() {
            return Some(true);
        }
        let (salt, iterations) = (verifier.salt(), verifier.iterations());
        let keys = self.computing.keys(password, salt, iterations).await?;
        let passes = *verifier == Verifier::from_keys(&keys, salt, iterations);
        if passes {
            self.passed.keep(note, ());
        }
        Some(passes)
    }

    /// Takes as long as making the verifier of a user who has a password.
    pub(super) async fn take_as_long(&self, iterations: NonZeroU32) -> Option<()> {
        self.computing.keys(b"", b"", iterations).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_that_has_passed_is_not_computed_again() {
        let context = AuthContext::new(Handle::current());
        let verifier = |password: &[u8]| Verifier::from_password(password, b"salt", NonZeroU32::MIN);
        assert_eq!(context.verify(&verifier(b"right"), b"wrong").await, Some(false));
        assert_eq!(context.verify(&verifier(b"right"), b"right").await, Some(true));
        context.computing.stop();
        assert_eq!(context.verify(&verifier(b"right"), b"right").await, Some(true));
        // Everything else would have to be computed.
        assert_eq!(context.verify(&verifier(b"right"), b"wrong").await, None);
        assert_eq!(context.verify(&verifier(b"changed"), b"right").await, None);
        context.forget();
        assert_eq!(context.verify(&verifier(b"right"), b"right").await, None);
    }

    #[tokio::test]
    async fn a_verifier_is_made_once_per_password_and_count() {
        let context = AuthContext::new(Handle::current());
        let (one, two) = (NonZeroU32::MIN, NonZeroU32::new(2).unwrap());
        let made = |user, password, iterations| context.verifier(user, password, iterations);
        let (verifier, is_new) = made("u", "old", one).await.unwrap();
        assert!(is_new && verifier.verify_password(b"old"));
        assert_eq!(made("u", "old", one).await, Some((verifier, false)));
        for (user, password, iterations) in [("u", "new", one), ("v", "old", one), ("u", "old", two)] {
            assert!(made(user, password, iterations).await.unwrap().1);
        }
        context.forget();
        assert!(made("u", "old", one).await.unwrap().1);
    }
}
