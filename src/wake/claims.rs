//! The claims of all who wait for the same question.
//!
//! Guarantees: a question has its place as soon as any of them would have one, so that whoever
//! joins does not wait in the turn of whoever came first, whose network may have its share; a
//! network claims once, and a bounded number of networks do.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::slots::Claim;

/// Networks that claim a place for the same, at most.
pub(super) const MAX_CLAIMS: usize = 8;

/// The claims for a question, or for several that are asked one after the other.
#[derive(Debug)]
pub(super) struct Claims {
    shared: Arc<Shared>,
    /// How many have been made for the question at hand.
    made: usize,
}

/// Where those who join put theirs.
#[derive(Debug)]
pub(super) struct Claimants(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Each with the time until which it waits.
    claims: Mutex<Vec<(Claim, Instant)>>,
    came: Notify,
}

// === impl Claims ===

impl Claims {
    /// Nobody waits, and nobody will.
    pub(super) fn none() -> Self {
        Self::to_come().1
    }

    /// Nobody waits until somebody joins.
    pub(super) fn to_come() -> (Claimants, Self) {
        let shared = Arc::<Shared>::default();
        let claims = Self {
            shared: Arc::clone(&shared),
            made: 0,
        };
        (Claimants(shared), claims)
    }

    /// Some wait until `until`, and others may join.
    pub(super) fn of(claims: &[Claim], until: Instant) -> (Claimants, Self) {
        let (claimants, all) = Self::to_come();
        for claim in claims {
            claimants.join(claim.clone(), until);
        }
        (claimants, all)
    }

    /// Another question begins, for which nobody has claimed a place yet.
    pub(super) fn begin(&mut self) {
        self.made = 0;
    }

    /// The next claim for the question at hand, once there is one. Cancel safe.
    pub(super) async fn next(&mut self) -> (Claim, Instant) {
        loop {
            // Whoever comes between the look and the wait is not missed.
            if let Some(claim) = self.shared.get(self.made) {
                self.made += 1;
                return claim;
            }
            self.shared.came.notified().await;
        }
    }
}

// === impl Claimants ===

impl Claimants {
    /// One more waits for the same, until `until`.
    pub(super) fn join(&self, claim: Claim, until: Instant) {
        let claims = self.0.claims.lock();
        let mut claims = claims.unwrap_or_else(PoisonError::into_inner);
        let has_claim = |(other, _): &(Claim, Instant)| other.client == claim.client;
        if claims.len() < MAX_CLAIMS && !claims.iter().any(has_claim) {
            claims.push((claim, until));
            self.0.came.notify_one();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn get(&self, number: usize) -> Option<(Claim, Instant)> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.get(number).cloned()
    }
}
