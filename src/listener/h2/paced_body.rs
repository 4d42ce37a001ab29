//! A response's body on its way to the library.
//!
//! Guarantees: it is read only as fast as its client takes it, and no more of it at once than its client
//! may have in memory; its end is handed on when no more than a piece waits; on a connection of many
//! clients a flood of tiny parts goes in larger ones.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::HeaderMap;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};

use super::flow::{PIECE, Piece, StreamFlow};
use crate::flow::{Buffered, Place, Trickle};
use crate::listener::service::Backlog;

/// The most that is read at once for a client that has its share.
const LITTLE: usize = 16 * 1024;

/// A response's body that is read only as fast as its client takes it.
pub(super) struct PacedBody<B, G> {
    inner: B,
    stream: Arc<StreamFlow>,
    /// What was read and not handed out, with its part of the budget.
    rest: Option<(Bytes, Buffered)>,
    /// On a connection of many clients: which small parts wait for others, and those that do.
    trickle: Option<Trickle>,
    small: Vec<(Bytes, Buffered)>,
    trailers: Option<HeaderMap>,
    has_ended: bool,
    /// It may have more than what is read at once for a client that has its share.
    is_large: bool,
    /// What counts of that which may wait behind it: the most that there was when its client was waited for.
    backlog: usize,
    place: Place,
    /// The request counts as one of its connection's for as long as its body lives.
    _request: G,
}

// === impl PacedBody ===

impl<B: Body<Data = Bytes> + Backlog + Unpin, G> PacedBody<B, G> {
    /// A body of a stream; `request` lives as long as it.
    pub(super) fn new(inner: B, stream: Arc<StreamFlow>, request: G) -> Self {
        Self {
            has_ended: inner.is_end_stream(),
            is_large: inner
                .size_hint()
                .exact()
                .is_none_or(|exact| exact > LITTLE as u64),
            backlog: 0,
            inner,
            trickle: stream.is_of_many().then(Trickle::new),
            stream,
            rest: None,
            small: Vec::new(),
            trailers: None,
            place: Place::default(),
            _request: request,
        }
    }

    /// The client takes nothing at the moment.
    pub(super) fn note_stalled(&mut self) {
        // A window may have grown since the last time.
        let more = self.inner.backlog().saturating_sub(self.backlog);
        if more > 0 {
            self.backlog += more;
            self.stream.keep(more);
        }
    }

    /// What has come; whether it waits for more.
    fn take_in(&mut self, bytes: Bytes) -> bool {
        let held = self.stream.hold(bytes.len());
        let length = bytes.len();
        self.small.push((bytes, held));
        let waits = self.trickle.as_mut().is_some_and(|all| all.waits(length));
        waits && !self.has_ended
    }

    /// What has waited goes, as one.
    fn gather(&mut self) {
        if let Some(trickle) = &mut self.trickle {
            trickle.all_go();
        }
        if self.small.len() < 2 {
            self.rest = self.small.pop();
            return;
        }
        let small = std::mem::take(&mut self.small);
        let length = small.iter().map(|(bytes, _)| bytes.len()).sum();
        let mut all = BytesMut::with_capacity(length);
        for (bytes, _) in &small {
            all.extend_from_slice(bytes);
        }
        self.rest = Some((all.freeze(), self.stream.hold(length)));
    }

    fn next_piece(&mut self) -> Option<Piece> {
        let (bytes, held) = self.rest.as_mut()?;
        let count = bytes.len().min(PIECE);
        let (part, held) = (bytes.split_to(count), held.split(count));
        if bytes.is_empty() {
            self.rest = None;
        }
        Some(Piece::new(&self.stream, part, held))
    }
}

impl<B: Body<Data = Bytes> + Backlog + Unpin, G: Unpin> Body for PacedBody<B, G> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let me = &mut *self;
        loop {
            if let Some(piece) = me.next_piece() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if me.has_ended || me.trailers.is_some() {
                ready!(me.stream.poll_nearly_sent(cx));
                let trailers = me.trailers.take().map(Frame::trailers);
                return Poll::Ready(trailers.map(Ok));
            }
            if me.stream.poll_room(&mut me.place, cx).is_pending() {
                me.note_stalled();
                return Poll::Pending;
            }
            if me.is_large {
                let has_room = me.stream.buffers().has_room(LITTLE);
                me.inner
                    .read_at_once(if has_room { usize::MAX } else { LITTLE });
            }
            let Poll::Ready(frame) = Pin::new(&mut me.inner).poll_frame(cx)? else {
                if let Some(trickle) = me.trickle.as_mut().filter(|_| !me.small.is_empty()) {
                    ready!(trickle.poll_over(cx));
                    me.gather();
                    continue;
                }
                return Poll::Pending;
            };
            match frame.map(Frame::into_data) {
                None => me.has_ended = true,
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => {
                    me.has_ended = me.inner.is_end_stream();
                    if me.take_in(bytes) {
                        continue;
                    }
                }
                Some(Err(frame)) => {
                    me.trailers = frame.into_trailers().ok();
                    me.has_ended = true;
                }
            }
            if !me.small.is_empty() {
                me.gather();
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_read = self.has_ended && self.rest.is_none() && self.trailers.is_none();
        is_read && self.stream.waiting() <= PIECE
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.iter().chain(&self.small);
        let rest: usize = rest.map(|(bytes, _)| bytes.len()).sum();
        let rest = rest as u64;
        let inner = self.inner.size_hint();
        match inner.exact() {
            Some(exact) => SizeHint::with_exact(exact + rest),
            None => SizeHint::default(),
        }
    }
}

impl<B, G> fmt::Debug for PacedBody<B, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacedBody({:?})", self.stream)
    }
}
