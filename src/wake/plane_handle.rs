//! One control plane, as the engine calls it.
//!
//! Guarantees: restores and other calls have budgets of their own, so that however many instances
//! are asked about, a restore never waits for another call; the handle counts how often the control
//! plane was out of reach, since a server that was away may have forgotten its holds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::slots::{Claim, WakeSlot, WakeSlots};
use crate::config::WakeConfig;
use hypeman::wire::{self, AutoStandbyStatus, InstanceState, WaitOutcome};
use hypeman::{ControlPlane, Error as ControlPlaneError};
use hypeman::{InstanceId, InstanceRef};

/// How long a call that is quick everywhere is waited for before it is made again.
const PATIENCE: Duration = Duration::from_secs(1);

/// One control plane, with what the gateway may ask of it at once.
pub(super) struct PlaneHandle<P> {
    plane: P,
    slots: WakeSlots,
    calls: Semaphore,
    broken: AtomicBool,
    losses: Arc<AtomicU64>,
    /// The server is too old for `hold`.
    hold_missing: AtomicBool,
}

// === impl PlaneHandle ===

impl<P: ControlPlane> PlaneHandle<P> {
    pub(super) fn new(plane: P, config: &WakeConfig) -> Self {
        Self {
            plane,
            slots: WakeSlots::new(config.max_concurrent),
            calls: Semaphore::new(config.max_questions.min(Semaphore::MAX_PERMITS)),
            broken: AtomicBool::new(false),
            losses: Arc::default(),
            hold_missing: AtomicBool::new(false),
        }
    }

    /// How often the control plane was out of reach so far.
    pub(super) fn losses(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.losses)
    }

    /// Counts a loss when the first answer after it comes.
    fn note<T>(&self, result: Result<T, ControlPlaneError>) -> Result<T, ControlPlaneError> {
        match &result {
            Err(error) if error.is_unreachable() => self.broken.store(true, Ordering::Release),
            Ok(_) | Err(_) => {
                if self.broken.load(Ordering::Acquire) && self.broken.swap(false, Ordering::AcqRel)
                {
                    self.losses.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        result
    }

    pub(super) async fn get(
        &self,
        name: &InstanceRef,
    ) -> Result<wire::Instance, ControlPlaneError> {
        let _permit = self.calls.acquire().await;
        self.note(self.plane.get(name).await)
    }

    /// The same, and made once more beside it when it takes long: a lost call must not cost a
    /// request its time.
    pub(super) async fn get_surely(
        &self,
        name: &InstanceRef,
    ) -> Result<wire::Instance, ControlPlaneError> {
        let first = self.get(name);
        tokio::pin!(first);
        if let Ok(answer) = timeout(PATIENCE, first.as_mut()).await {
            return answer;
        }
        tokio::select! {
            biased;
            answer = first => answer,
            answer = self.get(name) => answer,
        }
    }

    /// `None` when the server has no `hold`, which is found out once.
    pub(super) async fn hold(
        &self,
        id: &InstanceId,
    ) -> Option<Result<AutoStandbyStatus, ControlPlaneError>> {
        if self.hold_missing.load(Ordering::Relaxed) {
            return None;
        }
        let _permit = self.calls.acquire().await;
        let result = self.note(self.plane.hold(id).await);
        if matches!(&result, Err(error) if error.is_missing_operation()) {
            self.hold_missing.store(true, Ordering::Relaxed);
            return None;
        }
        Some(result)
    }

    /// Only beside other calls: it takes long, and reading the instance does the same.
    pub(super) async fn wait(
        &self,
        id: &InstanceId,
        timeout: Duration,
    ) -> Result<WaitOutcome, ControlPlaneError> {
        let _permit = loop {
            match self.calls.try_acquire() {
                Ok(permit) if self.calls.available_permits() > 0 => break permit,
                Ok(_) | Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        self.note(self.plane.wait(id, &InstanceState::Running, timeout).await)
    }

    pub(super) async fn slot(&self, claim: Claim, until: Instant) -> Option<WakeSlot> {
        self.slots.take(claim, until).await
    }

    pub(super) async fn restore(
        &self,
        id: &InstanceId,
    ) -> Result<wire::Instance, ControlPlaneError> {
        self.note(self.plane.restore(id).await)
    }

    pub(super) async fn start(&self, id: &InstanceId) -> Result<wire::Instance, ControlPlaneError> {
        self.note(self.plane.start(id).await)
    }
}

impl<P> fmt::Debug for PlaneHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlaneHandle({:?})", self.slots)
    }
}
