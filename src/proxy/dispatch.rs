//! Phase 7, dispatch: a request is sent to its instance, and again when that is safe.
//!
//! Guarantees: a request is sent again only when it was certainly not sent, or when it is
//! repeatable (idempotent, RFC 9110 §9.2.2, with no body or one that was read beforehand) and no
//! byte of a response was passed on; a request that breaks connections is not sent for ever;
//! everything ends at the request's deadline.
//!
//! What carries a request is a [`Transport`], so that a test can play the network.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::context::Arrival;
use super::error::ProxyError;
use super::pending_request::{Admitted, PendingRequest};
use super::request_log::RequestLog;
use super::wake_info::WakeInfo;
use crate::backoff::Backoff;
use crate::hold::Slot;
use crate::instance_tls::InstanceStream;
use crate::upstream::{ForwardError, Hop, InstanceResponse, Outgoing, Upstream, UpstreamBody};
use crate::wake::{Endpoint, OpenConnection, Ready, Suspicion, WakeError};

/// How often a request may break the connection that took it: it may be the request that kills the
/// application.
const MAX_BREAKS: u32 = 3;
/// Between two looks at an application that is not ready yet.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));

/// Between two warnings that TLS with an instance is refused.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// When it was last said that TLS with an instance's port is refused.
#[derive(Debug, Default)]
struct TlsWarning(Mutex<Option<Instant>>);

impl TlsWarning {
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now >= last + WARN_AGAIN);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// Carries requests to instances.
pub trait Transport: Sync {
    /// The type of a connection.
    type Stream: Send + fmt::Debug;
    /// The type of a request.
    type Request: Send;
    /// The type of a response whose head is there.
    type Response: Send;

    /// Sends a request on `given` or another connection; `now` is the time. After an error the
    /// request is whole if it has not been sent or [`Self::may_repeat`].
    fn send(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(Self::Stream, OpenConnection)>,
        request: &mut Self::Request,
        now: Instant,
    ) -> impl Future<Output = Result<Self::Response, ForwardError>> + Send;

    /// Returns whether the request may arrive twice.
    fn may_repeat(&self, request: &Self::Request) -> bool;

    /// Returns a response's status.
    fn status(&self, response: &Self::Response) -> u16;
}

/// A request on its way to its instance.
#[derive(Debug)]
pub struct Dispatch<'a, 'b, S> {
    /// The request.
    pub pending: &'a mut PendingRequest<'b, S>,
    /// The last hop, to the instance.
    pub hop: Hop,
}

/// A response has begun.
#[derive(Debug)]
pub struct Sent<B> {
    /// The response's head.
    pub response: B,
    /// The endpoint that it came from.
    pub endpoint: Endpoint,
    /// The request's place at the instance, until the response has ended.
    pub slot: Slot,
}

/// Sends an admitted request by `transport`, and returns the response once its head is there.
#[allow(
    clippy::manual_async_fn,
    reason = "an async function keeps its arguments twice, in the memory of each held request"
)]
pub(super) fn dispatch<T>(
    transport: &T,
    pending: &mut PendingRequest<'_, InstanceStream>,
    arrival: &Arrival<'_>,
    admitted: Admitted<InstanceStream>,
    request: &mut T::Request,
    wake: &mut WakeInfo,
    log: &RequestLog,
) -> impl Future<Output = Result<Sent<T::Response>, ProxyError>> + Send
where
    T: Transport<Stream = InstanceStream>,
{
    async move {
        let since = log.trace.is_some().then(Instant::now);
        let hop = arrival.hop(pending.route, pending.port, pending.tls.clone());
        let mut dispatch = Dispatch { pending, hop };
        let sent = dispatch.send(transport, admitted, request, wake).await;
        log.trace_upstream(since);
        sent
    }
}

// === impl Dispatch ===

impl<S: Send + Sync> Dispatch<'_, '_, S> {
    /// Sends the request, and again through the engine while that is safe.
    #[allow(
        clippy::manual_async_fn,
        reason = "an async function keeps its arguments twice, in the memory of each held request"
    )]
    pub fn send<T>(
        &mut self,
        transport: &T,
        admitted: Admitted<S>,
        request: &mut T::Request,
        wake: &mut WakeInfo,
    ) -> impl Future<Output = Result<Sent<T::Response>, ProxyError>> + Send
    where
        T: Transport<Stream = S>,
    {
        async move {
            let Admitted {
                mut ready,
                mut slot,
                at: mut now,
            } = admitted;
            let (mut breaks, mut pauses) = (0, PAUSES.pauses());
            loop {
                let given = ready.connection.take();
                let error = match transport
                    .send(&ready.endpoint, &self.hop, given, request, now)
                    .await
                {
                    Ok(response) => {
                        slot.answered();
                        if !self.is_not_ready_yet(transport.status(&response), &ready)
                            || !transport.may_repeat(request)
                        {
                            return Ok(Sent {
                                response,
                                endpoint: ready.endpoint,
                                slot,
                            });
                        }
                        // The application is still coming up behind its port.
                        drop(response);
                        sleep(pauses.advance(|| 0.0)).await;
                        now = Instant::now();
                        self.pending.metrics.upstream_retries.increment(1);
                        continue;
                    }
                    Err(error) => error,
                };
                breaks += u32::from(matches!(error, ForwardError::Broken(_)));
                let instance = &self.pending.resolved.instance;
                let text = error_text(&error);
                tracing::debug!(instance = %instance.id(), breaks, error = %text, "not answered");
                if let ForwardError::Tls(reason) = &error {
                    self.warn_of_tls(reason);
                }
                let suspicion = match error {
                    ForwardError::Connect(_) => Some(Suspicion::NotConnected(self.hop.port)),
                    ForwardError::Unsent | ForwardError::Broken(_) => Some(Suspicion::Broken),
                    ForwardError::TimedOut
                    | ForwardError::Tls(_)
                    | ForwardError::Malformed(_)
                    | ForwardError::Client(_)
                    | ForwardError::Refused
                    | ForwardError::NoRoom
                    | ForwardError::Severed => None,
                };
                if let Some(suspicion) = suspicion {
                    instance.suspect(&ready.endpoint, suspicion).await;
                }
                let is_lost = matches!(error, ForwardError::Broken(_) | ForwardError::Severed);
                let may_repeat = error.is_unsent() || is_lost && transport.may_repeat(request);
                if !may_repeat || breaks >= MAX_BREAKS || Instant::now() >= self.pending.deadline {
                    return Err(error.into());
                }
                self.pending.metrics.upstream_retries.increment(1);
                if matches!(error, ForwardError::Unsent | ForwardError::Refused) {
                    // A port that takes connections and closes them at once is not tried in a hurry.
                    sleep(pauses.advance(|| 0.0)).await;
                }
                match Box::pin(self.pending.ready_again(wake)).await {
                    Ok(again) => ready = again,
                    // Its name may mean another by now, which has places of its own.
                    Err(ProxyError::Wake(WakeError::Gone)) => {
                        drop(slot);
                        self.pending.renew().await?;
                        let admitted = Box::pin(self.pending.admit(wake)).await?;
                        (ready, slot) = (admitted.ready, admitted.slot);
                    }
                    Err(error) => return Err(error),
                }
                now = Instant::now();
            }
        }
    }

    /// Says that TLS with the instance is refused, once in a while: the next request fails, too.
    fn warn_of_tls(&self, reason: &str) {
        let instance = &self.pending.resolved.instance;
        let warned = instance.belongings();
        let warned = warned.get_or_insert(self.hop.port, TlsWarning::default);
        if warned.is_due(Instant::now()) {
            tracing::warn!(instance = %instance.id(), name = %instance.name(),
                route = %self.pending.route.label(), code = "upstream_tls", reason,
                "a request was not sent");
        }
    }

    /// Whether the route takes such a response, so soon after a wake, for "not ready yet".
    fn is_not_ready_yet(&self, status: u16, ready: &Ready<S>) -> bool {
        let retry = &self.pending.route.retry;
        if !retry.on_wake.contains(&status) {
            return false;
        }
        let now = Instant::now();
        let woken = ready.endpoint.woken_since(now);
        now < self.pending.deadline && woken.is_some_and(|since| since < retry.on_wake_for)
    }
}

impl Transport for Arc<Upstream> {
    type Stream = InstanceStream;
    type Request = Outgoing;
    type Response = InstanceResponse<UpstreamBody>;

    fn send(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(InstanceStream, OpenConnection)>,
        request: &mut Outgoing,
        now: Instant,
    ) -> impl Future<Output = Result<InstanceResponse<UpstreamBody>, ForwardError>> + Send {
        Upstream::send(self, endpoint, hop, given, request, now)
    }

    fn may_repeat(&self, request: &Outgoing) -> bool {
        request.may_repeat()
    }

    fn status(&self, response: &InstanceResponse<UpstreamBody>) -> u16 {
        response.status().as_u16()
    }
}

fn error_text(error: &ForwardError) -> &'static str {
    match error {
        ForwardError::Connect(_) => "cannot connect",
        ForwardError::Tls(_) => "TLS is refused",
        ForwardError::Unsent => "closed before the request",
        ForwardError::Refused => "refused by its HTTP/2",
        ForwardError::Broken(_) => "broke before the response",
        ForwardError::Malformed(_) => "not HTTP",
        ForwardError::Client(_) => "its client failed it",
        ForwardError::TimedOut => "no response in time",
        ForwardError::NoRoom => "no room for the response's head",
        ForwardError::Severed => "asleep before the response",
    }
}
