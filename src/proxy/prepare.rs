//! Phase 6, prepare: the request as its instance is to get it.
//!
//! Guarantees: fields of the client's hop end here, and what the forwarding fields say is the
//! gateway's word; the route's own rules come last; the target is in origin form. A small body is
//! read beforehand where that makes the request repeatable.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method};

use super::context::{Arrival, RequestContext};
use super::request_log::RequestLog;
use super::request_target::{adopt_authority, to_origin_form};
use super::route::Target;
use crate::client::Request;
use crate::config::{AuthConfig, FieldNames, RouteConfig, ViaConfig};
use crate::flow::ClientBuffers;
use crate::upstream::{
    Field, ForwardedFor, ForwardedHeaders, InterimSink, Outgoing, RequestBody, TrailerRules, edit,
    has_bound_credentials, prepare_lines, prepare_request, prepare_request_of_peer, remove_aliases,
};

/// Makes the instance's request of the client's.
pub(super) fn prepare(
    mut request: Request<RequestBody>,
    target: &Target,
    arrival: &Arrival<'_>,
    context: &RequestContext,
    log: &RequestLog,
) -> Outgoing {
    let config = target.destination.route.config();
    let forwarding = &config.forwarding;
    adopt_authority(&mut request);
    let forwarded = match arrival.facts() {
        None => fields_for_instance(&mut request, target, arrival, context, log),
        Some(facts) => {
            // The other member has seen the client, and has applied its route's rules.
            prepare_request_of_peer(request.headers_mut(), target.fields);
            if let Some(host) = &facts.host {
                request.headers_mut().insert(HOST, host.clone());
            }
            if let Some(trace) = &log.trace {
                trace.inject(request.headers_mut());
            }
            None
        }
    };
    let prefix = match arrival.facts() {
        None => forwarding.strip_path.then(|| config.path()),
        Some(facts) => facts.strip.as_deref(),
    };
    let interim = arrival.interim_for(&request);
    let interim = interim.map(|sink| match arrival.facts() {
        None => obeying(sink, config),
        Some(_) => Arc::clone(sink),
    });
    to_origin_form(&mut request, prefix);
    say_that_there_is_no_body(&mut request);
    if arrival.facts().is_none() {
        let rules = TrailerRules::of_request(config);
        request.body_mut().obey(rules);
    }
    let is_upgrade = target.switch.is_some();
    let is_bound = target.fields.has(Field::Authorization);
    let is_bound = is_bound && has_bound_credentials(request.headers());
    let own = request.extensions().get::<ClientBuffers>();
    let buffers = arrival.buffers.or(own).cloned();
    let mut outgoing = Outgoing::new(request, forwarded, is_upgrade, interim);
    outgoing.count_to(buffers);
    outgoing.set_client(arrival.cache.client(), is_bound);
    outgoing.spell(forwarding.field_names);
    outgoing
}

/// The size of the body that is read beforehand, where that makes the request repeatable.
pub(super) fn buffer_for(outgoing: &Outgoing, target: &Target) -> Option<usize> {
    let limit = target.destination.route.config().retry.buffer.0;
    (limit > 0 && outgoing.gains_from_buffer()).then_some(limit)
}

/// Makes a request's fields those that its instance is to get, by the rules of its route. The
/// forwarding fields are returned, and not inserted, where nothing else concerns them.
pub(super) fn fields_for_instance(
    request: &mut Request<RequestBody>,
    target: &Target,
    arrival: &Arrival<'_>,
    context: &RequestContext,
    log: &RequestLog,
) -> Option<ForwardedHeaders> {
    let forwarding = &target.destination.route.config().forwarding;
    let source = ForwardedFor {
        forwarded: &target.host.forwarded,
        trusted: target.is_trusted,
        request_id: &context.request_id,
        certificate: arrival.certificate,
        via: (target.via != ViaConfig::Off).then(|| target.pseudonym.element(request.version())),
    };
    let lines = request.lines_mut();
    let mut forwarded = lines.and_then(|lines| prepare_lines(lines, target.fields, &source));
    if forwarded.is_none() {
        forwarded = prepare_request(request.headers_mut(), target.fields, &source);
    }
    if let Some(trace) = &log.trace {
        trace.inject(request.headers_mut());
    }
    if !forwarding.request_headers.is_empty() || forwarding.auth.is_some() {
        let auth = forwarding.auth.iter().flat_map(AuthConfig::fields);
        let replaced: Vec<_> = forwarding.request_headers.replaced().chain(auth).collect();
        remove_aliases(request.headers_mut(), &replaced);
    }
    // Nobody else's, and all values of a name that has several.
    for (name, _) in &target.identity.fields {
        request.headers_mut().remove(name);
    }
    for (name, value) in &target.identity.fields {
        request.headers_mut().append(name, value.clone());
    }
    let is_spelled = forwarding.field_names != FieldNames::Lower;
    if !forwarding.request_headers.is_empty() || is_spelled {
        // The rules are for the forwarding fields, too.
        if let Some(forwarded) = forwarded.take() {
            forwarded.insert(request.headers_mut());
        }
        edit(request.headers_mut(), &forwarding.request_headers);
    }
    forwarded
}

/// The sink for interim responses, which the route's rules are for as far as they take fields away.
pub(super) fn obeying(sink: &InterimSink, route: &Arc<RouteConfig>) -> InterimSink {
    let rules = &route.forwarding.response_headers;
    if rules.replaced().next().is_none() {
        return Arc::clone(sink);
    }
    let (sink, route) = (Arc::clone(sink), Arc::clone(route));
    Arc::new(move |status, fields| {
        let mut fields = fields.clone();
        for name in route.forwarding.response_headers.replaced() {
            fields.remove(name);
        }
        sink(status, &fields);
    })
}

/// Without a length some servers answer 411 to methods that usually have a body (RFC 9110 §8.6).
fn say_that_there_is_no_body(request: &mut Request<RequestBody>) {
    let usually_has_one = matches!(
        *request.method(),
        Method::POST | Method::PUT | Method::PATCH
    );
    if usually_has_one && request.body().is_nothing() {
        let headers = request.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}
