//! A request's body on its way to another member.
//!
//! Guarantees: no more is taken of it than the other end's window has room for, and the part that is
//! on its way; a body that its client fails resets the stream, so that it is not taken for whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body as _;

use crate::upstream::timed_body::{Part, TimedBody, UploadError};

/// A body with the stream that it goes to.
pub(super) struct Upload {
    stream: SendStream<Part>,
    body: TimedBody,
}

/// Why a body is not sent to its end.
#[derive(Debug)]
pub(super) enum NotSent {
    /// The other end wants no more of it, or the connection broke; the response says more.
    Unwanted,
    /// Its client failed it.
    Client,
}

// === impl Upload ===

impl Upload {
    pub(super) fn new(stream: SendStream<Part>, body: TimedBody) -> Self {
        Self { stream, body }
    }

    /// Ready when all of it has been handed to the library, or no more of it will be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotSent>> {
        let unwanted = Poll::Ready(Err(NotSent::Unwanted));
        loop {
            if self.stream.poll_reset(cx).is_ready() {
                return unwanted;
            }
            self.stream.reserve_capacity(1);
            while self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return unwanted,
                }
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(match error {
                        UploadError::Body(_) => NotSent::Client,
                        UploadError::Answered(_) => NotSent::Unwanted,
                    }));
                }
                None => {
                    let end = Part::uncounted(Bytes::new());
                    let sent = self.stream.send_data(end, true);
                    return Poll::Ready(sent.map_err(|_| NotSent::Unwanted));
                }
            };
            match frame.into_data() {
                Ok(part) => {
                    let is_last = self.body.is_end_stream();
                    if self.stream.send_data(part, is_last).is_err() {
                        return unwanted;
                    }
                    if is_last {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(frame) => {
                    self.stream.reserve_capacity(0);
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let sent = self.stream.send_trailers(trailers);
                    return Poll::Ready(sent.map_err(|_| NotSent::Unwanted));
                }
            }
        }
    }
}
