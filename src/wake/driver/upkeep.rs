//! What an instance's task does while the instance is awake: it renews holds and looks for stalls.
//!
//! Guarantees: a timer runs only while a connection is open or the application wants to stay awake;
//! at most one hold is in flight, and however often one is asked for, they are a share of the idle
//! timeout apart.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt as _;
use tokio::time::Instant;

use super::state::{Done, Driver, Upkeep};
use crate::wake::claims::Claims;
use crate::wake::dialer::Dialer;
use crate::wake::evidence::{Doubt, Evidence, Seen};
use crate::wake::lease::Endpoint;
use crate::wake::machine::Event;
use crate::wake::plane_calls::proves_hold;
use hypeman::ControlPlane;

/// How long after a wake its hold is placed.
const FIRST_HOLD: Duration = Duration::from_millis(50);

// === impl Upkeep ===

impl Upkeep {
    /// A hold was placed by other means.
    pub(super) fn note_hold(&mut self, at: Instant) {
        self.held_at = self.held_at.max(Some(at));
    }

    /// What is left of it when its epoch is over: a hold that is under way is so still.
    pub(super) fn ended(&self) -> Self {
        Self {
            in_flight: self.in_flight,
            ..Self::default()
        }
    }

    /// The next hold comes at this time, if not before.
    fn renew_by(&mut self, at: Instant) {
        self.renew_at = Some(self.renew_at.map_or(at, |planned| planned.min(at)));
    }
}

// === impl Driver ===

impl<P: ControlPlane, R: Dialer> Driver<P, R> {
    /// Plans what is needed while something is open or kept.
    pub(super) fn arm(&mut self) {
        let Some(endpoint) = &self.endpoint else {
            return;
        };
        let now = Instant::now();
        let is_open = endpoint.open_connections() > 0;
        if is_open {
            let limit = self.common.config.stall_timeout;
            self.upkeep.look_at.get_or_insert(now + limit / 2);
        }
        let is_kept = self.is_kept(now);
        let Some(idle) = endpoint.idle_timeout() else {
            return;
        };
        if (is_kept || is_open && !endpoint.counts()) && !self.upkeep.in_flight {
            let due = self.upkeep.held_at.map_or(now, |at| at + idle / 3);
            self.upkeep.renew_by(due);
        }
    }

    /// A hold soon after a wake. Its call must not compete with the first request for the host; the
    /// restore itself gives a whole idle timeout (contract B.5).
    pub(super) fn hold_soon(&mut self) {
        let idle = self.endpoint.as_ref().and_then(Endpoint::idle_timeout);
        let pause = idle.map_or(FIRST_HOLD, |idle| (idle / 10).min(FIRST_HOLD));
        self.upkeep.first_hold = true;
        self.upkeep.renew_by(Instant::now() + pause);
    }

    /// Whether the application wants to stay awake, by a response or by a hold of its own.
    fn is_kept(&self, now: Instant) -> bool {
        let is_kept = self.upkeep.keep_until.is_some_and(|until| until > now);
        is_kept || self.instance.is_held(now)
    }

    /// The application wants to stay awake until then.
    pub(super) fn keep(&mut self, until: Instant) {
        self.upkeep.keep_until = self.upkeep.keep_until.max(Some(until));
        self.arm();
    }

    /// Holds again what our connections do not keep awake, or what its application wants awake.
    pub(super) fn renew(&mut self) {
        self.upkeep.renew_at = None;
        let now = Instant::now();
        self.upkeep.keep_until = self.upkeep.keep_until.filter(|until| *until > now);
        let Some(endpoint) = self.endpoint.clone() else {
            return;
        };
        if endpoint.idle_timeout().is_none() || self.upkeep.in_flight {
            return;
        }
        let is_ignored = !endpoint.counts() && endpoint.open_connections() > 0;
        let is_first = std::mem::take(&mut self.upkeep.first_hold);
        if is_first || is_ignored || self.is_kept(now) {
            self.hold(&endpoint, now);
        } else if endpoint.unwatch() {
            self.arm();
        }
    }

    fn hold(&mut self, endpoint: &Endpoint, now: Instant) {
        let (plane, id) = (Arc::clone(&self.common.plane), self.instance.id().clone());
        let epoch = endpoint.epoch();
        (self.upkeep.in_flight, self.upkeep.held_at) = (true, Some(now));
        self.operations.push(
            async move {
                let mut nobody = Claims::none();
                let holding = plane.question(&mut nobody, plane.hold(&id));
                let seen = match holding.await.flatten() {
                    Some(Ok(status)) if proves_hold(&status) => {
                        return Done::Held(epoch, now, None);
                    }
                    Some(Err(error)) => Seen::from(&error),
                    Some(Ok(_)) | None => Evidence::Unsure(Doubt::InvalidState).into(),
                };
                Done::Held(epoch, now, Some(seen))
            }
            .boxed(),
        );
    }

    /// A hold is in force since `asked_at`, or `refusal` says why not.
    pub(super) fn held(&mut self, epoch: u64, asked_at: Instant, refusal: Option<Seen>) {
        self.upkeep.in_flight = false;
        if self.upkeep.first_hold && self.upkeep.renew_at.is_none() {
            // It was due while one of the last epoch was under way.
            self.upkeep.renew_at = Some(Instant::now());
        }
        let Some(endpoint) = self.endpoint.as_ref().filter(|e| e.epoch() == epoch) else {
            return self.arm();
        };
        endpoint.set_hold(refusal.is_none().then_some(asked_at));
        let asleep = refusal.is_some_and(|seen| matches!(seen.evidence, Evidence::Asleep(_)));
        match asleep {
            // It fell asleep all the same: what is open is to know.
            true => self.step(Event::Verify),
            false => self.arm(),
        }
    }

    /// Asks about an instance whose connections have been silent for long: a lost RST, a standby by
    /// hand, a vanished host look just like an idle peer.
    pub(super) fn look_for_stalls(&mut self) {
        self.upkeep.look_at = None;
        let Some(endpoint) = self.endpoint.clone() else {
            return;
        };
        if endpoint.open_connections() == 0 && !endpoint.unwatch() {
            return;
        }
        let (now, limit) = (Instant::now(), self.common.config.stall_timeout);
        if endpoint.is_stalled(now, limit) && endpoint.may_ask(now) {
            self.step(Event::Verify);
        }
        self.arm();
    }
}
