//! The requests that wait for an instance.
//!
//! Guarantees: they are answered in the order of asking, each once; the first of those who are
//! still there gets the probe's connection.

use std::collections::VecDeque;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::WakeError;
use super::instance::Ready;
use super::lease::{Endpoint, OpenConnection};
use super::record::Requester;
use super::target::Target;
use crate::telemetry::WakeKind;

/// Fewer than so many are not looked through for those that have left.
const SWEEP: usize = 256;

type Reply<S> = oneshot::Sender<Result<Ready<S>, WakeError>>;

struct Waiter<S> {
    target: Target,
    reply: Reply<S>,
    requester: Requester,
    first: bool,
    may_boot: bool,
}

/// Everybody who waits for one instance.
pub(super) struct Waiters<S> {
    waiting: VecDeque<Waiter<S>>,
    /// At so many, those that have left are dropped.
    sweep_at: usize,
}

// === impl Waiters ===

impl<S> Waiters<S> {
    /// Nobody waits.
    pub(super) fn none() -> Self {
        Self {
            waiting: VecDeque::new(),
            sweep_at: SWEEP,
        }
    }

    /// One more; `first` is who began the wake, and `may_boot` who takes an instance that was booted.
    pub(super) fn push(
        &mut self,
        target: Target,
        reply: Reply<S>,
        requester: Requester,
        (first, may_boot): (bool, bool),
    ) {
        if self.waiting.len() >= self.sweep_at {
            self.waiting.retain(|waiter| !waiter.reply.is_closed());
            self.sweep_at = self.waiting.len().saturating_mul(2).max(SWEEP);
        }
        self.waiting.push_back(Waiter {
            target,
            reply,
            requester,
            first,
            may_boot,
        });
    }

    /// Who has waited longest of those that are still there.
    pub(super) fn oldest(&self) -> Option<&Requester> {
        let mut waiting = self.waiting.iter();
        let oldest = waiting.find(|waiter| !waiter.reply.is_closed())?;
        Some(&oldest.requester)
    }

    /// The number of those who wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The target answers: whoever waits for it may go. `found` is the probe's connection, and
    /// afterwards what nobody took.
    pub(super) fn grant(
        &mut self,
        target: &Target,
        (woken, booted): (bool, bool),
        endpoint: &Endpoint,
        found: &mut Option<(S, OpenConnection)>,
    ) {
        let confirmed_at = Instant::now();
        for waiter in std::mem::take(&mut self.waiting) {
            if waiter.target != *target {
                self.waiting.push_back(waiter);
                continue;
            }
            if booted && !waiter.may_boot {
                // Another route's request has booted it meanwhile.
                let _left = waiter.reply.send(Err(WakeError::ColdBootRefused));
                continue;
            }
            let kind = match (woken, waiter.first) {
                (false, _) => WakeKind::Warm,
                (true, _) if booted => WakeKind::Boot,
                (true, true) => WakeKind::Cold,
                (true, false) => WakeKind::Joined,
            };
            let ready = Ready {
                endpoint: endpoint.clone(),
                confirmed_at,
                kind,
                connection: found.take(),
            };
            // One who has left gives the connection back for the next.
            if let Err(Ok(unheard)) = waiter.reply.send(Ok(ready)) {
                *found = unheard.connection;
            }
        }
    }

    /// Whether somebody waits for this target, by whatever name.
    pub(super) fn want(&self, target: &Target) -> bool {
        self.waiting.iter().any(|waiter| waiter.target == *target)
    }

    /// Nobody gets this target by this name.
    pub(super) fn refuse_one(&mut self, target: &Target, error: &WakeError) {
        for waiter in std::mem::take(&mut self.waiting) {
            match waiter.target == *target && waiter.target.tls() == target.tls() {
                true => {
                    let _left = waiter.reply.send(Err(error.clone()));
                }
                false => self.waiting.push_back(waiter),
            }
        }
    }

    /// Nobody gets it.
    pub(super) fn refuse(&mut self, error: &WakeError) {
        for waiter in self.waiting.drain(..) {
            let _left = waiter.reply.send(Err(error.clone()));
        }
    }
}
