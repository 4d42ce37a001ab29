//! Which names were asked for anew, since another member of the fleet has meant another instance.
//!
//! Guarantees: a name is asked for anew at most once in [`PAUSE`], however many requests mean another
//! instance; no more than [`MOST`] names are remembered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::names::PlaneIndex;
use hypeman::InstanceRef;

/// Between two questions for one name.
const PAUSE: Duration = Duration::from_secs(1);
/// Names that are remembered.
const MOST: usize = 1024;

/// The names, and when they were asked for.
#[derive(Debug, Default)]
pub(super) struct AskedAnew(Mutex<HashMap<(PlaneIndex, InstanceRef), Instant>>);

// === impl AskedAnew ===

impl AskedAnew {
    /// Whether a name may be asked for anew now, which is noted.
    pub(super) fn may_ask(&self, plane: PlaneIndex, name: &InstanceRef) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, key) = (Instant::now(), (plane, name.clone()));
        if asked.get(&key).is_some_and(|at| now < *at + PAUSE) {
            return false;
        }
        if asked.len() >= MOST {
            asked.retain(|_, at| now < *at + PAUSE);
        }
        if asked.len() >= MOST {
            return false;
        }
        asked.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_once_a_second_and_few_are_remembered() {
        let asked = AskedAnew::default();
        let name: InstanceRef = "app".parse().unwrap();
        assert!(asked.may_ask(PlaneIndex(0), &name));
        assert!(!asked.may_ask(PlaneIndex(0), &name));
        assert!(asked.may_ask(PlaneIndex(1), &name), "another's");
        for number in 2..MOST {
            let name = format!("app-{number}").parse().unwrap();
            assert!(asked.may_ask(PlaneIndex(0), &name));
        }
        let one_more = "one-more".parse().unwrap();
        assert!(!asked.may_ask(PlaneIndex(0), &one_more));
        tokio::time::advance(PAUSE).await;
        assert!(asked.may_ask(PlaneIndex(0), &one_more));
        assert!(asked.may_ask(PlaneIndex(0), &name));
        assert_eq!(asked.0.lock().unwrap().len(), 2);
    }
}
