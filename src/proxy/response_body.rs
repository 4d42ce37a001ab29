//! A response's body, with everything that ends when it ends.
//!
//! Guarantees: exactly one access line and one count for each request: at the end of its response's
//! body, or when its client leaves, whichever comes first; the request keeps its slot at the
//! instance until then. A tunnel has its line at its own end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use http_body_util::Full;
use http1::{FieldLines, PassingFields};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::transaction::Transaction;
use super::waiting::StatusStream;
use crate::hold::Slot;
use crate::instance_tls::InstanceStream;
use crate::upstream::{EventStream, ResponseError, UpstreamBody, X_REQUEST_ID};

pub(super) const X_WAKEGATE_WAKE: HeaderName = HeaderName::from_static("x-wakegate-wake");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const NOT_HELD: HeaderValue = HeaderValue::from_static("wake;dur=0.0");

/// A response's body, whoever made it.
pub(super) enum Content {
    /// The instance's; the request is at the instance for as long as it lives.
    Upstream {
        body: UpstreamBody,
        /// The fields of its head, if they are still the lines that they came in. In their box: a response is
        /// moved several times.
        lines: Option<Box<PassingFields>>,
        /// Another host's instance has its places there.
        _slot: Option<Slot>,
    },
    /// The instance's events, whose connection may be parked.
    Events(EventStream),
    /// Nothing, since protocols are switched: the transaction is the tunnel's when this ends.
    Switching(oneshot::Sender<Box<Transaction>>),
    /// The gateway's own.
    Own(Full<Bytes>),
    /// The events of a wake, for the waiting page.
    Status(StatusStream<InstanceStream>),
}

/// A response's body with the transaction that it ends.
pub struct GatewayBody {
    content: Content,
    /// In a box: a response is moved several times on its way. It is there until the end.
    transaction: Option<Box<Transaction>>,
}

// === impl Content ===

impl Content {
    /// Whether the gateway has made it.
    pub(super) fn is_own(&self) -> bool {
        !matches!(self, Self::Upstream { .. } | Self::Events(_))
    }
}

// === impl GatewayBody ===

impl GatewayBody {
    pub(super) fn new(content: Content, transaction: Box<Transaction>) -> Self {
        Self {
            content,
            transaction: Some(transaction),
        }
    }

    /// Bytes that may wait in memory behind what has been read of it.
    pub fn backlog(&self) -> usize {
        match &self.content {
            Content::Upstream { body, .. } => body.backlog(),
            Content::Events(_) | Content::Switching(_) | Content::Own(_) | Content::Status(_) => 0,
        }
    }

    /// From now on no more than so many bytes are read of it at once.
    pub fn read_at_once(&mut self, bytes: usize) {
        if let Content::Upstream { body, .. } = &mut self.content {
            body.read_at_once(bytes);
        }
    }

    /// Takes the fields of the response that are still lines of its instance's head: they are not among
    /// those of its head here.
    pub fn take_lines(&mut self) -> Option<FieldLines> {
        match &mut self.content {
            Content::Upstream { lines, .. } => lines.take()?.into_either().ok(),
            Content::Events(_) | Content::Switching(_) | Content::Own(_) | Content::Status(_) => {
                None
            }
        }
    }

    /// The fields of the response besides those of its head: how it met a wake, and the request's
    /// id.
    pub fn extra_headers(&self, mut say: impl FnMut(&HeaderName, &HeaderValue)) {
        let Some(transaction) = &self.transaction else {
            return;
        };
        let Transaction {
            context,
            wake,
            extra,
            ..
        } = &**transaction;
        if extra.wake {
            let kind = HeaderValue::from_static(wake.wake.as_str());
            say(&X_WAKEGATE_WAKE, &kind);
        }
        if extra.server_timing {
            let duration = (!wake.held.is_zero()).then(|| {
                let text = format!("wake;dur={:.1}", wake.held.as_secs_f64() * 1e3);
                HeaderValue::try_from(text).ok()
            });
            say(&SERVER_TIMING, &duration.flatten().unwrap_or(NOT_HELD));
        }
        say(&X_REQUEST_ID, context.request_id.header());
    }
}

impl Drop for GatewayBody {
    fn drop(&mut self) {
        // A connection does not read a body that has nothing (more) in it.
        let is_complete = self.is_end_stream();
        let Some(mut transaction) = self.transaction.take() else {
            return;
        };
        let nothing = Content::Own(Full::default());
        if !matches!(self.content, Content::Switching(_)) {
            transaction.log.complete |= is_complete;
            // The request has left its instance when it is written down.
            self.content = nothing;
            return;
        }
        if let Content::Switching(tunnel) = std::mem::replace(&mut self.content, nothing) {
            transaction.count();
            transaction.let_head_go();
            // Without a tunnel it ends here.
            let _ended = tunnel.send(transaction);
        }
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let polled = match &mut self.content {
            Content::Upstream { body, .. } => Pin::new(body).poll_frame(cx),
            Content::Events(events) => events.poll_next(cx),
            Content::Switching(_) => Poll::Ready(None),
            Content::Status(stream) => stream
                .poll_event(cx)
                .map(|event| event.map(|event| Ok(Frame::data(event)))),
            Content::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|e| match e {}))),
        };
        if let Some(transaction) = &mut self.transaction {
            let log = &mut transaction.log;
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    log.bytes_out += frame.data_ref().map_or(0, Bytes::len) as u64;
                }
                Poll::Ready(None) => log.complete = true,
                Poll::Ready(Some(Err(_))) | Poll::Pending => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Upstream { body, .. } => body.is_end_stream(),
            Content::Events(events) => events.is_complete(),
            Content::Switching(_) => true,
            Content::Status(_) => false,
            Content::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Upstream { body, .. } => body.size_hint(),
            Content::Switching(_) => SizeHint::with_exact(0),
            Content::Events(_) | Content::Status(_) => SizeHint::default(),
            Content::Own(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for GatewayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transaction = self.transaction.as_ref();
        let id = transaction.map_or("", |one| one.context.request_id.as_str());
        write!(f, "GatewayBody({id})")
    }
}
