//! What an instance's task has: its own state, and what it shares with all others.
//!
//! Guarantees: an operation that the task has begun ends in exactly one [`Done`]; only the task
//! itself, the rest of this room, reads or changes its state.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::WakeConfig;
use crate::names::ClientNetwork;
use crate::names::PlaneIndex;
use crate::wake::addresses::OwnListeners;
use crate::wake::claims::Claimants;
use crate::wake::dialer::Dialer;
use crate::wake::error::WakeStage;
use crate::wake::evidence::Seen;
use crate::wake::expiry::Expiry;
use crate::wake::instance::Instance;
use crate::wake::lease::{Endpoint, OpenConnection};
use crate::wake::machine::{Event, Machine};
use crate::wake::plane_handle::PlaneHandle;
use crate::wake::probe::Probed;
use crate::wake::record::{PlaneAnswer, Reporter, WakeLog};
use crate::wake::rest::RestError;
use crate::wake::slots::{Claim, FairSlot};
use crate::wake::target::Target;
use crate::wake::waiters::Waiters;
use hypeman::Error as ControlPlaneError;

/// What every instance's task shares.
pub(in crate::wake) struct Common<P, R> {
    pub(in crate::wake) plane: Arc<PlaneHandle<P>>,
    pub(in crate::wake) dialer: Arc<R>,
    pub(in crate::wake) config: Arc<WakeConfig>,
    pub(in crate::wake) wake_log: WakeLog,
    pub(in crate::wake) own: Arc<OwnListeners>,
    /// Is told when an instance is gone, so that the directory lets go of its handle.
    pub(in crate::wake) expiry: Arc<Expiry>,
    pub(in crate::wake) index: PlaneIndex,
    pub(in crate::wake) stop: CancellationToken,
}

/// The task's own state.
pub(super) struct Driver<P, R: Dialer> {
    pub(super) instance: Arc<Instance<R::Stream>>,
    pub(super) common: Common<P, R>,
    pub(super) machine: Machine,
    pub(super) reporter: Reporter,
    pub(super) waiters: Waiters<R::Stream>,
    pub(super) operations: FuturesUnordered<BoxFuture<'static, Done<R::Stream>>>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) found: Option<(R::Stream, OpenConnection)>,
    /// The target whose TLS the last probe found refused, and why.
    pub(super) refused: Option<(Target, Arc<str>)>,
    /// What goes once before the first request, as the first of all that wait wants it.
    pub(super) warmup: Option<Arc<str>>,
    /// The hook that tells the workload of a wake, and how long it is waited for.
    pub(super) resumed: Option<(Arc<str>, Duration)>,
    /// The probe under way calls it.
    pub(super) tells: bool,
    /// Since when the instance sleeps, and how long it has slept before the last wake.
    pub(super) asleep_since: Option<jiff::Timestamp>,
    pub(super) slept: Option<Duration>,
    /// The end of the longest wait.
    pub(super) deadline: Instant,
    /// Those for whom the attempt is, one of each network.
    pub(super) claims: Vec<Claim>,
    /// Those who join the question under way claim its place, too.
    pub(super) claimants: Option<Claimants>,
    /// A restore or start is in flight.
    pub(super) calling: bool,
    /// It is being put to sleep: whoever asks for it waits until that is over.
    pub(super) resting: bool,
    /// Calls that were overtaken by their success and have not ended.
    pub(super) rests: usize,
    /// The wake that is under way has been accounted for.
    pub(super) counted: bool,
    /// The probe under way sends the warm-up request.
    pub(super) warmed_up: bool,
    /// What a slot is waited for, if one is, and the networks for which claims are made.
    pub(super) verb: Option<Verb>,
    pub(super) claimed: Vec<ClientNetwork>,
    /// How often a slot was waited for.
    pub(super) queues: u64,
    pub(super) upkeep: Upkeep,
    /// Tells that a connection has been opened.
    pub(super) opened: Arc<Notify>,
    /// How often in a row the control plane could not tell.
    pub(super) doubts: u32,
    /// What was in the attempt's way last: where it was then, and what the control plane said.
    pub(super) trouble: Option<(WakeStage, Option<Arc<PlaneAnswer>>)>,
    /// How far the attempt was before the last event.
    pub(super) stage: WakeStage,
    /// The address that was seen last.
    pub(super) ip: Option<IpAddr>,
}

/// A claim of a network, the how-manieth time that a slot is waited for.
#[derive(Clone, Copy)]
pub(super) struct Claimed {
    pub(super) queue: u64,
    pub(super) client: ClientNetwork,
}

/// A call that wakes.
#[derive(Clone, Copy)]
pub(super) enum Verb {
    Restore,
    Start,
}

/// The end of an operation.
pub(super) enum Done<S> {
    Event(Event),
    Seen(Seen),
    Slot(Claimed, Option<FairSlot>),
    /// A verb's answer, and what is left of a call that was overtaken by its success.
    Verb(Seen, Option<BoxFuture<'static, ()>>),
    Rest,
    /// Of this target.
    Probed(Target, Probed<(S, OpenConnection)>),
    Held(u64, Instant, Option<Seen>),
    /// The answer of a call that puts the instance to sleep, and who is told.
    Rested(
        Result<(), ControlPlaneError>,
        oneshot::Sender<Result<(), RestError>>,
    ),
}

/// Holds and looks, planned and under way.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// When to renew a hold.
    pub(super) renew_at: Option<Instant>,
    /// When to look for silent connections.
    pub(super) look_at: Option<Instant>,
    /// Until when the application wants to stay awake.
    pub(super) keep_until: Option<Instant>,
    /// The next renewal is the hold after a wake.
    pub(super) first_hold: bool,
    /// A hold has been asked for and not answered.
    pub(super) in_flight: bool,
    /// When the last hold was asked for.
    pub(super) held_at: Option<Instant>,
}

// === impl Common ===

impl<P, R> Clone for Common<P, R> {
    fn clone(&self) -> Self {
        Self {
            plane: Arc::clone(&self.plane),
            dialer: Arc::clone(&self.dialer),
            config: Arc::clone(&self.config),
            wake_log: self.wake_log.clone(),
            own: Arc::clone(&self.own),
            expiry: Arc::clone(&self.expiry),
            index: self.index,
            stop: self.stop.clone(),
        }
    }
}
