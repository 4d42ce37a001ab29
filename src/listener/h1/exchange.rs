//! One request and its response, as far as the connection has to do with them.
//!
//! Guarantees: what has come of a body with its head is there at once; more of it is read when
//! whoever reads it asks for more, and `100 Continue` is said then and only then; a broken body is
//! an error for its reader, and the connection's last.

use std::io;
use std::task::{Context, Poll};

use http::{Extensions, Method};
use hyper::body::Frame;
use tokio::sync::oneshot;

use super::head::Head;
use super::input::Input;
use crate::client::{BodyFeed, ClientBodyError, UpgradeOffer, UpgradedClient};
use crate::listener::client_stream::ClientStream;
use crate::listener::informational::Interim;
use http1::{BodyPart, ChunkError, RequestFraming};

/// An unread rest of a body is read to its end, so that the connection can go on, if it is no
/// longer than this.
const WORTH_READING: u64 = 64 * 1024;

/// What a connection keeps of a request that is being answered.
pub(super) struct Exchange {
    feed: Option<BodyFeed>,
    framing: RequestFraming,
    is_connect: bool,
    /// The client waits to be asked for the body.
    awaits_continue: bool,
    /// The final response has begun.
    is_answered: bool,
    /// Where the next request would begin is in doubt.
    is_broken: bool,
    /// A part of the body was handed over since the service was polled last.
    has_fed: bool,
    /// The client takes trailers (RFC 9110 §10.1.4).
    pub(super) wants_trailers: bool,
    /// Where the connection goes when it leaves HTTP.
    pub(super) upgrade: Option<oneshot::Sender<UpgradedClient>>,
}

// === impl Exchange ===

impl Exchange {
    /// Of a head that was just read; gives the request its body, and what has come of that with the
    /// head, so that both can go on in one write.
    pub(super) fn begin(head: &mut Head, input: &mut Input) -> Self {
        let framing = head.framing;
        let feed = (!input.is_body_over()).then(|| {
            let (feed, body) = BodyFeed::new(input.body_length());
            *head.request.body_mut() = Some(body);
            feed
        });
        let mut exchange = Self {
            wants_trailers: framing.wants_trailers,
            awaits_continue: framing.expects_continue && feed.is_some(),
            feed,
            framing,
            is_connect: *head.request.method() == Method::CONNECT,
            is_answered: false,
            is_broken: false,
            has_fed: false,
            upgrade: framing
                .is_upgrade
                .then(|| offer(head.request.extensions_mut())),
        };
        if exchange.feed.is_some()
            && !exchange.awaits_continue
            && let Some(part) = input.first_part()
        {
            exchange.give(Ok(part.map(Some)), input.is_body_over());
        }
        exchange
    }

    /// Hands over what was read of the body; `is_over` says that it was read to its end.
    fn give(&mut self, read: io::Result<Result<Option<BodyPart>, ChunkError>>, is_over: bool) {
        let (part, is_last) = match read {
            Ok(Ok(Some(BodyPart::Data(data)))) => (Some(Ok(Frame::data(data))), is_over),
            Ok(Ok(Some(BodyPart::Trailers(fields)))) => (Some(Ok(Frame::trailers(fields))), true),
            Ok(Ok(Some(BodyPart::End))) => (None, true),
            // There is more, and it will not come.
            Ok(Ok(Some(BodyPart::More) | None)) | Err(_) => {
                (Some(Err(ClientBodyError::Ended)), true)
            }
            Ok(Err(error)) => (Some(Err(error.into())), true),
        };
        self.is_broken |= matches!(part, Some(Err(_)));
        if let Some(feed) = &self.feed {
            feed.give(part, is_last);
        }
        if is_last {
            self.feed = None;
        }
    }

    /// Whether something came for the service since this was asked last.
    pub(super) fn take_fed(&mut self) -> bool {
        std::mem::take(&mut self.has_fed)
    }

    /// The final response begins; whether it is the connection's last.
    pub(super) fn answer(&mut self, input: &Input) -> bool {
        self.is_answered = true;
        // One without a feed was abandoned earlier.
        let is_abandoned = self.feed.as_ref().is_none_or(BodyFeed::is_abandoned);
        let is_unread = is_abandoned && !input.is_body_over();
        let is_long = input.body_length().is_none_or(|left| left > WORTH_READING);
        !self.framing.is_persistent
            || self.is_broken
            || self.is_connect
            || is_unread && (self.awaits_continue || is_long)
    }

    /// Whether the client may have sent more requests already, or be about to.
    pub(super) fn may_go_on(&self) -> bool {
        self.framing.is_persistent
    }

    /// Whether the connection cannot go on although the response did not say so.
    pub(super) fn is_cut_short(&self) -> bool {
        self.is_broken || self.awaits_continue
    }

    /// Whether anybody may still want more of the body.
    pub(super) fn has_reader(&self) -> bool {
        self.feed.is_some()
    }

    /// Serves the client meanwhile: writes interim responses, feeds the body. Ready when the client
    /// has left.
    pub(super) fn poll_client<I: ClientStream>(
        &mut self,
        stream: &mut I,
        input: &mut Input,
        interim: &Interim,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.is_answered
            && let Poll::Ready(Err(_)) = interim.poll_write(stream, cx)
        {
            return Poll::Ready(());
        }
        while let Some(feed) = &self.feed {
            if feed.is_abandoned() {
                // What is left of the body is the connection's.
                self.feed = None;
                break;
            }
            if !feed.is_wanted(cx) {
                break;
            }
            if self.awaits_continue {
                self.awaits_continue = false;
                if !self.is_answered {
                    interim.ask_for_body();
                    if let Poll::Ready(Err(_)) = interim.poll_write(stream, cx) {
                        return Poll::Ready(());
                    }
                }
            }
            let Poll::Ready(read) = input.poll_body(stream, cx) else {
                return Poll::Pending;
            };
            self.give(read, input.is_body_over());
            self.has_fed = true;
        }
        match self.is_broken {
            true => Poll::Pending,
            false => input.poll_end(stream, cx),
        }
    }
}

fn offer(extensions: &mut Extensions) -> oneshot::Sender<UpgradedClient> {
    let (offer, connection) = UpgradeOffer::new();
    extensions.insert(offer);
    connection
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Waker;

    use hyper::body::Body as _;

    use super::*;
    use crate::config::ServerConfig;
    use crate::flow::BufferBudget;

    /// What whoever reads the body gets at once, when these bytes have come from the client.
    async fn at_once(bytes: &str) -> Poll<Option<String>> {
        let buffers = BufferBudget::new(1 << 20).of([127, 0, 0, 1].into());
        let mut input = Input::new(&ServerConfig::default(), buffers);
        let (mut stream, mut head) = (bytes.as_bytes(), None);
        let read = poll_fn(|cx| input.poll_head(&mut stream, &mut head, cx)).await;
        assert!(read.is_ok_and(|head| head.is_ok()));
        let mut head = head.expect("it is whole");
        let _exchange = Exchange::begin(&mut head, &mut input);
        let body = head.request.body_mut().as_mut().expect("it has a body");
        let polled = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        polled.map(|frame| {
            let data = frame?.ok()?.into_data().ok()?;
            String::from_utf8(data.to_vec()).ok()
        })
    }

    #[tokio::test]
    async fn what_comes_of_a_body_with_its_head_is_there_at_once() {
        let post = "POST / HTTP/1.1\r\nhost: x\r\n";
        let nothing = at_once(&format!("{post}content-length: 4\r\n\r\n")).await;
        assert_eq!(nothing, Poll::Pending);
        let whole = at_once(&format!("{post}content-length: 4\r\n\r\nbody")).await;
        assert_eq!(whole, Poll::Ready(Some("body".to_owned())));
        let part = at_once(&format!("{post}content-length: 4\r\n\r\nbo")).await;
        assert_eq!(part, Poll::Ready(Some("bo".to_owned())));
        let chunks = "transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
        let chunk = at_once(&format!("{post}{chunks}")).await;
        assert_eq!(chunk, Poll::Ready(Some("body".to_owned())));
    }

    #[tokio::test]
    async fn a_client_that_waits_to_be_asked_for_its_body_is_asked_first() {
        let post = "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n";
        let whole = at_once(&format!("{post}content-length: 4\r\n\r\nbody")).await;
        assert_eq!(whole, Poll::Pending);
    }
}
