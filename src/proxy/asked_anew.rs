//! The instance that another member of the fleet means, and which names were asked for anew for that.
//!
//! Guarantees: what is found has the id that is meant, or nothing is found; a name is asked for anew at most once in [`PAUSE`], however many requests mean another
//! instance; no more than [`MOST`] names are remembered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::ProxyError;
use crate::names::PlaneIndex;
use crate::wake::{Dialer, Instance, WakeError, Wakes};
use hypeman::{ControlPlane, InstanceRef};

/// Between two questions for one name.
const PAUSE: Duration = Duration::from_secs(1);
/// Names that are remembered.
const MOST: usize = 1024;

/// The names, and when they were asked for.
#[derive(Debug, Default)]
pub struct AskedAnew(Mutex<HashMap<(PlaneIndex, InstanceRef), Instant>>);

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

/// The instance that another member of the fleet says is here, with this id if it knows that. The control
/// plane's word is the truth; a client cannot guess by way of another member.
pub async fn find_claimed<P: ControlPlane, R: Dialer>(
    wakes: &Arc<Wakes<P, R>>,
    asked: &AskedAnew,
    (plane, name): (PlaneIndex, &InstanceRef),
    id: Option<&str>,
    (patience, client): (Duration, IpAddr),
) -> Result<Arc<Instance<R::Stream>>, ProxyError> {
    let is_meant =
        |instance: &Instance<R::Stream>| id.is_none_or(|id| instance.id().as_str() == id);
    let mut found = match wakes.cached(plane, name) {
        Some(instance) => Ok(instance),
        None => Box::pin(wakes.find(plane, name, patience, client)).await,
    };
    if let Ok(instance) = &found
        && !is_meant(instance)
        && asked.may_ask(plane, name)
    {
        // It may have been deleted and made anew, and its name be known from before.
        wakes.forget_meaning(plane, name, instance.id());
        found = Box::pin(wakes.find(plane, name, patience, client)).await;
    }
    match found {
        Ok(instance) if is_meant(&instance) => Ok(instance),
        Ok(_) | Err(WakeError::NotFound) => Err(ProxyError::Misplaced),
        Err(error) => Err(error.into()),
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
