//! One connection, from one request to the next.
//!
//! Guarantees: an idle connection has a deadline, and a head has its own, from its first byte to its
//! last; a client that leaves is noticed while its request is answered, and what answers it dropped;
//! requests that come before their predecessor's answer wait, in a bounded buffer; a drain lets an
//! idle connection ask once more; one that is idle for long keeps nothing for its next request; a
//! connection that ends after an answer does not take the answer with it.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Response, StatusCode, Version};
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout};

use super::answer::{Answer, AnswerBody};
use super::exchange::Exchange;
use super::handed_over::HandedOver;
use super::head::Head;
use super::input::Input;
use crate::client::{Refusal, RefusalReason, UpgradeOffer};
use crate::config::ServerConfig;
use crate::deadline::Deadline;
use crate::drain::Drain;
use crate::flow::{EndOfTurn, PeekStream};
use crate::listener::client_stream::ClientStream;
use crate::listener::informational::Interim;
use crate::listener::lingering::Lingering;
use crate::listener::service::{Downstream, Remembered as _, Service};
use crate::listener::settings::ConnectionLimits;
use http1::{Audience, InterimSink};

/// How long the rest of a body is waited for once its request has been answered, and how long a
/// client may go on sending after the last answer of its connection (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);

/// How long an idle connection keeps what its last request has found out, for the next one.
const REMEMBERED: Duration = Duration::from_secs(5);

/// A connection, and what was read from it and not answered yet.
#[derive(Debug)]
struct Connection<I> {
    stream: I,
    input: Input,
    /// The deadline of the next head; made when a head is first waited for.
    deadline: Option<Deadline>,
    waiting: Waiting,
    own: ConnectionLimits,
}

/// What follows a request and its answer.
enum Next {
    /// Another request, if one comes.
    Request,
    /// Nothing: the client has left.
    Nothing,
    /// The end of the connection, in which the client may send something.
    End { may_send: bool },
    /// Another protocol.
    HandOver(Box<Exchange>),
}

/// How a head is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Not,
    /// For [`REMEMBERED`], if the idle timeout is not shorter.
    Idle,
    /// Until the idle timeout after the wait began; nothing is kept any more for the next request.
    Resting,
    /// A head has begun: until `header_timeout` after its first byte; no other resets it.
    Head,
    /// A drain has begun: until `drain_idle_timeout` after it was noticed, or `header_timeout` if
    /// that is shorter.
    DrainGrace,
}

/// What 1xx responses go through while there are requests.
struct Speaking {
    interim: Interim,
    sink: InterimSink,
}

impl Speaking {
    fn new() -> Self {
        let interim = Interim::default();
        let sink = interim.sink();
        Self { interim, sink }
    }
}

/// The error that a connection has ended with: its client's mistake or departure.
fn ended(from: &Downstream, error: io::Error) -> io::Error {
    tracing::debug!(client = %from.client, %error, "connection ended");
    error
}

/// Answers requests until the connection ends, or leaves HTTP: then it is for whoever waits for that.
pub(in crate::listener) fn serve<'a, S: Service, I>(
    stream: I,
    from: Downstream,
    service: S,
    config: &'a ServerConfig,
    own: ConnectionLimits,
    drain: &'a Drain,
) -> impl Future<Output = io::Result<Option<HandedOver>>> + Send + use<'a, S, I>
where
    I: ClientStream,
{
    let buffers = Some(own.buffers.clone());
    let mut from = (
        Downstream { buffers, ..from },
        S::ConnectionCache::default(),
    );
    let mut connection = Connection {
        stream,
        input: Input::new(config, own.buffers.clone()),
        deadline: None,
        waiting: Waiting::Not,
        own,
    };
    // What an async function is called with would be in its future twice.
    let mut speaking = None;
    async move {
        let exchange = loop {
            let mut head = None;
            let read = poll_fn(|cx| {
                let read = connection.poll_head(&mut head, config, drain, cx);
                if connection.waiting == Waiting::Resting {
                    speaking = None;
                    from.1.let_go();
                }
                read
            });
            let read = read.await.map_err(|error| ended(&from.0, error))?;
            if let Err(refusal) = read {
                let is_head = refusal.method == Some(Method::HEAD);
                let response = service.refuse(*refusal, &from.0);
                // In a box, as what is seldom needed.
                return Box::pin(connection.refuse(response, is_head))
                    .await
                    .map_err(|error| ended(&from.0, error))
                    .map(|()| None);
            }
            let Some(request) = head.as_ref().map(|head| &head.request) else {
                return Ok(None);
            };
            if from.0.is_misplaced {
                let is_head = *request.method() == Method::HEAD;
                let refusal = Refusal::of_request(RefusalReason::WrongScheme, request);
                let response = service.refuse(refusal, &from.0);
                return Box::pin(connection.refuse(response, is_head))
                    .await
                    .map_err(|error| ended(&from.0, error))
                    .map(|()| None);
            }
            // In a box, which is written to at once: it is large, and an idle connection is to be
            // small.
            let speaking = &*speaking.get_or_insert_with(Speaking::new);
            let answering = connection.answer(&mut head, &service, &from, speaking, drain);
            let answering = Box::write(Box::new_uninit(), answering);
            let next = Box::into_pin(answering).await;
            match next.map_err(|error| ended(&from.0, error))? {
                Next::Request => connection.input.let_head_go(),
                Next::Nothing => return Ok(None),
                Next::End { may_send } => {
                    return Box::pin(connection.end(may_send))
                        .await
                        .map_err(|error| ended(&from.0, error))
                        .map(|()| None);
                }
                Next::HandOver(exchange) => break exchange,
            }
        };
        Ok(connection.hand_over(*exchange))
    }
}

// === impl Connection ===

impl<I: ClientStream> Connection<I> {
    /// Answers the request whose head is there, to the last byte of the answer.
    async fn answer<S: Service>(
        &mut self,
        head: &mut Option<Head>,
        service: &S,
        from: &(Downstream, S::ConnectionCache),
        Speaking { interim, sink }: &Speaking,
        drain: &Drain,
    ) -> io::Result<Next> {
        let Some(mut head) = head.take() else {
            return Ok(Next::Nothing);
        };
        interim.forget();
        let mut exchange = Exchange::begin(&mut head, &mut self.input);
        if head.request.body().is_some()
            || head.request.extensions().get::<UpgradeOffer>().is_some()
        {
            // Whoever sends the body on counts what it keeps of it; so does who carries a tunnel.
            let buffers = self.own.buffers.clone();
            head.request.extensions_mut().insert(buffers);
        }
        let (is_head, version) = (
            *head.request.method() == Method::HEAD,
            head.request.version(),
        );
        // In a box of its own, which is written to at once.
        let answering = Box::write(Box::new_uninit(), service.call(head.request, from, sink));
        let mut answering = Box::into_pin(answering);
        let response = poll_fn(|cx| {
            loop {
                if let Poll::Ready(response) = answering.as_mut().poll(cx) {
                    return Poll::Ready(Some(response));
                }
                if self.poll_client(&mut exchange, interim, cx).is_ready() {
                    return Poll::Ready(None);
                }
                if !exchange.take_fed() {
                    return Poll::Pending;
                }
            }
        });
        let response = response.await;
        drop(answering);
        let Some(response) = response else {
            return Ok(Next::Nothing);
        };
        if interim.has_some() {
            poll_fn(|cx| interim.poll_write(&mut self.stream, cx)).await?;
        }
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let audience = Audience {
            version,
            is_head,
            is_last: exchange.answer(&self.input) || drain.has_begun() && !is_switch,
        };
        let mut answer = Answer::new(response, audience, exchange.wants_trailers);
        EndOfTurn::default().await;
        let written =
            poll_fn(|cx| self.poll_answer(&mut answer, (&mut exchange, interim), cx)).await;
        if written.is_err() && answer.ends_with_connection() {
            self.reset_at_end();
        }
        written?;
        if is_switch {
            return Ok(Next::HandOver(Box::new(exchange)));
        }
        let is_over = self.input.is_body_over();
        let goes_on = is_over || !exchange.is_cut_short() && self.skip_body().await;
        Ok(match answer.is_last || !goes_on {
            true => Next::End {
                may_send: exchange.may_go_on(),
            },
            false => Next::Request,
        })
    }

    fn poll_head(
        &mut self,
        head: &mut Option<Head>,
        config: &ServerConfig,
        drain: &Drain,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Result<(), Box<Refusal>>>> {
        if let Poll::Ready(read) = self.input.poll_head(&mut self.stream, head, cx) {
            self.waiting = Waiting::Not;
            return Poll::Ready(read);
        }
        self.poll_over(config, drain, cx).map(|over| over.map(Ok))
    }

    /// Whether the head was waited for long enough.
    fn poll_over(
        &mut self,
        config: &ServerConfig,
        drain: &Drain,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let has_begun = !self.input.is_empty();
        let (waiting, time_limit) = match (drain.has_begun(), self.waiting) {
            (true, Waiting::Not | Waiting::Idle | Waiting::Resting | Waiting::Head) => {
                let time_limit = config.drain_idle_timeout.min(config.header_timeout);
                (Waiting::DrainGrace, Some(time_limit))
            }
            (false, Waiting::Not | Waiting::Idle | Waiting::Resting) if has_begun => {
                (Waiting::Head, Some(config.header_timeout))
            }
            (false, Waiting::Not) => (Waiting::Idle, Some(self.own.idle_timeout.min(REMEMBERED))),
            (_, waiting) => (waiting, None),
        };
        self.waiting = waiting;
        if let Some(time_limit) = time_limit {
            let due = Instant::now() + time_limit;
            match &mut self.deadline {
                Some(deadline) => deadline.set(due),
                None => self.deadline = Some(Deadline::new(due)),
            }
        }
        if let Some(deadline) = &mut self.deadline {
            ready!(deadline.poll_over(cx));
            let rest = self.own.idle_timeout.saturating_sub(REMEMBERED);
            if waiting == Waiting::Idle && !rest.is_zero() {
                self.waiting = Waiting::Resting;
                deadline.set(Instant::now() + rest);
                ready!(deadline.poll_over(cx));
            }
        }
        Poll::Ready(match waiting {
            Waiting::DrainGrace | Waiting::Idle | Waiting::Resting => Ok(()),
            Waiting::Not | Waiting::Head => Err(io::ErrorKind::TimedOut.into()),
        })
    }

    /// Serves the client while its request is answered; ready when it has left.
    fn poll_client(
        &mut self,
        exchange: &mut Exchange,
        interim: &Interim,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Self { stream, input, .. } = self;
        exchange.poll_client(stream, input, interim, cx)
    }

    fn poll_answer<B: AnswerBody>(
        &mut self,
        answer: &mut Answer<B>,
        (exchange, interim): (&mut Exchange, &Interim),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = answer.poll_write(&mut self.stream, &self.own.buffers, cx);
        let is_waiting = answer.is_idle();
        if polled.is_pending() && (is_waiting || exchange.has_reader()) {
            let has_left = self.poll_client(exchange, interim, cx).is_ready();
            // One that is slow to read may have said all that it wanted to say.
            if has_left && is_waiting {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        polled
    }

    /// Reads what is left of a body that nobody wanted; whether that was all.
    async fn skip_body(&mut self) -> bool {
        let skipping = async {
            while !self.input.is_body_over() {
                let read = poll_fn(|cx| self.input.poll_body(&mut self.stream, cx));
                let Ok(Ok(Some(_))) = read.await else {
                    return false;
                };
            }
            true
        };
        timeout(LINGER, skipping).await.unwrap_or(false)
    }

    /// Answers what is no request, whose client may be in the middle of it.
    async fn refuse<B: AnswerBody>(
        mut self,
        response: Response<B>,
        is_head: bool,
    ) -> io::Result<()> {
        let audience = Audience {
            version: Version::HTTP_11,
            is_head,
            is_last: true,
        };
        let mut answer = Answer::new(response, audience, false);
        poll_fn(|cx| answer.poll_write(&mut self.stream, &self.own.buffers, cx)).await?;
        drop(answer);
        self.end(true).await
    }

    /// Ends the connection after its last answer. Were it closed while the client still sends, the
    /// client's system would throw the answer away (RFC 9112 §9.6); `may_send` says that it may, also
    /// if nothing of that has been read.
    async fn end(&mut self, may_send: bool) -> io::Result<()> {
        self.stream.shutdown().await?;
        let has_unread = !(self.input.is_empty() && self.input.is_body_over());
        if !self.input.may_come() || !(may_send || has_unread) {
            return Ok(());
        }
        let mut lingering = Lingering::new(LINGER);
        poll_fn(|cx| lingering.poll_over(&mut self.stream, cx)).await;
        Ok(())
    }

    /// Lets the connection end in a reset: a client would take any other end for the end of a
    /// body that has no length.
    fn reset_at_end(&self) {
        if let Some(socket) = self.stream.socket() {
            // A socket that cannot be told ends as it would have.
            let _plain = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// The connection, for whoever speaks the other protocol.
    fn hand_over(self, exchange: Exchange) -> Option<HandedOver> {
        let stream = PeekStream::of(self.stream, &self.input.into_bytes());
        Some(HandedOver::new(stream, exchange.upgrade?))
    }
}

#[cfg(test)]
mod tests;
