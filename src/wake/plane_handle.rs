//! One control plane, as the engine calls it.
//!
//! Guarantees: restores and questions have budgets of their own, fair by route and client, so that
//! however many instances are asked about, a restore never waits for another call; a question takes
//! one place of the budget, however many calls it is made of, and one that takes long gives it
//! back; questions that nobody waits for have a small budget, so that they cannot keep the others
//! waiting. The handle counts how often the control plane was out of reach, since a server that was
//! away may have forgotten its holds. What it finds out about a server's abilities expires. What a
//! call needs, which is kilobytes, exists only once its turn has come.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::claims::Claims;
use super::slots::{Claim, FairSlot, FairSlots};
use crate::config::WakeConfig;
use hypeman::wire::{self, AutoStandbyStatus, InstanceState, WaitOutcome};
use hypeman::{ControlPlane, Error as ControlPlaneError};
use hypeman::{InstanceId, InstanceRef};

/// How long a call that is quick everywhere is waited for before it is made again.
const PATIENCE: Duration = Duration::from_secs(1);
/// A question that takes longer waits behind an operation on its instance (contract B.4): it costs
/// the control plane nothing, and must not keep others from asking.
const QUICK: Duration = Duration::from_secs(1);
/// Questions that take long, at once.
const MAX_SLOW: usize = 1024;
/// Of the questions at once, the share that those have which nobody waits for: one in so many.
const BACKGROUND_SHARE: usize = 8;
/// A server that lacks an operation is asked for it again after this: it may have been replaced.
const ABILITY: Duration = Duration::from_secs(600);

/// One control plane, with what the gateway may ask of it at once.
pub(super) struct PlaneHandle<P> {
    plane: P,
    restores: FairSlots,
    questions: FairSlots,
    background: Semaphore,
    slow: Semaphore,
    broken: AtomicBool,
    losses: Arc<AtomicU64>,
    base: Instant,
    /// The server has no `hold`, as far as is known until this time; 0 when it has.
    no_hold_until: AtomicU64,
    /// Until when the server is taken to answer Gets while it restores the instance.
    no_waiting_until: AtomicU64,
}

// === impl PlaneHandle ===

impl<P: ControlPlane> PlaneHandle<P> {
    pub(super) fn new(plane: P, config: &WakeConfig) -> Self {
        let questions = config.max_questions.min(Semaphore::MAX_PERMITS);
        Self {
            plane,
            restores: FairSlots::new(config.max_concurrent),
            questions: FairSlots::new(questions),
            background: Semaphore::new(questions.div_ceil(BACKGROUND_SHARE)),
            slow: Semaphore::new(MAX_SLOW),
            broken: AtomicBool::new(false),
            losses: Arc::default(),
            base: Instant::now(),
            no_hold_until: AtomicU64::new(0),
            no_waiting_until: AtomicU64::new(0),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// The server has answered a Get with Standby during a restore that succeeded.
    pub(super) fn note_answers_during_restore(&self) {
        let until = self.millis(Instant::now() + ABILITY);
        if self.no_waiting_until.swap(until, Ordering::Relaxed) == 0 {
            tracing::info!(
                "the control plane answers questions about an instance that it restores"
            );
        }
    }

    /// Whether it has done so lately.
    pub(super) fn answers_during_restore(&self) -> bool {
        self.no_waiting_until.load(Ordering::Relaxed) > self.millis(Instant::now())
    }

    /// How often the control plane was out of reach so far.
    pub(super) fn losses(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.losses)
    }

    /// Counts a loss when the first answer after it comes.
    fn note<T>(&self, result: Result<T, ControlPlaneError>) -> Result<T, ControlPlaneError> {
        match &result {
            Err(error) if error.is_unreachable() => self.broken.store(true, Ordering::Release),
            Ok(_) | Err(_) => {
                if self.broken.load(Ordering::Acquire) && self.broken.swap(false, Ordering::AcqRel)
                {
                    self.losses.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        result
    }

    /// Asks a question when there is room for it; `None` when there was none in time. One that
    /// nobody waits for takes its place from those that are for such, until somebody does.
    pub(super) async fn question<T>(
        &self,
        claims: &mut Claims,
        calls: impl Future<Output = T>,
    ) -> Option<T> {
        let take = |(claim, until): (Claim, Instant)| self.questions.take(claim, until);
        let mut turns = FuturesUnordered::new();
        claims.begin();
        let slot = loop {
            let is_wanted = !turns.is_empty();
            tokio::select! {
                biased;
                claim = claims.next() => turns.push(take(claim)),
                Some(slot) = turns.next() => match slot {
                    Some(slot) => break slot,
                    None if turns.is_empty() => return None,
                    None => {}
                },
                permit = self.background.acquire(), if !is_wanted => {
                    return Some(self.unless_slow(permit.ok(), calls).await);
                }
            }
        };
        // The others' turns go to others.
        drop(turns);
        Some(self.unless_slow(slot, calls).await)
    }

    /// Keeps a place while the calls are quick, and afterwards if there are too many slow ones.
    async fn unless_slow<T>(&self, place: impl Send, calls: impl Future<Output = T>) -> T {
        tokio::pin!(calls);
        if let Ok(answer) = timeout(QUICK, calls.as_mut()).await {
            return answer;
        }
        let slow = self.slow.try_acquire().ok();
        let _kept = slow.is_none().then_some(place);
        calls.await
    }

    pub(super) async fn get(
        &self,
        name: &InstanceRef,
    ) -> Result<Box<wire::Instance>, ControlPlaneError> {
        let answer = Box::pin(self.plane.get(name)).await;
        self.note(answer.map(Box::new))
    }

    /// The same, and made once more beside it when it takes long: a lost call must not cost a
    /// request its time.
    pub(super) async fn get_surely(
        &self,
        name: &InstanceRef,
    ) -> Result<Box<wire::Instance>, ControlPlaneError> {
        let first = self.get(name);
        tokio::pin!(first);
        if let Ok(answer) = timeout(PATIENCE, first.as_mut()).await {
            return answer;
        }
        tokio::select! {
            biased;
            answer = first => answer,
            answer = self.get(name) => answer,
        }
    }

    /// `None` when the server has no `hold`, which is believed for a while.
    pub(super) async fn hold(
        &self,
        id: &InstanceId,
    ) -> Option<Result<AutoStandbyStatus, ControlPlaneError>> {
        let now = Instant::now();
        let before = self.no_hold_until.load(Ordering::Relaxed);
        if before > self.millis(now) {
            return None;
        }
        let result = self.note(Box::pin(self.plane.hold(id)).await);
        if matches!(&result, Err(error) if error.is_missing_operation()) {
            let until = self.millis(now + ABILITY);
            if self.no_hold_until.swap(until, Ordering::Relaxed) == before {
                tracing::info!("the control plane has no `hold`; leases rest on open connections");
            }
            return None;
        }
        if before > 0 && result.is_ok() && self.no_hold_until.swap(0, Ordering::Relaxed) > 0 {
            tracing::info!("the control plane has `hold` now");
        }
        Some(result)
    }

    /// Only beside other calls: it takes long, and reading the instance does the same. `None` when
    /// there is no room for it.
    pub(super) async fn wait(
        &self,
        id: &InstanceId,
        timeout: Duration,
    ) -> Option<Result<WaitOutcome, ControlPlaneError>> {
        let _permit = self.slow.try_acquire().ok()?;
        Some(self.note(Box::pin(self.plane.wait(id, &InstanceState::Running, timeout)).await))
    }

    pub(super) async fn slot(&self, claim: Claim, until: Instant) -> Option<FairSlot> {
        self.restores.take(claim, until).await
    }

    pub(super) async fn restore(
        &self,
        id: &InstanceId,
    ) -> Result<Box<wire::Instance>, ControlPlaneError> {
        let answer = Box::pin(self.plane.restore(id)).await;
        self.note(answer.map(Box::new))
    }

    pub(super) async fn start(
        &self,
        id: &InstanceId,
    ) -> Result<Box<wire::Instance>, ControlPlaneError> {
        let answer = Box::pin(self.plane.start(id)).await;
        self.note(answer.map(Box::new))
    }
}

impl<P> fmt::Debug for PlaneHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlaneHandle({:?})", self.restores)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::IpAddr;

    use futures_util::FutureExt as _;

    use super::*;

    fn handle(max_questions: usize) -> PlaneHandle<hypeman::Client> {
        let client = hypeman::Client::builder("http://localhost:9").build();
        let config = WakeConfig {
            max_questions,
            ..WakeConfig::default()
        };
        PlaneHandle::new(client.unwrap(), &config)
    }

    fn claim(client: u8) -> Claim {
        Claim {
            route: "shop.test/".into(),
            client: IpAddr::from([10, client, 0, 1]).into(),
            since: Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_has_its_place_as_soon_as_anyone_who_waits_for_it_would_have_one() {
        let (plane, now) = (handle(8), Instant::now());
        let until = now + Duration::from_millis(900);
        // One client has all that it may have, and none of its questions is answered.
        let hanging = (0..8).map(|_| async {
            let mut claims = Claims::of(&[claim(1)], until).1;
            plane.question(&mut claims, pending::<()>()).await
        });
        let mut hanging: FuturesUnordered<_> = hanging.collect();
        assert!(hanging.next().now_or_never().is_none());

        let (claimants, mut claims) = Claims::of(&[claim(1)], until);
        let mut question = Box::pin(plane.question(&mut claims, async { "answered" }));
        assert!(
            question.as_mut().now_or_never().is_none(),
            "it has its share"
        );
        claimants.join(claim(1), until);
        assert!(question.as_mut().now_or_never().is_none(), "it still has");
        claimants.join(claim(2), until);
        assert_eq!(question.now_or_never(), Some(Some("answered")));

        // Whoever joined is known to the next question, too.
        let again = plane.question(&mut claims, async { "again" });
        assert_eq!(again.now_or_never(), Some(Some("again")));
        let mut alone = Claims::of(&[claim(1)], until).1;
        let question = plane.question(&mut alone, async { "late" });
        assert_eq!(question.await, None, "nobody else waited");
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_nobody_waited_for_is_hurried_by_who_joins() {
        let (plane, now) = (handle(1), Instant::now());
        let mut first = Claims::none();
        let hanging = plane.question(&mut first, pending::<()>());
        tokio::pin!(hanging);
        assert!(hanging.as_mut().now_or_never().is_none());

        let (claimants, mut claims) = Claims::to_come();
        let mut question = Box::pin(plane.question(&mut claims, async { "answered" }));
        assert!(
            question.as_mut().now_or_never().is_none(),
            "there is no room"
        );
        claimants.join(claim(1), now + Duration::from_secs(1));
        assert_eq!(question.now_or_never(), Some(Some("answered")));
    }
}
