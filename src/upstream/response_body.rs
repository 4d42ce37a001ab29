//! An instance's response body on its way to a client.
//!
//! Guarantees: a stream of a shared connection stops counting when its response has ended, however
//! it ends, and what is left of its request is not sent then; a body whose epoch is cut, or whose
//! instance falls silent for too long or takes it back, ends with an error that says so.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use tokio_util::sync::CancellationToken;

use super::h1_body::{BrokenBody, H1Body};
use super::h2_stream::{STREAM_WINDOW, StreamToken};
use super::h2_windows;
use super::leased_stream::LeasedStream;
use super::peer_body::{PeerBody, PeerStream};
use super::read_timeout::ReadTimeout;
use super::timed_body::UploadGuard;
use super::trailers::{TrailerRules, without_unsafe_trailers};
use crate::flow::PeekStream;
use http1::BodyDecoder;

/// An instance's response body on its way to a client.
#[derive(Debug)]
pub struct UpstreamBody {
    inner: Inner,
    trailer_rules: TrailerRules,
    /// The longest silence that it may have.
    silence: Option<Box<ReadTimeout>>,
}

#[derive(Debug)]
enum Inner {
    H2(H2Body),
    H1(H1Body),
    Peer(PeerBody),
}

/// A body that comes over HTTP/2.
#[derive(Debug)]
struct H2Body {
    inner: Incoming,
    /// The bytes that were read of it.
    taken: usize,
    /// The stream is taken for as long as this lives.
    _stream: StreamToken,
    /// The request's body is not sent on when this has gone.
    _upload: Option<UploadGuard>,
    /// Cancelled when the instance's epoch has ended, which ends the connection.
    cut: CancellationToken,
}

/// The rest of a response's body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// An HTTP/2 connection failed.
    #[error(transparent)]
    H2(#[from] hyper::Error),
    /// The connection to another member of the fleet failed, or the instance's behind it.
    #[error(transparent)]
    Peer(#[from] h2::Error),
    /// An HTTP/1.1 connection failed.
    #[error(transparent)]
    H1(#[from] BrokenBody),
    /// An HTTP/2 stream was reset before its end, as if nothing was wrong.
    #[error("the instance reset its response, without an error, before its end")]
    Unfinished,
    /// The instance's epoch has ended.
    #[error("the instance went to sleep before its response's end")]
    Severed,
    /// Nothing more came for `upstream.read_timeout`.
    #[error("the instance fell silent before its response's end")]
    Silent,
}

// === impl UpstreamBody ===

impl UpstreamBody {
    pub(super) fn of_h2(
        inner: Incoming,
        (stream, upload): (StreamToken, Option<UploadGuard>),
        cut: CancellationToken,
    ) -> Self {
        Self::of(Inner::H2(H2Body {
            inner,
            taken: 0,
            _stream: stream,
            _upload: upload,
            cut,
        }))
    }

    /// Its trailers are to obey these rules.
    pub fn obey(&mut self, rules: TrailerRules) {
        self.trailer_rules = rules;
    }

    pub(super) fn of_h1(body: H1Body) -> Self {
        Self::of(Inner::H1(body))
    }

    /// A response by way of another member of the fleet.
    pub(super) fn of_peer(body: PeerBody) -> Self {
        Self::of(Inner::Peer(body))
    }

    /// No body at all.
    pub fn nothing() -> Self {
        Self::of(Inner::Peer(PeerBody::nothing()))
    }

    /// The stream of a response that has switched, and came by way of another member.
    pub fn take_peer_stream(&mut self) -> Option<PeerStream> {
        match &mut self.inner {
            Inner::Peer(body) => body.take_stream(),
            Inner::H1(_) | Inner::H2(_) => None,
        }
    }

    /// Bytes that may wait in memory behind what has been read of it: a stream's window.
    pub fn backlog(&self) -> usize {
        match &self.inner {
            Inner::H2(body) if !body.inner.is_end_stream() => h2_windows::backlog(body.taken),
            Inner::Peer(body) if !body.is_end_stream() => STREAM_WINDOW as usize,
            Inner::H2(_) | Inner::H1(_) | Inner::Peer(_) => 0,
        }
    }

    /// From now on no more than so many bytes are read of it at once. Over HTTP/2 a frame's are
    /// few.
    pub fn read_at_once(&mut self, bytes: usize) {
        if let Inner::H1(body) = &mut self.inner {
            body.read_at_once(bytes);
        }
    }

    /// The stream of a response that has switched protocols; `None` of any other, and once the
    /// instance's epoch has been cut.
    pub fn take_stream(&mut self) -> Option<PeekStream<LeasedStream>> {
        match &mut self.inner {
            Inner::H1(body) => body.take_stream(),
            Inner::H2(_) | Inner::Peer(_) => None,
        }
    }

    /// The stream of an HTTP/1.1 response that may go on for ever, and how the rest of its body is read; `None` of any
    /// other, and once the instance's epoch has been cut.
    pub fn take_endless(&mut self) -> Option<(PeekStream<LeasedStream>, BodyDecoder)> {
        match &mut self.inner {
            Inner::H1(body) => body.take_endless(),
            Inner::H2(_) | Inner::Peer(_) => None,
        }
    }

    fn of(inner: Inner) -> Self {
        Self {
            inner,
            trailer_rules: TrailerRules::default(),
            silence: None,
        }
    }

    /// The same, which breaks off after a silence of `limit`, if there is a limit.
    pub(super) fn with_read_timeout(mut self, limit: Option<Duration>) -> Self {
        let limit = limit.filter(|_| !self.is_end_stream());
        self.silence = limit.map(|limit| Box::new(ReadTimeout::new(limit)));
        self
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let me = &mut *self;
        let polled = match &mut me.inner {
            Inner::H2(body) => body.poll_frame(cx),
            Inner::H1(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(ResponseError::H1))),
            Inner::Peer(body) => body.poll_frame(cx).map_err(ResponseError::Peer),
        };
        if let Some(silence) = &mut me.silence {
            if polled.is_pending() {
                ready!(silence.poll_over(cx));
                return Poll::Ready(Some(Err(ResponseError::Silent)));
            }
            silence.data_came();
        }
        let rules = &me.trailer_rules;
        let clean = |frame| without_unsafe_trailers(frame, rules);
        polled.map(|frame| frame.map(|frame| frame.map(clean)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::H2(body) => body.inner.is_end_stream(),
            Inner::H1(body) => body.is_end_stream(),
            Inner::Peer(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::H2(body) => body.inner.size_hint(),
            Inner::H1(body) => body.size_hint(),
            Inner::Peer(body) => body.size_hint(),
        }
    }
}

// === impl H2Body ===

impl H2Body {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.taken = self.taken.saturating_add(length);
        }
        // The library takes a reset without an error for the body's end. It says that the rest of the
        // request is not wanted, and comes after the end (RFC 9113 §8.1).
        let is_unfinished = matches!(polled, Poll::Ready(None)) && !self.inner.is_end_stream();
        let polled = match is_unfinished {
            true => Poll::Ready(Some(Err(ResponseError::Unfinished))),
            false => polled.map_err(ResponseError::H2),
        };
        polled.map_err(|error| match self.cut.is_cancelled() {
            true => ResponseError::Severed,
            false => error,
        })
    }
}
