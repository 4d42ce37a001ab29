//! Watches what the ingress resources of the control planes ask for (`[ingress] watch = true`).
//!
//! Guarantees: a control plane that does not answer changes nothing; a port that cannot be opened
//! keeps nothing else from being served; each problem is reported once.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::handle::AppHandle;
use crate::config::Config;
use crate::names::PlaneIndex;
use crate::router::Declared;
use hypeman::wire::Ingress;

/// What all control planes ask for together, as far as `config` can give it.
fn together(seen: &[Vec<Ingress>], config: &Config) -> Declared {
    let each = seen
        .iter()
        .zip(0..)
        .map(|(ingresses, index)| Declared::of(ingresses, PlaneIndex(index), &config.wake));
    let mut declared = each.reduce(Declared::and).unwrap_or_default();
    if config.ingress.tls.is_none() {
        let configured: Vec<u16> = config
            .listener
            .iter()
            .filter(|listener| listener.tls.is_some())
            .map(|listener| listener.address.port())
            .collect();
        let bare: Vec<u16> = declared
            .ports
            .iter()
            .filter(|(port, tls)| **tls && !configured.contains(port))
            .map(|(port, _)| *port)
            .collect();
        for port in bare {
            // Without certificates the rule's requests must not be served in clear instead.
            declared.ports.remove(&port);
            declared
                .routes
                .retain(|route| route.listen_port != Some(port));
            let problem =
                format!("port {port}: a rule asks for TLS, and there is no [ingress.tls]");
            declared.problems.push(problem);
        }
    }
    for route in &mut declared.routes {
        let plane = config.hypeman.get(usize::from(route.plane.0));
        Arc::make_mut(route).hypeman = plane.map(|plane| plane.name.clone()).unwrap_or_default();
    }
    declared
}

/// Looks again and again; never ends.
pub(super) async fn watch(handle: AppHandle) {
    let planes = &handle.0.planes;
    let mut seen: Vec<Vec<Ingress>> = vec![Vec::new(); planes.len()];
    let (mut current, mut reported) = (Declared::default(), Vec::<String>::new());
    loop {
        let config = handle.config();
        for (plane, slot) in planes.iter().zip(&mut seen) {
            match plane.client.list_ingresses(&BTreeMap::new()).await {
                Ok(now) => *slot = now,
                Err(error) => tracing::debug!(%error, "the ingress resources stay as they were"),
            }
        }
        let declared = together(&seen, &config);
        if declared != current {
            let mut problems = declared.problems.clone();
            let (serving, requested) = (handle.clone(), declared.clone());
            // Many routes take a while; requests do not wait for it.
            match spawn_blocking(move || serving.declare(requested)).await {
                Ok(more) => problems.extend(more),
                Err(error) => problems.push(error.to_string()),
            }
            for problem in problems
                .iter()
                .filter(|problem| !reported.contains(problem))
            {
                tracing::warn!(%problem, "not served");
            }
            let (routes, ports) = (declared.routes.len(), declared.ports.len());
            tracing::info!(
                routes,
                ports,
                "the control planes' ingress resources have changed"
            );
            (current, reported) = (declared, problems);
        }
        sleep(config.ingress.interval).await;
    }
}
