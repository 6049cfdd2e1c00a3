//! What logins share for the life of the process.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgweir_proto::scram::{SaltSecret, Verifier};
use ring::hmac;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::random::random_bytes;

/// Verifiers that are kept. Only users with a password in clear text have one.
const VERIFIERS_MAX: usize = 10_000;

pub(crate) struct AuthContext {
    salts: SaltSecret,
    /// One permit per computation under way. They must not take all cores from the relay.
    computing: Arc<Semaphore>,
    /// By user, at most [`VERIFIERS_MAX`]. Locked for a look-up or an insertion.
    verifiers: Mutex<HashMap<String, Made>>,
    /// What passwords in clear text are noted under; as good as they are, but no longer than
    /// this process.
    notes: hmac::Key,
    /// Passwords that have passed against a verifier: of each user the last, as many as
    /// verifiers. Locked likewise.
    passed: Mutex<HashMap<String, hmac::Tag>>,
}

/// A verifier and what it was made of.
struct Made {
    password: String,
    iterations: NonZeroU32,
    verifier: Verifier,
}

impl AuthContext {
    pub(crate) fn new() -> AuthContext {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        AuthContext {
            salts: SaltSecret::new(random_bytes()),
            computing: Arc::new(Semaphore::new((cores / 2).max(1))),
            verifiers: Mutex::default(),
            notes: hmac::Key::new(hmac::HMAC_SHA256, &random_bytes::<32>()),
            passed: Mutex::default(),
        }
    }

    pub(super) fn salts(&self) -> &SaltSecret {
        &self.salts
    }

    /// Runs a computation of milliseconds on a thread that serves no clients. `None` if the
    /// runtime shuts down first.
    pub(super) async fn compute<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let permit = Arc::clone(&self.computing).acquire_owned().await.ok()?;
        // The permit goes with the job: a login that times out does not stop it.
        let job = move || {
            let result = job();
            drop(permit);
            result
        };
        spawn_blocking(job).await.ok()
    }

    /// The verifier of a password in clear text, made at the first login that needs it. The
    /// salt is the one that the user would have without existing.
    pub(super) async fn verifier(&self, user: &str, password: &str, iterations: NonZeroU32) -> Option<Verifier> {
        if let Some(verifier) = self.kept(user, password, iterations) {
            return Some(verifier);
        }
        let (salt, owned) = (self.salts.salt(user), password.to_owned());
        let make = move || Verifier::from_password(owned.as_bytes(), &salt, iterations);
        let verifier = self.compute(make).await?;
        let made = Made { password: password.to_owned(), iterations, verifier: verifier.clone() };
        self.keep(user, made);
        Some(verifier)
    }

    /// Whether `password` in clear text is the one behind `verifier`, by a computation, or by
    /// one HMAC if it has passed before. A wrong one never passes sooner. `None` as in `compute`.
    pub(super) async fn verify(&self, user: &str, verifier: Verifier, password: &[u8]) -> Option<bool> {
        let note = self.note(&verifier, password);
        let is_noted = |noted: &hmac::Tag| bool::from(noted.as_ref().ct_eq(note.as_ref()));
        if lock(&self.passed).get(user).is_some_and(is_noted) {
            return Some(true);
        }
        let password = password.to_vec();
        let passes = self.compute(move || verifier.verify_password(&password)).await?;
        if passes {
            insert(&mut lock(&self.passed), user, note);
        }
        Some(passes)
    }

    fn note(&self, verifier: &Verifier, password: &[u8]) -> hmac::Tag {
        // The stored form holds no NUL.
        hmac::sign(&self.notes, &[verifier.to_stored().as_bytes(), b"\0", password].concat())
    }

    fn kept(&self, user: &str, password: &str, iterations: NonZeroU32) -> Option<Verifier> {
        let verifiers = lock(&self.verifiers);
        let made = verifiers.get(user)?;
        (made.password == password && made.iterations == iterations).then(|| made.verifier.clone())
    }

    /// Takes the place of what was made of the user's earlier password.
    fn keep(&self, user: &str, made: Made) {
        insert(&mut lock(&self.verifiers), user, made);
    }

    /// As if the runtime were shutting down: whatever needs a computation fails.
    #[cfg(test)]
    pub(super) fn stop_computing(&self) {
        self.computing.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps one more user's, for which another's may have to go.
fn insert<T>(users: &mut HashMap<String, T>, user: &str, value: T) {
    if users.len() >= VERIFIERS_MAX && !users.contains_key(user) {
        let victim = users.keys().next().cloned();
        victim.and_then(|victim| users.remove(&victim));
    }
    users.insert(user.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(password: &str) -> Made {
        let verifier = SaltSecret::new([1; 32]).mock_verifier("u", NonZeroU32::MIN);
        Made { password: password.to_owned(), iterations: NonZeroU32::MIN, verifier }
    }

    #[test]
    fn verifiers_are_kept_for_one_password_and_a_limited_number_of_users() {
        let context = AuthContext::new();
        let is_kept = |user: &str, password| context.kept(user, password, NonZeroU32::MIN).is_some();
        context.keep("u", made("old"));
        context.keep("u", made("new"));
        assert!(is_kept("u", "new") && !is_kept("u", "old") && !is_kept("v", "new"));
        assert!(context.kept("u", "new", NonZeroU32::new(2).unwrap()).is_none());
        for i in 0..VERIFIERS_MAX {
            context.keep(&format!("u{i}"), made("x"));
        }
        assert_eq!(lock(&context.verifiers).len(), VERIFIERS_MAX);
        assert!(is_kept(&format!("u{}", VERIFIERS_MAX - 1), "x"));
    }

    #[tokio::test]
    async fn a_password_that_has_passed_is_not_computed_again() {
        let context = AuthContext::new();
        let verifier = |password: &[u8]| Verifier::from_password(password, b"salt", NonZeroU32::MIN);
        assert_eq!(context.verify("u", verifier(b"right"), b"wrong").await, Some(false));
        assert_eq!(context.verify("u", verifier(b"right"), b"right").await, Some(true));
        context.stop_computing();
        assert_eq!(context.verify("u", verifier(b"right"), b"right").await, Some(true));
        // Everything else would have to be computed.
        assert_eq!(context.verify("u", verifier(b"right"), b"wrong").await, None);
        assert_eq!(context.verify("u", verifier(b"changed"), b"right").await, None);
        assert_eq!(context.verify("v", verifier(b"right"), b"right").await, None);
    }

    #[tokio::test]
    async fn a_login_that_gives_up_leaves_its_computation_counted() {
        let context = AuthContext::new();
        let permits = context.computing.available_permits();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, is_started) = tokio::sync::oneshot::channel();
        let job = move || {
            let _ = started.send(());
            let _ = wait.recv();
        };
        tokio::select! {
            biased;
            _ = context.compute(job) => panic!("nobody let it go on"),
            started = is_started => started.unwrap(),
        }
        assert_eq!(context.computing.available_permits(), permits - 1);
        go.send(()).unwrap();
        let all = u32::try_from(permits).unwrap();
        let back = context.computing.acquire_many(all);
        let limit = std::time::Duration::from_secs(10);
        assert!(tokio::time::timeout(limit, back).await.is_ok());
    }
}
