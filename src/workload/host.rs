//! What the door needs of the gateway, as a trait: this room knows no engine and no control plane.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::time::Instant;

use super::holds::Holds;
use super::task::Owner;

/// An instance that runs at an address, by its control plane's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// Whose holds it has.
    pub owner: Owner,
    /// Its name.
    pub name: Arc<str>,
    /// Its state, in the control plane's word.
    pub state: String,
    /// After which time without connections it falls asleep; `None` when it never does so by itself.
    pub idle_timeout: Option<Duration>,
    /// Since when it is there, if that is known: no connection from before is its own.
    pub since: Option<jiff::Timestamp>,
}

/// A control plane could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the control plane cannot be asked: {0}")]
pub struct AskError(pub String);

/// The instances that run at each address, by the lists of all control planes.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Of a control plane that cannot be asked now: those of its last word.
    pub at: HashMap<IpAddr, Vec<Owner>>,
    /// Why one of them could not be asked: who is at no address here may be its instance.
    pub missing: Option<AskError>,
}

/// What the gateway knows of an instance besides.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Facts {
    /// The number of its epoch: one stretch of being awake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The gateway's last wake of it, if the gateway remembers one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_wake: Option<LastWake>,
    /// Requests that wait for it.
    pub held: usize,
    /// Requests at it.
    pub inflight: usize,
}

/// A wake of the gateway's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastWake {
    /// When it was over.
    pub time: jiff::Timestamp,
    /// `woken`, from its memory, or `booted`.
    pub outcome: &'static str,
    /// Milliseconds that it took.
    pub took_ms: f64,
}

/// What became of an instance that is to be held awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The engine holds it awake, whenever it is.
    Yes,
    /// There is no such instance any more.
    Gone,
    /// The control plane cannot tell now.
    Unknown,
}

/// How busy an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Business {
    /// Whether somebody waits for it, or something is open to it.
    pub is_busy: bool,
    /// The number of its epoch, while it is known to be awake.
    pub epoch: Option<u64>,
}

/// What became of an instance that is to be put to sleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rested {
    /// It sleeps.
    Asleep,
    /// Somebody has asked for it meanwhile.
    Busy,
    /// Its hook says that it wants to go on, for so long if it says that.
    Refused(Option<Duration>),
    /// Its workload holds it awake.
    Held,
    /// The control plane has not put it to sleep just now, and why: it may another time.
    Later(String),
    /// The control plane does not put it to sleep, and why.
    Failed(String),
}

/// A sleep that is being prepared: whether the instance's holds allow it. It is over when this is
/// dropped.
#[derive(Debug, Clone)]
pub struct Sleep {
    holds: Arc<Holds>,
    owner: Owner,
    number: u64,
    /// Whether the workload is to be asked by its hook.
    pub asks_hook: bool,
    _over: Arc<Over>,
}

#[derive(Debug)]
struct Over(Arc<Holds>, Owner, u64);

// === impl Sleep ===

impl Sleep {
    /// One that is prepared by the gateway itself or for a wish.
    pub fn new(holds: &Arc<Holds>, owner: &Owner, asks_hook: bool) -> Self {
        let number = fastrand::u64(..);
        Self {
            holds: Arc::clone(holds),
            owner: owner.clone(),
            number,
            asks_hook,
            _over: Arc::new(Over(Arc::clone(holds), owner.clone(), number)),
        }
    }

    /// Looks for holds once more, in the directory, too; to be asked right before [`Self::begin`].
    pub async fn is_allowed(&self) -> bool {
        let (owner, number) = (self.owner.clone(), self.number);
        let looking = self
            .holds
            .on_disk(move |holds| holds.prepare_sleep(&owner, number));
        // Where it cannot be told, the instance stays awake.
        looking.await.unwrap_or(false)
    }

    /// The sleep begins, unless a hold has been placed since it was allowed; from now on none is.
    pub fn begin(&self) -> bool {
        self.holds.begin_sleep(&self.owner, self.number)
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        self.0.end_sleep(&self.1, self.2);
    }
}

/// The gateway, as the door sees it.
pub trait Host: Send + Sync + 'static {
    /// How many control planes there are.
    fn planes(&self) -> usize;

    /// The instance that was at this address when it was heard of last.
    fn last_seen_at(&self, address: IpAddr) -> Option<Owner>;

    /// The instance, if its control plane, asked now, says that it runs at this address.
    fn confirm<'a>(
        &'a self,
        owner: &'a Owner,
        address: IpAddr,
    ) -> BoxFuture<'a, Result<Option<Resident>, AskError>>;

    /// The instances that run at each address, by all control planes' lists of now.
    fn list(&self) -> BoxFuture<'_, Listing>;

    /// Holds an instance awake until then, or no more. Nothing is woken for it.
    fn hold<'a>(&'a self, owner: &'a Owner, until: Option<Instant>) -> BoxFuture<'a, Kept>;

    /// What is known of an instance.
    fn facts(&self, owner: &Owner) -> Facts;

    /// How busy an instance is.
    fn business(&self, owner: &Owner) -> Business;

    /// Puts an instance to sleep, unless somebody asks for it.
    fn rest<'a>(&'a self, owner: &'a Owner, sleep: Sleep) -> BoxFuture<'a, Rested>;

    /// A task has begun to hold an instance awake that nothing held before.
    fn note_held(&self, resident: &Resident, address: IpAddr, reason: &str);
}
