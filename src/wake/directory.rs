//! From what a route names to the instance that is meant.
//!
//! Guarantees: an instance has one entry and one task, whatever names lead to it (the key is its
//! id); a name is looked up once for everybody who asks at the same time; an unknown name is
//! remembered for a short time and in bounded number, so that scanning names costs the control
//! plane little; a name whose instance is gone, or is called otherwise now, is looked up anew.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{OnceCell, broadcast};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dialer::{Dialer, Tcp};
use super::driver::{Common, instance};
use super::error::{WakeError, WakeStage};
use super::instance::Instance;
use super::machine::Fault;
use super::plane_calls::classify;
use super::plane_handle::PlaneHandle;
use super::record::{Ledger, Requester, WakeBegan, WakeLog, WakeReport};
use super::target::Target;
use crate::backoff::Backoff;
use crate::config::{RouteWakeConfig, WakeConfig};
use crate::names::PlaneIndex;
use crate::telemetry::Metrics;
use hypeman::ControlPlane;
use hypeman::{InstanceId, InstanceRef};

const PAUSES: Backoff =
    Backoff::new(Duration::from_millis(20), Duration::from_millis(500)).with_jitter(0.25);

type Name = (PlaneIndex, InstanceRef);

/// What a look-up found.
#[derive(Debug)]
enum LookUp<S> {
    Instance(Arc<Instance<S>>),
    Nothing { until: Instant },
}

/// All instances that requests have asked for.
pub struct Wakes<P, R: Dialer = Tcp> {
    planes: Vec<Common<P, R>>,
    config: Arc<WakeConfig>,
    ledger: Arc<Ledger>,
    reports: broadcast::Sender<WakeReport>,
    begins: broadcast::Sender<WakeBegan>,
    names: DashMap<Name, Arc<OnceCell<LookUp<R::Stream>>>>,
    instances: DashMap<(PlaneIndex, InstanceId), Arc<Instance<R::Stream>>>,
    /// What was last in the way of a look-up.
    trouble: DashMap<PlaneIndex, Fault>,
    tasks: TaskTracker,
}

// === impl Wakes ===

impl<P: ControlPlane, R: Dialer> Wakes<P, R> {
    /// Tasks go on `tasks` and end after `stop`.
    pub fn new(
        planes: Vec<P>,
        dialer: R,
        config: WakeConfig,
        metrics: &Arc<Metrics>,
        tasks: TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let (names, instances) = (DashMap::new(), DashMap::new());
        let (reports, begins) = (broadcast::channel(1024).0, broadcast::channel(1024).0);
        let (ledger, config) = (Arc::new(Ledger::new(config.ledger)), Arc::new(config));
        let dialer = Arc::new(dialer);
        let common = |plane| Common {
            plane: Arc::new(PlaneHandle::new(plane, &config)),
            dialer: Arc::clone(&dialer),
            config: Arc::clone(&config),
            wake_log: WakeLog {
                metrics: Arc::clone(metrics),
                reports: reports.clone(),
                begins: begins.clone(),
                ledger: Arc::clone(&ledger),
                thrash_per_minute: config.thrash_per_minute,
            },
            stop: stop.clone(),
        };
        let planes = planes.into_iter().map(common).collect();
        Arc::new(Self {
            planes,
            config,
            ledger,
            reports,
            begins,
            names,
            instances,
            trouble: DashMap::new(),
            tasks,
        })
    }

    /// Every wake that ends from now on.
    pub fn reports(&self) -> broadcast::Receiver<WakeReport> {
        self.reports.subscribe()
    }

    /// Every wake that begins from now on.
    pub fn begins(&self) -> broadcast::Receiver<WakeBegan> {
        self.begins.subscribe()
    }

    /// Every instance that requests have asked for and that is still there.
    pub fn all(&self) -> Vec<(PlaneIndex, Arc<Instance<R::Stream>>)> {
        let all = self.instances.iter();
        let all = all.map(|entry| (entry.key().0, Arc::clone(entry.value())));
        all.filter(|(_, instance)| !instance.is_forgotten())
            .collect()
    }

    /// An instance that requests have asked for.
    pub fn by_id(&self, id: &InstanceId) -> Option<Arc<Instance<R::Stream>>> {
        self.with_plane(id).map(|(_, instance)| instance)
    }

    /// The same, with the index of its control plane.
    pub fn with_plane(&self, id: &InstanceId) -> Option<(PlaneIndex, Arc<Instance<R::Stream>>)> {
        let mut indices = (0..).map(PlaneIndex).take(self.planes.len());
        indices.find_map(|plane| {
            let entry = self.instances.get(&(plane, id.clone()))?;
            Some((plane, Arc::clone(entry.value())))
        })
    }

    /// The last wakes.
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// The instance that a name leads to, if an earlier look-up found it.
    pub fn cached(
        &self,
        plane: PlaneIndex,
        name: &InstanceRef,
    ) -> Option<Arc<Instance<R::Stream>>> {
        match self.names.get(&(plane, name.clone()))?.get()? {
            LookUp::Instance(instance) => Some(Arc::clone(instance)),
            LookUp::Nothing { .. } => None,
        }
    }

    /// The instance that a name means now. Cheap once it is known.
    pub async fn find(
        &self,
        plane: PlaneIndex,
        name: &InstanceRef,
        patience: Duration,
    ) -> Result<Arc<Instance<R::Stream>>, WakeError> {
        let key = (plane, name.clone());
        loop {
            let cell = self.cell(&key);
            let looked = timeout(patience, cell.get_or_try_init(|| self.look_up(&key))).await;
            let found = looked.map_err(|_| self.why_not_found(plane))??;
            match found {
                LookUp::Instance(instance) if instance.is_meant_by(name) => {
                    return Ok(Arc::clone(instance));
                }
                LookUp::Nothing { until } if *until > Instant::now() => {
                    return Err(WakeError::NotFound);
                }
                LookUp::Instance(_) | LookUp::Nothing { .. } => {
                    self.names
                        .remove_if(&key, |_, current| Arc::ptr_eq(current, &cell));
                }
            }
        }
    }

    /// What a look-up that took too long is blamed on.
    fn why_not_found(&self, plane: PlaneIndex) -> WakeError {
        match self.trouble.get(&plane).map(|trouble| trouble.clone()) {
            Some(Fault::Unreachable) => WakeError::ControlPlaneDown,
            Some(Fault::Failed) => WakeError::Failed,
            _ => WakeError::TimedOut(WakeStage::Asking),
        }
    }

    /// Wakes instances for later, each in its own time. Nobody waits for them.
    pub fn prewarm(
        self: &Arc<Self>,
        plane: PlaneIndex,
        names: &[InstanceRef],
        rules: &RouteWakeConfig,
        requester: &Requester,
    ) {
        for name in names {
            let (wakes, name) = (Arc::clone(self), name.clone());
            let (rules, requester) = (rules.clone(), requester.clone());
            self.tasks.spawn(async move {
                match wakes.find(plane, &name, rules.timeout).await {
                    Ok(instance) => {
                        if instance.warm(Target::AWAKE).is_none() {
                            instance.prewarm(Target::AWAKE, &rules, requester);
                        }
                    }
                    Err(error) => tracing::warn!(instance = %name, %error, "cannot wake it, too"),
                }
            });
        }
    }

    fn cell(&self, key: &Name) -> Arc<OnceCell<LookUp<R::Stream>>> {
        if let Some(cell) = self.names.get(key) {
            return Arc::clone(cell.value());
        }
        if self.names.len() >= self.instances.len() + self.config.max_unknown {
            // Only names that lead to an instance may stay beyond the bound.
            self.names
                .retain(|_, cell| matches!(cell.get(), Some(LookUp::Instance(_))));
        }
        Arc::clone(self.names.entry(key.clone()).or_default().value())
    }

    async fn look_up(&self, (index, name): &Name) -> Result<LookUp<R::Stream>, WakeError> {
        let common = self
            .planes
            .get(usize::from(index.0))
            .ok_or(WakeError::NotFound)?;
        let mut pauses = PAUSES.pauses();
        let answer = loop {
            match common.plane.get(name).await {
                // Its caller's patience ends this.
                Err(error) if error.is_retryable() => {
                    tracing::debug!(%name, %error, "cannot look an instance up yet");
                    self.trouble.insert(*index, classify(&error));
                    sleep(pauses.advance(fastrand::f64)).await;
                }
                answer => break answer,
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.code() == "ambiguous" => return Err(WakeError::Ambiguous),
            Err(error) => {
                if !error.is_not_found() {
                    tracing::warn!(%name, %error, "cannot look an instance up");
                }
                return match classify(&error) {
                    Fault::NotFound => Ok(LookUp::Nothing {
                        until: Instant::now() + self.config.unknown_ttl,
                    }),
                    Fault::Unauthorized => Err(WakeError::Unauthorized),
                    Fault::Unreachable => Err(WakeError::ControlPlaneDown),
                    Fault::InStandby
                    | Fault::InvalidState
                    | Fault::NoCapacity
                    | Fault::NoSlot
                    | Fault::Failed => Err(WakeError::Failed),
                };
            }
        };
        self.trouble.remove(index);
        let id = InstanceId::parse(&answer.id).map_err(|_| WakeError::Failed)?;
        let entry = self.instances.entry((*index, id.clone()));
        let entry = entry.or_insert_with(|| {
            let (instance, task) = instance(&answer, id, common.clone());
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
        Ok(LookUp::Instance(instance))
    }
}

impl<P, R: Dialer> fmt::Debug for Wakes<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wakes({} instances)", self.instances.len())
    }
}
