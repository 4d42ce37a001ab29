//! The names of instances.
//!
//! Guarantees: a name belongs to one instance at a time, from before it is made until nothing of it
//! is left.

use dashmap::{DashMap, Entry};

/// The ids of instances by their names.
#[derive(Debug, Default)]
pub(crate) struct Names(DashMap<String, String>);

/// A name that is taken for an instance in the making, and free again without it.
#[derive(Debug)]
pub(super) struct TakenName<'a> {
    names: &'a Names,
    /// The name and its instance; nothing when that keeps it.
    owned: Option<(String, String)>,
}

// === impl Names ===

impl Names {
    /// Takes a name; nothing when it is another's.
    pub(super) fn take(&self, name: &str, id: &str) -> Option<TakenName<'_>> {
        match self.0.entry(name.to_owned()) {
            Entry::Vacant(vacant) => {
                vacant.insert(id.to_owned());
                let owned = Some((name.to_owned(), id.to_owned()));
                Some(TakenName { names: self, owned })
            }
            Entry::Occupied(_) => None,
        }
    }

    /// The id of the instance with this name.
    pub(super) fn id(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|id| id.value().clone())
    }

    /// Frees the name of an instance of which nothing is left.
    pub(super) fn free(&self, name: &str, id: &str) {
        self.0.remove_if(name, |_, owner| owner == id);
    }
}

// === impl TakenName ===

impl TakenName<'_> {
    /// Leaves the name to its instance, which is there.
    pub(super) fn keep(mut self) {
        self.owned = None;
    }
}

impl Drop for TakenName<'_> {
    fn drop(&mut self) {
        if let Some((name, id)) = &self.owned {
            self.names.free(name, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_once_and_is_free_again_without_its_instance() {
        let names = Names::default();
        let taken = names.take("a", "1").unwrap();
        assert!(names.take("a", "2").is_none());
        drop(taken);
        names.take("a", "3").unwrap().keep();
        assert_eq!(names.id("a").as_deref(), Some("3"));
        assert!(names.take("a", "4").is_none());
        names.free("a", "4");
        assert_eq!(names.id("a").as_deref(), Some("3"), "it was not its own");
        names.free("a", "3");
        assert!(names.id("a").is_none());
    }
}
