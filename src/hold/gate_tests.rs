//! The gate's order, ramp and limits, on paused time. They are beside `gate.rs`, which runs under
//! loom, where none of these can.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::time::Instant;

use super::gate::{Gate, NotItsTurn, Permit, Slot};
use crate::config::LimitsConfig;

const STEP: Duration = Duration::from_millis(500);

fn limits(soft: usize, hard: usize) -> LimitsConfig {
    LimitsConfig {
        max_inflight: hard,
        soft_inflight: soft,
        soft_wait: Duration::from_millis(100),
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

type Turn<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Slot, NotItsTurn>> + 'a>>;

/// This many requests in the queue, all ready.
fn queue_up<'a>(gate: &Arc<Gate>, limits: &'a LimitsConfig, many: usize) -> Vec<Turn<'a>> {
    let permits: Vec<Permit> = (0..many).map(|_| gate.join()).collect();
    permits
        .into_iter()
        .map(|permit| -> Turn<'a> { Box::pin(permit.turn(limits, later())) })
        .collect()
}

fn poll_each(turns: &mut [Turn<'_>]) -> Vec<Option<Slot>> {
    turns
        .iter_mut()
        .map(|turn| turn.as_mut().now_or_never().map(Result::unwrap))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn after_a_wake_the_first_goes_alone_until_its_first_byte_and_then_they_double() {
    let (gate, limits) = (Gate::new(STEP), limits(100, 100));
    let mut turns = queue_up(&gate, &limits, 10);
    gate.open(1, true);
    let mut slots: Vec<Slot> = poll_each(&mut turns).into_iter().flatten().collect();
    assert_eq!(slots.len(), 1);
    let mut rounds = vec![1];
    let mut turns: Vec<_> = turns.into_iter().skip(1).collect();
    while !turns.is_empty() {
        for slot in &mut slots {
            slot.answered();
        }
        slots.clear();
        let got = poll_each(&mut turns);
        let many = got.iter().flatten().count();
        assert!(
            got.iter().take(many).all(Option::is_some),
            "the oldest first"
        );
        slots.extend(got.into_iter().flatten());
        turns = turns.split_off(many);
        rounds.push(many);
    }
    assert_eq!(rounds, [1, 2, 4, 3]);
    slots.clear();
    assert!(gate.is_idle() && gate.try_enter(&limits).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_first_response_that_does_not_come_holds_the_others_up_only_for_a_step() {
    let (gate, limits) = (Gate::new(STEP), limits(100, 100));
    let mut turns = queue_up(&gate, &limits, 3);
    gate.open(1, true);
    let first = poll_each(&mut turns);
    assert_eq!(first.iter().flatten().count(), 1);
    let mut rest = turns.split_off(1);
    tokio::time::advance(STEP * 2).await;
    assert!(poll_each(&mut rest).iter().flatten().count() >= 1);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_soft_limit_a_request_waits_a_little_and_beyond_the_hard_one_its_turn() {
    let (gate, limits) = (Gate::new(STEP), limits(1, 2));
    let first = gate.try_enter(&limits).unwrap();
    assert!(gate.try_enter(&limits).is_none());
    let mut turns = queue_up(&gate, &limits, 2);
    assert_eq!(poll_each(&mut turns).iter().flatten().count(), 0);
    tokio::time::advance(limits.soft_wait).await;
    let got = poll_each(&mut turns);
    assert_eq!(got.iter().flatten().count(), 1, "up to the hard limit");
    let mut last = turns.split_off(1);
    assert_eq!(poll_each(&mut last).iter().flatten().count(), 0);
    drop(first);
    assert_eq!(poll_each(&mut last).iter().flatten().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_does_not_come_in_time_is_refused() {
    let (gate, limits) = (Gate::new(STEP), limits(1, 1));
    let _inside = gate.try_enter(&limits).unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    let refused = gate.join().turn(&limits, deadline).await;
    assert!(refused.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_for_an_earlier_request_that_is_not_ready_yet() {
    let (gate, limits) = (Gate::new(STEP), limits(10, 10));
    let early = gate.join();
    let mut late = queue_up(&gate, &limits, 1);
    gate.open(1, true);
    assert_eq!(poll_each(&mut late).iter().flatten().count(), 0);
    let mut early: Vec<Turn<'_>> = vec![Box::pin(early.turn(&limits, later()))];
    assert_eq!(poll_each(&mut early).iter().flatten().count(), 1);
}

proptest! {
    #[test]
    fn nobody_is_forgotten_and_the_hard_limit_is_kept(
        steps in prop::collection::vec((0_u8..6, 0_usize..8), 0..80),
        hard in 1_usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (gate, limits) = (Gate::new(STEP), limits(1, hard));
            let (mut permits, mut turns) = (Vec::new(), Vec::new());
            let mut slots: Vec<Slot> = Vec::new();
            let mut epoch = 0;
            for (what, which) in steps {
                match what {
                    0 => slots.extend(gate.try_enter(&limits)),
                    1 => permits.push(gate.join()),
                    2 if !permits.is_empty() => {
                        let permit = permits.remove(which % permits.len());
                        turns.push(Box::pin(permit.turn(&limits, later())));
                    }
                    3 if !slots.is_empty() => {
                        let index = which % slots.len();
                        slots[index].answered();
                        if which > 3 { drop(slots.remove(index)); }
                    }
                    4 if !turns.is_empty() && which > 4 => drop(turns.remove(which % turns.len())),
                    4 if !permits.is_empty() => drop(permits.remove(which % permits.len())),
                    5 => { epoch += 1; gate.open(epoch, which > 3); }
                    _ => {}
                }
                turns.retain_mut(|turn| match turn.as_mut().now_or_never() {
                    Some(slot) => { slots.push(slot.unwrap()); false }
                    None => true,
                });
                assert!(slots.len() <= hard && gate.inside() >= slots.len());
            }
            drop(permits);
            slots.clear();
            // Whoever waits comes in, one after the other.
            while !turns.is_empty() {
                tokio::time::advance(STEP).await;
                let before = turns.len();
                turns.retain_mut(|turn| turn.as_mut().now_or_never().is_none());
                assert!(turns.len() < before, "somebody is let in");
            }
            assert_eq!(gate.inside(), 0);
        });
    }
}
