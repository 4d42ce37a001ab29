//! One request to another member, and its response's head.
//!
//! Guarantees: an error says whether the other end has certainly done nothing with the request; interim
//! responses go before the final one; a body that its client keeps back is asked for when the other end
//! asks for it; the wait for the head has an end; whoever drops the exchange resets its stream.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http1::InterimSink;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::connection::{Connection, DialError, State};
use super::error::PeerError;
use super::upload::{NotSent, Upload};
use crate::client;
use crate::flow::ClientBuffers;
use crate::upstream::headers::prepare_interim;
use crate::upstream::peer_body::{PeerBody, PeerStream};
use crate::upstream::replay::Replay;
use crate::upstream::request_body::{BodyFailure, RequestBody};
use crate::upstream::response_body::UpstreamBody;
use crate::upstream::response_clock::ResponseClock;
use crate::upstream::timed_body::{Part, TimedBody};

/// How long a connection that a request waits on may be silent before it is asked whether its host is
/// still there.
const SILENCE: Duration = Duration::from_millis(800);

/// A request as another member is to get it.
pub struct PeerRequest {
    head: Request<()>,
    body: Option<Replay>,
    interim: Option<InterimSink>,
    buffers: Option<ClientBuffers>,
    /// Its body goes when the other end has asked for it.
    waits_for_continue: bool,
    /// How long the other end may owe its response's head.
    limit: Duration,
}

/// How an attempt failed.
pub(super) enum Failed {
    /// Nothing was done with the request.
    Unprocessed,
    /// Something may have been.
    For(PeerError),
}

// === impl PeerRequest ===

impl PeerRequest {
    /// A request whose head is HTTP/2's; `interim` takes 1xx responses, where its client can be sent
    /// some. A body is sent again as long as it can be told that nobody has got it, and is not begun before
    /// it is asked for if the head says `Expect`. The response's head may take `limit`, not counting
    /// the time in which the client owes something.
    pub fn new(
        request: client::Request<RequestBody>,
        interim: Option<InterimSink>,
        limit: Duration,
    ) -> Self {
        let (parts, body) = request.into_http().into_parts();
        let buffers = parts.extensions.get::<ClientBuffers>().cloned();
        let body = (!body.is_nothing()).then(|| Replay::new(body, buffers.as_ref()));
        let mut head = Request::new(());
        *head.method_mut() = parts.method;
        *head.uri_mut() = parts.uri;
        *head.version_mut() = Version::HTTP_2;
        *head.headers_mut() = parts.headers;
        let protocol = parts.extensions.get::<Protocol>().cloned();
        if let Some(protocol) = protocol {
            head.extensions_mut().insert(protocol);
        }
        Self {
            waits_for_continue: body.is_some() && head.headers().contains_key(EXPECT),
            head,
            body,
            interim,
            buffers,
            limit,
        }
    }

    /// The head, which may be changed between two attempts.
    pub fn head_mut(&mut self) -> &mut Request<()> {
        &mut self.head
    }

    /// The body from its beginning, unless too much of it was sent.
    pub fn body_again(&self) -> Option<RequestBody> {
        match &self.body {
            None => Some(RequestBody::default()),
            Some(body) => body.again(),
        }
    }

    /// Somebody has taken the request: it is not sent again.
    pub fn is_taken(&self) {
        if let Some(body) = &self.body {
            body.is_taken();
        }
    }

    fn failure(&self) -> Option<BodyFailure> {
        let body_stats = self.body.as_ref()?.body_stats()?;
        body_stats.failure()
    }

    /// Sends it once, and returns the response when its head is there.
    pub(super) async fn send(
        &self,
        connection: &Connection,
        body: RequestBody,
        tasks: &TaskTracker,
    ) -> Result<Response<UpstreamBody>, Failed> {
        let (mut sender, seat) = connection.take();
        let state = connection.state();
        // Tunnels may have all places for as long as they like.
        match timeout(self.limit, poll_fn(|cx| sender.poll_ready(cx))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(unsent(state)),
            Err(_) => return Err(Failed::For(PeerError::Untaken)),
        }
        let is_switch = self.head.method() == Method::CONNECT;
        if self.head.extensions().get::<Protocol>().is_some()
            && !sender.is_extended_connect_protocol_enabled()
        {
            let text = "its node does not take upgrades";
            return Err(Failed::For(PeerError::Unfit(text.into())));
        }
        let has_body = !body.is_nothing();
        let is_whole = !has_body && !is_switch;
        let (mut answering, stream) = sender
            .send_request(self.head.clone(), is_whole)
            .map_err(|error| not_taken(error, state))?;
        drop(sender);
        let arrived = self.buffers.as_ref().filter(|_| is_switch).map(|client| {
            let number = stream.stream_id().as_u32();
            state.arrivals().enter(number, client)
        });
        let (mut stream, mut upload, mut guard) = (Some(stream), None, None);
        let clock = ResponseClock::new();
        if has_body {
            let (body, uploading) = TimedBody::new(body, &clock, self.buffers.clone());
            guard = uploading;
            upload = stream.take().map(|stream| Upload::new(stream, body));
        }
        let mut may_upload = !self.waits_for_continue;
        let answered = {
            // In a box: most requests are answered sooner.
            let mut watching = pin!(async {
                loop {
                    sleep(SILENCE).await;
                    if Box::pin(state.look(SILENCE)).await && self.is_repeatable() {
                        return PeerError::Unreachable;
                    }
                    if clock.is_over(self.limit) {
                        return PeerError::TimedOut;
                    }
                }
            });
            poll_fn(|cx| {
                while let Poll::Ready(Some(Ok(interim))) = answering.poll_informational(cx) {
                    clock.restart();
                    may_upload |= interim.status() == StatusCode::CONTINUE;
                    self.pass(&interim);
                }
                if let Poll::Ready(answered) = Pin::new(&mut answering).poll(cx) {
                    return Poll::Ready(answered.map_err(|error| self.failed(error, state)));
                }
                if let Some(uploading) = upload.as_mut().filter(|_| may_upload)
                    && let Poll::Ready(sent) = uploading.poll(cx)
                {
                    upload = None;
                    if let Err(NotSent::Client) = sent {
                        let failure = self.failure().unwrap_or(BodyFailure::Broke);
                        return Poll::Ready(Err(Failed::For(PeerError::Client(failure))));
                    }
                }
                let given_up = watching.as_mut().poll(cx);
                given_up.map(|error| Err(Failed::For(error)))
            })
            .await
        };
        let response = answered?;
        if let Some(stats) = self.body.as_ref().and_then(Replay::body_stats) {
            stats.answered();
        }
        if let Some(mut upload) = upload {
            match may_upload {
                // It goes on beside the response.
                true => drop(tasks.spawn(async move {
                    let _sent = poll_fn(|cx| upload.poll(cx)).await;
                })),
                // Nobody wants it. A reset would take the response with it.
                false => drop(upload),
            }
        }
        let (mut head, receive) = response.into_parts();
        // The client's side writes its own version.
        head.version = Version::HTTP_11;
        let body = match stream {
            Some(send) if is_switch && head.status == StatusCode::OK => {
                let counts = self.buffers.clone().zip(arrived);
                PeerBody::of_switch(PeerStream::new((send, receive), seat, counts))
            }
            stream => {
                if let Some(mut send) = stream.filter(|_| is_switch) {
                    let end = Part::uncounted(Bytes::new());
                    // A stream that is over needs no end.
                    let _over = send.send_data(end, true);
                }
                let length = head.headers.get(CONTENT_LENGTH).and_then(length_of);
                PeerBody::new(receive, length, guard, seat)
            }
        };
        Ok(Response::from_parts(head, UpstreamBody::of_peer(body)))
    }

    /// Whether a client may send it again by itself, though it may have been processed (RFC 9110 §9.2.2).
    fn is_repeatable(&self) -> bool {
        let method = self.head.method();
        // A connection, or a handshake, of which nothing was sent on.
        (method.is_idempotent() || method == Method::CONNECT) && self.body.is_none()
    }

    fn pass(&self, interim: &Response<()>) {
        let status = interim.status();
        if let Some(sink) = self.interim.as_ref()
            && !matches!(status.as_u16(), 100 | 101)
        {
            let mut fields = interim.headers().clone();
            prepare_interim(&mut fields);
            sink(status, &fields);
        }
    }

    fn failed(&self, error: h2::Error, state: &State) -> Failed {
        if error.is_remote() && error.is_go_away() {
            state.leave();
        }
        if is_unprocessed(&error) {
            return Failed::Unprocessed;
        }
        // It may have been processed, whatever became of the host: nobody is told to send it again, but
        // for what can be.
        Failed::For(match (state.why(), self.failure()) {
            (Some(DialError::Away(_)), _) if self.is_repeatable() => PeerError::Unreachable,
            (Some(_), _) | (None, None) => PeerError::Broken(error.into()),
            (None, Some(failure)) => PeerError::Client(failure),
        })
    }
}

/// The library has not taken a request: this one, or none any more.
fn not_taken(error: h2::Error, state: &State) -> Failed {
    let is_of_connection = error.is_io() || error.is_go_away() || error.is_reset();
    match is_of_connection || error.to_string().contains("stream ID overflowed") {
        true => unsent(state),
        // There is a field in it that HTTP/2 does not have.
        false => Failed::For(PeerError::Unfit(error.into())),
    }
}

/// The library has not taken a request, and will take none on this connection: it has met a GOAWAY, or
/// has used up its streams.
fn unsent(state: &State) -> Failed {
    state.leave();
    match state.why() {
        Some(DialError::Refused(reason)) => Failed::For(PeerError::Refused(reason)),
        Some(DialError::Away(_)) | None => Failed::Unprocessed,
    }
}

/// Whether the other end says that it has done nothing with the request: it refused the stream, or its
/// GOAWAY leaves it out (RFC 9113 §6.8, §8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (is_refused || error.is_go_away())
}

fn length_of(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

impl std::fmt::Debug for PeerRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Targets may have secrets in them.
        write!(f, "PeerRequest({})", self.head.method())
    }
}
