//! From what a route names to the instance that is meant.
//!
//! Guarantees: an instance has one entry and one task, whatever names lead to it (the key is its
//! id); a name is looked up once for everybody who asks at the same time; an unknown name is
//! remembered for a short time and in bounded number, so that scanning names costs the control plane
//! little; a name whose instance is gone is looked up anew.

use std::fmt;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{OnceCell, broadcast};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::driver::{Instance, WakeReport, instance};
use super::error::{WakeError, WakeStage};
use super::machine::Fault;
use super::questions::fault;
use crate::config::WakeConfig;
use crate::hypeman::ControlPlane;
use crate::names::{InstanceId, InstanceRef, PlaneIndex};
use crate::telemetry::Metrics;

type Name = (PlaneIndex, InstanceRef);

/// What a look-up found.
#[derive(Debug, Clone)]
enum Found {
    Instance(Arc<Instance>),
    Nothing { until: Instant },
}

/// All instances that requests have asked for.
pub struct Wakes<P> {
    planes: Vec<Arc<P>>,
    config: WakeConfig,
    metrics: Arc<Metrics>,
    reports: broadcast::Sender<WakeReport>,
    names: DashMap<Name, Arc<OnceCell<Found>>>,
    instances: DashMap<(PlaneIndex, InstanceId), Arc<Instance>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

// === impl Wakes ===

impl<P: ControlPlane> Wakes<P> {
    /// Tasks go on `tasks` and end after `stop`.
    pub fn new(
        planes: Vec<P>,
        config: WakeConfig,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let planes = planes.into_iter().map(Arc::new).collect();
        let (names, instances) = (DashMap::new(), DashMap::new());
        let reports = broadcast::channel(256).0;
        Self {
            planes,
            config,
            metrics,
            reports,
            names,
            instances,
            tasks,
            stop,
        }
    }

    /// Every wake that ends from now on.
    pub fn reports(&self) -> broadcast::Receiver<WakeReport> {
        self.reports.subscribe()
    }

    /// The instance that a name means now. Cheap once it is known.
    pub async fn find(
        &self,
        plane: PlaneIndex,
        name: &InstanceRef,
        patience: std::time::Duration,
    ) -> Result<Arc<Instance>, WakeError> {
        let key = (plane, name.clone());
        loop {
            let cell = self.cell(&key);
            let looked = timeout(patience, cell.get_or_try_init(|| self.look_up(&key))).await;
            let found = looked.map_err(|_| WakeError::TimedOut(WakeStage::Asking))??;
            match found {
                Found::Instance(instance) if !instance.is_forgotten() => {
                    return Ok(Arc::clone(instance));
                }
                Found::Nothing { until } if *until > Instant::now() => {
                    return Err(WakeError::NotFound);
                }
                Found::Instance(_) | Found::Nothing { .. } => {
                    self.names
                        .remove_if(&key, |_, current| Arc::ptr_eq(current, &cell));
                }
            }
        }
    }

    fn cell(&self, key: &Name) -> Arc<OnceCell<Found>> {
        if let Some(cell) = self.names.get(key) {
            return Arc::clone(cell.value());
        }
        if self.names.len() >= self.instances.len() + self.config.max_unknown {
            // Only what is known may stay beyond the bound.
            self.names
                .retain(|_, cell| matches!(cell.get(), Some(Found::Instance(_))));
        }
        Arc::clone(self.names.entry(key.clone()).or_default().value())
    }

    async fn look_up(&self, (index, name): &Name) -> Result<Found, WakeError> {
        let plane = self
            .planes
            .get(usize::from(index.0))
            .ok_or(WakeError::NotFound)?;
        let answer = match plane.get(name).await {
            Ok(answer) => answer,
            Err(error) if error.code() == "ambiguous" => return Err(WakeError::Ambiguous),
            Err(error) => {
                if !error.is_not_found() {
                    tracing::warn!(%name, %error, "cannot look an instance up");
                }
                return match fault(&error) {
                    Fault::NotFound => Ok(Found::Nothing {
                        until: Instant::now() + self.config.unknown_ttl,
                    }),
                    Fault::Unauthorized => Err(WakeError::Unauthorized),
                    Fault::Unreachable => Err(WakeError::ControlPlaneDown),
                    Fault::InStandby | Fault::InvalidState | Fault::NoCapacity | Fault::Failed => {
                        Err(WakeError::Failed)
                    }
                };
            }
        };
        let id = InstanceId::parse(&answer.id).map_err(|_| WakeError::Failed)?;
        let entry = self.instances.entry((*index, id.clone()));
        let entry = entry.or_insert_with(|| {
            let (instance, task) = instance(
                &answer,
                id,
                Arc::clone(plane),
                &self.config,
                Arc::clone(&self.metrics),
                self.reports.clone(),
                self.stop.clone(),
            );
            self.tasks.spawn(task);
            instance
        });
        let instance = Arc::clone(entry.value());
        drop(entry);
        if instance.is_forgotten() {
            // The server has it again (a snapshot of its state was restored, say): begin anew.
            self.instances.remove(&(*index, instance.id().clone()));
            return Err(WakeError::Failed);
        }
        Ok(Found::Instance(instance))
    }
}

impl<P> fmt::Debug for Wakes<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wakes({} instances)", self.instances.len())
    }
}
