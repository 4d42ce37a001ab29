//! The end of a tunnel that the gateway ends.
//!
//! Guarantees: whoever speaks WebSocket is told by a close frame, which is never in the middle of
//! another: what is missing of that is carried for a moment, and where it does not come the connection
//! ends without a frame; whatever else is spoken just ends, as TCP does. All of it is over within
//! [`WHOLE_FRAME`] and [`ANSWER`], whatever the sides do.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Empty, ReadBuf, empty};
use tokio::time::timeout;

use super::carried::Carried;
use super::epoch_end::cut;
use super::relay::{Flow, ROOM, Relay};
use super::websocket::{Close, FrameReader};
use crate::flow::poll_write_whole;
use crate::wake::Endpoint;

/// How long the rest of a frame is waited for.
const WHOLE_FRAME: Duration = Duration::from_secs(1);
/// How long a side has to answer a close, and to take what there is for it.
const ANSWER: Duration = Duration::from_secs(1);

/// What is left to be done for a tunnel that has ended.
#[must_use]
pub struct Farewell<'a, C, I>(Option<Open<'a, C, I>>);

/// A tunnel of which the gateway takes leave.
struct Open<'a, C, I> {
    relay: Relay<'a, C, I>,
    to_client: Leave,
    to_instance: Leave,
}

/// How far the leave of one side is.
struct Leave {
    step: Step,
    /// The frame that closes the connection.
    frame: Bytes,
}

enum Step {
    /// A frame is under way to it.
    Frame,
    /// The close frame is being written.
    Close,
    /// It is told that nothing more comes.
    Shutdown,
    /// Whatever it was told is written: its source is read until that ends, too.
    Answer(Option<FrameReader>),
    Over,
}

// === impl Farewell ===

impl<'a, C, I> Farewell<'a, C, I>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + AsyncWrite + Unpin,
{
    /// Nothing is left to be done.
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    /// Both sides are to be told, as far as they are there.
    pub(super) fn of(relay: Relay<'a, C, I>, close: Close) -> Self {
        Self(Some(Open {
            relay,
            to_client: Leave::new(close.to_client()),
            to_instance: Leave::new(close.to_instance()),
        }))
    }

    /// Takes leave of both sides. Nothing of it outlives the instance's epoch.
    pub async fn say(self, endpoint: Option<&Endpoint>) {
        let Some(mut open) = self.0 else {
            return;
        };
        let mut is_cut = pin!(cut(endpoint));
        let mut poll = |open: &mut Open<'a, C, I>, cx: &mut Context<'_>| {
            if open.relay.instance.is_some() && is_cut.as_mut().poll(cx).is_ready() {
                open.relay.instance = None;
            }
            open.poll(cx)
        };
        let whole = poll_fn(|cx| {
            let polled = poll(&mut open, cx);
            match open.is_in_frame() {
                true => polled,
                false => Poll::Ready(()),
            }
        });
        // What is in the middle of a frame then stays so.
        let _late = timeout(WHOLE_FRAME, whole).await;
        open.give_up_frames();
        let _late = timeout(ANSWER, poll_fn(|cx| poll(&mut open, cx))).await;
        open.end_both();
        let _late = timeout(ANSWER, poll_fn(|cx| poll(&mut open, cx))).await;
    }
}

impl<'a, C: AsyncRead + AsyncWrite + Unpin> Farewell<'a, C, Empty> {
    /// A client of WebSocket is to be told that has no instance, and is between two frames both ways.
    pub fn of_client(client: C, carried: &'a Carried, close: Close) -> Self {
        let mut relay = Relay::new(client, empty(), carried, true);
        relay.instance = None;
        Self::of(relay, close)
    }
}

impl<C, I> fmt::Debug for Farewell<'_, C, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Farewell(is_due: {})", self.0.is_some())
    }
}

// === impl Open ===

impl<C, I> Open<'_, C, I>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + AsyncWrite + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Relay {
            client,
            instance,
            to_client,
            to_instance,
        } = &mut self.relay;
        let leaving = &mut self.to_client;
        let client_told = leaving.poll(to_client, instance.as_mut(), Some(&mut *client), cx);
        let leaving = &mut self.to_instance;
        let instance_told = leaving.poll(to_instance, Some(client), instance.as_mut(), cx);
        match client_told.is_ready() && instance_told.is_ready() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn is_in_frame(&self) -> bool {
        let mut both = [&self.to_client, &self.to_instance].into_iter();
        both.any(|leave| matches!(leave.step, Step::Frame))
    }

    fn give_up_frames(&mut self) {
        for leave in [&mut self.to_client, &mut self.to_instance] {
            if matches!(leave.step, Step::Frame) {
                leave.step = Step::Shutdown;
            }
        }
    }

    /// The answers have come, or will not: both connections end. Those without frames have been told of
    /// the end already.
    fn end_both(&mut self) {
        for (leave, flow) in [
            (&mut self.to_client, &self.relay.to_client),
            (&mut self.to_instance, &self.relay.to_instance),
        ] {
            leave.step = match flow.has_frames() {
                true => Step::Shutdown,
                false => Step::Over,
            };
        }
    }
}

// === impl Leave ===

impl Leave {
    fn new(frame: Bytes) -> Self {
        let step = Step::Frame;
        Self { step, frame }
    }

    /// Goes on with the leave of `sink`, to which `source` speaks.
    fn poll(
        &mut self,
        flow: &mut Flow,
        source: Option<&mut (impl AsyncRead + Unpin)>,
        sink: Option<&mut (impl AsyncWrite + Unpin)>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut source = source;
        let Some(sink) = sink else {
            // It is gone, and whoever speaks to it may still have to answer its own leave.
            if matches!(self.step, Step::Frame | Step::Close) {
                self.step = Step::Answer(read_so_far(flow));
            }
            if let Step::Answer(frames) = &mut self.step {
                while ready!(poll_discard(&mut source, frames, cx)) {}
            }
            self.step = Step::Over;
            return Poll::Ready(());
        };
        loop {
            let next = match &mut self.step {
                Step::Frame => ready!(poll_frame(flow, &mut source, sink, cx)),
                Step::Close => match ready!(poll_send(&mut self.frame, sink, cx)) {
                    Ok(()) => Step::Answer(read_so_far(flow)),
                    Err(_) => Step::Over,
                },
                Step::Shutdown => match ready!(poll_shutdown(flow, sink, cx)) {
                    Ok(()) if !flow.has_frames() => Step::Answer(None),
                    Ok(()) | Err(_) => Step::Over,
                },
                Step::Answer(frames) => match ready!(poll_discard(&mut source, frames, cx)) {
                    true => continue,
                    false => Step::Over,
                },
                Step::Over => return Poll::Ready(()),
            };
            self.step = next;
        }
    }
}

fn poll_send(
    frame: &mut Bytes,
    sink: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    ready!(poll_write_whole(sink, frame, cx))?;
    Pin::new(sink).poll_flush(cx)
}

/// Says that nothing more comes. A frame of which the rest has not come stays as it is; of what has no
/// frames all is written that was read.
fn poll_shutdown(
    flow: &mut Flow,
    sink: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if !flow.has_frames() {
        let rest = flow.rest.len();
        ready!(flow.poll_write_rest(sink, rest, cx))?;
    }
    Pin::new(sink).poll_shutdown(cx)
}

/// Carries the frame that is under way to its end.
fn poll_frame(
    flow: &mut Flow,
    source: &mut Option<&mut (impl AsyncRead + Unpin)>,
    sink: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
) -> Poll<Step> {
    loop {
        let Some(frames) = flow.frames.as_ref().filter(|_| flow.has_frames()) else {
            return Poll::Ready(Step::Shutdown);
        };
        if frames.is_between() {
            // Nothing may follow a close.
            return Poll::Ready(match frames.has_closed() {
                true => Step::Answer(read_so_far(flow)),
                false => Step::Close,
            });
        }
        let count = frames.rest_of_frame(&flow.rest);
        if count == 0 {
            let more = source
                .as_mut()
                .map(|source| flow.poll_read_more(*source, cx));
            match more {
                Some(more) if ready!(more) => continue,
                Some(_) | None => return Poll::Ready(Step::Shutdown),
            }
        }
        if ready!(flow.poll_write_rest(sink, count, cx)).is_err() {
            return Poll::Ready(Step::Over);
        }
    }
}

/// The frames of what was read of the source, where those are known.
fn read_so_far(flow: &Flow) -> Option<FrameReader> {
    let mut frames = flow.frames.clone()?;
    frames.read(&flow.rest);
    Some(frames)
}

/// Reads what nobody wants any more; whether there may be more of it. The source has answered by a close
/// of its own, or by its end.
fn poll_discard(
    source: &mut Option<&mut (impl AsyncRead + Unpin)>,
    frames: &mut Option<FrameReader>,
    cx: &mut Context<'_>,
) -> Poll<bool> {
    let has_closed = |frames: &FrameReader| frames.has_closed() && frames.is_between();
    if frames.as_ref().is_some_and(has_closed) {
        return Poll::Ready(false);
    }
    let Some(source) = source.as_mut() else {
        return Poll::Ready(false);
    };
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut read = ReadBuf::uninit(&mut room);
    let polled = ready!(Pin::new(&mut **source).poll_read(cx, &mut read));
    if let Some(frames) = frames {
        frames.read(read.filled());
    }
    Poll::Ready(polled.is_ok() && !read.filled().is_empty())
}
