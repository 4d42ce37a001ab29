//! What a member of a fleet does while it runs: it follows the directory, and publishes.
//!
//! Guarantees: a change of the directory is one change of the table of routes; nothing waits for the
//! directory; what asks for a secret is not published without it.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::fleet::{FleetParts, beside};
use super::handle::AppHandle;
use super::published::PublishedHost;
use crate::config::{FleetConfig, FleetPublish, RouteConfig};
use crate::fleet::presence::{Ending, keep_record};
use crate::fleet::publisher::publish;
use crate::fleet::{Sink, Step, Vault, follow, follow_keys, snapshot};

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
        let host = PublishedHost::new(handle, fleet);
        spawn(publish(Arc::clone(&parts.directory), Arc::new(host)).boxed());
    }
}

/// How long after a change of what fronts share new connections get it, at the latest.
const CALM: Duration = Duration::from_millis(250);

/// Follows what the fleet's fronts share, and uses it; never ends.
pub(super) async fn share(vault: Arc<Vault>, handle: AppHandle) {
    let mut changes = vault.changes();
    let using = async {
        while changes.changed().await.is_ok() {
            // An order makes several.
            sleep(CALM).await;
            changes.borrow_and_update();
            let certificates = handle.clone();
            let looking = spawn_blocking(move || certificates.refresh_certificates());
            if let Err(error) = looking.await {
                tracing::error!(%error, "the old certificates stay");
            }
        }
    };
    tokio::join!(vault.run(), using);
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
        let change = beside(step().routes, &config, &declared.routes);
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
