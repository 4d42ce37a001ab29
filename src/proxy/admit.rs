//! Phase 4, admit: whether a request may wake its instance, and its wait until the instance is ready
//! and it is the request's turn.
//!
//! Guarantees: the warm path asks nobody; a request that may not wake never reaches the engine; who
//! waits has a place in the hold queue, which is bounded; the wait ends at the request's deadline;
//! a browser that has waited for a while is shown the waiting page, and the wake goes on.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::admission::Admission;
use super::connection_cache::CachedTarget;
use super::context::{RequestContext, readiness_of};
use super::denied::Denied;
use super::error::ProxyError;
use super::gateway::Gateway;
use super::request_head::RequestHead;
use super::request_log::RequestLog;
use super::route::{Destination, Target};
use super::waiting;
use super::wake_info::WakeInfo;
use crate::hold::{AdmitError, Gate, Hold, Permit, Slot};
use crate::router::Route;
use crate::telemetry::{
    LeaseCheck, Metrics, ReleaseReason, Trace, TraceParent, WakeKind, WakePhase, agent_text,
};
use crate::upstream::{Fields, RequestBody};
use crate::wake::{self, Endpoint, Instance, Ready, Requester};
use hypeman::ControlPlane;

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

/// How a request's wait has ended.
pub(super) enum Admittance {
    /// It goes to its instance.
    Admitted(Admitted<TcpStream>),
    /// Its client is shown the waiting page.
    WaitingPage(Response<Bytes>),
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// A request with its instance, judged by the route's rules.
    pub(super) fn pending_request<'a>(
        &'a self,
        target: &'a Target,
        resolved: &'a CachedTarget,
        request: &Request<RequestBody>,
        context: &'a RequestContext,
        log: &RequestLog,
    ) -> PendingRequest<'a, TcpStream> {
        let destination = &target.destination;
        let may_wake = destination.admission.check(&RequestHead {
            method: request.method(),
            path: request.uri().path(),
            headers: request.headers(),
            client: destination.client,
        });
        PendingRequest {
            user_agent: context.user_agent.as_ref(),
            head_bytes: head_bytes(request.uri(), target.fields),
            trace: log.trace.as_ref().and_then(Trace::parent),
            ..self.pending(destination, resolved, may_wake)
        }
    }

    /// The same for a connection, of which no more than its client is known.
    pub(super) fn pending_connection<'a>(
        &'a self,
        destination: &'a Destination,
        resolved: &'a CachedTarget,
    ) -> PendingRequest<'a, TcpStream> {
        let may_wake = destination.admission.check_raw(destination.client);
        self.pending(destination, resolved, may_wake)
    }

    fn pending<'a>(
        &'a self,
        destination: &'a Destination,
        resolved: &'a CachedTarget,
        may_wake: Result<(), Denied>,
    ) -> PendingRequest<'a, TcpStream> {
        PendingRequest {
            instance: &resolved.instance,
            route: &destination.route,
            admission: &destination.admission,
            may_wake,
            hold: &self.parts.hold,
            gate: &resolved.gate,
            metrics: &self.parts.metrics,
            client: destination.client,
            user_agent: None,
            head_bytes: 0,
            deadline: destination.deadline,
            trace: None,
        }
    }

    /// Waits until the request may go to its instance, or its client is to be shown the waiting
    /// page.
    pub(super) async fn admit(
        &self,
        pending: &PendingRequest<'_, TcpStream>,
        target: &Target,
        request: &mut Request<RequestBody>,
        context: &RequestContext,
        wake: &mut WakeInfo,
        log: &mut RequestLog,
    ) -> Result<Admittance, ProxyError> {
        let config = pending.route.config();
        if pending.may_wake.is_ok() {
            let requester = || pending.requester();
            let path = request.uri().path();
            self.prewarm(pending.route, pending.instance, path, requester);
        }
        let page = &config.waiting_page;
        let has_page = page.enabled && waiting::is_navigation(request.method(), request.headers());
        let result = match has_page {
            false if config.forwarding.early_continue => {
                let admitting = Box::pin(pending.admit(wake));
                request.body_mut().begun_during(admitting).await
            }
            false => pending.admit(wake).await,
            true => match Box::pin(timeout(page.after, pending.admit(wake))).await {
                Ok(result) => result,
                // The wake goes on; the page looks after it.
                Err(_) => {
                    log.error = Some("waiting_page");
                    let (host, id) = (target.host.host.as_str(), &context.request_id);
                    let html = waiting::page(page, host, pending.instance, id);
                    return Ok(Admittance::WaitingPage(html));
                }
            },
        };
        log.trace_hold(wake.held);
        result.map(Admittance::Admitted)
    }
}

// === impl PendingRequest ===

impl<S: Send> PendingRequest<'_, S> {
    fn readiness(&self) -> wake::Target {
        readiness_of(self.route)
    }

    /// The requester of a wake, for the ledger.
    fn requester(&self) -> Requester {
        Requester {
            route: Arc::clone(self.route.label()),
            client: self.client,
            user_agent: self.user_agent.map(|agent| agent_text(agent).into()),
            since: Instant::now(),
            trace: self.trace.clone(),
        }
    }

    /// Takes the warm path, or a place in the queue and a wake. Dropping the future leaves the queue
    /// and cancels no wake.
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
            self.may_wake()?;
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
            let is_live = !endpoint.retired().is_cancelled() && endpoint.is_confirmed(at);
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

    fn may_wake(&self) -> Result<(), ProxyError> {
        let refusal = |reason: Denied| {
            self.metrics.count_refusal(reason.as_str());
            ProxyError::Asleep(self.admission.denied(reason))
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
        self.may_wake()?;
        let ready = self.held(wake, self.ready()).await?;
        wake.record(ready.kind);
        Ok(ready)
    }
}

/// About as many bytes as the head took on the wire.
fn head_bytes(uri: &Uri, fields: Fields) -> usize {
    let target = uri.path_and_query().map(PathAndQuery::as_str);
    fields.bytes() + target.map_or(0, str::len)
}

fn warm<S>(endpoint: Endpoint) -> Ready<S> {
    Ready {
        endpoint,
        kind: WakeKind::Warm,
        connection: None,
    }
}

impl fmt::Debug for Admittance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitted(_) => "Admitted",
            Self::WaitingPage(_) => "WaitingPage",
        })
    }
}
