//! One tunnel that may be parked.
//!
//! Guarantees: it is told apart what is to be done next from who does it.

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::end::End;
use super::host::{InstanceSide, ParkRules};
use crate::telemetry::UnparkCause;
use crate::upstream::carried::Carried;
use crate::upstream::carry::TunnelRules;
use crate::upstream::relay::Relay;
use crate::wake::Endpoint;

/// What is to be done next.
pub(super) enum Next {
    /// It is carried.
    Open,
    /// It rests; whether its instance sleeps.
    Rest(bool),
    /// It is over, and nobody has to be told.
    Over,
    /// The gateway ends it.
    End(End),
}

/// Whether the instance has received all payload that was written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It has.
    Known,
    /// Nobody knows.
    Unknown,
    /// It was asked by a ping behind it.
    Asked,
}

/// One tunnel that may be parked.
pub(super) struct Parkable<'a, 'h, C, I, H> {
    pub(super) relay: Relay<'a, C, I>,
    pub(super) rules: TunnelRules,
    pub(super) park: ParkRules,
    pub(super) carried: &'a Carried,
    pub(super) endpoint: Endpoint,
    pub(super) host: &'h mut H,
    pub(super) epochs: watch::Receiver<u64>,
    pub(super) stop: &'h CancellationToken,
    pub(super) payload_at: Instant,
    /// Since when the instance, which has slept, has not been heard after its wake.
    pub(super) unheard_since: Option<Instant>,
    pub(super) delivery: Delivery,
}

// === impl Parkable ===

impl<C, I: InstanceSide, H> Parkable<'_, '_, C, I, H> {
    /// The connection to the instance, while there is one.
    pub(super) fn instance(&mut self) -> Option<&mut I> {
        Some(self.relay.instance.as_mut()?.get_mut())
    }

    /// The quiet tunnel has payload again; false where its instance is about to sleep, or sleeps.
    pub(super) fn go_on(&mut self) -> bool {
        self.instance().is_some_and(I::go_on)
    }

    /// Whether the instance has been heard since its last wake.
    pub(super) fn is_heard(&mut self) -> bool {
        let since = self.unheard_since;
        if let Some(instance) = self.instance()
            && since.is_some_and(|since| instance.last_heard() > since)
        {
            self.trust();
        }
        self.unheard_since.is_none()
    }

    /// It is as any connection again: the instance may take its time.
    pub(super) fn trust(&mut self) {
        if let Some(instance) = self.instance() {
            instance.expect_answers(None);
        }
        self.unheard_since = None;
    }

    /// Counts the end of its being parked.
    pub(super) fn count(&self, cause: UnparkCause) {
        self.carried.metrics().count_unpark(cause);
    }
}
