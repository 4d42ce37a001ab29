//! Watches what the ingress resources of the control planes ask for (`[ingress] watch = true`).
//!
//! Guarantees: the control planes are asked side by side, each one call at a time; one that does
//! not answer changes nothing; a port that cannot be opened keeps nothing else from being served,
//! and is tried again at each look; each problem is reported once, and once more when it is gone.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::handle::{AppHandle, Declaration};
use super::plane::ObservedPlane;
use super::problems::{Problems, Trouble};
use crate::config::Config;
use crate::names::PlaneIndex;
use crate::router::Declared;
use hypeman::Listed;
use hypeman::wire::Ingress;

/// What all control planes ask for together, as far as `config` can give it.
fn together(seen: &[Vec<Ingress>], config: &Config) -> Declared {
    let has_tls = |port: u16| {
        let mut listeners = config.listener.iter();
        config.ingress.tls.is_some()
            || listeners.any(|one| one.tls.is_some() && one.address.port() == port)
    };
    let each = seen.iter().zip(0..).map(|(ingresses, index)| {
        Declared::of(ingresses, PlaneIndex(index), &config.wake, has_tls)
    });
    let mut declared = each.reduce(Declared::and).unwrap_or_default();
    declared.name_planes(|plane| {
        let plane = config.hypeman.get(usize::from(plane.0));
        plane.map(|plane| plane.name.clone()).unwrap_or_default()
    });
    declared
}

/// The answer of the control plane of an index.
type Answer = (usize, Result<Listed<Ingress>, hypeman::Error>);

/// Looks again and again; never ends.
pub(super) async fn watch(handle: AppHandle) {
    let planes = &handle.0.planes;
    let (send, answers) = mpsc::channel(planes.len().max(1));
    let interval = handle.config().ingress.interval;
    let looks = planes.iter().enumerate().map(|(index, plane)| {
        let send = send.clone();
        async move {
            loop {
                let answer = plane.client.list_ingresses(&BTreeMap::new()).await;
                if send.send((index, answer)).await.is_err() {
                    return;
                }
                sleep(interval).await;
            }
        }
    });
    tokio::select! {
        _ = join_all(looks) => {}
        () = serve(&handle, planes, answers) => {}
    }
}

/// Serves what each answer asks for, and tries again what is not in force.
async fn serve(handle: &AppHandle, planes: &[ObservedPlane], mut answers: mpsc::Receiver<Answer>) {
    let mut seen: Vec<Vec<Ingress>> = vec![Vec::new(); planes.len()];
    let mut unreadable: Vec<Vec<String>> = vec![Vec::new(); planes.len()];
    let mut troubles: Vec<Trouble> = planes.iter().map(|_| Trouble::default()).collect();
    let mut problems = Problems::default();
    while let Some((index, answer)) = answers.recv().await {
        let (Some(plane), Some(slot), Some(odd), Some(trouble)) = (
            planes.get(index),
            seen.get_mut(index),
            unreadable.get_mut(index),
            troubles.get_mut(index),
        ) else {
            continue;
        };
        let (hypeman, is_news) = (&plane.name, trouble.update(answer.as_ref().err()));
        match answer {
            Ok(ingresses) => {
                *odd = ingresses.odd.iter().map(ToString::to_string).collect();
                *slot = ingresses.items;
                if is_news {
                    tracing::info!(%hypeman, "its ingress resources can be read again");
                }
            }
            Err(error) if is_news => {
                tracing::warn!(%hypeman, %error, "its ingress resources cannot be read; what \
                    they asked for last stays");
            }
            Err(_) => {}
        }
        let declared = together(&seen, &handle.config());
        let mut current = declared.problems.clone();
        current.extend(unreadable.iter().flatten().cloned());
        let (routes, ports) = (declared.routes.len(), declared.ports.len());
        let serving = handle.clone();
        // Many routes take a while; requests do not wait for it.
        match spawn_blocking(move || serving.declare(declared)).await {
            Ok(Declaration { is_new, problems }) => {
                current.extend(problems);
                if is_new {
                    tracing::info!(
                        routes,
                        ports,
                        "the control planes' ingress resources have changed"
                    );
                }
            }
            Err(error) => current.push(error.to_string()),
        }
        let changes = problems.update(current);
        for problem in &changes.appeared {
            tracing::warn!(%problem, "not served");
        }
        for problem in &changes.gone {
            tracing::info!(%problem, "no longer a problem");
        }
    }
}
