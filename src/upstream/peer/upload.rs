//! A request's body on its way to another member.
//!
//! Guarantees: no more is taken of it than the other end's window has room for, and the part that is
//! on its way; a body that its client fails resets the stream, so that it is not taken for whole; one that
//! comes in a flood of tiny parts goes in larger ones, since unread frames of all clients together may not
//! be too many for the other end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, SendStream};
use hyper::body::Body as _;

use crate::flow::Trickle;
use crate::upstream::timed_body::{Part, TimedBody, UploadError};

/// A body with the stream that it goes to.
pub(super) struct Upload {
    stream: SendStream<Part>,
    body: TimedBody,
    trickle: Trickle,
    /// The small parts that wait for others.
    small: Vec<Part>,
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
        Self {
            stream,
            body,
            trickle: Trickle::new(),
            small: Vec::new(),
        }
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
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                ready!(self.trickle.poll_over(cx));
                if self.send_gathered(false).is_err() {
                    return unwanted;
                }
                continue;
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(match error {
                        UploadError::Body(_) => NotSent::Client,
                        UploadError::Answered(_) => NotSent::Unwanted,
                    }));
                }
                None => return Poll::Ready(self.send_gathered(true)),
            };
            match frame.into_data() {
                Ok(part) => {
                    let is_last = self.body.is_end_stream();
                    let waits = self.trickle.waits(part.remaining());
                    self.small.push(part);
                    if !waits || is_last {
                        if self.send_gathered(is_last).is_err() {
                            return unwanted;
                        }
                        if is_last {
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
                Err(frame) => {
                    if self.send_gathered(false).is_err() {
                        return unwanted;
                    }
                    self.stream.reserve_capacity(0);
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let sent = self.stream.send_trailers(trailers);
                    return Poll::Ready(sent.map_err(|_| NotSent::Unwanted));
                }
            }
        }
    }

    /// Sends what was gathered as one part, or an end without any.
    fn send_gathered(&mut self, is_last: bool) -> Result<(), NotSent> {
        self.trickle.all_go();
        let part = match Part::joined(std::mem::take(&mut self.small)) {
            Some(part) => part,
            None if is_last => Part::uncounted(Bytes::new()),
            None => return Ok(()),
        };
        let sent = self.stream.send_data(part, is_last);
        sent.map_err(|_| NotSent::Unwanted)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use hyper::body::Frame;
    use tokio::time::sleep;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::client::BodyFeed;
    use crate::upstream::request_body::RequestBody;
    use crate::upstream::response_clock::ResponseClock;

    /// The frames in which a body comes whose parts are one byte, with so much time between them.
    async fn frames(parts: usize, between: Duration) -> Vec<usize> {
        let (here, there) = tokio::io::duplex(1 << 20);
        let tasks = TaskTracker::new();
        let serving = tasks.spawn(async move {
            let mut connection = h2::server::handshake(there).await.unwrap();
            let (request, _respond) = connection.accept().await.unwrap().unwrap();
            let mut body = request.into_body();
            let mut frames = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    _ = connection.accept() => return frames,
                    data = body.data() => match data {
                        Some(data) => {
                            let length = data.unwrap().len();
                            body.flow_control().release_capacity(length).unwrap();
                            frames.push(length);
                        }
                        None => return frames,
                    },
                }
            }
        });
        let builder = h2::client::Builder::new();
        let (sender, connection) = builder.handshake::<_, Part>(here).await.unwrap();
        let running = tasks.spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = http::Request::post("https://a.test/").body(()).unwrap();
        let (_answer, stream) = sender.send_request(request, false).unwrap();
        let (feed, body) = BodyFeed::new(None);
        let body = RequestBody::new(Some(body), 0);
        let (body, _guard) = TimedBody::new(body, &ResponseClock::new(), None);
        let mut upload = Upload::new(stream, body);
        let feeding = async {
            for number in 1..=parts {
                poll_fn(|cx| match feed.is_wanted(cx) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
                if !between.is_zero() {
                    sleep(between).await;
                }
                feed.give(Some(Ok(Frame::data("x".into()))), number == parts);
            }
        };
        let (sent, ()) = tokio::join!(poll_fn(|cx| upload.poll(cx)), feeding);
        assert!(sent.is_ok());
        let frames = serving.await.unwrap();
        running.abort();
        frames
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_tiny_parts_goes_in_few_frames_and_whole() {
        let frames = frames(20_000, Duration::ZERO).await;
        assert_eq!(frames.iter().sum::<usize>(), 20_000);
        assert!(frames.len() < 700, "{}", frames.len());
    }

    #[tokio::test(start_paused = true)]
    async fn small_messages_now_and_then_go_at_once() {
        let frames = frames(1000, Duration::from_millis(25)).await;
        assert_eq!(frames, vec![1; 1000]);
    }
}
