//! What a tunnel that may be parked needs of the gateway around it, and its rules.
//!
//! Guarantees: this module knows no queue and no control plane: who wakes an instance, and who may be parked
//! at all, is for whoever is the host.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::ParkConfig;
use crate::flow::{ClientBuffers, PeekStream};
use crate::upstream::leased_stream::LeasedStream;
use crate::upstream::websocket::Close;
use crate::wake::{Endpoint, OpenConnection};

/// The rules for one tunnel that may be parked.
#[derive(Debug, Clone, Copy)]
pub struct ParkRules {
    /// How long it may be without payload before it is quiet.
    pub after: Duration,
    /// How much of its client is kept while its instance wakes.
    pub buffer: usize,
    /// How long it may be parked.
    pub max_time: Duration,
    /// How long its instance may be silent after a wake.
    pub probe: Duration,
}

/// The instance's side of a tunnel that may be parked.
pub trait InstanceSide: AsyncRead + AsyncWrite + Unpin + Send {
    /// The connection.
    fn leased(&mut self) -> &mut LeasedStream;

    /// It goes on in another epoch.
    fn attach(&mut self, open: OpenConnection) {
        self.leased().attach(open);
    }
}

/// An instance is ready for a parked tunnel.
#[derive(Debug)]
pub struct Woken {
    /// The epoch that it is in.
    pub endpoint: Endpoint,
    /// Whether it was booted: it knows none of its connections any more.
    pub is_booted: bool,
}

/// An instance is not ready for a parked tunnel, whose client is told this.
#[derive(Debug, Clone, Copy)]
pub struct Unready {
    /// What the client is told.
    pub close: Close,
    /// Whether the instance is gone.
    pub is_gone: bool,
}

/// The gateway around a tunnel that may be parked.
pub trait ParkHost: Send + Sync {
    /// The client's part of the gateway's budget, where that is known.
    fn buffers(&self) -> Option<&ClientBuffers>;

    /// The instance's live epoch.
    fn endpoint(&self) -> Option<Endpoint>;

    /// Hears of the instance's epochs.
    fn epochs(&self) -> watch::Receiver<u64>;

    /// The control plane is asked what the instance is doing.
    fn doubt(&self);

    /// Cancelled when the instance is gone.
    fn gone(&self) -> CancellationToken;

    /// Takes a place among the parked tunnels, unless it has one; whether it has one now.
    fn take_place(&mut self) -> bool;

    /// Gives that place back.
    fn leave_place(&mut self);

    /// Gives the tunnel's place at the instance back.
    fn rest(&mut self);

    /// Takes a place at the instance, which speaks of its own accord, if one is free.
    fn enter(&mut self);

    /// Waits until the instance is ready, and takes a place there; `what` has come from the client.
    fn wake(&mut self, what: &'static str) -> BoxFuture<'_, Result<Woken, Unready>>;
}

// === impl ParkRules ===

impl ParkRules {
    /// Those of a route.
    pub fn of(config: &ParkConfig) -> Self {
        Self {
            after: config.after,
            buffer: config.buffer.0,
            max_time: config.max_time,
            probe: config.probe,
        }
    }
}

impl InstanceSide for LeasedStream {
    fn leased(&mut self) -> &mut LeasedStream {
        self
    }
}

impl InstanceSide for PeekStream<LeasedStream> {
    fn leased(&mut self) -> &mut LeasedStream {
        self.get_mut()
    }
}
