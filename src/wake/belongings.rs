//! What other rooms keep for an instance or an epoch.
//!
//! Guarantees: a value of a type and key is made once and shared; all end with their owner, so that
//! nothing about an instance outlives it; the few values that there are cost a short lock.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Kept = (TypeId, u16, Arc<dyn Any + Send + Sync>);

/// The values, by their type and a key such as a port.
#[derive(Default)]
pub struct Belongings(Mutex<Vec<Kept>>);

// === impl Belongings ===

impl Belongings {
    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of this type and key, if there is one.
    pub fn get<T: Any + Send + Sync>(&self, key: u16) -> Option<Arc<T>> {
        find(&self.lock(), key)
    }

    /// The value of this type and key, which is made if there is none. `make` must not use the same
    /// belongings.
    pub fn get_or_insert<T: Any + Send + Sync>(
        &self,
        key: u16,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut kept = self.lock();
        if let Some(found) = find(&kept, key) {
            return found;
        }
        let made = Arc::new(make());
        kept.push((TypeId::of::<T>(), key, Arc::clone(&made) as _));
        made
    }

    /// All values of a type, with their keys.
    pub fn all<T: Any + Send + Sync>(&self) -> Vec<(u16, Arc<T>)> {
        let kept = self.lock();
        let all = kept.iter().filter_map(|(_, key, value)| {
            let value = Arc::clone(value).downcast().ok()?;
            Some((*key, value))
        });
        all.collect()
    }
}

fn find<T: Any + Send + Sync>(kept: &[Kept], key: u16) -> Option<Arc<T>> {
    let (_, _, value) = kept
        .iter()
        .find(|(kind, other, _)| *kind == TypeId::of::<T>() && *other == key)?;
    Arc::clone(value).downcast().ok()
}

impl fmt::Debug for Belongings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Belongings({})", self.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_once_for_its_type_and_key_and_ends_with_its_owner() {
        let belongings = Belongings::default();
        let number = belongings.get_or_insert(80, || 1_u64);
        assert_eq!(*belongings.get_or_insert(80, || 2_u64), 1);
        assert_eq!(*belongings.get_or_insert(81, || 3_u64), 3);
        assert_eq!(*belongings.get_or_insert(80, || "text"), "text");
        assert_eq!(belongings.get::<u64>(82), None);
        assert_eq!(belongings.all::<u64>().len(), 2);
        let weak = Arc::downgrade(&number);
        drop(number);
        assert!(weak.upgrade().is_some());
        drop(belongings);
        assert!(weak.upgrade().is_none());
    }
}
