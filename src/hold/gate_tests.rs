//! The gate's order, ramp and limits, on paused time. They are beside `gate.rs`, which runs under
//! loom, where none of these can.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::gate::{Gate, NotItsTurn, Permit, Slot};
use crate::config::{ClientShare, LimitsConfig};
use crate::names::ClientNetwork;

const STEP: Duration = Duration::from_millis(500);

fn limits(soft: usize, hard: usize) -> LimitsConfig {
    LimitsConfig {
        max_inflight: hard,
        soft_inflight: soft,
        soft_wait: Duration::from_millis(100),
        ..LimitsConfig::default()
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

type Turn<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Slot, NotItsTurn>> + 'a>>;

fn client(number: u8) -> ClientNetwork {
    IpAddr::from([10, 0, number, 1]).into()
}

/// So many, of so many, that a share is of no matter.
fn unlimited(soft: usize, hard: usize) -> LimitsConfig {
    LimitsConfig {
        max_inflight_per_client: ClientShare::Most(NonZeroUsize::MAX),
        ..limits(soft, hard)
    }
}

/// This many requests in the queue, all ready.
fn queue_up<'a>(gate: &Arc<Gate>, limits: &'a LimitsConfig, many: usize) -> Vec<Turn<'a>> {
    queue_up_of(gate, client(0), limits, many)
}

fn queue_up_of<'a>(
    gate: &Arc<Gate>,
    client: ClientNetwork,
    limits: &'a LimitsConfig,
    many: usize,
) -> Vec<Turn<'a>> {
    let permits: Vec<Permit> = (0..many).map(|_| gate.join(client)).collect();
    permits
        .into_iter()
        .map(|permit| -> Turn<'a> { Box::pin(unconstrained(permit.turn(limits, later()))) })
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
    assert!(gate.is_idle() && gate.try_enter(client(0), &limits).is_some());
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
    let first = gate.try_enter(client(0), &limits).unwrap();
    assert!(gate.try_enter(client(0), &limits).is_none());
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
    let _inside = gate.try_enter(client(0), &limits).unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    let refused = gate.join(client(0)).turn(&limits, deadline).await;
    assert!(refused.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_for_an_earlier_request_that_is_not_ready_yet() {
    let (gate, limits) = (Gate::new(STEP), limits(10, 10));
    let early = gate.join(client(0));
    let mut late = queue_up(&gate, &limits, 1);
    gate.open(1, true);
    assert_eq!(poll_each(&mut late).iter().flatten().count(), 0);
    let mut early: Vec<Turn<'_>> = vec![Box::pin(early.turn(&limits, later()))];
    assert_eq!(poll_each(&mut early).iter().flatten().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_for_an_earlier_request_only_for_a_step() {
    let (gate, limits) = (Gate::new(STEP), limits(1, 1));
    let _never_ready = gate.join(client(0));
    let mut late = queue_up_of(&gate, client(1), &limits, 1);
    gate.open(1, false);
    assert_eq!(poll_each(&mut late).iter().flatten().count(), 0);
    tokio::time::advance(STEP).await;
    assert_eq!(poll_each(&mut late).iter().flatten().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_place_is_kept_for_who_has_its_share() {
    let (gate, limits) = (Gate::new(STEP), limits(4, 4));
    let _crowd = greedy(&gate, 1, &limits);
    let _unready = gate.join(client(1));
    assert!(gate.try_enter(client(2), &limits).is_some());
}

/// All the places that a client gets that waits for nothing.
fn greedy(gate: &Arc<Gate>, number: u8, limits: &LimitsConfig) -> Vec<Slot> {
    std::iter::from_fn(|| gate.try_enter(client(number), limits)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_all_it_can_leaves_a_quarter_to_others() {
    let (gate, limits) = (Gate::new(STEP), limits(1000, 1000));
    let crowd = greedy(&gate, 1, &limits);
    assert_eq!(crowd.len(), 750);
    // A thousand more of its requests wait, and another client's is served nevertheless.
    let mut waiting = queue_up_of(&gate, client(1), &limits, 1000);
    tokio::time::advance(STEP * 2).await;
    assert_eq!(poll_each(&mut waiting).iter().flatten().count(), 0);
    let honest = gate.try_enter(client(2), &limits);
    assert!(honest.is_some());
    let mut in_line = queue_up_of(&gate, client(3), &limits, 1);
    assert_eq!(poll_each(&mut in_line).iter().flatten().count(), 1);
    drop((honest, in_line));
    drop(crowd);
    assert_eq!(poll_each(&mut waiting).iter().flatten().count(), 750);
    drop(waiting);
    assert!(gate.is_idle() && gate.try_enter(client(1), &limits).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_its_share_has_its_turn_when_the_share_allows_it() {
    let (gate, limits) = (Gate::new(STEP), limits(8, 8));
    let mut crowd = greedy(&gate, 1, &limits);
    assert_eq!(crowd.len(), 6);
    let soon = Instant::now() + Duration::from_secs(1);
    let refused = gate.join(client(1)).turn(&limits, soon).await;
    assert_eq!(refused.unwrap_err(), NotItsTurn::OverShare);
    let mut waiting = queue_up_of(&gate, client(1), &limits, 2);
    assert_eq!(poll_each(&mut waiting).iter().flatten().count(), 0);
    drop(crowd.pop());
    let first = poll_each(&mut waiting[..1]);
    assert_eq!(first.iter().flatten().count(), 1);
    assert_eq!(poll_each(&mut waiting[1..]).iter().flatten().count(), 0);
    // One of those that are counted to nobody leaves, too.
    drop(crowd.swap_remove(0));
    assert_eq!(poll_each(&mut waiting[1..]).iter().flatten().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_number_is_the_share_and_a_large_one_switches_it_off() {
    let share = |most: usize| LimitsConfig {
        max_inflight_per_client: ClientShare::Most(NonZeroUsize::new(most).unwrap()),
        ..limits(8, 8)
    };
    for (most, count) in [(1, 1), (5, 5), (7, 7), (8, 8), (9, 8)] {
        let gate = Gate::new(STEP);
        assert_eq!(greedy(&gate, 1, &share(most)).len(), count, "{most}");
        assert!(gate.is_idle());
    }
}

#[tokio::test(start_paused = true)]
async fn places_that_are_counted_to_clients_take_none_from_those_that_are_free_for_all() {
    let (gate, limits) = (Gate::new(STEP), limits(8, 8));
    let free_for_all: Vec<Slot> = greedy(&gate, 1, &limits).into_iter().take(4).collect();
    let counted: Vec<Slot> = (2..6)
        .map(|number| gate.try_enter(client(number), &limits).unwrap())
        .collect();
    drop(free_for_all);
    assert_eq!(greedy(&gate, 6, &limits).len(), 4);
    drop(counted);
    assert!(gate.is_idle());
}

#[tokio::test(start_paused = true)]
async fn clients_that_wait_take_turns() {
    let (gate, limits) = (Gate::new(STEP), unlimited(1, 1));
    let mut inside = gate.try_enter(client(9), &limits);
    let mut crowd = queue_up_of(&gate, client(1), &limits, 50);
    let mut quiet = queue_up_of(&gate, client(2), &limits, 2);
    assert_eq!(poll_each(&mut crowd).iter().flatten().count(), 0);
    assert_eq!(poll_each(&mut quiet).iter().flatten().count(), 0);
    let mut order = Vec::new();
    for _ in 0..5 {
        drop(inside.take());
        for (name, turns) in [("crowd", &mut crowd), ("quiet", &mut quiet)] {
            if let Some(Some(slot)) = poll_each(&mut turns[..1]).pop() {
                inside = Some(slot);
                order.push(name);
                drop(turns.remove(0));
                break;
            }
        }
    }
    assert_eq!(order, ["crowd", "quiet", "crowd", "quiet", "crowd"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_place_below_its_own_limit_holds_up_nobody_with_a_higher_one() {
    let (gate, low, high) = (Gate::new(STEP), limits(2, 2), limits(8, 8));
    let _inside = greedy(&gate, 1, &low);
    let mut first = queue_up_of(&gate, client(2), &low, 1);
    assert_eq!(poll_each(&mut first).iter().flatten().count(), 0);
    let mut second = queue_up_of(&gate, client(3), &high, 1);
    assert_eq!(poll_each(&mut second).iter().flatten().count(), 1);
}

proptest! {
    #[test]
    fn nobody_is_forgotten_and_the_hard_limit_is_kept(
        steps in prop::collection::vec((0_u8..6, 0_usize..8), 0..80),
        hard in 1_usize..9,
        clients in 1_u8..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (gate, limits) = (Gate::new(STEP), limits(hard.div_ceil(2), hard));
            let of = |which: usize| client(u8::try_from(which).unwrap() % clients);
            let (mut permits, mut turns) = (Vec::new(), Vec::new());
            let mut slots: Vec<Slot> = Vec::new();
            let mut epoch = 0;
            for (what, which) in steps {
                match what {
                    0 => slots.extend(gate.try_enter(of(which), &limits)),
                    1 => permits.push(gate.join(of(which))),
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
            assert!(gate.is_as_new());
        });
    }
}
