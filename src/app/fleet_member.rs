//! What a member of a fleet does while it runs: it follows the directory, and publishes.
//!
//! Guarantees: a change of the directory is one change of the table of routes; nothing waits for the
//! directory; what asks for a secret is not published without it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::Map;
use tokio_util::task::TaskTracker;

use super::fleet::{FleetParts, beside};
use super::handle::AppHandle;
use crate::config::{FleetConfig, FleetPublish, RouteConfig};
use crate::fleet::presence::{Ending, keep_record};
use crate::fleet::publisher::{Host, Inventory, publish};
use crate::fleet::records::RouteRecord;
use crate::fleet::{Sink, Step, follow, follow_keys, snapshot};
use crate::names::PlaneIndex;
use crate::router::Declared;
use hypeman::wire::ListInstances;

/// The tag of instances that are published where not all are.
const TAG: (&str, &str) = ("wakegate.publish", "true");

/// Follows the directory and publishes until it drains; says that it is there until it has ended.
pub(super) fn run(
    parts: &FleetParts,
    handle: &AppHandle,
    fleet: &FleetConfig,
    listening: Option<SocketAddr>,
    tasks: &TaskTracker,
    ending: &Ending,
) {
    let spawn = |task: BoxFuture<'static, ()>| {
        let stop = ending.draining.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(task).await.unwrap_or(());
        });
    };
    let sink: Arc<dyn Sink> = Arc::new(handle.clone());
    spawn(follow(Arc::clone(&parts.directory), Arc::clone(&sink)).boxed());
    if let Some(path) = fleet.key_file.clone() {
        spawn(follow_keys(Arc::clone(&parts.directory), path, sink).boxed());
    }
    let (key, record) = parts.record(fleet, listening);
    let directory = Arc::clone(&parts.directory);
    tasks.spawn(keep_record(directory, key, record, ending.clone()));
    if let Some(path) = fleet.snapshot.clone() {
        let copy = Arc::clone(&parts.directory);
        spawn(snapshot::keep(copy, path, fleet.cell.clone()).boxed());
    }
    if fleet.is_node() && fleet.publish != FleetPublish::None {
        let host = PublishedHost {
            handle: handle.clone(),
            is_tagged: fleet.publish == FleetPublish::Tagged,
            hosts: fleet.publish_hosts.clone(),
        };
        spawn(publish(Arc::clone(&parts.directory), Arc::new(host)).boxed());
    }
}

/// The Hypeman that this gateway stands beside.
struct PublishedHost {
    handle: AppHandle,
    is_tagged: bool,
    hosts: Vec<String>,
}

impl PublishedHost {
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
}

impl Host for PublishedHost {
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, String>> {
        async move {
            let Some(plane) = self.handle.0.planes.first() else {
                return Err("there is no [[hypeman]]".to_owned());
            };
            let mut which = ListInstances::default();
            if self.is_tagged {
                which.tags.insert(TAG.0.to_owned(), TAG.1.to_owned());
            }
            let listed = plane.client.list_instance_summaries(&which).await;
            let listed = listed.map_err(|error| error.to_string())?;
            let mut inventory = Inventory {
                is_whole: listed.odd.is_empty() && listed.more_odd == 0,
                ..Inventory::default()
            };
            let instances = listed.items.into_iter();
            inventory.instances = instances.map(|one| (one.name, one.id)).collect();
            let config = self.handle.config();
            if config.ingress.watch {
                let ingresses = plane.client.list_ingresses(&BTreeMap::new()).await;
                let ingresses = ingresses.map_err(|error| error.to_string())?;
                inventory.is_whole &= ingresses.odd.is_empty() && ingresses.more_odd == 0;
                let declared = Declared::of(&ingresses.items, PlaneIndex(0), &config.wake);
                for route in declared.routes {
                    // What asks for a secret would be open elsewhere; and a redirect is the
                    // listener's business there.
                    let forwarding = &route.forwarding;
                    let is_plain = forwarding.auth.is_none() && !forwarding.redirect_http.enabled;
                    if is_plain && self.may_publish(route.host()) {
                        let record = RouteRecord {
                            instance: route.instance.to_string(),
                            port: route.port,
                            policy: None,
                            more: Map::new(),
                        };
                        inventory.routes.insert(route.label().to_string(), record);
                    }
                }
            }
            Ok(inventory)
        }
        .boxed()
    }
}

impl Sink for AppHandle {
    fn take(&self, step: Step<'_>) {
        let running = &*self.0;
        let config = running
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let declared = running
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that a reload sees all of the change or nothing.
        let change = beside(step().routes, &config);
        if change.removed.is_empty() && change.added.is_empty() {
            return;
        }
        let uses_tls = |route: &Arc<RouteConfig>| {
            route.forwarding.upstream_tls.is_some() || !route.keep_warm.is_empty()
        };
        let mut all = change.removed.iter().chain(&change.added);
        let is_simple = change.is_plain() && !all.any(uses_tls) && running.acme.is_none();
        match is_simple {
            true => running.gateway.change_routes(&change),
            false => running.use_routes(&config, &declared),
        }
    }
}
