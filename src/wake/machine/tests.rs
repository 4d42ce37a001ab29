use proptest::prelude::*;

use std::net::IpAddr;

use super::*;
use crate::wake::lease::LeaseTerms;

const PORT: Target = Target {
    port: 80,
    when: ReadyWhen::Port,
};

const LIMITS: WakeLimits = WakeLimits {
    breaker_failures: 2,
    breaker_max_delay: Duration::from_secs(30),
    verify_interval: Duration::from_secs(30),
};

fn terms() -> LeaseTerms {
    LeaseTerms {
        idle_timeout: Some(Duration::from_secs(10)),
        counts: true,
    }
}

fn seen(now: Instant, state: InstanceState) -> Observation {
    let ip = Some(IpAddr::from([127, 0, 0, 1]));
    Observation {
        name: "a".into(),
        state,
        ip,
        terms: terms(),
        asked_at: now,
        held: false,
        healthy: None,
    }
}

fn wake_request(now: Instant) -> Event {
    let deadline = now + Duration::from_secs(5);
    Event::WakeRequested {
        target: PORT,
        deadline,
        start_stopped: false,
        leased: false,
    }
}

/// Feeds events and returns the last one's effects.
fn play(machine: &mut Machine, now: Instant, events: Vec<Event>) -> Vec<Effect> {
    let mut last = Vec::new();
    for event in events {
        last = machine.on(now, event);
        if last
            .iter()
            .any(|effect| matches!(effect, Effect::Publish { .. }))
        {
            machine.published(7);
        }
    }
    last
}

#[tokio::test]
async fn a_sleeping_instance_is_restored_probed_and_granted() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    assert_eq!(machine.on(now, wake_request(now)), [Effect::Ask]);
    assert_eq!(
        machine.on(now, Event::Answered(Err(Fault::InStandby))),
        [Effect::Restore {
            until: now + Duration::from_secs(5)
        }]
    );
    let running = seen(now, InstanceState::Running);
    let effects = play(
        &mut machine,
        now,
        vec![Event::Answered(Ok(running.clone()))],
    );
    let until = now + Duration::from_secs(1);
    let publish = Effect::Publish {
        seen: running,
        fresh: true,
    };
    assert_eq!(
        effects,
        [
            publish,
            Effect::Hold,
            Effect::Probe {
                target: PORT,
                http: false,
                until
            }
        ]
    );
    let effects = machine.on(now, Event::Probed { open: true });
    assert_eq!(
        effects,
        [Effect::Grant {
            target: PORT,
            woken: true
        }]
    );
}

#[tokio::test]
async fn what_the_look_up_saw_asleep_is_restored_without_asking_again() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, Some(seen(now, InstanceState::Standby)));
    assert_eq!(
        machine.on(now, wake_request(now)),
        [Effect::Restore {
            until: now + Duration::from_secs(5)
        }]
    );
}

#[tokio::test]
async fn an_open_port_at_an_address_that_was_seen_too_long_ago_proves_nothing() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    let mut wake_request = wake_request(now);
    if let Event::WakeRequested { deadline, .. } = &mut wake_request {
        *deadline = now + Duration::from_secs(60);
    }
    let running = seen(now, InstanceState::Running);
    play(
        &mut machine,
        now,
        vec![wake_request, Event::Answered(Ok(running))],
    );
    let later = now + LIMITS.verify_interval;
    assert_eq!(
        machine.on(later, Event::Probed { open: true }),
        [Effect::Ask]
    );
}

#[tokio::test]
async fn a_second_request_joins_the_attempt() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    machine.on(now, wake_request(now));
    assert_eq!(machine.on(now, wake_request(now)), []);
}

#[tokio::test]
async fn a_renewed_lease_keeps_its_epoch_and_costs_no_restore() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    let running = seen(now, InstanceState::Running);
    play(
        &mut machine,
        now,
        vec![
            wake_request(now),
            Event::Answered(Ok(running.clone())),
            Event::Probed { open: true },
        ],
    );
    assert_eq!(machine.on(now, wake_request(now)), [Effect::Ask]);
    let effects = machine.on(now, Event::Answered(Ok(running.clone())));
    assert_eq!(
        effects.first(),
        Some(&Effect::Publish {
            seen: running,
            fresh: false
        })
    );
}

#[tokio::test]
async fn a_stopped_instance_is_refused_unless_the_route_may_start_it() {
    let now = Instant::now();
    let stopped = Event::Answered(Ok(seen(now, InstanceState::Stopped)));
    let mut machine = Machine::new(LIMITS, None);
    let effects = play(&mut machine, now, vec![wake_request(now), stopped.clone()]);
    assert_eq!(effects, [Effect::Refuse(WakeError::Stopped)]);
    let deadline = now + Duration::from_secs(5);
    let allowed = Event::WakeRequested {
        target: PORT,
        deadline,
        start_stopped: true,
        leased: false,
    };
    assert_eq!(
        play(&mut machine, now, vec![allowed, stopped]),
        [Effect::Start {
            until: now + Duration::from_secs(5)
        }]
    );
}

#[tokio::test]
async fn definite_answers_are_refused_at_once() {
    let now = Instant::now();
    for (answer, effects) in [
        (
            Err(Fault::NotFound),
            vec![Effect::Refuse(WakeError::NotFound), Effect::Forget],
        ),
        (
            Err(Fault::Unauthorized),
            vec![Effect::Refuse(WakeError::Unauthorized)],
        ),
        (
            Ok(seen(now, InstanceState::Unknown)),
            vec![Effect::Refuse(WakeError::Unusable)],
        ),
        (
            Ok(seen(now, InstanceState::Other("Melted".to_owned()))),
            vec![Effect::Refuse(WakeError::Unusable)],
        ),
    ] {
        let mut machine = Machine::new(LIMITS, None);
        assert_eq!(
            play(
                &mut machine,
                now,
                vec![wake_request(now), Event::Answered(answer)]
            ),
            effects
        );
    }
}

#[tokio::test]
async fn passing_trouble_is_tried_again_with_a_growing_pause_until_the_deadline() {
    let mut now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    machine.on(now, wake_request(now));
    let mut pauses = Vec::new();
    let refusal = loop {
        match machine
            .on(now, Event::Answered(Err(Fault::Unreachable)))
            .as_slice()
        {
            [Effect::Pause(pause)] => {
                pauses.push(pause.as_millis());
                now += *pause;
                assert_eq!(machine.on(now, Event::PauseOver), [Effect::Ask]);
            }
            [Effect::Refuse(error)] => break error.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        pauses.get(..6),
        Some([20, 40, 80, 160, 320, 500].as_slice())
    );
    assert_eq!(refusal, WakeError::ControlPlaneDown);
}

#[tokio::test]
async fn a_full_host_is_asked_to_restore_again_and_named_at_the_end() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    play(
        &mut machine,
        now,
        vec![wake_request(now), Event::Answered(Err(Fault::InStandby))],
    );
    let full = Event::Answered(Err(Fault::NoCapacity));
    assert!(matches!(
        machine.on(now, full.clone()).as_slice(),
        [Effect::Pause(_)]
    ));
    assert_eq!(
        machine.on(now, Event::PauseOver),
        [Effect::Restore {
            until: now + Duration::from_secs(5)
        }]
    );
    let late = now + Duration::from_secs(5);
    assert_eq!(
        machine.on(late, full),
        [Effect::Refuse(WakeError::NoCapacity)]
    );
}

#[tokio::test]
async fn a_suspect_epoch_is_retired_and_severed_only_when_it_is_really_asleep() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    let running = seen(now, InstanceState::Running);
    play(
        &mut machine,
        now,
        vec![
            wake_request(now),
            Event::Answered(Ok(running)),
            Event::Probed { open: true },
        ],
    );
    assert_eq!(
        machine.on(now, Event::Suspect { epoch: 6 }),
        [],
        "an older epoch"
    );
    assert_eq!(
        machine.on(now, Event::Suspect { epoch: 7 }),
        [Effect::Retire]
    );
    assert_eq!(machine.on(now, wake_request(now)), [Effect::Ask]);
    let effects = machine.on(now, Event::Answered(Err(Fault::InStandby)));
    assert_eq!(
        effects,
        [
            Effect::Retire,
            Effect::Sever,
            Effect::Restore {
                until: now + Duration::from_secs(5)
            }
        ]
    );
}

#[tokio::test]
async fn a_port_that_never_opens_is_asked_about_until_the_deadline() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    let running = Event::Answered(Ok(seen(now, InstanceState::Running)));
    play(&mut machine, now, vec![wake_request(now), running]);
    assert_eq!(
        machine.on(now, Event::Probed { open: false }),
        [Effect::Ask]
    );
    let late = now + Duration::from_secs(5);
    play(
        &mut machine,
        late,
        vec![Event::Answered(Ok(seen(late, InstanceState::Running)))],
    );
    let refused = [Effect::Refuse(WakeError::TimedOut(WakeStage::NotListening))];
    assert_eq!(machine.on(late, Event::Probed { open: false }), refused);
}

#[tokio::test]
async fn the_breaker_refuses_for_a_growing_time_and_then_lets_one_attempt_through() {
    let mut now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    let fail = |machine: &mut Machine, now: Instant| {
        assert_eq!(machine.on(now, wake_request(now)), [Effect::Ask]);
        let late = now + Duration::from_secs(5);
        machine.on(late, Event::Answered(Err(Fault::Failed)));
        late
    };
    now = fail(&mut machine, now);
    now = fail(&mut machine, now);
    for delay in [1, 2, 4] {
        let delay = Duration::from_secs(delay);
        assert_eq!(
            machine.on(now, wake_request(now)),
            [Effect::Refuse(WakeError::BreakerOpen(delay))]
        );
        now = fail(&mut machine, now + delay);
    }
}

fn any_event(now: Instant) -> impl Strategy<Value = Event> {
    let states = prop::sample::select(vec![
        InstanceState::Created,
        InstanceState::Initializing,
        InstanceState::Running,
        InstanceState::Paused,
        InstanceState::Shutdown,
        InstanceState::Stopped,
        InstanceState::Standby,
        InstanceState::Unknown,
    ]);
    let faults = prop::sample::select(vec![
        Fault::InStandby,
        Fault::InvalidState,
        Fault::NoCapacity,
        Fault::NotFound,
        Fault::Unauthorized,
        Fault::Unreachable,
        Fault::Failed,
        Fault::NoSlot,
    ]);
    let when = prop::sample::select(vec![ReadyWhen::Running, ReadyWhen::Port, ReadyWhen::Health]);
    let targets = (prop::sample::select(vec![0_u16, 80, 81]), when)
        .prop_map(|(port, when)| Target { port, when });
    prop_oneof![
        (targets, any::<bool>(), any::<bool>()).prop_map(move |(target, start_stopped, leased)| {
            let deadline = now + Duration::from_secs(5);
            Event::WakeRequested {
                target,
                deadline,
                start_stopped,
                leased,
            }
        }),
        Just(Event::Verify),
        (6_u64..9).prop_map(|epoch| Event::Suspect { epoch }),
        states.prop_map(move |state| Event::Answered(Ok(seen(now, state)))),
        faults.prop_map(|fault| Event::Answered(Err(fault))),
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
    /// nobody waits without one.
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
                (Event::WakeRequested { .. } | Event::Verify | Event::Suspect { .. }, _)
                    | (
                        Event::Answered(_),
                        Some(Effect::Ask | Effect::Restore { .. } | Effect::Start { .. } | Effect::Settle { .. })
                    )
                    | (Event::Probed { .. }, Some(Effect::Probe { .. }))
                    | (Event::PauseOver, Some(Effect::Pause(_)))
            );
            if !fits { continue; }
            if matches!(event, Event::Answered(_) | Event::Probed { .. } | Event::PauseOver) {
                in_flight = None;
                now += Duration::from_millis(ms);
            }
            let effects = machine.on(now, event);
            for effect in effects {
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
