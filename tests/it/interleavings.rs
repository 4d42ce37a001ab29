//! The gate's every interleaving, under loom: no place stays free while a request waits for it, and
//! the limit is never passed.
//!
//! The files are the real ones; only their atomics and their lock are loom's. What loom does not
//! see into is the channel by which a request that waits is told to go: it is tokio's, and each of
//! its steps is one step here. Time stands still.

#[path = "../../src/hold/admission_counter.rs"]
mod admission_counter;
#[allow(dead_code, reason = "the models need a part of it")]
#[path = "../../src/hold/gate.rs"]
mod gate;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use gate::{Gate, NotItsTurn, Permit, Slot};
use loom::thread;
use tokio::time::Instant;

use crate::config::LimitsConfig;

const LIMIT: LimitsConfig = LimitsConfig {
    max_inflight: 1,
    soft_inflight: 1,
    soft_wait: Duration::from_secs(1),
};

/// Runs every interleaving of `model`, with a clock that stands still; where three threads take
/// part, those in which threads are interrupted at most `interruptions` times, since all would take
/// minutes.
fn explore(interruptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = interruptions;
    explorer.check(model);
}

fn gate() -> Arc<Gate> {
    Gate::new(Duration::from_secs(1))
}

/// A request whose instance is ready and whose turn has not come, or the turn that has.
enum Asked {
    In(Slot),
    Waits(Pin<Box<dyn Future<Output = Result<Slot, NotItsTurn>>>>),
}

fn ask(permit: Permit) -> Asked {
    let deadline = Instant::now() + Duration::from_secs(60);
    ask_again(Box::pin(permit.turn(&LIMIT, deadline)))
}

fn ask_again(mut turn: Pin<Box<dyn Future<Output = Result<Slot, NotItsTurn>>>>) -> Asked {
    match turn.as_mut().now_or_never() {
        Some(slot) => Asked::In(slot.unwrap()),
        None => Asked::Waits(turn),
    }
}

/// It must be in now, since nobody else is.
fn let_in(asked: Asked) -> Slot {
    let again = match asked {
        Asked::Waits(turn) => ask_again(turn),
        Asked::In(slot) => Asked::In(slot),
    };
    match again {
        Asked::In(slot) => slot,
        Asked::Waits(_) => panic!("the place is free, and it still waits"),
    }
}

/// Everybody has gone, and the next one needs no lock.
fn is_as_new(gate: &Arc<Gate>) {
    assert!(gate.is_idle());
    assert!(gate.try_enter(&LIMIT).is_some());
}

#[test]
fn who_waits_is_let_in_when_the_last_one_leaves() {
    explore(None, || {
        let gate = gate();
        let inside = gate.try_enter(&LIMIT).unwrap();
        let leaver = thread::spawn(move || drop(inside));
        let asked = ask(gate.join());
        leaver.join().unwrap();
        let slot = let_in(asked);
        assert_eq!(gate.inside(), 1);
        drop(slot);
        is_as_new(&gate);
    });
}

#[test]
fn nobody_passes_who_waits_and_the_limit_holds() {
    explore(Some(3), || {
        let gate = gate();
        let inside = gate.try_enter(&LIMIT).unwrap();
        let leaver = thread::spawn(move || drop(inside));
        let permit = gate.join();
        let passer = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let passed = gate.try_enter(&LIMIT).is_some();
                assert!(gate.inside() <= LIMIT.max_inflight);
                passed
            })
        };
        let asked = ask(permit);
        assert!(gate.inside() <= LIMIT.max_inflight);
        leaver.join().unwrap();
        let passed = passer.join().unwrap();
        assert!(!passed, "somebody was in line before it came");
        let slot = let_in(asked);
        assert_eq!(gate.inside(), 1);
        drop(slot);
        is_as_new(&gate);
    });
}

#[test]
fn the_limit_holds_whoever_comes_first() {
    explore(Some(3), || {
        let gate = gate();
        let inside = gate.try_enter(&LIMIT).unwrap();
        let leaver = thread::spawn(move || drop(inside));
        let passer = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let slot = gate.try_enter(&LIMIT);
                assert!(gate.inside() <= LIMIT.max_inflight);
                drop(slot);
            })
        };
        let asked = ask(gate.join());
        assert!(gate.inside() <= LIMIT.max_inflight);
        leaver.join().unwrap();
        passer.join().unwrap();
        drop(let_in(asked));
        is_as_new(&gate);
    });
}

#[test]
fn who_leaves_the_line_gives_back_the_place_that_it_was_given_at_that_moment() {
    explore(None, || {
        let gate = gate();
        let inside = gate.try_enter(&LIMIT).unwrap();
        let leaver = thread::spawn(move || drop(inside));
        match ask(gate.join()) {
            Asked::In(slot) => drop(slot),
            Asked::Waits(turn) => drop(turn),
        }
        leaver.join().unwrap();
        is_as_new(&gate);
    });
}
