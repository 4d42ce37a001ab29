//! In which order, and how many at once, requests go to an instance.
//!
//! Guarantees: never more than the hard limit are inside; who waits goes in the order of arrival;
//! after a wake the first goes alone until the first byte of its response, then each first byte
//! lets one more in than before (which doubles them each round, since a restored VM faults its
//! memory back in lazily and every crowd tramples it; source: KEDA http-add-on #1038), and a step
//! of time doubles them in any case; while nobody waits, entering takes no lock.
//!
//! `tests/it/interleavings.rs` runs this file under loom.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::admission_counter::AdmissionCounter;
use super::sync::{Mutex, MutexGuard};
use crate::config::LimitsConfig;

/// The queue before one instance's port.
pub struct Gate {
    admission_counter: AdmissionCounter,
    queue: Mutex<Queue>,
    ramp_step: Duration,
}

struct Queue {
    waiting: BTreeMap<u64, QueueEntry>,
    arrivals: u64,
    /// Which stretch of being awake the window is about.
    epoch: u64,
    /// How many may be inside while the release is ramped; `None` when it is over.
    window: Option<usize>,
    widen_at: Instant,
}

struct QueueEntry {
    /// How many may be inside for it to go; `None` while its instance is not ready for it.
    limit: Option<usize>,
    go: oneshot::Sender<()>,
}

/// A request's permit to queue; it leaves the queue when dropped.
#[must_use]
pub struct Permit {
    gate: Arc<Gate>,
    number: u64,
    go: Option<oneshot::Receiver<()>>,
}

/// A request at an instance, until it is dropped.
#[must_use]
pub struct Slot {
    gate: Arc<Gate>,
    answered: bool,
}

/// It was not the request's turn in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotItsTurn;

// === impl Gate ===

impl Gate {
    pub(super) fn new(ramp_step: Duration) -> Arc<Self> {
        let queue = Queue {
            waiting: BTreeMap::new(),
            arrivals: 0,
            epoch: 0,
            window: None,
            widen_at: Instant::now(),
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

    /// The warm path: in, when nobody waits and fewer than the soft limit are inside.
    pub fn try_enter(self: &Arc<Self>, limits: &LimitsConfig) -> Option<Slot> {
        self.admission_counter
            .try_enter(limits.soft_inflight)
            .then(|| Slot::new(self))
    }

    /// A permit at the end of the queue.
    pub fn join(self: &Arc<Self>) -> Permit {
        let (go, wait) = oneshot::channel();
        let mut queue = self.lock();
        self.admission_counter.announce_crowd();
        queue.arrivals += 1;
        let number = queue.arrivals;
        queue.waiting.insert(number, QueueEntry { limit: None, go });
        Permit {
            gate: Arc::clone(self),
            number,
            go: Some(wait),
        }
    }

    /// The instance is ready, in this stretch of being awake; `woken`: it was asleep before.
    pub fn open(&self, epoch: u64, woken: bool) {
        let mut queue = self.lock();
        if queue.epoch < epoch {
            queue.epoch = epoch;
            queue.window = woken.then_some(1);
            queue.widen_at = Instant::now() + self.ramp_step;
            self.let_in(&mut queue);
        }
    }

    /// Lets in whom the limits allow, in the order of arrival. An earlier request whose instance is
    /// not ready for it yet keeps its place.
    fn let_in(&self, queue: &mut Queue) {
        let mut kept = 0;
        let mut go = Vec::new();
        for (number, waiting) in &queue.waiting {
            let inside = self.admission_counter.inside() + kept;
            match waiting.limit {
                _ if queue.window.is_some_and(|window| inside >= window) => break,
                None => kept += 1,
                Some(limit) if inside < limit => {
                    self.admission_counter.enter();
                    go.push(*number);
                }
                // Others' limits may be higher, but they came later.
                Some(_) => break,
            }
        }
        for number in go {
            if let Some(waiting) = queue.waiting.remove(&number) {
                // Its permit gives the slot back if it is being dropped at this moment.
                let _dropped = waiting.go.send(());
            }
        }
        if queue.waiting.is_empty() {
            // Who comes now is no crowd, once the first byte is there.
            if queue.window.is_some_and(|window| window > 1) {
                queue.window = None;
            }
            if queue.window.is_none() {
                self.admission_counter.dismiss_crowd();
            }
        }
    }

    fn leave(&self) {
        if self.admission_counter.leave() {
            let mut queue = self.lock();
            self.let_in(&mut queue);
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
        queue.waiting.is_empty() && queue.window.is_none() && self.admission_counter.inside() == 0
    }

    /// Requests inside.
    pub fn inside(&self) -> usize {
        self.admission_counter.inside()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.lock().waiting.len();
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
        let Some(mut go) = self.go.take() else {
            return Err(NotItsTurn);
        };
        let patient_from = Instant::now() + limits.soft_wait;
        let mut limit = limits.soft_inflight;
        loop {
            self.set_limit(limit);
            let step = Instant::now() + self.gate.ramp_step;
            let until = match limit < limits.max_inflight {
                true => patient_from.min(step),
                false => step,
            };
            if let Ok(Ok(())) = timeout_at(until.min(deadline), &mut go).await {
                let slot = Slot::new(&self.gate);
                // The permit is the slot now, and has nothing to give back.
                self.number = 0;
                return Ok(slot);
            }
            let now = Instant::now();
            if now >= deadline {
                self.go = Some(go);
                return Err(NotItsTurn);
            }
            if now >= patient_from {
                limit = limits.max_inflight;
            }
            self.gate.widen();
        }
    }

    fn set_limit(&self, limit: usize) {
        let mut queue = self.gate.lock();
        if let Some(waiting) = queue.waiting.get_mut(&self.number) {
            waiting.limit = Some(limit);
        }
        self.gate.let_in(&mut queue);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.number == 0 {
            return;
        }
        let mut queue = self.gate.lock();
        if queue.waiting.remove(&self.number).is_some() {
            self.gate.let_in(&mut queue);
        } else {
            // It was let in and has not noticed.
            drop(queue);
            self.gate.leave();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({})", self.number)
    }
}

// === impl Slot ===

impl Slot {
    fn new(gate: &Arc<Gate>) -> Self {
        Self {
            gate: Arc::clone(gate),
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
        self.gate.leave();
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({:?})", self.gate)
    }
}
