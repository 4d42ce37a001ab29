//! The end of a tunnel that could be parked.
//!
//! Guarantees: the client is told at once; an instance that sleeps is told when it is awake again, if it
//! is to be told at all.

use std::fmt;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::left_behind::LeftBehind;
use super::{InstanceSide, ParkHost, Parkable};
use crate::telemetry::TunnelEnd as EndedBy;
use crate::upstream::carried::OpenTunnel;
use crate::upstream::farewell::Farewell;
use crate::upstream::relay::Relay;
use crate::upstream::websocket::{Close, FrameHeader, Opcode, masked};
use crate::wake::Endpoint;

/// The code of a close without a reason (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;

/// A tunnel that has ended, of which leave is to be taken.
#[must_use]
pub struct Parted<'a, C, I> {
    farewell: Farewell<'a, C, I>,
    endpoint: Endpoint,
    left: Option<LeftBehind<I>>,
}

/// How a tunnel ends.
pub(super) struct End {
    by: EndedBy,
    /// What the client is told, who speaks WebSocket.
    close: Close,
    /// The client's own close, for the instance.
    from_client: Option<Bytes>,
    /// Whether the instance knows the connection still, as far as is known.
    is_known: bool,
    /// Whether it is awake.
    is_awake: bool,
    /// Until when it may be told, where it sleeps.
    until: Instant,
}

// === impl End ===

impl End {
    fn new(by: EndedBy, close: Close) -> Self {
        Self {
            by,
            close,
            from_client: None,
            is_known: true,
            is_awake: true,
            until: Instant::now(),
        }
    }

    /// The gateway ends it, and its instance is to hear of that.
    pub(super) fn kept(by: EndedBy, close: Close) -> Self {
        Self::new(by, close)
    }

    /// The instance does not know it any more, or is gone.
    pub(super) fn restarted(reason: &'static str) -> Self {
        Self {
            is_known: false,
            is_awake: false,
            ..Self::new(EndedBy::Sleep, Close::restart(reason))
        }
    }

    /// The client has closed it, or has gone.
    pub(super) fn by_client<C, I>(relay: &Relay<'_, C, I>) -> Self {
        let rest = &relay.to_instance.rest;
        let header = FrameHeader::parse(rest).ok().flatten();
        let header = header.filter(|header| header.opcode == Opcode::Close);
        let frame = header.and_then(|header| Some((header, rest.get(..header.control_length()?)?)));
        let code = frame.and_then(|(header, frame)| {
            let payload = masked(frame.get(header.header_length..)?, header.mask?);
            let code: Vec<u8> = payload.take(2).collect();
            Some(u16::from_be_bytes(code.try_into().ok()?))
        });
        let close = Close {
            code: code.unwrap_or(NORMAL),
            reason: "",
        };
        Self {
            from_client: frame.map(|(_, frame)| Bytes::copy_from_slice(frame)),
            ..Self::new(EndedBy::Client, close)
        }
    }

    /// What is known of the instance besides.
    pub(super) fn with_instance(self, is_awake: bool, until: Instant) -> Self {
        Self {
            is_awake: self.is_known && is_awake,
            until,
            ..self
        }
    }
}

// === impl Parkable ===

impl<'a, C, I, H> Parkable<'a, '_, C, I, H>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: InstanceSide,
    H: ParkHost,
{
    /// The gateway, or the client of an instance that sleeps, ends it.
    pub(super) fn part(self, end: End, open: &mut OpenTunnel<'_>) -> Parted<'a, C, I> {
        open.cut(end.by);
        let (mut relay, endpoint) = (self.relay, self.endpoint);
        let has_frames = relay.to_client.has_frames();
        let mut left = None;
        if !end.is_awake {
            let last = match end.from_client {
                Some(frame) => frame,
                None if relay.to_instance.has_border() => end.close.to_instance(),
                None => Bytes::new(),
            };
            let side = relay.instance.take().filter(|_| end.is_known);
            left = side.map(|side| LeftBehind {
                stream: side.into_inner(),
                last,
                until: end.until,
            });
        }
        let is_client_gone = end.by == EndedBy::Client && !has_frames;
        let farewell = match is_client_gone {
            true => Farewell::nothing(),
            false => Farewell::of(relay, end.close),
        };
        Parted {
            farewell,
            endpoint,
            left,
        }
    }
}

// === impl Parted ===

impl<C, I> Parted<'_, C, I>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: InstanceSide,
{
    /// Nobody has to be told.
    pub(in crate::upstream) fn nothing(endpoint: Endpoint) -> Self {
        Self {
            farewell: Farewell::nothing(),
            endpoint,
            left: None,
        }
    }

    /// Takes leave of whoever is there; what is left is an instance's side that sleeps.
    pub async fn say(self) -> Option<LeftBehind<I>> {
        self.farewell.say(Some(&self.endpoint)).await;
        self.left
    }
}

impl<C, I> fmt::Debug for Parted<'_, C, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parted(left: {})", self.left.is_some())
    }
}
