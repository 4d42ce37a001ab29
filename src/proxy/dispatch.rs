//! Getting one request to its instance: ready, in turn, sent, and again when that is safe.
//!
//! Guarantees: the warm path asks nobody; a request that may not wake never reaches the engine; a
//! request is sent again only when it was certainly not sent, or when it is repeatable
//! (idempotent, RFC 9110 §9.2.2, with no body or one that was read beforehand) and no byte of a
//! response was passed on; everything ends at the request's deadline.
//!
//! What carries a request is a [`Transport`], so that a test can play the network.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::{Instant, sleep};

use super::admission::{Admission, Denied};
use super::error::ProxyError;
use super::request_log::agent_text;
use crate::backoff::Backoff;
use crate::hold::{AdmitError, Gate, Hold, Permit, Slot};
use crate::router::Route;
use crate::telemetry::{LeaseCheck, Metrics, ReleaseReason, TraceParent, WakeKind, WakePhase};
use crate::upstream::{ForwardError, Hop};
use crate::wake::{Endpoint, Instance, OpenConnection, Ready, Requester, Target};

/// How often a request may break the connection that took it: it may be the request that kills the
/// application.
const MAX_BREAKS: u32 = 3;
/// Between two looks at an application that is not ready yet.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));

/// Carries requests to instances.
pub trait Transport: Sync {
    /// What a connection is.
    type Stream: Send + fmt::Debug;
    /// What a request is.
    type Request: Send;
    /// What a response is, once its head is there.
    type Response: Send;

    /// Sends a request on `given` or another connection; `now` is the time. After an error the request is whole if it
    /// has not been sent or [`Self::may_repeat`].
    fn send(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(Self::Stream, OpenConnection)>,
        request: &mut Self::Request,
        now: Instant,
    ) -> impl Future<Output = Result<Self::Response, ForwardError>> + Send;

    /// Whether the request may arrive twice.
    fn may_repeat(&self, request: &Self::Request) -> bool;

    /// A response's status.
    fn status(&self, response: &Self::Response) -> u16;
}

/// One request's business with one instance.
#[derive(Debug)]
pub struct Dispatch<'a, S> {
    /// The instance.
    pub instance: &'a Instance<S>,
    /// The route.
    pub route: &'a Route,
    /// How it reaches the instance.
    pub hop: Hop,
    /// The route's rules, with what they remember.
    pub admission: &'a Admission,
    /// Whether the request may wake at all.
    pub may_wake: Result<(), Denied>,
    /// Who may wait.
    pub hold: &'a Arc<Hold>,
    /// The order in which requests go to the instance's port.
    pub gate: &'a Arc<Gate>,
    /// Counts.
    pub metrics: &'a Metrics,
    /// Its client.
    pub client: IpAddr,
    /// What the client says it is.
    pub user_agent: Option<&'a HeaderValue>,
    /// Bytes of its head.
    pub head_bytes: usize,
    /// When its time is over.
    pub deadline: Instant,
    /// Where the spans of a wake go that it causes.
    pub trace: Option<TraceParent>,
}

/// How it went.
#[derive(Debug, Clone, Copy)]
pub struct WakeInfo {
    /// Whether and how it met a wake.
    pub wake: WakeKind,
    /// How long it was held.
    pub held: Duration,
}

/// The instance is ready and it is the request's turn.
#[derive(Debug)]
pub struct Admitted<S> {
    ready: Ready<S>,
    slot: Slot,
    at: Instant,
}

/// A response has begun.
#[derive(Debug)]
pub struct Dispatched<B> {
    /// Its head.
    pub response: B,
    /// Where it came from.
    pub endpoint: Endpoint,
    /// The request's place at the instance, until the response has ended.
    pub slot: Slot,
}

// === impl WakeInfo ===

impl Default for WakeInfo {
    fn default() -> Self {
        Self {
            wake: WakeKind::None,
            held: Duration::ZERO,
        }
    }
}

impl WakeInfo {
    /// A request that was woken for once stays so, also when it is sent again.
    fn met(&mut self, kind: WakeKind) {
        if !matches!(self.wake, WakeKind::Cold | WakeKind::Joined) {
            self.wake = kind;
        }
    }
}

// === impl Dispatch ===

impl<S: Send> Dispatch<'_, S> {
    fn target(&self) -> Target {
        target_of(self.route)
    }

    /// Who asks, for the ledger.
    pub fn asker(&self) -> Requester {
        Requester {
            route: Arc::clone(self.route.label()),
            client: self.client,
            user_agent: self.user_agent.map(|agent| agent_text(agent).into()),
            since: Instant::now(),
            trace: self.trace.clone(),
        }
    }

    /// The warm path, or a place in the line and a wake. Dropping the future leaves the line and
    /// cancels no wake.
    pub async fn admit(&self, notes: &mut WakeInfo) -> Result<Admitted<S>, ProxyError> {
        let config = self.route.config();
        if config.limits.max_inflight == 0 {
            return Err(AdmitError::Closed.into());
        }
        let at = Instant::now();
        if let Some(endpoint) = self.instance.warm_at(self.target(), at) {
            self.metrics.count_lease(LeaseCheck::Hit);
            if let Some(slot) = self.gate.try_enter(&config.limits) {
                notes.met(WakeKind::Warm);
                let ready = warm(endpoint);
                return Ok(Admitted { ready, slot, at });
            }
        } else {
            self.metrics.count_lease(LeaseCheck::Miss);
            self.may_wake()?;
        }
        let mut waited = *notes;
        // In a box: it is large, and a warm request does not need it.
        let waiting = Box::pin(self.wait(&mut waited));
        let result = self.held(notes, waiting).await;
        notes.met(waited.wake);
        result
    }

    /// Waits in a place of the hold queue, and notes for how long.
    async fn held<T>(
        &self,
        notes: &mut WakeInfo,
        waiting: impl Future<Output = Result<T, ProxyError>>,
    ) -> Result<T, ProxyError> {
        let (instance, label) = (self.instance.id(), self.route.label());
        let in_route = self.route.config().wake.max_held;
        let ticket = self
            .hold
            .admit(instance, label, in_route, self.head_bytes)?;
        let since = ticket.since();
        let result = waiting.await;
        notes.held += since.elapsed();
        ticket.release(match &result {
            Ok(_) => ReleaseReason::Ready,
            Err(_) => ReleaseReason::Refused,
        });
        result
    }

    /// Ready first, then in turn, then still ready.
    async fn wait(&self, notes: &mut WakeInfo) -> Result<Admitted<S>, ProxyError> {
        let gate = self.gate;
        let limits = &self.route.config().limits;
        let mut place: Option<Permit> = Some(gate.join());
        let mut slot: Option<Slot> = None;
        loop {
            let ready = self.ready().await?;
            notes.met(ready.kind);
            let woken = ready.endpoint.woken_since(Instant::now()).is_some();
            gate.open(ready.endpoint.epoch(), woken);
            let since = Instant::now();
            let mine = match (slot.take(), place.take()) {
                (Some(slot), _) => slot,
                (None, Some(place)) => place
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
            let live = !endpoint.draining().is_cancelled() && endpoint.is_confirmed(at);
            if live && (ready.connection.is_some() || endpoint.is_leased(at)) {
                let slot = mine;
                return Ok(Admitted { ready, slot, at });
            }
            // Waiting for the turn has outlasted the lease.
            slot = Some(mine);
        }
    }

    fn may_wake(&self) -> Result<(), ProxyError> {
        let refused = |why: Denied| {
            self.metrics.count_refusal(why.as_str());
            ProxyError::Asleep(why)
        };
        self.may_wake.map_err(refused)?;
        // Who joins a wake pays nothing for it.
        if self.instance.progress().is_none() {
            self.admission.charge(self.client).map_err(refused)?;
        }
        Ok(())
    }

    async fn ready(&self) -> Result<Ready<S>, ProxyError> {
        if let Some(endpoint) = self.instance.warm(self.target()) {
            return Ok(warm(endpoint));
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let rules = &self.route.config().wake;
        let ready = self
            .instance
            .ready(self.target(), rules, left, self.asker())
            .await?;
        Ok(ready)
    }

    /// Once more, after the endpoint proved dead. The request keeps its place at the instance.
    async fn ready_again(&self, notes: &mut WakeInfo) -> Result<Ready<S>, ProxyError> {
        if let Some(endpoint) = self.instance.warm(self.target()) {
            return Ok(warm(endpoint));
        }
        self.may_wake()?;
        let ready = self.held(notes, self.ready()).await?;
        notes.met(ready.kind);
        Ok(ready)
    }

    /// Sends the request, and again through the engine while that is safe.
    pub async fn send<C>(
        &self,
        carrier: &C,
        admitted: Admitted<S>,
        mut request: C::Request,
        notes: &mut WakeInfo,
    ) -> Result<Dispatched<C::Response>, ProxyError>
    where
        C: Transport<Stream = S>,
    {
        let Admitted {
            mut ready,
            mut slot,
            at: mut now,
        } = admitted;
        let (mut breaks, mut pauses) = (0, PAUSES.pauses());
        loop {
            let given = ready.connection.take();
            let error = match carrier
                .send(&ready.endpoint, &self.hop, given, &mut request, now)
                .await
            {
                Ok(response) => {
                    slot.answered();
                    if !self.is_not_ready_yet(carrier.status(&response), &ready)
                        || !carrier.may_repeat(&request)
                    {
                        return Ok(Dispatched {
                            response,
                            endpoint: ready.endpoint,
                            slot,
                        });
                    }
                    // The application is still coming up behind its port.
                    drop(response);
                    sleep(pauses.advance(|| 0.0)).await;
                    now = Instant::now();
                    self.metrics.upstream_retries.increment(1);
                    continue;
                }
                Err(error) => error,
            };
            breaks += u32::from(matches!(error, ForwardError::Broken(_)));
            tracing::debug!(instance = %self.instance.id(), breaks, error = %error_text(&error),
                "not answered");
            let elsewhere = matches!(
                error,
                ForwardError::TimedOut | ForwardError::Malformed(_) | ForwardError::Client(_)
            );
            if !elsewhere {
                self.instance.suspect(&ready.endpoint).await;
            }
            let lost = matches!(error, ForwardError::Broken(_) | ForwardError::Severed);
            let again = error.is_unsent() || lost && carrier.may_repeat(&request);
            if !again || breaks >= MAX_BREAKS || Instant::now() >= self.deadline {
                return Err(error.into());
            }
            self.metrics.upstream_retries.increment(1);
            ready = Box::pin(self.ready_again(notes)).await?;
            now = Instant::now();
        }
    }

    /// Whether the route takes such a response, so soon after a wake, for "not ready yet".
    fn is_not_ready_yet(&self, status: u16, ready: &Ready<S>) -> bool {
        let retry = &self.route.config().retry;
        if !retry.on_wake.contains(&status) {
            return false;
        }
        let now = Instant::now();
        let woken = ready.endpoint.woken_since(now);
        now < self.deadline && woken.is_some_and(|since| since < retry.on_wake_for)
    }
}

/// What a route's requests wait for.
pub(super) fn target_of(route: &Route) -> Target {
    let config = route.config();
    Target {
        port: config.port,
        when: config.wake.ready,
    }
}

fn warm<S>(endpoint: Endpoint) -> Ready<S> {
    Ready {
        endpoint,
        kind: WakeKind::Warm,
        connection: None,
    }
}

fn error_text(error: &ForwardError) -> &'static str {
    match error {
        ForwardError::Connect(_) => "cannot connect",
        ForwardError::Unsent => "closed before the request",
        ForwardError::Broken(_) => "broke before the response",
        ForwardError::Malformed(_) => "not HTTP",
        ForwardError::Client(_) => "its client failed it",
        ForwardError::TimedOut => "no response in time",
        ForwardError::Severed => "asleep before the response",
    }
}
