//! Looks at an instance of which nothing is known.
//!
//! Guarantees: nobody waits for them.

use super::*;

#[tokio::test]
async fn a_look_wakes_nothing_and_finds_who_is_awake() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    assert_eq!(
        machine.on(now, Event::Verify),
        [],
        "there is nothing to confirm"
    );
    for rest in [Rest::Standby, Rest::Stopped, Rest::Passing] {
        assert_eq!(machine.on(now, Event::Look), [Effect::Ask]);
        assert_eq!(machine.on(now, Event::Look), [], "one at a time");
        assert_eq!(machine.on(now, Event::from(Evidence::Asleep(rest))), []);
        assert!(machine.stage().is_none());
    }
    assert_eq!(machine.on(now, Event::Look), [Effect::Ask]);
    let found = machine.on(now, awake(now));
    assert!(
        matches!(found.as_slice(), [Effect::Publish { fresh: false, .. }]),
        "{found:?}"
    );
    machine.published(7);
    // The driver puts it to sleep: what was said of the epoch says nothing any more.
    machine.retired();
    assert_eq!(machine.on(now, Event::Suspect { epoch: 7 }), []);
    assert_eq!(machine.on(now, wake_request(now)), [Effect::Ask]);
}
