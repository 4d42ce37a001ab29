//! Everything that can keep a request from its response.

use std::time::Duration;

use http::StatusCode;

use super::auth::{AuthRedirect, Challenge};
use super::denied::WakeDenied;
use super::https_redirect::HttpsRedirect;
use crate::client::RefusalReason;
use crate::hold::AdmitError;
use crate::router::{AuthorityError, RouteError};
use crate::upstream::{ForwardError, PeerError};
use crate::wake::WakeError;

/// A request cannot be answered by its instance.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It is none.
    #[error(transparent)]
    Unreadable(#[from] RefusalReason),
    /// It names no host, or not exactly one.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Its connection was made for another host, whose certificate does not cover this one.
    #[error("the connection was made for another host")]
    Misdirected,
    /// `CONNECT` asks for another kind of proxy.
    #[error("the gateway does not tunnel with CONNECT")]
    Connect,
    /// Extended CONNECT for something else than WebSocket (RFC 8441 §5).
    #[error("the gateway knows no such protocol to switch to")]
    UnknownProtocol,
    /// A target that its method does not have.
    #[error("the request's target is not valid")]
    Target,
    /// It must come over TLS; its client is redirected.
    #[error("the request is redirected to https")]
    Redirect(Box<HttpsRedirect>),
    /// It has passed this gateway on its way to the same instance.
    #[error("the request has been here already")]
    ForwardLoop,
    /// It shows nothing that its route knows its sender by.
    #[error("the request does not show who sends it")]
    Unauthenticated(Challenge),
    /// The server that judges requests sends its client somewhere else.
    #[error("the request is redirected by the server that judges it")]
    AuthRedirect(Box<AuthRedirect>),
    /// Whoever sends it may not, or cannot be asked to show more.
    #[error("the sender of the request may not send it")]
    Forbidden,
    /// Its client has sent too many requests that were refused.
    #[error("the client has sent too many requests that were refused")]
    TooManyRefused(Duration),
    /// Nobody can tell at the moment who sends it.
    #[error("it cannot be told at the moment who sends the request")]
    AuthUnavailable,
    /// It is for a port that its route does not allow.
    #[error("the route does not allow this port")]
    PortNotAllowed,
    /// Its client has as many tunnels of its route as it may have.
    #[error("the client has as many open tunnels as it may have")]
    TunnelLimit,
    /// It is no valid handshake of WebSocket, where the gateway is to answer it.
    #[error("the request is no valid WebSocket handshake")]
    Handshake,
    /// It has no route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// There is no place to wait.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// Its instance sleeps, and this request may not wake it.
    #[error("the instance is asleep, and this request may not wake it")]
    Asleep(WakeDenied),
    /// Its client has asked for too many names that do not exist.
    #[error("the client has asked for too many names that do not exist")]
    TooManyUnknown(Duration),
    /// Its body, which was to be read beforehand, did not come in time.
    #[error("the request's body did not come in time")]
    BodyTooSlow,
    /// Its body, which was to be read beforehand, broke off.
    #[error("the request's body broke off")]
    BodyBroke,
    /// Its instance is not there.
    #[error(transparent)]
    Wake(#[from] WakeError),
    /// Its instance is another host's, and nothing was sent to it.
    #[error("the instance is not this host's")]
    Misplaced,
    /// The directory says, also when it is read anew, that its instance is at a host that does not have it.
    #[error("no host has the instance, where the directory says that one has")]
    Nowhere,
    /// Another member of the fleet has passed it on, whose route says what only a route here could.
    #[error("the route of whoever has passed the request on says more than it can pass on")]
    PolicyNotKnown,
    /// The node of its instance's host did not answer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The node of its instance's host has refused a connection.
    #[error("the host of the instance has refused it with {0}: {1}")]
    OfPeer(StatusCode, &'static str),
    /// Its instance did not answer.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Its instance switched protocols without being asked.
    #[error("the instance switched protocols without being asked")]
    UnexpectedUpgrade,
}
