//! What holds of the machine in every history.
//!
//! Guarantees: histories are random, and each of them is followed to its end.

use proptest::prelude::*;

use super::*;

fn any_event(now: Instant) -> impl Strategy<Value = Event> {
    let evidence = prop::sample::select(vec![
        Evidence::Awake(seen(now)),
        Evidence::Awake(Observation {
            initializing: true,
            ..seen(now)
        }),
        Evidence::Awake(Observation {
            healthy: Some(false),
            ..seen(now)
        }),
        Evidence::Asleep(Rest::Standby),
        Evidence::Asleep(Rest::Stopped),
        Evidence::Asleep(Rest::Passing),
        Evidence::Gone,
        Evidence::Unsure(Doubt::UnknownState),
        Evidence::Unsure(Doubt::NoAddress { running: true }),
        Evidence::Unsure(Doubt::NoAddress { running: false }),
        Evidence::Unsure(Doubt::NoNetwork),
        Evidence::Unsure(Doubt::AddressRefused),
        Evidence::Unsure(Doubt::InvalidState),
        Evidence::Unsure(Doubt::NoCapacity),
        Evidence::Unsure(Doubt::Unauthorized),
        Evidence::Unsure(Doubt::Unreachable),
        Evidence::Unsure(Doubt::Failed),
        Evidence::Unsure(Doubt::Unreadable),
        Evidence::Unsure(Doubt::NoSlot),
    ]);
    let when = prop::sample::select(vec![ReadyWhen::Running, ReadyWhen::Port, ReadyWhen::Health]);
    let targets =
        (prop::sample::select(vec![0_u16, 80, 81]), when).prop_map(|(port, when)| Target {
            port,
            when,
            is_chosen: port == 81,
            health: None,
            tls: None,
        });
    prop_oneof![
        (targets, any::<bool>(), any::<bool>()).prop_map(move |(target, start_stopped, leased)| {
            let deadline = now + Duration::from_secs(5);
            Event::WakeRequested {
                target,
                deadline,
                start_stopped,
                may_boot: start_stopped,
                leased,
            }
        }),
        Just(Event::Verify),
        Just(Event::Look),
        (6_u64..9).prop_map(|epoch| Event::Suspect { epoch }),
        evidence.prop_map(Event::from),
        any::<bool>().prop_map(|open| Event::Probed { open }),
        Just(Event::PauseOver),
    ]
}

fn is_operation(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Ask
            | Effect::Restore { .. }
            | Effect::Start { .. }
            | Effect::Settle { .. }
            | Effect::Probe { .. }
            | Effect::Pause(_)
    )
}

proptest! {
    /// Whatever happens in whatever order: one operation at a time, none once all are answered, and
    /// nobody waits without one. Only a definite no, or a new address, ends an epoch.
    #[test]
    fn one_operation_is_in_flight_exactly_while_somebody_waits(
        steps in prop::collection::vec((any_event(Instant::now()), 0_u64..3000), 0..60)
    ) {
        let mut now = Instant::now();
        let mut machine = Machine::new(LIMITS, None);
        let mut in_flight: Option<Effect> = None;
        for (event, ms) in steps {
            // Only an answer to what is in flight can come.
            let fits = matches!(
                (&event, &in_flight),
                (Event::WakeRequested { .. } | Event::Verify | Event::Look | Event::Suspect { .. }, _)
                    | (
                        Event::Answered { .. },
                        Some(Effect::Ask | Effect::Restore { .. } | Effect::Start { .. } | Effect::Settle { .. })
                    )
                    | (Event::Probed { .. }, Some(Effect::Probe { .. }))
                    | (Event::PauseOver, Some(Effect::Pause(_)))
            );
            if !fits { continue; }
            if matches!(event, Event::Answered { .. } | Event::Probed { .. } | Event::PauseOver) {
                in_flight = None;
                now += Duration::from_millis(ms);
            }
            let is_definite = matches!(
                &event,
                Event::Answered { evidence: Evidence::Asleep(_) | Evidence::Gone, .. }
            );
            let effects = machine.on(now, event);
            for effect in effects {
                prop_assert!(is_definite || effect != Effect::Cut, "cut on uncertainty");
                if matches!(effect, Effect::Publish { .. }) { machine.published(7); }
                if is_operation(&effect) {
                    prop_assert!(in_flight.is_none(), "two operations in flight");
                    in_flight = Some(effect);
                }
            }
            prop_assert_eq!(in_flight.is_some(), machine.stage().is_some());
        }
    }
}
