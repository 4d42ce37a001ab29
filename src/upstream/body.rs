//! Bodies as they pass through.
//!
//! Guarantees: a request's body is not touched before it is forwarded, and says afterwards whether
//! it was; trailers that would change a message's framing or routing are dropped; a response's
//! connection goes back to its pool only after a clean end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRAILER, TRANSFER_ENCODING};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio_util::task::TaskTracker;

use super::pool::{Pool, Sender};

/// How long a connection may take to be usable again after its response.
const SETTLE: Duration = Duration::from_millis(500);

/// What became of a request's body, as its request sees it.
#[derive(Debug, Default)]
pub struct BodyFate {
    touched: AtomicBool,
    bytes: AtomicU64,
}

/// A client's request body on its way to an instance.
#[derive(Debug)]
pub struct RequestBody {
    inner: Source,
    fate: Arc<BodyFate>,
}

#[derive(Debug)]
enum Source {
    Nothing,
    Client(Incoming),
    /// Read beforehand, so that it can be sent again.
    Buffer {
        whole: Bytes,
        sent: bool,
    },
}

/// An instance's response body on its way to a client.
#[derive(Debug)]
pub struct UpstreamBody {
    inner: Incoming,
    home: Option<(Sender, Arc<Pool>, TaskTracker)>,
}

// === impl BodyFate ===

impl BodyFate {
    /// Whether any of the body was asked for.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Acquire)
    }

    /// Bytes that went through.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// The client's body.
    pub fn new(inner: Incoming) -> Self {
        Self {
            inner: match inner.is_end_stream() {
                true => Source::Nothing,
                false => Source::Client(inner),
            },
            fate: Arc::default(),
        }
    }

    /// Whether it can be sent more than once: there is none, or it was read beforehand.
    pub fn is_repeatable(&self) -> bool {
        !matches!(self.inner, Source::Client(_))
    }

    /// The same again, if it is repeatable.
    pub fn again(&self) -> Option<Self> {
        let inner = match &self.inner {
            Source::Nothing => Source::Nothing,
            Source::Buffer { whole, .. } => Source::Buffer {
                whole: whole.clone(),
                sent: false,
            },
            Source::Client(_) => return None,
        };
        let fate = Arc::clone(&self.fate);
        Some(Self { inner, fate })
    }

    /// Reads it whole when its length is known and at most `limit`; otherwise leaves it as it is.
    pub async fn buffer(self, limit: usize) -> Result<Self, hyper::Error> {
        let exact = self.size_hint().exact();
        let fits = exact.is_some_and(|length| length <= limit as u64);
        let fate = Arc::clone(&self.fate);
        match self.inner {
            Source::Client(incoming) if fits => {
                let whole = incoming.collect().await?.to_bytes();
                let inner = Source::Buffer { whole, sent: false };
                Ok(Self { inner, fate })
            }
            inner @ (Source::Nothing | Source::Client(_) | Source::Buffer { .. }) => {
                Ok(Self { inner, fate })
            }
        }
    }

    /// What becomes of it.
    pub fn fate(&self) -> Arc<BodyFate> {
        Arc::clone(&self.fate)
    }
}

fn without_unsafe_trailers<B>(frame: Frame<B>) -> Frame<B> {
    match frame.into_trailers() {
        Err(frame) => frame,
        Ok(trailers) => Frame::trailers(clean(trailers)),
    }
}

/// RFC 9110 §6.5.1: nothing that frames, routes or authenticates may stand in a trailer.
fn clean(mut trailers: HeaderMap) -> HeaderMap {
    for name in [
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        HOST,
        TRAILER,
        AUTHORIZATION,
    ] {
        trailers.remove(name);
    }
    trailers
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = match &mut self.inner {
            Source::Nothing => return Poll::Ready(None),
            Source::Client(inner) => Pin::new(inner).poll_frame(cx),
            Source::Buffer { sent: true, .. } => Poll::Ready(None),
            Source::Buffer { whole, sent } => {
                *sent = true;
                Poll::Ready((!whole.is_empty()).then(|| Ok(Frame::data(whole.clone()))))
            }
        };
        self.fate.touched.store(true, Ordering::Release);
        polled.map(|frame| {
            frame.map(|frame| {
                frame.map(|frame| {
                    let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                    self.fate.bytes.fetch_add(length, Ordering::Relaxed);
                    without_unsafe_trailers(frame)
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Source::Nothing => true,
            Source::Client(inner) => inner.is_end_stream(),
            Source::Buffer { whole, sent } => *sent || whole.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Source::Nothing | Source::Buffer { sent: true, .. } => SizeHint::with_exact(0),
            Source::Client(inner) => inner.size_hint(),
            Source::Buffer { whole, .. } => SizeHint::with_exact(whole.len() as u64),
        }
    }
}

// === impl UpstreamBody ===

impl UpstreamBody {
    pub(super) fn new(
        inner: Incoming,
        sender: Sender,
        pool: Arc<Pool>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            inner,
            home: Some((sender, pool, tasks)),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        polled.map(|frame| frame.map(|frame| frame.map(without_unsafe_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        let Some((mut sender, pool, tasks)) = self.home.take() else {
            return;
        };
        if !self.inner.is_end_stream() {
            // Dropping the sender closes the connection: the rest of the body is in it.
            return;
        }
        if sender.is_ready() {
            pool.put(sender);
        } else if !sender.is_closed() {
            // The request's own end may still be on its way.
            tasks.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(SETTLE, sender.ready()).await {
                    pool.put(sender);
                }
            });
        }
    }
}
