//! What a tunnel that may be parked needs of the gateway around it, and its rules.
//!
//! Guarantees: this module knows no queue and no control plane: who wakes an instance, and who may be parked
//! at all, is for whoever is the host.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{ParkConfig, ParkResume};
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
    /// Whether an instance that has lost it is to take it anew.
    pub reconnects: bool,
    /// Whether only the instance speaks, so that nothing of the client's finds out whether it knows the
    /// connection still, and a client that has ended its side is gone.
    pub is_one_way: bool,
}

/// The instance's side of a tunnel that may be parked.
pub trait InstanceSide: AsyncRead + AsyncWrite + Unpin + Send {
    /// It has had no payload since `payload_at`, and holds no lease.
    fn be_quiet(&mut self, payload_at: Instant);

    /// It has payload again; false where its instance is about to sleep, or sleeps.
    fn go_on(&mut self) -> bool;

    /// It goes on in another epoch.
    fn attach(&mut self, open: OpenConnection);

    /// When something last came of the instance, its end included.
    fn last_heard(&self) -> Instant;

    /// What the instance does not acknowledge for so long breaks the connection; `None` is the kernel's
    /// own time.
    fn expect_answers(&self, within: Option<Duration>);

    /// Whether the kernel asks the instance's now whether that knows the connection still, with nothing else to
    /// say.
    fn ask_kernel(&self, asks: bool);
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

/// An instance has taken a tunnel anew.
#[derive(Debug)]
pub struct Reopened<I> {
    /// The new connection, which has switched.
    pub instance: I,
    /// The epoch that it is in.
    pub endpoint: Endpoint,
}

/// Shakes hands with an instance once more for a tunnel that it has lost.
pub trait Reopen<I> {
    /// Whether that can be done at all.
    fn can_reopen(&self) -> bool;

    /// Takes a place at the instance and shakes hands with it. For what has come from the client it is
    /// woken; for nothing it is not: then there may be no connection, and no mistake neither.
    fn reopen(
        &mut self,
        what: Option<&'static str>,
    ) -> BoxFuture<'_, Result<Option<Reopened<I>>, Unready>>;
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
            reconnects: config.resume == ParkResume::Reconnect,
            is_one_way: false,
        }
    }
}

impl InstanceSide for LeasedStream {
    fn be_quiet(&mut self, payload_at: Instant) {
        Self::be_quiet(self, payload_at);
    }

    fn go_on(&mut self) -> bool {
        Self::go_on(self)
    }

    fn attach(&mut self, open: OpenConnection) {
        Self::attach(self, open);
    }

    fn last_heard(&self) -> Instant {
        Self::last_heard(self)
    }

    fn expect_answers(&self, within: Option<Duration>) {
        Self::expect_answers(self, within);
    }

    fn ask_kernel(&self, asks: bool) {
        Self::ask_kernel(self, asks);
    }
}

impl<I: InstanceSide> InstanceSide for PeekStream<I> {
    fn be_quiet(&mut self, payload_at: Instant) {
        self.get_mut().be_quiet(payload_at);
    }

    fn go_on(&mut self) -> bool {
        self.get_mut().go_on()
    }

    fn attach(&mut self, open: OpenConnection) {
        self.get_mut().attach(open);
    }

    fn last_heard(&self) -> Instant {
        self.get_ref().last_heard()
    }

    fn expect_answers(&self, within: Option<Duration>) {
        self.get_ref().expect_answers(within);
    }

    fn ask_kernel(&self, asks: bool) {
        self.get_ref().ask_kernel(asks);
    }
}
