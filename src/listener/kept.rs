//! What a client's connection takes of what there is a limited number of, and where it is counted.
//!
//! Guarantees: all of it is given back at once, when the connection ends, whatever is spoken over it by then.

use std::fmt;

use tokio::sync::OwnedSemaphorePermit;

use super::clients::Share;
use crate::telemetry::Counted;
use crate::workers::Seat;

/// What one connection has.
#[must_use]
pub(super) struct Kept {
    _permit: OwnedSemaphorePermit,
    _seat: Seat,
    /// Among the listener's connections, and among all.
    _counted: (Counted, Counted),
    /// Its client's, once it is known whose it is.
    share: Option<Share>,
}

// === impl Kept ===

impl Kept {
    pub(super) fn new(
        permit: OwnedSemaphorePermit,
        seat: Seat,
        counted: (Counted, Counted),
    ) -> Self {
        Self {
            _permit: permit,
            _seat: seat,
            _counted: counted,
            share: None,
        }
    }

    /// It is one of this client's connections.
    pub(super) fn is_of(&mut self, share: Option<Share>) {
        self.share = share;
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({:?})", self.share)
    }
}
