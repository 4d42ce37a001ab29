//! A tunnel whose instance is at rest: what its sides say meanwhile.
//!
//! Guarantees: nothing of a client's payload goes to the instance; while that sleeps, nothing at all
//! does, and an end of its connection is none of its own: pings are answered in its place, and never in the middle of a frame; what the instance says goes
//! to the client as it comes; of a client no more is kept than its route allows.

use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::input::{Found, look};
use crate::flow::{ClientBuffers, Place};
use crate::telemetry::TunnelEnd as EndedBy;
use crate::upstream::carried::Carried;
use crate::upstream::relay::{KEPT_FREE, Relay};
use crate::upstream::websocket::{FrameHeader, LONGEST_CONTROL, Opcode, control, masked};

/// RFC 6455 §5.2.
const PONG: u8 = 10;

/// How a tunnel at rest is.
pub(super) struct Rest {
    /// Whether its instance sleeps, as far as is known; else control frames pass.
    pub(super) is_asleep: bool,
    /// How much is read of the client while the instance is woken for it; `None` before that.
    pub(super) waking: Option<usize>,
    /// So much of what the client has sent is a control frame that passes.
    passing: usize,
    /// Whether an answer is on its way to the client.
    is_answering: bool,
    /// The client's part of the gateway's budget, and the place where it waits for more of it.
    buffers: Option<(ClientBuffers, Place)>,
}

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Payload of the client's, which is this.
    Payload(&'static str),
    /// Payload of the instance's, which the client has.
    FromInstance,
    /// The instance has ended its side, or broken it off.
    InstanceOver,
    /// The client has, or wants to.
    ClientOver,
}

// === impl Rest ===

impl Rest {
    pub(super) fn new(is_asleep: bool, buffers: Option<&ClientBuffers>) -> Self {
        Self {
            buffers: buffers.map(|buffers| (buffers.clone(), Place::default())),
            is_asleep,
            waking: None,
            passing: 0,
            is_answering: false,
        }
    }

    /// Goes on with what needs no payload to go to the instance.
    pub(super) fn poll<C, I>(
        &mut self,
        relay: &mut Relay<'_, C, I>,
        carried: &Carried,
        cx: &mut Context<'_>,
    ) -> Poll<Seen>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        I: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            if let Some(seen) = ready!(self.poll_instance(relay, carried, cx)) {
                return Poll::Ready(seen);
            }
            let room = match self.waking {
                Some(limit) => limit.saturating_sub(relay.to_instance.rest.len()),
                None => match self.look(relay) {
                    Found::More => LONGEST_CONTROL,
                    Found::Payload(what) => return Poll::Ready(Seen::Payload(what)),
                    Found::Control(Opcode::Close, _) => return Poll::Ready(Seen::ClientOver),
                    Found::Control(..) => continue,
                },
            };
            if room == 0 {
                return Poll::Pending;
            }
            if self.waking.is_some()
                && relay.to_instance.rest.len() > KEPT_FREE
                && let Some((buffers, place)) = &mut self.buffers
            {
                ready!(buffers.poll_room(place, cx));
            }
            let is_more = ready!(relay.to_instance.poll_fill(&mut relay.client, room, cx));
            match (is_more, self.waking) {
                (true, _) => {}
                (false, None) => return Poll::Ready(Seen::ClientOver),
                // What it has sent before goes to its instance all the same.
                (false, Some(_)) => return Poll::Pending,
            }
        }
    }

    /// Goes on with what the instance says, and with control frames for it, where there is one.
    fn poll_instance<C, I>(
        &mut self,
        relay: &mut Relay<'_, C, I>,
        carried: &Carried,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Seen>>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(instance) = &mut relay.instance else {
            // Only answers go to the client.
            let (flow, client) = (&mut relay.to_client, &mut relay.client);
            let answers = flow.rest.len();
            let written = ready!(flow.poll_write_rest(client, answers, cx));
            let written = written.and_then(|()| match flow.poll_flush(client, cx) {
                Poll::Ready(flushed) => flushed,
                Poll::Pending => Ok(()),
            });
            self.is_answering = false;
            return Poll::Ready(written.err().map(|_| Seen::ClientOver));
        };
        relay.to_client.takes_no_end = self.is_asleep;
        let copied = relay.to_client.poll_copy(instance, &mut relay.client, cx);
        if copied.is_ready() {
            return Poll::Ready(Some(match carried.ended_by() == EndedBy::Client {
                true => Seen::ClientOver,
                false => Seen::InstanceOver,
            }));
        }
        if relay.to_client.take_payload() {
            return Poll::Ready(Some(Seen::FromInstance));
        }
        self.is_answering &= !relay.to_client.rest.is_empty();
        if self.is_answering {
            // Who takes no answers asks nothing more.
            return Poll::Pending;
        }
        let passing = self.passing;
        if passing > 0 {
            let before = relay.to_instance.rest.len();
            let polled = relay.to_instance.poll_write_rest(instance, passing, cx);
            let gone = before.saturating_sub(relay.to_instance.rest.len());
            self.passing = passing.saturating_sub(gone);
            if ready!(polled).is_err() {
                return Poll::Ready(Some(Seen::InstanceOver));
            }
        }
        if ready!(relay.to_instance.poll_flush(instance, cx)).is_err() {
            return Poll::Ready(Some(Seen::InstanceOver));
        }
        Poll::Ready(None)
    }

    /// What the client has sent next; control frames are taken, or pass.
    fn look<C, I>(&mut self, relay: &mut Relay<'_, C, I>) -> Found {
        let (flow, to_client) = (&mut relay.to_instance, &mut relay.to_client);
        let found = look(&flow.rest, flow.frames.as_ref());
        let Found::Control(opcode, length) = found else {
            return found;
        };
        if opcode == Opcode::Close {
            return found;
        }
        if !self.is_asleep {
            self.passing = length;
            return found;
        }
        let frame = flow.rest.split_to(length);
        if flow.rest.is_empty() {
            flow.rest = BytesMut::new();
        }
        // In the middle of a frame there is no place for an answer.
        if opcode == Opcode::Ping && to_client.has_border() && to_client.is_at_border() {
            // It goes the way of what the instance says, so that it is known how much of it has gone.
            to_client.rest.extend_from_slice(&pong(&frame));
            self.is_answering = true;
        }
        found
    }

    /// A control frame of the gateway's own is to go to the instance, before anything else.
    pub(super) fn question<C, I>(&mut self, relay: &mut Relay<'_, C, I>, frame: &[u8]) {
        let flow = &mut relay.to_instance;
        let mut rest = BytesMut::from(frame);
        rest.extend_from_slice(&flow.rest);
        flow.rest = rest;
        self.passing = frame.len();
    }

    /// Takes it back as far as nothing of it was written; of what was begun the rest is the next that goes.
    pub(super) fn take_back<C, I>(&mut self, relay: &mut Relay<'_, C, I>, frame: &[u8]) {
        let flow = &mut relay.to_instance;
        if std::mem::take(&mut self.passing) == frame.len() {
            drop(flow.rest.split_to(frame.len()));
        }
    }
}

/// The answer to a ping.
fn pong(ping: &[u8]) -> Bytes {
    let header = FrameHeader::parse(ping).ok().flatten();
    let payload = header.and_then(|header| Some((ping.get(header.header_length..)?, header.mask)));
    match payload {
        Some((payload, Some(mask))) => {
            let payload: Vec<u8> = masked(payload, mask).collect();
            control(PONG, &payload, None)
        }
        Some((payload, None)) => control(PONG, payload, None),
        None => control(PONG, &[], None),
    }
}
