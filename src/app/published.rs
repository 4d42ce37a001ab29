//! What a node's control planes have, as it is published.
//!
//! Guarantees: a control plane that does not answer, or not for all, takes nothing away, and its names are
//! nobody else's meanwhile; an instance is lacked when its control plane says so of it, and by nothing else; what asks for a secret is not published without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, join_all, ready};
use futures_util::stream::{self, StreamExt as _};
use serde_json::Map;
use tokio::time::timeout;

use super::handle::AppHandle;
use super::plane::ObservedPlane;
use crate::config::{FleetConfig, FleetPublish, RouteConfig, RouteKey};
use crate::fleet::publisher::{Host, Inventory};
use crate::fleet::records::{ClaimRecord, RouteRecord};
use crate::names::PlaneIndex;
use crate::router::Declared;
use hypeman::InstanceRef;
use hypeman::wire::ListInstances;

/// The tag of instances that are published where not all are.
const TAG: (&str, &str) = ("wakegate.publish", "true");
/// How long one of several control planes may keep the others' names waiting.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions about instances that a list lacks, at once.
const QUESTIONS: usize = 8;

/// The control planes that this gateway stands beside.
pub(super) struct PublishedHost {
    handle: AppHandle,
    is_tagged: bool,
    hosts: Vec<String>,
    /// What each has, as it said last: ids by names; none, before it has said so.
    last: Mutex<Vec<Option<BTreeMap<String, String>>>>,
    /// The names that were said to be of several.
    twice: Mutex<BTreeSet<String>>,
}

/// What one control plane has said.
struct Said {
    instances: BTreeMap<String, String>,
    routes: BTreeMap<RouteKey, RouteRecord>,
    is_whole: bool,
}

// === impl PublishedHost ===

impl PublishedHost {
    pub(super) fn new(handle: &AppHandle, fleet: &FleetConfig) -> Self {
        Self {
            handle: handle.clone(),
            is_tagged: fleet.publish == FleetPublish::Tagged,
            hosts: fleet.publish_hosts.clone(),
            last: Mutex::default(),
            twice: Mutex::default(),
        }
    }

    fn may_publish(&self, host: &str) -> bool {
        self.hosts.is_empty()
            || self
                .hosts
                .iter()
                .any(|pattern| match pattern.strip_prefix('*') {
                    Some(suffix) => host.ends_with(suffix),
                    None => host == pattern,
                })
    }

    async fn ask(&self, plane: &ObservedPlane) -> Result<Said, String> {
        let mut which = ListInstances::default();
        if self.is_tagged {
            which.tags.insert(TAG.0.to_owned(), TAG.1.to_owned());
        }
        let listed = plane.client.list_instance_summaries(&which).await;
        let listed = listed.map_err(|error| error.to_string())?;
        let mut said = Said {
            is_whole: listed.odd.is_empty() && listed.more_odd == 0,
            instances: BTreeMap::new(),
            routes: BTreeMap::new(),
        };
        let instances = listed.items.into_iter();
        said.instances = instances.map(|one| (one.name, one.id)).collect();
        let config = self.handle.config();
        if !config.ingress.watch {
            return Ok(said);
        }
        let ingresses = plane.client.list_ingresses(&BTreeMap::new()).await;
        let ingresses = ingresses.map_err(|error| error.to_string())?;
        said.is_whole &= ingresses.odd.is_empty() && ingresses.more_odd == 0;
        // Only names and instances are taken of them.
        let declared = Declared::of(&ingresses.items, PlaneIndex(0), &config.wake, |_| true);
        let routes = declared.routes.iter().filter(|route| self.is_open(route));
        said.routes = routes
            .map(|route| {
                let record = RouteRecord {
                    instance: route.instance.to_string(),
                    port: route.port,
                    policy: None,
                    more: Map::new(),
                };
                (route.key(), record)
            })
            .collect();
        Ok(said)
    }

    /// Whether the claim's control plane says that it has no such instance, or none that is published.
    async fn lacks_one(&self, claim: &ClaimRecord) -> bool {
        let planes = &self.handle.0.planes;
        let plane = match &claim.plane {
            Some(name) => planes.iter().find(|plane| *plane.name == **name),
            None => planes.first(),
        };
        // What none of the control planes could have, or be asked for, nobody has.
        let (Some(plane), Ok(id)) = (plane, InstanceRef::parse(&claim.id)) else {
            return true;
        };
        let asked = timeout(PATIENCE, plane.client.get_instance(&id)).await;
        match asked {
            Ok(Ok(there)) => {
                let is_published =
                    !self.is_tagged || there.tags.get(TAG.0).is_some_and(|value| value == TAG.1);
                // An id's beginning finds others, too.
                there.id != claim.id || !is_published
            }
            Ok(Err(error)) => error.is_not_found(),
            Err(_) => false,
        }
    }

    /// What asks for a secret would be open elsewhere; and a redirect is the listener's business there.
    fn is_open(&self, route: &RouteConfig) -> bool {
        let forwarding = &route.forwarding;
        let is_plain = forwarding.auth.is_none() && !forwarding.redirect_http.enabled;
        is_plain && self.may_publish(route.host())
    }

    /// What a control plane has, by what it says now and has said last; none, if that is not known.
    fn known(
        &self,
        index: usize,
        said: Option<(BTreeMap<String, String>, bool)>,
    ) -> Option<BTreeMap<String, String>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() <= index {
            last.resize(index + 1, None);
        }
        let before = last.get_mut(index)?;
        if let Some((mut now, is_whole)) = said {
            if !is_whole {
                let kept = before.take().into_iter().flatten();
                kept.for_each(|(name, id)| {
                    now.entry(name).or_insert(id);
                });
            }
            *before = Some(now);
        }
        before.clone()
    }

    /// Says once which names are of several control planes.
    fn tell(&self, twice: BTreeSet<String>) {
        let mut told = self.twice.lock().unwrap_or_else(PoisonError::into_inner);
        for name in twice.difference(&told) {
            tracing::warn!(%name, "several [[hypeman]] have an instance of this name: the first one's is \
                published to the fleet, and the others are not");
        }
        *told = twice;
    }
}

impl Host for PublishedHost {
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, String>> {
        async move {
            let planes = &self.handle.0.planes;
            let asked = planes.iter().map(async |plane| match planes.len() {
                1 => self.ask(plane).await,
                _ => match timeout(PATIENCE, self.ask(plane)).await {
                    Ok(said) => said,
                    Err(_) => Err("no answer in time".to_owned()),
                },
            });
            let answers = join_all(asked).await;
            let mut inventory = Inventory {
                is_whole: true,
                ..Inventory::default()
            };
            let (mut twice, mut trouble, mut heard) = (BTreeSet::new(), None, 0);
            for (index, (plane, answer)) in planes.iter().zip(answers).enumerate() {
                let named = (index > 0).then_some(plane.name.as_str());
                let (said, routes) = match answer {
                    Ok(said) => {
                        heard += 1;
                        inventory.is_whole &= said.is_whole;
                        (Some((said.instances, said.is_whole)), said.routes)
                    }
                    Err(error) => {
                        tracing::debug!(hypeman = %plane.name, %error, "what it has is not known");
                        inventory.is_whole = false;
                        trouble = Some(error);
                        (None, BTreeMap::new())
                    }
                };
                let Some(instances) = self.known(index, said) else {
                    // Which names of the next ones are their own is not known before.
                    inventory.is_whole = false;
                    break;
                };
                twice.extend(inventory.add(named, instances));
                inventory.add_routes(named, routes);
            }
            self.tell(twice);
            match trouble {
                Some(error) if heard == 0 => Err(error),
                None if planes.is_empty() => Err("there is no [[hypeman]]".to_owned()),
                Some(_) | None => Ok(inventory),
            }
        }
        .boxed()
    }

    fn lacks(&self, claims: BTreeMap<String, ClaimRecord>) -> BoxFuture<'_, BTreeSet<String>> {
        async move {
            let asked = claims.into_iter().map(|(key, claim)| async move {
                let is_lacked = self.lacks_one(&claim).await;
                is_lacked.then_some(key)
            });
            let asked = stream::iter(asked).buffer_unordered(QUESTIONS);
            asked.filter_map(ready).collect().await
        }
        .boxed()
    }
}
