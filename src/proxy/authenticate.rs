//! Phase 2, authenticate: who asks, before anything else happens.
//!
//! Guarantees: the first way that accepts a request lets it in, and without one it gets no further:
//! no name is looked up for it, and nothing woken; a refusal says whether another credential could
//! help, and not which names there are; what a client has said in a field that the gateway fills
//! never reaches the instance, and neither does what let it in, unless the route says so.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::auth::{
    AuthRedirect, Challenge, ForwardAnswer, Identity, Question, Refusal, bearer_challenge,
    judge_certificate, judge_field, judge_forward, judge_signed_url, judge_tokens, take_all,
    tokens,
};
use super::context::{Arrival, RequestContext};
use super::error::ProxyError;
use super::gateway::Gateway;
use super::route::Target;
use crate::client::Request;
use crate::config::{AuthConfig, CaptureText, INSTANCE, Proof};
use crate::upstream::{ForwardedFor, RequestBody, prepare_request};
use hypeman::ControlPlane;

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Judges who has sent a request, by the ways of its route in their order. `cookies` are for its
    /// client, whatever it is answered.
    pub(super) async fn authenticate(
        &self,
        target: &mut Target,
        request: &mut Request<RequestBody>,
        arrival: &Arrival<'_>,
        context: &RequestContext,
        cookies: &mut Vec<HeaderValue>,
    ) -> Result<(), ProxyError> {
        let mut is_judged_elsewhere = false;
        let route = Arc::clone(target.destination.route.config());
        let Some(auth) = &route.forwarding.auth else {
            return Ok(());
        };
        let mut refused = Refused::default();
        let mut identity = None;
        for (position, proof) in auth.proofs().enumerate() {
            let shown = match proof {
                Proof::Header(header) => judge_field(header, request.headers()),
                Proof::ClientCertificate(rules) => {
                    judge_certificate(rules, arrival.certificate, |text| target.filled(text))
                }
                Proof::Jwt(rules) => {
                    let keys = target.destination.route.state().policy.keys.as_ref();
                    let keys = keys.and_then(|keys| keys.of(position));
                    let tokens = tokens(request, &rules.token_from, target.switch.is_some());
                    let filled = |text: &CaptureText| target.filled(text);
                    judge_tokens(rules, tokens, keys, &self.key_fetcher, filled).await
                }
                Proof::SignedUrl(rules) => {
                    judge_signed_url(rules, target.host.host.as_str(), request)
                }
                Proof::Forward(rules) => {
                    let (method, target_uri) = (request.method().clone(), request.uri().clone());
                    let question = Question {
                        method: &method,
                        host: target.host.forwarded.named(),
                        is_secure: target.is_secure,
                        target: target_uri
                            .path_and_query()
                            .map_or("/", PathAndQuery::as_str),
                    };
                    let fields = asked_fields(request, target, arrival, context);
                    let answer = judge_forward(rules, fields, &question, &self.auth_client).await;
                    let ForwardAnswer {
                        verdict,
                        cookies: set,
                        challenges,
                        redirect,
                    } = answer;
                    cookies.extend(set);
                    refused.challenges.extend(challenges);
                    refused.redirect = refused.redirect.or(redirect);
                    let verdict = verdict.unwrap_or(Err(Refusal::Unavailable));
                    // What is said to that server may be said to the instance, too.
                    is_judged_elsewhere = verdict.is_ok();
                    verdict
                }
            };
            match shown {
                Ok(fields) => {
                    identity = Some(fields);
                    break;
                }
                Err(one) => refused.refusal = refused.refusal.max(one),
            }
        }
        let Some(fields) = identity else {
            return Err(refused.into_error(auth, target, context));
        };
        target.identity = Identity {
            fields,
            subprotocol: take_all(auth, is_judged_elsewhere, request),
        };
        Ok(())
    }
}

/// The fields of a request as a server that judges it is sent them.
fn asked_fields(
    request: &Request<RequestBody>,
    target: &Target,
    arrival: &Arrival<'_>,
    context: &RequestContext,
) -> HeaderMap {
    let source = ForwardedFor {
        forwarded: &target.host.forwarded,
        trusted: target.is_trusted,
        request_id: &context.request_id,
        certificate: arrival.certificate,
        via: None,
    };
    let mut headers = request.headers().clone();
    if let Some(forwarded) = prepare_request(&mut headers, target.fields, &source) {
        forwarded.insert(&mut headers);
    }
    headers
}

/// What the ways in have said that have not accepted a request.
#[derive(Debug)]
struct Refused {
    refusal: Refusal,
    challenges: Vec<HeaderValue>,
    redirect: Option<(StatusCode, HeaderValue)>,
}

// === impl Refused ===

impl Refused {
    /// The error for a request that no way has let in, which counts against its client: also when
    /// it is sent somewhere else, or strangers could have a server that judges asked without end.
    fn into_error(
        mut self,
        auth: &AuthConfig,
        target: &Target,
        context: &RequestContext,
    ) -> ProxyError {
        if self.redirect.is_none() && self.refusal == Refusal::Unavailable {
            return ProxyError::AuthUnavailable;
        }
        if let Err(wait) = target
            .destination
            .admission()
            .charge_refused(context.client)
        {
            return ProxyError::TooManyRefused(wait);
        }
        if let Some((status, location)) = self.redirect {
            return ProxyError::AuthRedirect(Box::new(AuthRedirect { status, location }));
        }
        if auth.proofs().any(|proof| matches!(proof, Proof::Jwt(_))) {
            let challenge = bearer_challenge(self.refusal == Refusal::Invalid);
            self.challenges.insert(0, challenge);
        }
        match self.refusal {
            Refusal::Missing | Refusal::Invalid if !self.challenges.is_empty() => {
                ProxyError::Unauthenticated(Challenge(self.challenges))
            }
            Refusal::Missing | Refusal::Invalid | Refusal::Other | Refusal::Unavailable => {
                ProxyError::Forbidden
            }
        }
    }
}

impl Default for Refused {
    fn default() -> Self {
        Self {
            refusal: Refusal::Missing,
            challenges: Vec::new(),
            redirect: None,
        }
    }
}

// === impl Target ===

impl Target {
    /// A text with what the captures of this request have matched.
    fn filled(&self, text: &CaptureText) -> Option<String> {
        let (route, host) = (&self.destination.route, self.host.host.as_str());
        text.filled(|name| match route.capture(host, name) {
            None if name == INSTANCE => Some(self.destination.instance.as_str()),
            captured => captured,
        })
    }
}
