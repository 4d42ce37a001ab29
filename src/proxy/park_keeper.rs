//! Who puts an instance to sleep whose tunnels are all quiet.
//!
//! Guarantees: it is asked for only while nothing else is open to the instance, an idle timeout after the
//! last payload, and not while its application or workload wants to stay awake; what is refused is asked for
//! again a few times, with growing pauses, and then not before another idle timeout has passed; a control plane
//! that does not answer, or not well, is asked less and less often until it does, however long that takes and
//! whatever is said over the tunnels meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::instance_tls::InstanceStream;
use crate::names::PlaneIndex;
use crate::telemetry::{Metrics, ParkOutcome};
use crate::upstream::at;
use crate::wake::{Endpoint, Instance};

/// The pauses after a refusal: six tries take not quite 15 s.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(480), Duration::from_secs(8));
const TRIES: u32 = 6;
/// The least pause after the last of them.
const NEXT_ROUND: Duration = Duration::from_secs(15);
/// The pauses of a control plane that has failed as often.
const FAILING: Backoff = Backoff::new(NEXT_ROUND, Duration::from_secs(240));

/// What became of an instance that was to be put to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// It sleeps.
    Asleep,
    /// Somebody needs it, for this long if that is known.
    Refused(Option<Duration>),
    /// The control plane could not be asked, or did not do it.
    Failed,
}

/// Puts instances to sleep.
pub trait Sleeper<S = InstanceStream>: Send + Sync {
    /// Puts the instance to sleep, unless somebody needs it; nothing is open to it but the quiet tunnels
    /// of this epoch, which is its last.
    fn put_to_sleep<'a>(
        &'a self,
        plane: PlaneIndex,
        instance: &'a Arc<Instance<S>>,
        epoch: &'a Endpoint,
    ) -> BoxFuture<'a, Slept>;
}

/// The tries to put an instance to sleep.
#[derive(Debug, Default)]
struct Tries {
    /// The epoch, and its last payload, that they are about.
    about: Option<(Endpoint, Instant)>,
    count: u32,
    not_before: Option<Instant>,
    /// How often the control plane has failed since its last answer, and until when it is left alone for that.
    failures: u32,
    fails_until: Option<Instant>,
    /// Whether the epoch has ended by a try that did not put it to sleep.
    has_cut: bool,
}

// === impl Tries ===

impl Tries {
    /// When the next one is due.
    fn due<S>(&mut self, instance: &Instance<S>, now: Instant) -> Option<Instant> {
        let Some(endpoint) = instance.endpoint() else {
            return self.pause_over().filter(|_| self.has_cut);
        };
        self.begin(&endpoint, endpoint.last_payload());
        let due = endpoint.rest_due()?;
        Some(
            due.max(self.pause_over().unwrap_or(due))
                .max(instance.kept_until(now).unwrap_or(due)),
        )
    }

    /// They are about this epoch and its last payload from now on.
    fn begin(&mut self, endpoint: &Endpoint, last: Instant) {
        let is_same = |(epoch, payload): &(Endpoint, Instant)| {
            epoch.epoch() == endpoint.epoch() && *payload == last
        };
        if !self.about.as_ref().is_some_and(is_same) {
            *self = Self {
                about: Some((endpoint.clone(), last)),
                failures: self.failures,
                fails_until: self.fails_until,
                ..Self::default()
            };
        }
    }

    /// The end of the pauses.
    fn pause_over(&self) -> Option<Instant> {
        self.not_before.max(self.fails_until)
    }

    /// Somebody needs it.
    fn refused(&mut self, pause: Option<Duration>, idle: Duration, now: Instant) {
        (self.failures, self.fails_until) = (0, None);
        let next = PAUSES.nth(self.count);
        self.count += 1;
        let pause = pause.map_or(next, |pause| pause.max(next));
        let pause = match self.count >= TRIES {
            true => {
                self.count = 0;
                pause.max(idle).max(NEXT_ROUND)
            }
            false => pause,
        };
        self.not_before = Some(now + pause);
    }

    /// The control plane has not put it to sleep, and nobody needs it that is known of.
    fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let pause = match self.failures.checked_sub(TRIES) {
            Some(more) => FAILING.nth(more),
            None => PAUSES.nth(self.failures.saturating_sub(1)),
        };
        self.fails_until = Some(now + pause);
    }
}

/// Puts the instance to sleep whenever that is due, as long as it has tunnels that may be parked.
pub async fn keep<S: Send + Sync>(
    (plane, instance): (PlaneIndex, Arc<Instance<S>>),
    sleeper: Arc<dyn Sleeper<S>>,
    (metrics, stop): (Arc<Metrics>, CancellationToken),
) {
    let mut tries = Tries::default();
    loop {
        if instance.parking().is_over() {
            return;
        }
        let due = tries.due(&instance, Instant::now());
        let is_due = due.is_some_and(|due| due <= Instant::now());
        let about = tries.about.clone().filter(|_| is_due);
        let Some((epoch, _)) = about else {
            tokio::select! {
                () = instance.parking().changed() => {}
                () = at(due) => {}
                () = instance.end().cancelled() => return wait_for_end(&instance, &stop).await,
                () = stop.cancelled() => return,
            }
            continue;
        };
        let idle = epoch.idle_timeout();
        let slept = sleeper.put_to_sleep(plane, &instance, &epoch).await;
        match slept {
            Slept::Asleep => {
                metrics.count_park(ParkOutcome::Asleep);
                tries = Tries::default();
            }
            Slept::Refused(pause) => {
                metrics.count_park(ParkOutcome::Refused);
                tries.refused(pause, idle.unwrap_or_default(), Instant::now());
            }
            Slept::Failed => {
                metrics.count_park(ParkOutcome::Failed);
                tries.failed(Instant::now());
            }
        }
        tries.has_cut = slept != Slept::Asleep && instance.endpoint().is_none();
    }
}

/// The instance is gone: its tunnels end, and the next is another handle's.
async fn wait_for_end<S>(instance: &Instance<S>, stop: &CancellationToken) {
    while !instance.parking().is_over() {
        tokio::select! {
            () = instance.parking().changed() => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_asked_again_six_times_in_15_seconds_and_then_an_idle_timeout_later() {
        let began = Instant::now();
        let (mut tries, mut now) = (Tries::default(), began);
        let idle = Duration::from_secs(60);
        for _ in 1..TRIES {
            tries.refused(None, idle, now);
            let next = tries.not_before.unwrap();
            assert!(next > now);
            now = next;
        }
        let took = now - began;
        assert!(took < Duration::from_secs(15), "{took:?}");
        assert!(took > Duration::from_secs(14), "{took:?}");
        tries.refused(None, idle, now);
        assert_eq!(tries.not_before, Some(now + idle));
        // A workload that says for how long it wants to go on is left alone for so long.
        let wanted = Duration::from_secs(300);
        tries.refused(Some(wanted), idle, now);
        assert_eq!(tries.not_before, Some(now + wanted));
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_out_of_reach_is_asked_less_and_less_until_it_answers() {
        let (mut tries, began) = (Tries::default(), Instant::now());
        let epoch = Endpoint::alone_at(1, [127, 0, 0, 1].into());
        let hour = Duration::from_secs(3600);
        let (mut now, mut asked, mut last) = (began, 0, Duration::ZERO);
        while now < began + 24 * hour {
            // What is said over a tunnel meanwhile makes it answer no sooner.
            tries.begin(&epoch, now);
            tries.failed(now);
            let pause = tries.pause_over().unwrap() - now;
            assert!(
                pause >= last && pause <= Duration::from_secs(240),
                "{pause:?}"
            );
            (now, asked, last) = (now + pause, asked + 1, pause);
            if asked == TRIES - 1 {
                assert!(now - began < Duration::from_secs(15), "not yet that seldom");
            }
        }
        assert!(asked < 24 * 15 + 12, "{asked} times a day");
        // With its answer that is over.
        tries.refused(None, hour, now);
        assert_eq!(tries.pause_over(), Some(now + PAUSES.nth(0)));
        tries.failed(now);
        assert_eq!(tries.pause_over(), Some(now + PAUSES.nth(0)));
    }
}
