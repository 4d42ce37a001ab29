//! What the last list of a control plane said.
//!
//! Guarantees: a list confirms and raises doubts, and never cuts anything: what is open to an
//! instance that a list no longer has ends by the control plane's own word about it. A list in
//! which something could not be read proves no absence.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::evidence::usable;
use hypeman::wire::InstanceState;
use hypeman::{InstanceId, InstanceRef, InstanceSummary};

/// What a list said.
pub struct Listing {
    /// It was asked for at this time.
    pub(super) asked_at: Instant,
    /// Whether every element could be read.
    pub(super) is_complete: bool,
    pub(super) instances: HashMap<InstanceId, Listed>,
    names: HashSet<Arc<str>>,
}

/// An instance as it was listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub name: Arc<str>,
    /// Its state.
    pub state: InstanceState,
    /// Where it runs, if it is Running.
    pub runs_at: Option<IpAddr>,
}

// === impl Listing ===

impl Default for Listing {
    /// Nothing was listed, which proves nothing.
    fn default() -> Self {
        Self::new(Vec::<InstanceSummary>::new(), false, Instant::now())
    }
}

impl Listing {
    /// The listing of these instances, which was asked for at `asked_at`; `is_complete` says
    /// whether every element of the list could be read.
    pub fn new<T>(described: Vec<T>, is_complete: bool, asked_at: Instant) -> Self
    where
        T: Into<InstanceSummary>,
    {
        let mut listing = Self {
            asked_at,
            is_complete,
            instances: HashMap::with_capacity(described.len()),
            names: HashSet::with_capacity(described.len()),
        };
        for one in described.into_iter().map(Into::into) {
            let Ok(id) = InstanceId::parse(&one.id) else {
                listing.is_complete = false;
                continue;
            };
            let runs = one.state == InstanceState::Running;
            let runs_at = runs.then(|| usable(one.address).ok()).flatten();
            let listed = Listed {
                runs_at,
                name: one.name.into(),
                state: one.state,
            };
            listing.names.insert(Arc::clone(&listed.name));
            listing.instances.insert(id, listed);
        }
        listing
    }

    /// When it was asked for.
    pub fn asked_at(&self) -> Instant {
        self.asked_at
    }

    /// Whether every element of the list could be read.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether there is an instance of this exact name or id.
    pub fn has(&self, name: &InstanceRef) -> bool {
        self.names.contains(name.as_str()) || self.instances.contains_key(name.as_str())
    }

    /// The instances, by their ids.
    pub fn instances(&self) -> &HashMap<InstanceId, Listed> {
        &self.instances
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listing({})", self.instances.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypeman::wire::Instance as Description;

    fn described(id: &str, name: &str) -> Description {
        let described = serde_json::json!({ "id": id, "name": name, "state": "Standby" });
        serde_json::from_value(described).unwrap()
    }

    #[tokio::test]
    async fn a_list_has_exact_names_and_full_ids_alone() {
        let described = vec![described("abcdef", "shop"), described("b", "api")];
        let listing = Listing::new(described, true, Instant::now());
        for (text, expected) in [
            ("shop", true),
            ("abcdef", true),
            ("abc", false),
            ("sho", false),
            ("shops", false),
        ] {
            let name = InstanceRef::parse(text).unwrap();
            assert_eq!(listing.has(&name), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_list_with_an_element_that_cannot_be_read_proves_no_absence() {
        let odd = vec![described("a", "shop"), described("b/c", "api")];
        let listing = Listing::new(odd, true, Instant::now());
        assert_eq!(
            (listing.instances().len(), listing.is_complete()),
            (1, false)
        );
    }
}
