//! In which order, and how many at once, requests go to an instance.
//!
//! Guarantees: never more than the hard limit are inside; who waits goes in the order of arrival;
//! after a wake the first goes alone until the first byte of its response, then each first byte lets
//! one more in than before (which doubles them each round, since a restored VM faults its memory
//! back in lazily and every crowd tramples it; source: KEDA http-add-on #1038), and a step of time
//! doubles them in any case; while nobody waits, entering takes no lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::admission_counter::AdmissionCounter;
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

    /// Lets in whom the limits allow, in the order of arrival. An earlier one who is not ready yet
    /// keeps his place.
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    fn limits(soft: usize, hard: usize) -> LimitsConfig {
        LimitsConfig {
            max_inflight: hard,
            soft_inflight: soft,
            soft_wait: Duration::from_millis(100),
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    type Turn<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Slot, NotItsTurn>> + 'a>>;

    /// This many requests in the queue, all ready.
    fn queue_up<'a>(gate: &Arc<Gate>, limits: &'a LimitsConfig, many: usize) -> Vec<Turn<'a>> {
        let permits: Vec<Permit> = (0..many).map(|_| gate.join()).collect();
        permits
            .into_iter()
            .map(|permit| -> Turn<'a> { Box::pin(permit.turn(limits, later())) })
            .collect()
    }

    fn poll_each(turns: &mut [Turn<'_>]) -> Vec<Option<Slot>> {
        turns
            .iter_mut()
            .map(|turn| turn.as_mut().now_or_never().map(Result::unwrap))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_wake_the_first_goes_alone_until_its_first_byte_and_then_they_double() {
        let (gate, limits) = (Gate::new(STEP), limits(100, 100));
        let mut turns = queue_up(&gate, &limits, 10);
        gate.open(1, true);
        let mut slots: Vec<Slot> = poll_each(&mut turns).into_iter().flatten().collect();
        assert_eq!(slots.len(), 1);
        let mut rounds = vec![1];
        let mut turns: Vec<_> = turns.into_iter().skip(1).collect();
        while !turns.is_empty() {
            for slot in &mut slots {
                slot.answered();
            }
            slots.clear();
            let got = poll_each(&mut turns);
            let many = got.iter().flatten().count();
            assert!(
                got.iter().take(many).all(Option::is_some),
                "the oldest first"
            );
            slots.extend(got.into_iter().flatten());
            turns = turns.split_off(many);
            rounds.push(many);
        }
        assert_eq!(rounds, [1, 2, 4, 3]);
        slots.clear();
        assert!(gate.is_idle() && gate.try_enter(&limits).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_response_that_does_not_come_holds_the_others_up_only_for_a_step() {
        let (gate, limits) = (Gate::new(STEP), limits(100, 100));
        let mut turns = queue_up(&gate, &limits, 3);
        gate.open(1, true);
        let first = poll_each(&mut turns);
        assert_eq!(first.iter().flatten().count(), 1);
        let mut rest = turns.split_off(1);
        tokio::time::advance(STEP * 2).await;
        assert!(poll_each(&mut rest).iter().flatten().count() >= 1);
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_soft_limit_a_request_waits_a_little_and_beyond_the_hard_one_its_turn() {
        let (gate, limits) = (Gate::new(STEP), limits(1, 2));
        let first = gate.try_enter(&limits).unwrap();
        assert!(gate.try_enter(&limits).is_none());
        let mut turns = queue_up(&gate, &limits, 2);
        assert_eq!(poll_each(&mut turns).iter().flatten().count(), 0);
        tokio::time::advance(limits.soft_wait).await;
        let got = poll_each(&mut turns);
        assert_eq!(got.iter().flatten().count(), 1, "up to the hard limit");
        let mut last = turns.split_off(1);
        assert_eq!(poll_each(&mut last).iter().flatten().count(), 0);
        drop(first);
        assert_eq!(poll_each(&mut last).iter().flatten().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_come_in_time_is_refused() {
        let (gate, limits) = (Gate::new(STEP), limits(1, 1));
        let _inside = gate.try_enter(&limits).unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        let refused = gate.join().turn(&limits, deadline).await;
        assert!(refused.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_kept_for_an_earlier_request_that_is_not_ready_yet() {
        let (gate, limits) = (Gate::new(STEP), limits(10, 10));
        let early = gate.join();
        let mut late = queue_up(&gate, &limits, 1);
        gate.open(1, true);
        assert_eq!(poll_each(&mut late).iter().flatten().count(), 0);
        let mut early: Vec<Turn<'_>> = vec![Box::pin(early.turn(&limits, later()))];
        assert_eq!(poll_each(&mut early).iter().flatten().count(), 1);
    }

    proptest! {
        #[test]
        fn nobody_is_forgotten_and_the_hard_limit_is_kept(
            steps in prop::collection::vec((0_u8..6, 0_usize..8), 0..80),
            hard in 1_usize..4,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (gate, limits) = (Gate::new(STEP), limits(1, hard));
                let (mut permits, mut turns) = (Vec::new(), Vec::new());
                let mut slots: Vec<Slot> = Vec::new();
                let mut epoch = 0;
                for (what, which) in steps {
                    match what {
                        0 => slots.extend(gate.try_enter(&limits)),
                        1 => permits.push(gate.join()),
                        2 if !permits.is_empty() => {
                            let permit = permits.remove(which % permits.len());
                            turns.push(Box::pin(permit.turn(&limits, later())));
                        }
                        3 if !slots.is_empty() => {
                            let index = which % slots.len();
                            slots[index].answered();
                            if which > 3 { drop(slots.remove(index)); }
                        }
                        4 if !turns.is_empty() && which > 4 => drop(turns.remove(which % turns.len())),
                        4 if !permits.is_empty() => drop(permits.remove(which % permits.len())),
                        5 => { epoch += 1; gate.open(epoch, which > 3); }
                        _ => {}
                    }
                    turns.retain_mut(|turn| match turn.as_mut().now_or_never() {
                        Some(slot) => { slots.push(slot.unwrap()); false }
                        None => true,
                    });
                    assert!(slots.len() <= hard && gate.inside() >= slots.len());
                }
                drop(permits);
                slots.clear();
                // Whoever waits comes in, one after the other.
                while !turns.is_empty() {
                    tokio::time::advance(STEP).await;
                    let before = turns.len();
                    turns.retain_mut(|turn| turn.as_mut().now_or_never().is_none());
                    assert!(turns.len() < before, "somebody is let in");
                }
                assert_eq!(gate.inside(), 0);
            });
        }
    }
}
