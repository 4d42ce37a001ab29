//! In which order, and how many at once, requests go to an instance.
//!
//! Guarantees: never more than the hard limit are inside, and no client has more than its share of
//! them ([`ClientShare`] has the rule); who waits goes in the order of [`TurnOrder`]; after a wake
//! the first goes alone until the first byte of its response, then each first byte lets one more
//! in than before (which doubles them each round, since a restored VM faults its memory back in
//! lazily and every crowd tramples it; source: KEDA http-add-on #1038), and a step of time doubles
//! them in any case; while nobody waits and the places that are free for all are not taken,
//! entering takes no lock.
//!
//! `tests/it/interleavings.rs` runs this file under loom.
//!
//! [`ClientShare`]: crate::config::ClientShare

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::admission_counter::AdmissionCounter;
use super::client_counts::Bound;
use super::sync::{Mutex, MutexGuard};
use super::turn_order::{Counted, KeptPlaces, Lane, TurnOrder};
use crate::config::LimitsConfig;
use crate::names::ClientNetwork;

/// The queue before one instance's port.
pub struct Gate {
    admission_counter: AdmissionCounter,
    queue: Mutex<Queue>,
    ramp_step: Duration,
}

struct Queue {
    order: TurnOrder,
    /// Which stretch of being awake the window is about.
    epoch: u64,
    opened_at: Instant,
    /// How many may be inside while the release is ramped; `None` when it is over.
    window: Option<usize>,
    widen_at: Instant,
}

/// A request's permit to queue; it leaves the queue when dropped.
#[must_use]
pub struct Permit {
    gate: Arc<Gate>,
    /// 0 once it has become a slot.
    number: u64,
    go: oneshot::Receiver<Counted>,
}

/// A request at an instance, until it is dropped.
#[must_use]
pub struct Slot {
    gate: Arc<Gate>,
    counted: Counted,
    answered: bool,
}

/// It was not the request's turn in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotItsTurn {
    /// The instance was busy with others.
    Busy,
    /// There were places, but its client had its share of them.
    OverShare,
}

fn lane(limits: &LimitsConfig, limit: usize) -> Lane {
    let bound = Bound {
        limit: limits.max_inflight,
        share: limits.max_inflight_per_client,
    };
    Lane { limit, bound }
}

// === impl Gate ===

impl Gate {
    pub(super) fn new(ramp_step: Duration) -> Arc<Self> {
        let now = Instant::now();
        let queue = Queue {
            order: TurnOrder::default(),
            epoch: 0,
            opened_at: now,
            window: None,
            widen_at: now,
        };
        Arc::new(Self {
            admission_counter: AdmissionCounter::new(),
            queue: Mutex::new(queue),
            ramp_step,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The warm path: in, when nobody waits who may go, fewer than the soft limit are inside, and
    /// the client has not its share of them.
    pub fn try_enter(
        self: &Arc<Self>,
        client: ClientNetwork,
        limits: &LimitsConfig,
    ) -> Option<Slot> {
        let share = limits.max_inflight_per_client;
        let for_all = share.free_for_all(limits.max_inflight, 0);
        if self
            .admission_counter
            .try_enter(limits.soft_inflight.min(for_all))
        {
            return Some(Slot::new(self, None));
        }
        self.try_enter_counted(client, limits)
    }

    #[cold]
    fn try_enter_counted(
        self: &Arc<Self>,
        client: ClientNetwork,
        limits: &LimitsConfig,
    ) -> Option<Slot> {
        let limit = limits.soft_inflight;
        if self.inside() >= limit {
            return None;
        }
        let mut queue = self.lock();
        self.let_in(&mut queue);
        if queue.window.is_some() {
            return None;
        }
        let (lane, keep) = (lane(limits, limit), self.kept_places(&queue));
        let is_counted = loop {
            let inside = self.admission_counter.inside();
            let is_counted = queue.order.admits(client, inside, lane, &keep)?;
            // Others may have entered without the lock meanwhile.
            if self.admission_counter.enter_past_the_crowd(inside + 1) {
                break is_counted;
            }
        };
        let counted = is_counted.then_some(client);
        if let Some(client) = counted {
            queue.order.count(client);
        }
        Some(Slot::new(self, counted))
    }

    /// A permit at the end of the queue.
    pub fn join(self: &Arc<Self>, client: ClientNetwork) -> Permit {
        let (sender, go) = oneshot::channel();
        let mut queue = self.lock();
        self.admission_counter.announce_crowd();
        let number = queue.order.join(client, sender);
        Permit {
            gate: Arc::clone(self),
            number,
            go,
        }
    }

    /// The instance is ready, in this stretch of being awake; `woken`: it was asleep before.
    pub fn open(&self, epoch: u64, woken: bool) {
        let mut queue = self.lock();
        if queue.epoch < epoch {
            queue.epoch = epoch;
            queue.window = woken.then_some(1);
            queue.opened_at = Instant::now();
            queue.widen_at = queue.opened_at + self.ramp_step;
            self.let_in(&mut queue);
        }
    }

    fn kept_places(&self, queue: &Queue) -> KeptPlaces {
        KeptPlaces {
            opened_at: queue.opened_at,
            step: self.ramp_step,
            now: Instant::now(),
        }
    }

    /// Lets in whom the limits allow, in their order.
    fn let_in(&self, queue: &mut Queue) {
        if !queue.order.is_empty() {
            let keep = self.kept_places(queue);
            loop {
                let inside = self.admission_counter.inside();
                let Some((number, is_counted)) = queue.order.next(inside, queue.window, &keep)
                else {
                    break;
                };
                // A crowd waits, so that nobody else enters: there may be fewer inside by now.
                if !self.admission_counter.enter_past_the_crowd(inside + 1) {
                    break;
                }
                queue.order.let_go(number, is_counted);
            }
        }
        if queue.order.is_empty() {
            // Who comes now is no crowd, once the first byte is there.
            if queue.window.is_some_and(|window| window > 1) {
                queue.window = None;
            }
            if queue.window.is_none() {
                self.admission_counter.dismiss_crowd();
            }
        }
    }

    fn leave(&self, counted: Counted) {
        if let Some(client) = counted {
            let mut queue = self.lock();
            queue.order.give_back(client);
            self.admission_counter.leave();
            self.let_in(&mut queue);
        } else if self.admission_counter.leave() {
            self.let_in(&mut self.lock());
        }
    }

    /// Once a step, the window doubles whether responses have begun or not.
    fn widen(&self) {
        let (mut queue, now) = (self.lock(), Instant::now());
        if let Some(window) = queue.window.filter(|_| now >= queue.widen_at) {
            queue.window = Some(window.saturating_mul(2));
            queue.widen_at = now + self.ramp_step;
        }
        self.let_in(&mut queue);
    }

    /// Nobody is inside and nobody waits.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.lock();
        queue.order.is_empty() && queue.window.is_none() && self.inside() == 0
    }

    #[cfg(test)]
    pub(super) fn is_as_new(&self) -> bool {
        self.inside() == 0 && self.lock().order.is_as_new()
    }

    /// Requests inside.
    pub fn inside(&self) -> usize {
        self.admission_counter.inside()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.lock().order.len();
        write!(f, "Gate({} inside, {waiting} waiting)", self.inside())
    }
}

// === impl Permit ===

impl Permit {
    /// Waits for this request's turn, now that its instance is ready: for a place below the soft
    /// limit first, then below the hard one. Cancel safe: leaving leaves the queue.
    pub async fn turn(
        mut self,
        limits: &LimitsConfig,
        deadline: Instant,
    ) -> Result<Slot, NotItsTurn> {
        let patient_from = Instant::now() + limits.soft_wait;
        let mut limit = limits.soft_inflight;
        loop {
            self.set_lane(lane(limits, limit));
            let step = Instant::now() + self.gate.ramp_step;
            let until = match limit < limits.max_inflight {
                true => patient_from.min(step),
                false => step,
            };
            if let Ok(Ok(counted)) = timeout_at(until.min(deadline), &mut self.go).await {
                // The permit is the slot now, and has nothing to give back.
                self.number = 0;
                return Ok(Slot::new(&self.gate, counted));
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(self.refusal());
            }
            if now >= patient_from {
                limit = limits.max_inflight;
            }
            self.gate.widen();
        }
    }

    fn set_lane(&self, lane: Lane) {
        let mut queue = self.gate.lock();
        if queue.order.set_lane(self.number, lane) {
            self.gate.let_in(&mut queue);
        }
    }

    fn refusal(&self) -> NotItsTurn {
        let queue = self.gate.lock();
        match queue.order.is_over_share(self.number, self.gate.inside()) {
            true => NotItsTurn::OverShare,
            false => NotItsTurn::Busy,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.number == 0 {
            return;
        }
        let mut queue = self.gate.lock();
        if queue.order.remove(self.number) {
            self.gate.let_in(&mut queue);
            return;
        }
        drop(queue);
        // It was let in and has not noticed.
        self.gate.leave(self.go.try_recv().unwrap_or_default());
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({})", self.number)
    }
}

// === impl Slot ===

impl Slot {
    fn new(gate: &Arc<Gate>, counted: Counted) -> Self {
        Self {
            gate: Arc::clone(gate),
            counted,
            answered: false,
        }
    }

    /// The first byte of the response is there.
    pub fn answered(&mut self) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        // Without a crowd there is no window to widen, and no lock to take.
        if self.gate.admission_counter.is_crowded() {
            let mut queue = self.gate.lock();
            queue.window = queue.window.map(|window| window.saturating_add(1));
            self.gate.let_in(&mut queue);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gate.leave(self.counted);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({:?})", self.gate)
    }
}
