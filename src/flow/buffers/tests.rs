//! Who may have how much of the budget.

use std::future::poll_fn;

use futures_util::FutureExt as _;

use super::*;

const MIB: usize = 1 << 20;

fn client(budget: &BufferBudget, last: u8) -> ClientBuffers {
    budget.of(IpAddr::from([192, 0, last, 1]))
}

fn has_room(client: &ClientBuffers) -> bool {
    let mut place = Place::default();
    poll_fn(|cx| client.poll_room(&mut place, cx))
        .now_or_never()
        .is_some()
}

/// What a client can take that reads as long as there is room.
fn fill(client: &ClientBuffers) -> Vec<Buffered> {
    let mut taken = Vec::new();
    while has_room(client) {
        taken.push(client.hold(UNIT));
    }
    taken
}

fn bytes(all: &[Buffered]) -> usize {
    all.iter().map(Buffered::bytes).sum()
}

fn is_as_new(budget: &BufferBudget) -> bool {
    let counts = budget.0.lock();
    let nobody = counts.of.is_empty() && counts.waiting.is_empty() && counts.in_all == 0;
    nobody && budget.used() == 0 && !budget.0.crowded.load(Ordering::SeqCst)
}

#[test]
fn one_client_leaves_some_of_the_budget_to_others_and_bodies_of_all_of_them_leave_a_quarter() {
    let budget = BufferBudget::new(16 * MIB);
    let greedy = fill(&client(&budget, 1));
    assert!((8 * MIB..=9 * MIB).contains(&bytes(&greedy)));
    let second = fill(&client(&budget, 2));
    assert!(bytes(&second) >= MIB, "{}", bytes(&second));
    let others: Vec<_> = (3..200).map(|last| fill(&client(&budget, last))).collect();
    assert!(budget.used() <= 12 * MIB, "{budget:?}");
    drop((greedy, second, others));
    assert!(is_as_new(&budget));
}

#[tokio::test]
async fn whoever_waits_goes_on_when_there_is_room_and_the_next_after_it() {
    let budget = BufferBudget::new(MIB);
    let one = client(&budget, 1);
    let mut taken = fill(&one);
    let (mut first, mut second) = (Place::default(), Place::default());
    let waiting = async {
        poll_fn(|cx| one.poll_room(&mut first, cx)).await;
        one.hold(UNIT)
    };
    let behind = async {
        poll_fn(|cx| one.poll_room(&mut second, cx)).await;
        one.hold(UNIT)
    };
    let giving = async {
        tokio::task::yield_now().await;
        taken.truncate(taken.len() / 2);
    };
    let (a, b, ()) = tokio::join!(waiting, behind, giving);
    drop((a, b, taken));
    assert!(is_as_new(&budget));
}

#[tokio::test]
async fn whoever_leaves_instead_of_going_on_makes_way_for_the_next() {
    let budget = BufferBudget::new(MIB);
    let one = client(&budget, 1);
    let mut taken = fill(&one);
    let mut places = [Place::default(), Place::default()];
    for place in &mut places {
        let polled = poll_fn(|cx| Poll::Ready(one.poll_room(place, cx))).await;
        assert!(polled.is_pending());
    }
    let [leaves, mut stays] = places;
    taken.pop();
    // It has been let go on, and does not come back.
    drop(leaves);
    poll_fn(|cx| one.poll_room(&mut stays, cx)).await;
    drop((taken, stays));
    assert!(is_as_new(&budget));
}

#[tokio::test]
async fn whoever_needs_no_room_any_more_makes_way_for_all_behind_it() {
    let budget = BufferBudget::new(MIB);
    let one = client(&budget, 1);
    let taken = one.hold(MIB);
    let mut places: Vec<_> = std::iter::repeat_with(Place::default).take(4).collect();
    for place in &mut places {
        let polled = poll_fn(|cx| Poll::Ready(one.poll_room(place, cx))).await;
        assert!(polled.is_pending());
    }
    let [first, second, third, _left] = &mut places[..] else {
        panic!("four wait");
    };
    let waiting = async {
        poll_fn(|cx| one.poll_room(third, cx)).await;
    };
    let giving = async {
        tokio::task::yield_now().await;
        // Only the first is let go on by it, and it goes on without asking; so does the second.
        drop(taken);
        first.leave();
        second.leave();
    };
    tokio::join!(waiting, giving);
    drop(places);
    assert!(is_as_new(&budget));
}

#[test]
fn parts_are_given_back_one_by_one() {
    let budget = BufferBudget::new(MIB);
    let one = client(&budget, 1);
    let mut held = one.hold(MIB);
    let part = held.split(MIB / 4);
    assert_eq!((held.bytes(), part.bytes()), (MIB * 3 / 4, MIB / 4));
    drop(held);
    assert_eq!(budget.used(), MIB / 4);
    drop(part);
    assert!(is_as_new(&budget));
}

#[test]
fn bodies_leave_room_for_heads_and_one_client_leaves_some_of_it_to_others() {
    let budget = BufferBudget::new(16 * MIB);
    let (greedy, other) = (client(&budget, 1), client(&budget, 2));
    assert!(greedy.has_room(6 * MIB));
    let mut taken = fill(&greedy);
    assert!(!greedy.has_room(UNIT) && other.has_room(MIB));
    while greedy.has_room_for_head(UNIT) {
        taken.push(greedy.hold(UNIT));
    }
    assert!((10 * MIB..=11 * MIB).contains(&bytes(&taken)));
    assert!(other.has_room_for_head(2 * MIB));
    // Nobody may have more than there is.
    assert!(!other.has_room_for_head(16 * MIB));
    greedy.note_refused();
    drop(taken);
    assert!(greedy.has_room(6 * MIB) && is_as_new(&budget));
    assert_eq!(budget.refused(), 1);
}

#[test]
fn a_changed_limit_holds_from_now_on() {
    let budget = BufferBudget::new(MIB);
    let one = client(&budget, 1);
    let _taken = fill(&one);
    budget.set_limit(4 * MIB);
    assert!(has_room(&one));
}

#[test]
fn a_client_has_its_share_and_no_more_in_steps_of_any_size() {
    for step in [1000, 9000, UNIT, UNIT + 1, 4 * UNIT, 5 * UNIT + 7] {
        let limit = 64 * UNIT;
        let budget = BufferBudget::new(limit);
        let (one, other) = (client(&budget, 1), client(&budget, 2));
        let mut held = Vec::new();
        while one.has_room(step) {
            held.push(one.hold(step));
        }
        let bodies = limit - limit / 4;
        assert!(budget.used() <= bodies / 4 * 3 + step, "{step}: {budget:?}");
        assert!(other.has_room(2 * UNIT), "{step}: {budget:?}");
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}
