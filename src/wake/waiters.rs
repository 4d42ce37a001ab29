//! The requests that wait for an instance.
//!
//! Guarantees: they are answered in the order of asking, each once; the first of those who are
//! still there gets the probe's connection.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::error::WakeError;
use super::instance::Ready;
use super::lease::{Endpoint, OpenConnection};
use super::target::Target;
use crate::telemetry::WakeKind;

type Reply<S> = oneshot::Sender<Result<Ready<S>, WakeError>>;

struct Waiter<S> {
    target: Target,
    reply: Reply<S>,
    first: bool,
}

/// Everybody who waits for one instance.
pub(super) struct Waiters<S>(VecDeque<Waiter<S>>);

// === impl Waiters ===

impl<S> Waiters<S> {
    /// Nobody waits.
    pub(super) fn none() -> Self {
        Self(VecDeque::new())
    }

    /// One more; `first` is who began the wake.
    pub(super) fn push(&mut self, target: Target, reply: Reply<S>, first: bool) {
        self.0.push_back(Waiter {
            target,
            reply,
            first,
        });
    }

    /// The number of those who wait.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The target answers: whoever waits for it may go. `found` is the probe's connection, and
    /// afterwards what nobody took.
    pub(super) fn grant(
        &mut self,
        target: Target,
        woken: bool,
        endpoint: &Endpoint,
        found: &mut Option<(S, OpenConnection)>,
    ) {
        for waiter in std::mem::take(&mut self.0) {
            if waiter.target != target {
                self.0.push_back(waiter);
                continue;
            }
            let kind = match (woken, waiter.first) {
                (false, _) => WakeKind::Warm,
                (true, true) => WakeKind::Cold,
                (true, false) => WakeKind::Joined,
            };
            let ready = Ready {
                endpoint: endpoint.clone(),
                kind,
                connection: found.take(),
            };
            // One who has left gives the connection back for the next.
            if let Err(Ok(unheard)) = waiter.reply.send(Ok(ready)) {
                *found = unheard.connection;
            }
        }
    }

    /// Nobody gets it.
    pub(super) fn refuse(&mut self, error: &WakeError) {
        for waiter in self.0.drain(..) {
            let _left = waiter.reply.send(Err(error.clone()));
        }
    }
}
