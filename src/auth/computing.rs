//! PBKDF2, which takes a millisecond for 4096 iterations: on threads that serve no clients.

use std::num::NonZeroU32;
use std::sync::Arc;

use pgweir_proto::scram::{ITERATIONS_MAX, ScramKeys};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// One permit per computation under way. They must not take all cores from the relay.
pub(crate) struct Computing {
    permits: Arc<Semaphore>,
    /// Whose threads compute; `None`: those of the runtime that asks.
    beside: Option<Handle>,
    #[cfg(test)]
    iterations: std::sync::atomic::AtomicU64,
}

impl Default for Computing {
    fn default() -> Computing {
        Computing::new(None)
    }
}

impl Computing {
    pub(crate) fn new(beside: Option<Handle>) -> Computing {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Computing {
            permits: Arc::new(Semaphore::new((cores / 2).max(1))),
            beside,
            #[cfg(test)]
            iterations: Default::default(),
        }
    }

    /// `None` if the runtime shuts down first, and for more than [`ITERATIONS_MAX`].
    pub(crate) async fn keys(&self, password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Option<ScramKeys> {
        if iterations.get() > ITERATIONS_MAX {
            return None;
        }
        #[cfg(test)]
        self.iterations.fetch_add(iterations.get().into(), std::sync::atomic::Ordering::Relaxed);
        let (password, salt) = (password.to_vec(), salt.to_vec());
        self.run(move || ScramKeys::from_password(&password, &salt, iterations)).await
    }

    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        // The permit goes with the job: a login that times out does not stop it.
        let job = move || {
            let result = job();
            drop(permit);
            result
        };
        let computing = match &self.beside {
            Some(beside) => beside.spawn_blocking(job),
            None => spawn_blocking(job),
        };
        computing.await.ok()
    }
}

#[cfg(test)]
impl Computing {
    /// How many iterations were asked for so far.
    pub(crate) fn iterations(&self) -> u64 {
        self.iterations.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// As if the runtime were shutting down: whatever needs a computation fails.
    pub(crate) fn stop(&self) {
        self.permits.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_login_that_gives_up_leaves_its_computation_counted() {
        let computing = Computing::default();
        let permits = computing.permits.available_permits();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, is_started) = tokio::sync::oneshot::channel();
        let job = move || {
            let _ = started.send(());
            let _ = wait.recv();
        };
        tokio::select! {
            biased;
            _ = computing.run(job) => panic!("nobody let it go on"),
            started = is_started => started.unwrap(),
        }
        assert_eq!(computing.permits.available_permits(), permits - 1);
        go.send(()).unwrap();
        let all = u32::try_from(permits).unwrap();
        let back = computing.permits.acquire_many(all);
        let limit = std::time::Duration::from_secs(10);
        assert!(tokio::time::timeout(limit, back).await.is_ok());
    }

    #[tokio::test]
    async fn nobody_makes_us_compute_for_hours() {
        let computing = Computing::default();
        assert_eq!(computing.keys(b"x", b"salt", NonZeroU32::MAX).await, None);
        assert_eq!(computing.iterations(), 0);
    }
}
