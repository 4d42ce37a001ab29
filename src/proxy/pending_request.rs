//! A request that waits until its instance is ready and it is the request's turn.
//!
//! Guarantees: the warm path asks nobody; a request that may not wake never reaches the engine; who
//! waits has a place in the hold queue, which is bounded; the wait ends at the request's deadline,
//! and dropping it cancels no wake. An instance that turns out to be gone is none of the request's
//! business: its name is looked up again, and the request goes to whom it means now.

use std::net::IpAddr;
use std::sync::Arc;

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use tokio::time::Instant;

use super::admission::Admission;
use super::context::readiness_of;
use super::denied::Denied;
use super::error::ProxyError;
use super::wake_info::WakeInfo;
use crate::config::RouteConfig;
use crate::hold::{AdmitError, Gate, HeldRequest, Hold, InstanceQueues, Permit, Slot, Ticket};
use crate::instance_tls::TlsHop;
use crate::names::ClientNetwork;
use crate::telemetry::{
    LeaseCheck, Metrics, ReleaseReason, TraceParent, WakeKind, WakePhase, agent_text,
};
use crate::wake::{self, Endpoint, Instance, Ready, Requester, WakeError};

/// How long after its confirmation an instance is good for everybody who waited for it.
const GRACE: Duration = Duration::from_secs(1);
/// How often a request may find its instance gone.
const MAX_RENEWALS: u32 = 3;

/// The instance that a name means, and the gate of its port.
#[derive(Debug)]
pub struct Resolved<S> {
    /// The instance.
    pub instance: Arc<Instance<S>>,
    /// The order in which requests go to the instance's port.
    pub gate: Arc<Gate>,
}

/// Looks a request's name up again, when its instance is gone.
pub trait LookUp<S>: Sync + std::fmt::Debug {
    /// Whether the name still means this instance, as far as the gateway knows.
    fn means(&self, instance: &Instance<S>) -> bool;

    /// The instance that the name means now, within the request's time.
    fn look_up(&self) -> BoxFuture<'_, Result<Resolved<S>, ProxyError>>;
}

/// A request, or a connection, that is to go to one instance.
#[derive(Debug)]
pub struct PendingRequest<'a, S> {
    /// The instance, with its gate.
    pub resolved: Resolved<S>,
    /// Finds another one, when that is gone.
    pub look_up: &'a dyn LookUp<S>,
    /// How often that was needed.
    pub renewals: u32,
    /// The route.
    pub route: &'a RouteConfig,
    /// The instance's port.
    pub port: u16,
    /// The route's rules, with what they remember.
    pub admission: &'a Admission,
    /// Whether the request may wake at all.
    pub may_wake: Result<(), Denied>,
    /// The queue of those who wait for an instance.
    pub hold: &'a Arc<Hold>,
    /// Counters.
    pub metrics: &'a Metrics,
    /// The TLS that it goes over to the instance.
    pub tls: Option<TlsHop>,
    /// The client's address.
    pub client: IpAddr,
    /// The client's `User-Agent`.
    pub user_agent: Option<&'a HeaderValue>,
    /// The size of the request's head.
    pub head_bytes: usize,
    /// The end of all its waiting.
    pub deadline: Instant,
    /// What of a parked tunnel it is for, if it is for one.
    pub unparked_by: Option<&'static str>,
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

// === impl Admitted ===

impl<S> Admitted<S> {
    /// The instance, and the place there.
    pub fn into_parts(self) -> (Ready<S>, Slot) {
        (self.ready, self.slot)
    }
}

// === impl PendingRequest ===

impl<S: Send> PendingRequest<'_, S> {
    fn readiness(&self) -> wake::Target {
        readiness_of(self.route, self.port, self.tls.as_ref())
    }

    /// Whether the instance is known to be awake and ready for it.
    pub(super) fn is_warm(&self) -> bool {
        self.resolved.instance.warm(&self.readiness()).is_some()
    }

    /// The client, as shares are counted.
    fn network(&self) -> ClientNetwork {
        self.client.into()
    }

    /// The requester of a wake, for the ledger.
    pub(super) fn requester(&self) -> Requester {
        Requester {
            route: self.route.key(),
            client: self.client,
            user_agent: self.user_agent.map(|agent| agent_text(agent).into()),
            since: Instant::now(),
            unparked_by: self.unparked_by,
            trace: self.trace.clone(),
        }
    }

    /// Takes the warm path, or a place in the queue and a wake. Dropping the future leaves the
    /// queue and cancels no wake.
    pub async fn admit(&mut self, wake: &mut WakeInfo) -> Result<Admitted<S>, ProxyError> {
        let config = self.route;
        if config.limits.max_inflight == 0 {
            return Err(AdmitError::Closed.into());
        }
        let is_warm = match self.admit_warm() {
            Ok(admitted) => {
                wake.record(WakeKind::Warm);
                return Ok(admitted);
            }
            Err(is_warm) => is_warm,
        };
        // In a box: it is large, and a warm request does not need it.
        Box::pin(self.admit_later(is_warm, wake)).await
    }

    /// The warm path, if the instance is awake and ready, and it is the request's turn at once; else
    /// whether it is awake and ready.
    pub(super) fn admit_warm(&self) -> Result<Admitted<S>, bool> {
        let at = Instant::now();
        let Resolved { instance, gate } = &self.resolved;
        let Some(endpoint) = instance.warm_at(&self.readiness(), at) else {
            self.metrics.count_lease(LeaseCheck::Miss);
            return Err(false);
        };
        self.metrics.count_lease(LeaseCheck::Hit);
        let slot = gate.try_enter(self.network(), &self.route.limits);
        // One that is about to be put to sleep takes nobody who was not counted before.
        let slot = slot.filter(|_| !endpoint.is_resting());
        let slot = slot.ok_or(true)?;
        let ready = warm(endpoint, at);
        Ok(Admitted { ready, slot, at })
    }

    /// Waits in the hold queue, with each instance that the name means meanwhile.
    async fn admit_later(
        &mut self,
        mut is_warm: bool,
        wake: &mut WakeInfo,
    ) -> Result<Admitted<S>, ProxyError> {
        loop {
            if !is_warm {
                self.check_may_wake()?;
            }
            let ticket = self.take_place()?;
            let result = {
                let mut holding = wake.hold(ticket.since());
                self.wait(!is_warm, &mut holding).await
            };
            release(ticket, &result);
            if !matches!(result, Err(ProxyError::Wake(WakeError::Gone))) {
                return result;
            }
            self.renew().await?;
            is_warm = self.resolved.instance.warm(&self.readiness()).is_some();
        }
    }

    /// Finds the instance that the name means now that its instance is gone.
    pub(super) async fn renew(&mut self) -> Result<(), ProxyError> {
        self.renewals += 1;
        if self.renewals > MAX_RENEWALS || Instant::now() >= self.deadline {
            return Err(WakeError::Gone.into());
        }
        self.resolved = self.look_up.look_up().await?;
        Ok(())
    }

    /// Takes a place in the hold queue.
    fn take_place(&self) -> Result<Ticket, ProxyError> {
        let config = self.route;
        let request = HeldRequest {
            route: &config.key(),
            in_route: config.wake.max_held,
            share: config.limits.max_held_per_client,
            client: self.network(),
            bytes: self.head_bytes,
        };
        let queues = queues_of(self.hold, &self.resolved.instance);
        Ok(self.hold.admit(&queues, &request)?)
    }

    /// Waits for a ready instance first, then for the request's turn, and again while the instance
    /// is no longer ready then.
    async fn wait(&self, mut judged: bool, wake: &mut WakeInfo) -> Result<Admitted<S>, ProxyError> {
        let gate = &self.resolved.gate;
        let limits = &self.route.limits;
        let mut permit: Option<Permit> = Some(gate.join(self.network()));
        let mut slot: Option<Slot> = None;
        loop {
            let mut ready = self.ready(&mut judged, wake).await?;
            if !self.look_up.means(&self.resolved.instance) {
                // Its own answer says that it is called otherwise now.
                return Err(WakeError::Gone.into());
            }
            wake.record(ready.kind);
            let is_woken = ready.endpoint.woken_since(Instant::now()).is_some();
            gate.open(ready.endpoint.epoch(), is_woken);
            let since = Instant::now();
            let taken = match (slot.take(), permit.take()) {
                (Some(slot), _) => slot,
                (None, Some(permit)) => {
                    let turn = permit.turn(limits, self.deadline);
                    tokio::pin!(turn);
                    let turn = tokio::select! {
                        biased;
                        turn = turn.as_mut() => turn,
                        () = ready.endpoint.cut().cancelled() => {
                            // Nothing that is open outlives its epoch, in the queue neither.
                            ready.connection = None;
                            turn.await
                        }
                    };
                    turn.map_err(AdmitError::from)?
                }
                (None, None) => return Err(AdmitError::NotItsTurn.into()),
            };
            if matches!(ready.kind, WakeKind::Cold | WakeKind::Joined) {
                let phase = WakePhase::Release;
                self.metrics.count_wake_phase(phase, since.elapsed());
            }
            let endpoint = &ready.endpoint;
            let at = Instant::now();
            let is_live = !endpoint.cut().is_cancelled() && endpoint.is_confirmed(at);
            // Where the lease says nothing, the confirmation is for all who waited for it.
            let is_fresh = ready.connection.is_some() || at < ready.confirmed_at + GRACE;
            if is_live && (is_fresh || endpoint.is_leased(at)) {
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
        if self.resolved.instance.progress().is_none() {
            self.admission.charge(self.client).map_err(refusal)?;
        }
        Ok(())
    }

    /// The instance when it is ready. Whether the request may wake it is judged once.
    async fn ready(&self, judged: &mut bool, wake: &mut WakeInfo) -> Result<Ready<S>, ProxyError> {
        let now = Instant::now();
        if let Some(endpoint) = self.resolved.instance.warm_at(&self.readiness(), now) {
            return Ok(warm(endpoint, now));
        }
        if !std::mem::replace(judged, true) {
            self.check_may_wake()?;
        }
        let left = self.deadline.saturating_duration_since(now);
        let rules = &self.route.wake;
        let instance = &self.resolved.instance;
        wake.wait_for(self.kind_of_next_wake());
        let ready = instance.ready(self.readiness(), rules, left, self.requester());
        let ready = ready.await;
        if ready.as_ref().is_err_and(was_no_wake) {
            wake.dismiss();
        }
        Ok(ready?)
    }

    /// The kind of the wake that the request would wait for, as far as can be seen from here.
    fn kind_of_next_wake(&self) -> WakeKind {
        match self.resolved.instance.is_asked_for() {
            true => WakeKind::Joined,
            false => WakeKind::Cold,
        }
    }

    /// Waits once more, after a connection has failed: for what the control plane says about the
    /// instance, and for a wake if need be. The request keeps its slot at the instance.
    pub(super) async fn ready_again(&self, wake: &mut WakeInfo) -> Result<Ready<S>, ProxyError> {
        let now = Instant::now();
        match self.resolved.instance.warm_at(&self.readiness(), now) {
            // The question that the others wait for might end in a wake.
            Some(endpoint) if self.may_wake.is_err() => return Ok(warm(endpoint, now)),
            Some(_) => {}
            None => self.check_may_wake()?,
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let rules = &self.route.wake;
        let ticket = self.take_place()?;
        let result = {
            let mut holding = wake.hold(ticket.since());
            holding.wait_for(self.kind_of_next_wake());
            let instance = &self.resolved.instance;
            let ready = instance.ready_again(self.readiness(), rules, left, self.requester());
            let ready = ready.await;
            match &ready {
                Ok(ready) => holding.record(ready.kind),
                Err(error) if was_no_wake(error) => holding.dismiss(),
                Err(_) => {}
            }
            ready
        };
        release(ticket, &result);
        Ok(result?)
    }
}

/// Gives a place in the hold queue back.
fn release<T, E>(ticket: Ticket, result: &Result<T, E>) {
    ticket.release(match result {
        Ok(_) => ReleaseReason::Ready,
        Err(_) => ReleaseReason::Refused,
    });
}

/// Whether nothing was tried for the request, so that it waited for no wake.
fn was_no_wake(error: &WakeError) -> bool {
    matches!(
        error,
        WakeError::NotFound | WakeError::Gone | WakeError::BreakerOpen(_) | WakeError::Draining
    )
}

/// The queues before an instance, which are the instance's own.
pub fn queues_of<S>(hold: &Hold, instance: &Instance<S>) -> Arc<InstanceQueues> {
    let belongings = instance.belongings();
    belongings.get_or_insert(0, || hold.new_queues(instance.id()))
}

fn warm<S>(endpoint: Endpoint, now: Instant) -> Ready<S> {
    Ready {
        endpoint,
        confirmed_at: now,
        kind: WakeKind::Warm,
        connection: None,
    }
}
