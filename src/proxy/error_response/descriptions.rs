//! From an error to a status, a code and a sentence: the only place that chooses a status for one.
//!
//! Guarantees: a code is stable, and the sentence says nothing about addresses, ids or the control
//! plane; what is worth trying again says when.

use std::time::Duration;

use http::StatusCode;

use crate::client::RefusalReason;
use crate::hold::AdmitError;
use crate::proxy::denied::Denied;
use crate::proxy::error::ProxyError;
use crate::router::RouteError;
use crate::upstream::{BodyFailure, ForwardError, PeerError};
use crate::wake::{WakeError, WakeStage};

/// The words of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// The response's status.
    pub status: StatusCode,
    /// One stable word, for programs.
    pub code: &'static str,
    /// One sentence, for people.
    pub detail: &'static str,
    /// The time after which it is worth trying again.
    pub retry_after: Option<Duration>,
}

/// What a client is told that has too much in memory.
const MEMORY_SHARE: &str =
    "Your requests and responses take too much of the gateway's memory together.";
const SOON: Option<Duration> = Some(Duration::from_secs(1));

/// Chooses the words for an error.
pub fn describe(error: &ProxyError) -> Description {
    let (status, code, detail, retry_after) = match error {
        ProxyError::Unreadable(reason) => unreadable(*reason),
        ProxyError::Authority(_) => (
            StatusCode::BAD_REQUEST,
            "bad_host",
            "The request's Host is missing or not valid.",
            None,
        ),
        ProxyError::Misdirected => (
            StatusCode::MISDIRECTED_REQUEST,
            "misdirected",
            "The connection was made for another host.",
            None,
        ),
        ProxyError::Connect => (
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "CONNECT is not served here.",
            None,
        ),
        ProxyError::UnknownProtocol => (
            StatusCode::NOT_IMPLEMENTED,
            "unknown_protocol",
            "There is no such protocol to switch to.",
            None,
        ),
        ProxyError::Target => (
            StatusCode::BAD_REQUEST,
            "bad_target",
            "The request's target is not valid for its method.",
            None,
        ),
        ProxyError::Redirect(redirect) => (
            match redirect.keeps_method {
                true => StatusCode::PERMANENT_REDIRECT,
                false => StatusCode::MOVED_PERMANENTLY,
            },
            "redirect_to_https",
            "This host is served over https.",
            None,
        ),
        ProxyError::ForwardLoop => (
            StatusCode::LOOP_DETECTED,
            "forward_loop",
            "The request has passed this gateway already, on its way to the same instance.",
            None,
        ),
        ProxyError::Unauthenticated(_) => (
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "The request does not show who sends it.",
            None,
        ),
        ProxyError::AuthRedirect(to) => {
            (to.status, "auth_redirect", "Say first who you are.", None)
        }
        ProxyError::Forbidden => (
            StatusCode::FORBIDDEN,
            "forbidden",
            "The request does not have what this route asks for.",
            None,
        ),
        ProxyError::TooManyRefused(wait) => (
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_refused",
            "Too many of your requests did not have what this route asks for.",
            Some(*wait),
        ),
        ProxyError::AuthUnavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "auth_unavailable",
            "It cannot be told at the moment who sends the request.",
            SOON,
        ),
        ProxyError::PortNotAllowed => (
            StatusCode::NOT_FOUND,
            "port_not_allowed",
            "Nothing is served at this port.",
            None,
        ),
        ProxyError::TunnelLimit => (
            StatusCode::TOO_MANY_REQUESTS,
            "tunnel_limit",
            "You have too many open connections of this kind already.",
            SOON,
        ),
        ProxyError::Handshake => (
            StatusCode::BAD_REQUEST,
            "bad_handshake",
            "This is no valid WebSocket handshake.",
            None,
        ),
        ProxyError::Route(RouteError::NoRoute) => (
            StatusCode::NOT_FOUND,
            "no_route",
            "Nothing is served at this host and path.",
            None,
        ),
        ProxyError::Route(RouteError::AmbiguousPath(_)) => (
            StatusCode::BAD_REQUEST,
            "ambiguous_path",
            "Servers read this path in different ways, and the rules differ for these.",
            None,
        ),
        ProxyError::Admit(AdmitError::Closed) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "route_closed",
            "The route takes no requests.",
            SOON,
        ),
        ProxyError::Admit(AdmitError::NotItsTurn) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "instance_busy",
            "The instance was busy with other requests for too long.",
            SOON,
        ),
        ProxyError::Admit(AdmitError::InstanceShare) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "instance_share",
            "Your other requests took your share of the instance for too long.",
            SOON,
        ),
        ProxyError::Admit(AdmitError::QueueShare) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "hold_queue_share",
            "Too many of your requests are waiting for instances to wake.",
            SOON,
        ),
        ProxyError::Asleep(denied) => asleep(denied.reason()),
        ProxyError::TooManyUnknown(wait) => (
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_unknown_names",
            "Too many names that do not exist were asked for.",
            Some(*wait),
        ),
        ProxyError::BodyTooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The request's body did not come in time.",
            None,
        ),
        ProxyError::BodyBroke => (
            StatusCode::BAD_REQUEST,
            "body_broke",
            "The request's body broke off.",
            None,
        ),
        ProxyError::Admit(
            AdmitError::InstanceQueue
            | AdmitError::RouteQueue
            | AdmitError::TotalQueue
            | AdmitError::Bytes,
        ) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "hold_queue_full",
            "Too many requests are waiting for instances to wake.",
            SOON,
        ),
        ProxyError::Wake(error) => wake(error),
        ProxyError::Forward(error) => forward(error),
        ProxyError::Misplaced => (
            StatusCode::MISDIRECTED_REQUEST,
            "misplaced",
            "The instance is not at this host.",
            None,
        ),
        ProxyError::Nowhere => (
            StatusCode::SERVICE_UNAVAILABLE,
            "misplaced",
            "The instance is not where it is said to be.",
            SOON,
        ),
        ProxyError::PolicyNotKnown => (
            StatusCode::BAD_GATEWAY,
            "policy_not_known",
            "The host of the instance does not know by what rules to serve it.",
            None,
        ),
        ProxyError::Peer(error) => peer(error),
        ProxyError::OfPeer(status, code) => {
            let detail = "The host of the instance refuses it.";
            (*status, *code, detail, None)
        }
        ProxyError::UnexpectedUpgrade => (
            StatusCode::BAD_GATEWAY,
            "bad_upgrade",
            "The instance's response is not valid.",
            None,
        ),
    };
    Description {
        status,
        code,
        detail,
        retry_after,
    }
}

type Response = (StatusCode, &'static str, &'static str, Option<Duration>);

fn unreadable(reason: RefusalReason) -> Response {
    match reason {
        RefusalReason::Malformed => (
            StatusCode::BAD_REQUEST,
            "bad_request",
            "What was sent is no valid request of HTTP/1.0 or HTTP/1.1.",
            None,
        ),
        RefusalReason::LongTarget => (
            StatusCode::URI_TOO_LONG,
            "target_too_long",
            "The request's target is too long.",
            None,
        ),
        RefusalReason::LargeHead => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head_too_large",
            "The request's fields are too large or too many.",
            None,
        ),
        RefusalReason::TransferCoding => (
            StatusCode::NOT_IMPLEMENTED,
            "transfer_coding",
            "The request's transfer coding is not supported.",
            None,
        ),
        RefusalReason::WrongScheme => (
            StatusCode::BAD_REQUEST,
            "wrong_scheme",
            "This port speaks TLS: the request was sent to it in clear. Use https:// instead of http://.",
            None,
        ),
        RefusalReason::NoRoom => (
            StatusCode::SERVICE_UNAVAILABLE,
            "memory_share",
            MEMORY_SHARE,
            SOON,
        ),
    }
}

fn asleep(reason: Denied) -> Response {
    match reason {
        Denied::ClientRate(wait) | Denied::RouteRate(wait) => (
            StatusCode::TOO_MANY_REQUESTS,
            "wake_rate",
            "The instance is asleep, and it has been woken too often lately.",
            Some(wait),
        ),
        Denied::Scanner => (
            StatusCode::NOT_FOUND,
            "not_here",
            "There is nothing here.",
            None,
        ),
        Denied::Robots | Denied::Health => (StatusCode::OK, "asleep", "asleep", None),
        Denied::Method
        | Denied::Path
        | Denied::Header
        | Denied::Client
        | Denied::UserAgent
        | Denied::Bot
        | Denied::Prefetch
        | Denied::Icon => (
            StatusCode::SERVICE_UNAVAILABLE,
            "asleep",
            "The instance is asleep, and this kind of request does not wake it.",
            Some(Duration::from_secs(60)),
        ),
    }
}

fn wake(error: &WakeError) -> Response {
    match error {
        WakeError::NotFound | WakeError::Gone => (
            StatusCode::NOT_FOUND,
            error.code(),
            "There is no such instance.",
            None,
        ),
        WakeError::Stopped => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The instance is stopped and is not started by requests.",
            Some(Duration::from_secs(30)),
        ),
        WakeError::ColdBootRefused => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The instance has lost its memory, and is not booted by a request.",
            Some(Duration::from_secs(30)),
        ),
        WakeError::Unusable => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The instance has no network, so that no request can reach it.",
            Some(Duration::from_secs(30)),
        ),
        WakeError::AddressRefused => (
            StatusCode::BAD_GATEWAY,
            error.code(),
            "The instance's address is one that requests are never sent to.",
            None,
        ),
        WakeError::StateUnknown => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The service that wakes instances cannot tell the instance's state.",
            Some(Duration::from_secs(5)),
        ),
        WakeError::TimedOut(WakeStage::NotListening) => (
            StatusCode::GATEWAY_TIMEOUT,
            error.code(),
            "The instance runs, but its application did not open its port in time.",
            SOON,
        ),
        WakeError::TimedOut(WakeStage::Initializing) => (
            StatusCode::GATEWAY_TIMEOUT,
            error.code(),
            "The instance was still starting when the time to wait was over.",
            SOON,
        ),
        WakeError::TimedOut(WakeStage::Unhealthy) => (
            StatusCode::GATEWAY_TIMEOUT,
            error.code(),
            "The instance runs, but its application did not become healthy in time.",
            SOON,
        ),
        WakeError::TimedOut(
            WakeStage::Asking
            | WakeStage::Queued
            | WakeStage::Restoring
            | WakeStage::Starting
            | WakeStage::NoCapacity,
        ) => (
            StatusCode::GATEWAY_TIMEOUT,
            error.code(),
            "The instance did not wake up in time.",
            SOON,
        ),
        WakeError::NoCapacity => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The host has no room to wake the instance.",
            Some(Duration::from_secs(5)),
        ),
        WakeError::NoSlot => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "Too many other instances are being woken.",
            Some(Duration::from_secs(2)),
        ),
        WakeError::Transitioning => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The instance is changing its state; try again in a moment.",
            Some(Duration::from_secs(2)),
        ),
        WakeError::TooSlow(usual) => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The instance is being woken, which usually takes longer than the request can wait.",
            Some(*usual),
        ),
        WakeError::BreakerOpen(left) => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The instance could not be woken several times in a row.",
            Some(*left),
        ),
        WakeError::ControlPlaneDown => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The service that wakes instances does not answer.",
            Some(Duration::from_secs(2)),
        ),
        WakeError::Unreadable => (
            StatusCode::BAD_GATEWAY,
            error.code(),
            "The answer of the service that wakes instances cannot be read.",
            SOON,
        ),
        WakeError::Unauthorized => (
            StatusCode::BAD_GATEWAY,
            error.code(),
            "The gateway is not allowed to wake instances.",
            None,
        ),
        WakeError::Failed => (
            StatusCode::BAD_GATEWAY,
            error.code(),
            "The instance could not be woken.",
            SOON,
        ),
        WakeError::Tls(_) => upstream_tls(),
        WakeError::Draining => (
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "The gateway is shutting down.",
            SOON,
        ),
    }
}

const fn upstream_tls() -> Response {
    (
        StatusCode::BAD_GATEWAY,
        "upstream_tls",
        "The instance and the gateway do not agree on TLS.",
        None,
    )
}

fn peer(error: &PeerError) -> Response {
    match error {
        PeerError::Unreachable | PeerError::Untaken => (
            StatusCode::SERVICE_UNAVAILABLE,
            "host_unreachable",
            "The host of the instance cannot be reached.",
            SOON,
        ),
        PeerError::Refused(_) => (
            StatusCode::BAD_GATEWAY,
            "peer_refused",
            "The host of the instance is not believed, or does not believe the gateway.",
            None,
        ),
        PeerError::Broken(_) => (
            StatusCode::BAD_GATEWAY,
            "upstream_broke",
            "The host of the instance broke the connection off before its response.",
            None,
        ),
        PeerError::TimedOut => forward(&ForwardError::TimedOut),
        PeerError::Unfit(_) => (
            StatusCode::BAD_GATEWAY,
            "upstream_broke",
            "The request cannot be passed on to the host of the instance.",
            None,
        ),
        PeerError::Client(failure) => forward(&ForwardError::Client(*failure)),
    }
}

fn forward(error: &ForwardError) -> Response {
    match error {
        ForwardError::Connect(_) => (
            StatusCode::BAD_GATEWAY,
            "connect_failed",
            "The instance does not accept connections.",
            SOON,
        ),
        ForwardError::Tls(_) => upstream_tls(),
        ForwardError::Unsent
        | ForwardError::Refused
        | ForwardError::Broken(_)
        | ForwardError::Severed => (
            StatusCode::BAD_GATEWAY,
            "upstream_broke",
            "The instance broke the connection off before its response.",
            None,
        ),
        ForwardError::Malformed(_) => (
            StatusCode::BAD_GATEWAY,
            "upstream_invalid",
            "The instance's response is not valid.",
            None,
        ),
        ForwardError::Client(BodyFailure::Broke) => (
            StatusCode::BAD_REQUEST,
            "body_broke",
            "The request's body broke off.",
            None,
        ),
        ForwardError::Client(BodyFailure::TooSlow) => (
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The request's body did not come in time.",
            None,
        ),
        // No time to come back after: the instance may have done what was asked.
        ForwardError::NoRoom => (
            StatusCode::SERVICE_UNAVAILABLE,
            "memory_share",
            MEMORY_SHARE,
            None,
        ),
        ForwardError::TimedOut => (
            StatusCode::GATEWAY_TIMEOUT,
            "upstream_timeout",
            "The instance sent no response in time.",
            None,
        ),
    }
}
