//! Who has a slot, and when.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;

fn claim(route: &str, client: u8) -> Claim {
    Claim {
        route: route.into(),
        client: IpAddr::from([10, 0, client, 1]).into(),
        since: Instant::now(),
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::test(start_paused = true)]
async fn a_claim_waits_for_a_slot_and_gives_up_in_time() {
    let slots = FairSlots::new(1);
    let first = slots.take(claim("a", 1), later()).await.unwrap();
    let soon = Instant::now() + Duration::from_secs(1);
    assert!(slots.take(claim("a", 1), soon).await.is_none());
    assert_eq!(slots.waiting(), 0, "who gave up is not in the queue");
    drop(first);
    assert!(
        slots
            .take(claim("a", 1), soon)
            .now_or_never()
            .flatten()
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_one_route_does_not_keep_another_waiting() {
    let slots = FairSlots::new(2);
    let held = [
        slots.take(claim("crowd", 1), later()).await.unwrap(),
        slots.take(claim("crowd", 1), later()).await.unwrap(),
    ];
    let mut tasks = JoinSet::new();
    for (route, client) in [("crowd", 1), ("crowd", 1), ("crowd", 2), ("quiet", 3)] {
        let (slots, claim) = (slots.clone(), claim(route, client));
        tasks.spawn(async move {
            let slot = slots.take(claim.clone(), later()).await.unwrap();
            (claim.route.to_string(), client, slot)
        });
        tokio::time::advance(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(slots.waiting(), 4);
    let mut order = Vec::new();
    drop(held);
    while let Some(done) = tasks.join_next().await {
        let (route, client, slot) = done.unwrap();
        order.push((route, client));
        drop(slot);
    }
    let place = |what: (&str, u8)| {
        order
            .iter()
            .position(|(r, c)| (r.as_str(), *c) == what)
            .unwrap()
    };
    assert!(place(("quiet", 3)) < 2, "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn among_equals_the_oldest_is_first() {
    let slots = FairSlots::new(1);
    let held = slots.take(claim("x", 9), later()).await.unwrap();
    let old = claim("a", 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    let young = claim("b", 2);
    // The younger one asked for the slot first.
    let mut second = Box::pin(slots.take(young, later()));
    assert!(second.as_mut().now_or_never().is_none());
    let mut first = Box::pin(slots.take(old, later()));
    assert!(first.as_mut().now_or_never().is_none());
    drop(held);
    let slot = first.now_or_never().flatten();
    assert!(slot.is_some());
    assert!(second.as_mut().now_or_never().is_none());
    drop(slot);
    assert!(second.now_or_never().flatten().is_some());
}

type Taking<'a> = Pin<Box<dyn Future<Output = Option<FairSlot>> + 'a>>;

/// A claim in the queue that has no slot yet.
fn queued(slots: &FairSlots, claim: Claim) -> Taking<'_> {
    let mut taking: Taking<'_> = Box::pin(slots.take(claim, later()));
    assert!(taking.as_mut().now_or_never().is_none(), "it is to wait");
    taking
}

fn is_granted(taking: &mut Taking<'_>) -> Option<FairSlot> {
    taking.as_mut().now_or_never().map(Option::unwrap)
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_calls_all_hang_leaves_slots_to_others() {
    let slots = FairSlots::new(16);
    // Each on a route of its own, so that the routes do not matter.
    let mut hanging = Vec::new();
    let mut crowd: Vec<Taking<'_>> = Vec::new();
    for number in 0..100 {
        let mut taking: Taking<'_> = Box::pin(slots.take(claim(&number.to_string(), 1), later()));
        match taking.as_mut().now_or_never() {
            Some(slot) => hanging.extend(slot),
            None => crowd.push(taking),
        }
    }
    assert_eq!(hanging.len(), 12);
    let honest = slots.take(claim("99", 2), later()).now_or_never().flatten();
    assert!(honest.is_some());
    drop(honest);
    drop(crowd);
    drop(hanging);
    assert!(slots.is_as_new());
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_many_clients_on_one_route_does_not_keep_another_route_waiting() {
    let slots = FairSlots::new(4);
    let mut out: Vec<FairSlot> = Vec::new();
    let mut crowd: Vec<Taking<'_>> = Vec::new();
    for number in 0..100 {
        let mut taking: Taking<'_> = Box::pin(slots.take(claim("crowd", number), later()));
        match taking.as_mut().now_or_never() {
            Some(slot) => out.extend(slot),
            None => crowd.push(taking),
        }
    }
    assert_eq!(out.len(), 4);
    tokio::time::advance(Duration::from_secs(1)).await;
    let mut quiet = queued(&slots, claim("quiet", 200));
    // The first that is free of the half that goes by route.
    drop(out.remove(0));
    assert!(is_granted(&mut quiet).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_leaves_the_queue_is_not_in_it() {
    let slots = FairSlots::new(1);
    let held = slots.take(claim("a", 1), later()).await;
    let crowd: Vec<_> = (0..50)
        .map(|number| queued(&slots, claim("a", number)))
        .collect();
    assert_eq!(slots.waiting(), 50);
    drop(crowd);
    assert_eq!(slots.waiting(), 0);
    // One to whom the slot was given, and who leaves before it looks.
    let unread = queued(&slots, claim("a", 1));
    let mut next = queued(&slots, claim("a", 2));
    drop(held);
    drop(unread);
    let slot = is_granted(&mut next);
    assert!(slot.is_some());
    drop((slot, next));
    assert!(slots.is_as_new());
}

/// The queue's books, kept in the simplest way.
#[derive(Default)]
struct Books {
    out: Vec<(Claim, Half)>,
    waiting: Vec<(Age, Claim)>,
}

impl Books {
    fn out(&self, fits: impl Fn(&Claim, Half) -> bool) -> usize {
        let fitting = self.out.iter().filter(|(claim, half)| fits(claim, *half));
        fitting.count()
    }

    /// How old the oldest that waits of those is.
    fn oldest(&self, fits: impl Fn(&Claim) -> bool) -> Option<Age> {
        let fitting = self.waiting.iter().filter(|(_, claim)| fits(claim));
        fitting.map(|(age, _)| *age).min()
    }

    /// Who is next, by a look at everybody.
    fn next(&self, size: usize) -> Option<(Age, Half)> {
        let by_client = |_: &Claim, half| half == Half::ByClient;
        if self.out(|_, half| half == Half::ByRoute) < size.div_ceil(2) {
            let rank = |claim: &Claim, age| {
                let Claim { route, client, .. } = claim;
                let of_route = |other: &Claim| other.route == *route;
                let of_both = |other: &Claim| of_route(other) && other.client == *client;
                (
                    self.out(|other, _| of_route(other)),
                    self.oldest(of_route),
                    self.out(|other, _| of_both(other)),
                    self.oldest(of_both),
                    age,
                )
            };
            let next = self
                .waiting
                .iter()
                .min_by_key(|(age, claim)| rank(claim, *age));
            return next.map(|(age, _)| (*age, Half::ByRoute));
        }
        let left = size / 2 - self.out(by_client);
        let of_client = |claim: &Claim| {
            self.out(|other, half| half == Half::ByClient && other.client == claim.client)
        };
        let rank = |claim: &Claim, age| {
            let same_client = |other: &Claim| other.client == claim.client;
            let same_both = |other: &Claim| same_client(other) && other.route == claim.route;
            (
                of_client(claim),
                self.oldest(same_client),
                self.out(|other, half| half == Half::ByClient && same_both(other)),
                self.oldest(same_both),
                age,
            )
        };
        let next = self
            .waiting
            .iter()
            .min_by_key(|(age, claim)| rank(claim, *age));
        let next = next.filter(|(_, claim)| of_client(claim) < left);
        next.map(|(age, _)| (*age, Half::ByClient))
    }
}

proptest! {
    #[test]
    fn the_next_is_whom_a_look_at_everybody_finds(
        steps in prop::collection::vec((0_u8..4, 0_u8..3, 0_u8..4, 0_u64..3, any::<usize>()), 0..150),
        size in 1_usize..12,
    ) {
        let (slots, mut books) = (FairSlots::new(size), Books::default());
        let start = Instant::now();
        for (what, route, client, since, which) in steps {
            let mut queue = slots.lock();
            match what {
                0 | 1 => {
                    let claim = Claim {
                        since: start + Duration::from_secs(since),
                        ..claim(&route.to_string(), client)
                    };
                    let age = queue.join(claim.clone(), oneshot::channel().0);
                    books.waiting.push((age, claim));
                }
                2 if !books.waiting.is_empty() => {
                    let (age, _) = books.waiting.swap_remove(which % books.waiting.len());
                    prop_assert!(queue.leave(age).is_some());
                    prop_assert!(queue.leave(age).is_none(), "only once");
                }
                _ if !books.out.is_empty() => {
                    let (claim, half) = books.out.swap_remove(which % books.out.len());
                    queue.give_back(&claim, half);
                }
                _ => {}
            }
            let is_full_round = which % 4 > 0;
            while let Some((age, half)) = books.next(size).filter(|_| is_full_round) {
                prop_assert_eq!(queue.next(), Some((age, half)));
                prop_assert!(queue.grant_next().is_some());
                let index = books.waiting.iter().position(|(other, _)| *other == age).unwrap();
                books.out.push((books.waiting.swap_remove(index).1, half));
                prop_assert!(books.out.len() <= size);
            }
            prop_assert_eq!(queue.next(), books.next(size));
        }
        for (age, _) in books.waiting {
            slots.lock().leave(age);
        }
        for (claim, half) in books.out {
            slots.lock().give_back(&claim, half);
        }
        prop_assert!(slots.is_as_new());
    }
}

/// How long it takes so many claims to come, to have their slots, and to leave.
fn time_of(claims: u32) -> Duration {
    let (slots, start) = (FairSlots::new(16), Instant::now());
    let mut queue = slots.lock();
    let mut ages = Vec::new();
    for number in 0..claims {
        let [.., high, low] = (number % 977).to_be_bytes();
        let claim = Claim {
            client: IpAddr::from([10, high, low, 1]).into(),
            ..claim(&(number % 31).to_string(), 0)
        };
        ages.push(queue.join(claim, oneshot::channel().0));
    }
    // Every third gives up.
    for age in ages.iter().step_by(3) {
        queue.leave(*age);
    }
    let mut out = std::collections::VecDeque::new();
    while !queue.waiting.is_empty() {
        match queue.grant_next() {
            Some((queued, half)) => out.push_back((queued.claim, half)),
            None => {
                let (claim, half) = out.pop_front().unwrap();
                queue.give_back(&claim, half);
            }
        }
    }
    start.elapsed()
}

#[test]
fn ten_times_the_claims_take_about_ten_times_as_long() {
    let best = |claims| (0..5).map(|_| time_of(claims)).min().unwrap();
    let (few, many) = (best(1000), best(10_000));
    // A walk over all that wait would take a hundred times as long.
    assert!(many < few * 40, "1,000: {few:?}; 10,000: {many:?}");
}
