//! A request that waits until its instance is ready and it is the request's turn.
//!
//! Guarantees: the warm path asks nobody; a request that may not wake never reaches the engine; who
//! waits has a place in the hold queue, which is bounded; the wait ends at the request's deadline,
//! and dropping it cancels no wake.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;

use super::admission::Admission;
use super::context::readiness_of;
use super::denied::Denied;
use super::error::ProxyError;
use super::wake_info::WakeInfo;
use crate::hold::{AdmitError, Gate, Hold, Permit, Slot};
use crate::router::Route;
use crate::telemetry::{
    LeaseCheck, Metrics, ReleaseReason, TraceParent, WakeKind, WakePhase, agent_text,
};
use crate::wake::{self, Endpoint, Instance, Ready, Requester};

/// A request, or a connection, that is to go to one instance.
#[derive(Debug)]
pub struct PendingRequest<'a, S> {
    /// The instance.
    pub instance: &'a Instance<S>,
    /// The route.
    pub route: &'a Route,
    /// The route's rules, with what they remember.
    pub admission: &'a Admission,
    /// Whether the request may wake at all.
    pub may_wake: Result<(), Denied>,
    /// The queue of those who wait for an instance.
    pub hold: &'a Arc<Hold>,
    /// The order in which requests go to the instance's port.
    pub gate: &'a Arc<Gate>,
    /// Counters.
    pub metrics: &'a Metrics,
    /// The client's address.
    pub client: IpAddr,
    /// The client's `User-Agent`.
    pub user_agent: Option<&'a HeaderValue>,
    /// The size of the request's head.
    pub head_bytes: usize,
    /// The end of all its waiting.
    pub deadline: Instant,
    /// The span that a wake which the request causes belongs to.
    pub trace: Option<TraceParent>,
}

/// The instance is ready and it is the request's turn.
#[derive(Debug)]
pub struct Admitted<S> {
    pub(super) ready: Ready<S>,
    pub(super) slot: Slot,
    pub(super) at: Instant,
}

// === impl PendingRequest ===

impl<S: Send> PendingRequest<'_, S> {
    fn readiness(&self) -> wake::Target {
        readiness_of(self.route)
    }

    /// The requester of a wake, for the ledger.
    pub(super) fn requester(&self) -> Requester {
        Requester {
            route: Arc::clone(self.route.label()),
            client: self.client,
            user_agent: self.user_agent.map(|agent| agent_text(agent).into()),
            since: Instant::now(),
            trace: self.trace.clone(),
        }
    }

    /// Takes the warm path, or a place in the queue and a wake. Dropping the future leaves the
    /// queue and cancels no wake.
    pub async fn admit(&self, wake: &mut WakeInfo) -> Result<Admitted<S>, ProxyError> {
        let config = self.route.config();
        if config.limits.max_inflight == 0 {
            return Err(AdmitError::Closed.into());
        }
        let at = Instant::now();
        if let Some(endpoint) = self.instance.warm_at(self.readiness(), at) {
            self.metrics.count_lease(LeaseCheck::Hit);
            if let Some(slot) = self.gate.try_enter(&config.limits) {
                wake.record(WakeKind::Warm);
                let ready = warm(endpoint);
                return Ok(Admitted { ready, slot, at });
            }
        } else {
            self.metrics.count_lease(LeaseCheck::Miss);
            self.check_may_wake()?;
        }
        let mut found = *wake;
        // In a box: it is large, and a warm request does not need it.
        let waiting = Box::pin(self.wait(&mut found));
        let result = self.held(wake, waiting).await;
        wake.record(found.wake);
        result
    }

    /// Waits in a place of the hold queue, and records for how long.
    async fn held<T>(
        &self,
        wake: &mut WakeInfo,
        waiting: impl Future<Output = Result<T, ProxyError>>,
    ) -> Result<T, ProxyError> {
        let (instance, label) = (self.instance.id(), self.route.label());
        let in_route = self.route.config().wake.max_held;
        let ticket = self
            .hold
            .admit(instance, label, in_route, self.head_bytes)?;
        let since = ticket.since();
        let result = waiting.await;
        wake.held += since.elapsed();
        ticket.release(match &result {
            Ok(_) => ReleaseReason::Ready,
            Err(_) => ReleaseReason::Refused,
        });
        result
    }

    /// Waits for a ready instance first, then for the request's turn, and again while the instance
    /// is no longer ready then.
    async fn wait(&self, wake: &mut WakeInfo) -> Result<Admitted<S>, ProxyError> {
        let gate = self.gate;
        let limits = &self.route.config().limits;
        let mut permit: Option<Permit> = Some(gate.join());
        let mut slot: Option<Slot> = None;
        loop {
            let ready = self.ready().await?;
            wake.record(ready.kind);
            let is_woken = ready.endpoint.woken_since(Instant::now()).is_some();
            gate.open(ready.endpoint.epoch(), is_woken);
            let since = Instant::now();
            let taken = match (slot.take(), permit.take()) {
                (Some(slot), _) => slot,
                (None, Some(permit)) => permit
                    .turn(limits, self.deadline)
                    .await
                    .map_err(|_| AdmitError::NotItsTurn)?,
                (None, None) => return Err(AdmitError::NotItsTurn.into()),
            };
            if matches!(ready.kind, WakeKind::Cold | WakeKind::Joined) {
                let phase = WakePhase::Release;
                self.metrics.count_wake_phase(phase, since.elapsed());
            }
            let endpoint = &ready.endpoint;
            let at = Instant::now();
            let is_live = !endpoint.draining().is_cancelled() && endpoint.is_confirmed(at);
            if is_live && (ready.connection.is_some() || endpoint.is_leased(at)) {
                return Ok(Admitted {
                    ready,
                    slot: taken,
                    at,
                });
            }
            // Waiting for the turn has outlasted the lease.
            slot = Some(taken);
        }
    }

    fn check_may_wake(&self) -> Result<(), ProxyError> {
        let refusal = |reason: Denied| {
            self.metrics.count_refusal(reason.as_str());
            ProxyError::Asleep(self.admission.denial(reason))
        };
        self.may_wake.map_err(refusal)?;
        // Who joins a wake pays nothing for it.
        if self.instance.progress().is_none() {
            self.admission.charge(self.client).map_err(refusal)?;
        }
        Ok(())
    }

    async fn ready(&self) -> Result<Ready<S>, ProxyError> {
        if let Some(endpoint) = self.instance.warm(self.readiness()) {
            return Ok(warm(endpoint));
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let rules = &self.route.config().wake;
        let ready = self
            .instance
            .ready(self.readiness(), rules, left, self.requester())
            .await?;
        Ok(ready)
    }

    /// Waits once more, after the endpoint proved dead. The request keeps its slot at the instance.
    pub(super) async fn ready_again(&self, wake: &mut WakeInfo) -> Result<Ready<S>, ProxyError> {
        if let Some(endpoint) = self.instance.warm(self.readiness()) {
            return Ok(warm(endpoint));
        }
        self.check_may_wake()?;
        let ready = self.held(wake, self.ready()).await?;
        wake.record(ready.kind);
        Ok(ready)
    }
}

fn warm<S>(endpoint: Endpoint) -> Ready<S> {
    Ready {
        endpoint,
        kind: WakeKind::Warm,
        connection: None,
    }
}
