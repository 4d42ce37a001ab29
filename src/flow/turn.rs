//! When a message is written that is ready in the middle of a turn of its worker.
//!
//! A worker reads what has come on many connections, and then waits for more. Were each message
//! written as soon as it is ready, whoever gets it on this machine would be woken for each, and be
//! asleep again before the next; a wake costs the writer more than the write. Written one after
//! another at the end, many messages share a wake.
//!
//! Guarantees: what waits is woken behind the tasks that were ready before it, and waits for
//! nothing else; on a worker that has nothing else to do nothing waits, but for one message in
//! [`UNASKED`], nor what [`in_one_task`] polls.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

/// So many messages are written at once after one that waited for nobody.
const UNASKED: u32 = 16;

thread_local! {
    /// What waits on this thread.
    static TURN: Turn = const {
        Turn { waiting: Cell::new(0), unasked: Cell::new(0), is_shared: Cell::new(false) }
    };
}

/// The turn of a thread. A task that waits on one thread and goes on on another makes its count wrong: each
/// message of the first thread waits then. Workers' tasks stay where they are.
struct Turn {
    waiting: Cell<u32>,
    /// So many more do not wait.
    unasked: Cell<u32>,
    /// What is polled is one of many futures of a task.
    is_shared: Cell<bool>,
}

/// Polls many futures of one task. None of them waits for the end of a turn: they are polled again before other
/// tasks are.
pub fn in_one_task<R>(poll: impl FnOnce() -> R) -> R {
    struct Leaving(bool);
    impl Drop for Leaving {
        fn drop(&mut self) {
            TURN.with(|turn| turn.is_shared.set(self.0));
        }
    }
    let _leaving = Leaving(TURN.with(|turn| turn.is_shared.replace(true)));
    poll()
}

/// Waits until what else was ready has had its turn.
#[derive(Debug, Default)]
pub struct EndOfTurn(State);

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    New,
    Waiting {
        is_first: bool,
    },
    Over,
}

impl Future for EndOfTurn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.0 {
            State::New => match TURN.with(Turn::enter) {
                None => {
                    self.0 = State::Over;
                    Poll::Ready(())
                }
                Some(is_first) => {
                    self.0 = State::Waiting { is_first };
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            },
            State::Waiting { is_first } => {
                self.0 = State::Over;
                TURN.with(|turn| turn.leave(is_first));
                Poll::Ready(())
            }
            State::Over => Poll::Ready(()),
        }
    }
}

impl Drop for EndOfTurn {
    fn drop(&mut self) {
        if matches!(self.0, State::Waiting { .. }) {
            TURN.with(|turn| turn.leave(false));
        }
    }
}

// === impl Turn ===

impl Turn {
    /// Whether it is the first one to wait; `None` if it need not.
    fn enter(&self) -> Option<bool> {
        if self.is_shared.get() {
            return None;
        }
        if let Some(rest) = self.unasked.get().checked_sub(1) {
            self.unasked.set(rest);
            return None;
        }
        let waiting = self.waiting.get();
        self.waiting.set(waiting + 1);
        Some(waiting == 0)
    }

    fn leave(&self, is_first: bool) {
        let waiting = self.waiting.get().saturating_sub(1);
        self.waiting.set(waiting);
        // Those who came later leave later: there was nobody else.
        if is_first && waiting == 0 {
            self.unasked.set(UNASKED);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn what_is_ready_in_one_turn_is_written_at_its_end() {
        let (order, mut tasks) = (Arc::new(Mutex::new(String::new())), JoinSet::new());
        for _ in 0..3 {
            let order = Arc::clone(&order);
            tasks.spawn(async move {
                order.lock().unwrap().push('r');
                EndOfTurn::default().await;
                order.lock().unwrap().push('w');
            });
        }
        tasks.join_all().await;
        assert_eq!(*order.lock().unwrap(), "rrrwww");
    }

    #[tokio::test]
    async fn on_a_worker_without_other_work_one_message_of_some_waits() {
        let mut waited = Vec::new();
        for _ in 0..2 * (UNASKED + 1) {
            let mut end = EndOfTurn::default();
            let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut end).poll(cx))).await;
            waited.push(polled.is_pending());
            end.await;
        }
        let expected = (0..waited.len()).map(|number| number % 17 == 0);
        assert_eq!(waited, expected.collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn one_that_is_dropped_while_it_waits_is_waited_for_no_longer() {
        let poll = |end: &mut EndOfTurn| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            Pin::new(end).poll(&mut cx).is_pending()
        };
        let (mut first, mut second) = (EndOfTurn::default(), EndOfTurn::default());
        assert!(poll(&mut first) && poll(&mut second));
        drop(second);
        assert!(!poll(&mut first), "its turn has come");
        assert!(!poll(&mut EndOfTurn::default()), "there is nobody else");
    }

    #[tokio::test]
    async fn what_shares_its_task_with_others_does_not_wait() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut shared = EndOfTurn::default();
        assert!(in_one_task(|| Pin::new(&mut shared).poll(&mut cx)).is_ready());
        let mut own = EndOfTurn::default();
        assert!(Pin::new(&mut own).poll(&mut cx).is_pending());
    }
}
