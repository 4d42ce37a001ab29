//! The order of those that wait, against one that looks at everybody, and what it costs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client_counts::Bound;
use super::turn_order::{Counted, KeptPlaces, Lane, TurnOrder};
use crate::config::ClientShare;
use crate::names::ClientNetwork;

const STEP: Duration = Duration::from_secs(1);

fn client(number: u16) -> ClientNetwork {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([10, high, low, 1]).into()
}

fn lane(limit: usize, of: usize) -> Lane {
    let bound = Bound {
        limit: of,
        share: ClientShare::Half,
    };
    Lane { limit, bound }
}

fn keep() -> KeptPlaces {
    let now = Instant::now();
    KeptPlaces {
        opened_at: now,
        step: STEP,
        now,
    }
}

/// The order, with its places and the permits that wait.
#[derive(Default)]
struct Model {
    order: TurnOrder,
    inside: Vec<Counted>,
    waiting: BTreeMap<u64, Waiting>,
    round: u64,
    next_rounds: BTreeMap<ClientNetwork, u64>,
}

struct Waiting {
    client: ClientNetwork,
    round: u64,
    lane: Option<Lane>,
    go: oneshot::Receiver<Counted>,
}

// === impl Model ===

impl Model {
    fn join(&mut self, client: ClientNetwork) {
        let (sender, go) = oneshot::channel();
        let number = self.order.join(client, sender);
        if !self
            .waiting
            .values()
            .any(|waiting| waiting.client == client)
        {
            self.next_rounds.remove(&client);
        }
        let next = self.next_rounds.get(&client).copied().unwrap_or_default();
        let round = next.max(self.round);
        self.next_rounds.insert(client, round + 1);
        let lane = None;
        self.waiting.insert(
            number,
            Waiting {
                client,
                round,
                lane,
                go,
            },
        );
    }

    fn set_lane(&mut self, number: u64, lane: Lane) {
        self.order.set_lane(number, lane);
        self.waiting.get_mut(&number).unwrap().lane = Some(lane);
    }

    fn leave(&mut self, index: usize) {
        if let Some(client) = self.inside.swap_remove(index) {
            self.order.give_back(client);
        }
    }

    fn counted(&self, client: ClientNetwork) -> usize {
        self.inside
            .iter()
            .flatten()
            .filter(|of| **of == client)
            .count()
    }

    /// Who is next, by a look at everybody.
    fn expected(&self, window: Option<usize>) -> Option<(u64, bool)> {
        let inside = self.inside.len();
        let all_counted = self.inside.iter().flatten().count();
        let mut all: Vec<_> = self.waiting.iter().collect();
        all.sort_by_key(|(number, waiting)| (waiting.round, **number));
        let mut unready = Vec::new();
        for (number, waiting) in all {
            let Some(lane) = waiting.lane else {
                unready.push(waiting.client);
                continue;
            };
            let Bound { share, limit } = lane.bound;
            let is_free = inside < share.free_for_all(limit, all_counted);
            let allowed = |client: ClientNetwork| {
                is_free || share.allows(limit, self.counted(client), all_counted, 1)
            };
            let kept = unready.iter().filter(|client| allowed(**client)).count();
            let most = window.unwrap_or(usize::MAX).min(lane.limit);
            if allowed(waiting.client) && inside + kept < most {
                return Some((*number, !is_free));
            }
        }
        None
    }

    fn let_in(&mut self, window: Option<usize>) {
        while let Some((number, is_counted)) = self.order.next(self.inside.len(), window, &keep()) {
            self.order.let_go(number, is_counted);
            let mut waiting = self.waiting.remove(&number).unwrap();
            let counted = waiting.go.try_recv().unwrap();
            assert_eq!(counted, is_counted.then_some(waiting.client));
            self.round = self.round.max(waiting.round);
            self.inside.push(counted);
        }
    }
}

proptest! {
    #[test]
    fn the_next_is_whom_a_look_at_everybody_finds(
        steps in prop::collection::vec((0_u8..5, 0_u16..5, any::<usize>()), 0..150),
        limit in 1_usize..12,
        window in prop::option::of(1_usize..6),
    ) {
        let mut model = Model::default();
        for (what, who, which) in steps {
            let nth = |count: usize| which.checked_rem(count);
            let number = nth(model.waiting.len())
                .and_then(|index| model.waiting.keys().nth(index).copied());
            match (what, number) {
                (0, _) => model.join(client(who)),
                (1, Some(number)) => model.set_lane(number, lane(limit, limit)),
                (2, Some(number)) => model.set_lane(number, lane(limit.div_ceil(2), limit)),
                (3, Some(number)) => {
                    prop_assert!(model.order.remove(number));
                    model.waiting.remove(&number);
                    prop_assert!(!model.order.remove(number), "only once");
                }
                _ => if let Some(index) = nth(model.inside.len()) {
                    model.leave(index);
                },
            }
            prop_assert_eq!(
                model.order.next(model.inside.len(), window, &keep()),
                model.expected(window)
            );
            if which % 3 > 0 {
                model.let_in(window);
            }
            prop_assert!(model.inside.len() <= limit);
        }
        for number in model.waiting.keys().copied().collect::<Vec<_>>() {
            prop_assert!(model.order.remove(number));
        }
        while !model.inside.is_empty() {
            model.leave(0);
        }
        prop_assert!(model.order.is_as_new());
    }
}

/// The most steps that one event costs while so many requests of so many clients come, get ready,
/// and are let in, the last first.
fn most_steps(requests: u16, clients: u16) -> u64 {
    let (mut model, mut most) = (Model::default(), 0);
    for number in 0..requests {
        model.join(client(number % clients));
    }
    let numbers: Vec<u64> = model.waiting.keys().copied().rev().collect();
    let mut event = |model: &mut Model, change: &dyn Fn(&mut Model)| {
        change(model);
        let window = Some(model.inside.len() + 1);
        let before = model.order.steps.get();
        let inside = model.inside.len();
        model.let_in(window);
        let events = u64::try_from(1 + model.inside.len() - inside).unwrap();
        most = most.max((model.order.steps.get() - before).div_ceil(events));
    };
    for number in numbers {
        event(&mut model, &|model| {
            model.set_lane(number, lane(1000, 1000));
        });
    }
    while !model.waiting.is_empty() {
        event(&mut model, &|model| {
            if !model.inside.is_empty() {
                model.leave(0);
            }
        });
    }
    most
}

#[test]
fn an_event_costs_the_same_however_many_wait() {
    for clients in [1, 7, 1000] {
        let (few, many) = (most_steps(1000, clients), most_steps(10_000, clients));
        assert!(
            few <= 200 && many <= 200,
            "{clients} clients: {few}, {many}"
        );
    }
}
