//! The gate's every interleaving, under loom: no place stays free while a request waits that may
//! have it, neither the limit nor a client's share is ever passed.
//!
//! The files are the real ones; only their atomics and their lock are loom's. What loom does not
//! see into is the channel by which a request that waits is told to go: it is tokio's, and each of
//! its steps is one step here. Time stands still.

#[path = "../../src/hold/admission_counter.rs"]
mod admission_counter;
#[allow(dead_code, reason = "the models need a part of it")]
#[path = "../../src/hold/client_counts.rs"]
mod client_counts;
#[allow(dead_code, reason = "the models need a part of it")]
#[path = "../../src/hold/gate.rs"]
mod gate;
#[allow(dead_code, reason = "the models need a part of it")]
#[path = "../../src/hold/turn_order.rs"]
mod turn_order;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use gate::{Gate, NotItsTurn, Permit, Slot};
use loom::thread;
use tokio::time::Instant;

use crate::config::{ClientShare, LimitsConfig};
use crate::names::ClientNetwork;

const LIMIT: LimitsConfig = limits(1);
/// Two places are free for all, and of the other two a client has one.
const FOUR: LimitsConfig = limits(4);

const fn limits(max_inflight: usize) -> LimitsConfig {
    LimitsConfig {
        max_inflight,
        soft_inflight: max_inflight,
        soft_wait: Duration::from_secs(1),
        max_inflight_per_client: ClientShare::Half,
        max_held_per_client: ClientShare::Half,
        min_body_rate: None,
    }
}

fn client(number: u8) -> ClientNetwork {
    IpAddr::from([10, 0, number, 1]).into()
}

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
    ask_within(permit, &LIMIT)
}

fn ask_within(permit: Permit, limits: &'static LimitsConfig) -> Asked {
    let deadline = Instant::now() + Duration::from_secs(60);
    ask_again(Box::pin(permit.turn(limits, deadline)))
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
    assert!(gate.try_enter(client(1), &LIMIT).is_some());
}

#[test]
fn who_waits_is_let_in_when_the_last_one_leaves() {
    explore(None, || {
        let gate = gate();
        let inside = gate.try_enter(client(1), &LIMIT).unwrap();
        let leaver = thread::spawn(move || drop(inside));
        let asked = ask(gate.join(client(1)));
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
        let inside = gate.try_enter(client(1), &LIMIT).unwrap();
        let leaver = thread::spawn(move || drop(inside));
        let permit = gate.join(client(1));
        let passer = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let passed = gate.try_enter(client(1), &LIMIT).is_some();
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
        let inside = gate.try_enter(client(1), &LIMIT).unwrap();
        let leaver = thread::spawn(move || drop(inside));
        let passer = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let slot = gate.try_enter(client(1), &LIMIT);
                assert!(gate.inside() <= LIMIT.max_inflight);
                drop(slot);
            })
        };
        let asked = ask(gate.join(client(1)));
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
        let inside = gate.try_enter(client(1), &LIMIT).unwrap();
        let leaver = thread::spawn(move || drop(inside));
        match ask(gate.join(client(1))) {
            Asked::In(slot) => drop(slot),
            Asked::Waits(turn) => drop(turn),
        }
        leaver.join().unwrap();
        is_as_new(&gate);
    });
}

/// A gate in which one client has all that it may have: two places that are free for all, and one
/// that is counted to it.
fn with_a_greedy_client() -> (Arc<Gate>, Vec<Slot>) {
    let gate = gate();
    let greedy = std::iter::from_fn(|| gate.try_enter(client(1), &FOUR));
    let greedy: Vec<Slot> = greedy.collect();
    assert_eq!(greedy.len(), 3);
    (gate, greedy)
}

#[test]
fn who_is_over_its_share_is_let_in_when_a_place_that_it_may_have_is_free() {
    // The first is free for all and leaves without the lock; the last is counted to the client.
    for leaving in [0, 2] {
        explore(None, move || {
            let (gate, mut greedy) = with_a_greedy_client();
            let leaving = greedy.remove(leaving);
            let leaver = thread::spawn(move || drop(leaving));
            let asked = ask_within(gate.join(client(1)), &FOUR);
            leaver.join().unwrap();
            let slot = let_in(asked);
            assert_eq!(gate.inside(), 3);
            drop((slot, greedy));
            is_as_new(&gate);
        });
    }
}

#[test]
fn others_pass_who_is_over_its_share_and_the_limit_holds() {
    explore(Some(3), || {
        let (gate, mut greedy) = with_a_greedy_client();
        let leaving = greedy.remove(0);
        let leaver = thread::spawn(move || drop(leaving));
        let passer = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let slot = gate.try_enter(client(2), &FOUR);
                assert!(slot.is_some(), "a place was left for it");
                assert!(gate.inside() <= FOUR.max_inflight);
                drop(slot);
            })
        };
        let asked = ask_within(gate.join(client(1)), &FOUR);
        assert!(gate.inside() <= FOUR.max_inflight);
        leaver.join().unwrap();
        passer.join().unwrap();
        drop((let_in(asked), greedy));
        is_as_new(&gate);
    });
}

#[test]
fn two_requests_of_a_client_at_once_do_not_pass_its_share() {
    explore(Some(3), || {
        let gate = gate();
        let free_for_all = [(); 2].map(|()| gate.try_enter(client(1), &FOUR).unwrap());
        let others = [(); 2].map(|()| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.try_enter(client(1), &FOUR))
        });
        let slots = others.map(|other| other.join().unwrap());
        assert_eq!(slots.iter().flatten().count(), 1);
        drop((slots, free_for_all));
        is_as_new(&gate);
    });
}
