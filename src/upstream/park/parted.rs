//! The end of a tunnel that could be parked.
//!
//! Guarantees: the client is told at once; an instance that sleeps is told when it is awake again, if it
//! is to be told at all.

use std::fmt;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::end::End;
use super::host::{InstanceSide, ParkHost};
use super::left_behind::LeftBehind;
use super::parkable::Parkable;
use crate::telemetry::TunnelEnd as EndedBy;
use crate::upstream::carried::OpenTunnel;
use crate::upstream::farewell::Farewell;
use crate::wake::Endpoint;

/// A tunnel that has ended, of which leave is to be taken.
#[must_use]
pub struct Parted<'a, C, I> {
    farewell: Farewell<'a, C, I>,
    endpoint: Endpoint,
    left: Option<Box<LeftBehind<I>>>,
    is_broken: bool,
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
                // One that has vanished has not said goodbye, and nobody says it in its name.
                None if end.by == EndedBy::Client => Bytes::new(),
                None if relay.to_instance.has_border() => end.close.to_instance(),
                None => Bytes::new(),
            };
            let side = relay.instance.take().filter(|_| end.is_known);
            left = side.map(|side| {
                Box::new(LeftBehind {
                    stream: side.into_inner(),
                    last,
                    ip: endpoint.ip(),
                    until: end.until,
                })
            });
        }
        let is_client_gone = end.by == EndedBy::Client && !has_frames;
        // It cannot be told, and is not to take it for an orderly end.
        let is_broken = end.by == EndedBy::Sleep && !has_frames;
        let farewell = match is_client_gone || is_broken {
            true => Farewell::nothing(),
            false => Farewell::of(relay, end.close),
        };
        Parted {
            farewell,
            endpoint,
            left,
            is_broken,
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
            is_broken: false,
        }
    }

    /// Whether the client is to find its connection reset: its instance is lost, and nothing can say so.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Takes leave of whoever is there; what is left is an instance's side that sleeps.
    pub async fn say(self) -> Option<Box<LeftBehind<I>>> {
        self.farewell.say(Some(&self.endpoint)).await;
        self.left
    }
}

impl<C, I> fmt::Debug for Parted<'_, C, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parted(left: {})", self.left.is_some())
    }
}
