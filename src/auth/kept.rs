//! What takes long to make of a secret, made once and kept for as long as the process runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::hmac;
use tokio::sync::OnceCell;

use super::random::random_bytes;

/// Things that are kept. Another one takes the place of any.
const KEPT_MAX: usize = 10_000;

/// Says what a thing was made of, to us and to nobody else: an HMAC of it under a key that lives
/// no longer than the process. So no secret is kept, what has changed is not found, and how long
/// a look-up takes tells nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Note([u8; 32]);

/// At most [`KEPT_MAX`] things.
pub(crate) struct Kept<V> {
    notes: hmac::Key,
    /// Locked for a look-up or a change, and not while things are made.
    things: Mutex<HashMap<Note, Arc<OnceCell<V>>>>,
}

impl<V> Default for Kept<V> {
    fn default() -> Kept<V> {
        Kept { notes: hmac::Key::new(hmac::HMAC_SHA256, &random_bytes::<32>()), things: Mutex::default() }
    }
}

impl<V: Clone> Kept<V> {
    fn things(&self) -> MutexGuard<'_, HashMap<Note, Arc<OnceCell<V>>>> {
        // Nothing under this lock panics.
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, made_of: &[&[u8]]) -> Note {
        let mut context = hmac::Context::with_key(&self.notes);
        for part in made_of {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut note = [0; 32];
        note.copy_from_slice(context.sign().as_ref());
        Note(note)
    }

    pub(crate) fn get(&self, note: &Note) -> Option<V> {
        self.things().get(note)?.get().cloned()
    }

    /// The thing that is kept, or what `make` gives. Whoever asks meanwhile waits for that.
    pub(crate) async fn get_or_make(&self, note: Note, make: impl Future<Output = Option<V>>) -> Option<V> {
        let cell = Arc::clone(insert(&mut self.things(), note, Arc::default()));
        let made = cell.get_or_try_init(async || make.await.ok_or(())).await;
        made.ok().cloned()
    }

    pub(crate) fn keep(&self, note: Note, thing: V) {
        insert(&mut self.things(), note, Arc::new(OnceCell::new_with(Some(thing))));
    }

    /// A reload: secrets may have changed, and what was made of the old ones is of no use.
    pub(crate) fn clear(&self) {
        self.things().clear();
    }
}

/// What is kept under `note`, which is `thing` if there was nothing.
fn insert<T>(things: &mut HashMap<Note, T>, note: Note, thing: T) -> &T {
    if things.len() >= KEPT_MAX && !things.contains_key(&note) {
        let victim = things.keys().next().copied();
        victim.and_then(|victim| things.remove(&victim));
    }
    things.entry(note).or_insert(thing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn things_are_made_once() {
        let kept = Kept::default();
        let note = kept.note(&[b"user", b"password"]);
        assert_eq!(kept.get_or_make(note, async { None }).await, None);
        let (slow, second) = (
            async {
                tokio::task::yield_now().await;
                Some(1)
            },
            async { panic!("made twice") },
        );
        let both = tokio::join!(kept.get_or_make(note, slow), kept.get_or_make(note, second));
        assert_eq!(both, (Some(1), Some(1)));
        assert_eq!(kept.get(&note), Some(1));
        for other in [&[&b"user"[..], b"other"][..], &[b"userpassword"], &[b"userp", b"assword"], &[]] {
            assert_eq!(kept.get(&kept.note(other)), None);
        }
        // Notes of one process, or of one purpose, are no other's.
        assert!(Kept::<u8>::default().note(&[b"user", b"password"]) != note);
        kept.clear();
        assert_eq!(kept.get(&note), None);
    }

    #[test]
    fn a_limited_number_is_kept() {
        let kept = Kept::default();
        for i in 0..KEPT_MAX + 10 {
            kept.keep(kept.note(&[&i.to_be_bytes()]), i);
        }
        assert_eq!(kept.things().len(), KEPT_MAX);
        let last = KEPT_MAX + 9;
        assert_eq!(kept.get(&kept.note(&[&last.to_be_bytes()])), Some(last));
    }
}
