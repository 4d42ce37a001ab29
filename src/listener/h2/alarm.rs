//! What of a connection has something to do.
//!
//! Guarantees: a side that was woken is polled before the connection's task sleeps, and none that
//! was not; while the task runs, a wake costs no turn of the runtime.
//!
//! A connection's task runs the library's side of it and the streams that answer requests. They
//! wake each other all the time: a stream that has sent something wakes the library's side, and a
//! frame that comes wakes a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

const CONNECTION: u8 = 1;
const STREAMS: u8 = 2;
/// The task sleeps: whoever is the first to wake a side wakes the task.
const ASLEEP: u8 = 4;
/// Rounds until the runtime gets a turn.
const MOST_ROUNDS: usize = 16;

/// The two sides of one task.
pub(super) struct Alarm {
    shared: Arc<Shared>,
    connection: Waker,
    streams: Waker,
}

/// The sides that were woken.
pub(super) struct Woken {
    pub(super) connection: bool,
    pub(super) streams: bool,
}

struct Shared {
    state: AtomicU8,
    task: AtomicWaker,
}

struct Bell<const SIDE: u8>(Arc<Shared>);

// === impl Bell ===

impl<const SIDE: u8> Wake for Bell<SIDE> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.0.state.fetch_or(SIDE, Ordering::AcqRel) == ASLEEP {
            self.0.task.wake();
        }
    }
}

// === impl Alarm ===

impl Alarm {
    /// Both sides have something to do.
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU8::new(CONNECTION | STREAMS),
            task: AtomicWaker::new(),
        });
        Self {
            connection: Arc::new(Bell::<CONNECTION>(Arc::clone(&shared))).into(),
            streams: Arc::new(Bell::<STREAMS>(Arc::clone(&shared))).into(),
            shared,
        }
    }

    /// The waker of the library's side.
    pub(super) fn connection(&self) -> &Waker {
        &self.connection
    }

    /// The waker of the streams.
    pub(super) fn streams(&self) -> &Waker {
        &self.streams
    }

    /// Runs rounds while a side was woken. The task is woken when one is again.
    pub(super) fn poll<T>(
        &self,
        cx: &Context<'_>,
        mut round: impl FnMut(Woken) -> Poll<T>,
    ) -> Poll<T> {
        let Shared { state, task } = &*self.shared;
        task.register(cx.waker());
        state.fetch_and(!ASLEEP, Ordering::AcqRel);
        for _ in 0..MOST_ROUNDS {
            let slept = state.compare_exchange(0, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
            if slept.is_ok() {
                return Poll::Pending;
            }
            let woken = state.swap(0, Ordering::AcqRel);
            let polled = round(Woken {
                connection: woken & CONNECTION != 0,
                streams: woken & STREAMS != 0,
            });
            if polled.is_ready() {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Stage {
        alarm: Alarm,
        count: Arc<Count>,
    }

    impl Stage {
        fn new() -> Self {
            let (alarm, count) = (Alarm::new(), Arc::default());
            Self { alarm, count }
        }

        fn rounds(&self, mut round: impl FnMut(&Alarm)) -> Vec<(bool, bool)> {
            let (mut rounds, waker) = (Vec::new(), Arc::clone(&self.count).into());
            let polled = self
                .alarm
                .poll::<()>(&Context::from_waker(&waker), |woken| {
                    rounds.push((woken.connection, woken.streams));
                    round(&self.alarm);
                    Poll::Pending
                });
            assert!(polled.is_pending());
            rounds
        }

        fn wakes(&self) -> usize {
            self.count.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_side_is_run_when_it_was_woken_and_not_else() {
        let stage = Stage::new();
        assert_eq!(stage.rounds(|_| {}), [(true, true)]);
        assert_eq!(stage.rounds(|_| {}), []);
        stage.alarm.streams().wake_by_ref();
        assert_eq!(stage.wakes(), 1);
        // Once is enough.
        stage.alarm.streams().wake_by_ref();
        stage.alarm.connection().wake_by_ref();
        assert_eq!(stage.wakes(), 1);
        assert_eq!(stage.rounds(|_| {}), [(true, true)]);
        stage.alarm.connection().wake_by_ref();
        assert_eq!(stage.wakes(), 2);
        assert_eq!(stage.rounds(|_| {}), [(true, false)]);
    }

    #[test]
    fn sides_that_wake_each_other_do_not_wake_the_task_until_others_are_to_have_a_turn() {
        let stage = Stage::new();
        let mut left = 3;
        let rounds = stage.rounds(|alarm| {
            left -= 1;
            if left > 0 {
                alarm.connection().wake_by_ref();
            }
        });
        assert_eq!(rounds, [(true, true), (true, false), (true, false)]);
        assert_eq!(stage.wakes(), 0);
        stage.alarm.streams().wake_by_ref();
        let endless = stage.rounds(|alarm| alarm.streams().wake_by_ref());
        assert_eq!((endless.len(), stage.wakes()), (MOST_ROUNDS, 2));
        // What was woken last is not forgotten.
        assert_eq!(stage.rounds(|_| {}), [(false, true)]);
    }
}
