//! One request and its response.
//!
//! Guarantees: whatever answers a request is dropped when its client resets the stream, or takes
//! nothing of the response for `send_timeout`, its last bytes included; a stream that its client may
//! have no memory for is refused before anything is done for it; interim responses go before the
//! final one; a body that breaks resets the stream after what has come of it, so that the client
//! does not take it for whole; what is no request is logged and counted, too.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::header::{CONTENT_LENGTH, EXPECT, HeaderValue};
use ::http::{HeaderMap, Method, Request, Response, Uri};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http1::InterimSink;
use hyper::body::Body;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::activity::Busy;
use super::body::StreamBody;
use super::flow::{Piece, StreamFlow};
use super::paced_body::PacedBody;
use super::tunnel::Tunnel;
use super::{request, response};
use crate::client::{
    ClientBody, ClientRequest, Refusal, RefusalReason, UpgradeOffer, UpgradedClient,
};
use crate::listener::service::{Backlog, Downstream, ExtraHeaders, Service};

/// What a stream takes besides its head, in bytes: what serves it, and its connection to its instance with what
/// that is read into. By a heap profile of 9,500 of them: the future that answers it 4,096, which is in a list
/// with the one that watches it (768), and has another for what it waits for (768 with its transaction, and
/// 2,560 while it waits for its turn); its places in the library's tables 1,200; its state here 400 (jemalloc's
/// size classes, release). One that is at its instance has other futures in place of the last, of as much over
/// HTTP/1.1; what it takes more over HTTP/2 counts besides, from there.
const STREAM: usize = 10 * 1024;
/// What a tunnel takes besides: the room that each direction is copied through.
const TUNNEL: usize = 16 * 1024;
/// What a field takes besides its name and its value: its place in the map, and the allocation of
/// a name that is not a usual one.
const FIELD: usize = 128;
/// A response's head that is larger is not kept for a client that reads nothing and has its share.
const LARGE_HEAD: usize = 16 * 1024;

/// A request, or why it is not answered as one.
pub(super) type Asked = Result<ClientRequest, Box<Refusal>>;

/// A request that is being answered.
pub(super) struct Exchange {
    respond: SendResponse<Piece>,
    flow: Arc<StreamFlow>,
    busy: Busy,
    is_head: bool,
    /// The rest of a CONNECT, and whoever gets its stream.
    switch: Option<(RecvStream, oneshot::Sender<UpgradedClient>)>,
}

/// A stream ended before its response had.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the client has reset the stream: {0}")]
    Reset(Reason),
    #[error("the client has as much in memory as it may have")]
    NoRoom,
    #[error(transparent)]
    Stream(#[from] h2::Error),
    #[error("the response's body broke: {0}")]
    Body(Box<dyn Error + Send + Sync>),
}

/// A stream of which something waits to be written. The library would keep it for as long as the
/// connection lives, were the stream dropped: it has been ended already.
struct Waiting<'a> {
    stream: &'a mut SendStream<Piece>,
    flow: &'a StreamFlow,
}

// === impl Exchange ===

impl Exchange {
    /// Of a head that has just come, with the request that it is, which may have `max_fields`
    /// fields; or why it is none.
    pub(super) fn begin(
        request: Request<RecvStream>,
        respond: SendResponse<Piece>,
        flow: StreamFlow,
        busy: Busy,
        max_fields: usize,
    ) -> (Self, Asked) {
        let (mut head, mut stream) = request.into_parts();
        let flow = Arc::new(flow);
        flow.has_come(stream.flow_control().used_capacity());
        let mut exchange = Self {
            respond,
            flow: Arc::clone(&flow),
            busy,
            is_head: head.method == Method::HEAD,
            switch: None,
        };
        let is_tunnel = head.method == Method::CONNECT;
        let own = STREAM + if is_tunnel { TUNNEL } else { 0 };
        let length = length(&head.headers);
        let expects = expects_continue(&head.headers);
        let body = match stream.is_end_stream() || is_tunnel || expects {
            true => Some(0),
            false => length,
        };
        let has_room = || {
            flow.try_keep(own + bytes_of(&head.headers) + length_of(&head.uri)) && flow.expect(body)
        };
        let reason = request::refusal(&head, max_fields);
        if let Some(reason) = reason.or_else(|| (!has_room()).then_some(RefusalReason::NoRoom)) {
            flow.connection().abandoned.add(stream.stream_id());
            let refusal = Refusal {
                reason,
                method: Some(head.method),
                target: head.uri.path_and_query().cloned(),
                accept: None,
            };
            return (exchange, Err(Box::new(refusal)));
        }
        let mut body = None;
        if is_tunnel {
            let (offer, switched) = UpgradeOffer::new();
            head.extensions.insert(offer);
            // Whoever carries it counts what it keeps.
            let buffers = flow.buffers().clone();
            head.extensions.insert(buffers);
            exchange.switch = Some((stream, switched));
        } else if !stream.is_end_stream() {
            // Whoever sends the body on counts what it keeps of it.
            let buffers = flow.buffers().clone();
            head.extensions.insert(buffers);
            let whole = StreamBody::new(stream, Arc::clone(&flow), length, expects);
            body = Some(ClientBody::of_source(whole));
        } else if flow.is_of_many() {
            // Whose response it is nobody else says.
            let buffers = flow.buffers().clone();
            head.extensions.insert(buffers);
        }
        (
            exchange,
            Ok(Box::new(Request::from_parts(head, body).into())),
        )
    }

    /// Answers the request; ends when the response has been written to the socket, or cannot be.
    pub(super) async fn answer<S: Service>(
        self,
        request: Asked,
        service: &S,
        from: &(Downstream, S::ConnectionCache),
    ) {
        let flow = Arc::clone(&self.flow);
        let answering = pin!(self.answer_in_time(request, service, from));
        if let Some(Err(error)) = flow.watch(answering).await {
            tracing::debug!(%error, "a stream ended");
        }
    }

    async fn answer_in_time<S: Service>(
        mut self,
        request: Asked,
        service: &S,
        from: &(Downstream, S::ConnectionCache),
    ) -> Result<(), Broken> {
        let request = match request {
            Ok(request) if from.0.is_misplaced => {
                let refusal = Refusal::of_request(RefusalReason::WrongScheme, &request);
                return Box::pin(self.refuse(refusal, service, from)).await;
            }
            Ok(request) => request,
            // In a box, as what is seldom needed.
            Err(refusal) => return Box::pin(self.refuse(*refusal, service, from)).await,
        };
        // Many have been reset already when a client abuses resets (CVE-2023-44487).
        let reset = poll_fn(|cx| Poll::Ready(self.respond.poll_reset(cx))).await;
        if let Poll::Ready(reason) = reset {
            return Err(Broken::Reset(reason?));
        }
        let response = {
            let sink = interim_sink(&self.flow);
            // In a box, which is written to at once: it is large.
            let answering = Box::write(Box::new_uninit(), service.call(request, from, &sink));
            let mut answering = pin!(Box::into_pin(answering));
            poll_fn(|cx| self.poll_response(answering.as_mut(), cx)).await?
        };
        // In a box: what waits for its response needs none of it.
        Box::pin(self.send(response)).await
    }

    async fn refuse<S: Service>(
        mut self,
        refusal: Refusal,
        service: &S,
        from: &(Downstream, S::ConnectionCache),
    ) -> Result<(), Broken> {
        let reason = refusal.reason;
        if reason == RefusalReason::NoRoom {
            // Nothing has been done for it: it can be sent again (RFC 9113 §8.7).
            tracing::debug!("a request is refused: its client has its share of memory");
            self.respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        let response = service.refuse(refusal, &from.0);
        if reason == RefusalReason::Malformed {
            // It is counted and logged, and its client gets no response (RFC 9113 §8.1.1).
            self.respond.send_reset(Reason::PROTOCOL_ERROR);
            return Ok(());
        }
        self.send(response).await
    }

    /// Waits for the final response, and sends the interim ones before it.
    fn poll_response<B>(
        &mut self,
        answering: Pin<&mut impl Future<Output = Response<B>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<B>, Broken>> {
        let answered = answering.poll(cx);
        for interim in self.flow.interim.take(cx.waker()) {
            // A stream that is over shows below.
            if let Err(error) = self.respond.send_informational(interim) {
                tracing::debug!(%error, "an interim response is not sent");
            }
        }
        if let Poll::Ready(response) = answered {
            return Poll::Ready(Ok(response));
        }
        let reason = ready!(self.respond.poll_reset(cx))?;
        Poll::Ready(Err(Broken::Reset(reason)))
    }

    async fn send<B>(mut self, response: Response<B>) -> Result<(), Broken>
    where
        B: ExtraHeaders
            + Backlog
            + Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
            + Unpin,
    {
        let (mut head, mut body) = response.into_parts();
        let has_content = response::complete(&mut head, &mut body, self.is_head);
        let switch = self.switch.take().filter(|_| head.status.is_success());
        if switch.is_some() {
            head.headers.remove(CONTENT_LENGTH);
        }
        let is_last = !has_content && switch.is_none();
        let size = bytes_of(&head.headers);
        if size <= LARGE_HEAD {
            self.flow.keep(size);
        } else if !self.flow.try_keep(size) {
            self.respond.send_reset(Reason::ENHANCE_YOUR_CALM);
            return Err(Broken::NoRoom);
        }
        if is_last {
            self.flow.keep_unwritten(size);
        }
        let head = Response::from_parts(head, ());
        let mut stream = self.respond.send_response(head, is_last).inspect_err(|_| {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        })?;
        if let Some((receive, switched)) = switch {
            let tunnel = Tunnel::new(stream, receive, self.flow, self.busy);
            // Nobody wants it: it is closed.
            let _unwanted = switched.send(Box::pin(tunnel));
        } else if has_content {
            // It lives until it has been written: it counts as a request of its connection, and of
            // its instance, for so long.
            let mut body = PacedBody::new(body, Arc::clone(&self.flow), self.busy);
            let sent = send_body(&mut stream, &mut body, &self.flow).await;
            let Err(Broken::Body(error)) = sent else {
                sent?;
                return written(&mut stream, &self.flow).await;
            };
            // A reset would take with it what waits: the head, above all.
            yield_now().await;
            written(&mut stream, &self.flow).await?;
            stream.send_reset(reason_of(&*error));
            return Err(Broken::Body(error));
        }
        Ok(())
    }
}

/// Waits until what was handed to the library of a stream has been written.
async fn written(stream: &mut SendStream<Piece>, flow: &StreamFlow) -> Result<(), Broken> {
    let waiting = Waiting { stream, flow };
    poll_fn(|cx| {
        if flow.poll_written(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let reason = ready!(waiting.stream.poll_reset(cx))?;
        Poll::Ready(Err(Broken::Reset(reason)))
    })
    .await
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.flow.has_unwritten() {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

/// Hands a body to the library as fast as its client takes it.
async fn send_body<B>(
    stream: &mut SendStream<Piece>,
    body: &mut PacedBody<B, Busy>,
    flow: &Arc<StreamFlow>,
) -> Result<(), Broken>
where
    B: Backlog + Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    let (mut next, mut is_first) = (None, true);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(reason) = stream.poll_reset(cx)? {
                return Poll::Ready(Err(Broken::Reset(reason)));
            }
            if next.is_some() {
                // The first piece needs not wait: the library keeps it until it can go.
                while !is_first && stream.capacity() == 0 {
                    let Poll::Ready(capacity) = stream.poll_capacity(cx) else {
                        body.note_stalled();
                        return Poll::Pending;
                    };
                    capacity.unwrap_or_else(|| Err(Reason::STREAM_CLOSED.into()))?;
                }
                is_first = false;
            }
            if let Some((piece, is_last)) = next.take() {
                stream.send_data(piece, is_last)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
                stream.send_data(Piece::end(flow), true)?;
                return Poll::Ready(Ok(()));
            };
            match frame
                .map_err(|error| Broken::Body(error.into()))?
                .into_data()
            {
                Ok(piece) => {
                    if !is_first {
                        stream.reserve_capacity(1);
                    }
                    next = Some((piece, body.is_end_stream()));
                }
                Err(frame) => {
                    stream.reserve_capacity(0);
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Poll::Ready(stream.send_trailers(trailers).map_err(Broken::Stream));
                }
            }
        }
    })
    .await
}

/// About as many bytes as these fields have in memory. Allocators round up, by up to a quarter: of
/// sizes between one power of two and the next there are four (jemalloc's size classes).
fn bytes_of(fields: &HeaderMap) -> usize {
    let lengths = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    let bytes: usize = lengths.sum();
    bytes + bytes / 4
}

fn length_of(uri: &Uri) -> usize {
    uri.path_and_query()
        .map_or(0, |target| target.as_str().len())
}

/// The sink of a request's interim responses.
fn interim_sink(flow: &Arc<StreamFlow>) -> InterimSink {
    let flow = Arc::clone(flow);
    Arc::new(move |status, fields| {
        let kept = &flow.connection().interim;
        flow.interim.send(status, fields, kept);
    })
}

/// A length, of which the library has made sure that it is a number and that all agree.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn expects_continue(headers: &HeaderMap) -> bool {
    let is_continue = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    headers.get(EXPECT).is_some_and(is_continue)
}

/// The reason why a response's body broke: the instance's, if that speaks HTTP/2.
fn reason_of(error: &(dyn Error + Send + Sync + 'static)) -> Reason {
    let mut error: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = error {
        if let Some(cause) = cause.downcast_ref::<h2::Error>() {
            // Two of them would say that the response is whole, or that nothing was done.
            let reason = cause.reason();
            let reason =
                reason.filter(|it| ![Reason::NO_ERROR, Reason::REFUSED_STREAM].contains(it));
            return reason.unwrap_or(Reason::INTERNAL_ERROR);
        }
        error = cause.source();
    }
    Reason::INTERNAL_ERROR
}
