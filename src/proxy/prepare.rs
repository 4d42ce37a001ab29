//! Phase 5, prepare: the request as its instance is to get it.
//!
//! Guarantees: fields of the client's hop end here, and what the forwarding fields say is the
//! gateway's word; the route's own rules come last; the target is in origin form. A small body is
//! read beforehand where that makes the request repeatable.

use http::{Request, Version};

use super::context::{Arrival, RequestContext};
use super::error::ProxyError;
use super::request_body::{buffered, gains_from_buffer};
use super::request_log::RequestLog;
use super::request_target::{adopt_authority, to_origin_form};
use super::route::Target;
use crate::upstream::{ForwardedFor, Outgoing, RequestBody, edit, prepare_request};

/// Makes the instance's request of the client's.
pub(super) async fn prepare(
    mut request: Request<RequestBody>,
    target: &Target,
    arrival: &Arrival<'_>,
    context: &RequestContext,
    log: &RequestLog,
) -> Result<Outgoing, ProxyError> {
    let config = target.destination.route.config();
    let forwarding = &config.forwarding;
    let source = ForwardedFor {
        forwarded: &target.host.forwarded,
        trusted: target.is_trusted,
        request_id: &context.request_id,
        certificate: arrival.certificate,
    };
    adopt_authority(&mut request);
    let mut forwarded = prepare_request(request.headers_mut(), target.fields, &source);
    if let Some(trace) = &log.trace {
        trace.inject(request.headers_mut());
    }
    if !forwarding.request_headers.is_empty() {
        // The rules are for the forwarding fields, too.
        if let Some(forwarded) = forwarded.take() {
            forwarded.insert(request.headers_mut());
        }
        edit(request.headers_mut(), &forwarding.request_headers);
    }
    let prefix = forwarding.strip_path.then_some(config.path.as_str());
    // HTTP/1.0 knows no 1xx (RFC 9110 §15.2).
    let interim = arrival
        .interim
        .filter(|_| request.version() != Version::HTTP_10);
    to_origin_form(&mut request, prefix);
    let buffer = config.retry.buffer.0;
    if buffer > 0 && gains_from_buffer(&request) {
        let deadline = target.destination.deadline;
        request = Box::pin(buffered(request, buffer, deadline)).await?;
    }
    let is_upgrade = target.switch.is_some();
    Ok(Outgoing::new(
        request,
        forwarded,
        is_upgrade,
        interim.cloned(),
    ))
}
