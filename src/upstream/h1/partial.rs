//! What a response's head takes that has come in part.
//!
//! Guarantees: it counts to its client as long as more of it is to come; where the client has no room for it,
//! it waits a moment for some, and no more is read meanwhile. A client whose requests are many and whose share
//! is used up thus costs its instances a new connection a moment and no more, and others their turn.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::flow::{Buffered, ClientBuffers};

/// How long a head waits for room, and between two looks whether there is some.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(250);

/// The client may have no more in memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The part of its client's budget that a head has which has come in part.
#[derive(Debug, Default)]
pub(super) struct Partial {
    held: Option<Buffered>,
    /// In a box, as what is seldom needed.
    waiting: Option<Box<Waiting>>,
}

/// A wait for room.
#[derive(Debug)]
struct Waiting {
    until: Instant,
    next: Deadline,
}

// === impl Partial ===

impl Partial {
    /// The head is there, or not wanted.
    pub(super) fn clear(&mut self) {
        (self.held, self.waiting) = (None, None);
    }

    /// Counts so much room for it; an error when its client has waited for that in vain. Returns whether it
    /// has waited.
    pub(super) fn poll_count(
        &mut self,
        room: usize,
        client: &dyn Fn() -> Option<ClientBuffers>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, NoRoom>> {
        let counted = self.held.as_ref().map_or(0, Buffered::bytes);
        let more = room.saturating_sub(counted);
        if more == 0 {
            return Poll::Ready(Ok(false));
        }
        let Some(client) = client() else {
            return Poll::Ready(Ok(false));
        };
        while !client.has_room_for_head(more) {
            let now = Instant::now();
            let waiting = self.waiting.get_or_insert_with(|| {
                let next = Deadline::new(now + LOOK);
                let until = now + PATIENCE;
                Box::new(Waiting { until, next })
            });
            if now >= waiting.until {
                self.waiting = None;
                client.note_refused();
                return Poll::Ready(Err(NoRoom));
            }
            ready!(waiting.next.poll_over(cx));
            waiting.next = Deadline::new(Instant::now() + LOOK);
        }
        self.held.get_or_insert_with(|| client.hold(0)).grow(more);
        Poll::Ready(Ok(self.waiting.take().is_some()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flow::BufferBudget;

    const KIB: usize = 1024;

    #[tokio::test(start_paused = true)]
    async fn a_head_without_room_waits_for_some_and_not_for_ever() {
        let budget = BufferBudget::new(128 * KIB);
        let client = budget.of(Ipv4Addr::LOCALHOST.into());
        let owner = || Some(client.clone());
        let mut partial = Partial::default();
        let counted = poll_fn(|cx| partial.poll_count(16 * KIB, &owner, cx)).await;
        assert_eq!((counted, budget.used()), (Ok(false), 16 * KIB));
        let others = client.hold(112 * KIB);
        let began = Instant::now();
        let counting = async {
            let counted = poll_fn(|cx| partial.poll_count(32 * KIB, &owner, cx)).await;
            (counted, began.elapsed())
        };
        let leaving = async move {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(others);
        };
        let ((counted, waited), ()) = tokio::join!(counting, leaving);
        assert!(counted == Ok(true) && waited < PATIENCE, "{waited:?}");
        assert_eq!((budget.used(), budget.refused()), (32 * KIB, 0));
        let others = client.hold(96 * KIB);
        let began = Instant::now();
        let counted = poll_fn(|cx| partial.poll_count(64 * KIB, &owner, cx)).await;
        assert_eq!((counted, began.elapsed()), (Err(NoRoom), PATIENCE));
        assert_eq!(budget.refused(), 1);
        partial.clear();
        drop(others);
        assert_eq!(budget.used(), 0);
    }
}
