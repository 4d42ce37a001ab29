//! The bounds of the hold queue and a client's share of each.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::config::{HostPattern, LimitsConfig, RouteName};

fn hold(per_instance: usize, in_all: usize, bytes: usize) -> Arc<Hold> {
    let config = WakeConfig {
        max_held_per_instance: per_instance,
        max_held: in_all,
        max_held_bytes: bytes,
        ..WakeConfig::default()
    };
    Hold::new(&config, Arc::new(Metrics::new()))
}

fn id(name: &str) -> InstanceId {
    InstanceId::parse(name).unwrap()
}

fn client(number: u8) -> ClientNetwork {
    IpAddr::from([10, 0, number, 1]).into()
}

/// A place for a request of a client of its own, so that no share matters.
fn admit(hold: &Arc<Hold>, id: &InstanceId, bytes: usize) -> Result<Ticket, AdmitError> {
    let number = u8::try_from(hold.held() % 256).unwrap();
    admit_of(hold, client(number), id, bytes)
}

fn admit_of(
    hold: &Arc<Hold>,
    client: ClientNetwork,
    id: &InstanceId,
    bytes: usize,
) -> Result<Ticket, AdmitError> {
    let request = HeldRequest {
        route: &"r".into(),
        in_route: 1000,
        share: ClientShare::Half,
        client,
        bytes,
    };
    hold.admit(&queues_of(hold, id), &request)
}

/// The queues of an instance, which its requests own together.
fn queues_of(hold: &Hold, id: &InstanceId) -> InstanceQueues {
    let mut all = hold.registry.all().into_iter();
    let found = all.find(|queues| queues.instance() == id);
    found.unwrap_or_else(|| hold.new_queues(id))
}

fn is_as_new(hold: &Hold) -> bool {
    hold.held.is_as_new()
        && hold.held_bytes.is_as_new()
        && hold.routes.is_empty()
        && hold.registry.all().is_empty()
}

#[test]
fn one_route_cannot_take_the_places_of_another() {
    let hold = hold(10, 10, 100);
    let enter_at = |route: &RouteKey, in_route: usize, name: &str| {
        let request = HeldRequest {
            route,
            in_route,
            share: ClientShare::Half,
            client: client(1),
            bytes: 0,
        };
        hold.admit(&queues_of(&hold, &id(name)), &request)
    };
    let enter = |route: &str, in_route: usize, name: &str| enter_at(&route.into(), in_route, name);
    let _crowd = (
        enter("crowd", 2, "a").unwrap(),
        enter("crowd", 2, "b").unwrap(),
    );
    assert_eq!(enter("crowd", 2, "c").unwrap_err(), AdmitError::RouteQueue);
    assert!(enter("quiet", 2, "c").is_ok());
    assert_eq!(enter("shut", 0, "c").unwrap_err(), AdmitError::RouteQueue);
    // Nor those of one of the same name that is for another port.
    let name = RouteName::new(&HostPattern::parse("a.b").unwrap(), "/");
    let _http = enter_at(&name.key(Some(80)), 1, "a").unwrap();
    let full = enter_at(&name.key(Some(80)), 1, "b").unwrap_err();
    assert_eq!(full, AdmitError::RouteQueue);
    assert!(enter_at(&name.key(Some(443)), 1, "b").is_ok());
}

#[test]
fn each_bound_is_kept_and_named() {
    let hold = hold(2, 3, 100);
    let _a = (
        admit(&hold, &id("a"), 10).unwrap(),
        admit(&hold, &id("a"), 10).unwrap(),
    );
    assert_eq!(
        admit(&hold, &id("a"), 1).unwrap_err(),
        AdmitError::InstanceQueue
    );
    assert_eq!(admit(&hold, &id("b"), 81).unwrap_err(), AdmitError::Bytes);
    let b = admit(&hold, &id("b"), 25).unwrap();
    assert_eq!(
        admit(&hold, &id("c"), 0).unwrap_err(),
        AdmitError::TotalQueue
    );
    drop(b);
    admit(&hold, &id("c"), 0)
        .unwrap()
        .release(ReleaseReason::Ready);
}

#[test]
fn zero_sheds_everything() {
    assert!(admit(&hold(0, 10, 10), &id("a"), 0).is_err());
    assert!(admit(&hold(10, 0, 10), &id("a"), 0).is_err());
    assert!(admit(&hold(10, 10, 0), &id("a"), 1).is_err());
}

/// All the places that one client gets in these instances' queues, one after the other.
fn crowd(hold: &Arc<Hold>, greedy: ClientNetwork, ids: &[InstanceId], bytes: usize) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    for id in ids {
        loop {
            match admit_of(hold, greedy, id, bytes) {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => {
                    assert_eq!(error, AdmitError::QueueShare);
                    break;
                }
            }
        }
    }
    tickets
}

#[test]
fn one_client_leaves_a_quarter_of_an_instances_queue_to_others() {
    let hold = hold(100, 1000, 10_000);
    let tickets = crowd(&hold, client(1), &[id("a")], 1);
    assert_eq!(tickets.len(), 75);
    assert!(admit_of(&hold, client(2), &id("a"), 1).is_ok());
    assert!(
        admit_of(&hold, client(1), &id("b"), 1).is_ok(),
        "another instance's queue is another matter"
    );
    drop(tickets);
    assert!(is_as_new(&hold));
}

#[test]
fn one_client_leaves_a_quarter_of_all_places_and_of_all_bytes_to_others() {
    let ids: Vec<InstanceId> = (0..20).map(|name| id(&name.to_string())).collect();
    let by_number = hold(100, 400, usize::MAX);
    let tickets = crowd(&by_number, client(1), &ids, 1);
    assert_eq!(tickets.len(), 300);
    assert!(admit_of(&by_number, client(2), &ids[0], 1).is_ok());
    drop(tickets);
    assert!(is_as_new(&by_number));
    let by_bytes = hold(1000, 10_000, 400);
    let tickets = crowd(&by_bytes, client(1), &ids, 10);
    assert_eq!(tickets.len(), 30);
    assert!(admit_of(&by_bytes, client(2), &ids[0], 10).is_ok());
    drop(tickets);
    assert!(is_as_new(&by_bytes));
}

#[test]
fn a_number_is_the_clients_share_and_a_large_one_switches_it_off() {
    let hold = hold(100, 1000, 10_000);
    let many = |most: usize| {
        let share = ClientShare::Most(NonZeroUsize::new(most).unwrap());
        let mut tickets = Vec::new();
        while let Ok(ticket) = hold.admit(
            &queues_of(&hold, &id("a")),
            &HeldRequest {
                route: &"r".into(),
                in_route: 100,
                share,
                client: client(1),
                bytes: 1,
            },
        ) {
            tickets.push(ticket);
        }
        tickets.len()
    };
    assert_eq!([1, 30, 99, 100, 500].map(many), [1, 30, 99, 100, 100]);
}

#[test]
fn gates_that_nobody_uses_do_not_add_up() {
    let hold = hold(10, 10, 10);
    let queues = hold.new_queues(&id("a"));
    let used = queues.gate(1);
    for port in 2..1000 {
        drop(queues.gate(port));
    }
    assert!(Arc::ptr_eq(&used, &queues.gate(1)));
    assert!(queues.gates() <= 16, "{}", queues.gates());
}

#[test]
fn queues_are_counted_whoever_owns_them_and_gone_with_their_owner() {
    let hold = hold(10, 10, 10);
    let (limits, owned) = (LimitsConfig::default(), hold.new_queues(&id("a")));
    let slots = [
        owned.gate(80).try_enter(client(1), &limits).unwrap(),
        owned.gate(81).try_enter(client(1), &limits).unwrap(),
        queues_of(&hold, &id("a"))
            .gate(80)
            .try_enter(client(1), &limits)
            .unwrap(),
    ];
    let waiting = admit(&hold, &id("b"), 1).unwrap();
    assert_eq!((hold.inside(), hold.held()), (3, 1));
    let census = hold.census();
    assert_eq!(census.len(), 2);
    assert_eq!((census[&id("a")], census[&id("b")]), ((0, 3), (1, 0)));
    drop((slots, waiting, owned));
    assert!(hold.census().is_empty());
    assert!(is_as_new(&hold));
}

proptest! {
    #[test]
    fn places_are_conserved_and_whoever_has_none_gets_one_while_any_is_left(
        steps in prop::collection::vec((0_usize..3, 0_u8..4, any::<bool>()), 0..120),
    ) {
        let (per_instance, in_all) = (8, 12);
        let hold = hold(per_instance, in_all, 1000);
        let mut tickets: Vec<(usize, Ticket)> = Vec::new();
        for (which, number, enter) in steps {
            let ids = [0, 1, 2].map(|which| id(&which.to_string()));
            if enter {
                let ticket = admit_of(&hold, client(number), &ids[which], 5);
                tickets.extend(ticket.ok().map(|ticket| (which, ticket)));
            } else if !tickets.is_empty() {
                drop(tickets.swap_remove((which + usize::from(number)) % tickets.len()));
            }
            prop_assert_eq!(hold.held(), tickets.len());
            prop_assert!(tickets.len() <= in_all);
            for (index, id) in ids.iter().enumerate() {
                let here = tickets.iter().filter(|(which, _)| *which == index).count();
                prop_assert!(here <= per_instance);
                prop_assert_eq!(queues_of(&hold, id).held(), here);
                let newcomer = admit_of(&hold, client(99), id, 5);
                let is_room = here < per_instance && tickets.len() < in_all;
                prop_assert_eq!(newcomer.is_ok(), is_room);
            }
        }
        tickets.clear();
        prop_assert_eq!(hold.held(), 0);
        prop_assert!(is_as_new(&hold));
    }
}
