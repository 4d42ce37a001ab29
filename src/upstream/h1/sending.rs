//! A request on its way out: its head, then its body, part by part.
//!
//! Guarantees: one part of the body is in memory at a time, and in its client's budget until it has
//! been written; the head and the beginning of the body go in one write where they fit; as long as
//! nothing has been written, it can be sent on another connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http1::{BodyEncoder, BodyLength};
use hyper::body::Body as _;

use crate::flow::{Buffered, ClientBuffers};
use crate::upstream::leased_stream::LeasedStream;
use crate::upstream::request_body::{BodyFailure, RequestBody};

/// A part of a body that is no longer is copied behind the head, so that both are written at once.
const COPIED: usize = 4 * 1024;
/// Bytes that are put together before they are written.
const FULL: usize = 16 * 1024;

/// Room that is kept for the next bytes, at most.
const MOST_ROOM: usize = 3 * FULL;

/// Why a request cannot be sent further.
#[derive(Debug)]
pub(super) enum SendFailure {
    /// Its client does not send the body as it should.
    Client(BodyFailure),
    /// The connection takes no more.
    Connection,
}

/// What is left to be written of a request.
#[derive(Debug)]
pub(in crate::upstream) struct Sending {
    /// First this, from `written` on,
    out: Vec<u8>,
    written: usize,
    /// then this part of the body,
    part: Bytes,
    /// and what ends it.
    tail: &'static [u8],
    upload: Option<Box<Upload>>,
    has_begun: bool,
    waits_for_client: bool,
    /// All has been written, and some of it is still kept by TLS.
    is_kept: bool,
}

/// The rest of a body.
#[derive(Debug)]
struct Upload {
    body: RequestBody,
    encoder: BodyEncoder,
    buffers: Option<ClientBuffers>,
    held: Option<Buffered>,
}

// === impl Sending ===

impl Sending {
    /// A request with this head, which has been written to `out`, and frames its body as `length`.
    pub(in crate::upstream) fn new(
        out: Vec<u8>,
        length: BodyLength,
        body: RequestBody,
        buffers: Option<ClientBuffers>,
    ) -> Self {
        let upload = (!body.is_nothing()).then(|| {
            Box::new(Upload {
                body,
                encoder: BodyEncoder::new(length),
                buffers,
                held: None,
            })
        });
        Self {
            out,
            written: 0,
            part: Bytes::new(),
            tail: b"",
            upload,
            has_begun: false,
            waits_for_client: false,
            is_kept: false,
        }
    }

    /// Whether any of it has been written.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether all of it has been written.
    pub(super) fn is_over(&self) -> bool {
        self.upload.is_none() && self.is_idle() && !self.is_kept
    }

    /// The room that was used, or itself if it is not over.
    pub(in crate::upstream) fn into_room(self) -> Result<Vec<u8>, Self> {
        match self.is_over() {
            true => Ok(self.out),
            false => {
                self.note_response();
                Err(self)
            }
        }
    }

    /// Whether it is the client's turn: what has come of the body has been written.
    pub(super) fn waits_for_client(&self) -> bool {
        self.waits_for_client
    }

    /// All of `out` has been written. Its room is used again, unless it is large: many requests wait
    /// for their responses, and few heads need so much.
    fn clear_out(&mut self) {
        self.out.clear();
        self.written = 0;
        let most = match self.upload {
            Some(_) => MOST_ROOM,
            None => COPIED,
        };
        if self.out.capacity() > most {
            self.out = Vec::new();
        }
    }

    /// Its response has begun: the least rate of its body does not count any more.
    fn note_response(&self) {
        let upload = self.upload.as_ref();
        if let Some(stats) = upload.and_then(|upload| upload.body.body_stats()) {
            stats.answered();
        }
    }

    /// Nothing more of it is written.
    pub(super) fn give_up(&mut self) {
        self.out = Vec::new();
        (self.written, self.part, self.tail) = (0, Bytes::new(), b"");
        (self.upload, self.waits_for_client, self.is_kept) = (None, false, false);
    }

    /// Writes as much as can be; ready when all has been. The flag
    /// `progress` is set when some was.
    pub(super) fn poll_write(
        &mut self,
        stream: &mut LeasedStream,
        progress: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendFailure>> {
        loop {
            self.waits_for_client = self.fill(cx).map_err(SendFailure::Client)?;
            while !self.is_idle() {
                let polled = self.poll_some(stream, cx);
                match ready!(polled) {
                    Ok(count @ 1..) => {
                        (*progress, self.has_begun) = (true, true);
                        self.advance(count);
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Err(SendFailure::Connection)),
                }
            }
            self.clear_out();
            let sent = stream.poll_sent(cx);
            self.is_kept = sent.is_pending();
            if ready!(sent).is_err() {
                return Poll::Ready(Err(SendFailure::Connection));
            }
            if self.upload.is_none() {
                return Poll::Ready(Ok(()));
            }
            if self.waits_for_client {
                return Poll::Pending;
            }
        }
    }

    /// Whether there is nothing to be written now.
    fn is_idle(&self) -> bool {
        self.written == self.out.len() && self.part.is_empty() && self.tail.is_empty()
    }

    /// Takes what there is of the body; whether the client has to send more of it.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, BodyFailure> {
        while self.part.is_empty() && self.tail.is_empty() && self.out.len() < FULL {
            let Some(upload) = &mut self.upload else {
                break;
            };
            let frame = match Pin::new(&mut upload.body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(frame) => frame,
            };
            let trailers = match frame {
                None => None,
                Some(Err(_)) => return Err(upload.failure()),
                Some(Ok(frame)) => match frame.into_data() {
                    Err(frame) => frame.into_trailers().ok(),
                    Ok(data) => {
                        let ends = upload.body.is_end_stream();
                        self.take(data)?;
                        if !ends || !self.part.is_empty() {
                            continue;
                        }
                        None
                    }
                },
            };
            if let Some(upload) = self.upload.take() {
                let ended = upload.encoder.end(trailers.as_ref(), &mut self.out);
                ended.map_err(|_| upload.failure())?;
            }
        }
        Ok(false)
    }

    fn take(&mut self, data: Bytes) -> Result<(), BodyFailure> {
        let Some(upload) = self.upload.as_mut().filter(|_| !data.is_empty()) else {
            return Ok(());
        };
        let begun = upload.encoder.begin_part(data.len(), &mut self.out);
        let tail = begun.map_err(|_| upload.failure())?;
        if data.len() <= COPIED {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(tail);
        } else {
            let buffers = upload.buffers.as_ref();
            upload.held = buffers.map(|buffers| buffers.hold(data.len()));
            (self.part, self.tail) = (data, tail);
        }
        Ok(())
    }

    fn poll_some(
        &self,
        stream: &mut LeasedStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let out = self.out.get(self.written..).unwrap_or_default();
        if self.part.is_empty() && self.tail.is_empty() {
            return stream.poll_send(cx, out);
        }
        let slices = [out, &self.part, self.tail].map(IoSlice::new);
        stream.poll_send_vectored(cx, &slices)
    }

    fn advance(&mut self, mut count: usize) {
        let of_out = count.min(self.out.len() - self.written);
        self.written += of_out;
        count -= of_out;
        let of_part = count.min(self.part.len());
        if of_part > 0 {
            self.part.advance(of_part);
            if let Some(held) = self.upload.as_mut().and_then(|upload| upload.held.as_mut()) {
                held.shrink(of_part);
            }
        }
        self.tail = self.tail.get(count - of_part..).unwrap_or_default();
    }
}

// === impl Upload ===

impl Upload {
    /// How the body failed: a length that is not true is the client's fault, too.
    fn failure(&self) -> BodyFailure {
        let stats = self.body.body_stats();
        stats
            .and_then(|stats| stats.failure())
            .unwrap_or(BodyFailure::Broke)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::HeaderMap;
    use http1::BodyPart;
    use hyper::body::Frame;
    use proptest::prelude::*;
    use std::task::Waker;

    use super::*;
    use crate::client::{BodyFeed, ClientBodyError};
    use crate::flow::BufferBudget;

    /// What is written in steps of `step` bytes while `parts` come one by one.
    fn written(
        parts: &[Vec<u8>],
        trailers: Option<&HeaderMap>,
        is_chunked: bool,
        step: usize,
    ) -> Result<Vec<u8>, BodyFailure> {
        let whole: usize = parts.iter().map(Vec::len).sum();
        let length = (!is_chunked).then_some(whole as u64);
        let (feed, body) = BodyFeed::new(length);
        let length = length.map_or(BodyLength::Chunked, BodyLength::Length);
        let body = RequestBody::new(Some(body), 0);
        let budget = BufferBudget::new(1 << 20);
        let buffers = budget.of([127, 0, 0, 1].into());
        let mut sending = Sending::new(b"head\r\n".to_vec(), length, body, Some(buffers));
        let mut frames: Vec<_> = parts
            .iter()
            .map(|part| Frame::data(Bytes::from(part.clone())))
            .collect();
        frames.extend(trailers.cloned().map(Frame::trailers));
        let (mut frames, mut out) = (frames.into_iter().peekable(), Vec::new());
        let mut cx = Context::from_waker(Waker::noop());
        while !sending.is_over() {
            if sending.fill(&mut cx)? {
                let frame = frames.next();
                feed.give(frame.map(Ok::<_, ClientBodyError>), frames.peek().is_none());
            }
            let mut now = [&sending.out[sending.written..], &sending.part, sending.tail].concat();
            now.truncate(step);
            sending.advance(now.len());
            out.extend(now);
            if sending.is_idle() {
                sending.out.clear();
                sending.written = 0;
            }
        }
        drop(sending);
        assert_eq!(budget.used(), 0);
        Ok(out)
    }

    proptest! {
        #[test]
        fn what_comes_of_a_body_is_what_is_written_however_little_goes_at_once(
            sizes in prop::collection::vec(1_usize..9000, 0..5),
            is_chunked in any::<bool>(),
            has_trailer in any::<bool>(),
            step in 1_usize..5000,
        ) {
            let parts: Vec<Vec<u8>> = sizes
                .iter()
                .zip(b'a'..)
                .map(|(size, byte)| vec![byte; *size])
                .collect();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "1".parse().unwrap());
            let trailers = Some(trailers).filter(|_| has_trailer && is_chunked);
            let out = written(&parts, trailers.as_ref(), is_chunked, step).unwrap();
            let mut body = BytesMut::from(out.strip_prefix(b"head\r\n").unwrap());
            let whole = parts.concat();
            let length = match is_chunked {
                true => BodyLength::Chunked,
                false => BodyLength::Length(whole.len() as u64),
            };
            let mut decoder = http1::BodyDecoder::new(length);
            let (mut data, mut fields) = (Vec::new(), None);
            loop {
                match decoder.take(&mut body).unwrap() {
                    BodyPart::Data(part) => data.extend_from_slice(&part),
                    BodyPart::Trailers(trailers) => fields = Some(trailers),
                    BodyPart::End => break,
                    BodyPart::More => return Err(TestCaseError::fail("it does not end")),
                }
            }
            prop_assert!(data == whole && body.is_empty());
            prop_assert_eq!(fields, trailers);
        }
    }

    #[test]
    fn a_body_that_breaks_off_is_never_ended() {
        let (feed, body) = BodyFeed::new(None);
        let body = RequestBody::new(Some(body), 0);
        let mut sending = Sending::new(Vec::new(), BodyLength::Chunked, body, None);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(sending.fill(&mut cx), Ok(true));
        feed.give(Some(Ok(Frame::data("abc".into()))), false);
        assert_eq!(sending.fill(&mut cx), Ok(true));
        drop(feed);
        assert_eq!(sending.fill(&mut cx), Err(BodyFailure::Broke));
        assert_eq!(sending.out, b"3\r\nabc\r\n");
        assert!(!sending.is_over());
    }

    #[tokio::test]
    async fn a_body_of_another_length_than_was_said_is_its_client_s_failure() {
        for (said, came) in [(2, "abc"), (4, "abc")] {
            let (feed, body) = BodyFeed::new(Some(said));
            let mut body = RequestBody::new(Some(body), 0);
            // It is asked for before it comes.
            let asked = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx)));
            assert!(asked.await.is_pending());
            feed.give(Some(Ok(Frame::data(came.into()))), true);
            let mut sending = Sending::new(Vec::new(), BodyLength::Length(said), body, None);
            let mut cx = Context::from_waker(Waker::noop());
            assert_eq!(sending.fill(&mut cx), Err(BodyFailure::Broke), "{said}");
        }
    }
}
