use std::net::IpAddr;

use super::*;
use crate::wake::lease::LeaseTerms;

mod answers;
mod looks;
mod properties;

const PORT: Target = Target {
    port: 80,
    when: ReadyWhen::Port,
    is_chosen: false,
    health: None,
    tls: None,
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

fn seen(now: Instant) -> Observation {
    Observation {
        initializing: false,
        ip: IpAddr::from([127, 0, 0, 1]),
        terms: terms(),
        asked_at: now,
        held: false,
        healthy: None,
    }
}

fn awake(now: Instant) -> Event {
    Event::from(Evidence::Awake(seen(now)))
}

fn asleep(rest: Rest) -> Event {
    Event::from(Evidence::Asleep(rest))
}

fn unsure(doubt: Doubt) -> Event {
    Event::from(Evidence::Unsure(doubt))
}

fn wake_request(now: Instant) -> Event {
    let deadline = now + Duration::from_secs(5);
    Event::WakeRequested {
        target: PORT,
        deadline,
        start_stopped: false,
        may_boot: true,
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
        machine.on(now, asleep(Rest::Standby)),
        [Effect::Restore {
            until: now + Duration::from_secs(5)
        }]
    );
    let running = seen(now);
    let effects = play(&mut machine, now, vec![awake(now)]);
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
            woken: true,
            booted: false
        }]
    );
}

#[tokio::test]
async fn what_the_look_up_saw_asleep_is_restored_without_asking_again() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, Some(Evidence::Asleep(Rest::Standby)));
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
    play(&mut machine, now, vec![wake_request, awake(now)]);
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
    let running = seen(now);
    wake(&mut machine, now);
    assert_eq!(machine.on(now, wake_request(now)), [Effect::Ask]);
    let effects = machine.on(now, awake(now));
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
    let stopped = asleep(Rest::Stopped);
    let mut machine = Machine::new(LIMITS, None);
    let effects = play(&mut machine, now, vec![wake_request(now), stopped.clone()]);
    assert_eq!(effects, [Effect::Refuse(WakeError::Stopped)]);
    let deadline = now + Duration::from_secs(5);
    let allowed = Event::WakeRequested {
        target: PORT,
        deadline,
        start_stopped: true,
        may_boot: true,
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
    let refuse = |error| vec![Effect::Refuse(error)];
    for (answer, effects) in [
        (
            Event::from(Evidence::Gone),
            vec![Effect::Refuse(WakeError::Gone), Effect::Forget],
        ),
        (unsure(Doubt::Unauthorized), refuse(WakeError::Unauthorized)),
        (unsure(Doubt::NoNetwork), refuse(WakeError::Unusable)),
        (
            unsure(Doubt::AddressRefused),
            refuse(WakeError::AddressRefused),
        ),
    ] {
        let mut machine = Machine::new(LIMITS, None);
        let events = vec![wake_request(now), answer];
        assert_eq!(play(&mut machine, now, events), effects);
    }
}

/// An awake instance, as one request's wake leaves it.
fn wake(machine: &mut Machine, now: Instant) {
    let events = vec![wake_request(now), awake(now), Event::Probed { open: true }];
    play(machine, now, events);
    assert_eq!(machine.stage(), None);
}

#[tokio::test]
async fn what_cannot_be_told_cuts_nothing_and_is_asked_again() {
    let now = Instant::now();
    for doubt in [
        Doubt::UnknownState,
        Doubt::NoAddress { running: true },
        Doubt::NoAddress { running: false },
        Doubt::InvalidState,
        Doubt::NoCapacity,
        Doubt::Unreachable,
        Doubt::Failed,
        Doubt::Unreadable,
        Doubt::NoSlot,
    ] {
        let mut machine = Machine::new(LIMITS, None);
        wake(&mut machine, now);
        // In the background.
        assert_eq!(machine.on(now, Event::Verify), [Effect::Ask]);
        assert_eq!(machine.on(now, unsure(doubt)), [], "{doubt:?}");
        // In a wake.
        assert_eq!(machine.on(now, wake_request(now)), [Effect::Ask]);
        let effects = machine.on(now, unsure(doubt));
        assert!(
            matches!(effects.as_slice(), [Effect::Pause(_)]),
            "{doubt:?}: {effects:?}"
        );
        assert_eq!(machine.on(now, Event::PauseOver), [Effect::Ask]);
        let confirmed = machine.on(now, awake(now));
        let published = confirmed.first();
        assert!(
            matches!(published, Some(Effect::Publish { fresh: false, .. })),
            "{doubt:?}: {confirmed:?}"
        );
    }
}

#[tokio::test]
async fn a_definite_no_cuts_what_is_open_also_when_nobody_waits() {
    let now = Instant::now();
    for (event, effects) in [
        (asleep(Rest::Standby), vec![Effect::Cut]),
        (asleep(Rest::Stopped), vec![Effect::Cut]),
        (asleep(Rest::Passing), vec![Effect::Cut]),
        (
            Event::from(Evidence::Gone),
            vec![Effect::Cut, Effect::Refuse(WakeError::Gone), Effect::Forget],
        ),
    ] {
        let mut machine = Machine::new(LIMITS, None);
        wake(&mut machine, now);
        assert_eq!(machine.on(now, Event::Verify), [Effect::Ask]);
        assert_eq!(machine.on(now, event.clone()), effects, "{event:?}");
        assert_eq!(machine.stage(), None);
    }
}

#[tokio::test]
async fn an_instance_that_runs_without_an_address_is_refused_after_a_short_while() {
    let mut now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    machine.on(now, wake_request(now));
    machine.on(now, asleep(Rest::Standby));
    let began = now;
    let refusal = loop {
        match machine
            .on(now, unsure(Doubt::NoAddress { running: true }))
            .as_slice()
        {
            [Effect::Pause(pause)] => {
                now += *pause;
                assert_eq!(machine.on(now, Event::PauseOver), [Effect::Ask]);
            }
            [Effect::Refuse(error)] => break error.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refusal, WakeError::Unusable);
    let waited = now - began;
    assert!(waited >= ADDRESS && waited < ADDRESS * 2, "{waited:?}");
}

#[tokio::test]
async fn a_control_plane_that_wants_to_be_left_alone_is() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    machine.on(now, wake_request(now));
    let busy = |seconds| Event::Answered {
        evidence: Evidence::Unsure(Doubt::Failed),
        retry_after: Some(Duration::from_secs(seconds)),
    };
    let pause = Duration::from_secs(3);
    assert_eq!(machine.on(now, busy(3)), [Effect::Pause(pause)]);
    assert_eq!(machine.on(now, Event::PauseOver), [Effect::Ask]);
    // Longer than the attempt has.
    let refused = [Effect::Refuse(WakeError::Failed)];
    assert_eq!(machine.on(now, busy(6)), refused);
    // Whoever asks before the time that it named is told so, and it is not asked.
    for _ in 0..10 {
        assert_eq!(machine.on(now, wake_request(now)), refused);
    }
    assert_eq!(machine.breaker(), None, "nothing has had its time");
    let later = now + Duration::from_secs(4);
    let left = Effect::Pause(Duration::from_secs(2));
    assert_eq!(machine.on(later, wake_request(later)), [left]);
    let over = later + Duration::from_secs(2);
    assert_eq!(machine.on(over, Event::PauseOver), [Effect::Ask]);
}

#[tokio::test]
async fn passing_trouble_is_tried_again_with_a_growing_pause_until_the_deadline() {
    let mut now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    machine.on(now, wake_request(now));
    let mut pauses = Vec::new();
    let refusal = loop {
        match machine.on(now, unsure(Doubt::Unreachable)).as_slice() {
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
    let events = vec![wake_request(now), asleep(Rest::Standby)];
    play(&mut machine, now, events);
    let full = unsure(Doubt::NoCapacity);
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
async fn a_broken_connection_costs_a_question_and_the_others_stay_until_the_answer() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    wake(&mut machine, now);
    assert_eq!(
        machine.on(now, Event::Suspect { epoch: 6 }),
        [],
        "an older epoch"
    );
    assert_eq!(machine.on(now, Event::Suspect { epoch: 7 }), [Effect::Ask]);
    assert_eq!(
        machine.on(now, Event::Suspect { epoch: 7 }),
        [],
        "one question for all"
    );
    assert!(machine.is_doubted());
    assert_eq!(machine.on(now, wake_request(now)), []);
    let effects = machine.on(now, asleep(Rest::Standby));
    let until = now + Duration::from_secs(5);
    assert_eq!(effects, [Effect::Cut, Effect::Restore { until }]);
}

#[tokio::test]
async fn a_confirmed_epoch_is_doubted_no_more() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    wake(&mut machine, now);
    machine.on(now, Event::Suspect { epoch: 7 });
    let effects = machine.on(now, awake(now));
    let seen = seen(now);
    assert_eq!(effects, [Effect::Publish { seen, fresh: false }]);
    assert!(!machine.is_doubted());
}

#[tokio::test]
async fn a_port_that_never_opens_is_asked_about_until_the_deadline() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    play(&mut machine, now, vec![wake_request(now), awake(now)]);
    assert_eq!(
        machine.on(now, Event::Probed { open: false }),
        [Effect::Ask]
    );
    let late = now + Duration::from_secs(5);
    play(&mut machine, late, vec![awake(late)]);
    let refused = [Effect::Refuse(WakeError::TimedOut(WakeStage::NotListening))];
    assert_eq!(machine.on(late, Event::Probed { open: false }), refused);
}

#[tokio::test]
async fn a_port_that_a_request_has_chosen_and_nobody_listens_at_opens_no_breaker() {
    for is_chosen in [false, true] {
        let now = Instant::now();
        let mut machine = Machine::new(LIMITS, None);
        for _ in 0..LIMITS.breaker_failures {
            let request = Event::WakeRequested {
                target: Target { is_chosen, ..PORT },
                deadline: now,
                start_stopped: false,
                may_boot: true,
                leased: false,
            };
            machine.on(now, request);
            play(&mut machine, now, vec![awake(now)]);
            let refused = [Effect::Refuse(WakeError::TimedOut(WakeStage::NotListening))];
            assert_eq!(machine.on(now, Event::Probed { open: false }), refused);
        }
        assert_eq!(machine.breaker().is_none(), is_chosen);
    }
}

#[tokio::test]
async fn what_never_answers_keeps_nobody_from_something_else() {
    let now = Instant::now();
    let healthy = |path: &str| Target {
        when: ReadyWhen::Health,
        health: Some(path.into()),
        ..PORT
    };
    let (ill, well) = (healthy("/ill"), healthy("/well"));
    let request = |target: &Target| Event::WakeRequested {
        target: target.clone(),
        deadline: now + Duration::from_secs(5),
        start_stopped: false,
        may_boot: true,
        leased: false,
    };
    let probed = |effects: &[Effect]| {
        let probed = effects.iter().find_map(|effect| {
            let Effect::Probe { target, http, .. } = effect else {
                return None;
            };
            Some((target.clone(), *http))
        });
        probed.unwrap_or_else(|| panic!("{effects:?}"))
    };
    let mut machine = Machine::new(LIMITS, None);
    machine.on(now, request(&ill));
    machine.on(now, request(&well));
    assert_eq!(probed(&machine.on(now, awake(now))), (ill.clone(), true));
    machine.published(1);
    machine.on(now, Event::Probed { open: false });
    assert_eq!(probed(&machine.on(now, awake(now))), (well.clone(), true));
    let effects = machine.on(now, Event::Probed { open: true });
    let granted = Effect::Grant {
        target: well,
        woken: false,
        booted: false,
    };
    assert_eq!(effects.first(), Some(&granted));
    assert_eq!(probed(&effects), (ill, true), "which has not been answered");
}

#[tokio::test]
async fn the_breaker_refuses_for_a_growing_time_and_then_lets_one_attempt_through() {
    let mut now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    let fail = |machine: &mut Machine, now: Instant| {
        assert_eq!(machine.on(now, wake_request(now)), [Effect::Ask]);
        let late = now + Duration::from_secs(5);
        machine.on(late, unsure(Doubt::Failed));
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

#[tokio::test]
async fn only_an_attempt_that_had_its_routes_whole_time_counts_as_failed() {
    let now = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    for _ in 0..10 {
        // Whoever asked may have left long ago; the attempt goes on.
        machine.on(now, wake_request(now));
    }
    machine.on(now, unsure(Doubt::Unreachable));
    assert_eq!(machine.breaker(), None);
    let late = now + Duration::from_secs(5);
    assert_eq!(
        machine.on(late, Event::PauseOver),
        [Effect::Refuse(WakeError::ControlPlaneDown)]
    );
    assert_eq!(machine.breaker(), None, "one failure, not ten");
}

/// Lets every question fail until those who wait are refused, `meanwhile` before each step. Returns
/// when that was.
fn fail_until_refused(
    machine: &mut Machine,
    began: Instant,
    mut meanwhile: impl FnMut(&mut Machine, Instant),
) -> Instant {
    let (mut now, mut event) = (began, unsure(Doubt::Failed));
    let error = loop {
        meanwhile(machine, now);
        event = match machine.on(now, event).as_slice() {
            [Effect::Pause(pause)] => {
                now += *pause;
                Event::PauseOver
            }
            [Effect::Ask] => unsure(Doubt::Failed),
            [Effect::Refuse(error)] => break error.clone(),
            other => panic!("{other:?}"),
        };
        assert!(now - began < Duration::from_secs(60), "it never ends");
    };
    assert_eq!(error, WakeError::Failed);
    now
}

#[tokio::test]
async fn an_attempt_that_others_prolong_a_little_is_one_failure() {
    let began = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    machine.on(began, wake_request(began));
    // They have the same patience as the first, from when they come.
    let joined = began + Duration::from_secs(1);
    machine.on(joined, wake_request(joined));
    let now = fail_until_refused(&mut machine, joined, |_, _| {});
    assert_eq!(machine.breaker(), None, "one failure, not two");
    machine.on(now, wake_request(now));
    machine.on(now + Duration::from_secs(60), unsure(Doubt::Failed));
    let failures = machine.breaker().map(|(failures, _)| failures);
    assert_eq!(failures, Some(LIMITS.breaker_failures));
}

#[tokio::test]
async fn requests_that_keep_coming_do_not_keep_a_failing_instance_from_its_breaker() {
    let began = Instant::now();
    let mut machine = Machine::new(LIMITS, None);
    machine.on(began, wake_request(began));
    fail_until_refused(&mut machine, began, |machine, now| {
        machine.on(now, wake_request(now));
    });
    let failures = machine.breaker().map(|(failures, _)| failures);
    assert_eq!(failures, Some(LIMITS.breaker_failures));
}
