//! Which handles the directory looks at next, to let go of those that nobody uses.
//!
//! Guarantees: a handle is looked at when its time may have come, about once in
//! `wake.forget_after`, however many others there are; one that is known to be gone is given back at
//! once; what is kept here is bounded by the number of handles.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::names::PlaneIndex;
use hypeman::InstanceId;

/// An instance of a control plane.
pub(super) type Key = (PlaneIndex, InstanceId);

/// There may be so many looks more than twice the handles before those at handles that are gone are
/// dropped.
const SPARE: usize = 1024;

/// The looks that are to come.
#[derive(Default)]
pub(super) struct Expiry {
    looks: Mutex<BinaryHeap<Reverse<(Instant, Key)>>>,
    gone: Mutex<Vec<Key>>,
}

// === impl Expiry ===

impl Expiry {
    /// The handle is looked at then.
    pub(super) fn look_at(&self, key: Key, at: Instant) {
        lock(&self.looks).push(Reverse((at, key)));
    }

    /// A handle whose time may have come.
    pub(super) fn next_due(&self, now: Instant) -> Option<Key> {
        let mut looks = lock(&self.looks);
        let Reverse((at, _)) = looks.peek()?;
        if *at > now {
            return None;
        }
        looks.pop().map(|Reverse((_, key))| key)
    }

    /// The instance is no longer there.
    pub(super) fn note_gone(&self, key: Key) {
        lock(&self.gone).push(key);
    }

    /// Those that have been found to be gone since the last call.
    pub(super) fn take_gone(&self) -> Vec<Key> {
        std::mem::take(&mut *lock(&self.gone))
    }

    /// Drops looks at handles that are gone, if there are many. `handles` is how many there are.
    pub(super) fn tidy(&self, handles: usize, is_there: impl Fn(&Key) -> bool) {
        let mut looks = lock(&self.looks);
        if looks.len() > handles.saturating_mul(2) + SPARE {
            looks.retain(|Reverse((_, key))| is_there(key));
            looks.shrink_to_fit();
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(number: u32) -> Key {
        let id = InstanceId::parse(&format!("i{number}")).unwrap();
        (PlaneIndex(0), id)
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_due_before_its_time_and_the_earliest_comes_first() {
        let (expiry, now) = (Expiry::default(), Instant::now());
        let second = Duration::from_secs(1);
        expiry.look_at(key(2), now + 2 * second);
        expiry.look_at(key(1), now + second);
        assert_eq!(expiry.next_due(now), None);
        let later = now + 3 * second;
        assert_eq!(expiry.next_due(later), Some(key(1)));
        assert_eq!(expiry.next_due(later), Some(key(2)));
        assert_eq!(expiry.next_due(later), None);
    }

    #[tokio::test(start_paused = true)]
    async fn looks_at_what_is_gone_do_not_pile_up() {
        let (expiry, now) = (Expiry::default(), Instant::now());
        for number in 0..5000 {
            expiry.look_at(key(number), now);
            expiry.tidy(1, |key| *key == self::key(0));
        }
        assert!(lock(&expiry.looks).len() <= SPARE + 3);
        assert_eq!(expiry.next_due(now), Some(key(0)));
    }
}
