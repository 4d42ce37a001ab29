//! Guarantees: whether an instance counts as woken follows from what the verb's answer leaves open.

use super::*;

#[tokio::test]
async fn a_restore_whose_answer_was_lost_is_a_wake_and_one_that_was_refused_is_none() {
    let now = Instant::now();
    let restored = || (Machine::new(LIMITS, None), vec![asleep(Rest::Standby)]);
    // The look-up of its name has seen it asleep: it is restored without a question.
    let restored_at_once = || {
        let seen = Some(Evidence::Asleep(Rest::Standby));
        (Machine::new(LIMITS, seen), Vec::new())
    };
    let answers = [
        (unsure(Doubt::Unreachable), true),
        (unsure(Doubt::Failed), true),
        (asleep(Rest::Passing), true),
        (unsure(Doubt::InvalidState), false),
    ];
    for (answer, is_ours) in answers {
        for (mut machine, asleep) in [restored(), restored_at_once()] {
            play(&mut machine, now, vec![wake_request(now)]);
            play(&mut machine, now, asleep);
            play(&mut machine, now, vec![answer.clone()]);
            let effects = play(&mut machine, now, vec![Event::PauseOver, awake(now)]);
            assert!(matches!(effects[0], Effect::Publish { fresh, .. } if fresh == is_ours));
            let effects = machine.on(now, Event::Probed { open: true });
            assert!(matches!(effects[0], Effect::Grant { woken, .. } if woken == is_ours));
        }
    }
}
