//! One request, or connection, from its head to the last byte of what it is answered.
//!
//! Guarantees: what decides ([`RequestContext`], [`WakeInfo`], [`ExtraFields`]) and what is written
//! down ([`RequestLog`]) are kept apart; the log is written exactly once, when the transaction
//! ends, however it ends.

use std::fmt;
use std::net::IpAddr;

use http::HeaderValue;
use tokio::time::Instant;

use super::context::{GatewayParts, RequestContext, ServerTerms};
use super::request_log::{Kind, RequestLog};
use super::wake_info::WakeInfo;
use crate::config::ResponseConfig;
use crate::names::RequestId;

/// One request with its response, or one connection.
pub(super) struct Transaction {
    /// The facts that are fixed from the start.
    pub(super) context: RequestContext,
    /// The wake that it met, if any.
    pub(super) wake: WakeInfo,
    /// The fields that its response has besides those of its head.
    pub(super) extra: ExtraFields,
    /// The cookies that the server which judges requests sets.
    pub(super) cookies: Vec<HeaderValue>,
    /// The facts that are written down when it ends.
    pub(super) log: RequestLog,
}

/// The fields that a response has besides its request's id.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ExtraFields {
    /// `X-Wakegate-Wake`: how the request met a wake.
    pub(super) wake: bool,
    /// `Server-Timing`: how long the request was held.
    pub(super) server_timing: bool,
}

/// The same value in memory of its own: that of a request shares what the whole head is in.
pub(super) fn copied(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

// === impl Transaction ===

impl Transaction {
    /// A transaction that begins now, of `client` by `peer`, under these terms.
    pub(super) fn new<P>(
        parts: &GatewayParts<P>,
        kind: Kind,
        (peer, client, terms): (IpAddr, IpAddr, ServerTerms),
        request_id: RequestId,
        user_agent: Option<HeaderValue>,
    ) -> Self {
        Self {
            context: RequestContext {
                request_id,
                started: Instant::now(),
                peer,
                client,
                user_agent,
                terms,
            },
            wake: WakeInfo::default(),
            extra: ExtraFields::default(),
            cookies: Vec::new(),
            log: RequestLog::new(parts, kind),
        }
    }

    /// Counts the request as answered: what follows is a tunnel, which is written down at its end.
    pub(super) fn count(&mut self) {
        self.log.count(&self.context, self.wake);
    }

    /// A tunnel, or a stream of events, lives much longer than what it began with: nothing of the request's head is kept but what is
    /// written down at the end.
    pub(super) fn let_head_go(&mut self) {
        let context = &mut self.context;
        context.user_agent = context.user_agent.as_ref().and_then(copied);
        context.request_id = context.request_id.copied();
        self.log.let_head_go();
    }
}

// === impl ExtraFields ===

impl ExtraFields {
    /// Those of a response that an instance, or the gateway in its place, has made.
    pub(super) fn of(config: &ResponseConfig) -> Self {
        Self {
            wake: config.wake_header,
            server_timing: config.server_timing,
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.log.write(&self.context, self.wake);
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transaction({})", self.context.request_id)
    }
}
