//! Phase 5, admit: whether a request may wake its instance, and its wait until the instance is
//! ready and it is the request's turn.
//!
//! Guarantees: the route's rules judge a request before anything is done for it, and one that may
//! not wake prewarms nothing either; the wait is that of a [`PendingRequest`]; a browser that has
//! waited for a while is shown the waiting page, and the wake goes on.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Response, Uri};
use tokio::time::timeout;

use super::connection_cache::CachedTarget;
use super::context::RequestContext;
use super::denied::Denied;
use super::error::ProxyError;
use super::gateway::Gateway;
use super::pending_request::{Admitted, LookUp, PendingRequest, Resolved};
use super::request_head::RequestHead;
use super::request_log::RequestLog;
use super::route::{Destination, Target};
use super::waiting;
use super::wake_info::WakeInfo;
use crate::client::Request;
use crate::instance_tls::InstanceStream;
use crate::telemetry::Trace;
use crate::upstream::{Fields, RequestBody};
use hypeman::ControlPlane;

/// The end of a request's wait.
pub(super) enum Admittance {
    /// It goes to its instance.
    Admitted(Admitted<InstanceStream>),
    /// Its client is shown the waiting page.
    WaitingPage(Response<Bytes>),
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// A request with its instance, judged by the rules of its route.
    pub(super) fn pending_request<'a>(
        &'a self,
        target: &'a Target,
        resolved: &CachedTarget,
        look_up: &'a dyn LookUp<InstanceStream>,
        request: &Request<RequestBody>,
        context: &'a RequestContext,
        log: &RequestLog,
    ) -> PendingRequest<'a, InstanceStream> {
        let destination = &target.destination;
        let admission = destination.admission();
        let may_wake = match admission.is_open() {
            true => Ok(()),
            false => admission.check(&RequestHead {
                method: request.method(),
                path: &target.path,
                headers: request.headers(),
                client: destination.client,
            }),
        };
        PendingRequest {
            user_agent: context.user_agent.as_ref(),
            head_bytes: head_bytes(request.uri(), target.fields),
            trace: log.trace.as_deref().and_then(Trace::parent),
            ..self.pending(destination, resolved, look_up, may_wake)
        }
    }

    /// The same for a connection, of which no more than its client is known.
    pub(super) fn pending_connection<'a>(
        &'a self,
        destination: &'a Destination,
        resolved: &CachedTarget,
        look_up: &'a dyn LookUp<InstanceStream>,
    ) -> PendingRequest<'a, InstanceStream> {
        let may_wake = destination.admission().check_raw(destination.client);
        self.pending(destination, resolved, look_up, may_wake)
    }

    /// A request, or connection, with its instance; whether it may wake that has been judged.
    pub(super) fn pending<'a>(
        &'a self,
        destination: &'a Destination,
        resolved: &CachedTarget,
        look_up: &'a dyn LookUp<InstanceStream>,
        may_wake: Result<(), Denied>,
    ) -> PendingRequest<'a, InstanceStream> {
        PendingRequest {
            resolved: Resolved {
                instance: Arc::clone(&resolved.instance),
                gate: Arc::clone(&resolved.gate),
            },
            look_up,
            renewals: 0,
            route: destination.route.config(),
            port: destination.port,
            admission: destination.admission(),
            may_wake,
            hold: &self.parts.hold,
            metrics: &self.parts.metrics,
            tls: destination.tls.clone(),
            client: destination.client,
            user_agent: None,
            head_bytes: 0,
            deadline: destination.deadline,
            unparked_by: None,
            trace: None,
        }
    }

    /// Waits until the request may go to its instance, or its client is to be shown the waiting
    /// page.
    pub(super) async fn admit(
        &self,
        pending: &mut PendingRequest<'_, InstanceStream>,
        target: &Target,
        request: &mut Request<RequestBody>,
        context: &RequestContext,
        wake: &mut WakeInfo,
        log: &mut RequestLog,
    ) -> Result<Admittance, ProxyError> {
        let config = pending.route;
        if pending.may_wake.is_ok() {
            let requester = || pending.requester();
            let instance = &pending.resolved.instance;
            self.prewarm(pending.route, instance, &target.path, requester);
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
                    let html = waiting::response(page, host, &pending.resolved.instance, id);
                    return Ok(Admittance::WaitingPage(html));
                }
            },
        };
        log.trace_hold(wake.held);
        result.map(Admittance::Admitted)
    }
}

/// About as many bytes as the head took on the wire.
fn head_bytes(uri: &Uri, fields: Fields) -> usize {
    let target = uri.path_and_query().map(PathAndQuery::as_str);
    fields.bytes() + target.map_or(0, str::len)
}

impl fmt::Debug for Admittance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitted(_) => "Admitted",
            Self::WaitingPage(_) => "WaitingPage",
        })
    }
}
